"""Calling steps in workflows, and what becomes of those that fail."""

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest

from flujo_async import (
    Flujo,
    Retry,
    RunContext,
    StepContext,
    step,
    workflow,
)
from flujo_async.abc import StateBackend
from flujo_async.errors import RecordedError, RunFailed, SerializationError
from tests.runtime.crashes import crashes, others
from tests.runtime.executed import EXECUTED
from tests.runtime.ways import again, broken, double, with_gather


class TestCalls:
    """Calling steps."""

    async def test_a_step_takes_any_arguments_that_its_function_takes(self, backend: StateBackend) -> None:
        """Several, by keyword, left to their defaults, any number."""

        @step
        async def join(first: str, second: str = "two", *rest: str, third: str = "three", **more: int) -> str:
            return " ".join([first, second, *rest, third, *(f"{name}={value}" for name, value in more.items())])

        @workflow
        async def flow() -> list[str]:
            return [
                await join("a"),
                await join("a", "b"),
                await join("a", "b", "c", "d"),
                await join("a", third="z"),
                await join(first="a", second="b"),
                await join("a", x=1, y=2),
            ]

        flujo = Flujo(flow, state_backend=backend)
        expected = [
            "a two three",
            "a b three",
            "a b c d three",
            "a two z",
            "a b three",
            "a two three x=1 y=2",
        ]
        assert (await flujo.run(run_id="r")).output == expected
        assert (await flujo.fork("r", at=4, new_run_id="f")).run_id == "f"
        assert (await flujo.run(run_id="f")).output == expected

    async def test_records_tell_the_arguments(self, backend: StateBackend) -> None:
        """The input of a step with one argument is that argument; of others, all by name."""

        @step
        async def pair(a: int, b: int) -> int:
            return a + b

        @workflow
        async def flow(n: int) -> int:
            return await pair(await double(n), b=3)

        flujo = Flujo(flow, state_backend=backend)
        await flujo.run(1, run_id="r")
        assert [record.input for record in await flujo.steps("r")] == [1, {"a": 2, "b": 3}]

    @pytest.mark.parametrize("args", [(1, 2), (1,)])
    async def test_wrong_arguments_are_a_type_error(self, args: tuple[int, ...]) -> None:
        """As for any function, where it is called; nothing executes."""

        @workflow
        async def flow() -> str:
            with pytest.raises(TypeError):
                await double(*args, **({"n": 5} if len(args) == 1 else {}))
            return "ok"

        assert (await Flujo(flow).run()).output == "ok"
        assert EXECUTED == []

    async def test_a_missing_argument_fails_the_step(self) -> None:
        """With the function's own error."""

        @workflow
        async def flow() -> None:
            await double()  # pyright: ignore[reportCallIssue]

        with pytest.raises(RunFailed) as caught:
            await Flujo(flow).run()
        assert isinstance(caught.value.__cause__, TypeError)

    async def test_plain_functions_are_awaited_like_others(self, backend: StateBackend) -> None:
        """They run in a thread."""

        @step
        def plain(n: int) -> int:
            return n + 1

        @workflow
        async def flow(n: int) -> int:
            return await plain(await plain(n))  # type: ignore[no-any-return, misc]

        assert (await Flujo(flow, state_backend=backend).run(1)).output == 3

    @pytest.mark.parametrize(
        ("call", "name"),
        [
            (lambda ctx: double(1), "double"),
            (lambda ctx: ctx.sleep(1), "RunContext.sleep"),
            (lambda ctx: ctx.wait_for("answer"), "RunContext.wait_for"),
            (lambda ctx: ctx.child(double, 1), "RunContext.child"),
        ],
    )
    async def test_a_call_that_is_not_awaited_is_warned_of_by_its_name(
        self, call: Callable[[RunContext], object], name: str
    ) -> None:
        """As Python does with any coroutine."""

        @workflow
        async def flow(value: None, ctx: RunContext) -> None:
            call(ctx)  # and that is all
            gc.collect()  # where nobody counts references

        with pytest.warns(RuntimeWarning, match=f"coroutine '{name}' was never awaited"):
            await Flujo(flow).run()

    async def test_outside_of_a_run_a_step_is_its_function(self) -> None:
        """And a workflow its coroutine."""
        assert await double(2) == 4
        assert await with_gather(2) == [0, 2]

    async def test_equal_calls_keep_each_its_own_result(self, backend: StateBackend) -> None:
        """``gather(*[sample(p) for _ in range(8)])``, killed at every commit."""

        @workflow
        async def flow(n: int) -> list[int]:
            return list(await asyncio.gather(*(again(7) for _ in range(8))))

        async def attempt(store: StateBackend, run_id: str) -> None:
            await Flujo(flow, state_backend=store).run(0, run_id=run_id)

        async for run_id in crashes(backend, attempt):
            flujo = Flujo(flow, state_backend=backend)
            recorded = {record.key: record.output for record in await flujo.steps(run_id)}
            result = await flujo.run(run_id=run_id)
            after = {record.key: record.output for record in result.steps}
            assert recorded.items() <= after.items()
            assert sorted(result.output) == sorted(after.values())
            assert (await flujo.run(run_id=run_id)).output == result.output

    async def test_a_workflow_without_an_input_ignores_it(self) -> None:
        """As a step does."""

        @workflow
        async def flow(ctx: RunContext) -> str:
            return ctx.run_id

        assert (await Flujo(flow).run(run_id="r")).output == "r"
        assert (await Flujo(flow).run("ignored", run_id="r")).output == "r"

    async def test_a_method_of_the_context_belongs_to_the_workflow(self) -> None:
        """A step has a context of its own."""

        @step
        async def nosy() -> str:
            with pytest.raises(RuntimeError, match="StepContext"):
                given[0].now()
            return "ok"

        given = list[RunContext]()

        @workflow
        async def flow(ctx: RunContext) -> str:
            given.append(ctx)
            return await nosy()

        assert (await Flujo(flow).run()).output == "ok"

    async def test_a_step_called_in_a_step_just_runs(self, backend: StateBackend) -> None:
        """Only what the workflow calls is recorded."""

        @step
        async def outer(n: int) -> int:
            return sum(await asyncio.gather(double(n), double(n)))

        @workflow
        async def flow(n: int) -> int:
            return await outer(n)

        result = await Flujo(flow, state_backend=backend).run(1)
        assert (result.output, [record.name for record in result.steps]) == (4, ["outer"])


