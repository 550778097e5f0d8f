"""A stored log that was tampered with is not believed (G10)."""

import asyncio
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flujo_async import FileBackend, Flujo, SQLiteBackend, StateBackend, step, wait_for
from flujo_async._model.stored import Record, StoredRun
from flujo_async.errors import BackendError, IntegrityError
from flujo_async.testing import FaultyBackend
from tests.runtime.pretend import Wrapped, failing
from tests.runtime.stores import Store


def pipeline(executed: list[str]) -> Any:
    def named(name: str) -> Any:
        async def call(value: str) -> str:
            executed.append(name)
            return name + "-was-here"

        return step(name=name)(call)

    return named("a") >> named("b") >> named("c")


async def orphan(store: Store) -> None:
    """Leave a run with four facts, two of its steps done."""
    with pytest.raises(BackendError):
        await Flujo(pipeline([]), state_backend=failing(store.open(), "append", 3)).run("x", run_id="r")


class Tampered(Wrapped):
    """A store whose records come back changed."""

    def __init__(self, inner: StateBackend, change: Callable[[list[Record]], list[Record]]) -> None:
        super().__init__(inner)
        self._change = change

    async def through(self, verb: str, call: Callable[[], Any]) -> Any:
        result = await call()
        if isinstance(result, StoredRun):
            return replace(result, records=tuple(self._change(list(result.records))))
        return result


