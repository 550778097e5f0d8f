"""What comes after a failed attempt: another one, a fallback, or the end."""

import asyncio
import logging
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flujo_async import Flujo, Retry, StepContext, branch, map_each, step
from flujo_async.abc import StateBackend
from flujo_async.errors import RunFailed
from flujo_async.testing import VirtualClock
from tests.runtime.pretend import until
from tests.runtime.stores import Store

EVERY_TEN = Retry(max_attempts=10, base=10, factor=1, jitter=0)


class Busy(Exception):
    """The server tells when to come again."""

    def __init__(self, retry_after: Any) -> None:
        super().__init__("come again")
        self.retry_after = retry_after


async def pass_time(clock: VirtualClock, run: "asyncio.Task[Any]", seconds: float = 1) -> None:
    """Let time pass second by second until a run has ended."""
    while not run.done():
        await asyncio.sleep(0.0005)
        if clock.sleepers:
            clock.advance(seconds)


class TestRetryAfter:
    """``retry_after`` of an exception."""

    @pytest.mark.parametrize(
        "asked", [25, 25.0, timedelta(seconds=25), VirtualClock().now() + timedelta(seconds=25)], ids=str
    )
    async def test_an_exception_may_tell_when_to_try_again(self, asked: Any) -> None:
        """It wins over the policy, whether it is longer or shorter."""
        clock, times = VirtualClock(), list[float]()
        began = clock.now()

        @step(retry=Retry(max_attempts=2, base=3, jitter=0))
        async def busy(n: int) -> int:
            times.append((clock.now() - began).total_seconds())
            if len(times) == 1:
                raise Busy(asked)
            return n

        run = asyncio.create_task(Flujo(busy, clock=clock).run(1))
        await pass_time(clock, run)
        assert times == [0, 25]

    async def test_it_survives_a_restart(self, store: Store) -> None:
        """The moment is recorded, not the wait."""
        clock, attempts = VirtualClock(), list[int]()

        @step(retry=EVERY_TEN)
        async def busy(n: int, ctx: StepContext) -> int:
            attempts.append(ctx.attempt)
            if ctx.attempt == 1:
                raise Busy(100)
            return n

        first = asyncio.create_task(Flujo(busy, state_backend=store.open(), clock=clock).run(1, run_id="r"))
        await clock.until_asleep()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        clock.advance(99)
        second = asyncio.create_task(Flujo(busy, state_backend=store.open(), clock=clock).run(run_id="r"))
        await clock.until_asleep()
        assert attempts == [1]
        clock.advance(1)
        await second
        assert attempts == [1, 2]


