"""Runs that are killed at every commit, as ``kill -9`` would, and taken up again."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from typing import Any

from flujo_async import Flujo, RunSummary
from flujo_async.abc import StateBackend
from flujo_async.errors import BackendError, FlujoError
from flujo_async.testing import FaultyBackend, VirtualClock

Attempt = Callable[[StateBackend, str], Awaitable[Any]]


async def crashes(backend: StateBackend, attempt: Attempt) -> AsyncIterator[str]:
    """Yield the ids of runs that died at every commit, before and after it was written.

    Args:
        backend: the store.
        attempt: drives a run of a given id on a given store, which fails for good at one commit.
    """
    for nth in count(1):
        for after in (False, True):
            dying = FaultyBackend(backend)
            crash = dying.crash("append", nth=nth, how="after" if after else "before")
            run_id = f"r{nth}-{after}"
            try:
                await attempt(dying, run_id)
            except BackendError:
                yield run_id
            except FlujoError:
                if crash.has_happened:
                    yield run_id
            if not crash.has_happened:
                return


def others() -> set[asyncio.Task[Any]]:
    """Return the tasks of the loop but for the one that asks."""
    return asyncio.all_tasks() - {asyncio.current_task()}


def driving(prefix: str = "") -> set[asyncio.Task[Any]]:
    """Return the tasks that drive runs whose ids begin so."""
    return {task for task in others() if task.get_name().startswith(f"flujo run {prefix}")}


async def ticks(number: int = 30) -> None:
    """Let everything go on that can."""
    for _ in range(number):
        await asyncio.sleep(0)


async def all_but_its_end(flujo: Flujo[Any, Any], run_id: str = "r") -> str:
    """Return a fork of a run that has ended, which has all but its last fact: driven, it replays the run."""
    return (await flujo.fork(run_id, at=len(await flujo.history(run_id)) - 1)).run_id


async def gone_to_sleep(flujo: Flujo[Any, Any], run_id: str = "r") -> RunSummary:
    """Return the head of a run when it has left memory."""
    async with asyncio.timeout(20):
        while True:
            summaries = await flujo.list_runs(limit=None)
            head = next((each for each in summaries if each.run_id == run_id), None)
            if head is not None and head.lease is None and (head.wake_at is not None or head.status != "running"):
                return head
            await asyncio.sleep(0.001)


async def until_completed(flujo: Flujo[Any, Any], clock: VirtualClock, run_id: str = "r") -> None:
    """Return when a run has completed, whatever it waits for by the clock."""
    async with asyncio.timeout(20):
        while await flujo.handle(run_id).status() != "completed":
            clock.advance(1)
            await ticks()
