"""One run as one file: out of one store, into another."""

import json
import random
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import pytest

from flujo_async import Flujo, RunContext, StateBackend, StepContext, parallel, step, wait_for, workflow
from flujo_async._model.stored import Signal
from flujo_async.backends.memory import InMemoryBackend
from flujo_async.errors import (
    BackendError,
    IntegrityError,
    InvalidArgument,
    RunCancelled,
    RunFailed,
    RunNotFound,
    SchemaTooNew,
)
from flujo_async.testing import FaultyBackend
from tests.runtime.executed import EXECUTED
from tests.runtime.pretend import dying
from tests.runtime.stores import KINDS, Store


@step
async def grow(n: int, ctx: StepContext) -> int:
    EXECUTED.append(n)
    ctx.state["last"] = n
    return n + 1


@step
async def fragile(n: int) -> int:
    if n < 10:
        raise ValueError("too small: é \u2028 \x00 😀")
    return n


@workflow
async def code(n: int, ctx: RunContext) -> Any:
    ctx.emit({"n": n, "drawn": ctx.random()})
    first = await grow(n)
    answer = await ctx.wait_for("go", schema=int)
    return [await grow(first + answer), await ctx.child(grow, n, run_id=f"{ctx.run_id}.child")]


SIGNAL = Signal("r", "1", "other", None, datetime(2026, 1, 1, tzinfo=UTC))
CHAIN = grow >> grow >> grow
ASKING = grow >> wait_for("go", schema=int) >> parallel(grow, fragile)
WRITES = frozenset({"create_run", "append", "claim", "renew", "release", "post", "delete_run"})
DEFINITIONS = {"chain": CHAIN, "asking": ASKING, "code": code}


async def lived(backend: StateBackend, what: str) -> Flujo[Any, Any]:
    """Leave a run ``r`` in some state."""
    flujo = Flujo(DEFINITIONS["code" if what == "code" else "asking"], pipeline_name="p", state_backend=backend)
    await flujo.run(1, run_id="r", context={"é": "ü"}, metadata={"a": [1, {"b": None}]})
    match what:
        case "answered early":
            await flujo.pause("r")
            await flujo.signal("r", "go", 20)
        case "failed":
            await flujo.signal("r", "go", 1)
            with pytest.raises(RunFailed):
                await flujo.handle("r").result()
        case "cancelled":
            await flujo.cancel("r", "enough")
        case "completed" | "code":
            await flujo.signal("r", "go", 20)
            await flujo.handle("r").result()
        case "forked":
            await flujo.fork("r", at=2, new_run_id="f", context_update={"last": 9})
            await flujo.delete("r")
            data = await flujo.export_run("f")
            await flujo.delete("f")
            await flujo.import_run(data)
            await flujo.fork("f", new_run_id="r")
            await flujo.delete("f")
        case _:
            assert what == "paused"
    await flujo.aclose()
    return flujo


async def interrupted(backend: StateBackend) -> None:
    """Leave a run ``r`` that is running, and that nobody drives."""
    with pytest.raises(BackendError):
        await Flujo(CHAIN, pipeline_name="p", state_backend=dying(backend, "append", 2)).run(1, run_id="r")


LARGE = "\u00e9" * 20_000


async def with_blob(backend: StateBackend) -> Flujo[Any, Any]:
    """Leave a run ``r`` that names a large value twice."""

    @step
    async def twice(value: Any) -> list[str]:
        return [LARGE, LARGE]

    flujo = Flujo(twice, pipeline_name="p", state_backend=backend)
    await flujo.run(1, run_id="r")
    return flujo


LIVES = ["paused", "answered early", "failed", "cancelled", "completed", "code", "forked"]


@pytest.mark.parametrize("what", LIVES)
@pytest.mark.parametrize("seed", range(2))
async def test_through_all_stores_it_stays_what_it_is(tmp_path: Path, what: str, seed: int) -> None:
    """In any order of stores: the same log byte for byte, the same head, the same signals; and it goes on."""
    kinds = random.Random(f"{what}{seed}").sample(KINDS, len(KINDS))
    stores = [Store(kind, tmp_path / str(i)) for i, kind in enumerate(kinds)]
    backends = [store.open() for store in stores]
    flujo = await lived(backends[0], what)
    first = await backends[0].load("r")
    assert first is not None
    data = await flujo.export_run("r")
    for backend in backends[1:]:
        moved = Flujo(code if what == "code" else ASKING, pipeline_name="p", state_backend=backend)
        assert (await moved.import_run(data)).run_id == "r"
        found = await backend.load("r")
        assert found is not None
        assert (found.records, found.signals) == (first.records, first.signals)
        assert replace(found.summary, attempts=0) == replace(first.summary, attempts=0, lease=None)
        assert (await moved.verify()).ok
        again = await moved.export_run("r")
        assert again.splitlines()[1:-1] == data.splitlines()[1:-1]
        data = again
        await moved.aclose()
    EXECUTED.clear()
    await goes_on(Flujo(code if what == "code" else ASKING, pipeline_name="p", state_backend=backends[-1]), what)
    for store in stores:
        await store.close()


