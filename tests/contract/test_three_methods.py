"""A user's class with nothing but the three methods of the seeds keeps the contract."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Dict, Optional  # noqa: UP035 -- the classes are written as in the seeds

import pytest

from flujo_async._model.stored import Blob, RunQuery
from flujo_async.abc.backend import Capabilities, StateBackend
from flujo_async.abc.document_entries import ENTRIES_ID
from flujo_async.abc.documents import INDEX_ID, SYSTEM_ID
from flujo_async.abc.turn import Turn
from flujo_async.errors import BackendError, InvalidArgument, SchemaTooNew, SerializationError
from flujo_async.testing import BackendContract
from flujo_async.testing.samples import (
    LOG,
    append,
    blob,
    create,
    entry,
    fork,
    kept,
    listed,
    load,
    new_run,
    snapshot,
)


class DictBackend(StateBackend):
    def __init__(self) -> None:
        self.states: Dict[str, Any] = {}  # noqa: UP006

    async def save_state(self, run_id: str, state: Dict[str, Any]) -> None:  # noqa: UP006
        self.states[run_id] = state

    async def load_state(self, run_id: str) -> Optional[Dict[str, Any]]:  # noqa: UP006, UP045
        return self.states.get(run_id)

    async def delete_state(self, run_id: str) -> None:
        self.states.pop(run_id, None)


class JsonFileBackend(StateBackend):
    """Sorts keys, as many stores do, and would not stand two calls at a time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.calls = 0

    async def save_state(self, run_id: str, state: dict[str, Any]) -> None:
        async with self.alone():
            text = json.dumps(state, sort_keys=True, indent=1)
            await asyncio.to_thread(self.path(run_id).write_text, text, encoding="utf-8")

    async def load_state(self, run_id: str) -> dict[str, Any] | None:
        async with self.alone():
            try:
                text = await asyncio.to_thread(self.path(run_id).read_text, encoding="utf-8")
            except FileNotFoundError:
                return None
            state: dict[str, Any] = json.loads(text)
            return state

    async def delete_state(self, run_id: str) -> None:
        async with self.alone():
            await asyncio.to_thread(self.path(run_id).unlink, missing_ok=True)

    def path(self, run_id: str) -> Path:
        return self.directory / f"{run_id}.json"

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        self.calls += 1
        assert self.calls == 1, "a second call has begun before the first has ended"
        try:
            yield
        finally:
            self.calls -= 1


class TestDictBackend(BackendContract):
    is_medium = True

    @pytest.fixture
    def backend(self) -> StateBackend:
        return DictBackend()

    def reopen(self, backend: StateBackend) -> StateBackend:
        assert isinstance(backend, DictBackend)
        other = DictBackend()
        other.states = backend.states
        return other


class TestJsonFileBackend(BackendContract):
    is_medium = True
    # Names of its own files are the user's business: it writes ids as they are.
    run_ids = entry_run_ids = ("a", "b", "a b", "x.json", "é")

    @pytest.fixture
    def backend(self, tmp_path: Path) -> StateBackend:
        return JsonFileBackend(tmp_path)

    def reopen(self, backend: StateBackend) -> StateBackend:
        assert isinstance(backend, JsonFileBackend)
        return JsonFileBackend(backend.directory)


def test_such_a_class_says_that_it_is_for_one_process() -> None:
    assert DictBackend.capabilities == Capabilities(multi_process=False)


def test_a_class_that_lacks_one_of_the_methods_is_no_backend() -> None:
    with pytest.raises(TypeError, match="create_run"):

        class Half(StateBackend):  # pyright: ignore[reportUnusedClass]
            async def save_state(self, run_id: str, state: dict[str, Any]) -> None: ...


async def test_a_saved_state_is_plain_json_that_a_person_understands() -> None:
    backend = DictBackend()
    await append(backend, await create(backend, new_run(metadata={"tags": ("a", "b")})), current_step_index=1)
    state = backend.states["run"]
    assert json.loads(json.dumps(state)) == state
    assert {key: state[key] for key in ("run_id", "pipeline_name", "pipeline_version", "status")} == {
        "run_id": "run",
        "pipeline_name": "hello",
        "pipeline_version": "1.0.0",
        "status": "running",
    }
    assert (state["current_step_index"], state["metadata"]) == (1, {"tags": ["a", "b"]})
    assert [record["seq"] for record in state["records"]] == [1, 2]


