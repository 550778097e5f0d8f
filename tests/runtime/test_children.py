"""Children: runs that a run starts and waits for."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from flujo_async import (
    Flujo,
    InMemoryBackend,
    PipelineRegistry,
    RunContext,
    StepContext,
    WorkflowState,
    as_step,
    child,
    map_each,
    parallel,
    sleep,
    step,
    wait_for,
    workflow,
)
from flujo_async.abc import StateBackend
from flujo_async.errors import (
    BackendError,
    DefinitionError,
    NonDeterminismError,
    RunCancelled,
    RunFailed,
    RunNotFound,
    VersionMismatch,
)
from flujo_async.testing import FaultyBackend, VirtualClock
from tests.runtime.crashes import crashes, gone_to_sleep, others, ticks, until_completed
from tests.runtime.executed import EXECUTED, note
from tests.runtime.stores import Store, mostly_in_memory

HOUR = timedelta(hours=1)


@step
async def double(n: int) -> int:
    EXECUTED.append(n)
    return n * 2


@step
async def broken(value: Any) -> Any:
    raise ValueError("broken")


class Desk:
    """Books one number after the other, until that is undone; what comes behind that fails until the desk is fixed."""

    def __init__(self) -> None:
        self.is_fixed = False
        numbers = iter(range(1, 9))

        async def undo(done: int) -> None:
            EXECUTED.append(-done)

        @step(compensate=undo)
        async def book() -> int:
            return next(numbers)

        @step
        async def flaky(value: int) -> int:
            if not self.is_fixed:
                raise ValueError("broken")
            return value

        self.book, self.flaky = book, flaky


def in_a_pipeline(inner: Any, name: str = "inner") -> Any:
    return note >> child(inner, name=name) >> note


def in_a_workflow(inner: Any, name: str = "inner") -> Any:
    @workflow(name="outer")
    async def outer(value: Any, ctx: RunContext) -> Any:
        value = await ctx.child(inner, await note(value))
        return await note(value)

    return outer


BOTH = pytest.mark.parametrize("outer", [in_a_pipeline, in_a_workflow])


async def children_of(flujo: Flujo[Any, Any], run_id: str = "r") -> list[Any]:
    return await flujo.list_runs(parent_run_id=run_id)


@BOTH
async def test_a_child_is_a_run_of_its_own(backend: StateBackend, outer: Any) -> None:
    """With an id, a history and a parent; its output is that of the call."""
    flujo = Flujo(outer(double >> double), state_backend=backend)
    result = await flujo.run(1, run_id="r")
    assert (result.output, EXECUTED) == (4, [1, 1, 2, 4])
    [summary] = await children_of(flujo)
    assert (summary.status, summary.parent_run_id, summary.lease) == ("completed", "r", None)
    assert (await flujo.state(summary.run_id)).parent_run_id == "r"
    assert [record.name for record in await flujo.steps(summary.run_id)] == ["double", "double"]
    record = result.steps[1]
    assert (record.input, record.output, record.attempts) == (1, 4, 1)
    assert others() == set()


@mostly_in_memory
@BOTH
async def test_killed_at_every_commit_a_child_runs_once(backend: StateBackend, outer: Any) -> None:
    """Of parent and child: whatever was committed is not done again."""
    definition = outer(double >> double)

    async def attempt(store: StateBackend, run_id: str) -> None:
        await Flujo(definition, state_backend=store).run(1, run_id=run_id)

    number = 0
    async for run_id in crashes(backend, attempt):
        number += 1
        flujo = Flujo(definition, state_backend=backend)
        before = sum([len(await flujo.steps(each.run_id)) for each in await children_of(flujo, run_id)])
        EXECUTED.clear()
        assert (await flujo.run(run_id=run_id)).output == 4
        [summary] = await children_of(flujo, run_id)
        assert summary.status == "completed"
        assert len([n for n in EXECUTED if n in (1, 2)]) <= 4 - before
        assert others() == set()
    assert number > 10


@BOTH
async def test_a_child_that_fails_fails_the_call(backend: StateBackend, outer: Any) -> None:
    """With its ``RunFailed``, whose cause is that of the child; the child is a dead letter of its own."""
    flujo = Flujo(outer(double >> broken), state_backend=backend)
    for _ in range(2):
        with pytest.raises(RunFailed) as caught:
            await flujo.run(1, run_id="r")
        assert caught.value.run_id == "r"
        inner = caught.value.__cause__
        assert isinstance(inner, Exception)
        assert "broken" in str(inner)
    with pytest.raises(RunFailed) as caught:
        await flujo.run(1, run_id="other")
    inner = caught.value.__cause__
    assert isinstance(inner, RunFailed)
    assert isinstance(inner.__cause__, ValueError)
    assert {letter.run_id for letter in await flujo.list_dead_letters()} >= {"r", "other", inner.run_id}


async def test_code_may_catch_it(backend: StateBackend) -> None:
    """And catches it again after a crash."""

    @workflow
    async def outer(value: Any, ctx: RunContext) -> str:
        try:
            await ctx.child(broken, value)
        except RunFailed as error:
            return f"{await note(type(error).__name__)}"
        return ""

    async def attempt(store: StateBackend, run_id: str) -> None:
        await Flujo(outer, state_backend=store).run(1, run_id=run_id)

    flujo = Flujo(outer, state_backend=backend)
    assert (await flujo.run(1)).output == "RunFailed"
    async for run_id in crashes(backend, attempt):
        assert (await flujo.run(run_id=run_id)).output == "RunFailed"


@BOTH
async def test_a_child_that_waits_pauses_its_parent(backend: StateBackend, outer: Any) -> None:
    """The parent tells whom to answer; answering the child wakes both."""
    flujo = Flujo(outer(wait_for("go", prompt="?") >> double), state_backend=backend)
    result = await flujo.run(1, run_id="r")
    [summary] = await children_of(flujo)
    assert (result.status, summary.status) == ("paused", "paused")
    [waiting] = result.waiting_for
    assert (waiting.kind, waiting.name, waiting.prompt, waiting.run_id) == ("signal", "go", "?", summary.run_id)
    history = await flujo.history("r")
    assert await flujo.run(run_id="r") == result
    assert await flujo.history("r") == history
    await flujo.signal(summary.run_id, "go", 21)
    result = await flujo.handle("r").result()
    assert (result.status, result.output, EXECUTED) == ("completed", 42, [1, 21, 42])
    await flujo.aclose()
    assert others() == set()


@BOTH
async def test_answered_by_a_runtime_that_does_not_know_them_the_parent_resumes(store: Store, outer: Any) -> None:
    """Whoever resumes the parent goes on with the child."""
    definition = outer(wait_for("go") >> double)
    flujo = Flujo(definition, state_backend=store.open())
    result = await flujo.run(1, run_id="r")
    other: Flujo[Any, Any] = Flujo(note, state_backend=store.open())
    await other.signal(result.waiting_for[0].run_id, "go", 21)  # type: ignore[arg-type]
    await other.aclose()
    assert (await Flujo(definition, state_backend=store.open()).run(run_id="r")).output == 42


async def test_a_wait_two_floors_down(backend: StateBackend) -> None:
    """The grandparent tells who waits, and wakes as well."""
    lowest = wait_for("go") >> double
    flujo = Flujo(in_a_pipeline(in_a_pipeline(lowest, "middle"), "upper"), state_backend=backend)
    result = await flujo.run(1, run_id="r")
    [middle] = await children_of(flujo)
    [low] = await children_of(flujo, middle.run_id)
    assert [waiting.run_id for waiting in result.waiting_for] == [low.run_id]
    await flujo.signal(low.run_id, "go", 21)
    assert (await flujo.handle("r").result()).output == 42
    await flujo.aclose()


@BOTH
@pytest.mark.parametrize("how", ["run", "start"])
async def test_a_child_that_sleeps_lets_its_parent_leave_memory(backend: StateBackend, outer: Any, how: str) -> None:
    """Both are running, neither has a lease; the parent wakes with the child."""
    clock = VirtualClock()
    flujo = Flujo(outer(sleep(HOUR) >> double), state_backend=backend, clock=clock)
    task: Any
    if how == "run":
        task = asyncio.ensure_future(flujo.run(1, run_id="r"))
    else:
        task = asyncio.ensure_future((await flujo.start(1, run_id="r")).result())
    head = await gone_to_sleep(flujo)
    [summary] = await children_of(flujo)
    assert (head.status, summary.status, summary.lease) == ("running", "running", None)
    await clock.until_asleep()
    clock.advance(HOUR)
    assert (await task).output == 2
    assert EXECUTED == [1, 1, 2]
    await flujo.aclose()
    assert others() == set()


async def test_children_side_by_side(backend: StateBackend) -> None:
    """In a parallel, in a map and in tasks; equal ones are different runs."""

    @workflow
    async def outer(values: list[int], ctx: RunContext) -> list[Any]:
        return list(await asyncio.gather(*(ctx.child(double >> double, n) for n in values)))

    for definition in (outer, map_each(child(double >> double, name="inner"))):
        flujo = Flujo(definition, state_backend=backend)
        result = await flujo.run([1, 1, 2])
        assert result.output == [4, 4, 8]
        assert len(await children_of(flujo, result.run_id)) == 3
    both = parallel(child(double, name="a"), as_step(child(note, name="b"), name="b"))
    assert (await Flujo(both, state_backend=backend).run(3)).output == {"a": 6, "b": 3}


async def test_a_child_may_be_named(backend: StateBackend) -> None:
    """By the code of a workflow."""

    @workflow
    async def outer(value: Any, ctx: RunContext) -> Any:
        return await ctx.child(double, value, run_id="my-child")

    flujo = Flujo(outer, state_backend=backend)
    assert (await flujo.run(2, run_id="r")).output == 4
    assert [summary.run_id for summary in await children_of(flujo)] == ["my-child"]


@workflow(name="shares")
async def shares(value: Any, ctx: RunContext) -> Any:
    return await ctx.child(wait_for("answer", schema=int) >> double, run_id="shared")


async def test_a_child_of_two_parents_that_waits_is_heard_by_both(backend: StateBackend) -> None:
    """Both go on by themselves, though only the first has started it."""
    flujo = Flujo(shares, state_backend=backend)
    for run_id in ("first", "second"):
        assert (await flujo.run(run_id=run_id)).waiting_for[0].run_id == "shared"
    await flujo.signal("shared", "answer", 21)
    for run_id in ("first", "second"):
        assert (await flujo.handle(run_id).result()).output == 42
    assert EXECUTED == [21]
    await flujo.aclose()


async def test_a_child_that_was_a_run_before_is_heard(backend: StateBackend) -> None:
    """It has no parent, and tells the one that waits for it all the same."""
    before = Flujo(wait_for("answer", schema=int) >> double, state_backend=backend)
    await before.run(None, run_id="shared")
    flujo = Flujo(shares, state_backend=backend)
    assert (await flujo.run(run_id="r")).waiting_for[0].run_id == "shared"
    await flujo.signal("shared", "answer", 21)
    assert (await flujo.handle("r").result()).output == 42
    await flujo.aclose()


async def test_a_child_of_two_parents_that_is_cancelled_is_so_for_both(backend: StateBackend) -> None:
    flujo = Flujo(shares, state_backend=backend)
    for run_id in ("first", "second"):
        await flujo.run(run_id=run_id)
    await flujo.cancel("first")
    with pytest.raises(RunFailed) as failed:
        await flujo.handle("second").result()
    assert isinstance(failed.value.__cause__, RunCancelled)
    await flujo.aclose()


async def test_the_parents_of_a_child_that_was_paused_and_goes_on_do_so(backend: StateBackend) -> None:
    """Whoever goes on with it: nobody has posted anything to it."""
    flujo = Flujo(shares, state_backend=backend)
    await flujo.run(run_id="first")
    await flujo.pause("shared")
    await flujo.signal("shared", "answer", 21)
    assert (await flujo.run(run_id="second")).waiting_for[0].kind == "pause"
    assert (await flujo.resume("shared")).output == 42
    for run_id in ("first", "second"):
        assert (await flujo.handle(run_id).result()).output == 42
    await flujo.aclose()


@pytest.mark.parametrize("first_goes_on", [True, False])
@pytest.mark.parametrize("how", ["before", "after"])
@pytest.mark.parametrize("nth", range(1, 6))
async def test_whichever_commit_fails_both_parents_hear(
    backend: StateBackend, nth: int, how: Any, first_goes_on: bool
) -> None:
    """Also where another runtime drives the child, and the first parent is out of reach."""
    clock, faulty = VirtualClock(), FaultyBackend(backend)
    flujo = Flujo(shares, state_backend=backend, clock=clock)
    await flujo.run(run_id="first")
    if not first_goes_on:
        await flujo.pause("first")
    await flujo.aclose()
    flujo = Flujo(shares, state_backend=faulty, clock=clock)
    await flujo.run(run_id="second")
    faulty.fail("append", nth=nth, how=how)
    await flujo.signal("shared", "answer", 21)
    await until_completed(flujo, clock, "second")
    await flujo.aclose()
    assert (await Flujo(shares, state_backend=backend, clock=clock).resume("first")).output == 42


async def test_a_child_has_a_context_of_its_own(backend: StateBackend) -> None:
    """What it changes is not the parent's (G11)."""

    @step
    async def put(value: Any, ctx: StepContext) -> Any:
        ctx.state[f"n{len(ctx.state)}"] = value
        return value

    flujo = Flujo(put >> child(put >> put, name="inner"), state_backend=backend)
    result = await flujo.run(1, run_id="r")
    assert result.context == {"n0": 1}
    [summary] = await children_of(flujo)
    assert (await flujo.state(summary.run_id)).pipeline_context == {"n0": 1, "n1": 1}


