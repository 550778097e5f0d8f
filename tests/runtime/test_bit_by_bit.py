"""Runs that wait for much, and are answered bit by bit, while they leave memory in between."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from flujo_async import FileBackend, Flujo, InMemoryBackend, RunContext, workflow
from flujo_async._model.facts import RunPaused
from flujo_async._model.stored import StoredRun
from flujo_async.abc import StateBackend
from flujo_async.testing import FaultyBackend, VirtualClock
from tests.runtime.crashes import others, ticks, until_completed

HOUR = timedelta(hours=1)
ALMOST_TWICE = 2.2


@workflow
async def asks(n: int, ctx: RunContext) -> int:
    return sum(await asyncio.gather(*(ctx.wait_for(f"answer {place}", schema=int) for place in range(n))))


@workflow
async def ask(place: int, ctx: RunContext) -> int:
    return await ctx.wait_for("answer", schema=int) + place


@workflow
async def ask_twice(place: int, ctx: RunContext) -> int:
    return await ctx.wait_for("answer", schema=int) + await ctx.wait_for("again", schema=int)


@workflow
async def ask_below(place: int, ctx: RunContext) -> int:
    return await ctx.child(ask, place, run_id=f"below {place}")


@workflow
async def ask_for_an_hour(place: int, ctx: RunContext) -> int:
    return await ctx.wait_for("answer", schema=int, timeout=HOUR, default=100)


def parent_of(definition: Any) -> Any:
    @workflow(name="parent")
    async def parent(n: int, ctx: RunContext) -> int:
        return sum(await asyncio.gather(*(ctx.child(definition, place, run_id=f"child {place}") for place in range(n))))

    return parent


class Read(InMemoryBackend):
    """Tells which runs were loaded or asked to be created, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = list[str]()

    @override
    async def load(self, run_id: str, *, until: int | None = None, from_snapshot: bool = False) -> StoredRun | None:
        self.runs.append(run_id)
        return await super().load(run_id, until=until, from_snapshot=from_snapshot)


async def answered(flujo: Flujo[Any, Any], run_id: str, name: str = "answer") -> Any:
    await flujo.signal(run_id, name, 1)
    return await flujo.run(run_id="r")


def who_waits(found: Any) -> list[str]:
    return sorted(waiting.run_id for waiting in found.waiting_for)


@pytest.mark.parametrize("through_children", [False, True])
async def test_what_is_written_grows_with_what_was_waited_for(tmp_path: Path, through_children: bool) -> None:
    """In the log of the run, and in the file that has its heads as well (G13)."""

    async def lengths(n: int) -> tuple[int, int]:
        definition = parent_of(ask) if through_children else asks
        flujo = Flujo(definition, state_backend=FileBackend(directory := tmp_path / str(n)))
        result = await flujo.run(n, run_id="r")
        for place in range(n):
            assert len(result.waiting_for) == n - place
            run_id, name = (f"child {place}", "answer") if through_children else ("r", f"answer {place}")
            result = await answered(flujo, run_id, name)
        assert result.status == "completed"
        stored = await flujo.state_backend.load("r")
        assert stored is not None
        await flujo.aclose()
        return sum(len(record.body) for record in stored.records), (directory / "r.jsonl").stat().st_size

    (log, file), (longer_log, larger_file) = await lengths(15), await lengths(30)
    assert longer_log < ALMOST_TWICE * log
    assert larger_file < ALMOST_TWICE * file


async def test_a_parent_that_wakes_looks_at_the_child_that_has_news() -> None:
    """The others are as they were when it was paused."""
    backend = Read()
    flujo = Flujo(parent_of(ask), state_backend=backend)
    await flujo.run(5, run_id="r")
    await flujo.aclose()
    for place in (2, 0, 4, 1):
        backend.runs.clear()
        await flujo.signal(f"child {place}", "answer", 1)
        async with asyncio.timeout(20):
            while f"child {place}" in who_waits(state := await flujo.state("r")) or state.status != "paused":
                await ticks()
        assert set(backend.runs) <= {"r", f"child {place}"}
        await flujo.aclose()
    assert (await answered(flujo, "child 3")).output == 5 + sum(range(5))
    await flujo.aclose()


@pytest.mark.parametrize(("definition", "asked"), [(ask, "child {}"), (ask_below, "below {}")])
async def test_each_pause_tells_all_that_is_waited_for(backend: StateBackend, definition: Any, asked: str) -> None:
    """By the child, or by one of its own: in results, in states as they were, and in lists."""
    flujo = Flujo(parent_of(definition), state_backend=backend)
    result = await flujo.run(3, run_id="r")
    for place in (1, 0):
        left = [asked.format(each) for each in range(3)]
        del left[place:2]
        assert who_waits(await answered(flujo, asked.format(place))) == left
        assert who_waits(*await flujo.list_runs(pipeline_name="parent")) == left
    history = await flujo.history("r")
    pauses = [commit.seq for commit in history if isinstance(commit.fact, RunPaused)]
    assert [len((await flujo.state("r", at=seq)).waiting_for) for seq in pauses] == [3, 2, 1]
    assert (await flujo.state("r", at=pauses[1] + 1)).waiting_for == []
    assert (await answered(flujo, asked.format(2))).output == 6
    assert (await flujo.verify()).ok
    await flujo.aclose()
    assert result.status == "paused"
    assert others() == set()


