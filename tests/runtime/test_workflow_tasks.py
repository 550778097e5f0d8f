"""Tasks of workflows: cancelled, left behind, and made by the host's own factory."""

import asyncio
import gc
import sys
from typing import Any

import pytest

from flujo_async import (
    Flujo,
    RunContext,
    step,
    workflow,
)
from flujo_async.abc import StateBackend
from flujo_async.backends.memory import InMemoryBackend
from flujo_async.errors import RunFailed
from tests.runtime.crashes import crashes, others, ticks
from tests.runtime.ways import WAYS, broken, double


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
