"""Workflows: ordinary Python whose step calls are recorded."""

import asyncio
import functools
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import anyio
import pytest

from flujo_async import (
    Flujo,
    Retry,
    RunContext,
    StepContext,
    as_step,
    branch,
    child,
    loop,
    map_each,
    parallel,
    step,
    workflow,
)
from flujo_async.abc import StateBackend
from flujo_async.backends.memory import InMemoryBackend
from flujo_async.errors import ContextConflict, DefinitionError, RecordedError, RunFailed, SerializationError
from flujo_async.reducers import add, append
from tests.runtime.crashes import crashes, others, ticks

EXECUTED: list[Any] = []


@pytest.fixture(autouse=True)
def executed() -> list[Any]:
    EXECUTED.clear()
    return EXECUTED


@step
async def double(n: int) -> int:
    EXECUTED.append(("double", n))
    await asyncio.sleep(0)
    return n * 2


@step
async def broken(n: int) -> int:
    EXECUTED.append(("broken", n))
    raise ValueError(f"broken {n}") from KeyError("the cause")


@step
async def again(n: int) -> int:
    """One more execution of the same arguments gives another result."""
    EXECUTED.append(("again", n))
    await asyncio.sleep(0)
    return n * 100 + len(EXECUTED)


@workflow
async def with_gather(n: int) -> list[int]:
    return list(await asyncio.gather(*(double(i) for i in range(n))))


@workflow
async def with_task_group(n: int) -> list[int]:
    async with asyncio.TaskGroup() as tasks:
        made = [tasks.create_task(double(i)) for i in range(n)]
    return [task.result() for task in made]


@workflow
async def with_create_task(n: int) -> list[int]:
    made = [asyncio.create_task(double(i)) for i in range(n)]
    return [await task for task in reversed(made)][::-1]


@workflow
async def with_wait_for_all(n: int) -> list[int]:
    made = [asyncio.create_task(double(i)) for i in range(n)]
    done, pending = await asyncio.wait(made)
    assert done == set(made)
    assert not pending
    return [task.result() for task in made]


@workflow
async def with_wait_for_each(n: int) -> list[int]:
    results = list[int]()
    pending = {asyncio.create_task(double(i)) for i in range(n)}
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        results += [task.result() for task in done]
    return sorted(results)


@workflow
async def with_as_completed(n: int) -> list[int]:
    return sorted([await each for each in asyncio.as_completed([double(i) for i in range(n)])])


@workflow
async def with_anyio(n: int) -> list[int]:
    results: dict[int, int] = {}

    async def one(i: int) -> None:
        results[i] = await double(i)

    async with anyio.create_task_group() as tasks:
        for i in range(n):
            tasks.start_soon(one, i)
    return [results[i] for i in range(n)]


@workflow
async def with_a_loop(n: int) -> list[int]:
    return [await double(i) for i in range(n)]


@workflow
async def with_nested_tasks(n: int) -> list[int]:
    async def both(i: int) -> int:
        one, other = await asyncio.gather(double(i), double(i))
        assert one == other
        return one

    return list(await asyncio.gather(*(both(i) for i in range(n))))


WAYS = [
    with_gather,
    with_task_group,
    with_create_task,
    with_wait_for_all,
    with_wait_for_each,
    with_as_completed,
    with_anyio,
    with_a_loop,
    with_nested_tasks,
]
ways = pytest.mark.parametrize("way", WAYS, ids=[way.name for way in WAYS])


@ways
async def test_every_way_of_calling_steps_works(backend: StateBackend, way: Any) -> None:
    """Gathered, in groups, in tasks, one after the other."""
    result = await Flujo(way, state_backend=backend).run(3, run_id="r")
    assert result.output == [0, 2, 4]
    assert {record.name for record in result.steps} == {"double"}
    assert len(EXECUTED) == len(result.steps)
    assert others() == set()


