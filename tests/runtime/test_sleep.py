"""``sleep``: durable timers (G14)."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from flujo_async import Flujo, Retry, RunContext, StepContext, as_step, map_each, parallel, sleep, step, workflow
from flujo_async.abc import StateBackend
from flujo_async.errors import DefinitionError, RunFailed
from flujo_async.testing import VirtualClock
from tests.runtime.crashes import crashes, driving, gone_to_sleep, others, ticks
from tests.runtime.executed import EXECUTED, note
from tests.runtime.pretend import until
from tests.runtime.stores import Store

HOUR = timedelta(hours=1)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@workflow
async def nap(n: int, ctx: RunContext) -> Any:
    await note(n)
    await ctx.sleep(HOUR)
    return await note(n + 1)


PIPELINE = note >> sleep(HOUR) >> note
BOTH = pytest.mark.parametrize("definition", [PIPELINE, nap], ids=["pipeline", "workflow"])


@BOTH
async def test_run_waits_through_a_sleep(backend: StateBackend, clock: VirtualClock, definition: Any) -> None:
    """It is running all the while, without a lease; the input passes through."""
    flujo = Flujo(definition, state_backend=backend, clock=clock)
    task = asyncio.ensure_future(flujo.run(1, run_id="r"))
    summary = await gone_to_sleep(flujo)
    await clock.until_asleep()
    assert (summary.status, summary.lease, summary.waiting_for) == ("running", None, [])
    assert summary.wake_at == clock.now() + HOUR
    clock.advance(HOUR - timedelta(seconds=1))
    await ticks()
    assert EXECUTED == [1]
    clock.advance(1)
    result = await task
    assert result.output == EXECUTED[-1]
    assert len(EXECUTED) == 2
    assert others() == set()


@BOTH
@pytest.mark.parametrize("how", ["run", "resume", "recover", "start"])
async def test_a_sleep_survives_a_restart(
    backend: StateBackend, clock: VirtualClock, definition: Any, how: str
) -> None:
    """Counted from when it began; whoever comes later wakes it."""
    async with Flujo(definition, state_backend=backend, clock=clock) as first:
        await first.start(1, run_id="r")
        await clock.until_asleep()
    clock.advance(HOUR * 3)
    async with Flujo(definition, state_backend=backend, clock=clock) as second:
        match how:
            case "run":
                await second.run(run_id="r")
            case "resume":
                await second.resume("r")
            case "recover":
                assert await second.recover() == ["r"]
            case _:
                await (await second.start(run_id="r")).result()
        assert await second.handle("r").status() == "completed"
    assert len(EXECUTED) == 2


@BOTH
async def test_killed_at_every_commit_it_sleeps_once(
    backend: StateBackend, clock: VirtualClock, definition: Any
) -> None:
    """The moment of waking stays the one of the first call."""

    async def attempt(store: StateBackend, run_id: str) -> None:
        flujo = Flujo(definition, state_backend=store, clock=clock)
        task = asyncio.ensure_future(flujo.run(1, run_id=run_id))
        sleeping = asyncio.ensure_future(clock.until_asleep())
        await asyncio.wait({task, sleeping}, return_when=asyncio.FIRST_COMPLETED)
        sleeping.cancel()
        clock.advance(HOUR)
        await task

    async for run_id in crashes(backend, attempt):
        flujo = Flujo(definition, state_backend=backend, clock=clock)
        done = {record.key for record in await flujo.steps(run_id)}
        EXECUTED.clear()
        history = await flujo.history(run_id)
        clock.advance(HOUR)
        task = asyncio.ensure_future(flujo.run(run_id=run_id))
        if not any(commit.fact.kind == "TimerStarted" for commit in history):
            await clock.until_asleep()
            clock.advance(HOUR)
        result = await task
        assert len(EXECUTED) == len(result.steps) - len(done)
        kinds = [commit.fact.kind for commit in await flujo.history(run_id)]
        assert (kinds.count("TimerStarted"), kinds.count("TimerFired")) == (1, 1)


async def test_runs_that_were_started_leave_memory(store: Store, clock: VirtualClock) -> None:
    """No task and no timer of their own; the runtime wakes each when its time has come."""
    number = 500 if store.kind == "memory" else 50
    async with Flujo(PIPELINE, state_backend=store.open(), clock=clock) as flujo:
        handles = [await flujo.start(n, run_id=f"r{n}") for n in range(number)]
        await until(lambda: not driving())
        await clock.until_asleep()
        assert len(others()) < 6
        assert {await handle.status() for handle in handles[:5]} == {"running"}
        assert {summary.lease for summary in await flujo.list_runs(limit=None)} == {None}
        clock.advance(HOUR)
        assert [(await handle.result()).output for handle in handles] == list(range(number))
    assert sorted(EXECUTED) == sorted(2 * list(range(number)))
    assert others() == set()


async def test_each_wakes_at_its_own_moment(backend: StateBackend, clock: VirtualClock) -> None:
    """In one runtime."""

    @workflow
    async def naps(hours: int, ctx: RunContext) -> Any:
        await ctx.sleep(HOUR * hours)
        return await note(hours)

    async with Flujo(naps, state_backend=backend, clock=clock) as flujo:
        handles = [await flujo.start(hours) for hours in (3, 1, 2)]
        for hour in (1, 2, 3):
            for summary in await flujo.list_runs(status="running"):
                await gone_to_sleep(flujo, summary.run_id)
            await clock.until_asleep()
            clock.advance(HOUR)
            async with asyncio.timeout(20):
                while len(EXECUTED) < hour:
                    await asyncio.sleep(0.001)
        assert EXECUTED == [1, 2, 3]
        for handle in handles:
            await handle.result()


async def test_a_short_sleep_stays_in_memory(clock: VirtualClock) -> None:
    """The lease is kept."""
    flujo = Flujo(sleep(0.5) >> note, clock=clock)
    task = asyncio.ensure_future(flujo.run(1, run_id="r"))
    await clock.until_asleep()
    await ticks()
    [summary] = await flujo.list_runs()
    assert summary.lease is not None
    clock.advance(0.5)
    assert (await task).output == 1
    kinds = [commit.fact.kind for commit in await flujo.history("r")]
    assert "RunResumed" not in kinds


async def test_a_workflow_that_is_always_replayed_sleeps_once(clock: VirtualClock) -> None:
    """That the sleep is over is recorded before the code begins again."""
    flujo = Flujo(nap, clock=clock, always_replay=True)
    task = asyncio.ensure_future(flujo.run(1, run_id="r"))
    await clock.until_asleep()
    clock.advance(HOUR)
    async with asyncio.timeout(20):
        assert (await task).output == 2
    assert EXECUTED == [1, 2]


@pytest.mark.parametrize("duration", [0, timedelta(0)])
async def test_no_time_is_no_sleep(duration: Any) -> None:
    """Of zero seconds."""
    assert (await Flujo(sleep(duration) >> note).run(1)).output == 1


@pytest.mark.parametrize("duration", [-1, "1", None, True, timedelta.max, 1e300])
def test_what_is_no_duration_is_refused(duration: Any) -> None:
    """When the pipeline is built."""
    with pytest.raises(DefinitionError):
        sleep(duration)


async def test_a_duration_is_checked_in_a_workflow(clock: VirtualClock) -> None:
    """Where it is called."""

    @workflow
    async def flow(ctx: RunContext) -> None:
        await ctx.sleep(-1)

    with pytest.raises(RunFailed) as caught:
        await Flujo(flow, clock=clock).run()
    assert isinstance(caught.value.__cause__, DefinitionError)


class TestBeside:
    """Timers next to other things."""

    async def test_a_busy_branch_goes_on(self, backend: StateBackend, clock: VirtualClock) -> None:
        """The run stays in memory as long as something in it does."""
        reached, go_on = asyncio.Event(), asyncio.Event()

        @step
        async def busy(n: int) -> int:
            reached.set()
            await go_on.wait()
            return n

        pipeline = parallel(as_step(sleep(HOUR) >> note, name="a"), as_step(busy, name="b"))
        flujo = Flujo(pipeline, state_backend=backend, clock=clock)
        task = asyncio.ensure_future(flujo.run(1, run_id="r"))
        await reached.wait()
        await clock.until_asleep()
        await ticks()
        [summary] = await flujo.list_runs()
        assert summary.lease is not None
        clock.advance(HOUR)
        async with asyncio.timeout(20):
            while not EXECUTED:
                await asyncio.sleep(0.001)
        go_on.set()
        assert (await task).output == {"a": 1, "b": 1}
        kinds = [commit.fact.kind for commit in await flujo.history("r")]
        assert "RunResumed" not in kinds

    async def test_the_nearest_timer_wakes_the_run(self, backend: StateBackend, clock: VirtualClock) -> None:
        """The others sleep on."""

        @workflow
        async def naps(hours: int, ctx: RunContext) -> Any:
            await ctx.sleep(HOUR * hours)
            return await note(hours)

        flujo = Flujo(map_each(naps), state_backend=backend, clock=clock)
        task = asyncio.ensure_future(flujo.run([3, 1, 2], run_id="r"))
        for hour in (1, 2, 3):
            await clock.until_asleep()
            clock.advance(HOUR)
            async with asyncio.timeout(20):
                while len(EXECUTED) < hour:
                    await asyncio.sleep(0.001)
            assert list(range(1, hour + 1)) == EXECUTED
        assert (await task).output == [3, 1, 2]

    async def test_a_timeout_of_the_code_around_a_sleep(self, clock: VirtualClock) -> None:
        """``asyncio.timeout`` is for what is in memory; the sleep is cancelled and forgotten."""

        @workflow
        async def flow(n: int, ctx: RunContext) -> Any:
            try:
                async with asyncio.timeout(0):
                    await ctx.sleep(HOUR)
            except TimeoutError:
                return await note(n)
            return 0

        assert (await Flujo(flow, clock=clock).run(1)).output == 1


class TestRetries:
    """Waits between attempts are timers too (G7)."""

    async def test_a_long_wait_parks_the_run(self, backend: StateBackend, clock: VirtualClock) -> None:
        """And the count of attempts survives restarts."""
        attempts = list[int]()

        @step(retry=Retry(max_attempts=4, base=HOUR, factor=1, cap=HOUR, jitter=0))
        async def flaky(n: int, ctx: StepContext) -> int:
            attempts.append(ctx.attempt)
            if ctx.attempt < 3:
                raise ValueError(ctx.attempt)
            return n

        for expected in (1, 2):
            async with Flujo(flaky, state_backend=backend, clock=clock) as flujo:
                await flujo.start(1, run_id="r")
                summary = await gone_to_sleep(flujo)
                assert len(attempts) == expected
                assert (summary.status, summary.wake_at) == ("running", clock.now() + HOUR)
                await until(lambda: not driving("r"))
            clock.advance(HOUR)
        result = await Flujo(flaky, state_backend=backend, clock=clock).run(run_id="r")
        assert (result.output, attempts, result.steps[0].attempts) == (1, [1, 2, 3], 3)

    async def test_run_waits_through_retries(self, backend: StateBackend, clock: VirtualClock) -> None:
        """In a workflow as well; out of attempts it fails with the last error."""

        @step(retry=Retry(max_attempts=2, base=HOUR, cap=HOUR, jitter=0))
        async def broken(n: int, ctx: StepContext) -> int:
            raise ValueError(ctx.attempt)

        @workflow
        async def flow(n: int) -> int:
            return await broken(n)

        flujo = Flujo(flow, state_backend=backend, clock=clock)
        task = asyncio.ensure_future(flujo.run(1, run_id="r"))
        await clock.until_asleep()
        clock.advance(HOUR)
        with pytest.raises(RunFailed) as caught:
            await task
        assert str(caught.value.__cause__) == "2"
