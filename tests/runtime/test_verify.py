"""Checking a whole store (G10)."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from flujo_async import Flujo, RunContext, SQLiteBackend, StateBackend, VerifyReport, step, wait_for, workflow
from flujo_async._codec.blobs import LARGE
from flujo_async._log.chain import GENESIS
from flujo_async._log.chain import seal as seal_one
from flujo_async._model.facts import RunStarted
from flujo_async._model.stored import Blob, NewRun, Record, StoredRun
from flujo_async._model.summary import RunSummary
from flujo_async.backends.memory import InMemoryBackend
from flujo_async.errors import BackendError, IntegrityError, RunCancelled, RunFailed, RunNotFound
from flujo_async.testing import FaultyBackend
from tests.runtime.pretend import Wrapped
from tests.runtime.stores import Store, on_disk
from tests.runtime.test_integrity import CHANGES

T0 = datetime(2026, 1, 1, tzinfo=UTC)


@step
async def double(n: int) -> int:
    if n < 0:
        raise ValueError("negative")
    return n * 2


@step
async def shout(text: str) -> str:
    return text.upper()


@workflow
async def family(n: int, ctx: RunContext) -> int:
    return await ctx.child(double, n, run_id="child")


class Changed(Wrapped):
    """A store in which one run is not as it was written."""

    def __init__(self, inner: StateBackend, run_id: str, change: Callable[[StoredRun], StoredRun]) -> None:
        super().__init__(inner)
        self._run_id, self._change = run_id, change

    @override
    async def through(self, verb: str, call: Callable[[], Any]) -> Any:
        result = await call()
        if isinstance(result, StoredRun) and result.summary.run_id == self._run_id:
            return self._change(result)
        return result


def as_list(report: VerifyReport) -> list[tuple[str, int]]:
    return [(broken.run_id, broken.seq) for broken in report.broken]


async def several(backend: StateBackend) -> Flujo[int, int]:
    """Leave runs ``r1`` to ``r3``, of three facts each."""
    flujo = Flujo(double, state_backend=backend)
    for n in (1, 2, 3):
        await flujo.run(n, run_id=f"r{n}")
    return flujo


async def test_runs_of_all_kinds_are_as_they_were_written(backend: StateBackend) -> None:
    """Completed, failed, cancelled, paused, pending, forked, with children; and the facts of all are counted."""
    flujo = Flujo(double >> wait_for("go") >> double, state_backend=backend)
    await flujo.run(1, run_id="completed")
    await flujo.signal("completed", "go", 1)
    await flujo.handle("completed").result()
    await flujo.run(1, run_id="paused")
    await flujo.pause("paused")
    await flujo.dispatch(1, run_id="pending")
    with pytest.raises(RunFailed):
        await flujo.run(-1, run_id="failed")
    await flujo.run(1, run_id="cancelled")
    await flujo.cancel("cancelled")
    with pytest.raises(RunCancelled):
        await flujo.run(run_id="cancelled")
    await flujo.fork("completed", at=2, new_run_id="fork")
    await flujo.fork("fork", new_run_id="fork of it")
    await flujo.run(run_id="fork of it")
    with pytest.raises(RunFailed):
        await flujo.redrive("failed")
    await Flujo(family, state_backend=backend).run(1, run_id="parent")
    await flujo.fork("child", new_run_id="fork of a child")
    report = await flujo.verify()
    heads = await flujo.list_runs()
    assert (report.ok, report.broken, report.runs) == (True, [], 10)
    assert report.facts == sum(head.last_seq for head in heads)
    await flujo.aclose()


async def test_an_empty_store_is_fine(backend: StateBackend) -> None:
    assert await Flujo(double, state_backend=backend).verify() == VerifyReport(ok=True, runs=0, facts=0, broken=[])


@pytest.mark.parametrize("name", [name for name, (_, seq) in CHANGES.items() if seq < 4 and name != "cut off"])
async def test_a_broken_chain_is_told_and_stops_no_other(name: str) -> None:
    """With the run and the first fact that cannot be trusted."""
    inner = InMemoryBackend()
    await several(inner)
    change, seq = CHANGES[name]
    changed = Changed(inner, "r2", lambda run: replace(run, records=tuple(change(list(run.records)))))
    flujo = Flujo(double, state_backend=changed)
    report = await flujo.verify()
    assert (report.ok, report.runs, report.facts, as_list(report)) == (False, 3, 6, [("r2", seq)])
    assert report.broken[0].reason
    assert as_list(await flujo.verify("r2")) == [("r2", seq)]
    assert (await flujo.verify("r1")) == VerifyReport(ok=True, runs=1, facts=3, broken=[])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("status", "running"),
        ("status", "failed"),
        ("status", "paused"),
        ("status", "pending"),
        ("last_seq", 2),
        ("last_seq", 4),
        ("current_step_index", 0),
        ("pipeline_name", "another"),
        ("metadata", {"customer": "another"}),
        ("signals", 1),
        ("signals_read", 1),
        ("parent_run_id", "another"),
        ("error_message", "ValueError: negative"),
    ],
)
async def test_a_head_that_says_something_else_than_the_log_is_told(field: str, value: Any) -> None:
    """It is what listings show, and what decides who may drive the run."""
    inner = InMemoryBackend()
    await several(inner)
    changed = Changed(inner, "r2", lambda run: replace(run, summary=replace(run.summary, **{field: value})))
    report = await Flujo(double, state_backend=changed).verify()
    assert as_list(report) == [("r2", 3)]
    assert field in report.broken[0].reason


async def test_a_log_that_was_cut_short_is_told() -> None:
    """Though its chain is whole."""
    inner = InMemoryBackend()
    await several(inner)
    changed = Changed(inner, "r2", lambda run: replace(run, records=run.records[:2]))
    assert as_list(await Flujo(double, state_backend=changed).verify()) == [("r2", 2)]
    empty = Changed(inner, "r2", lambda run: replace(run, records=()))
    assert as_list(await Flujo(double, state_backend=empty).verify()) == [("r2", 1)]


async def test_the_log_of_another_run_is_told() -> None:
    """Whole, and in the wrong place."""
    inner = InMemoryBackend()
    await several(inner)
    other = await inner.load("r1")
    assert other is not None
    changed = Changed(inner, "r2", lambda run: replace(run, records=other.records))
    assert as_list(await Flujo(double, state_backend=changed).verify()) == [("r2", 3)]


async def test_a_run_that_cannot_be_read_is_told() -> None:
    """Whatever the store says, or a fact makes its reader stumble over."""

    def fail(run: StoredRun) -> StoredRun:
        raise BackendError("a bad sector")

    inner = InMemoryBackend()
    await several(inner)
    report = await Flujo(double, state_backend=Changed(inner, "r2", fail)).verify()
    assert (report.runs, as_list(report)) == (3, [("r2", 0)])
    assert "a bad sector" in report.broken[0].reason

    def nonsense(run: StoredRun) -> StoredRun:
        forged = Record(2, b'{"kind":"StepCompleted","at":"2026-01-01T00:00:00+00:00"}', "")
        (sealed,) = [replace(forged, hash=sha256(run.records[0].hash.encode() + forged.body).hexdigest())]
        return replace(run, records=(run.records[0], sealed))

    assert as_list(await Flujo(double, state_backend=Changed(inner, "r2", nonsense)).verify()) == [("r2", 2)]


@on_disk
@pytest.mark.parametrize("column", ["metadata", "status"])
async def test_a_head_that_is_damaged_on_disk_is_told(store: Store, tmp_path: Path, column: str) -> None:
    """It is listed with the others, which are as they were, and who asks for it hears which one it is."""
    await several(store.open())
    await store.close()
    if store.kind == "file":
        [path] = (tmp_path / "runs").glob("r2.jsonl")
        path.write_bytes(path.read_bytes()[:-30] + b"garbage\n")
    else:
        with closing(sqlite3.connect(tmp_path / "runs.db")) as database, database:
            database.execute(f"UPDATE runs SET {column} = '{{' WHERE run_id = 'r2'")
    flujo = Flujo(double, state_backend=store.open())
    report = await flujo.verify()
    assert (report.runs, report.facts, [broken.run_id for broken in report.broken]) == (3, 6, ["r2"])
    heads = {head.run_id: head.error_message for head in await flujo.list_runs()}
    assert heads.keys() == {"r1", "r2", "r3"}
    assert heads["r2"] or column == "status"
    assert (await flujo.run(run_id="r1")).output == 2
    for verb in (flujo.resume, flujo.state, flujo.history, flujo.cancel):
        with pytest.raises(IntegrityError, match="run 'r2', seq"):
            await verb("r2")
    assert (await flujo.state_backend.get_span_statistics())["total_spans"] >= 2


async def test_a_log_that_is_said_to_begin_with_itself_is_told(tmp_path: Path) -> None:
    """SQLite looks for the beginning of a fork's log among older ones, and not for ever."""
    path = tmp_path / "runs.db"
    async with Flujo(double, state_backend=SQLiteBackend(path)) as flujo:
        await flujo.run(1, run_id="r")
        await flujo.fork("r", at=2, new_run_id="f")
        await flujo.state_backend.shutdown()
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("UPDATE logs SET source = id WHERE source IS NOT NULL")
        async with asyncio.timeout(20):
            report = await flujo.verify()
            assert (report.runs, as_list(report)) == (2, [("f", 1)])
            with pytest.raises(IntegrityError):
                await flujo.run(run_id="f")
            with pytest.raises(IntegrityError):
                await flujo.fork("f", at=1)
        await flujo.state_backend.shutdown()


