"""What a run had in memory is free when nobody holds it any more, and no collection of garbage has to look for it."""

import gc
import weakref

import pytest

from flujo_async import Flujo, RunContext, StepContext, parallel, step, workflow
from flujo_async._plan.pipeline import Chain

RUNS = 20


@step
async def more(number: int) -> int:
    return number + 1


@step
async def note(number: int, ctx: StepContext) -> int:
    ctx.state["number"] = number
    ctx.emit(number)
    return number


@workflow
async def twice(number: int, ctx: RunContext) -> int:
    ctx.state["number"] = await more(number)
    return await more(number)


PIPELINES = {
    "a sequence": more >> note,
    "a combinator": more >> parallel(more, note),
    "a workflow": twice,
    "a part that is a workflow": more >> twice >> more,
}


@pytest.mark.parametrize("definition", PIPELINES.values(), ids=PIPELINES)
@pytest.mark.usefixtures("uncollected")
async def test_a_run_that_is_over_leaves_no_circles_of_references(definition: Chain[int, object]) -> None:
    flujo = Flujo(definition, pipeline_name="circles")
    await flujo.run(0)
    left = RUNS
    for _ in range(5):  # a thread of another test's may end meanwhile, and leave what it had, but not each time
        gc.collect()
        for number in range(RUNS):
            await flujo.run(number)
        left = min(left, gc.collect())
    assert left < RUNS


async def test_definitions_that_are_made_in_a_run_go_with_it() -> None:
    """A runtime that lives long does not keep the pipelines and steps that its workflows make each time."""
    made: list[weakref.ref[object]] = []

    @workflow
    async def code(number: int, ctx: RunContext) -> int:
        pipeline = more >> note

        @step
        async def add(x: int) -> int:
            return x + number

        made.extend(map(weakref.ref, (pipeline, add)))
        return await add(await ctx.child(pipeline, number))

    flujo = Flujo(code)
    for number in range(RUNS):
        await flujo.run(number)
    gc.collect()
    assert sum(each() is not None for each in made) <= 4  # the child that is known by its name, and what is left of one