async def goes_on(flujo: Flujo[Any, Any], what: str) -> None:
    """Check that a run does what it would have done where it came from."""
    match what:
        case "paused":
            assert (await flujo.run(run_id="r")).waiting_for[0].name == "go"
            await flujo.signal("r", "go", 20)
            assert (await flujo.handle("r").result()).output == {"grow": 21, "fragile": 20}
        case "answered early":
            assert (await flujo.resume("r")).output == {"grow": 21, "fragile": 20}
            assert EXECUTED == [20]
        case "failed":
            with pytest.raises(RunFailed, match="too small: é \u2028 \x00 😀"):
                await flujo.run(run_id="r")
            assert [head.run_id for head in await flujo.list_dead_letters()] == ["r"]
        case "cancelled":
            with pytest.raises(RunCancelled, match="enough"):
                await flujo.run(run_id="r")
        case "forked":
            assert (await flujo.run(run_id="r")).status == "paused"
            assert (await flujo.state("r")).pipeline_context["last"] == 9
        case _:
            assert (await flujo.run(run_id="r")).status == "completed"
            assert EXECUTED == []
    await flujo.aclose()


async def test_a_run_that_was_running_is_resumed(store: Store, tmp_path: Path) -> None:
    """Nobody drives it, and nothing that was committed runs again."""
    await interrupted(store.open_once())
    data = await Flujo(CHAIN, pipeline_name="p", state_backend=store.open_once()).export_run("r")
    other = Store(store.kind, tmp_path / "other")
    flujo = Flujo(CHAIN, pipeline_name="p", state_backend=other.open())
    handle = await flujo.import_run(data)
    [head] = await flujo.list_runs()
    assert (await handle.status(), head.lease) == ("running", None)
    EXECUTED.clear()
    assert await flujo.recover() == ["r"]
    assert ((await handle.result()).output, EXECUTED) == (4, [2, 3])
    await other.close()


@pytest.mark.parametrize("how", ["before", "after"])
@pytest.mark.parametrize("nth", [1, 2])
async def test_a_process_that_dies_while_importing_leaves_all_of_a_run_or_nothing(
    store: Store, how: Literal["before", "after"], nth: int
) -> None:
    """Its signals are there when it is: importing is one write, whatever there is to import."""
    data = await (await lived(InMemoryBackend(), "answered early")).export_run("r")
    faulty = FaultyBackend(store.open())
    faulty.crash(WRITES, nth=nth, how=how)
    importing = Flujo(ASKING, pipeline_name="p", state_backend=faulty).import_run(data)
    if nth == 1:
        with pytest.raises(BackendError):
            await importing
    else:
        await importing
    assert [call.verb for call in faulty.calls if call.verb in WRITES] == ["create_run"]
    flujo = Flujo(ASKING, pipeline_name="p", state_backend=store.open())
    if (nth, how) == (1, "before"):
        assert await flujo.list_runs() == []
        await flujo.import_run(data)
    run = await flujo.state_backend.load("r")
    assert run is not None
    assert [(signal.name, signal.payload) for signal in run.signals] == [("$pause", None), ("go", 20)]
    assert (run.summary.signals, run.summary.lease) == (2, None)
    assert (await flujo.export_run("r")).splitlines()[1:-1] == data.splitlines()[1:-1]
    assert (await flujo.resume("r")).output == {"grow": 21, "fragile": 20}
    await flujo.aclose()


async def test_a_run_that_was_queued_is_queued(backend: StateBackend) -> None:
    """With its priority."""
    flujo = Flujo(CHAIN, pipeline_name="p")
    await flujo.dispatch(1, run_id="r", queue="q", priority=7)
    other = Flujo(CHAIN, pipeline_name="p", state_backend=backend)
    await other.import_run(await flujo.export_run("r"))
    [head] = await other.list_runs()
    assert (head.status, head.queue, head.priority) == ("pending", "q", 7)