async def test_a_run_that_is_created_anew_waits_for_what_it_asks(backend: StateBackend) -> None:
    """What the deleted one of its name waited for is told once more, though it is the same."""
    clock = VirtualClock()
    flujo = Flujo(asks, state_backend=backend, clock=clock)
    for _ in range(2):
        assert len((await flujo.run(3, run_id="r")).waiting_for) == 3
        await flujo.delete("r")
    await flujo.run(3, run_id="r")
    await flujo.aclose()
    await backend.shutdown()  # what it knows of its files
    again = Flujo(asks, state_backend=backend, clock=clock)
    assert {waiting.name for waiting in (await again.state("r")).waiting_for} == {f"answer {n}" for n in range(3)}
    assert (await again.verify()).ok
    await again.aclose()


async def test_a_child_that_waits_once_more_is_looked_at_again(backend: StateBackend) -> None:
    """News of it are old when its next pause was seen."""
    flujo = Flujo(parent_of(ask_twice), state_backend=backend)
    await flujo.run(2, run_id="r")
    for run_id, name in [("child 0", "answer"), ("child 1", "answer"), ("child 1", "again")]:
        result = await answered(flujo, run_id, name)
        assert name == "again" or "again" in [waiting.name for waiting in result.waiting_for]
    assert [(waiting.run_id, waiting.name) for waiting in result.waiting_for] == [("child 0", "again")]
    assert (await answered(flujo, "child 0", "again")).output == 4
    await flujo.aclose()


async def test_a_child_that_was_not_looked_at_ends_its_wait_in_time(backend: StateBackend) -> None:
    """The parent knows since its pause how long it may take."""
    clock = VirtualClock()
    flujo = Flujo(parent_of(ask_for_an_hour), state_backend=backend, clock=clock)
    await flujo.run(3, run_id="r")
    assert (await answered(flujo, "child 1")).status == "paused"
    clock.advance(HOUR)
    assert (await flujo.run(run_id="r")).output == 201
    await flujo.aclose()


async def test_a_fork_of_a_pause_asks_anew(backend: StateBackend) -> None:
    """It has no children that wait, nor what was seen of those of its source."""
    flujo = Flujo(asks, state_backend=backend)
    await flujo.run(3, run_id="r")
    assert (await answered(flujo, "r", "answer 1")).status == "paused"
    await flujo.fork("r", new_run_id="f")
    forked = await flujo.run(run_id="f")
    assert {waiting.name for waiting in forked.waiting_for} == {"answer 0", "answer 2"}
    await flujo.aclose()
    parent = Flujo(parent_of(ask_below), state_backend=InMemoryBackend())
    await parent.run(2, run_id="r")
    assert (await answered(parent, "below 0")).status == "paused"
    await parent.fork("r", new_run_id="f")
    assert who_waits(await parent.run(run_id="f")) == ["below 1"]
    await parent.aclose()


async def test_news_that_came_while_the_parent_was_paused_are_found_when_it_goes_on(backend: StateBackend) -> None:
    """Whoever let it rest has read them, and has looked at no child."""
    flujo = Flujo(parent_of(ask), state_backend=backend)
    await flujo.run(2, run_id="r")
    await flujo.pause("r")
    await flujo.signal("child 0", "answer", 1)
    await ticks(50)
    result = await flujo.run(run_id="r")
    assert [waiting.kind for waiting in result.waiting_for] == ["pause", "signal", "signal"]
    result = await flujo.resume("r")
    assert who_waits(result) == ["child 1"]
    assert (await answered(flujo, "child 1")).output == 3
    await flujo.aclose()


@pytest.mark.parametrize("how", ["before", "after"])
@pytest.mark.parametrize("nth", range(1, 8))
async def test_whichever_commit_fails_no_news_are_lost(backend: StateBackend, nth: int, how: Any) -> None:
    """What was seen of a child counts once the pause is recorded."""
    clock, faulty = VirtualClock(), FaultyBackend(backend)
    flujo = Flujo(parent_of(ask_twice), state_backend=faulty, clock=clock)
    await flujo.run(2, run_id="r")
    faulty.fail("append", nth=nth, how=how)
    for run_id, name in [("child 1", "answer"), ("child 0", "answer"), ("child 0", "again"), ("child 1", "again")]:
        await flujo.signal(run_id, name, 1)
        async with asyncio.timeout(20):
            while name in [each.name for each in (await flujo.state(run_id)).waiting_for]:
                clock.advance(1)
                await ticks()
    await until_completed(flujo, clock)
    assert (await flujo.run(run_id="r")).output == 4
    await flujo.aclose()


async def test_news_from_before_a_pause_are_found_when_it_goes_on(backend: StateBackend) -> None:
    """Whoever pauses a run that nobody drives looks at none of its children."""
    flujo: Flujo[Any, Any] = Flujo(parent_of(ask), state_backend=backend)
    await flujo.run(2, run_id="r")
    stranger: Flujo[Any, Any] = Flujo(asks, state_backend=backend)
    await stranger.signal("child 0", "answer", 1)
    await stranger.pause("r")
    await stranger.aclose()
    result = await flujo.resume("r")
    assert who_waits(result) == ["child 1"]
    await flujo.aclose()


async def test_a_parent_that_is_resumed_looks_at_all_its_children(backend: StateBackend) -> None:
    """One has gone on in the store that this is a copy of, and has told its parent there."""
    source: Flujo[Any, Any] = Flujo(parent_of(ask), state_backend=InMemoryBackend())
    copy: Flujo[Any, Any] = Flujo(parent_of(ask), state_backend=backend)
    await source.run(2, run_id="r")
    await copy.import_run(await source.export_run("r"))
    for run_id in ("child 0", "child 1"):
        await source.signal(run_id, "answer", 1)
    await source.run(run_id="r")
    for run_id in ("child 0", "child 1"):
        await copy.import_run(await source.export_run(run_id))
    assert (await copy.run(run_id="r")).status == "paused"
    assert (await copy.resume("r")).output == 3
    for flujo in (source, copy):
        await flujo.aclose()