def flipped(records: list[Record], seq: int) -> list[Record]:
    body = bytearray(records[seq - 1].body)
    body[len(body) // 2] ^= 1
    records[seq - 1] = replace(records[seq - 1], body=bytes(body))
    return records


CHANGES: dict[str, tuple[Callable[[list[Record]], list[Record]], int]] = {
    "first": (lambda records: flipped(records, 1), 1),
    "second": (lambda records: flipped(records, 2), 2),
    "third": (lambda records: flipped(records, 3), 3),
    "missing": (lambda records: [records[0], *records[2:]], 2),
    "swapped": (lambda records: [records[0], records[2], records[1]], 2),
    "repeated": (lambda records: [*records, records[-1]], 4),
    "hash": (lambda records: [replace(records[0], hash="0" * 64), *records[1:]], 1),
    "renumbered": (lambda records: [records[0], replace(records[2], seq=2)], 2),
    "cut off": (lambda records: records[:2], 3),
    "gone": (lambda records: [], 1),
}


@pytest.mark.parametrize("name", list(CHANGES))
async def test_a_broken_chain_is_named_before_anything_executes(store: Store, name: str) -> None:
    """Run and ``seq`` are on the error; reading refuses as well."""
    await orphan(store)
    change, seq = CHANGES[name]
    executed: list[str] = []
    flujo = Flujo(pipeline(executed), state_backend=Tampered(store.open(), change))
    for call in (
        flujo.run(run_id="r"),
        flujo.run("x", run_id="r"),
        flujo.resume("r"),
        flujo.start(run_id="r"),
        flujo.state("r"),
        flujo.history("r"),
        flujo.steps("r"),
    ):
        with pytest.raises(IntegrityError) as caught:
            await call
        assert (caught.value.run_id, caught.value.seq) == ("r", seq)
    assert executed == []


async def test_a_run_that_lost_nothing_is_believed(store: Store) -> None:
    """The same, untouched."""
    await orphan(store)
    executed: list[str] = []
    await Flujo(pipeline(executed), state_backend=Tampered(store.open(), list)).run(run_id="r")
    assert executed == ["c"]


class Overtaken(Tampered):
    """A store that is read just before the last commits of another owner; these come back changed."""

    async def through(self, verb: str, call: Callable[[], Any]) -> Any:
        result = await call()
        if isinstance(result, StoredRun):
            return replace(result, records=result.records[:2], summary=replace(result.summary, last_seq=2))
        return self._change(result) if verb == "read_events" else result


async def test_what_was_committed_before_the_claim_is_not_done_again(store: Store) -> None:
    """Between the look at a run and the claim another owner may have gone on with it."""
    await orphan(store)
    executed: list[str] = []
    await Flujo(pipeline(executed), state_backend=Overtaken(store.open(), list)).resume("r")
    assert executed == ["c"]


@pytest.mark.parametrize("seq", [2, 3], ids=["the last one seen", "the one behind it"])
async def test_what_was_committed_before_the_claim_is_verified_too(store: Store, seq: int) -> None:
    """And the run stays as it is."""
    await orphan(store)
    executed: list[str] = []

    def change(records: list[Record]) -> list[Record]:
        before = [record for record in records if record.seq < seq]
        return [*before, *CHANGES["hash"][0](records[len(before) :])]

    flujo = Flujo(pipeline(executed), state_backend=Overtaken(store.open(), change))
    with pytest.raises(IntegrityError) as caught:
        await flujo.resume("r")
    assert (caught.value.run_id, caught.value.seq, executed) == ("r", seq, [])


@pytest.mark.parametrize("kind", ["file", "sqlite"])
async def test_a_byte_changed_on_disk_is_found(tmp_path: Path, kind: str) -> None:
    """What another program wrote into the file."""
    store = Store(kind, tmp_path)
    await orphan(store)
    await store.close()
    if kind == "file":
        [path] = (tmp_path / "runs").glob("*.jsonl")
        content = path.read_bytes()
        assert content.count(b"a-was-here") == 1
        path.write_bytes(content.replace(b"a-was-here", b"a-WAS-here"))
    else:
        with sqlite3.connect(tmp_path / "runs.db") as connection:
            changed = _replace_everywhere(connection, "a-was-here", "a-WAS-here")
        connection.close()
        assert changed == 1
    executed: list[str] = []
    again = Store(kind, tmp_path)
    try:
        with pytest.raises(IntegrityError) as caught:
            await Flujo(pipeline(executed), state_backend=again.open()).run(run_id="r")
    finally:
        await again.close()
    assert (caught.value.run_id, caught.value.seq, executed) == ("r", 2, [])


def _replace_everywhere(connection: sqlite3.Connection, old: str, new: str) -> int:
    changed = 0
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    for table in tables:
        for _, column, *_ in connection.execute(f"PRAGMA table_info({table})").fetchall():
            cursor = connection.execute(
                f"UPDATE {table} SET {column} = replace({column}, ?, ?) WHERE instr({column}, ?)",
                (old, new, old),
            )
            changed += cursor.rowcount
    return changed


async def test_a_run_with_a_damaged_signal_can_be_deleted(tmp_path: Path) -> None:
    """Nothing else can be done with it."""
    flujo = Flujo(wait_for("go"), state_backend=SQLiteBackend(tmp_path / "runs.db"))
    await flujo.start("x", run_id="r")
    await flujo.signal("r", "other")
    await flujo.aclose()
    with sqlite3.connect(tmp_path / "runs.db") as connection:
        connection.execute("UPDATE signals SET payload = 'zzz'")
    connection.close()
    for call in (flujo.state("r"), flujo.resume("r"), flujo.signal("r", "go")):
        with pytest.raises(IntegrityError, match=r"run 'r'.*signal"):
            await call
    await flujo.delete("r")
    assert await flujo.list_runs() == []
    await flujo.state_backend.shutdown()


@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize("left", [0, 2])
async def test_facts_deleted_from_the_database_are_missed(tmp_path: Path, left: int, follow: bool) -> None:
    """The head of a run at rest says how many there were."""
    flujo = Flujo(pipeline([]), state_backend=SQLiteBackend(tmp_path / "runs.db"))
    await flujo.run("x", run_id="r")
    with sqlite3.connect(tmp_path / "runs.db") as connection:
        connection.execute("DELETE FROM facts WHERE seq > ?", (left,))
    connection.close()
    with pytest.raises(IntegrityError) as caught:
        await flujo.history("r")
    assert (caught.value.run_id, caught.value.seq) == ("r", left + 1)
    seen = list[int]()

    async def read() -> None:
        async for event in flujo.handle("r").events(follow=follow):
            seen.append(event.seq)

    with pytest.raises(IntegrityError) as caught:
        await asyncio.wait_for(read(), timeout=20)
    assert (caught.value.seq, seen) == (left + 1, list(range(1, left + 1)))
    assert not (await flujo.verify()).ok
    await flujo.state_backend.shutdown()


async def test_a_run_that_is_deleted_while_its_events_are_read_has_no_more(backend: StateBackend) -> None:
    """It is not damaged."""
    faulty = FaultyBackend(backend)
    flujo = Flujo(pipeline([]), state_backend=faulty)
    await flujo.run("x", run_id="r")
    faulty.delay("read_events", until=lambda: flujo.delete("r"))
    assert [event async for event in flujo.handle("r").events()] == []


async def test_a_run_that_cannot_be_read_can_be_deleted(tmp_path: Path) -> None:
    """Nobody knows its parents any more, but for that it need not stay for ever."""
    flujo = Flujo(pipeline([]), state_backend=FileBackend(tmp_path))
    await flujo.run("x", run_id="r")
    log = tmp_path / "r.jsonl"
    log.write_bytes(log.read_bytes()[:-9] + b"\n")
    with pytest.raises(IntegrityError):
        await flujo.state("r")
    await flujo.delete("r")
    assert await flujo.list_runs() == []