@ways
async def test_what_was_done_is_not_done_again(backend: StateBackend, way: Any) -> None:
    """Killed at every commit and resumed: the same result, and no step that was acknowledged runs twice."""

    async def attempt(store: StateBackend, run_id: str) -> None:
        EXECUTED.clear()
        await Flujo(way, state_backend=store).run(3, run_id=run_id)

    async for run_id in crashes(backend, attempt):
        flujo = Flujo(way, state_backend=backend)
        done = len(await flujo.steps(run_id))
        EXECUTED.clear()
        result = await flujo.run(run_id=run_id)
        assert result.output == [0, 2, 4]
        assert len(EXECUTED) == len(result.steps) - done
        assert others() == set()


@ways
async def test_interrupted_at_every_tick_a_workflow_leaves_nothing_behind(way: Any) -> None:
    """No task, no lease; and it can be resumed."""
    for number in range(1, 1000):
        flujo = Flujo(way)
        task = asyncio.create_task(flujo.run(3, run_id="r"))
        await ticks(number)
        if task.done():
            break
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert others() == set()
        for summary in await flujo.list_runs():
            assert summary.lease is None
        assert (await flujo.run(3, run_id="r")).output == [0, 2, 4]
        assert others() == set()
    assert number > 5


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
            await double()  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]

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
            return await replaced(n) + await double(n)

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


