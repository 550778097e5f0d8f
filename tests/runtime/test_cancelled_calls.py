"""Calls that the code of a workflow cancels: in a replay it cancels them again, at the same place."""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

import pytest

from flujo_async import Flujo, RunContext, Step, StepContext, step, workflow
from flujo_async.abc import StateBackend
from flujo_async.backends.memory import InMemoryBackend
from flujo_async.errors import BackendError, NonDeterminismError, RunFailed
from flujo_async.testing import FaultyBackend
from tests.runtime.crashes import all_but_its_end, ticks
from tests.runtime.executed import EXECUTED


@pytest.fixture(autouse=True)
def nothing_executed() -> None:
    EXECUTED.clear()


@step
async def first(n: int) -> int:
    EXECUTED.append(f"first {n}")
    return n


@step
async def second(n: int) -> int:
    EXECUTED.append(f"second {n}")
    return n


@step
async def for_ever(n: int) -> None:
    await asyncio.Event().wait()


def setting(event: asyncio.Event) -> Step[int, int]:
    """Return a step that sets an event."""

    @step
    async def set_it(n: int) -> int:
        event.set()
        return n

    return set_it


async def test_what_other_tasks_do_as_a_timeout_ends_they_do_again(backend: StateBackend) -> None:
    """They have come no further when it ends, though what is recorded of them comes sooner than its time is over."""
    limits = list[asyncio.Timeout]()

    @step
    async def for_ever(n: int) -> int:
        limits[-1].reschedule(0)  # by now its time is over
        await asyncio.Event().wait()
        return n

    @workflow
    async def flow(n: int) -> list[str]:
        is_late, did = False, list[str]()

        async def wait() -> None:
            nonlocal is_late
            try:
                # In a replay the step is not begun, and time has to pass by itself.
                async with asyncio.timeout(0.01 if limits else None) as limit:
                    limits.append(limit)
                    await for_ever(n)
            except TimeoutError:
                is_late = True

        async def work() -> None:
            for turn in range(4):
                did.append(f"{'second' if is_late else 'first'} {turn}")
                await (second if is_late else first)(turn)

        await asyncio.gather(wait(), work())
        return did

    flujo = Flujo(flow, state_backend=backend)
    done = (await flujo.run(1, run_id="r")).output
    assert done == EXECUTED
    cancelled = next(commit.seq for commit in await flujo.history("r") if commit.fact.kind == "CallCancelled")
    for at in range(cancelled, len(await flujo.history("r"))):
        fork = await flujo.fork("r", at=at)
        assert (await flujo.run(run_id=fork.run_id)).output == done


async def test_one_that_was_cancelled_is_not_executed_again() -> None:
    """The result that it might have by now would contradict what the code has recorded since."""
    is_slow = True

    @step
    async def perhaps_slow(n: int) -> int:
        EXECUTED.append("slow")
        if is_slow:
            await asyncio.Event().wait()
        return n

    @workflow
    async def flow(n: int) -> str:
        task = asyncio.create_task(perhaps_slow(n))
        await first(n)
        task.cancel()
        await asyncio.wait({task})
        return f"{await second(n)}, {'cancelled' if task.cancelled() else 'in time'}"

    flujo = Flujo(flow)
    assert (await flujo.run(1, run_id="r")).output == "1, cancelled"
    is_slow = False
    cancelled = next(commit.seq for commit in await flujo.history("r") if commit.fact.kind == "CallCancelled")
    fork = await flujo.fork("r", at=cancelled)
    EXECUTED.clear()
    assert (await flujo.run(run_id=fork.run_id)).output == "1, cancelled"
    assert EXECUTED == ["second 1"]


async def test_one_that_a_failure_had_cancelled_counts_once_it_has_ended(backend: StateBackend) -> None:
    """After a redrive it is executed, and its result is given back like any other."""
    is_broken = True

    @step
    async def fail(n: int) -> int:
        if is_broken:
            raise ValueError("no")
        return await first.function(n)

    @step
    async def beside(n: int) -> int:
        if is_broken:
            await asyncio.Event().wait()
        return await second.function(n)

    @workflow
    async def flow(n: int) -> int:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(fail(n)), group.create_task(beside(n))]
        return await first(sum(task.result() for task in tasks))

    flujo = Flujo(flow, state_backend=backend)
    with pytest.raises(RunFailed):
        await flujo.run(1, run_id="r")
    is_broken = False
    assert (await flujo.redrive("r")).output == 2
    for commit in (await flujo.history("r"))[4:-1]:
        fork = await flujo.fork("r", at=commit.seq)
        async with asyncio.timeout(5):
            assert (await flujo.run(run_id=fork.run_id)).output == 2
    assert EXECUTED.count("second 1") == 1 + 3  # it is there from the fourth fork on


