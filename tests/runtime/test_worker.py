"""Workers: what they take, how many at a time, and how they stop."""

import asyncio
import logging
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from typing_extensions import override

from flujo_async import Flujo, InMemoryBackend, PipelineRegistry, Worker, child, sleep, step, wait_for, workflow
from flujo_async._model.stored import RunQuery
from flujo_async.abc import StateBackend
from flujo_async.errors import BackendError, InvalidArgument
from flujo_async.testing import FaultyBackend, VirtualClock
from tests.runtime.pretend import Wrapped
from tests.runtime.stores import Store, mostly_in_memory, on_disk

TTL = timedelta(seconds=30)


@step
async def add_one(n: int) -> int:
    return n + 1


class Gate:
    """A step that waits until it may go on, and tells how many of it are at work."""

    def __init__(self) -> None:
        self.is_open = asyncio.Event()
        self.begun: list[Any] = []
        self.inside = 0
        self.most_inside = 0
        self._changed = asyncio.Condition()

    def step(self) -> Any:
        @step(name="gated")
        async def gated(value: Any) -> Any:
            self.begun.append(value)
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)
            await self._tell()
            try:
                await self.is_open.wait()
            finally:
                self.inside -= 1
            return value

        return gated

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def until_begun(self, count: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.begun) >= count)


async def results(flujo: Flujo[Any, Any], *run_ids: str) -> list[Any]:
    return [result.output for result in await asyncio.gather(*(flujo.handle(run_id).result() for run_id in run_ids))]


async def head(backend: StateBackend, run_id: str) -> Any:
    return (await backend.query_runs(RunQuery(run_id=run_id)))[0]


# ------------------------------------------------------------------------------------------------- what it takes


async def test_it_takes_what_is_there_and_what_comes(store: Store) -> None:
    flujo = Flujo(add_one, state_backend=store.open())
    await flujo.dispatch(1, run_id="before")
    async with Worker(flujo):
        assert await results(flujo, "before") == [2]
        await flujo.dispatch(2, run_id="after")
        assert await results(flujo, "after") == [3]


@on_disk
async def test_it_takes_what_another_process_dispatches(store: Store) -> None:
    here, elsewhere = (Flujo(add_one, state_backend=store.open()) for _ in "ab")
    async with Worker(here):
        handle = await elsewhere.dispatch(1)
        assert (await handle.result()).output == 2


async def test_what_it_takes_is_read_once(store: Store) -> None:
    """Nobody adds anything to a run that was claimed before it was read; signals may have come since."""
    backend, elsewhere = FaultyBackend(store.open()), Flujo(add_one, state_backend=store.open())
    handle = await elsewhere.dispatch(1, run_id="r")
    async with Worker(Flujo(add_one, state_backend=backend)):
        assert (await handle.result()).output == 2
    verbs = [call.verb for call in backend.calls if "r" in call.run_ids]
    assert verbs[: verbs.index("append")] == ["load", "read_signals"]


@mostly_in_memory
async def test_more_runs_than_it_drives_at_a_time(store: Store) -> None:
    flujo = Flujo(add_one >> add_one, state_backend=store.open())
    run_ids = [f"r{number}" for number in range(150)]
    await asyncio.gather(*(flujo.dispatch(number, run_id=run_ids[number]) for number in range(150)))
    async with Worker(flujo, concurrency=40):
        assert await results(flujo, *run_ids) == [number + 2 for number in range(150)]
    assert {summary.attempts for summary in await flujo.list_runs(limit=200)} == {1}


@pytest.mark.parametrize(("concurrency", "max_concurrency"), [(1, None), (3, None), (8, 2)])
async def test_no_more_are_taken_at_a_time_than_may_be_driven(concurrency: int, max_concurrency: int | None) -> None:
    """What would wait for its turn here is there for other processes."""
    gate = Gate()
    flujo = Flujo(gate.step(), state_backend=InMemoryBackend(), max_concurrency=max_concurrency)
    for number in range(8):
        await flujo.dispatch(number, run_id=f"r{number}")
    async with Worker(flujo, concurrency=concurrency):
        concurrency = max_concurrency or concurrency
        await gate.until_begun(concurrency)
        assert len([one for one in await flujo.list_runs(status="pending") if one.lease is None]) == 8 - concurrency
        gate.is_open.set()
        await results(flujo, *(f"r{number}" for number in range(8)))
    assert gate.most_inside == concurrency


