"""The context of a workflow after a crash: what its code changed beside its steps, and what they changed."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeAlias

import pytest
from pydantic import BaseModel

from flujo_async import Flujo, RunContext, StepContext, parallel, step, workflow
from flujo_async.abc import StateBackend
from flujo_async.reducers import add, append
from flujo_async.testing import CrashExplorer


class Account(BaseModel):
    total: Annotated[int, add] = 0
    lines: Annotated[list[str], append] = []
    last: str = ""
    owner: str = ""


Body: TypeAlias = Callable[[RunContext], Awaitable[Any]]


@step
async def book(amount: int, ctx: StepContext) -> int:
    ctx.state.total += amount
    ctx.state.lines.append(f"step {amount}")
    return amount


@step
async def name(owner: str, ctx: StepContext) -> str:
    ctx.state.owner = owner
    return owner


async def beside_a_step(ctx: RunContext) -> None:
    async def note() -> None:
        ctx.state.total += 10
        ctx.state.lines.append("code")

    await asyncio.gather(book(1), note())


async def beside_a_step_and_recorded_with_the_next(ctx: RunContext) -> None:
    async def note() -> None:
        ctx.state.total += 10
        ctx.state.lines.append("code")
        await book(100)

    await asyncio.gather(book(1), note())
    ctx.state.last = "end"


async def again_and_again(ctx: RunContext) -> None:
    async def note(n: int) -> None:
        for turn in range(3):
            ctx.state.total += n
            await book(100 * n)
            ctx.state.lines.append(f"code {n} {turn}")

    await asyncio.gather(note(1), book(7), note(2), book(8))
    ctx.state.lines = sorted(ctx.state.lines)  # after a crash the rest may come in another order
    await book(9)


async def after_it_has_waited(ctx: RunContext) -> None:
    await asyncio.gather(name("me"), book(1))
    ctx.state.last += ctx.state.owner
    ctx.random()
    await book(2)
    ctx.state.last += "!"
    ctx.state.lines.insert(0, "first")


async def in_tasks_that_are_left_behind(ctx: RunContext) -> None:
    left = asyncio.create_task(book(5))
    ctx.state.last = "before"
    await book(1)
    ctx.state.last = "after"
    await asyncio.wait({left})


BODIES = [
    beside_a_step,
    beside_a_step_and_recorded_with_the_next,
    again_and_again,
    after_it_has_waited,
    in_tasks_that_are_left_behind,
]


def alone(flow: Any) -> Any:
    return flow


def in_a_pipeline(flow: Any) -> Any:
    return book >> flow >> book


def in_branches(flow: Any) -> Any:
    @workflow(name="other")
    async def other(n: int, ctx: RunContext) -> int:
        ctx.state.total += 1000
        return await book(n)

    return book >> parallel(flow, other)


@pytest.mark.parametrize("place", [alone, in_a_pipeline, in_branches])
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("durability", ["sync", "exit"])
async def test_a_crash_changes_nothing_of_it(place: Callable[[Any], Any], body: Body, durability: Any) -> None:
    """Whatever was recorded by then, and in whatever order the code comes to it again."""

    @workflow(name="flow")
    async def flow(n: int, ctx: RunContext) -> int:
        await body(ctx)
        return n

    explorer = CrashExplorer(place(flow), 3, context_type=Account, durability=durability, depth=2, max_worlds=20)
    await explorer.check()


async def while_a_step_ends(ctx: RunContext) -> int:
    async def look() -> int:
        await book(10)
        return await book(20 if ctx.state.total > 10 else 30)

    chosen, *_ = await asyncio.gather(look(), book(1), book(2))
    return chosen


async def after_a_step_was_cancelled(ctx: RunContext) -> int:
    await book(0)
    loser = asyncio.create_task(book(1))
    await book(10)
    loser.cancel()  # it has ended at the same instant
    await asyncio.wait({loser})
    return await book(20 if ctx.state.total > 10 else 30)


async def what_was_changed_meanwhile(ctx: RunContext) -> int:
    async def note() -> int:
        await book(10)
        ctx.state.total += 100
        ctx.state.lines.append("code")
        ctx.state.last = "code"
        return await book(ctx.state.total)

    noted, *_ = await asyncio.gather(note(), book(1), name("me"), book(2))
    return noted


@pytest.mark.parametrize("body", [while_a_step_ends, after_a_step_was_cancelled, what_was_changed_meanwhile])
async def test_the_code_sees_what_steps_changed_where_it_saw_that_before(
    body: Callable[[RunContext], Awaitable[int]], backend: StateBackend
) -> None:
    """So it chooses again as it did."""

    @workflow(name="flow")
    async def flow(n: int, ctx: RunContext) -> list[Any]:
        return [await body(ctx), ctx.state.total, ctx.state.lines, ctx.state.last, ctx.state.owner]

    flujo = Flujo(flow, state_backend=backend, context_type=Account)
    result = await flujo.run(3, run_id="first")
    *_, last, _ = await flujo.history("first")
    await flujo.fork("first", at=last.seq, new_run_id="again")
    again = await flujo.run(run_id="again")
    assert (again.output, again.context) == (result.output, result.context)
    assert again.output[1:] == [*vars(again.context).values()]
