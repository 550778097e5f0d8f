"""How long runs are kept that have ended."""

import asyncio
import logging
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from typing_extensions import override

from flujo_async import (
    Flujo,
    PipelineRegistry,
    Retention,
    RunContext,
    RunResult,
    StateBackend,
    Worker,
    step,
    wait_for,
    workflow,
)
from flujo_async._model.stored import RunQuery
from flujo_async.backends.memory import InMemoryBackend
from flujo_async.errors import BackendError, DefinitionError, InvalidArgument, RunCancelled, RunFailed, RunNotFound
from flujo_async.testing import VirtualClock
from tests.runtime.crashes import ticks
from tests.runtime.pretend import Wrapped, failing, gated_store, until
from tests.runtime.stores import Store

DAY = timedelta(days=1)


@step
async def double(n: int) -> int:
    if n < 0:
        raise ValueError("negative")
    return n * 2


@workflow
async def family(n: int, ctx: RunContext) -> int:
    return await ctx.child(double, n, run_id=f"{ctx.run_id}.child")


@workflow
async def clan(n: int, ctx: RunContext) -> int:
    return await ctx.child(family, n, run_id=f"{ctx.run_id}.child")


async def ids(flujo: Flujo[Any, Any]) -> list[str]:
    """Return the names of all runs, the oldest first."""
    return [head.run_id for head in await flujo.list_runs(limit=None)][::-1]


async def run_each(flujo: Flujo[Any, Any], clock: VirtualClock, *run_ids: str, n: int = 1) -> None:
    for run_id in run_ids:
        clock.advance(timedelta(seconds=1))
        if n < 0:
            with pytest.raises(RunFailed):
                await flujo.run(n, run_id=run_id)
        else:
            await flujo.run(n, run_id=run_id)


async def swept(flujo: Flujo[Any, Any], expected: list[str]) -> None:
    """Return when the store has just these runs: they go in the background, which rests after each look."""
    with suppress(TimeoutError):
        async with asyncio.timeout(30):
            while await ids(flujo) != expected:
                await asyncio.sleep(0.001)
    assert await ids(flujo) == expected


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"keep_last": 0},
        {"keep_last": 1.5},
        {"keep_last": True},
        {"ttl": timedelta(0)},
        {"ttl": -1},
        {"ttl": float("inf")},
        {"ttl": "30d"},
        {"on_complete": "drop"},
    ],
)
def test_what_is_no_retention(arguments: dict[str, Any]) -> None:
    with pytest.raises(DefinitionError, match="Retention"):
        Retention(**arguments)


def test_a_length_of_time_is_no_retention_by_itself() -> None:
    retention: Any = timedelta(days=30)
    with pytest.raises(InvalidArgument, match="retention= is a Retention"):
        Flujo(double, retention=retention)


