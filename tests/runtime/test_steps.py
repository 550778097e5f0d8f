"""How one step is executed: threads, attempts, limits, arguments."""

import asyncio
import contextvars
import threading
from datetime import timedelta
from typing import Any

import pytest

from flujo_async import Flujo, Retry, RunResult, Step, StepContext, map_each, step, workflow
from flujo_async.abc import StateBackend
from flujo_async.errors import RunFailed, SerializationError
from flujo_async.testing import VirtualClock
from tests.runtime import process_steps
from tests.runtime.stores import Store, on_disk

NO_JITTER = Retry(max_attempts=4, base=10, factor=3, cap=60, jitter=0)


async def test_plain_functions_run_in_threads() -> None:
    """And coroutine functions on the loop."""

    @step
    def sync(_: Any) -> str:
        return threading.current_thread().name

    @step
    async def on_loop(_: Any) -> str:
        return threading.current_thread().name

    here = threading.current_thread().name
    assert (await Flujo(sync).run(1)).output != here
    assert (await Flujo(on_loop).run(1)).output == here


async def test_a_plain_function_may_run_on_the_loop() -> None:
    """``run_in="loop"`` saves the thread."""

    @step(run_in="loop")
    def quick(n: int) -> tuple[int, str]:
        return n, threading.current_thread().name

    assert (await Flujo(quick).run(1)).output == (1, threading.current_thread().name)


async def test_the_hosts_executor_is_left_alone() -> None:
    """Threads are the runtime's own: a thousand sync steps do not stand in the host's queue."""
    loop = asyncio.get_running_loop()
    before, threads = getattr(loop, "_default_executor", None), threading.active_count()

    @step
    def sync(n: int) -> int:
        return n

    await Flujo(map_each(sync)).run(list(range(200)))
    assert getattr(loop, "_default_executor", None) is before
    assert threading.active_count() - threads <= 32


async def test_context_variables_reach_the_thread() -> None:
    """As with ``asyncio.to_thread``."""
    who = contextvars.ContextVar("who", default="nobody")

    @step
    def greet(_: Any) -> str:
        return who.get()

    who.set("Ada")
    assert (await Flujo(greet).run(1)).output == "Ada"


async def test_a_step_without_parameters_ignores_its_input() -> None:
    """It can stand anywhere, and first without an input."""

    @step
    async def constant() -> int:
        return 42

    @step
    async def only_context(ctx: StepContext) -> str:
        return ctx.step_name

    assert (await Flujo(constant).run()).output == 42
    assert (await Flujo(constant >> only_context).run("ignored")).output == "only_context"


async def test_runs_do_not_share_idempotency_keys() -> None:
    """Equal steps of two runs are two effects."""

    @step
    async def look(n: int, ctx: StepContext) -> str:
        return ctx.idempotency_key

    flujo = Flujo(look)
    assert (await flujo.run(0, run_id="one")).output != (await flujo.run(0, run_id="two")).output


async def test_a_step_learns_where_it_is() -> None:
    """``StepContext`` names run, step, key, attempt; the idempotency key is the same in every attempt."""
    seen: list[tuple[Any, ...]] = []

    @step(retry=Retry(max_attempts=2, base=0))
    async def look(n: int, ctx: StepContext) -> int:
        seen.append((ctx.run_id, ctx.step_name, ctx.step_key, ctx.attempt, ctx.idempotency_key))
        if ctx.attempt == 1:
            raise ValueError
        return n

    await Flujo(map_each(look, max_concurrency=1)).run([0, 1], run_id="r")
    assert [place[:4] for place in seen] == [
        ("r", "look", "map_each/0/look", 1),
        ("r", "look", "map_each/0/look", 2),
        ("r", "look", "map_each/1/look", 1),
        ("r", "look", "map_each/1/look", 2),
    ]
    keys = [place[4] for place in seen]
    assert keys[0] == keys[1] != keys[2] == keys[3]