class TestFailures:
    """Steps that fail, and code that minds or does not."""

    async def test_a_failure_that_is_caught_is_no_failure_of_the_run(self, backend: StateBackend) -> None:
        """And is not asked for again after a crash."""

        @workflow
        async def flow(n: int) -> str:
            try:
                await broken(n)
            except ValueError as error:
                return f"{error} {await double(n)}"
            return "no"

        async def attempt(store: StateBackend, run_id: str) -> None:
            await Flujo(flow, state_backend=store).run(1, run_id=run_id)

        assert (await Flujo(flow, state_backend=backend).run(1)).output == "broken 1 2"
        async for run_id in crashes(backend, attempt):
            flujo = Flujo(flow, state_backend=backend)
            done = {record.name for record in await flujo.steps(run_id)}
            EXECUTED.clear()
            assert (await flujo.run(run_id=run_id)).output == "broken 1 2"
            assert not done & {name for name, _ in EXECUTED}

    async def test_a_failure_that_is_not_caught_fails_the_run(self, backend: StateBackend) -> None:
        """The step's very exception is the cause, with its own cause."""

        @workflow
        async def flow(n: int) -> int:
            return await broken(n)

        flujo = Flujo(flow, state_backend=backend)
        with pytest.raises(RunFailed) as caught:
            await flujo.run(1, run_id="r")
        cause = caught.value.__cause__
        assert isinstance(cause, ValueError)
        assert isinstance(cause.__cause__, KeyError)
        with pytest.raises(RunFailed, match="broken 1"):
            await flujo.run(1, run_id="r")
        assert len(EXECUTED) == 1

    async def test_code_may_raise_something_of_its_own(self, backend: StateBackend) -> None:
        """That is the cause then."""

        @workflow
        async def flow(n: int) -> int:
            try:
                return await broken(n)
            except ValueError as error:
                raise LookupError("mine") from error

        flujo = Flujo(flow, state_backend=backend)
        with pytest.raises(RunFailed) as caught:
            await flujo.run(1, run_id="r")
        assert isinstance(caught.value.__cause__, LookupError)
        assert isinstance(caught.value.__cause__.__cause__, ValueError)

    async def test_a_failing_member_of_a_task_group_cancels_the_others(self, backend: StateBackend) -> None:
        """The group is the cause, as always; nothing is left behind."""
        is_cancelled = asyncio.Event()

        @step
        async def forever(n: int) -> int:
            try:
                await asyncio.Event().wait()
            finally:
                is_cancelled.set()
            return n

        @workflow
        async def flow(n: int) -> None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(forever(n))
                tasks.create_task(broken(n))

        with pytest.raises(RunFailed) as caught:
            await Flujo(flow, state_backend=backend).run(1)
        assert isinstance(caught.value.__cause__, ExceptionGroup)
        assert is_cancelled.is_set()
        assert others() == set()

    async def test_a_retried_step_is_one_call(self, backend: StateBackend) -> None:
        """The code sees the result only."""

        @step(retry=Retry(max_attempts=3, base=0))
        async def flaky(n: int, ctx: StepContext) -> int:
            if ctx.attempt < 3:
                raise ValueError
            return n

        @workflow
        async def flow(n: int) -> int:
            return await flaky(n)

        result = await Flujo(flow, state_backend=backend).run(5)
        assert (result.output, result.steps[0].attempts) == (5, 3)

    async def test_a_fallback_stands_in(self, backend: StateBackend) -> None:
        """Also after a crash, at every commit."""
        replaced = step(name="replaced", fallback=double)(broken.function)

        @workflow
        async def flow(n: int) -> int:
            return int(await replaced(n) + await double(n))

        async def attempt(store: StateBackend, run_id: str) -> None:
            await Flujo(flow, state_backend=store).run(4, run_id=run_id)

        async for run_id in crashes(backend, attempt):
            assert (await Flujo(flow, state_backend=backend).run(run_id=run_id)).output == 16

    async def test_an_output_that_cannot_be_stored_fails_the_run(self) -> None:
        """With the place in the error."""

        @workflow
        async def flow() -> Any:
            return {"it": object()}

        with pytest.raises(RunFailed) as caught:
            await Flujo(flow).run()
        assert isinstance(caught.value.__cause__, SerializationError)
        assert "flow.output" in str(caught.value.__cause__)

    async def test_a_state_that_cannot_be_stored_fails_the_run(self) -> None:
        """However the code ends."""

        @workflow
        async def flow(n: int, ctx: RunContext) -> int:
            ctx.state["it"] = object()
            return await double(n)

        flujo = Flujo(flow)
        with pytest.raises(RunFailed) as caught:
            await flujo.run(1, run_id="r")
        assert isinstance(caught.value.__cause__, SerializationError)
        assert await flujo.handle("r").status() == "failed"


async def test_an_unknown_exception_of_the_past_is_still_an_exception(backend: StateBackend) -> None:
    """The code gets a ``RecordedError`` in its place, which tells what it was."""

    class Odd(Exception):
        pass

    @step
    async def odd() -> None:
        raise Odd("strange")

    @workflow
    async def flow(n: int) -> str:
        try:
            await odd()
        except Exception as error:
            await double(n)
            return type(error).__name__
        return ""

    async def attempt(store: StateBackend, run_id: str) -> None:
        await Flujo(flow, state_backend=store).run(1, run_id=run_id)

    async for run_id in crashes(backend, attempt):
        output = (await Flujo(flow, state_backend=backend).run(run_id=run_id)).output
        assert output in ("Odd", RecordedError.__name__)