class TestKeepLast:
    """So many of each definition."""

    async def test_the_newest_are_kept(self, backend: StateBackend) -> None:
        """Whenever one ends, the oldest goes; nobody has to ask for it."""
        clock = VirtualClock()
        async with Flujo(double, state_backend=backend, clock=clock, retention=Retention(keep_last=2)) as flujo:
            await run_each(flujo, clock, "a", "b", "c")
            await swept(flujo, ["b", "c"])
            await run_each(flujo, clock, "d")
            await swept(flujo, ["c", "d"])

    async def test_of_each_definition(self) -> None:
        """Whose runs are counted apart."""
        clock, registry = VirtualClock(), PipelineRegistry()
        registry.register(double, "one", "1.0.0")
        registry.register(double, "two", "1.0.0")
        backend = InMemoryBackend()
        one, two = (
            Flujo(
                registry=registry,
                pipeline_name=name,
                state_backend=backend,
                clock=clock,
                retention=Retention(keep_last=1),
            )
            for name in ("one", "two")
        )
        await run_each(two, clock, "old")
        await run_each(one, clock, "a", "b")
        await swept(one, ["old", "b"])
        await run_each(two, clock, "new")
        await swept(two, ["b", "new"])
        await one.aclose()
        await two.aclose()

    async def test_runs_of_others_are_left_alone(self) -> None:
        """Only of definitions that the runtime knows anything about the worth of runs is known."""
        clock, backend = VirtualClock(), InMemoryBackend()
        other = Flujo(double, pipeline_name="other", state_backend=backend, clock=clock)
        await run_each(other, clock, "x", "y")
        flujo = Flujo(double, state_backend=backend, clock=clock, retention=Retention(keep_last=1, ttl=DAY))
        clock.advance(DAY * 2)
        await run_each(flujo, clock, "a", "b")
        await swept(flujo, ["x", "y", "b"])
        assert await flujo.compact() == 0
        await flujo.aclose()

    async def test_what_has_not_ended_is_never_touched(self, backend: StateBackend) -> None:
        """Nor does it count."""
        clock = VirtualClock()
        flujo = Flujo(
            double >> wait_for("go"), state_backend=backend, clock=clock, retention=Retention(keep_last=1, ttl=1)
        )
        await run_each(flujo, clock, "paused")
        await flujo.dispatch(1, run_id="pending")
        await flujo.fork("paused", new_run_id="fork")
        for run_id in ("a", "b"):
            await run_each(flujo, clock, run_id)
            await flujo.signal(run_id, "go", 1)
            await flujo.handle(run_id).result()
        clock.advance(DAY)
        await flujo.compact()
        await swept(flujo, ["pending", "paused", "fork"])  # some may be going in the background already
        await flujo.aclose()

    async def test_failed_ones_neither_count_nor_go(self) -> None:
        """They are dead letters; cancelled ones do both."""
        clock = VirtualClock()
        flujo = Flujo(double >> wait_for("go"), clock=clock, retention=Retention(keep_last=1))
        await run_each(flujo, clock, "failed", n=-1)
        await run_each(flujo, clock, "a")
        await flujo.cancel("a")
        await run_each(flujo, clock, "b")
        await flujo.cancel("b")
        await run_each(flujo, clock, "failed again", n=-1)
        await swept(flujo, ["failed", "b", "failed again"])
        assert await flujo.compact() == 0
        await flujo.aclose()

    async def test_many(self) -> None:
        """More than a page of them, in one go; and what came first goes."""
        backend, clock = InMemoryBackend(), VirtualClock()
        await run_each(Flujo(double, state_backend=backend, clock=clock), clock, *(f"{i:03}" for i in range(450)))
        flujo = Flujo(double, state_backend=backend, clock=clock, retention=Retention(keep_last=7))
        assert await flujo.compact() == 443
        assert await ids(flujo) == [f"{i:03}" for i in range(443, 450)]
        assert await flujo.compact() == 0


class TestAge:
    """``ttl``."""

    async def test_what_ended_long_ago_goes(self, backend: StateBackend) -> None:
        """Failed or not; counted from its end."""
        clock = VirtualClock()
        flujo = Flujo(double, state_backend=backend, clock=clock, retention=Retention(ttl=30 * DAY))
        await run_each(flujo, clock, "old")
        await run_each(flujo, clock, "failed", n=-1)
        clock.advance(29 * DAY)
        await run_each(flujo, clock, "new")
        assert await flujo.compact() == 0
        clock.advance(DAY)
        await run_each(flujo, clock, "newest")
        await swept(flujo, ["new", "newest"])
        await flujo.aclose()

    async def test_what_began_long_ago_and_ended_today_stays(self) -> None:
        clock = VirtualClock()
        flujo = Flujo(double >> wait_for("go"), clock=clock, retention=Retention(ttl=DAY))
        await run_each(flujo, clock, "a")
        clock.advance(10 * DAY)
        await flujo.signal("a", "go", 1)
        await flujo.handle("a").result()
        assert await flujo.compact() == 0
        clock.advance(DAY)
        assert await flujo.compact() == 1
        await flujo.aclose()

    async def test_a_dead_letter_does_not_go_in_silence(self, caplog: pytest.LogCaptureFixture) -> None:
        clock = VirtualClock()
        flujo = Flujo(double, clock=clock, retention=Retention(ttl=DAY))
        await run_each(flujo, clock, "a")
        await run_each(flujo, clock, "failed", n=-1)
        clock.advance(2 * DAY)
        with caplog.at_level(logging.WARNING, "flujo_async"):
            assert await flujo.compact() == 2
        assert [record.getMessage() for record in caplog.records] == [
            "run 'failed', which had failed, is deleted: ValueError: negative"
        ]

    async def test_longer_than_time_itself(self) -> None:
        clock = VirtualClock()
        flujo = Flujo(double, clock=clock, retention=Retention(ttl=1e11))
        await run_each(flujo, clock, "a")
        assert await flujo.compact() == 0
        await flujo.aclose()

    async def test_the_store_is_not_looked_through_for_every_run(self) -> None:
        """For ages alone now and then is enough."""
        clock, noting = VirtualClock(), Listings(InMemoryBackend())
        flujo = Flujo(double, state_backend=noting, clock=clock, retention=Retention(ttl=20 * DAY))
        await run_each(flujo, clock, *(f"{i}" for i in range(50)))
        await flujo.aclose()
        assert noting.listings <= 1
        clock.advance(timedelta(hours=1))
        await run_each(flujo, clock, "later")
        await until(lambda: noting.listings == 2)
        await flujo.aclose()