async def test_a_child_that_was_paused_and_goes_on_lets_its_parent_go_on(backend: StateBackend) -> None:
    """Pausing it did not pause the parent, which waits for it and may have other things to wait for."""
    clock = VirtualClock()
    side = wait_for("never", timeout=60, default=3) >> double
    outer = parallel(child(wait_for("go") >> double, name="inner"), as_step(side, name="side"))
    flujo = Flujo(outer, state_backend=backend, clock=clock)
    await flujo.run(1, run_id="r")
    [inner] = await children_of(flujo)
    await flujo.pause(inner.run_id)
    await waits_for(flujo, {("pause", inner.run_id), ("signal", inner.run_id), ("signal", None)})
    clock.advance(60)
    await waits_for(flujo, {("pause", inner.run_id), ("signal", inner.run_id)})
    await flujo.signal(inner.run_id, "go", 1)
    assert (await flujo.resume(inner.run_id)).output == 2
    assert (await flujo.handle("r").result()).output == {"inner": 2, "side": 6}
    await flujo.aclose()


async def waits_for(flujo: Flujo[Any, Any], expected: set[tuple[str, str | None]]) -> None:
    """Return when a run waits for something of these kinds, by the run that is to be answered."""
    async with asyncio.timeout(20):
        while {(each.kind, each.run_id) for each in (await flujo.run(run_id="r")).waiting_for} != expected:
            await ticks()