async def test_under_another_name_it_is_a_fork(backend: StateBackend) -> None:
    """Beside the one that it was; what is done is not done again."""
    flujo = Flujo(CHAIN, pipeline_name="p", state_backend=backend)
    original = await flujo.run(1, run_id="r")
    handle = await flujo.import_run(await flujo.export_run("r"), run_id="again")
    assert (handle.run_id, await handle.status()) == ("again", "pending")
    EXECUTED.clear()
    result = await flujo.run(run_id="again")
    assert (result.run_id, result.output, result.context, EXECUTED) == ("again", original.output, original.context, [])
    facts = [commit.fact.kind for commit in await flujo.history("again")]
    assert facts[4:7] == ["RunCompleted", "RunForked", "RunResumed"]
    report = await flujo.verify()
    assert (report.ok, report.runs) == (True, 2)
    await flujo.delete("r")
    assert (await flujo.verify()).ok


async def test_a_fork_brings_its_whole_past(store: Store, tmp_path: Path) -> None:
    """Its source need not come along."""
    flujo = Flujo(CHAIN, pipeline_name="p", state_backend=store.open())
    await flujo.run(1, run_id="r")
    await flujo.fork("r", at=3, new_run_id="f")
    other = Store(store.kind, tmp_path / "other")
    moved = Flujo(CHAIN, pipeline_name="p", state_backend=other.open())
    await moved.import_run(await flujo.export_run("f"))
    EXECUTED.clear()
    assert ((await moved.run(run_id="f")).output, EXECUTED) == (4, [3])
    await other.close()


async def test_large_values_come_along(store: Store, tmp_path: Path) -> None:
    """Byte for byte, and once."""
    flujo = await with_blob(store.open_once())
    data = await flujo.export_run("r")
    assert data.count(LARGE.encode()) == 1
    other = Store(store.kind, tmp_path / "other")
    backend = other.open()
    moved = Flujo(CHAIN, pipeline_name="p", state_backend=backend)
    await moved.import_run(data)
    assert (await moved.steps("r"))[0].output == [LARGE, LARGE]
    assert (await moved.export_run("r")).splitlines()[1:-1] == data.splitlines()[1:-1]
    await other.close()


async def test_the_file_is_lines_of_json() -> None:
    """The head, what was posted, the facts, and how much all of that is."""
    flujo = await lived(InMemoryBackend(), "answered early")
    lines = [json.loads(line) for line in (await flujo.export_run("r")).splitlines()]
    assert (lines[0]["file"], lines[0]["format"], lines[0]["head"]["run_id"]) == ("flujo-async run", 1, "r")
    assert lines[0]["head"]["lease"] is None
    assert [line["signal"]["name"] for line in lines if "signal" in line] == ["$pause", "go"]
    facts = [line["fact"]["kind"] for line in lines if "fact" in line]
    assert facts == [commit.fact.kind for commit in await flujo.history("r")]
    assert [line["seq"] for line in lines if "fact" in line] == list(range(1, len(facts) + 1))
    end = lines[-1]["end"]
    assert (end["signals"], end["blobs"], end["facts"]) == (2, 0, len(facts))
    assert end["hash"] == (await flujo.history("r"))[-1].hash