class Listings(Wrapped):
    """Counts how often whole definitions are listed."""

    listings = 0

    @override
    async def query_runs(self, query: Any) -> Any:
        self.listings += query.pipeline_name is not None
        return await self.inner.query_runs(query)


class TestChildren:
    """They stay as long as their parent, and go with it."""

    @pytest.mark.parametrize("definition", [family, clan])
    async def test_they_go_with_their_parent(self, backend: StateBackend, definition: Any) -> None:
        """Also where the child's definition has runs enough of its own."""
        clock = VirtualClock()
        flujo = Flujo(definition, state_backend=backend, clock=clock, retention=Retention(keep_last=2))
        await run_each(flujo, clock, "a", "b")
        kept = await ids(flujo)
        assert len(kept) == (4 if definition is family else 6)
        assert await flujo.compact() == 0
        await run_each(flujo, clock, "c")
        deadline = [run_id for run_id in kept if not run_id.startswith("a")]
        await until_gone(flujo, "a")
        assert [run_id for run_id in await ids(flujo) if not run_id.startswith("c")] == deadline
        await flujo.aclose()

    async def test_one_whose_parent_is_gone_is_a_run_like_others(self) -> None:
        """As a delete leaves it that was interrupted."""
        clock = VirtualClock()
        flujo = Flujo(family, clock=clock, retention=Retention(ttl=DAY))
        await run_each(flujo, clock, "a")
        await flujo.state_backend.delete_run("a")
        clock.advance(DAY)
        assert await ids(flujo) == ["a.child"]
        assert await flujo.compact() == 1
        assert await ids(flujo) == []

    async def test_a_parent_waits_for_a_child_that_goes_on(self) -> None:
        """What has not ended is never touched, nor what it belongs to."""
        clock, backend = VirtualClock(), InMemoryBackend()
        flujo = Flujo(family, state_backend=backend, clock=clock, retention=Retention(ttl=DAY))
        await run_each(flujo, clock, "a")
        await backend.delete_run("a.child")
        other = Flujo(double, pipeline_name="double", state_backend=backend, clock=clock)
        await other.fork("a", new_run_id="a.child")
        [head] = await backend.query_runs(query_of("a.child"))
        assert head.status == "pending"
        await adopt(backend, "a.child", "a")
        clock.advance(2 * DAY)
        assert await flujo.compact() == 0
        assert sorted(await ids(flujo)) == ["a", "a.child"]


def query_of(run_id: str) -> Any:
    return RunQuery(run_id=run_id)


async def adopt(backend: StateBackend, run_id: str, parent_run_id: str) -> None:
    """Make a run a child, as no runtime would."""
    from dataclasses import replace

    from flujo_async._model.stored import NewRun

    run = await backend.load(run_id)
    assert run is not None
    await backend.delete_run(run_id)
    await backend.create_run(NewRun(replace(run.summary, parent_run_id=parent_run_id), run.records))


async def until_gone(flujo: Flujo[Any, Any], run_id: str) -> None:
    async with asyncio.timeout(30):
        while run_id in await ids(flujo):
            await asyncio.sleep(0.001)


