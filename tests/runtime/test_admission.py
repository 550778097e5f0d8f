"""``max_concurrency``: how many runs are driven at the same time."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from flujo_async import Flujo, InMemoryBackend, RunContext, child, sleep, step, wait_for, workflow
from flujo_async._model.stored import RunQuery
from flujo_async._runtime.admission import Admission
from flujo_async.abc import StateBackend
from flujo_async.errors import InvalidArgument, RunCancelled, RunConflict, RunFailed, RunNotFound
from flujo_async.testing import FaultyBackend, VirtualClock
from tests.runtime.crashes import gone_to_sleep, others, ticks

HOUR = timedelta(hours=1)


class Crowd:
    """A step that counts how many are in it."""

    def __init__(self) -> None:
        self.inside = self.most = 0
        self.order = list[Any]()
        self.go_on = asyncio.Event()

        @step
        async def enter(value: Any) -> Any:
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.order.append(value)
            try:
                await self.go_on.wait()
                await asyncio.sleep(0)
            finally:
                self.inside -= 1
            return value

        self.step = enter


@pytest.fixture
def crowd() -> Crowd:
    return Crowd()


@pytest.mark.parametrize("how", ["run", "start"])
async def test_no_more_than_so_many_at_a_time(backend: StateBackend, crowd: Crowd, how: str) -> None:
    """The others wait for their turn, in the order in which they came."""
    flujo = Flujo(crowd.step, state_backend=backend, max_concurrency=3)
    if how == "run":
        tasks = [asyncio.ensure_future(flujo.run(n)) for n in range(10)]
    else:
        tasks = [asyncio.ensure_future((await flujo.start(n)).result()) for n in range(10)]
    async with asyncio.timeout(20):
        while crowd.inside < 3:
            await asyncio.sleep(0.001)
    await asyncio.sleep(0.01)
    assert crowd.inside == 3
    crowd.go_on.set()
    assert [(await task).output for task in tasks] == list(range(10))
    assert crowd.most == 3
    await flujo.aclose()
    assert others() == set()


async def test_a_run_that_waits_for_its_turn_is_durable(backend: StateBackend, crowd: Crowd) -> None:
    """``start`` returns when it is in the store; it is running, without an owner."""
    flujo = Flujo(crowd.step, state_backend=backend, max_concurrency=1)
    await flujo.start(1, run_id="first")
    handle = await flujo.start(2, run_id="second")
    assert await handle.status() == "running"
    with pytest.raises(RunConflict):
        await flujo.start(3, run_id="second")
    again = await flujo.start(run_id="second")
    [summary] = [each for each in await flujo.list_runs() if each.run_id == "second"]
    assert summary.lease is None
    crowd.go_on.set()
    assert (await again.result()).output == 2
    await flujo.aclose()


async def test_a_place_is_free_again_when_a_run_has_failed(backend: StateBackend) -> None:
    """Or was cancelled, or interrupted."""
    reached = asyncio.Event()

    @step
    async def picky(n: int) -> int:
        if n == 0:
            reached.set()
            await asyncio.Event().wait()
        if n < 0:
            raise ValueError
        return n

    flujo = Flujo(picky, state_backend=backend, max_concurrency=1)
    with pytest.raises(RunFailed):
        await flujo.run(-1)
    task = asyncio.ensure_future(flujo.run(0))
    await reached.wait()
    task.cancel()
    await asyncio.wait({task})
    assert (await flujo.run(5)).output == 5


async def test_who_does_not_wait_any_more_leaves_the_queue(crowd: Crowd) -> None:
    """The next one gets the place."""
    flujo = Flujo(crowd.step, max_concurrency=1)
    tasks = [asyncio.ensure_future(flujo.run(n)) for n in range(4)]
    await ticks()
    tasks[1].cancel()
    tasks[2].cancel()
    await asyncio.wait(tasks[1:3])
    crowd.go_on.set()
    assert (await tasks[0]).output == 0
    assert (await tasks[3]).output == 3
    assert crowd.order == [0, 3]


async def test_a_run_that_waits_or_sleeps_gives_its_place_away(backend: StateBackend) -> None:
    """It is not driven meanwhile."""
    clock = VirtualClock()

    @step
    async def note(value: Any) -> Any:
        return value

    flujo = Flujo(sleep(timedelta(hours=1)) >> note, state_backend=backend, clock=clock, max_concurrency=1)
    tasks = [asyncio.ensure_future(flujo.run(n, run_id=f"r{n}")) for n in range(5)]
    for n in range(5):
        await gone_to_sleep(flujo, f"r{n}")
    clock.advance(timedelta(hours=1))
    assert [(await task).output for task in tasks] == list(range(5))
    waiting = Flujo(wait_for("go") >> note, state_backend=backend, max_concurrency=1)
    for n in range(3):
        assert (await waiting.run(n, run_id=f"w{n}")).status == "paused"
    for n in range(3):
        await waiting.signal(f"w{n}", "go", n)
    assert [(await waiting.handle(f"w{n}").result()).output for n in range(3)] == [0, 1, 2]
    await waiting.aclose()


async def test_children_need_no_place_of_their_own(crowd: Crowd) -> None:
    """Else their parents would wait for ever."""
    crowd.go_on.set()
    flujo = Flujo(child(child(crowd.step, name="low"), name="middle"), max_concurrency=1)
    async with asyncio.timeout(20):
        assert (await flujo.run(1)).output == 1


async def test_a_child_that_was_taken_up_by_itself_goes_in_the_place_of_its_parent() -> None:
    """Both are due at the same instant; the parent has the only place, and would wait for the child for ever."""
    clock, store = VirtualClock(), InMemoryBackend()
    faulty = FaultyBackend(store)
    flujo = Flujo(child(sleep(60), name="kid"), state_backend=faulty, clock=clock, max_concurrency=1)
    recovering = list[asyncio.Task[Any]]()

    async def take_up_the_child() -> None:
        recovering.append(asyncio.create_task(flujo.recover()))
        while (await store.query_runs(RunQuery(run_id="r/kid")))[0].lease is None:
            await asyncio.sleep(0)

    run = asyncio.create_task(flujo.run("slept", run_id="r"))
    await gone_to_sleep(flujo)
    await clock.until_asleep()
    faulty.delay("claim", nth=2, until=take_up_the_child)  # the first one is that of the parent
    clock.advance(60)
    async with asyncio.timeout(20):
        assert (await run).output == "slept"
        assert await recovering[0] == ["r/kid"]
    await flujo.aclose()


async def test_cancelling_needs_no_place(backend: StateBackend, crowd: Crowd) -> None:
    """A run that waits for its turn, or rests, is ended at once."""
    flujo = Flujo(crowd.step, state_backend=backend, max_concurrency=1)
    busy = await flujo.start(1, run_id="busy")
    task = asyncio.ensure_future((await flujo.start(2, run_id="queued")).result())
    async with asyncio.timeout(20):
        await flujo.cancel("queued")
        await asyncio.wait({task})
    assert await flujo.handle("queued").status() == "cancelled"
    crowd.go_on.set()
    assert (await busy.result()).output == 1
    assert crowd.order == [1]
    assert task.exception() is not None
    await flujo.aclose()


async def test_who_waits_for_a_place_hears_that_the_run_was_cancelled(backend: StateBackend, crowd: Crowd) -> None:
    """At once, and the place is for the next one."""
    flujo = Flujo(crowd.step, state_backend=backend, max_concurrency=1)
    busy = await flujo.start(1, run_id="busy")
    queued = asyncio.ensure_future(flujo.run(2, run_id="queued"))
    after = await flujo.start(3, run_id="after")
    async with asyncio.timeout(20):
        while "queued" not in {head.run_id for head in await flujo.list_runs()}:
            await ticks()
        await flujo.cancel("queued")
        with pytest.raises(RunCancelled):
            await queued
    assert crowd.order == [1]
    crowd.go_on.set()
    assert [(await handle.result()).output for handle in (busy, after)] == [1, 3]
    assert crowd.most == 1
    await flujo.aclose()


async def test_a_run_that_is_due_and_has_no_place_can_be_cancelled(backend: StateBackend, crowd: Crowd) -> None:
    """Also by the runtime that has claimed it already."""
    clock = VirtualClock()

    @step
    async def pick(n: int) -> int:
        return await crowd.step(n) if n else n

    flujo = Flujo(
        pick >> sleep(timedelta(hours=1)) >> pick, state_backend=backend, clock=clock, max_concurrency=1, lease_ttl=HOUR
    )
    await flujo.start(0, run_id="due")
    await gone_to_sleep(flujo, "due")
    busy = await flujo.start(1, run_id="busy")
    async with asyncio.timeout(20):
        while not crowd.inside:
            await ticks()
        clock.advance(HOUR)
        while [head.run_id for head in await flujo.list_runs() if head.lease is not None] != ["busy", "due"]:
            await ticks()
        await flujo.cancel("due")
    assert await flujo.handle("due").status() == "cancelled"
    await flujo.cancel(busy.run_id)
    await flujo.aclose()


async def test_who_comes_while_a_run_is_let_in_needs_no_place() -> None:
    """As what was claimed does, and read, before it was cancelled."""
    admission = Admission(1)

    async def come() -> None:
        async with admission.slot("r"):
            pass

    async with asyncio.timeout(20), admission.slot("busy"):
        with admission.letting_in("r"):
            await come()
        late = asyncio.ensure_future(come())
        await ticks()
        assert not late.done()
    await late


async def test_what_is_not_driven_needs_no_place(backend: StateBackend, crowd: Crowd) -> None:
    """A run that has ended, or waits, or that another runtime drives."""
    elsewhere = Flujo(crowd.step, state_backend=backend)
    flujo = Flujo(crowd.step, state_backend=backend, max_concurrency=1)
    crowd.go_on.set()
    await flujo.run(0, run_id="done")
    crowd.go_on.clear()
    paused = Flujo(wait_for("go"), state_backend=backend, max_concurrency=1)
    await paused.run(0, run_id="paused")
    await flujo.start(1, run_id="busy")
    other = await elsewhere.start(2, run_id="other")
    async with asyncio.timeout(20):
        while crowd.inside < 2:
            await ticks()
        assert (await flujo.run(0, run_id="done")).output == 0
        assert (await flujo.run(run_id="paused")).status == "paused"
        attached = asyncio.ensure_future(flujo.run(2, run_id="other"))
        await ticks()
        await elsewhere.cancel("other")
        with pytest.raises(RunCancelled):
            await attached
    crowd.go_on.set()
    assert (await flujo.handle("busy").result()).output == 1
    with pytest.raises(RunCancelled):
        await other.result()
    await flujo.aclose()
    await elsewhere.aclose()


async def test_a_run_that_is_not_there_is_not_begun_because_all_places_are_taken(
    backend: StateBackend, crowd: Crowd
) -> None:
    """``resume`` says at once that there is none, also where the definition needs no input."""

    @workflow
    async def enter(ctx: RunContext) -> Any:
        return await crowd.step(1)

    flujo = Flujo(enter, state_backend=backend, max_concurrency=1)
    busy = await flujo.start(run_id="busy")
    with pytest.raises(RunNotFound, match="'r'"):
        async with asyncio.timeout(20):
            await flujo.resume("r")
    assert [head.run_id for head in await flujo.list_runs()] == ["busy"]
    crowd.go_on.set()
    await busy.result()
    await flujo.aclose()


async def test_looking_needs_no_place(crowd: Crowd) -> None:
    """Nor does asking for the result of a run that has one: reads and listings always work."""
    flujo = Flujo(crowd.step, max_concurrency=1)
    await flujo.start(1, run_id="busy")
    async with asyncio.timeout(20):
        assert (await flujo.state("busy")).status == "running"
        assert len(await flujo.list_runs()) == 1
    crowd.go_on.set()
    await flujo.handle("busy").result()


@pytest.mark.parametrize("number", [0, -1, 1.5, True, "1"])
def test_a_number_that_is_none_is_refused(number: Any) -> None:
    """At once."""
    with pytest.raises(InvalidArgument):
        Flujo(sleep(1), max_concurrency=number)
