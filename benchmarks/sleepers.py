"""flujo_async with runs that sleep: how much memory each has, and what it takes to start and to wake them."""

from __future__ import annotations

import asyncio
import gc
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks import meter
from benchmarks.ours import backend
from flujo_async import Flujo, sleep, step
from flujo_async.testing import VirtualClock

AT_ONCE = 500
"""So many are started at the same time."""

FIRST = 2 * AT_ONCE
"""So many are started before memory is looked at: the heap has grown by then to what starting takes."""

FEW_TASKS = 10
"""So many the runtime itself may have, whatever the number of runs."""

HOUR = timedelta(hours=1)


class System:
    """Runs that sleep for an hour, by a clock that is moved by hand. Variants: ``full``, ``memory``."""

    def __init__(self, directory: Path, variant: str, runs: int) -> None:
        self._backend = backend(directory, variant)
        self._runs = runs

    async def park(self) -> dict[str, float]:
        """Start all, look at what they take while they sleep, and wake them."""
        woken, clock = list[int](), VirtualClock()
        async with self._backend, Flujo(_pipeline(woken), state_backend=self._backend, clock=clock) as flujo:
            few = len(asyncio.all_tasks()) + FEW_TASKS
            await _start(flujo, range(-FIRST, 0), few)
            before, began = _resident(), time.perf_counter()
            await _start(flujo, range(self._runs), few)
            figures = {"runs": self._runs, "start_us": (time.perf_counter() - began) / self._runs * 1e6}
            figures |= {"resident_bytes": _resident() - before, "tasks": len(asyncio.all_tasks()) - few + FEW_TASKS}
            return figures | await self._wake_all(clock, woken)

    async def _wake_all(self, clock: VirtualClock, woken: list[int]) -> dict[str, float]:
        began = time.perf_counter()
        clock.advance(HOUR)
        async with meter.Lags() as lags:
            while len(woken) < self._runs + FIRST:
                await asyncio.sleep(0.01)
        return {"wake_us": (time.perf_counter() - began) / len(woken) * 1e6, **lags.figures()}


async def _start(flujo: Flujo[Any, Any], numbers: range, few: int) -> None:
    """Return when all are asleep: nothing of them is left in the event loop."""
    for first in range(0, len(numbers), AT_ONCE):
        await asyncio.gather(*(flujo.start(n, run_id=f"r{n}") for n in numbers[first : first + AT_ONCE]))
        while len(asyncio.all_tasks()) > few:
            await asyncio.sleep(0.01)


def _resident() -> int:
    gc.collect()
    return meter.resident_bytes()


def _pipeline(woken: list[int]) -> Any:
    """Return a step, a sleep of an hour, and a step that tells of itself."""

    async def before(number: int) -> int:
        return number

    async def after(number: int) -> int:
        woken.append(number)
        return number

    return step(name="before")(before) >> sleep(HOUR) >> step(name="after")(after)
