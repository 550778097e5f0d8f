"""Workflows: ordinary Python whose step calls are recorded."""

import asyncio
from typing import Any

import pytest

from flujo_async import (
    Flujo,
    RunContext,
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
from flujo_async.errors import DefinitionError
from tests.runtime.crashes import crashes, others, ticks
from tests.runtime.executed import EXECUTED
from tests.runtime.stores import mostly_in_memory
from tests.runtime.ways import WAYS, double, with_a_loop, with_gather, with_nested_tasks

ways = pytest.mark.parametrize("way", WAYS, ids=[way.name for way in WAYS])


@ways
async def test_every_way_of_calling_steps_works(backend: StateBackend, way: Any) -> None:
    """Gathered, in groups, in tasks, one after the other."""
    result = await Flujo(way, state_backend=backend).run(3, run_id="r")
    assert result.output == [0, 2, 4]
    assert {record.name for record in result.steps} == {"double"}
    assert len(EXECUTED) == len(result.steps)
    assert others() == set()


@mostly_in_memory
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


@step
async def total(numbers: list[int]) -> int:
    return sum(numbers)


class TestInPipelines:
    """A workflow as an element of a pipeline, and the other way round."""

    @pytest.mark.parametrize(
        ("pipeline", "given", "expected"),
        [
            (double >> with_a_loop >> total, 2, 12),
            (map_each(with_gather), [1, 2], [[0], [0, 2]]),
            (parallel(with_gather, double), 2, {"with_gather": [0, 2], "double": 4}),
            (branch(lambda n: n > 1, {True: with_gather, False: double}), 2, [0, 2]),
            (as_step(with_gather >> step(len, name="count"), name="both"), 3, 3),
            (map_each(with_nested_tasks) >> step(len, name="count"), [1, 2, 3], 3),
        ],
        ids=["sequence", "map_each", "parallel", "branch", "as_step", "nested"],
    )
    @mostly_in_memory
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
            return int(await ctx.child(inner, n) + await ctx.child(double >> double, n))

        flujo = Flujo(flow, state_backend=backend)
        assert (await flujo.run(1, run_id="r")).output == 8
        assert len(await flujo.list_runs(parent_run_id="r")) == 2

    def test_what_is_no_coroutine_function_is_no_workflow(self) -> None:
        """Such as a plain function, a step, or a number."""
        wrong: Any
        for wrong in (lambda: 1, double, 7):
            with pytest.raises(DefinitionError):
                workflow(wrong)