class TestTimeouts:
    """``asyncio.timeout`` around calls."""

    async def test_a_step_in_time_is_not_disturbed(self) -> None:
        """The scope is asyncio's."""

        @workflow
        async def flow(n: int) -> int:
            async with asyncio.timeout(10):
                return await double(n)

        assert (await Flujo(flow).run(2)).output == 4

    async def test_a_step_that_is_late_is_cancelled(self, backend: StateBackend) -> None:
        """The code goes on with ``TimeoutError``; so it does after a crash."""
        fates = list[str]()

        @step
        async def slow(n: int) -> int:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                fates.append("cancelled")
                raise
            return n

        @workflow
        async def flow(n: int) -> int:
            try:
                async with asyncio.timeout(0.01):
                    return await slow(n)
            except TimeoutError:
                return await double(n) + await double(n)

        async def attempt(store: StateBackend, run_id: str) -> None:
            await Flujo(flow, state_backend=store).run(3, run_id=run_id)

        flujo = Flujo(flow, state_backend=backend)
        assert (await flujo.run(3)).output == 12
        assert fates == ["cancelled"]
        async for run_id in crashes(backend, attempt):
            assert (await flujo.run(run_id=run_id)).output == 12

    async def test_the_loser_of_a_race_may_be_cancelled(self, backend: StateBackend) -> None:
        """What the code cancels is not asked for after a crash either."""

        @step
        async def slow(n: int) -> int:
            await asyncio.Event().wait()
            return n

        @workflow
        async def flow(n: int) -> int:
            racers = [asyncio.create_task(slow(n)), asyncio.create_task(double(n))]
            done, pending = await asyncio.wait(racers, return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
            return await double(done.pop().result())

        async def attempt(store: StateBackend, run_id: str) -> None:
            await Flujo(flow, state_backend=store).run(3, run_id=run_id)

        async for run_id in crashes(backend, attempt):
            async with asyncio.timeout(5):
                assert (await Flujo(flow, state_backend=backend).run(run_id=run_id)).output == 12
        assert others() == set()


class TestLeftBehind:
    """Tasks that the code does not wait for."""

    async def test_tasks_left_behind_are_ended(self, backend: StateBackend) -> None:
        """Before the run is over."""
        is_cancelled = asyncio.Event()

        @step
        async def forever() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                is_cancelled.set()

        made = list[Any]()

        @workflow
        async def flow(n: int) -> int:
            made.append(asyncio.create_task(forever()))
            return await double(n)

        flujo = Flujo(flow, state_backend=backend)
        assert (await flujo.run(1, run_id="r")).output == 2
        assert is_cancelled.is_set()
        assert others() == set()

    async def test_a_task_that_makes_another_while_it_is_ended_leaves_nothing_either(self) -> None:
        """However deep."""
        made = list[Any]()

        async def hydra(depth: int) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                if depth:
                    made.append(asyncio.create_task(hydra(depth - 1)))

        @workflow
        async def flow(n: int) -> int:
            made.append(asyncio.create_task(hydra(3)))
            return await double(n)

        await Flujo(flow).run(1)
        assert others() == set()

    async def test_they_are_ended_when_the_code_fails(self) -> None:
        """Too."""
        made = list[Any]()

        @workflow
        async def flow(n: int) -> int:
            made.append(asyncio.create_task(asyncio.Event().wait()))
            return await broken(n)

        with pytest.raises(RunFailed):
            await Flujo(flow).run(1)
        assert others() == set()


class TestTaskFactory:
    """The host's own factory."""

    @pytest.mark.parametrize("host", [None, "plain", "eager"])
    async def test_it_makes_the_tasks_and_is_there_afterwards(self, host: str | None) -> None:
        """Ours only labels."""
        if host == "eager" and sys.version_info < (3, 12):
            pytest.skip("eager tasks are new in 3.12")
        made = list[Any]()

        def plain(loop: Any, coroutine: Any, **options: Any) -> Any:
            made.append(coroutine)
            return asyncio.Task(coroutine, loop=loop, **options)

        factory: Any = {None: None, "plain": plain, "eager": getattr(asyncio, "eager_task_factory", None)}[host]
        event_loop = asyncio.get_running_loop()
        event_loop.set_task_factory(factory)
        try:
            for way in WAYS:
                assert (await Flujo(way).run(3)).output == [0, 2, 4]
                assert event_loop.get_task_factory() is factory
                backend = InMemoryBackend()

                async def attempt(store: StateBackend, run_id: str, way: Any = way) -> None:
                    await Flujo(way, state_backend=store).run(3, run_id=run_id)

                async for run_id in crashes(backend, attempt):
                    assert (await Flujo(way, state_backend=backend).run(run_id=run_id)).output == [0, 2, 4]
                    assert event_loop.get_task_factory() is factory
        finally:
            event_loop.set_task_factory(None)
        assert bool(made) == (host == "plain")
        assert others() == set()

    async def test_one_that_the_host_sets_meanwhile_stays(self) -> None:
        """We do not put back what was there before."""
        event_loop = asyncio.get_running_loop()

        def plain(loop: Any, coroutine: Any, **options: Any) -> Any:
            return asyncio.Task(coroutine, loop=loop, **options)

        @step
        async def set_factory() -> None:
            event_loop.set_task_factory(plain)

        @workflow
        async def flow() -> None:
            await set_factory()

        await Flujo(flow).run()
        assert event_loop.get_task_factory() is plain
        event_loop.set_task_factory(None)

    async def test_of_several_runs_the_last_one_takes_it_away(self) -> None:
        """Whichever ends first."""
        gates = [asyncio.Event(), asyncio.Event()]

        @step
        async def wait(n: int) -> int:
            await gates[n].wait()
            return n

        @workflow
        async def flow(n: int) -> int:
            return await wait(n)

        flujo = Flujo(flow)
        tasks = [asyncio.ensure_future(flujo.run(n)) for n in (0, 1)]
        await ticks()
        assert asyncio.get_running_loop().get_task_factory() is not None
        gates[0].set()
        await tasks[0]
        assert asyncio.get_running_loop().get_task_factory() is not None
        gates[1].set()
        await tasks[1]
        assert asyncio.get_running_loop().get_task_factory() is None


class TestInPipelines:
    """A workflow as an element of a pipeline, and the other way round."""

    @pytest.mark.parametrize(
        ("pipeline", "given", "expected"),
        [
            (double >> with_a_loop >> step(sum, name="total"), 2, 12),
            (map_each(with_gather), [1, 2], [[0], [0, 2]]),
            (parallel(with_gather, double), 2, {"with_gather": [0, 2], "double": 4}),
            (branch(lambda n: n > 1, {True: with_gather, False: double}), 2, [0, 2]),
            (as_step(with_gather >> step(len, name="count"), name="both"), 3, 3),
            (map_each(with_nested_tasks) >> step(len, name="count"), [1, 2, 3], 3),
        ],
        ids=["sequence", "map_each", "parallel", "branch", "as_step", "nested"],
    )
    async def test_it_stands_wherever_a_step_can(
        self, backend: StateBackend, pipeline: Any, given: Any, expected: Any
    ) -> None:
        """Killed at every commit."""

        async def attempt(store: StateBackend, run_id: str) -> None:
            await Flujo(pipeline, state_backend=store).run(given, run_id=run_id)

        flujo = Flujo(pipeline, state_backend=backend)
        reference = await flujo.run(given, run_id="reference")
        assert reference.output == expected
        async for run_id in crashes(backend, attempt):
            done = {record.key for record in await flujo.steps(run_id)}
            EXECUTED.clear()
            result = await flujo.run(run_id=run_id)
            assert result.output == expected
            executed = [name for name, _ in EXECUTED]
            new = [record.name for record in result.steps if record.key not in done]
            assert sorted(executed) == sorted(name for name in new if name == "double")
            index = (await flujo.state(run_id)).current_step_index
            assert index == (await flujo.state("reference")).current_step_index

    async def test_a_loop_of_workflows(self, backend: StateBackend) -> None:
        """Each turn is one."""

        @workflow
        async def grow(n: int) -> int:
            return max(await asyncio.gather(double(n), double(n)))

        pipeline = loop(grow, until=lambda n: n > 10, max_iterations=9)
        flujo = Flujo(pipeline, state_backend=backend)
        assert (await flujo.run(1)).output == 16

    async def test_a_pipeline_as_a_child_of_a_workflow(self, backend: StateBackend) -> None:
        """With its own run."""
        inner = child(double >> double, name="inner").body  # type: ignore[attr-defined]

        @workflow
        async def flow(n: int, ctx: RunContext) -> int:
            return await ctx.child(inner, n) + await ctx.child(double >> double, n)

        flujo = Flujo(flow, state_backend=backend)
        assert (await flujo.run(1, run_id="r")).output == 8
        assert len(await flujo.list_runs(parent_run_id="r")) == 2

    def test_a_generator_is_no_workflow(self) -> None:
        """Nor a plain function, nor a step."""
        for wrong in (lambda: 1, double, 7, functools.partial(double.function)):
            if callable(wrong) and isinstance(wrong, functools.partial):
                continue
            with pytest.raises(DefinitionError):
                workflow(wrong)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]