async def test_large_values_and_a_snapshot_are_text_in_the_document() -> None:
    """A snapshot may be anything; a fork has copies, and no snapshot."""
    backend, large = DictBackend(), blob("\u00e9")
    lease = await create(backend, new_run(blobs=[large]))
    await backend.put_snapshot(lease, snapshot(1, b"\x00\xff"))
    await create(backend, fork(LOG[:1])[0])
    for run_id in ("run", "fork"):
        state = backend.states[run_id]
        assert json.loads(json.dumps(state)) == state
        assert state["blobs"] == {large.digest: {"seq": 1, "data": '"\u00e9"'}}
    assert (backend.states["run"]["snapshot"]["body"], backend.states["fork"]["snapshot"]) == ("AP8=", None)


async def test_a_blob_that_is_no_text_is_refused() -> None:
    backend = DictBackend()
    lease = await create(backend)
    with pytest.raises(SerializationError, match="UTF-8"):
        await append(backend, lease, blobs=[Blob("d" * 64, b"\xff")])
    assert (await load(backend)).records == LOG[:1]


async def test_the_index_goes_with_the_last_run() -> None:
    backend = DictBackend()
    await create(backend, new_run("a"))
    await create(backend, new_run("b"))
    await backend.delete_run("a")
    assert set(backend.states) == {"b", INDEX_ID}
    await backend.delete_run("b")
    assert backend.states == {}


async def test_the_documents_of_entries_go_with_the_last_of_them() -> None:
    """One document lists the runs, and each run has one, also where there is no run of that name."""
    backend = DictBackend()
    await backend.put_entries([entry("a"), entry("x" * 512)])
    assert [len(name) <= 512 for name in backend.states] == [True] * 3
    await backend.delete_run("a")
    assert (await kept(backend)) == [entry("x" * 512)]
    await backend.delete_run("x" * 512)
    assert backend.states == {}


@pytest.mark.parametrize("failing_call", [2, 3, 4])
async def test_entries_of_two_runs_count_together_however_far_the_writes_came(failing_call: int) -> None:
    """The list of the runs, each of the two, the list again: after the first of them both are there."""
    backend = _Dies(failing_call)
    with pytest.raises(BackendError):
        await backend.put_entries([entry("a"), entry("b")])
    assert await kept(backend) == [entry("a"), entry("b")]
    await backend.put_entries([entry("c")])
    await backend.delete_run("a")
    assert await kept(backend) == [entry("b"), entry("c")]


async def test_entries_of_two_runs_are_not_there_when_the_first_write_fails() -> None:
    backend = _Dies(1)
    with pytest.raises(BackendError):
        await backend.put_entries([entry("a"), entry("b")])
    assert await kept(backend) == []


@pytest.mark.parametrize("reserved", [INDEX_ID, SYSTEM_ID, ENTRIES_ID, f"{ENTRIES_ID}.run"])
async def test_a_reserved_id_is_no_run(reserved: str) -> None:
    backend = DictBackend()
    await create(backend)
    await backend.set_system_state("key", {"a": 1})
    with pytest.raises(InvalidArgument, match="reserved"):
        await create(backend, new_run(reserved))
    assert await backend.load(reserved) is None
    await backend.delete_run(reserved)
    assert await listed(backend) == ["run"]
    assert await backend.get_system_state("key") == {"a": 1}


async def test_system_state_is_a_document_of_its_own() -> None:
    """It is plain JSON, and there when the last run has gone."""
    backend = DictBackend()
    await create(backend)
    await backend.set_system_state("key", {"tags": ("a", "b")})
    await backend.delete_run("run")
    assert backend.states == {SYSTEM_ID: {"format": 1, "states": {"key": {"tags": ["a", "b"]}}}}


async def test_a_state_that_others_wrote_is_not_taken_for_a_run() -> None:
    backend = DictBackend()
    backend.states["run"] = {"status": "running"}
    with pytest.raises(BackendError, match="not written by this package"):
        await backend.load("run")


@pytest.mark.parametrize(
    "spoil", [{"records": None}, {"blobs": None}, {"snapshot": 1}, {"posted": {}}, {"run_id": "other"}]
)
async def test_a_state_that_came_back_incomplete_is_refused(spoil: dict[str, Any]) -> None:
    backend = DictBackend()
    await create(backend)
    backend.states["run"] |= spoil
    with pytest.raises(BackendError, match="whole state"):
        await backend.load("run")