class TestBlobs:
    """What stands beside the log."""

    async def leave(self, backend: StateBackend, change: Callable[[Blob], Blob] = lambda blob: blob) -> None:
        started = RunStarted(
            at=T0, run_id="r", pipeline_name="p", pipeline_version="1", fingerprint="", input="m" * 40_000
        )
        head = RunSummary(
            run_id="r",
            pipeline_name="p",
            pipeline_version="1",
            status="running",
            created_at=T0,
            updated_at=T0,
            last_seq=1,
        )
        record, [blob] = seal_one(started, after=0, prev_hash=GENESIS)
        await backend.create_run(NewRun(head, (record,), (change(blob),)))

    async def test_one_that_is_there(self, backend: StateBackend) -> None:
        await self.leave(backend)
        assert (await Flujo(double, state_backend=backend).verify()).ok

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda blob: Blob("0" * 64, blob.data), "is missing"),
            (lambda blob: Blob(blob.digest, b'"another"'), "is damaged"),
        ],
    )
    async def test_one_that_is_missing_or_changed(self, change: Any, reason: str) -> None:
        backend = InMemoryBackend()
        await self.leave(backend, change)
        report = await Flujo(double, state_backend=backend).verify()
        assert as_list(report) == [("r", 1)]
        assert reason in report.broken[0].reason