async def test_the_deadline_of_a_child_that_was_paused_does_not_wake_its_parent(backend: StateBackend) -> None:
    """The child goes on only when it is resumed, so its parent rests as long."""
    clock = VirtualClock()
    flujo = Flujo(child(wait_for("go", timeout=60, default=7), name="inner"), state_backend=backend, clock=clock)
    await flujo.run(1, run_id="r")
    [inner] = await children_of(flujo)
    await flujo.pause(inner.run_id)
    await waits_for(flujo, {("pause", inner.run_id), ("signal", inner.run_id)})
    clock.advance(60)
    assert (await gone_to_sleep(flujo)).wake_at is None
    seq = (await flujo.state("r")).version
    assert (await flujo.run(run_id="r")).status == "paused"
    assert (await flujo.state("r")).version == seq
    assert (await flujo.resume(inner.run_id)).output == 7
    assert (await flujo.handle("r").result()).output == 7
    await flujo.aclose()


async def test_a_child_that_waits_for_something_else_is_waited_for_so(backend: StateBackend) -> None:
    """After a decision on it, say, the parent tells what is to be answered now."""
    reached, is_stuck = asyncio.Event(), True

    @step(effect="once")
    async def pay(value: Any) -> Any:
        reached.set()
        if is_stuck:
            await asyncio.Event().wait()
        return value

    flujo = Flujo(child(pay >> wait_for("go"), name="inner"), state_backend=backend)
    task = asyncio.ensure_future(flujo.run(1, run_id="r"))
    await reached.wait()
    task.cancel()
    await asyncio.wait({task})
    is_stuck = False
    await flujo.run(run_id="r")
    [inner] = await children_of(flujo)
    await waits_for(flujo, {("decision", inner.run_id)})
    assert (await flujo.redrive(inner.run_id)).status == "paused"
    await waits_for(flujo, {("signal", inner.run_id)})
    await flujo.signal(inner.run_id, "go", 4)
    assert (await flujo.handle("r").result()).output == 4
    await flujo.aclose()