async def test_a_document_of_a_newer_version_is_refused() -> None:
    backend = DictBackend()
    await create(backend)
    backend.states["run"]["format"] = 2
    with pytest.raises(SchemaTooNew):
        await backend.load("run")


class _Failing(DictBackend):
    error: Exception | None = None

    async def save_state(self, run_id: str, state: dict[str, Any]) -> None:
        if self.error:
            raise self.error
        await super().save_state(run_id, state)


async def test_a_failure_of_the_users_store_is_a_backend_error() -> None:
    """The cause is kept, nothing is believed to be written, and the next write works."""
    backend = _Failing()
    lease = await create(backend)
    backend.error = ConnectionError("gone")
    with pytest.raises(BackendError, match="gone") as caught:
        await append(backend, lease)
    assert caught.value.__cause__ is backend.error
    backend.error = None
    assert await append(backend, lease) == 2


class _Dies(DictBackend):
    """One of its writes fails."""

    def __init__(self, failing_call: int) -> None:
        super().__init__()
        self.calls_left = failing_call

    async def save_state(self, run_id: str, state: dict[str, Any]) -> None:
        self.calls_left -= 1
        if self.calls_left == 0:
            raise OSError
        await super().save_state(run_id, state)


@pytest.mark.parametrize("failing_call", [1, 2])
async def test_a_creation_that_fails_half_way_can_be_repeated(failing_call: int) -> None:
    """Index or document: whichever write fails, no run is seen, and the second try works."""
    backend = _Dies(failing_call)
    with pytest.raises(BackendError):
        await create(backend)
    assert await backend.load("run") is None
    assert await backend.query_runs(RunQuery()) == []
    await create(backend)
    assert await listed(backend) == ["run"]


class _Slow(DictBackend):
    """Its ``save_state`` stops where the test wants it to."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def save_state(self, run_id: str, state: dict[str, Any]) -> None:
        self.arrived.set()
        await self.go_on.wait()
        await super().save_state(run_id, state)


async def test_a_write_that_has_begun_outlives_its_cancelled_caller() -> None:
    """The caller gets its ``CancelledError``, however often it is cancelled, and only when the write is done."""
    backend = _Slow()
    lease = await create(backend)
    backend.arrived.clear()
    backend.go_on.clear()
    task = asyncio.create_task(append(backend, lease))
    await backend.arrived.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    backend.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await load(backend)).summary.last_seq == 2


async def test_a_caller_that_is_cancelled_in_the_queue_writes_nothing() -> None:
    """Its place goes to the next one."""
    backend = _Slow()
    lease = await create(backend)
    backend.arrived.clear()
    backend.go_on.clear()
    first = asyncio.create_task(append(backend, lease))
    await backend.arrived.wait()
    second = asyncio.create_task(append(backend, lease, after=2))
    third = asyncio.create_task(append(backend, lease, after=2, count=2))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    backend.go_on.set()
    assert (await first, await third) == (2, 4)


async def test_a_turn_that_comes_with_the_cancellation_is_handed_on() -> None:
    """The one that is cancelled in the very moment of its turn does not keep it."""
    turn = Turn()
    loop = asyncio.get_running_loop()
    waiting: list[asyncio.Task[str]] = []

    async def work(name: str) -> str:
        if name == "first":
            loop.call_soon(waiting[0].cancel)  # runs after the turn was given away, before it was taken
        return name

    async def first() -> str:
        await asyncio.sleep(0)
        return await work("first")

    holder = asyncio.create_task(turn.run(first()))
    await asyncio.sleep(0)
    waiting += [asyncio.create_task(turn.run(work(name))) for name in ("second", "third")]
    results = await asyncio.gather(holder, *waiting, return_exceptions=True)
    assert [results[0], type(results[1]), results[2]] == ["first", asyncio.CancelledError, "third"]
    assert await turn.run(work("again")) == "again"


def test_runs_are_found_after_a_restart(tmp_path: Path) -> None:
    """A new object in a new event loop lists what the old one left."""
    asyncio.run(create(JsonFileBackend(tmp_path)))
    assert asyncio.run(listed(JsonFileBackend(tmp_path))) == ["run"]