class TestDeadline:
    """``deadline`` of a step, over all its attempts."""

    async def test_it_ends_an_attempt(self) -> None:
        """And no other follows, though there would be some."""
        clock, attempts = VirtualClock(), list[int]()

        @step(deadline=timedelta(seconds=5), retry=EVERY_TEN)
        async def stuck(n: int, ctx: StepContext) -> int:
            attempts.append(ctx.attempt)
            assert ctx.deadline == clock.now() + timedelta(seconds=5)
            await asyncio.Event().wait()
            return n

        run = asyncio.create_task(Flujo(stuck, clock=clock).run(1))
        await clock.until_asleep()
        clock.advance(5)
        with pytest.raises(RunFailed) as caught:
            await run
        assert isinstance(caught.value.__cause__, TimeoutError)
        assert "'stuck' missed its deadline, 5 s after" in str(caught.value.__cause__)
        assert attempts == [1]

    async def test_an_attempt_that_would_come_too_late_is_not_waited_for(self) -> None:
        """The step fails at once; what had failed it is the cause."""
        clock, attempts = VirtualClock(), list[int]()

        @step(deadline=25, retry=EVERY_TEN)
        async def broken(n: int, ctx: StepContext) -> int:
            attempts.append(ctx.attempt)
            raise ValueError(f"attempt {ctx.attempt}")

        run = asyncio.create_task(Flujo(broken, clock=clock).run(1))
        began = clock.now()
        await asyncio.gather(pass_time(clock, run), return_exceptions=True)
        with pytest.raises(RunFailed) as caught:
            await run
        assert attempts == [1, 2, 3]
        assert clock.now() - began <= timedelta(seconds=21)
        assert "deadline" in str(caught.value.__cause__)
        assert str(caught.value.__cause__.__cause__) == "attempt 3"  # type: ignore[union-attr]
        assert caught.value.result.steps[0].attempts == 3

    async def test_the_last_failure_is_told_as_it_is(self) -> None:
        """Where no other attempt would have followed anyway."""

        @step(deadline=0.5, retry=Retry(max_attempts=1))
        async def broken(n: int) -> int:
            raise ValueError("the last")

        with pytest.raises(RunFailed) as caught:
            await Flujo(broken).run(1)
        assert str(caught.value.__cause__) == "the last"

    async def test_it_counts_from_the_first_attempt_across_restarts(self, store: Store) -> None:
        """A process that was away does not get its time back."""
        clock, attempts = VirtualClock(), list[int]()

        @step(deadline=60, retry=EVERY_TEN)
        async def broken(n: int, ctx: StepContext) -> int:
            attempts.append(ctx.attempt)
            raise ValueError

        async def start() -> "asyncio.Task[Any]":
            run = asyncio.create_task(Flujo(broken, state_backend=store.open(), clock=clock).run(1, run_id="r"))
            await asyncio.wait({run, asyncio.create_task(clock.until_asleep())}, return_when="FIRST_COMPLETED")
            return run

        first = await start()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        clock.advance(45)
        second = await start()
        assert attempts == [1, 2]
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        clock.advance(30)
        with pytest.raises(RunFailed) as caught:
            await (await start())
        assert attempts == [1, 2], "the third attempt would begin after the deadline"
        assert "deadline" in str(caught.value.__cause__)
        assert caught.value.result.steps[0].attempts == 2

    async def test_the_earlier_of_deadline_and_timeout_is_told(self) -> None:
        """And the timeout ends an attempt that comes before the deadline."""
        clock, ends = VirtualClock(), list[Any]()

        @step(timeout=10, deadline=15, retry=Retry(max_attempts=3, base=0))
        async def stuck(n: int, ctx: StepContext) -> int:
            ends.append(ctx.deadline)
            await asyncio.Event().wait()
            return n

        began = clock.now()
        run = asyncio.create_task(Flujo(stuck, clock=clock).run(1))
        await asyncio.gather(pass_time(clock, run), return_exceptions=True)
        with pytest.raises(RunFailed) as caught:
            await run
        assert ends == [began + timedelta(seconds=10), began + timedelta(seconds=15)]
        assert "deadline" in str(caught.value.__cause__)

    async def test_a_step_without_limits_has_no_deadline(self) -> None:
        @step
        async def free(n: int, ctx: StepContext) -> Any:
            return ctx.deadline

        assert (await Flujo(free).run(1)).output is None

    async def test_a_deadline_beyond_all_dates_is_the_last_date(self) -> None:
        @step(deadline=1e12)
        async def patient(n: int, ctx: StepContext) -> Any:
            return ctx.deadline

        assert (await Flujo(patient, clock=VirtualClock()).run(1)).output == datetime.max.replace(tzinfo=UTC)


class TestTimeout:
    """``timeout`` goes by the runtime's clock."""

    async def test_a_virtual_clock_times_a_step_out(self) -> None:
        clock = VirtualClock()

        @step(timeout=timedelta(hours=1))
        async def stuck(n: int) -> int:
            await asyncio.Event().wait()
            return n

        run = asyncio.create_task(Flujo(stuck, clock=clock).run(1))
        await clock.until_asleep()
        clock.advance(3599)
        await asyncio.sleep(0)
        assert not run.done()
        clock.advance(1)
        with pytest.raises(RunFailed, match="longer than its timeout of 3600 s"):
            await run
        assert clock.sleepers == 0

    async def test_nothing_is_left_of_a_step_that_was_in_time(self) -> None:
        clock = VirtualClock()

        @step(timeout=60, deadline=60)
        async def quick(n: int) -> int:
            return n

        await Flujo(quick, clock=clock).run(1)
        await asyncio.sleep(0)  # a task that was cancelled ends when the loop turns
        assert clock.sleepers == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    async def test_an_abandoned_thread_is_told_of(self, caplog: pytest.LogCaptureFixture) -> None:
        """In the log, and in the error."""
        clock, may_end, has_ended = VirtualClock(), threading.Event(), threading.Event()

        @step(timeout=1)
        def stuck(n: int) -> int:
            may_end.wait()
            has_ended.set()
            return n

        run = asyncio.create_task(Flujo(stuck, clock=clock).run(1, run_id="r"))
        await clock.until_asleep()
        clock.advance(1)
        with caplog.at_level(logging.WARNING, "flujo_async"), pytest.raises(RunFailed) as caught:
            await run
        assert "'stuck'" in caplog.text
        assert "runs on" in caplog.text
        assert "its thread cannot be stopped, and runs on" in str(caught.value.__cause__)
        may_end.set()
        await until(has_ended.is_set)

    async def test_waiting_for_a_thread_is_no_part_of_the_attempt(self) -> None:
        """A step that stands in a queue does not time out there."""
        clock, may_go_on, begun = VirtualClock(), threading.Event(), list[int]()

        @step
        def block(n: int) -> int:
            begun.append(n)
            may_go_on.wait()
            return n

        @step(timeout=10)
        def quick(n: int) -> int:
            return n

        pipeline = map_each(branch(lambda n: n < 32, {True: block, False: quick}))
        run = asyncio.create_task(Flujo(pipeline, clock=clock).run(list(range(33))))
        await until(lambda: len(begun) == 32)
        clock.advance(60)
        may_go_on.set()
        assert (await run).output == list(range(33))