async def test_a_child_that_sleeps_after_its_answer_lets_its_parent_sleep(backend: StateBackend) -> None:
    """The parent waits for nobody any more, and leaves memory."""
    clock = VirtualClock()
    flujo = Flujo(child(wait_for("go") >> sleep(HOUR), name="inner"), state_backend=backend, clock=clock)
    await flujo.run(1, run_id="r")
    [inner] = await children_of(flujo)
    await flujo.signal(inner.run_id, "go", 2)
    async with asyncio.timeout(20):
        while (head := await gone_to_sleep(flujo)).status != "running":
            await ticks()
    assert (head.waiting_for, head.wake_at) == ([], clock.now() + HOUR)
    await flujo.aclose()


async def test_what_was_heard_of_a_child_is_no_news(backend: StateBackend) -> None:
    """Its parent has seen that it waits again: it rests, and calling again records nothing."""
    flujo = Flujo(child(wait_for("a") >> wait_for("b"), name="inner"), state_backend=backend)
    result = await flujo.run(1, run_id="r")
    [inner] = await children_of(flujo)
    await flujo.signal(inner.run_id, "a", 2)
    async with asyncio.timeout(20):
        while [each.name for each in result.waiting_for] != ["b"]:
            result = await flujo.handle("r").result()
    seq = (await flujo.state("r")).version
    for _ in range(3):
        assert (await flujo.run(run_id="r")).waiting_for == result.waiting_for
    assert (await flujo.state("r")).version == seq
    await flujo.aclose()


class TestCancel:
    """Cancelling goes downwards, leaves first."""

    async def test_cancelling_a_parent_cancels_its_children_leaves_first(self, backend: StateBackend) -> None:
        """Each is undone before the one above."""
        undone = list[str]()

        def act(name: str) -> Any:
            async def undo(done: Any) -> None:
                undone.append(name)

            return step(name=name, compensate=undo)(note.function)

        lowest = act("low") >> wait_for("go")
        middle = act("middle") >> child(lowest, name="lowest")
        flujo = Flujo(act("top") >> child(middle, name="middle_run"), state_backend=backend)
        await flujo.run(1, run_id="r")
        await flujo.cancel("r", "no need")
        assert undone == ["low", "middle", "top"]
        assert {summary.status for summary in await flujo.list_runs()} == {"cancelled"}
        with pytest.raises(RunCancelled, match="no need"):
            await flujo.run(run_id="r")

    async def test_a_child_in_a_step_is_cancelled_there(self, backend: StateBackend) -> None:
        """``CancelledError`` arrives in it."""
        reached, fate = asyncio.Event(), list[str]()

        @step
        async def stuck(value: Any) -> Any:
            reached.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                fate.append("cancelled")
                raise

        flujo = Flujo(note >> child(stuck, name="inner"), state_backend=backend)
        task = asyncio.ensure_future(flujo.run(1, run_id="r"))
        await reached.wait()
        await flujo.cancel("r")
        with pytest.raises(RunCancelled):
            await task
        assert fate == ["cancelled"]
        assert {summary.status for summary in await flujo.list_runs()} == {"cancelled"}
        await flujo.aclose()
        assert others() == set()

    async def test_a_child_that_is_cancelled_fails_the_call(self, backend: StateBackend) -> None:
        """With ``RunCancelled``, which code may catch."""

        @workflow
        async def outer(value: Any, ctx: RunContext) -> str:
            try:
                await ctx.child(wait_for("go"), value)
            except RunCancelled:
                return "cancelled"
            return ""

        flujo = Flujo(outer, state_backend=backend)
        result = await flujo.run(1, run_id="r")
        await flujo.cancel(result.waiting_for[0].run_id)  # type: ignore[arg-type]
        assert (await flujo.run(run_id="r")).output == "cancelled"
        await flujo.aclose()

    async def test_a_full_runtime_can_still_cancel(self) -> None:
        """The children of a run need no place of their own to be ended."""
        clock = VirtualClock()
        flujo = Flujo(child(sleep(HOUR) >> double, name="inner"), clock=clock, max_concurrency=1)
        task = asyncio.ensure_future(flujo.run(1, run_id="r"))
        await gone_to_sleep(flujo)
        async with asyncio.timeout(20):
            await flujo.cancel("r")
            with pytest.raises(RunCancelled):
                await task
        assert {summary.status for summary in await flujo.list_runs()} == {"cancelled"}

    @pytest.mark.parametrize("on_error", ["cancel", "finish"])
    async def test_a_child_beside_a_failure_does_not_go_on_alone(self, backend: StateBackend, on_error: Any) -> None:
        """When its parent has failed, nobody waits for it any more: it is cancelled."""
        reached, has_failed = asyncio.Event(), asyncio.Event()

        @step
        async def stuck(value: Any) -> None:
            reached.set()
            await (has_failed if on_error == "finish" else asyncio.Event()).wait()

        @step
        async def fails(value: Any) -> Any:
            await reached.wait()
            has_failed.set()
            raise ValueError("broken")

        flujo = Flujo(parallel(fails, child(stuck, name="inner"), on_error=on_error), state_backend=backend)
        with pytest.raises(RunFailed):
            await flujo.run(1, run_id="r")
        [summary] = await children_of(flujo)
        assert summary.status == ("cancelled" if on_error == "cancel" else "completed")
        assert await flujo.recover() == []

    @pytest.mark.parametrize("how", ["before", "after"])
    async def test_a_child_that_is_deleted_meanwhile_is_not_missed(self, store: Store, how: Any) -> None:
        """It has gone, as it was to."""
        backend = FaultyBackend(store.open())
        flujo = Flujo(child(wait_for("go"), name="inner"), state_backend=backend)
        other = Flujo(double, state_backend=store.open())
        result = await flujo.run(1, run_id="r")
        inner = result.waiting_for[0].run_id
        assert inner is not None
        backend.delay("post", nth=2, how=how, until=lambda: other.delete(inner))  # the first is to the parent
        await flujo.cancel("r")
        assert [(head.run_id, head.status) for head in await flujo.list_runs()] == [("r", "cancelled")]
        await flujo.aclose()

    async def test_the_children_of_a_run_that_was_begun_anew_are_left_alone(self, backend: StateBackend) -> None:
        """They are named as those of the one that is being cancelled, and none of its own."""
        reached, is_cancelled, goes_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

        @step
        async def leaves(value: int) -> int:
            if is_cancelled.is_set():
                return value
            reached.set()
            try:
                await goes_on.wait()
            finally:
                is_cancelled.set()
                await goes_on.wait()
            return value

        both = parallel(child(wait_for("go"), name="waits"), child(leaves, name="leaves"))
        flujo, other = (Flujo(both, state_backend=backend) for _ in range(2))
        driven = asyncio.ensure_future(flujo.run(1, run_id="r"))
        await reached.wait()
        cancelled = asyncio.ensure_future(flujo.cancel("r"))
        await is_cancelled.wait()
        await other.delete("r")
        await other.run(1, run_id="r")
        goes_on.set()
        await asyncio.wait({driven, cancelled})
        assert {head.run_id: head.status for head in await flujo.list_runs()} == {
            "r": "paused",
            "r/parallel/waits": "paused",
            "r/parallel/leaves": "completed",
        }
        await flujo.aclose()
        await other.aclose()


