"""``run(timeout=…)``: how long a run may take, over all restarts (G8)."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from flujo_async import Flujo, Retry, RunContext, StepContext, map_each, sleep, step, wait_for, workflow
from flujo_async.abc import StateBackend
from flujo_async.errors import InvalidArgument, RunConflict, RunFailed
from flujo_async.testing import VirtualClock
from tests.runtime.crashes import gone_to_sleep, others, ticks

MINUTE = timedelta(minutes=1)


class Stuck:
    """A step that waits, and tells what became of it."""

    def __init__(self) -> None:
        self.is_reached, self.go_on = asyncio.Event(), asyncio.Event()
        self.fate = list[str]()

        async def undo(done: Any) -> None:
            self.fate.append("undone")

        @step(compensate=undo)
        async def before(n: int) -> int:
            return n

        @step
        async def wait(n: int) -> int:
            self.is_reached.set()
            try:
                await self.go_on.wait()
            except asyncio.CancelledError:
                self.fate.append("cancelled")
                raise
            self.fate.append("done")
            return n

        @workflow
        async def flow(n: int) -> int:
            try:
                return await wait(await before(n))
            except Exception:
                return 0

        self.definitions: dict[str, Any] = {
            "pipeline": before >> wait,
            "workflow": flow,
            "map": map_each(before >> wait),
        }


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


async def timed_out(task: Any) -> RunFailed:
    with pytest.raises(RunFailed) as caught:
        await task
    assert isinstance(caught.value.__cause__, TimeoutError)
    return caught.value


@pytest.mark.parametrize("kind", ["pipeline", "workflow", "map"])
@pytest.mark.parametrize("timeout", [MINUTE, 60])
async def test_a_run_that_takes_too_long_fails(
    backend: StateBackend, clock: VirtualClock, kind: str, timeout: Any
) -> None:
    """Its step is cancelled, what was done is undone, and nobody else is cancelled."""
    stuck = Stuck()
    flujo = Flujo(stuck.definitions[kind], state_backend=backend, clock=clock)
    task = asyncio.ensure_future(flujo.run([1] if kind == "map" else 1, run_id="r", timeout=timeout))
    await stuck.is_reached.wait()
    await clock.until_asleep()
    clock.advance(MINUTE)
    await timed_out(task)
    assert stuck.fate == ["cancelled", "undone"]
    assert await flujo.handle("r").status() == "failed"
    await timed_out(flujo.run(run_id="r"))
    assert (others(), clock.sleepers) == (set(), 0)


async def test_a_run_in_time_is_not_disturbed(backend: StateBackend, clock: VirtualClock) -> None:
    """Nothing of the limit is left."""
    stuck = Stuck()
    stuck.go_on.set()
    flujo = Flujo(stuck.definitions["pipeline"], state_backend=backend, clock=clock)
    assert (await flujo.run(1, timeout=MINUTE)).output == 1
    assert (others(), clock.sleepers) == (set(), 0)


async def test_it_counts_from_the_start_over_all_restarts(backend: StateBackend, clock: VirtualClock) -> None:
    """Also the time in which nobody had the run."""
    stuck = Stuck()
    flujo = Flujo(stuck.definitions["pipeline"], state_backend=backend, clock=clock)
    task = asyncio.ensure_future(flujo.run(1, run_id="r", timeout=MINUTE))
    await stuck.is_reached.wait()
    task.cancel()
    await asyncio.wait({task})
    clock.advance(MINUTE)
    stuck.fate.clear()
    stuck.go_on.set()
    await timed_out(flujo.run(run_id="r"))
    assert stuck.fate == ["undone"]


@pytest.mark.parametrize("inner", [wait_for("go"), sleep(MINUTE * 5)], ids=["waits", "sleeps"])
async def test_a_run_that_has_left_memory_is_woken(backend: StateBackend, clock: VirtualClock, inner: Any) -> None:
    """To fail."""
    flujo = Flujo(inner, state_backend=backend, clock=clock)
    handle = await flujo.start(1, run_id="r", timeout=MINUTE)
    head = await gone_to_sleep(flujo)
    assert head.wake_at == clock.now() + MINUTE
    await clock.until_asleep()
    clock.advance(MINUTE)
    async with asyncio.timeout(20):
        while await handle.status() != "failed":
            await asyncio.sleep(0.001)
    await timed_out(handle.result())
    await flujo.aclose()


async def test_run_waits_for_it(clock: VirtualClock) -> None:
    """Through a sleep that is longer."""
    flujo = Flujo(sleep(MINUTE * 5), clock=clock)
    task = asyncio.ensure_future(flujo.run(1, run_id="r", timeout=MINUTE))
    await gone_to_sleep(flujo)
    await clock.until_asleep()
    clock.advance(MINUTE)
    await timed_out(task)


async def test_the_time_in_a_queue_counts(backend: StateBackend, clock: VirtualClock) -> None:
    """Nothing of it executes any more."""
    stuck = Stuck()
    stuck.go_on.set()
    flujo = Flujo(stuck.definitions["pipeline"], state_backend=backend, clock=clock)
    await flujo.dispatch(1, run_id="r", timeout=MINUTE)
    clock.advance(MINUTE)
    await timed_out(flujo.resume("r"))
    assert stuck.fate == []


async def test_tried_again_it_has_the_whole_time(backend: StateBackend, clock: VirtualClock) -> None:
    """From then on."""
    flujo = Flujo(wait_for("go"), state_backend=backend, clock=clock)
    await flujo.run(1, run_id="r", timeout=MINUTE)
    clock.advance(MINUTE)
    await timed_out(flujo.run(run_id="r"))
    assert (await flujo.redrive("r")).status == "paused"
    clock.advance(MINUTE / 2)
    await flujo.signal("r", "go", 7)
    assert (await flujo.handle("r").result()).output == 7
    await flujo.aclose()


async def test_an_undoing_has_time(clock: VirtualClock) -> None:
    """The limit is on what the run does, not on how it is undone."""
    attempts = list[int]()

    @step(retry=Retry(max_attempts=3, base=MINUTE, cap=MINUTE, jitter=0))
    async def undo(done: Any) -> None:
        attempts.append(1)
        if len(attempts) < 3:
            raise ValueError

    @step(compensate=undo)
    async def do(n: int) -> int:
        return n

    flujo = Flujo(do >> wait_for("go"), clock=clock)
    await flujo.run(1, run_id="r", timeout=MINUTE)
    clock.advance(MINUTE)
    task = asyncio.ensure_future(flujo.run(run_id="r"))
    for number in (1, 2):
        async with asyncio.timeout(20):
            while len(attempts) < number:
                await asyncio.sleep(0)
        await gone_to_sleep(flujo)
        await clock.until_asleep()
        clock.advance(MINUTE)
        await ticks()
    await timed_out(task)
    assert len(attempts) == 3


async def test_an_undoing_that_waits_leaves_memory(backend: StateBackend, clock: VirtualClock) -> None:
    """Until its next attempt is due; that the time of the run is over does not wake it."""

    @step(retry=Retry(max_attempts=2, base=MINUTE, jitter=0))
    async def undo(done: Any, ctx: StepContext) -> None:
        if ctx.attempt == 1:
            raise ValueError

    @step(compensate=undo)
    async def do(n: int) -> int:
        return n

    flujo = Flujo(do >> sleep(MINUTE * 2), state_backend=backend, clock=clock)
    run = asyncio.ensure_future(flujo.run(1, run_id="r", timeout=MINUTE))
    await gone_to_sleep(flujo)
    clock.advance(MINUTE)
    async with asyncio.timeout(20):
        while (head := await gone_to_sleep(flujo)).wake_at != clock.now() + MINUTE:
            await ticks()
    await ticks()
    assert (await gone_to_sleep(flujo)).attempts == head.attempts
    clock.advance(MINUTE)
    await timed_out(run)


async def test_an_undoing_that_needs_a_decision_rests(backend: StateBackend, clock: VirtualClock) -> None:
    """However late it is: nothing but the decision wakes the run."""
    is_reached = asyncio.Event()

    @step(effect="once")
    async def undo(done: Any, ctx: StepContext) -> None:
        if ctx.attempt == 1:
            is_reached.set()
            await asyncio.Event().wait()

    @step(compensate=undo)
    async def do(n: int) -> int:
        return n

    flujo = Flujo(do >> sleep(MINUTE * 2), state_backend=backend, clock=clock)
    run = asyncio.ensure_future(flujo.run(1, run_id="r", timeout=MINUTE))
    await gone_to_sleep(flujo)
    clock.advance(MINUTE)
    await is_reached.wait()
    run.cancel()
    await asyncio.wait({run})
    await flujo.aclose()
    assert [waiting.kind for waiting in (await flujo.run(run_id="r")).waiting_for] == ["decision"]
    assert (await gone_to_sleep(flujo)).wake_at is None
    await timed_out(flujo.redrive("r"))


async def test_code_cannot_catch_it(clock: VirtualClock) -> None:
    """A workflow that goes on all the same has failed."""

    @workflow
    async def flow(ctx: RunContext) -> str:
        try:
            await ctx.sleep(MINUTE * 5)
        except BaseException:
            return "caught"
        return ""

    flujo = Flujo(flow, clock=clock)
    task = asyncio.ensure_future(flujo.run(run_id="r", timeout=0.5))
    await clock.until_asleep()
    clock.advance(1)
    await timed_out(task)


@pytest.mark.parametrize("timeout", [-1, "x", True, timedelta.max])
async def test_what_is_no_duration_is_refused(timeout: Any) -> None:
    """And nothing is started."""
    flujo = Flujo(sleep(1))
    with pytest.raises(InvalidArgument):
        await flujo.run(1, timeout=timeout)
    assert await flujo.list_runs() == []


async def test_another_input_is_still_a_conflict(clock: VirtualClock) -> None:
    """Before any time is looked at."""
    flujo = Flujo(wait_for("go"), clock=clock)
    await flujo.run(1, run_id="r", timeout=MINUTE)
    clock.advance(MINUTE)
    with pytest.raises(RunConflict):
        await flujo.run(2, run_id="r")