class TestRetry:
    """``Retry`` and its durable counter."""

    async def test_attempts_are_counted_and_spaced(self) -> None:
        """Backoff by the clock: 10 s, 30 s, then the cap of 60 s."""
        clock, times = VirtualClock(), list[float]()
        began = clock.now()

        @step(retry=NO_JITTER)
        async def flaky(n: int, ctx: StepContext) -> int:
            times.append((clock.now() - began).total_seconds())
            if ctx.attempt < 4:
                raise ConnectionError("down")
            return ctx.attempt

        run = asyncio.create_task(Flujo(flaky, clock=clock).run(1))
        for wait in (10, 30, 60):
            await clock.until_asleep()
            clock.advance(wait - 0.001)
            assert clock.sleepers == 1, "woke too early"
            clock.advance(0.001)
        result = await run
        assert times == [0, 10, 40, 100]
        assert (result.output, result.steps[0].attempts) == (4, 4)

    async def test_out_of_attempts_the_run_fails_with_the_last_error(self) -> None:
        """The error of the last attempt is the cause."""

        @step(retry=Retry(max_attempts=3, base=0))
        async def broken(n: int, ctx: StepContext) -> int:
            raise ValueError(f"attempt {ctx.attempt}")

        with pytest.raises(RunFailed) as caught:
            await Flujo(broken).run(1)
        assert str(caught.value.__cause__) == "attempt 3"
        assert caught.value.result.steps[0].attempts == 3

    @pytest.mark.parametrize(
        ("error", "attempts"), [(KeyError("k"), 1), (LookupError("l"), 3), (IndexError("i"), 3), (OSError("o"), 1)]
    )
    async def test_what_is_worth_retrying_can_be_told(self, error: Exception, attempts: int) -> None:
        """``give_up_on`` wins over ``retry_on``; what is in neither is not retried."""
        tries: list[int] = []

        @step(retry=Retry(max_attempts=3, base=0, retry_on=(LookupError,), give_up_on=(KeyError,)))
        async def broken(n: int, ctx: StepContext) -> int:
            tries.append(ctx.attempt)
            raise error

        with pytest.raises(RunFailed):
            await Flujo(broken).run(1)
        assert len(tries) == attempts

    async def test_what_cannot_be_stored_is_not_tried_again(self) -> None:
        """The next output would be no better; the error tells the path of the field."""
        tries: list[int] = []

        @step(retry=Retry(max_attempts=5, base=0))
        async def leak(n: int) -> Any:
            tries.append(n)
            return {"items": [1, threading.Lock()]}

        with pytest.raises(RunFailed) as caught:
            await Flujo(leak).run(1)
        assert len(tries) == 1
        assert isinstance(caught.value.__cause__, SerializationError)
        assert "items" in str(caught.value.__cause__)

    async def test_the_counter_survives_an_interruption(self, store: Store) -> None:
        """Two attempts before, two after: four in all, and the time of the next one is kept."""
        clock, attempts = VirtualClock(), list[int]()

        @step(retry=NO_JITTER)
        async def broken(n: int, ctx: StepContext) -> int:
            attempts.append(ctx.attempt)
            raise ValueError(ctx.attempt)

        first = asyncio.create_task(Flujo(broken, state_backend=store.open(), clock=clock).run(1, run_id="r"))
        await clock.until_asleep()
        clock.advance(10)
        await clock.until_asleep()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert attempts == [1, 2]

        clock.advance(29)
        second = asyncio.create_task(Flujo(broken, state_backend=store.open(), clock=clock).run(run_id="r"))
        await clock.until_asleep()
        assert attempts == [1, 2], "the third attempt is not due yet"
        clock.advance(1)
        await clock.until_asleep()
        clock.advance(60)
        with pytest.raises(RunFailed):
            await second
        assert attempts == [1, 2, 3, 4]

    async def test_a_waiting_step_is_seen_as_running(self) -> None:
        """Its record tells the attempts so far and the last error."""
        clock = VirtualClock()

        @step(retry=NO_JITTER)
        async def broken(n: int) -> int:
            raise ValueError("not yet")

        async with Flujo(broken, clock=clock) as flujo:
            handle = await flujo.start(1)
            await clock.until_asleep()
            [record] = await handle.steps()
            assert (record.status.value, record.attempts, record.error) == ("RUNNING", 1, "ValueError: not yet")
            assert await handle.status() == "running"