class TestOnComplete:
    """``on_complete="delete"``."""

    @pytest.mark.parametrize("how", ["run", "resume", "start", "stream", "redrive"])
    async def test_a_run_goes_when_its_result_was_handed_out(self, backend: StateBackend, how: str) -> None:
        flujo = Flujo(double, state_backend=backend, retention=Retention(on_complete="delete"))
        match how:
            case "run":
                assert (await flujo.run(1, run_id="a")).output == 2
            case "resume":
                await flujo.dispatch(1, run_id="a")
                assert (await flujo.resume("a")).output == 2
            case "start":
                assert (await (await flujo.start(1, run_id="a")).result()).output == 2
            case "stream":
                assert [event.kind async for event in flujo.stream(1, run_id="a")][-1] == "RunCompleted"
            case _:
                with pytest.raises(RunFailed):
                    await flujo.run(-1, run_id="a")
                assert (await flujo.redrive("a", decision="skip", output=4)).output == 4
        await flujo.aclose()
        assert await ids(flujo) == []
        with pytest.raises(RunNotFound):
            await flujo.resume("a")

    async def test_it_stays_until_somebody_has_it(self) -> None:
        """However long that takes; ``compact`` does not wait."""
        flujo = Flujo(double, retention=Retention(on_complete="delete"))
        await flujo.start(1, run_id="a")
        await flujo.dispatch(1, run_id="b")
        async with Worker(flujo):
            while (await flujo.handle("b").status(), await flujo.handle("a").status()) != ("completed", "completed"):
                await asyncio.sleep(0)
        assert sorted(await ids(flujo)) == ["a", "b"]
        assert (await flujo.handle("b").result()).output == 2
        await until_gone(flujo, "b")
        assert await flujo.compact() == 1
        await flujo.aclose()

    async def test_all_who_wait_for_it_get_it(self) -> None:
        """It goes with the last of them, also if that one gives up."""
        gated, gate = gated_store(InMemoryBackend(), "append")
        flujo = Flujo(double, state_backend=gated, retention=Retention(on_complete="delete"))
        handle = await flujo.start(1, run_id="a")
        await gate.reached()
        waiting = [asyncio.create_task(handle.result()) for _ in range(5)]
        waiting += [asyncio.create_task(flujo.run(1, run_id="a")) for _ in range(5)]
        await asyncio.sleep(0)
        gate.release()
        results: list[RunResult[Any]] = await asyncio.gather(*waiting)
        assert [result.output for result in results] == [2] * 10
        await until_gone(flujo, "a")
        await flujo.aclose()

    async def test_failed_and_cancelled_ones_stay(self) -> None:
        """A dead letter waits for somebody who looks at it."""
        flujo = Flujo(double >> wait_for("go"), retention=Retention(on_complete="delete"))
        with pytest.raises(RunFailed):
            await flujo.run(-1, run_id="failed")
        await flujo.run(1, run_id="cancelled")
        await flujo.cancel("cancelled")
        with pytest.raises(RunCancelled):
            await flujo.run(run_id="cancelled")
        assert (await flujo.run(1, run_id="paused")).status == "paused"
        await flujo.aclose()
        assert await flujo.compact() == 0
        assert sorted(await ids(flujo)) == ["cancelled", "failed", "paused"]

    async def test_a_child_goes_with_its_parent_only(self) -> None:
        flujo = Flujo(family >> wait_for("go"), retention=Retention(on_complete="delete"))
        await flujo.run(1, run_id="a")
        assert (await flujo.handle("a.child").result()).output == 2
        await asyncio.sleep(0.01)
        assert sorted(await ids(flujo)) == ["a", "a.child"]
        await flujo.signal("a", "go", 1)
        await flujo.handle("a").result()
        await flujo.aclose()
        assert await ids(flujo) == []

    async def test_one_that_was_begun_anew_meanwhile_is_not_deleted(self) -> None:
        """Between seeing that it has ended and deleting it somebody may have used its name again."""
        inner = InMemoryBackend()
        gated, gate = gated_store(inner, "claim")
        flujo = Flujo(double, state_backend=gated, retention=Retention(on_complete="delete"))
        await flujo.run(1, run_id="a")
        await gate.reached()
        await inner.delete_run("a")
        other = Flujo(double, state_backend=inner)
        await other.dispatch(5, run_id="a")
        gate.release()
        await flujo.aclose()
        assert await ids(other) == ["a"]
        assert (await other.run(5, run_id="a")).output == 10