async def test_it_takes_every_definition_of_its_registry_in_the_version_that_was_dispatched(store: Store) -> None:
    @workflow(name="flow", version="3")
    async def flow(n: int) -> int:
        return await add_one(n) * 100

    @step
    async def add_ten(n: int) -> int:
        return n + 10

    registry = PipelineRegistry()
    registry.register(add_one >> sleep(0), "one", "1.0")
    registry.register(add_ten >> sleep(0), "one", "2.0")
    registry.register(flow, "flow", "3")
    dispatchers = [
        Flujo(registry=registry, pipeline_name=name, pipeline_version=version, state_backend=store.open())
        for name, version in (("one", "1.0"), ("one", "2.0"), ("flow", "3"))
    ]
    for number, flujo in enumerate(dispatchers):
        await flujo.dispatch(1, run_id=f"r{number}")
    async with Worker(dispatchers[0]):
        assert await results(dispatchers[0], "r0", "r1", "r2") == [2, 11, 200]


async def test_what_nobody_here_knows_waits_and_stops_nobody(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """A run of an unknown definition is left alone, and so is one of an unknown version."""
    caplog.set_level(logging.CRITICAL, "flujo_async")
    old = Flujo(add_one, pipeline_name="known", state_backend=store.open())
    stranger = Flujo(add_one, pipeline_name="unknown", state_backend=store.open())
    flujo = Flujo(add_one >> add_one, pipeline_name="known", state_backend=store.open())
    for number in range(120):  # more than a batch, and all before the one that can be executed
        await old.dispatch(number, run_id=f"old{number}", priority=1)
    await stranger.dispatch(1, run_id="unknown", priority=1)
    await flujo.dispatch(1, run_id="new")
    async with Worker(flujo):
        assert await results(flujo, "new") == [3]
    assert (await head(store.open(), "unknown")).attempts == 0
    assert {summary.status for summary in await flujo.list_runs(limit=200)} == {"completed", "pending"}
    left = await flujo.list_runs(status="pending", limit=200)
    assert [(summary.attempts, summary.wake_at) for summary in left] == [(0, None)] * 121
    async with Worker(Flujo(add_one, pipeline_name="unknown", state_backend=store.open())):
        assert await results(stranger, "unknown") == [2]


async def test_a_run_whose_log_is_broken_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "flujo_async")

    class Broken(Wrapped):
        @override
        async def load(self, run_id: str, **more: Any) -> Any:
            if run_id == "broken":
                raise RuntimeError("unreadable")
            return await super().load(run_id, **more)

    backend = Broken(InMemoryBackend())
    flujo = Flujo(add_one, state_backend=backend)
    for run_id in ("broken", "whole"):
        await Flujo(add_one, state_backend=backend.inner).dispatch(1, run_id=run_id)
    async with Worker(flujo, concurrency=1):
        assert await results(flujo, "whole") == [2]
    assert (await head(backend.inner, "broken")).wake_at is not None