class TestRefused:
    """What is no run, or not all of it: nothing is written."""

    async def data(self) -> bytes:
        return await (await lived(InMemoryBackend(), "completed")).export_run("r")

    async def refused(self, data: bytes, error: type[Exception], told: str | None = None) -> Any:
        flujo = Flujo(ASKING, pipeline_name="p")
        with pytest.raises(error, match=told) as caught:
            await flujo.import_run(data)
        assert await flujo.list_runs() == []
        return caught.value

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\n",
            b"hello",
            b"{}\n",
            b"[1]\n",
            b"null\n",
            b"\xff\xfe",
            b'{"file":"x","format":1}\n',
            b"SQLite format 3\0",
        ],
    )
    async def test_another_kind_of_file(self, data: bytes) -> None:
        await self.refused(data, InvalidArgument, "no file that a run was exported to")

    async def test_a_head_that_is_none(self) -> None:
        await self.refused(b'{"file":"flujo-async run","format":1,"head":{}}\n', InvalidArgument, "run_id: missing")

    async def test_a_newer_format(self) -> None:
        data = await self.data()
        await self.refused(data.replace(b'"format":1', b'"format":2', 1), SchemaTooNew, "format 2")

    async def test_a_file_that_was_cut_off(self) -> None:
        """At any byte; the error names the first fact that is missing."""
        data = await self.data()
        first = data.index(b"\n") + 1
        for length in [*range(first, len(data), 37), len(data) - 1]:
            error = await self.refused(data[:length], IntegrityError)
            whole = sum(b'"fact"' in line for line in data[:length].splitlines(keepends=True) if line.endswith(b"\n"))
            assert (error.run_id, error.seq) == ("r", whole + 1)
        await self.refused(data[: first // 2], InvalidArgument)

    async def test_a_fact_that_was_changed(self) -> None:
        data = await self.data()
        error = await self.refused(data.replace(b'"output":2', b'"output":3', 1), IntegrityError)
        assert (error.run_id, error.seq) == ("r", 2)

    @pytest.mark.parametrize("seq", [1, 2, 5])
    async def test_a_fact_that_is_missing(self, seq: int) -> None:
        lines = (await self.data()).splitlines(keepends=True)
        kept = [line for line in lines if not line.startswith(b'{"seq":%d,' % seq)]
        error = await self.refused(b"".join(kept), IntegrityError)
        assert error.seq == seq

    async def test_a_signal_that_is_missing_or_a_head_that_was_changed(self) -> None:
        """What no chain of hashes covers; the last line does."""
        data = await self.data()
        lines = data.splitlines(keepends=True)
        await self.refused(b"".join(line for line in lines if b'{"signal"' not in line), IntegrityError)
        await self.refused(data.replace(b'"priority":0', b'"priority":9', 1), IntegrityError)
        await self.refused(data.replace(b'"status":"completed"', b'"status":"failed"', 1), IntegrityError)

    async def test_something_behind_the_end(self) -> None:
        data = await self.data()
        await self.refused(data + data, IntegrityError)

    async def test_a_blob_that_is_missing(self) -> None:
        """Though everything else fits."""
        flujo = await with_blob(InMemoryBackend())
        lines = (await flujo.export_run("r")).splitlines(keepends=True)
        body = b"".join(line for line in lines[:-1] if not line.startswith(b'{"blob"'))
        end = json.loads(lines[-1])
        end["end"]["sha256"] = sha256(body).hexdigest()
        error = await self.refused(body + json.dumps(end).encode() + b"\n", IntegrityError, "is missing")
        assert error.seq == 2

    @pytest.mark.parametrize(
        ("old", "new"), [(b'"run_id":"r"', b'"run_id":"s"'), (b'"signal_id":"2"', b'"signal_id":"1"')]
    )
    async def test_signals_that_are_not_its_own(self, old: bytes, new: bytes) -> None:
        """Another run's, or one twice; though everything else fits."""
        store = InMemoryBackend()
        flujo = await lived(store, "answered early")
        for signal_id in "12":
            await store.post(replace(SIGNAL, signal_id=signal_id))
        first, *lines = (await flujo.export_run("r")).splitlines(keepends=True)
        body = first + b"".join(line.replace(old, new) if b'{"signal"' in line else line for line in lines[:-1])
        assert body != b"".join([first, *lines[:-1]])
        end = json.loads(lines[-1])
        end["end"]["sha256"] = sha256(body).hexdigest()
        data = body + json.dumps(end).encode() + b"\n"
        await self.refused(data, IntegrityError, "is another run's, or the same again")

    async def test_a_run_that_is_there_already(self, backend: StateBackend) -> None:
        """It is left as it is."""
        flujo = Flujo(CHAIN, pipeline_name="p", state_backend=backend)
        await flujo.run(1, run_id="r")
        data = await flujo.export_run("r")
        before = await backend.load("r")
        for run_id in (None, "r"):
            with pytest.raises(InvalidArgument, match="there is a run 'r' already"):
                await flujo.import_run(data, run_id)
        for run_id in ("", "a\0"):
            with pytest.raises(InvalidArgument):
                await flujo.import_run(data, run_id)
        assert await backend.load("r") == before

    async def test_a_run_that_does_not_exist_or_is_broken_is_not_exported(self) -> None:
        flujo = await lived(InMemoryBackend(), "completed")
        with pytest.raises(RunNotFound):
            await flujo.export_run("nobody")