async def test_code_that_does_not_cancel_it_any_more_is_refused() -> None:
    """And the run does not wait for that for ever."""

    @step
    async def for_ever(n: int) -> int:
        await asyncio.Event().wait()
        return n

    async def flow(n: int, *, cancels: bool) -> int:
        task = asyncio.create_task(for_ever(n))
        await first(n)
        if cancels:
            task.cancel()
        await asyncio.wait({task})
        return await second(n)

    @workflow(name="flow")
    async def before(n: int) -> int:
        return await flow(n, cancels=True)

    @workflow(name="flow")
    async def after(n: int) -> int:
        return await flow(n, cancels=False)

    old = Flujo(before)
    await old.run(1, run_id="r")
    again = await all_but_its_end(old)
    new = Flujo(after, state_backend=old.state_backend)
    EXECUTED.clear()
    async with asyncio.timeout(5):
        with pytest.raises(NonDeterminismError, match="that the code cancels 'for_ever"):
            await new.run(run_id=again)
    assert EXECUTED == []
    assert (await old.run(run_id=again)).output == 1


async def test_code_that_was_mended_need_not_cancel_it_again() -> None:
    """Its own failure had cancelled that; since then the run was redriven."""
    is_broken = True

    @step
    async def beside(n: int) -> int:
        if is_broken:
            await asyncio.Event().wait()
        return await second.function(n)

    @workflow
    async def flow(n: int) -> int:
        async def decide() -> int:
            await first(n)
            if is_broken:
                raise ValueError("a bug")
            return n

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(decide()), group.create_task(beside(n))]
        return await first(sum(task.result() for task in tasks))

    flujo = Flujo(flow)
    with pytest.raises(RunFailed):
        await flujo.run(1, run_id="r")
    is_broken = False
    assert (await flujo.redrive("r")).output == 2
    assert EXECUTED == ["first 1", "second 1", "first 2"]
    again = await all_but_its_end(flujo)
    async with asyncio.timeout(5):
        assert (await flujo.run(run_id=again)).output == 2
    assert EXECUTED == ["first 1", "second 1", "first 2"]


async def test_what_comes_while_a_cancelled_step_ends_comes_first_again() -> None:
    """A step may take its time to clear up when it is cancelled; the code goes on with its other tasks meanwhile."""
    cleared = asyncio.Event()
    clear = setting(cleared)

    @step
    async def long(n: int) -> int:
        try:
            await asyncio.Event().wait()
        finally:
            await cleared.wait()
        return n

    @workflow
    async def flow(n: int) -> list[str]:
        order = list[str]()

        async def note(name: str, call: Awaitable[int]) -> None:
            with suppress(asyncio.CancelledError):
                await call
            order.append(name)

        cancelled = asyncio.create_task(note("cancelled", long(n)))
        await first(n)
        cancelled.cancel()
        await asyncio.create_task(note("second", second(n)))
        await asyncio.create_task(note("clear", clear(n)))
        await cancelled
        await second(n)
        return order

    flujo = Flujo(flow)
    order = (await flujo.run(1, run_id="r")).output
    assert order[0] == "second"
    again = await all_but_its_end(flujo)
    assert (await flujo.run(run_id=again)).output == order


async def test_a_task_made_of_a_call_goes_on_when_the_one_that_made_it_is_cancelled() -> None:
    """The call is known by the task that has made it, and belongs to the other."""
    going_on = asyncio.Event()
    go_on = setting(going_on)

    @step
    async def beside(n: int) -> int:
        await going_on.wait()
        return n

    @workflow
    async def flow(n: int) -> list[int]:
        made = list[asyncio.Task[int]]()

        async def make() -> None:
            made.append(asyncio.create_task(beside(n)))
            await asyncio.wait(made)

        making = asyncio.create_task(make())
        await first(n)
        making.cancel()
        await go_on(n)
        order = [await asyncio.wait_for(made[0], 5)]
        return [*order, await second(n)]

    flujo = Flujo(flow)
    assert (await flujo.run(1, run_id="r")).output == [1, 1]
    before = list(EXECUTED)
    again = await all_but_its_end(flujo)
    assert (await flujo.run(run_id=again)).output == [1, 1]
    assert before == EXECUTED


