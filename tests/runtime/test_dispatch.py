"""Putting runs into queues: durable at once, and executed by nobody but a worker."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from flujo_async import Flujo, InMemoryBackend, Worker, step
from flujo_async._model.lease import Lease
from flujo_async._model.stored import NewRun, RunQuery
from flujo_async.abc import StateBackend
from flujo_async.errors import BackendError, InvalidArgument, RunConflict
from flujo_async.testing import VirtualClock
from tests.runtime.pretend import Wrapped, failing
from tests.runtime.stores import Store

executed: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_executed() -> None:
    executed.clear()


@step
async def effect(n: int) -> int:
    executed.append(n)
    return n + 1


async def head(backend: StateBackend, run_id: str) -> Any:
    return (await backend.query_runs(RunQuery(run_id=run_id)))[0]


async def work(flujo: Flujo[Any, Any], *run_ids: str, queues: Any = ("default",), concurrency: int = 100) -> None:
    """Let a worker work until these runs rest."""
    async with Worker(flujo, queues, concurrency):
        await asyncio.gather(*(flujo.handle(run_id).result() for run_id in run_ids))


async def test_it_is_durable_when_dispatch_returns(store: Store) -> None:
    handle = await Flujo(effect, state_backend=store.open()).dispatch(1, run_id="r", priority=3, metadata={"team": "a"})
    stored = await head(store.open(), "r")
    assert (stored.status, stored.queue, stored.priority, stored.wake_at) == ("pending", "default", 3, None)
    assert (stored.lease, stored.attempts, stored.metadata) == (None, 0, {"team": "a"})
    assert (handle.run_id, await handle.status()) == ("r", "pending")
    assert [commit.fact.kind for commit in await handle.history()] == ["RunStarted"]


async def test_it_executes_nothing(store: Store) -> None:
    """Not in the background either, nor when the runtime takes up what it has parked itself."""
    async with Flujo(effect, state_backend=store.open()) as flujo:
        handle = await flujo.dispatch(1, run_id="r")
        assert await flujo.recover() == []
        with pytest.raises(TimeoutError):
            await handle.result(timeout=0.05)
    assert executed == []


async def test_a_store_that_fails_is_told() -> None:
    """No success is reported over a failed write."""
    backend = InMemoryBackend()
    with pytest.raises(BackendError):
        await Flujo(effect, state_backend=failing(backend, "create_run")).dispatch(1, run_id="r")
    assert await backend.query_runs(RunQuery()) == []


async def test_the_same_once_more_changes_nothing(store: Store) -> None:
    flujo = Flujo(effect, state_backend=store.open())
    await flujo.dispatch(1, run_id="r", queue="a", priority=1)
    await asyncio.gather(*(flujo.dispatch(1, run_id="r", queue="b", priority=2) for _ in range(5)))
    stored = await head(store.open(), "r")
    assert (stored.queue, stored.priority, stored.last_seq) == ("a", 1, 1)


class Hasty(Wrapped):
    """A store whose runs have ended, and are deleted, before whoever has created them hears of that."""

    async def create_run(self, run: NewRun, **more: Any) -> Lease | None:
        lease = await super().create_run(run, **more)
        await self.inner.delete_run(run.summary.run_id)
        return lease


async def test_a_run_may_be_gone_when_dispatch_returns() -> None:
    backend = Hasty(InMemoryBackend())
    handle = await Flujo(effect, state_backend=backend).dispatch(1, run_id="r")
    assert handle.run_id == "r"
    assert await backend.query_runs(RunQuery()) == []


async def test_another_input_is_a_conflict(store: Store) -> None:
    flujo = Flujo(effect, state_backend=store.open())
    await flujo.dispatch(1, run_id="r")
    with pytest.raises(RunConflict):
        await flujo.dispatch(2, run_id="r")
    with pytest.raises(RunConflict):
        await flujo.dispatch(1, run_id="r", context={"other": True})


async def test_a_run_that_has_completed_is_left_as_it_is(store: Store) -> None:
    flujo = Flujo(effect, state_backend=store.open())
    await flujo.run(1, run_id="r")
    assert (await (await flujo.dispatch(1, run_id="r")).result()).output == 2
    assert executed == [1]


async def test_run_takes_a_dispatched_run_out_of_its_queue(store: Store) -> None:
    """Who awaits ``run()`` wants it now."""
    flujo = Flujo(effect, state_backend=store.open())
    await flujo.dispatch(1, run_id="r", delay=3600)
    assert (await flujo.run(1, run_id="r")).output == 2


@pytest.mark.parametrize("delay", [timedelta(hours=1), 3600])
async def test_a_delay_is_waited_for(store: Store, delay: Any) -> None:
    clock = VirtualClock()
    flujo = Flujo(effect, state_backend=store.open(), clock=clock)
    late = await flujo.dispatch(1, run_id="late", delay=delay)
    await flujo.dispatch(2, run_id="now")
    async with Worker(flujo):
        await flujo.handle("now").result()
        clock.advance(3599)
        await flujo.dispatch(3, run_id="now too")
        await flujo.handle("now too").result()
        assert await late.status() == "pending"
        clock.advance(1)
        assert (await late.result()).output == 2
    assert executed == [2, 3, 1]


async def test_a_worker_takes_its_queues_and_no_others(store: Store) -> None:
    flujo = Flujo(effect, state_backend=store.open())
    for number, queue in enumerate(["a", "b", "c"]):
        await flujo.dispatch(number, run_id=queue, queue=queue)
    await flujo.start(9, run_id="no queue")
    await flujo.handle("no queue").result()
    await work(flujo, "a", "c", queues=["a", "c"])
    assert sorted(executed) == [0, 2, 9]
    assert await flujo.handle("b").status() == "pending"


async def test_higher_priority_goes_first_then_first_come(store: Store) -> None:
    flujo = Flujo(effect, state_backend=store.open(), clock=(clock := VirtualClock()))
    for number, priority in enumerate([0, 5, -1, 5, 0]):
        await flujo.dispatch(number, run_id=f"r{number}", priority=priority)
        clock.advance(1)
    await work(flujo, *(f"r{number}" for number in range(5)), concurrency=1)
    assert executed == [1, 3, 0, 4, 2]


@pytest.mark.parametrize(
    "options",
    [{"queue": queue} for queue in ("", None, 5, "a\ud800")]
    + [{"delay": delay} for delay in (-1, "soon", timedelta.max)]
    + [{"priority": priority} for priority in ("high", 1.5, 2**63, True)],
)
async def test_what_makes_no_sense_is_refused(options: dict[str, Any], backend: StateBackend) -> None:
    with pytest.raises(InvalidArgument):
        await Flujo(effect, state_backend=backend).dispatch(1, **options)
    assert await backend.query_runs(RunQuery()) == []
