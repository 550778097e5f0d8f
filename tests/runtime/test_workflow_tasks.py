"""Tasks of workflows: cancelled, left behind, and made by the host's own factory."""

import asyncio
import gc
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from flujo_async import (
    Flujo,
    RunContext,
    step,
    workflow,
)
from flujo_async._model.facts import StepCompleted
from flujo_async.abc import StateBackend
from flujo_async.abc.pace import Pace
from flujo_async.backends.memory import InMemoryBackend
from flujo_async.errors import RunFailed
from tests.runtime.crashes import crashes, others, ticks
from tests.runtime.executed import EXECUTED
from tests.runtime.pretend import eager_tasks
from tests.runtime.ways import WAYS, again, broken, double


@dataclass
class Item:
    """Something that tasks are made for."""

    price: int


async def bought(i: int) -> tuple[int, int]:
    """Make a call that is equal in all tasks, with unequal results."""
    return await double(i), await again(0)


@step
async def once(n: int) -> int:
    """Count without waiting for anything."""
    return n + 1


async def first_of_all(call: Coroutine[Any, Any, int]) -> tuple[int, int]:
    """Do the same with a call that was made elsewhere."""
    return await call, await again(0)


MAKERS: list[Callable[[int], Coroutine[Any, Any, tuple[int, int]]]] = [
    bought,
    lambda i: first_of_all(double(i)),
    lambda i: asyncio.wait_for(bought(i), 20),
    lambda i: asyncio.wait_for(first_of_all(double(i)), 20),
]


class TestIdentity:
    """What a task is known by in the next process."""

    @pytest.mark.parametrize("make", MAKERS)
    async def test_made_in_another_order_they_are_the_same(self, make: Any, backend: StateBackend) -> None:
        """As by code that walks through a set of texts."""
        orders = iter([[1, 2, 3], [3, 1, 2]])
        found = list[dict[int, tuple[int, int]]]()

        @workflow
        async def flow(n: int, ctx: RunContext) -> int:
            tasks = {i: asyncio.create_task(make(i)) for i in next(orders)}
            await asyncio.gather(*tasks.values())
            found.append({i: task.result() for i, task in tasks.items()})
            return await ctx.wait_for("go", schema=int)

        flujo = Flujo(flow, state_backend=backend)
        await flujo.run(1, run_id="r")
        executed = len(EXECUTED)
        await flujo.signal("r", "go", 1)
        assert (await Flujo(flow, state_backend=backend).run(run_id="r")).output == 1
        assert found[0] == found[1]
        assert len(EXECUTED) == executed

    async def test_what_their_function_sees_around_itself_does_not_count(self, backend: StateBackend) -> None:
        """It may be the time."""
        moments, seen = count(), list[int]()

        @workflow
        async def flow(n: int, ctx: RunContext) -> int:
            began = next(moments)

            async def one(i: int) -> int:
                seen.append(began)
                return await double(i)

            await asyncio.gather(one(1), one(2))
            return await ctx.wait_for("go", schema=int)

        flujo = Flujo(flow, state_backend=backend)
        await flujo.run(1, run_id="r")
        await flujo.signal("r", "go", 1)
        assert (await Flujo(flow, state_backend=backend).run(run_id="r")).output == 1
        assert set(seen) == {0, 1}

    async def test_what_has_run_before_does_not_count(self, backend: StateBackend) -> None:
        """A step that the workflow has no name for tells of a class only when it is called."""

        @step
        async def price(item: Item) -> int:
            return item.price

        shop = SimpleNamespace(price=price)

        @workflow
        async def flow(is_to_wait: bool, ctx: RunContext) -> int:
            async def one(item: Item) -> int:
                return await double(await shop.price(item))

            prices = await asyncio.gather(one(Item(1)), one(Item(2)))
            return sum(prices) + (await ctx.wait_for("go", schema=int) if is_to_wait else 0)

        flujo = Flujo(flow, state_backend=backend)
        assert (await flujo.run(False, run_id="before")).output == 6
        await flujo.run(True, run_id="r")
        await flujo.signal("r", "go", 1)
        assert (await Flujo(flow, state_backend=backend).run(run_id="r")).output == 7

    @pytest.mark.parametrize("turns", range(9))
    async def test_it_may_be_asked_a_little_later_whether_it_is_done(self, turns: int, backend: StateBackend) -> None:
        """The answer is the same in a replay, also of the first task after a step."""

        @workflow
        async def flow(n: int, ctx: RunContext) -> int:
            await double(n)
            task = asyncio.create_task(double(1))
            await ticks(turns)
            await double(10 if task.done() else 20)
            await task
            return await ctx.wait_for("go", schema=int)

        flujo = Flujo(flow, state_backend=backend)
        await flujo.run(1, run_id="r")
        await flujo.signal("r", "go", 1)
        assert (await Flujo(flow, state_backend=backend).run(run_id="r")).output == 1