async def test_a_child_that_is_deleted_when_its_parent_asks_for_it_is_begun_anew(store: Store) -> None:
    """As one is that is deleted while its parent waits for it."""

    @step
    async def double(n: int) -> int:
        return 2 * n

    @workflow(name="outer")
    async def outer(n: int, ctx: RunContext) -> int:
        return await ctx.child(double, n, run_id="c")

    backend, other = FaultyBackend(store.open()), Flujo(double, state_backend=store.open())
    await other.dispatch(1, run_id="c")
    backend.delay("post", how="after", until=lambda: other.delete("c"))
    async with Flujo(outer, state_backend=backend) as flujo:
        assert (await flujo.run(1, run_id="r")).output == 2
        [child] = await flujo.list_runs(parent_run_id="r")
        assert child.run_id == "c"


class TestDelete:
    """Deleting goes downwards."""

    async def test_deleting_a_parent_deletes_all_below_it(self, backend: StateBackend) -> None:
        """Created once more, it finds nothing of what was."""
        middle = double >> child(double, name="lowest")
        flujo = Flujo(double >> child(middle, name="middle_run"), state_backend=backend)
        for given in (1, 2):  # with another input a child that was left would be refused
            assert (await flujo.run(given, run_id="r")).output == given * 8
            assert len(await flujo.list_runs()) == 3
            await flujo.delete("r")
            assert await flujo.list_runs() == []
        assert EXECUTED == [1, 2, 4, 2, 4, 8]

    async def test_it_can_be_interrupted_and_asked_for_again(self, backend: StateBackend) -> None:
        """When the parent itself is gone, what is below it is found all the same."""
        faulty = FaultyBackend(backend)
        flujo = Flujo(double >> child(double, name="kid"), state_backend=faulty)
        await flujo.run(1, run_id="r")
        faulty.fail("delete_run", nth=2)
        with pytest.raises(BackendError):
            await flujo.delete("r")
        assert [summary.parent_run_id for summary in await flujo.list_runs()] == ["r"]
        await flujo.delete("r")
        assert await flujo.list_runs() == []

    @pytest.mark.parametrize("how", ["before", "after"])
    @pytest.mark.parametrize("nth", range(1, 6))
    async def test_it_can_be_interrupted_anywhere(self, backend: StateBackend, nth: int, how: Any) -> None:
        """What is below a run is found as long as there is anything."""
        faulty = FaultyBackend(backend)
        leaf = double >> child(double, name="leaf")
        tree = parallel(child(leaf, name="a"), child(leaf, name="b"))
        await Flujo(tree, state_backend=backend).run(1, run_id="r")
        faulty.crash("delete_run", nth=nth, how=how)
        with pytest.raises(BackendError):
            await Flujo(tree, state_backend=faulty).delete("r")
        survivor = Flujo(tree, state_backend=backend)
        await survivor.delete("r")
        assert await survivor.list_runs() == []

    @pytest.mark.parametrize("goes_on_at", [2, 3, None])
    async def test_nothing_of_a_tree_that_goes_on_comes_back(
        self, backend: StateBackend, goes_on_at: int | None
    ) -> None:
        """Those who drive it stop at their next commit, and start nothing anew, also while it is being deleted."""
        reached, goes_on = asyncio.Event(), asyncio.Event()

        @step
        async def holds(value: int) -> int:
            EXECUTED.append(value)
            reached.set()
            await goes_on.wait()
            return value

        async def go_on() -> None:
            goes_on.set()
            await ticks(50)

        faulty = FaultyBackend(backend)
        if goes_on_at is not None:
            faulty.delay("delete_run", nth=goes_on_at, until=go_on)
        flujo = Flujo(child(child(holds >> double, name="lowest"), name="middle"), state_backend=faulty)
        handle = await flujo.start(1, run_id="r")
        await reached.wait()
        await flujo.delete("r")
        goes_on.set()
        with pytest.raises(RunNotFound):
            await handle.result()
        await flujo.aclose()
        assert await flujo.list_runs() == []
        assert EXECUTED == [1]

    async def test_a_parent_whose_child_was_deleted_starts_it_anew(self, backend: StateBackend) -> None:
        """By itself, or with another parent, which had started it."""
        flujo = Flujo(shares, state_backend=backend)
        for run_id in ("first", "second"):
            await flujo.run(run_id=run_id)
        for deleted in ("first", "shared"):
            await flujo.delete(deleted)
            assert (await flujo.run(run_id="second")).waiting_for[0].run_id == "shared"
            assert (await flujo.state("shared")).parent_run_id == "second"
        await flujo.signal("shared", "answer", 21)
        assert (await flujo.handle("second").result()).output == 42
        assert [summary.run_id for summary in await flujo.list_runs()] == ["shared", "second"]
        await flujo.aclose()

    async def test_a_child_of_the_source_is_none_of_the_fork(self, backend: StateBackend) -> None:
        """Though what the child has come to is in the log that they share."""
        flujo = Flujo(double >> child(double, name="kid") >> double, state_backend=backend)
        await flujo.run(1, run_id="r")
        await flujo.fork("r", new_run_id="f")
        await flujo.delete("f")
        assert len(await flujo.list_runs()) == 2
        assert (await flujo.verify()).ok