class TestTrouble:
    """A retention never harms a run."""

    @pytest.mark.parametrize("verb", ["claim", "delete_run"])
    async def test_a_store_that_fails_is_told_and_tried_again(
        self, verb: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        clock = VirtualClock()
        faulty = failing(InMemoryBackend(), verb)
        flujo = Flujo(double, state_backend=faulty, clock=clock, retention=Retention(keep_last=1))
        await run_each(flujo, clock, "a", "b")
        await until(lambda: not faulty.plan)
        await run_each(flujo, clock, "c")
        await swept(flujo, ["c"])
        assert "the disk is full" in caplog.text
        await flujo.aclose()

    async def test_compact_says_when_it_fails(self) -> None:
        clock = VirtualClock()
        faulty = failing(InMemoryBackend(), "delete_run")
        flujo = Flujo(double, state_backend=faulty, clock=clock, retention=Retention(ttl=DAY))
        await run_each(flujo, clock, "a")
        clock.advance(DAY)
        with pytest.raises(BackendError, match="the disk is full"):
            await flujo.compact()
        assert await flujo.compact() == 1

    async def test_one_that_somebody_tries_again_stays(self) -> None:
        """Who redrives a run has it."""
        clock, inner = VirtualClock(), InMemoryBackend()
        gated, gate = gated_store(inner, "claim")
        flujo = Flujo(double, state_backend=inner, clock=clock)
        await run_each(flujo, clock, "a", n=-1)
        clock.advance(2 * DAY)
        sweeping = Flujo(double, state_backend=gated, clock=clock, retention=Retention(ttl=DAY))
        compacting = asyncio.create_task(sweeping.compact())
        await gate.reached()
        assert (await flujo.redrive("a", decision="skip", output=7)).output == 7
        gate.release()
        assert await compacting == 0
        assert (await flujo.run(run_id="a")).output == 7

    async def test_two_at_once_delete_each_run_once(self, backend: StateBackend) -> None:
        clock = VirtualClock()
        flujo = Flujo(double, state_backend=backend, clock=clock, retention=Retention(ttl=DAY))
        await run_each(Flujo(double, state_backend=backend, clock=clock), clock, *(f"{i}" for i in range(30)))
        clock.advance(DAY)
        assert sum(await asyncio.gather(*(flujo.compact() for _ in range(4)))) == 30

    async def test_without_a_retention_nothing_goes(self, backend: StateBackend) -> None:
        clock = VirtualClock()
        flujo = Flujo(double, state_backend=backend, clock=clock)
        await run_each(flujo, clock, "a", "b")
        clock.advance(1000 * DAY)
        assert await flujo.compact() == 0
        assert await ids(flujo) == ["a", "b"]

    async def test_closing_lets_a_look_come_to_its_end(self, store: Store) -> None:
        """So that runs go as well where each process ends with its run."""
        clock = VirtualClock()
        for run_id in "abc":
            clock.advance(timedelta(seconds=1))
            async with Flujo(
                double, state_backend=store.open(), clock=clock, retention=Retention(keep_last=1)
            ) as flujo:
                await flujo.run(1, run_id=run_id)
        assert await ids(Flujo(double, state_backend=store.open())) == ["c"]

    @pytest.mark.parametrize("after", [False, True])
    async def test_closing_ends_a_look_that_takes_long(self, after: bool) -> None:
        """A claim that the store has in hands comes to its end, and its lease is given back."""
        clock = VirtualClock()
        gated, gate = gated_store(InMemoryBackend(), "claim", after=after)
        flujo = Flujo(double, state_backend=gated, clock=clock, retention=Retention(keep_last=1))
        await run_each(flujo, clock, "a", "b")
        await gate.reached()
        closing = asyncio.create_task(flujo.aclose())
        await ticks(20)
        clock.advance(timedelta(seconds=2))
        await ticks(20)
        gate.release()
        await closing
        assert {task.get_name() for task in asyncio.all_tasks()} == {task_name()}
        assert await gated.query_runs(RunQuery(is_leased=True)) == []
        assert await ids(flujo) == ["a", "b"]


def task_name() -> str:
    task = asyncio.current_task()
    assert task is not None
    return task.get_name()
