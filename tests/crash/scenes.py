"""A scene for every construct: a definition with a side effect in each step, and what the world does to its run."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel

from flujo_async import (
    Action,
    Depends,
    Flujo,
    Retry,
    RunContext,
    StepContext,
    Worker,
    any_of,
    as_step,
    child,
    graph,
    parallel,
    sleep,
    step,
    wait_for,
    workflow,
)
from flujo_async.errors import InvalidArgument, RunCancelled, RunFailed
from flujo_async.reducers import add, append
from tests.crash.world import A_WHILE, World

RUN = "r"
FORK = "fork"
WRITES = frozenset({"create_run", "append", "claim", "release", "post"})
"""The verbs that a process may die at."""


class Ledger(BaseModel):
    """The context: what a double execution can be told by."""

    seen: Annotated[list[str], append] = []
    total: Annotated[int, add] = 0
    last: str = ""


@dataclass(frozen=True)
class Scene:
    """One construct.

    Attributes:
        make: makes the definition, for a world.
        live: what is done to the run until it has ended; done again in every life, after a crash as well.
        input: of the run.
        answers: what is answered to waits, by name.
        decision: what is decided on steps that may have their effect only once.
        is_exact: whether the numbers of attempts are those of a run that never crashed.
        is_ordered: whether the order of side effects is always the same.
        is_tried_again: whether what was undone runs again, because somebody asks for it.
    """

    make: Callable[[World], Any]
    live: Callable[["Scene", World, Flujo[Any, Any]], Awaitable[None]]
    input: Any = 1
    answers: Mapping[str, Any] = field(default_factory=dict)
    decision: Literal["retry", "skip"] = "retry"
    is_exact: bool = True
    is_ordered: bool = True
    is_tried_again: bool = False


# --------------------------------------------------------------------------------------------- what the world does


async def answered(scene: Scene, world: World, flujo: Flujo[Any, Any]) -> None:
    """Drive the run, answer what it waits for, and decide, until it has ended."""
    result = await flujo.run(scene.input, run_id=RUN)
    while result.status == "paused":
        for waiting in result.waiting_for:
            if waiting.kind == "decision":
                world.happens("decided")
                await flujo.redrive(RUN, decision=scene.decision, output=3)
            elif waiting.name in scene.answers:
                await flujo.signal(waiting.run_id or RUN, waiting.name, scene.answers[waiting.name])
            else:
                world.clock.advance(A_WHILE)
        result = await flujo.run(run_id=RUN)


async def answered_in_the_background(scene: Scene, world: World, flujo: Flujo[Any, Any]) -> None:
    """Start it, answer early, and wait."""
    handle = await flujo.start(scene.input, run_id=RUN)
    for name, answer in scene.answers.items():
        await handle.signal(name, answer)
    while (await handle.result()).status == "paused":
        await asyncio.sleep(0.001)  # what it waits for comes with time


async def cancelled(scene: Scene, world: World, flujo: Flujo[Any, Any]) -> None:
    """Cancel the run as soon as it holds."""
    task = asyncio.create_task(flujo.run(scene.input, run_id=RUN))
    reached = asyncio.create_task(world.is_reached.wait())
    await asyncio.wait({task, reached}, return_when=asyncio.FIRST_COMPLETED)
    try:
        if not task.done():
            await flujo.cancel(RUN, "enough")
        await task
    finally:
        reached.cancel()
        task.cancel()
        await asyncio.gather(task, reached, return_exceptions=True)


async def tried_again(scene: Scene, world: World, flujo: Flujo[Any, Any]) -> None:
    """Drive the run until it fails, mend what was broken, and try it again."""
    try:
        await flujo.run(scene.input, run_id=RUN)
    except RunFailed:
        world.happens("mended")
        await flujo.redrive(RUN)


async def forked(scene: Scene, world: World, flujo: Flujo[Any, Any]) -> None:
    """Drive the run to its end, and a fork of its middle as well."""
    await flujo.run(scene.input, run_id=RUN)
    has_tried = "forked" in world.happened()
    world.happens("forked")
    try:
        await flujo.fork(RUN, at=3, new_run_id=FORK, context_update={"last": "forked"})
    except InvalidArgument:
        assert has_tried  # in an earlier life, which may not have lived to hear of it
    await flujo.run(run_id=FORK)


async def imported(scene: Scene, world: World, flujo: Flujo[Any, Any]) -> None:
    """Bring along a run that has its answers, and drive it to its end: nobody answers again."""
    async with Flujo(scene.make(world), pipeline_name="scene", context_type=Ledger, clock=world.clock) as source:
        await source.dispatch(scene.input, run_id=RUN)
        for name, answer in scene.answers.items():
            await source.signal(RUN, name, answer)
        data = await source.export_run(RUN)
    has_tried = "imported" in world.happened()
    world.happens("imported")
    try:
        await flujo.import_run(data)
    except InvalidArgument:
        assert has_tried  # in an earlier life, which may not have lived to hear of it
    while (result := await flujo.run(run_id=RUN)).status == "paused":
        assert not {waiting.name for waiting in result.waiting_for} & scene.answers.keys(), "an answer is lost"
        world.clock.advance(A_WHILE)


async def dispatched(scene: Scene, world: World, flujo: Flujo[Any, Any]) -> None:
    """Put it into a queue, and have a worker take it."""
    handle = await flujo.dispatch(scene.input, run_id=RUN, queue="q", delay=A_WHILE, priority=3)
    async with Worker(flujo, ["q"], drain_timeout=0):
        await handle.result()


# ------------------------------------------------------------------------------------------------------ definitions


def begin(world: World, ctx: StepContext, amount: int = 1) -> None:
    """Have the effect of a step."""
    world.happens(f"{ctx.run_id}:{ctx.step_key}")
    ctx.state.seen.append(ctx.step_key)
    ctx.state.total += amount


def plus(world: World, name: str, **options: Any) -> Any:
    """Return a step that adds one."""

    async def add_one(n: int, ctx: StepContext) -> int:
        begin(world, ctx)
        return n + 1

    return step(name=name, **options)(add_one)


def holding(world: World) -> Any:
    """Return a step that does not end by itself."""

    async def hold(n: int, ctx: StepContext) -> int:
        begin(world, ctx)
        world.is_reached.set()
        await asyncio.Event().wait()
        return n

    return step(name="hold")(hold)


def undo(world: World, name: str) -> Any:
    """Return a compensation, which fails at its first attempt."""

    @step(name=name, retry=Retry(max_attempts=2, base=A_WHILE, cap=A_WHILE, jitter=0))
    async def compensation(n: int, ctx: StepContext) -> None:
        begin(world, ctx, 100)
        if ctx.attempt == 1:
            raise ConnectionError("not yet")

    return compensation


def diamond(world: World) -> Any:
    """Return a graph: a diamond with a condition, a group of which one is enough, and edges chosen by an action."""
    is_large: Callable[[int], bool] = lambda n: n > 100  # noqa: E731
    start = plus(world, "start")

    @step
    async def left(n: Annotated[int, Depends(start)], ctx: StepContext) -> int:
        begin(world, ctx)
        return n * 2

    @step
    async def right(n: Annotated[int, Depends(start)], ctx: StepContext) -> int:
        begin(world, ctx)
        return n * 3

    @step
    async def large(n: Annotated[int, Depends(start, when=is_large)], ctx: StepContext) -> int:
        begin(world, ctx)
        return n

    @step
    async def broken(n: Annotated[int, Depends(start)], ctx: StepContext) -> int:
        begin(world, ctx)
        raise ValueError("broken")

    @step
    async def review(
        a: Annotated[int, Depends(left)],
        b: Annotated[int, Depends(right)],
        c: Annotated[int, Depends(any_of(broken, left))],
        extra: int,
        ctx: StepContext,
    ) -> Action[Literal["approve", "reject"]]:
        begin(world, ctx)
        return Action("approve", a + b + c + extra)

    @step
    async def publish(decided: Annotated[Any, Depends(review)], ctx: StepContext) -> int:
        begin(world, ctx)
        return int(decided.value)

    @step
    async def archive(decided: Annotated[Any, Depends(review)], ctx: StepContext) -> int:
        begin(world, ctx)
        return 0

    ways = {review.on("approve"): publish, review.on("reject"): archive}
    return graph(large, review, publish, archive, ways, on_error="finish")


def waiting(world: World) -> Any:
    """Return waits for answers, one of them side by side with steps, and one whose time passes."""
    side = plus(world, "before") >> wait_for("first", schema=int) >> plus(world, "after")
    never = wait_for("never", timeout=A_WHILE, default={"side": 1, "other": 2})
    return parallel(as_step(side, name="side"), as_step(plus(world, "other"), name="other")) >> never >> _total(world)


def _total(world: World) -> Any:
    @step
    async def total(values: dict[str, int], ctx: StepContext) -> int:
        begin(world, ctx)
        return sum(values.values())

    return total


def sleeping(world: World) -> Any:
    """Return sleeps, and a step that is tried again after a long wait."""

    @step(retry=Retry(max_attempts=3, base=A_WHILE, cap=A_WHILE, jitter=0))
    async def flaky(n: int, ctx: StepContext) -> int:
        begin(world, ctx)
        if ctx.attempt < 3:
            raise ConnectionError(f"attempt {ctx.attempt}")
        return n * 2

    return plus(world, "a") >> sleep(A_WHILE) >> flaky >> sleep(0) >> plus(world, "b")


def charging(world: World) -> Any:
    """Return a step that may have its effect only once, between others."""

    @step(effect="once")
    async def charge(n: int, ctx: StepContext) -> int:
        world.happens(f"{ctx.run_id}:{ctx.step_key}")
        return n + 1

    return plus(world, "before") >> charge >> plus(world, "after")


def booking(world: World) -> Any:
    """Return what is undone because it fails, the first of two compensations twice."""

    @step
    async def fail(n: int, ctx: StepContext) -> int:
        begin(world, ctx)
        raise ValueError("no room")

    flight = plus(world, "flight", compensate=undo(world, "no_flight"))
    hotel = plus(world, "hotel", compensate=undo(world, "no_hotel"))
    return flight >> hotel >> plus(world, "car") >> fail


def booking_held(world: World) -> Any:
    """Return what is undone because it is cancelled, in a child as well."""
    inner = plus(world, "hotel", compensate=undo(world, "no_hotel")) >> holding(world)
    return plus(world, "flight", compensate=undo(world, "no_flight")) >> child(inner, name="inner")


def family(world: World) -> Any:
    """Return a run that has a child that waits, sleeps, and has a child."""
    leaf = plus(world, "x") >> sleep(A_WHILE) >> plus(world, "y")
    inner = plus(world, "b") >> wait_for("ok", schema=int) >> plus(world, "c") >> child(leaf, name="leaf")
    return plus(world, "a") >> child(inner, name="inner") >> plus(world, "d")


def mending(world: World) -> Any:
    """Return a step that fails until it is mended."""

    @step(retry=Retry(max_attempts=2, base=0))
    async def broken(n: int, ctx: StepContext) -> int:
        begin(world, ctx)
        if "mended" not in world.happened():
            raise ValueError("broken")
        return n * 2

    return plus(world, "a", compensate=undo(world, "not_a")) >> broken >> plus(world, "b")


def chain(world: World) -> Any:
    """Return three steps."""
    return plus(world, "a") >> plus(world, "b") >> plus(world, "c")


def coroutine(world: World) -> Any:
    """Return a workflow that does everything that one can do."""
    one, two, three = (plus(world, name) for name in ("one", "two", "three"))

    @step
    async def draws(ctx: StepContext) -> None:
        begin(world, ctx)
        world.happens(f"drew {ctx.state.last}")

    @step
    async def store(n: int, ctx: StepContext) -> str:
        begin(world, ctx)
        return f"{ctx.state.last}{n}"

    async def pair(n: int) -> int:
        for _ in range(n):
            await asyncio.sleep(0)
        return int(await one(await two(n)))

    @workflow(name="inner")
    async def inner(n: int, ctx: RunContext) -> int:
        await ctx.sleep(A_WHILE)
        return int(await three(n))

    @workflow(name="coroutine")
    async def coroutine(n: int, ctx: RunContext) -> list[Any]:
        ctx.set_metadata(team="blue")
        ctx.state.last = f"{ctx.uuid()}{ctx.now()}{ctx.random()}".replace(" ", "")
        await draws()
        ctx.state.last = "drawn"
        ctx.emit({"drawn": True})
        numbers = await asyncio.gather(one(n), two(n), pair(2), pair(1))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(pair(i)) for i in (2, 2, 0)]
        ctx.state.seen.append("between")
        await ctx.sleep(A_WHILE)
        answer = await ctx.wait_for("ok", schema=int)
        ctx.state.total += answer
        below = await ctx.child(inner, answer)
        return [*numbers, *(task.result() for task in tasks), below, await store(1), ctx.state.last]

    return coroutine


SCENES: dict[str, Scene] = {
    "graph": Scene(diamond, answered, input={"n": 1, "extra": 5}),
    "wait": Scene(waiting, answered, answers={"first": 5}),
    "early answer": Scene(waiting, answered_in_the_background, answers={"first": 5}),
    "sleep": Scene(sleeping, answered),
    "once, retried": Scene(charging, answered, is_exact=False),
    "once, skipped": Scene(charging, answered, decision="skip", is_exact=False),
    "saga, failed": Scene(booking, answered),
    "saga, cancelled": Scene(booking_held, cancelled),
    "child": Scene(family, answered, answers={"ok": 5}),
    "redrive": Scene(mending, tried_again, is_tried_again=True),
    "fork": Scene(chain, forked),
    "import": Scene(waiting, imported, answers={"first": 5}),
    "dispatch": Scene(sleeping, dispatched),
    "workflow": Scene(coroutine, answered, answers={"ok": 5}, is_ordered=False),
}


async def play(scene: Scene, world: World, flujo: Flujo[Any, Any]) -> None:
    """Live one life with the run, to its end unless the store fails."""
    async with world.passing_time():
        try:
            await scene.live(scene, world, flujo)
        except (RunFailed, RunCancelled):
            pass
        finally:
            await flujo.aclose()