async def test_when_its_tasks_have_ended_a_workflow_is_as_quick_as_before() -> None:
    """There is nothing beside it any more that a commit, or a result, would wait for."""
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1
        asyncio.get_running_loop().call_soon(turn)

    @workflow
    async def flow(n: int) -> int:
        await asyncio.gather(double(1), double(2))
        for _ in range(100):
            n = await once(n)
        return n

    with Pace.here().timeless():
        turn()
        assert (await Flujo(flow).run(1)).output == 101
    assert turns < 60


class TestTimeouts:
    """``asyncio.timeout`` around calls."""

    async def test_a_step_in_time_is_not_disturbed(self) -> None:
        """The scope is asyncio's."""

        @workflow
        async def flow(n: int) -> int:
            async with asyncio.timeout(20):
                return await double(n)

        assert (await Flujo(flow).run(2)).output == 4

    async def test_a_step_that_is_late_is_cancelled(self, backend: StateBackend) -> None:
        """The code goes on with ``TimeoutError``; so it does after a crash."""
        fates, limits = list[str](), list[asyncio.Timeout]()

        @step
        async def slow(n: int) -> int:
            limits[-1].reschedule(0)  # by now its time is over
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                fates.append("cancelled")
                raise
            return n

        @workflow
        async def flow(n: int) -> int:
            try:
                # In a replay the step is not begun, and time has to pass by itself.
                async with asyncio.timeout(0.01 if fates else None) as limit:
                    limits.append(limit)
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
            async with asyncio.timeout(20):
                assert (await Flujo(flow, state_backend=backend).run(run_id=run_id)).output == 12
        assert others() == set()


async def test_a_task_goes_on_though_the_one_that_has_made_it_was_cancelled(backend: StateBackend) -> None:
    """A shield is for that. In a replay it is given what it was given before, and when it was."""

    @workflow
    async def flow(n: int) -> list[int]:
        kept, order = list[asyncio.Task[None]](), list[int]()

        async def keep() -> None:
            order.append(await double(1))
            for _ in range(20):  # it takes its time to ask for the next one
                await asyncio.sleep(0)
            order.append(await double(2))

        async def guarded() -> None:
            kept.append(asyncio.create_task(keep()))
            await asyncio.shield(kept[0])

        guard = asyncio.create_task(guarded())
        order.append(await double(10))
        guard.cancel()
        await asyncio.wait({guard})
        for each in range(11, 15):
            order.append(await double(each))
        await kept[0]
        return order

    flujo = Flujo(flow, state_backend=backend)
    order = (await flujo.run(1, run_id="first")).output
    assert sorted(order) == [2, 4, 20, 22, 24, 26, 28]
    known = 0
    for change in (await flujo.history("first"))[:-1]:
        known += isinstance(change.fact, StepCompleted)
        fork = await flujo.fork("first", at=change.seq)
        in_turn = (await flujo.run(run_id=fork.run_id)).output
        assert (in_turn[:known], sorted(in_turn)) == (order[:known], sorted(order))


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

    async def test_none_goes_on_where_the_run_is_cancelled_while_another_is_ended(self) -> None:
        """It would execute its step beside whoever takes the run up."""
        is_ending, may_end, ended = asyncio.Event(), asyncio.Event(), list[str]()

        @step
        async def wait(name: str) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                is_ending.set()
                await may_end.wait()
                ended.append(name)

        @workflow
        async def flow(n: int) -> None:
            await asyncio.gather(wait("one"), wait("other"), broken(n))

        run = asyncio.create_task(Flujo(flow).run(1))
        await is_ending.wait()
        run.cancel()
        await ticks()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert sorted(ended) == ["one", "other"]
        assert others() == set()

    async def test_a_failure_that_is_looked_at_after_a_pause_is_not_reported_as_forgotten(
        self, backend: StateBackend, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The code comes to it when the run goes on."""

        @workflow
        async def flow(n: int, ctx: RunContext) -> int:
            failing = asyncio.create_task(broken(n))
            answer = await ctx.wait_for("ok", schema=int)
            try:
                return await failing
            except ValueError:
                return answer

        flujo = Flujo(flow, state_backend=backend)
        assert (await flujo.run(1, run_id="r")).status == "paused"
        await flujo.signal("r", "ok", 7)
        assert (await flujo.resume("r")).output == 7
        await flujo.aclose()
        gc.collect()
        assert [record.message for record in caplog.records if "never retrieved" in record.message] == []

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

    async def test_a_set_of_eager_tasks_has_the_same_order_in_a_replay(self) -> None:
        """As one of others has."""

        @workflow
        async def flow(n: int) -> list[int]:
            done, _ = await asyncio.wait([asyncio.create_task(double(i)) for i in range(n)])
            return [task.result() for task in done]

        flujo = Flujo(flow)
        with eager_tasks():
            result = await flujo.run(20, run_id="first")
            *_, last, _ = await flujo.history("first")
            await flujo.fork("first", at=last.seq, new_run_id="again")
            assert (await flujo.run(run_id="again")).output == result.output

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