class TestFallback:
    """``fallback`` of a step."""

    async def test_it_gets_the_same_input_when_attempts_are_out(self, backend: StateBackend) -> None:
        @step
        async def estimate(n: int, ctx: StepContext) -> str:
            return f"about {n}, {ctx.step_key}"

        @step(fallback=estimate, retry=Retry(max_attempts=2, base=0))
        async def measure(n: int) -> str:
            raise ConnectionError("down")

        @step
        async def shout(text: str) -> str:
            return text.upper()

        result = await Flujo(measure >> shout, state_backend=backend).run(7, run_id="r")
        assert result.output == "ABOUT 7, MEASURE/FALLBACK"
        assert [(record.key, record.status.value, record.attempts, record.input) for record in result.steps] == [
            ("measure", "FAILED", 2, 7),
            ("measure/fallback", "SUCCEEDED", 1, 7),
            ("shout", "SUCCEEDED", 1, "about 7, measure/fallback"),
        ]
        assert (await Flujo(measure >> shout, state_backend=backend).state("r")).current_step_index == 2

    async def test_what_is_not_worth_another_attempt_goes_to_the_fallback_at_once(self) -> None:
        @step
        async def constant() -> int:
            return 0

        @step(fallback=constant, retry=Retry(max_attempts=9, base=60, give_up_on=ValueError))
        async def broken(n: int) -> int:
            raise ValueError

        assert (await Flujo(broken).run(1)).output == 0

    async def test_it_has_options_of_its_own(self) -> None:
        """Attempts, and a fallback again."""
        attempts: list[str] = []

        @step
        async def last(n: int) -> int:
            return -n

        @step(retry=Retry(max_attempts=3, base=0), fallback=last)
        async def second(n: int, ctx: StepContext) -> int:
            attempts.append(ctx.step_key)
            raise ValueError

        @step(fallback=second)
        async def first(n: int) -> int:
            raise ValueError

        assert (await Flujo(first).run(1)).output == -1
        assert attempts == ["first/fallback"] * 3

    async def test_its_own_error_has_nothing_of_the_runtime_behind_it(self) -> None:
        """In a traceback that would stand as what was being handled."""

        @step
        async def last(n: int) -> int:
            raise KeyError("last")

        @step(fallback=last)
        async def first(n: int) -> int:
            raise ValueError("first")

        flujo = Flujo(first)
        for _ in ("live", "recorded"):
            with pytest.raises(RunFailed) as caught:
                await flujo.run(1, run_id="r")
            error = caught.value.__cause__
            assert isinstance(error, KeyError)
            assert (error.__cause__, error.__context__) == (None, None)

    async def test_a_restart_goes_on_in_the_fallback(self, store: Store) -> None:
        """The step that failed is not tried again."""
        executed: list[str] = []
        reached, may_end = asyncio.Event(), asyncio.Event()

        @step
        async def slow(n: int) -> int:
            executed.append("slow")
            reached.set()
            await may_end.wait()
            return -n

        @step(fallback=slow)
        async def broken(n: int) -> int:
            executed.append("broken")
            raise ValueError

        run = asyncio.create_task(Flujo(broken, state_backend=store.open()).run(1, run_id="r"))
        await reached.wait()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        may_end.set()
        assert (await Flujo(broken, state_backend=store.open()).run(run_id="r")).output == -1
        assert executed == ["broken", "slow", "slow"]

    async def test_the_run_fails_with_the_error_of_a_fallback_that_fails(self) -> None:
        @step
        async def worse(n: int) -> int:
            raise KeyError("worse")

        @step(fallback=worse)
        async def bad(n: int) -> int:
            raise ValueError("bad")

        with pytest.raises(RunFailed) as caught:
            await Flujo(bad).run(1)
        assert isinstance(caught.value.__cause__, KeyError)
        assert [record.error for record in caught.value.result.steps] == ["ValueError: bad", "KeyError: 'worse'"]


async def test_a_waiting_step_is_recorded_from_its_first_attempt_on() -> None:
    clock = VirtualClock()
    began = clock.now()

    @step(retry=EVERY_TEN)
    async def broken(n: int) -> int:
        raise ValueError

    async with Flujo(broken, clock=clock) as flujo:
        handle = await flujo.start(1)
        await clock.until_asleep()
        clock.advance(10)
        [record] = await handle.steps()
        while record.attempts < 2:
            await asyncio.sleep(0.001)
            [record] = await handle.steps()
        assert (record.started_at, record.error) == (began, "ValueError")