class TestTimeout:
    """``timeout`` of a step."""

    async def test_an_attempt_that_takes_too_long_fails(self) -> None:
        """The step is cancelled, and the error says which step and how long."""
        fate: list[str] = []

        @step(timeout=timedelta(milliseconds=10))
        async def slow(n: int) -> int:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                fate.append("cancelled")
                raise
            return n

        with pytest.raises(RunFailed) as caught:
            await Flujo(slow).run(1)
        assert isinstance(caught.value.__cause__, TimeoutError)
        assert "slow" in str(caught.value.__cause__)
        assert fate == ["cancelled"]

    async def test_a_timed_out_attempt_is_retried(self) -> None:
        """A timeout is a failure like any other."""

        @step(timeout=0.01, retry=Retry(max_attempts=2, base=0))
        async def slow_at_first(n: int, ctx: StepContext) -> int:
            if ctx.attempt == 1:
                await asyncio.Event().wait()
            return ctx.attempt

        assert (await Flujo(slow_at_first).run(1)).output == 2

    async def test_a_timeout_of_the_steps_own_is_its_own(self) -> None:
        """The scope, not the type of the exception, says that time ran out."""

        @step(timeout=60)
        async def own(n: int) -> int:
            raise TimeoutError("my own")

        with pytest.raises(RunFailed) as caught:
            await Flujo(own).run(1)
        assert str(caught.value.__cause__) == "my own"

    async def test_a_thread_that_takes_too_long_is_abandoned(self) -> None:
        """The run goes on without it."""
        go_on = threading.Event()

        @step(timeout=0.01)
        def stuck(n: int) -> int:
            go_on.wait()
            return n

        try:
            with pytest.raises(RunFailed) as caught:
                await Flujo(stuck).run(1)
        finally:
            go_on.set()
        assert isinstance(caught.value.__cause__, TimeoutError)


class TestErrors:
    """What a step may raise."""

    async def test_the_steps_exception_is_the_cause(self) -> None:
        """The very object, where it is at hand; a second ``run`` raises an equal one."""
        error = ValueError("bad", 7)

        @step
        async def broken(n: int) -> int:
            raise error

        flujo = Flujo(broken)
        with pytest.raises(RunFailed) as caught:
            await flujo.run(1, run_id="r")
        assert caught.value.__cause__ is error
        assert caught.value.result.error is error
        with pytest.raises(RunFailed) as again:
            await flujo.run(1, run_id="r")
        assert type(again.value.__cause__) is ValueError
        assert again.value.__cause__.args == ("bad", 7)

    @on_disk
    async def test_an_exception_class_of_ones_own_comes_back(self, store: Store) -> None:
        """Its class is reachable from the step's module."""
        with pytest.raises(RunFailed):
            await Flujo(overdraw, state_backend=store.open()).run(5, run_id="r")
        with pytest.raises(RunFailed) as caught:
            await Flujo(overdraw, state_backend=store.open()).run(run_id="r")
        assert isinstance(caught.value.__cause__, Overdrawn)
        assert caught.value.__cause__.args == (5,)

    @pytest.mark.parametrize("run_in", ["loop", "thread"])
    async def test_stop_iteration_is_a_failure_like_any_other(self, run_in: Any) -> None:
        """Python lets no coroutine raise it; it must not end a run in silence, or hang it."""

        @step(run_in=run_in)
        def exhausted(n: int) -> int:
            return next(iter([]))

        with pytest.raises(RunFailed) as caught:
            await Flujo(exhausted).run(1)
        assert isinstance(caught.value.__cause__, RuntimeError)

    async def test_a_group_of_exceptions_is_a_failure(self) -> None:
        """As a TaskGroup inside a step raises it."""

        @step
        async def grouped(n: int) -> int:
            raise ExceptionGroup("two", [ValueError("a"), KeyError("b")])

        flujo = Flujo(grouped)
        for _ in range(2):
            with pytest.raises(RunFailed) as caught:
                await flujo.run(1, run_id="r")
            assert caught.value.__cause__ is not None
            assert "two" in str(caught.value.__cause__)

    async def test_an_exception_that_cannot_be_printed_fails_the_run_too(self) -> None:
        """However broken its ``__str__``."""

        class Unprintable(Exception):
            def __str__(self) -> str:
                raise RuntimeError("no words")

        @step
        async def broken(n: int) -> int:
            raise Unprintable

        flujo = Flujo(broken)
        for _ in range(2):
            with pytest.raises(RunFailed):
                await flujo.run(1, run_id="r")
        assert await flujo.handle("r").status() == "failed"

    async def test_an_exit_is_not_a_failure(self, backend: StateBackend) -> None:
        """``KeyboardInterrupt`` and their like pass through; the run can be resumed."""
        is_first = [True]

        class Stop(BaseException):
            pass

        @step
        async def stop_once(n: int) -> int:
            if is_first:
                is_first.clear()
                raise Stop
            return n

        flujo = Flujo(stop_once, state_backend=backend)
        with pytest.raises(Stop):
            await flujo.run(1, run_id="r")
        assert await flujo.handle("r").status() == "running"
        result: RunResult[int] = await flujo.run(run_id="r")
        assert result.output == 1