class TestContradiction:
    """A child whose code is no longer that which recorded it."""

    def tree(self, first: Any) -> Any:
        @workflow(name="inner")
        async def inner(n: int, ctx: RunContext) -> int:
            await first(n)
            return int(await ctx.wait_for("go"))

        return child(child(inner, name="inner"), name="middle") >> double

    @pytest.mark.parametrize("how", ["run", "resume", "by itself", "in the background"])
    async def test_the_runs_above_it_show_what_it_waits_for(self, store: Store, how: str) -> None:
        """They used to fail with its error whenever somebody took them up, and open runtimes did so without end."""
        backend = store.open()
        await Flujo(self.tree(double), state_backend=backend).run(1, run_id="r")
        new = Flujo(self.tree(note), state_backend=backend)
        inner = (await new.state("r")).waiting_for[0].run_id
        assert inner is not None
        last = (await new.history("r"))[-1].seq
        if how == "by itself":
            await new.pause(inner)
            assert (await new.run(run_id="r")).waiting_for[0].kind == "pause"
            with pytest.raises(NonDeterminismError):
                await new.resume(inner)
        else:
            await new.signal(inner, "go", 42)
        if how == "in the background":
            async with asyncio.timeout(20):
                async for event in new.handle("r").events(after=last, follow=True):
                    if event.kind == "RunPaused":
                        break
        else:
            await (new.resume("r") if how == "resume" else new.run(run_id="r"))
        await new.aclose()
        for run_id in ("r", "r/middle", inner):
            [waiting] = (await new.state(run_id)).waiting_for
            assert (waiting.kind, waiting.name) == ("definition", "inner")
            assert waiting.run_id == (None if run_id == inner else inner)
            assert "note" in str(waiting.prompt)
        old = Flujo(self.tree(double), state_backend=backend)
        if how == "by itself":
            await old.signal(inner, "go", 42)
        assert (await old.resume("r")).output == 84
        await old.aclose()
        assert EXECUTED == [1, 42]

    async def test_two_parents_do_not_wake_each_other_without_end(self) -> None:
        """Each looks at the child that they share, and tells the other nothing new."""

        def tree(first: Any) -> Any:
            @workflow(name="inner")
            async def inner(n: int, ctx: RunContext) -> int:
                await first(n)
                return int(await ctx.wait_for("go"))

            @workflow(name="outer")
            async def outer(n: int, ctx: RunContext) -> Any:
                return await ctx.child(inner, n, run_id="shared")

            return outer

        backend = InMemoryBackend()
        old = Flujo(tree(double), state_backend=backend)
        for run_id in ("first", "second"):
            await old.run(1, run_id=run_id)
        await old.aclose()
        new = Flujo(tree(note), state_backend=backend)
        await new.signal("shared", "go", 42)
        await ticks(500)
        heads = await new.list_runs()
        assert [[waiting.kind for waiting in head.waiting_for] for head in heads] == [["definition"]] * 3
        await ticks(500)
        assert await new.list_runs() == heads
        await new.aclose()