class TestDraws:
    """``now``, ``uuid``, ``random``: the same in every replay."""

    async def test_what_was_drawn_is_drawn_again(self, backend: StateBackend) -> None:
        """Once it is recorded; of its type."""
        seen = list[tuple[Any, ...]]()

        @workflow
        async def flow(n: int, ctx: RunContext) -> list[Any]:
            drawn = [ctx.now(), ctx.uuid(), ctx.random(), ctx.random()]
            seen.append(tuple(drawn))
            await double(n)
            drawn.append(ctx.uuid())
            await double(n)
            return drawn

        async def attempt(store: StateBackend, run_id: str) -> None:
            await Flujo(flow, state_backend=store).run(1, run_id=run_id)

        flujo = Flujo(flow, state_backend=backend)
        first = (await flujo.run(1, run_id="whole")).output
        assert [type(item) for item in first] == [datetime, UUID, float, float, UUID]
        assert first[0].tzinfo is UTC
        assert first[1] != first[4]
        assert first[2] != first[3]
        assert (await flujo.run(run_id="whole")).output == first
        async for run_id in crashes(backend, attempt):
            steps = len(await flujo.steps(run_id))
            before = seen[-1] if steps else None
            result = await flujo.run(run_id=run_id)
            assert before is None or tuple(result.output[:4]) == before

    async def test_tasks_draw_each_their_own(self, backend: StateBackend) -> None:
        """In whatever order they come to it."""

        @workflow
        async def flow(n: int, ctx: RunContext) -> list[Any]:
            async def one(i: int) -> list[Any]:
                drawn = ctx.random()
                await double(i)
                return [i, drawn]

            return list(await asyncio.gather(*(one(i) for i in range(n))))

        async def attempt(store: StateBackend, run_id: str) -> None:
            await Flujo(flow, state_backend=store).run(3, run_id=run_id)

        async for run_id in crashes(backend, attempt):
            flujo = Flujo(flow, state_backend=backend)
            values = [c.fact.value for c in await flujo.history(run_id) if c.fact.kind == "ValueDrawn"]  # type: ignore[union-attr]
            result = await flujo.run(run_id=run_id)
            assert set(values) <= {drawn for _, drawn in result.output}
            assert [i for i, _ in result.output] == [0, 1, 2]

    async def test_an_event_is_emitted_once(self, backend: StateBackend) -> None:
        """However often the code comes by."""

        @workflow
        async def flow(n: int, ctx: RunContext) -> int:
            ctx.emit({"at": 1})
            await double(n)
            ctx.emit({"at": 2})
            ctx.emit({"at": 2})
            return await double(n)

        async def attempt(store: StateBackend, run_id: str) -> None:
            await Flujo(flow, state_backend=store).run(1, run_id=run_id)

        async for run_id in crashes(backend, attempt):
            flujo = Flujo(flow, state_backend=backend)
            await flujo.run(run_id=run_id)
            events = [event.data async for event in flujo.handle(run_id).events() if event.kind == "EventEmitted"]
            assert events == [{"at": 1}, {"at": 2}, {"at": 2}]

    async def test_metadata_can_be_set_and_found(self, backend: StateBackend) -> None:
        """By ``list_runs``, in the state; others that were given stay."""

        @workflow
        async def flow(n: int, ctx: RunContext) -> int:
            ctx.set_metadata(customer="Ada", size={"n": n})
            await double(n)
            ctx.set_metadata(customer="Bob")
            return n

        flujo = Flujo(flow, state_backend=backend)
        await flujo.run(1, run_id="r", metadata={"given": True})
        expected = {"given": True, "customer": "Bob", "size": {"n": 1}}
        [found] = await flujo.list_runs(metadata={"customer": "Bob"})
        assert (found.run_id, found.metadata) == ("r", expected)
        assert await flujo.list_runs(metadata={"customer": "Ada"}) == []
        assert (await flujo.state("r")).metadata == expected

    async def test_metadata_is_plain_json(self) -> None:
        """They are searched."""

        @workflow
        async def flow(ctx: RunContext) -> str:
            with pytest.raises(SerializationError):
                ctx.set_metadata(when=ctx.now())
            return "ok"

        assert (await Flujo(flow).run()).output == "ok"