class Overdrawn(Exception):
    """The account has not enough."""


@step
async def overdraw(amount: int) -> int:
    raise Overdrawn(amount)


class TestArguments:
    """More than an input: in workflows by the call, in graphs by name."""

    async def test_every_argument_is_recorded_by_its_parameter(self) -> None:
        @step
        async def scale(value: int, factor: int, *rest: int, shift: int = 1, **more: int) -> list[Any]:
            return [value, factor, rest, shift, more]

        @workflow
        async def both(n: int) -> list[Any]:
            return [await scale(n, 2, 3, 4, other=5), await scale(n, factor=2)]

        result = await Flujo(both).run(7)
        assert result.output == [[7, 2, (3, 4), 1, {"other": 5}], [7, 2, (), 1, {}]]
        assert [record.input for record in result.steps] == [
            {"value": 7, "factor": 2, "other": 5, "*": [3, 4]},
            {"value": 7, "factor": 2},
        ]

    async def test_what_is_injected_stands_where_it_is_declared(self) -> None:
        @step
        async def place(ctx: StepContext, value: int, *rest: int) -> list[Any]:
            return [ctx.step_name, value, rest]

        @workflow
        async def both(n: int) -> list[Any]:
            return [await place(n), await place(n, 2, 3)]

        assert (await Flujo(both).run(1)).output == [["place", 1, ()], ["place", 1, (2, 3)]]

    async def test_an_argument_that_is_left_out_keeps_its_default(self) -> None:
        """The first one as well, which takes the input in a pipeline."""

        @step
        async def scale(value: int = 5, factor: int = 2) -> int:
            return value * factor

        @workflow
        async def thrice(n: int) -> list[int]:
            return [await scale(), await scale(factor=3), await scale(n)]

        assert (await Flujo(thrice).run(7)).output == [10, 15, 14]
        assert (await Flujo(scale).run(7)).output == 14

    async def test_each_attempt_gets_copies(self) -> None:
        @step(retry=Retry(max_attempts=2, base=0))
        async def spoil(first: list[int], second: list[int], ctx: StepContext) -> list[list[int]]:
            first.append(0)
            second.append(0)
            if ctx.attempt == 1:
                raise ValueError
            return [first, second]

        @workflow
        async def twice(items: list[int]) -> list[list[int]]:
            return await spoil(items, items)

        assert (await Flujo(twice).run([1])).output == [[1, 0], [1, 0]]

    async def test_a_fallback_gets_the_arguments_that_it_has_parameters_for(self) -> None:
        """The input as its own, whatever that is called."""

        @step
        async def estimate(number: int, factor: int) -> list[int]:
            return [number, factor]

        @step(fallback=estimate)
        async def measure(value: int, factor: int, precision: int) -> list[int]:
            raise ValueError

        @workflow
        async def careful(n: int) -> list[int]:
            return await measure(n, precision=3, factor=2)

        assert (await Flujo(careful).run(7)).output == [7, 2]

    async def test_every_argument_reaches_a_process(self) -> None:
        made: Step[Any, Any] = step(process_steps.plain, run_in="process")

        @workflow
        async def elsewhere(n: int) -> list[int]:
            return [await made(n), await made(n, factor=2), await made(n, 2, 5)]

        async with Flujo(elsewhere) as flujo:
            assert (await flujo.run(7)).output == [21, 14, 19]