class TestRedrive:
    """A parent that is tried again."""

    async def test_a_failed_child_is_tried_again_with_its_parent(self, backend: StateBackend) -> None:
        """From the step that failed in it; what was done in both stays done."""
        is_fixed = False

        @step
        async def flaky(value: Any) -> Any:
            if not is_fixed:
                raise ValueError("broken")
            return value

        for outer in (in_a_pipeline, in_a_workflow):
            EXECUTED.clear()
            is_fixed = False
            run_id = outer.__name__
            flujo = Flujo(outer(double >> flaky), state_backend=backend)
            with pytest.raises(RunFailed):
                await flujo.run(1, run_id=run_id)
            with pytest.raises(RunFailed):
                await flujo.redrive(run_id)
            is_fixed = True
            assert (await flujo.redrive(run_id)).output == 2
            assert EXECUTED == [1, 1, 2]
            assert {each.status for each in await children_of(flujo, run_id)} == {"completed"}

    async def test_cancelled_ones_too(self, backend: StateBackend) -> None:
        """Wherever they were."""
        flujo = Flujo(in_a_pipeline(double >> wait_for("go") >> double), state_backend=backend)
        await flujo.run(1, run_id="r")
        await flujo.cancel("r")
        result = await flujo.redrive("r")
        assert result.status == "paused"
        await flujo.signal(result.waiting_for[0].run_id, "go", 4)  # type: ignore[arg-type]
        assert (await flujo.handle("r").result()).output == 8
        await flujo.aclose()

    @pytest.mark.parametrize("is_to_fail", [False, True])
    async def test_after_a_rollback_another_input_is_another_child(
        self, backend: StateBackend, is_to_fail: bool
    ) -> None:
        """What it was given before was undone, and is now something else."""
        desk = Desk()
        inner = child(double >> desk.flaky if is_to_fail else double, name="inner")
        flujo = Flujo(desk.book >> inner >> desk.flaky, state_backend=backend)
        with pytest.raises(RunFailed):
            await flujo.run(run_id="r")
        with pytest.raises(RunFailed):
            await flujo.redrive("r")
        desk.is_fixed = True
        assert (await flujo.redrive("r")).output == 6
        assert EXECUTED == [1, -1, 2, -2, 3]
        assert {each.status for each in await children_of(flujo)} <= {"completed", "cancelled"}

    async def test_the_child_that_does_not_count_any_more_is_cancelled(self, backend: StateBackend) -> None:
        """At once, and not only when its parent ends: nobody goes on with it meanwhile."""
        desk = Desk()
        flujo = Flujo(desk.book >> child(desk.flaky >> wait_for("go"), name="inner"), state_backend=backend)
        with pytest.raises(RunFailed):
            await flujo.run(run_id="r")
        desk.is_fixed = True
        result = await flujo.redrive("r")
        heads = {head.run_id: head.status for head in await children_of(flujo)}
        assert heads.pop(result.waiting_for[0].run_id) == "paused"
        assert list(heads.values()) == ["cancelled"]

    async def test_a_parent_that_cannot_cancel_its_child_says_so(
        self, backend: StateBackend, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It ends before its code has named the definition of the child that is tried again; a registry may have it."""
        is_early, clock = False, VirtualClock()

        @workflow(name="inner", version="1")
        async def inner(value: int, ctx: RunContext) -> Any:
            return await broken(value)

        hidden = [inner]  # where no look at the code of its parent finds it

        @workflow(name="outer", version="1")
        async def outer(value: int, ctx: RunContext) -> Any:
            if is_early:
                raise LookupError("early")
            return await ctx.child(hidden[0], value)

        before = Flujo(outer, state_backend=backend, clock=clock)
        with pytest.raises(RunFailed):
            await before.run(1, run_id="r")
        [failed] = await children_of(before)
        is_early = True
        flujo = Flujo(outer, state_backend=backend, clock=clock)
        with pytest.raises(VersionMismatch, match=r"'inner' 1"):
            await flujo.redrive("r")
        assert await flujo.recover() == []
        assert f"run 'r' waits for the definition of run {failed.run_id!r}" in caplog.text
        await flujo.aclose()
        registry = PipelineRegistry()
        registry.register(inner, "inner", "1")
        knowing = Flujo(outer, registry=registry, state_backend=backend, clock=clock)
        clock.advance(30)
        with pytest.raises(RunFailed, match="early"):
            await knowing.run(run_id="r")
        assert {head.status for head in await children_of(knowing)} == {"cancelled"}

    async def test_a_child_that_is_deleted_meanwhile_is_begun_anew(self, store: Store) -> None:
        """It was about to be tried again."""
        desk, backend = Desk(), FaultyBackend(store.open())
        flujo = Flujo(in_a_pipeline(double >> desk.flaky), state_backend=backend)
        other = Flujo(double, state_backend=store.open())
        with pytest.raises(RunFailed):
            await flujo.run(1, run_id="r")
        [failed] = await children_of(flujo)
        desk.is_fixed = True
        backend.delay("claim", nth=2, how="after", until=lambda: other.delete(failed.run_id))
        assert (await flujo.redrive("r")).output == 2
        assert EXECUTED == [1, 1, 1, 2]

    async def test_a_child_may_be_skipped(self, backend: StateBackend) -> None:
        """The output that is given counts."""
        flujo = Flujo(in_a_pipeline(broken), state_backend=backend)
        with pytest.raises(RunFailed):
            await flujo.run(1, run_id="r")
        assert (await flujo.redrive("r", decision="skip", output=7)).output == 7


async def test_a_fork_has_children_of_its_own(backend: StateBackend) -> None:
    """Those that had ended are shared by their outputs, the others start anew."""
    flujo = Flujo(in_a_pipeline(double) >> child(wait_for("go"), name="second"), state_backend=backend)
    await flujo.run(1, run_id="r")
    await flujo.fork("r", new_run_id="f")
    result = await flujo.run(run_id="f")
    assert result.status == "paused"
    [second] = await children_of(flujo, "f")
    assert result.waiting_for[0].run_id == second.run_id
    await flujo.signal(second.run_id, "go", 5)
    assert (await flujo.handle("f").result()).output == 5
    await flujo.aclose()
    assert await flujo.handle("r").status() == "paused"


def test_what_is_no_definition_is_no_child() -> None:
    """When it is built."""
    for wrong in (7, lambda n: n, None):
        with pytest.raises(DefinitionError):
            child(wrong)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def adding(number: int) -> Any:
    """Return a step of always the same name and structure."""

    @step(name="add")
    async def add(n: int) -> int:
        return n + number

    return add


def test_two_children_of_one_name_are_one_definition() -> None:
    """By name and structure a child's definition is found again; where two are alike, one would run for the other."""
    one, other = adding(1), adding(10)
    first, second = as_step(child(one), name="a"), as_step(child(other), name="b")
    registry = PipelineRegistry()
    registry.register(first, "one", "1.0.0")
    registry.register(second, "other", "1.0.0")
    for refused in [{"pipeline": first >> second}, {"registry": registry, "pipeline_name": "one"}]:
        with pytest.raises(DefinitionError, match="two different children are called 'add'"):
            Flujo(**refused)
    Flujo(first >> as_step(child(one), name="b"))
    Flujo(first >> as_step(child(other, name="add ten"), name="b"))


async def test_a_child_made_by_code_is_the_one_that_it_was_given() -> None:
    @workflow
    async def add_up(numbers: list[int], ctx: RunContext) -> int:
        total = 0
        for number in numbers:
            total = await ctx.child(adding(number), total)
        return total

    flujo = Flujo(add_up)
    assert [(await flujo.run(numbers)).output for numbers in ([1, 10], [2, 20])] == [11, 22]


async def test_whenever_a_child_is_answered_its_parent_hears_of_it() -> None:
    """At every tick around the moment in which both pause."""
    for number in range(40, 400, 3):
        flujo = Flujo(in_a_pipeline(wait_for("go") >> double))
        handle = await flujo.start(1, run_id="r")
        while not (found := await children_of(flujo)):
            await asyncio.sleep(0)
        await ticks(number - 40)
        await flujo.signal(found[0].run_id, "go", 4)
        async with asyncio.timeout(20):
            while (result := await handle.result()).status == "paused":
                await asyncio.sleep(0)
        assert result.output == 8
        await flujo.aclose()


@pytest.mark.parametrize("how", ["before", "after"])
@pytest.mark.parametrize("nth", range(1, 6))
async def test_whichever_commit_fails_a_parent_hears_of_its_child(backend: StateBackend, nth: int, how: Any) -> None:
    """A parent that cannot be driven for a while has not heard what its child told it meanwhile."""
    clock, faulty = VirtualClock(), FaultyBackend(backend)
    flujo = Flujo(child(wait_for("go"), name="inner") >> double, state_backend=faulty, clock=clock)
    await flujo.run(1, run_id="r")
    [inner] = await children_of(flujo)
    faulty.fail("append", nth=nth, how=how)
    await flujo.signal(inner.run_id, "go", 2)
    await until_completed(flujo, clock)
    assert (await flujo.run(run_id="r")).output == 4
    await flujo.aclose()


async def test_a_parent_that_another_version_has_put_off_hears_of_its_child(backend: StateBackend) -> None:
    """As where a runtime that refuses to take it over shares the store."""

    def refuse(state: WorkflowState) -> None:
        raise LookupError("not this one")

    clock = VirtualClock()
    inner = child(wait_for("go"), name="inner")
    old = Flujo(inner >> double, pipeline_name="outer", state_backend=backend, clock=clock)
    new = Flujo(inner, pipeline_name="outer", state_backend=backend, clock=clock, migrate=refuse)
    await old.run(1, run_id="r")
    [below] = await children_of(old)
    await new.signal(below.run_id, "go", 2)
    async with asyncio.timeout(20):
        while (await gone_to_sleep(new)).wake_at is None:
            await ticks()
    await new.aclose()
    clock.advance(30)
    assert (await old.run(run_id="r")).output == 4
    await old.aclose()


@pytest.mark.parametrize(("verb", "nth"), [("create_run", 2), ("append", 3)], ids=["created", "driven"])
@pytest.mark.parametrize("is_in_a_task", [False, True], ids=["called", "in a task"])
async def test_trouble_with_the_store_is_nothing_that_code_can_catch(
    backend: StateBackend, is_in_a_task: bool, verb: str, nth: int
) -> None:
    """It would go another way than in a replay. The drive ends, whatever the code still waits for."""
    caught = list[Exception]()

    @workflow
    async def outer(n: int, ctx: RunContext) -> Any:
        async def careful() -> int:
            try:
                return int(await ctx.child(double >> double, n))
            except Exception as error:
                caught.append(error)
                return 0

        if not is_in_a_task:
            return [await careful(), await ctx.wait_for("ok")]
        return await asyncio.gather(careful(), ctx.wait_for("ok"))

    fails = FaultyBackend(backend)
    trouble = BackendError("it failed")
    trouble.__cause__ = cause = OSError("the disk is gone")
    fails.fail(verb, nth=nth, error=trouble)
    flujo = Flujo(outer, state_backend=fails)
    async with asyncio.timeout(20):
        with pytest.raises(BackendError, match="it failed") as raised:
            await flujo.run(2, run_id="r")
        assert raised.value.__cause__ is cause
        assert (await flujo.resume("r")).status == "paused"
        await flujo.signal("r", "ok", 1)
        assert (await flujo.resume("r")).output == [8, 1]
    assert caught == []
    await flujo.aclose()
