"""What becomes of code that races and cancels, wherever its log ends when it is taken up."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from typing import Any

from flujo_async import Flujo, RunContext, RunResult, step, workflow
from flujo_async._model.facts import CallCancelled, Fact, StepCompleted, StepFailed, TimerFired, WaitTimedOut
from flujo_async._model.policy import Durability
from flujo_async.backends.memory import InMemoryBackend
from flujo_async.errors import BackendError, RunFailed
from flujo_async.testing import FaultyBackend
from tests.crash.drawn.races import Code, Heard, Row, made_of, steps_of
from tests.crash.drawn.timeless import LoopClock

_MOST_PAUSES = 100


class Race:
    """One workflow in one store, whose last step fails until it is mended.

    Args:
        row: what it does.
        durability: of its steps.

    Attributes:
        heard: what its code has heard when it was executed last.
    """

    def __init__(self, row: Row, durability: Durability) -> None:
        self.heard: list[str] = []
        self._is_broken = True
        self._store = FaultyBackend(InMemoryBackend())
        self._clock = LoopClock()
        self._durability: Durability = durability
        steps = {call.name: made_of(call) for call in steps_of(row)}

        @step
        async def last() -> None:
            if self._is_broken:
                raise ValueError("not yet")

        @workflow
        async def races(ctx: RunContext) -> list[str]:
            store = self._store
            heard = Heard(lambda: store.is_dead)
            self.heard = heard.items
            with suppress(Exception):
                await Code(steps, heard, ctx).row(row)
            heard.end()
            await last()
            return heard.items

        self._workflow = races

    async def compare(self, crash_at: int) -> None:
        """Take it up again and again, and compare what it hears.

        Args:
            crash_at: the write at which it dies besides.
        """
        async with self._flujo() as flujo:
            whole = await self._failing(flujo, "r")
            facts = [commit.fact for commit in await flujo.history("r")]
            self._is_broken = False
            for at in range(1, next(seq for seq, fact in enumerate(facts, 1) if _is_end(fact))):
                fork = await flujo.fork("r", at=at)
                await self._to_its_end(flujo, flujo.run(run_id=fork.run_id), _known(whole, facts[:at]))
            await self._to_its_end(flujo, flujo.redrive("r"), whole)
            await self._replayed(flujo, "r")
        await self._crash(crash_at)

    async def _failing(self, flujo: Flujo[Any, Any], run_id: str) -> list[str]:
        with suppress(RunFailed):
            await self._rested(flujo, flujo.run(run_id=run_id))
            raise AssertionError("its last step has failed")
        return self.heard

    async def _crash(self, at: int) -> None:
        self._is_broken = True
        self._store.crash("append", nth=at, how="after")
        async with self._flujo() as dying:
            with suppress(BackendError):
                await self._failing(dying, "crashed")
        self._store = FaultyBackend(self._store.inner)
        self._is_broken = False
        heard = self.heard
        async with self._flujo() as flujo:
            facts = [commit.fact for commit in await flujo.history("crashed")]
            if not any(map(_is_end, facts)):
                await self._to_its_end(flujo, flujo.run(run_id="crashed"), _known(heard, facts))
                await self._replayed(flujo, "crashed")

    async def _replayed(self, flujo: Flujo[Any, Any], run_id: str) -> None:
        """Compare what code hears that has all but the end of a run that has completed."""
        whole = self.heard
        fork = await flujo.fork(run_id, at=len(await flujo.history(run_id)) - 1)
        await self._to_its_end(flujo, flujo.run(run_id=fork.run_id), whole)

    async def _to_its_end(self, flujo: Flujo[Any, Any], run: Awaitable[RunResult[Any]], known: list[str]) -> None:
        result = await self._rested(flujo, run)
        assert (result.status, result.waiting_for) == ("completed", [])
        assert self.heard[: len(known)] == known
        assert result.output == self.heard

    async def _rested(self, flujo: Flujo[Any, Any], run: Awaitable[RunResult[Any]]) -> RunResult[Any]:
        """Return how a run ends, or that its code contradicts what is recorded."""
        result = await run
        for _ in range(_MOST_PAUSES):
            moments = [waiting.deadline for waiting in result.waiting_for if waiting.deadline is not None]
            if not moments:
                break
            await self._clock.sleep((min(moments) - self._clock.now()).total_seconds())
            result = await flujo.run(run_id=result.run_id)
        return result

    def _flujo(self) -> Flujo[Any, Any]:
        return Flujo(self._workflow, state_backend=self._store, clock=self._clock, durability=self._durability)


def _is_end(fact: Fact) -> bool:
    """Return whether the last step has failed."""
    return isinstance(fact, StepFailed) and fact.name == "last"


def _known(heard: list[str], facts: Sequence[Fact]) -> list[str]:
    """Return what the code has heard before the first thing that is not among the facts, without what it did then."""
    recorded = Counter(filter(None, map(_told, facts)))
    end = 0
    for number, item in enumerate(heard, 1):
        if item.endswith("?"):
            continue
        told = item if item.startswith("s") else f"nap {item[-1]}"
        if not recorded[told]:
            break
        recorded[told] -= 1
        end = number
    return heard[:end]


def _told(fact: Fact) -> str:
    """Return what the code hears of a fact; the naps are heard of in the order of the log."""
    match fact:
        case StepCompleted():
            return f"{fact.name}!"
        case StepFailed():
            return f"{fact.name}: ValueError"
        case TimerFired() | WaitTimedOut():
            return "nap !"
        case CallCancelled():
            name = fact.key.rpartition("/")[2]
            return f"{name}: CancelledError" if name.startswith("s") and not name.startswith("sleep") else "nap r"
        case _:
            return ""


async def compare(row: Row, durability: Durability, crash_at: int) -> None:
    """Compare what code hears when it is taken up with what it has heard."""
    async with asyncio.timeout(100_000):
        await Race(row, durability).compare(crash_at)
