"""Runs that sleep leave memory (G14): what is left of each is a row."""

import asyncio
import gc
from typing import Any

import pytest

from flujo_async import Flujo, sleep, step
from flujo_async._log.fold import Fold
from flujo_async._runtime.drive import Drive
from flujo_async._runtime.execution import Execution
from flujo_async.testing import VirtualClock
from tests.runtime.stores import Store, mostly_in_memory

AN_HOUR = 3600.0


def alive(*classes: type[Any]) -> int:
    """Return how many objects of these classes there are."""
    gc.collect()
    return sum(isinstance(each, classes) for each in gc.get_objects())


async def park_and_wake(store: Store, runs: int) -> None:
    """Start runs that sleep, look at what is left of them in memory, and wake them."""
    woken: list[int] = []

    @step
    async def before(n: int) -> int:
        return n + 1

    @step
    async def after(n: int) -> int:
        woken.append(n)
        return n

    clock = VirtualClock()
    async with Flujo(before >> sleep(AN_HOUR) >> after, state_backend=store.open(), clock=clock) as flujo:
        tasks, objects = len(asyncio.all_tasks()), alive(Drive, Execution, Fold)
        for number in range(runs):
            await flujo.start(number, run_id=f"r{number}")
        while any(task.get_name().startswith("flujo run") for task in asyncio.all_tasks()):
            await asyncio.sleep(0.001)
        assert len(asyncio.all_tasks()) <= tasks + 5
        while alive(Drive, Execution, Fold) > objects + 5:
            await asyncio.sleep(0.05)  # the thread that looks after leases may have a hold of some
        assert {summary.status for summary in await flujo.list_runs(limit=runs)} == {"running"}
        clock.advance(AN_HOUR)
        while len(woken) < runs:
            await asyncio.sleep(0.01)
        results = await asyncio.gather(*(flujo.handle(f"r{number}").result() for number in range(runs)))
    assert [result.output for result in results] == sorted(woken) == list(range(1, runs + 1))


@mostly_in_memory
async def test_a_run_that_sleeps_leaves_memory(store: Store) -> None:
    await park_and_wake(store, 100)


@pytest.mark.crash
@pytest.mark.timeout(120)
async def test_many_runs_that_sleep_leave_memory(store: Store) -> None:
    await park_and_wake(store, 2000)