@dataclass
class Tally:
    items: Annotated[list[str], append] = field(default_factory=list)
    total: Annotated[int, add] = 100
    note: str = ""


@step
async def note_it(text: str, ctx: StepContext) -> str:
    await asyncio.sleep(0)
    ctx.state.note = text
    await asyncio.sleep(0)
    return text


@step
async def put(item: str, ctx: StepContext) -> str:
    ctx.state.items.append(item)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    ctx.state.total += 1
    return item


class TestState:
    """The context of a run, in a workflow and its steps."""

    async def test_the_code_changes_it_between_steps(self, backend: StateBackend) -> None:
        """Steps see it; so does whoever reads the run; at every crash."""

        @step
        async def look(ctx: StepContext) -> tuple[list[str], int]:
            return list(ctx.state.items), ctx.state.total

        @workflow
        async def flow(ctx: RunContext) -> list[Any]:
            ctx.state.items.append("a")
            first = await look()
            ctx.state.total = 7
            await put("b")
            assert ctx.state.items == ["a", "b"]
            second = await look()
            ctx.state.note = "end"
            return [first, second]

        async def attempt(store: StateBackend, run_id: str) -> None:
            await Flujo(flow, state_backend=store, context_type=Tally).run(run_id=run_id)

        expected = [(["a"], 100), (["a", "b"], 8)]
        flujo = Flujo(flow, state_backend=backend, context_type=Tally)
        result = await flujo.run(run_id="whole")
        assert (result.output, result.context) == (expected, Tally(["a", "b"], 8, "end"))
        async for run_id in crashes(backend, attempt):
            result = await flujo.run(run_id=run_id)
            assert (result.output, result.context) == (expected, Tally(["a", "b"], 8, "end"))
            assert (await flujo.state(run_id)).pipeline_context["total"] == 8

    async def test_concurrent_steps_come_together_by_reducers(self, backend: StateBackend) -> None:
        """Each one's difference counts, in any order; at every crash."""

        @workflow
        async def flow(n: int, ctx: RunContext) -> int:
            await asyncio.gather(*(put(str(i)) for i in range(n)))
            return ctx.state.total  # type: ignore[no-any-return]

        async def attempt(store: StateBackend, run_id: str) -> None:
            await Flujo(flow, state_backend=store, context_type=Tally).run(3, run_id=run_id)

        flujo = Flujo(flow, state_backend=backend, context_type=Tally)
        result = await flujo.run(3, run_id="whole")
        assert (result.output, sorted(result.context.items)) == (103, ["0", "1", "2"])
        async for run_id in crashes(backend, attempt):
            result = await flujo.run(run_id=run_id)
            assert (result.output, sorted(result.context.items)) == (103, ["0", "1", "2"])

    async def test_concurrent_steps_that_change_different_fields_do_not_disturb_each_other(self) -> None:
        """Nothing is reverted."""

        @workflow
        async def flow(ctx: RunContext) -> None:
            await asyncio.gather(note_it("x"), put("a"), put("b"))

        result = await Flujo(flow, context_type=Tally).run()
        assert (sorted(result.context.items), result.context.total, result.context.note) == (["a", "b"], 102, "x")

    async def test_a_field_without_a_reducer_is_a_conflict(self) -> None:
        """For whoever comes second."""

        @workflow
        async def flow() -> None:
            await asyncio.gather(note_it("x"), note_it("y"))

        with pytest.raises(RunFailed) as caught:
            await Flujo(flow, context_type=Tally).run()
        assert isinstance(caught.value.__cause__, ContextConflict)

    async def test_branches_in_a_pipeline_have_copies_of_their_own(self, backend: StateBackend) -> None:
        """Merged when they are done, as those of steps are."""

        @workflow
        async def fill(n: int, ctx: RunContext) -> int:
            ctx.state.items.append(f"w{n}")
            await put(f"s{n}")
            ctx.state.total += 10
            return n

        flujo = Flujo(map_each(fill), state_backend=backend, context_type=Tally)

        async def attempt(store: StateBackend, run_id: str) -> None:
            await Flujo(map_each(fill), state_backend=store, context_type=Tally).run([1, 2], run_id=run_id)

        expected = Tally(["w1", "s1", "w2", "s2"], 122, "")
        assert (await flujo.run([1, 2])).context == expected
        async for run_id in crashes(backend, attempt):
            assert (await flujo.run(run_id=run_id)).context == expected

    async def test_a_failed_run_keeps_what_the_code_changed_last(self) -> None:
        """For the inquest."""

        @workflow
        async def flow(n: int, ctx: RunContext) -> int:
            ctx.state.note = "before"
            try:
                return await broken(n)
            finally:
                ctx.state.note = "after"

        flujo = Flujo(flow, context_type=Tally)
        with pytest.raises(RunFailed) as caught:
            await flujo.run(1)
        assert caught.value.result.context.note == "after"


async def test_the_index_is_the_same_with_and_without_a_crash(backend: StateBackend) -> None:
    """It counts what the main line of the code has awaited."""

    @workflow
    async def flow(n: int, ctx: RunContext) -> int:
        await double(n)
        await asyncio.gather(double(n), double(n))
        await ctx.sleep(0)
        return await double(n)

    async def attempt(store: StateBackend, run_id: str) -> None:
        await Flujo(flow, state_backend=store).run(1, run_id=run_id)

    flujo = Flujo(flow, state_backend=backend)
    await flujo.run(1, run_id="whole")
    index = (await flujo.state("whole")).current_step_index
    assert [summary.current_step_index for summary in await flujo.list_runs()] == [index]
    async for run_id in crashes(backend, attempt):
        await flujo.run(run_id=run_id)
        assert (await flujo.state(run_id)).current_step_index == index


async def test_many_workflows_at_once_do_not_disturb_each_other() -> None:
    """On one event loop, of one runtime."""
    flujo = Flujo(with_nested_tasks)
    results = await asyncio.gather(*(flujo.run(n % 4) for n in range(40)))
    assert [result.output for result in results] == [[2 * i for i in range(n % 4)] for n in range(40)]
    assert others() == set()


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