async def test_a_step_that_raises_something_that_is_no_exception_stops_nobody(
    backend: StateBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as the outcome of a test framework: it fails no step, and the run is not tried again at once."""
    caplog.set_level(logging.CRITICAL, "flujo_async")

    called: list[int] = []

    class Outcome(BaseException):
        pass

    @step
    async def odd(n: int) -> int:
        called.append(n)
        if n == 0:
            raise Outcome
        return n

    flujo = Flujo(odd, state_backend=backend)
    for n in range(2):
        await flujo.dispatch(n, run_id=f"r{n}")
    async with Worker(flujo, concurrency=1):
        assert await results(flujo, "r1") == [1]
    found = await head(backend, "r0")
    assert (found.status, found.lease, called) == ("running", None, [0, 1])
    assert found.wake_at is not None


# ------------------------------------------------------------------------------------- what sleeps, and what waits


async def test_it_wakes_what_sleeps_and_what_is_answered(store: Store) -> None:
    clock = VirtualClock()
    pipeline = add_one >> sleep(3600) >> wait_for("ok", schema=int) >> add_one
    flujo = Flujo(pipeline, state_backend=store.open(), clock=clock)
    handle = await flujo.dispatch(1, run_id="r")
    async with Worker(flujo):
        await reaches(handle, lambda one: one.wake_at is not None and one.lease is None)
        assert await handle.status() == "running"
        clock.advance(3600)
        await reaches(handle, lambda one: one.status == "paused")
        assert (await handle.result()).waiting_for[0].name == "ok"
        await handle.signal("ok", 7)
        assert (await handle.result()).output == 8


async def reaches(handle: Any, is_so: Callable[[Any], bool]) -> Any:
    """Wait until the head of a run is as asked for."""
    async with asyncio.timeout(20):
        return await handle._runner.reader.watch(handle.run_id, is_so)


@on_disk
async def test_an_answer_from_another_process_wakes_it_where_the_workers_are(store: Store) -> None:
    """Who answers executes nothing of a run that belongs to a queue."""
    here, elsewhere = (Flujo(wait_for("ok") >> add_one, state_backend=store.open()) for _ in "ab")
    handle = await here.dispatch(1, run_id="r")
    async with Worker(here):
        assert (await handle.result()).status == "paused"
    async with elsewhere:
        await elsewhere.signal("r", "ok", 5)
        assert await elsewhere.handle("r").status() == "paused"
    async with Worker(here):
        assert (await reaches(handle, lambda one: one.status == "completed")).attempts == 2


async def test_a_child_that_waits_holds_nothing(store: Store) -> None:
    clock = VirtualClock()
    inner = add_one >> sleep(3600) >> wait_for("ok", schema=int)
    flujo = Flujo(add_one >> child(inner, name="inner") >> add_one, state_backend=store.open(), clock=clock)
    handle = await flujo.dispatch(1, run_id="r")
    async with Worker(flujo):
        await reaches(handle, lambda one: one.wake_at is not None and one.lease is None)
        clock.advance(3600)
        [waiting] = (await handle.result()).waiting_for
        await flujo.signal(waiting.run_id or "", "ok", 10)
        assert (await handle.result()).output == 11


# --------------------------------------------------------------------------------------------------- how it stops


async def test_what_is_driven_goes_on_to_its_end_when_the_worker_stops() -> None:
    gate = Gate()
    flujo = Flujo(gate.step() >> add_one, state_backend=InMemoryBackend())
    await flujo.dispatch(1, run_id="r")
    async with Worker(flujo) as worker:
        await gate.until_begun(1)
        stopping = asyncio.create_task(worker.drain())
        await flujo.dispatch(2, run_id="too late")
        gate.is_open.set()
        await stopping
    assert await results(flujo, "r") == [2]
    assert await flujo.handle("too late").status() == "pending"


async def test_what_takes_too_long_is_interrupted_and_can_be_resumed(store: Store) -> None:
    gate = Gate()
    flujo = Flujo(add_one >> gate.step() >> add_one, state_backend=store.open())
    handle = await flujo.dispatch(1, run_id="r")
    async with Worker(flujo, drain_timeout=0.01):
        await gate.until_begun(1)
    stored = await head(store.open(), "r")
    assert (stored.status, stored.lease) == ("running", None)
    gate.is_open.set()
    async with Worker(flujo):
        assert (await handle.result()).output == 3
    assert gate.begun == [2, 2]


async def test_a_second_signal_interrupts_what_is_still_driven(store: Store) -> None:
    """Whoever sends it does not want to wait until the time for that is over."""
    gate = Gate()
    flujo = Flujo(gate.step(), state_backend=store.open())
    await flujo.dispatch(1, run_id="r")
    working = asyncio.create_task(Worker(flujo, drain_timeout=3600).run())
    await gate.until_begun(1)
    while not working.done():
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0)
    await working
    assert gate.inside == 0
    stored = await head(store.open(), "r")
    assert (stored.status, stored.lease) == ("running", None)


async def test_an_exception_in_the_block_interrupts_at_once(store: Store) -> None:
    gate = Gate()
    flujo = Flujo(gate.step(), state_backend=store.open())
    await flujo.dispatch(1, run_id="r")

    async def fail() -> None:
        async with Worker(flujo):
            await gate.until_begun(1)
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    assert (await head(store.open(), "r")).lease is None


async def test_it_can_work_again_after_it_has_stopped() -> None:
    flujo = Flujo(add_one, state_backend=InMemoryBackend())
    worker = Worker(flujo)
    for number in range(3):
        await flujo.dispatch(number, run_id=f"r{number}")
        async with worker:
            assert await results(flujo, f"r{number}") == [number + 1]


async def test_no_task_is_left_behind(store: Store) -> None:
    gate = Gate()
    flujo = Flujo(gate.step(), state_backend=store.open())
    await flujo.dispatch(1, run_id="r")
    before = asyncio.all_tasks()
    async with Worker(flujo, drain_timeout=0):
        await gate.until_begun(1)
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize(
    "arguments",
    [
        *({"queues": ()}, {"queues": ("",)}),
        *({"concurrency": 0}, {"concurrency": 1.5}),
        *({"drain_timeout": value} for value in (None, "1", -1, float("nan"), timedelta.max)),
    ],
)
async def test_what_makes_no_sense_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        Worker(Flujo(add_one), **arguments)


# ------------------------------------------------------------------------------------------- stores, and other workers


class Failing(Wrapped):
    """Fails in all verbs as long as it is told to."""

    is_failing = False

    @override
    async def through(self, verb: str, call: Callable[[], Any]) -> Any:
        if self.is_failing:
            raise BackendError("the disk is full")
        return await super().through(verb, call)


async def test_a_store_that_fails_for_a_while_costs_nothing_but_time(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """What was driven meanwhile is taken up again as soon as the store is there, not when its lease expires."""
    caplog.set_level(logging.CRITICAL, "flujo_async")
    gate = Gate()
    backend = Failing(store.open())
    flujo = Flujo(add_one >> gate.step() >> add_one, state_backend=backend)
    handle = await flujo.dispatch(1, run_id="r")
    async with Worker(flujo):
        await gate.until_begun(1)
        backend.is_failing = True
        gate.is_open.set()
        await asyncio.wait_for(tried(backend), 20)
        backend.is_failing = False
        await flujo.dispatch(5, run_id="another")
        assert await results(flujo, "another") == [7]
        async with asyncio.timeout(20):
            assert (await handle.result()).output == 3


async def tried(backend: Failing) -> None:
    """Return when the worker has found out that its store fails."""
    while not any(task.get_name() == "flujo run r" for task in asyncio.all_tasks()):
        await asyncio.sleep(0)
    while any(task.get_name() == "flujo run r" for task in asyncio.all_tasks()):
        await asyncio.sleep(0.001)


class Partitioned(Wrapped):
    """Cannot claim and renew: its owner is not heard of any more, until it has something to report."""

    is_cut_off = False

    @override
    async def through(self, verb: str, call: Callable[[], Any]) -> Any:
        if self.is_cut_off and verb in ("renew", "claim"):
            raise BackendError("unreachable")
        return await super().through(verb, call)


@asynccontextmanager
async def workers(*flujos: Flujo[Any, Any]) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        stops = [asyncio.Event() for _ in flujos]
        for flujo, stop in zip(flujos, stops, strict=True):
            group.create_task(_work_until(stop, flujo))
        try:
            yield
        finally:
            for stop in stops:
                stop.set()


async def _work_until(stop: asyncio.Event, flujo: Flujo[Any, Any]) -> None:
    async with Worker(flujo):
        await stop.wait()


@on_disk
async def test_a_run_of_a_worker_that_is_lost_goes_to_one_other(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """When its lease has expired; and what the lost one still has to say is refused."""
    caplog.set_level(logging.CRITICAL, "flujo_async")
    clock, lost_gate, gate = VirtualClock(), Gate(), Gate()

    def pipeline(gate: Gate) -> Any:
        return add_one >> gate.step() >> add_one

    partitioned = Partitioned(store.open())
    lost = Flujo(pipeline(lost_gate), state_backend=partitioned, clock=clock, lease_ttl=TTL)
    others = [Flujo(pipeline(gate), state_backend=store.open(), clock=clock, lease_ttl=TTL) for _ in range(3)]
    handle = await lost.dispatch(1, run_id="r")
    async with Worker(lost):
        await lost_gate.until_begun(1)
        partitioned.is_cut_off = True
        async with workers(*others):
            clock.advance(TTL)
            await gate.until_begun(1)
            lost_gate.is_open.set()
            await reaches(handle, lambda one: one.lease is not None and one.attempts == 2)
            gate.is_open.set()
            assert (await handle.result()).output == 3
    assert (lost_gate.begun, gate.begun) == ([2], [2])
    kinds = Counter(commit.fact.kind for commit in await handle.history())
    assert kinds["StepCompleted"] == 3


async def test_workers_of_one_process_share_a_store(store: Store) -> None:
    """Each run goes to one of them."""
    backend = store.open()
    taken: list[tuple[int, int]] = []

    def runtime(number: int) -> Flujo[Any, Any]:
        @step(name="take")
        async def take(n: int) -> int:
            taken.append((n, number))
            await asyncio.sleep(0)
            return n

        return Flujo(take >> add_one, pipeline_name="shared", state_backend=backend)

    runtimes = [runtime(number) for number in range(2)]
    run_ids = [f"r{number}" for number in range(60)]
    for number, run_id in enumerate(run_ids):
        await runtimes[0].dispatch(number, run_id=run_id)
    async with Worker(runtimes[0], concurrency=7), Worker(runtimes[1], concurrency=5):
        assert await results(runtimes[0], *run_ids) == [number + 1 for number in range(60)]
    assert sorted(n for n, _ in taken) == list(range(60))
    assert {number for _, number in taken} == {0, 1}


async def test_a_long_step_in_memory_keeps_its_run(caplog: pytest.LogCaptureFixture) -> None:
    """Leases of a store that one process has do not run out under an owner that is alive."""
    clock, gate, backend = VirtualClock(), Gate(), InMemoryBackend()
    first, second = (Flujo(gate.step(), state_backend=backend, clock=clock) for _ in "ab")
    handle = await first.dispatch(1, run_id="r")
    async with Worker(first):
        await gate.until_begun(1)
        async with Worker(second):
            clock.advance(timedelta(days=1))
            await second.dispatch(2, run_id="other")
            await gate.until_begun(2)
            assert await second.recover() == []
            gate.is_open.set()
            await results(first, "r", "other")
    assert sorted(gate.begun) == [1, 2]
    assert (await head(backend, handle.run_id)).attempts == 1