async def test_a_run_that_does_not_exist(backend: StateBackend) -> None:
    flujo = Flujo(double, state_backend=backend)
    with pytest.raises(RunNotFound):
        await flujo.verify("nobody")


async def test_runs_that_go_on_meanwhile_are_no_false_alarm(store: Store) -> None:
    """However often it looks, while they are written, paused, answered and deleted."""
    flujo = Flujo(double >> double >> wait_for("go") >> double, state_backend=store.open())
    other = Flujo(double, state_backend=store.open())
    reports: list[VerifyReport] = []

    async def live(i: int) -> None:
        await flujo.run(i, run_id=f"r{i}")
        await flujo.signal(f"r{i}", "go", i)
        await flujo.handle(f"r{i}").result()
        if i % 3 == 0:
            await flujo.delete(f"r{i}")

    living = asyncio.gather(*(live(i) for i in range(12)))
    while not living.done():
        reports.append(await other.verify())
        await asyncio.sleep(0)
    await living
    assert [report.broken for report in reports if not report.ok] == []
    assert (await other.verify()).runs == 8
    await flujo.aclose()


class TestDeletedMeanwhile:
    """A run that is deleted between the reading of its log and that of its large values is gone, and not broken."""

    @pytest.fixture
    async def flujo(self, store: Store) -> Flujo[str, str]:
        """Return a runtime with such a run, which is deleted when its large values are read next."""
        backend = FaultyBackend(store.open())
        flujo = Flujo(shout, state_backend=backend)
        await flujo.run("a" * LARGE, run_id="r")
        backend.delay("read_blobs", until=lambda: backend.inner.delete_run("r"))
        return flujo

    async def test_a_check_of_the_store_leaves_it_out(self, flujo: Flujo[str, str]) -> None:
        report = await flujo.verify()
        assert (report.ok, report.runs) == (True, 0)

    async def test_the_state_api_does_not_know_it(self, flujo: Flujo[str, str]) -> None:
        assert await flujo.state_backend.load_state("r") is None

    @pytest.mark.parametrize("verb", ["verify", "state", "history", "steps", "export_run", "resume"])
    async def test_whoever_asks_for_it_is_told(self, flujo: Flujo[str, str], verb: str) -> None:
        with pytest.raises(RunNotFound):
            await getattr(flujo, verb)("r")


@pytest.mark.parametrize("verb", ["verify", "state", "history", "export_run"])
async def test_a_run_that_is_imported_again_while_it_is_read_is_whole(store: Store, verb: str) -> None:
    """It was gone for a moment, and its large values with it."""
    inner = store.open()
    backend, other = FaultyBackend(inner), Flujo(shout, state_backend=inner)
    await other.run("a" * LARGE, run_id="r")
    file = await other.export_run("r")
    backend.delay("read_blobs", until=lambda: inner.delete_run("r"))
    backend.delay("read_events", until=lambda: other.import_run(file))
    found = await getattr(Flujo(shout, state_backend=backend), verb)("r")
    assert verb != "verify" or found.ok