async def test_a_child_that_is_cancelled_after_a_crash_is_ended() -> None:
    """It had begun, and nothing is recorded of the cancellation."""
    has_begun = asyncio.Event()
    faulty = FaultyBackend(InMemoryBackend())

    @step
    async def for_ever(n: int) -> int:
        has_begun.set()
        await asyncio.Event().wait()
        return n

    @workflow
    async def other(n: int) -> int:
        return await for_ever(n)

    @step
    async def last(n: int) -> int:
        await has_begun.wait()
        faulty.crash("append", how="after")
        return n

    @workflow
    async def flow(n: int, ctx: RunContext) -> int:
        child = asyncio.ensure_future(ctx.child(other, n))
        await last(n)
        child.cancel()
        await asyncio.wait({child})
        return await first(n)

    before = Flujo(flow, state_backend=faulty, pipeline_name="flow")
    with pytest.raises(BackendError):
        await before.run(1, run_id="r")
    await before.aclose()
    after = Flujo(flow, state_backend=faulty.inner, pipeline_name="flow")
    assert (await after.run(run_id="r")).output == 1
    [child] = await after.list_runs(parent_run_id="r")
    assert child.status == "cancelled"


async def test_what_is_cancelled_at_one_instant_is_heard_of_at_one_instant() -> None:
    """Whoever waits for the first of it gets all of it, in a replay too."""

    @workflow
    async def flow(n: int) -> list[int]:
        tasks = [asyncio.create_task(for_ever(each)) for each in range(3)]
        await first(n)
        for task in tasks:
            task.cancel()
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return [len(done), await second(n)]

    flujo = Flujo(flow)
    assert (await flujo.run(7, run_id="r")).output == [3, 7]
    again = await all_but_its_end(flujo)
    assert (await flujo.run(run_id=again)).output == [3, 7]


async def test_what_ends_one_after_the_other_is_heard_of_so() -> None:
    """In a replay nothing takes its time to end, and the code may do one thing or another as it hears of each."""

    @step
    async def slow_to_end(n: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await ticks(n)

    @workflow
    async def flow(n: int) -> list[Any]:
        order = list[int]()

        async def note(number: int, call: Awaitable[None]) -> None:
            try:
                await call
            finally:
                order.append(number)

        tasks = [asyncio.create_task(note(each, slow_to_end(each))) for each in (40, 20, 1)]
        await first(n)
        for task in tasks:
            task.cancel()
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait(tasks)
        return [*order, len(done), await second(n)]

    flujo = Flujo(flow)
    output = (await flujo.run(7, run_id="r")).output
    assert output == [1, 20, 40, 1, 7]
    again = await all_but_its_end(flujo)
    assert (await flujo.run(run_id=again)).output == output


async def test_one_that_had_ended_is_heard_of_in_the_place_of_its_result() -> None:
    """Its result was to be heard of after the one that has the code cancel it, and before that of another task."""

    @step
    async def a_little_later(n: int) -> int:
        await ticks(3)
        return n

    @workflow
    async def flow(n: int) -> list[str]:
        order = list[str]()

        async def note(name: str, call: Awaitable[int]) -> None:
            try:
                await call
            except asyncio.CancelledError:
                order.append(f"{name} cancelled")
                raise
            order.append(name)

        async def race() -> None:
            tasks = [asyncio.create_task(note("first", first(n))), asyncio.create_task(note("second", second(n)))]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            tasks[1].cancel()
            await asyncio.wait(tasks)

        await asyncio.gather(race(), note("beside", a_little_later(n)))
        return order

    flujo = Flujo(flow)
    output = (await flujo.run(1, run_id="r")).output
    assert output == ["first", "second cancelled", "beside"]
    for at in range(2, len(await flujo.history("r"))):
        fork = await flujo.fork("r", at=at)
        assert (await flujo.run(run_id=fork.run_id)).output == output


async def test_what_a_step_has_changed_that_is_cancelled_as_it_ends_is_seen_at_the_same_place_again() -> None:
    is_writing = asyncio.Event()

    @step
    async def change(n: int, ctx: StepContext) -> int:
        ctx.state["n"] = n
        return n

    @workflow
    async def flow(n: int, ctx: RunContext) -> int:
        async def together() -> None:
            await asyncio.gather(change(n), for_ever(n))

        working = asyncio.create_task(together())
        await is_writing.wait()
        await ticks()  # in a replay it need not wait, and the tasks have to begin
        working.cancel()
        await asyncio.wait({working})
        return await second(ctx.state.get("n", 0))

    backend = FaultyBackend(InMemoryBackend())
    backend.delay("append", until=lambda: _set_and_let_go_on(is_writing))
    flujo = Flujo(flow, state_backend=backend)
    output = (await flujo.run(7, run_id="r")).output
    again = await all_but_its_end(flujo)
    assert (await flujo.run(run_id=again)).output == output


async def _set_and_let_go_on(event: asyncio.Event) -> None:
    event.set()
    await ticks(100)
