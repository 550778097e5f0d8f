"""What runs cost that sleep: memory for each, how long it takes to start and to wake them.

All are started in one process, with ``await flujo.start(…)``, and sleep; then they wake and complete. In memory an
hour passes at once, by a clock that is told to; on SQLite the sleep is real, and long enough for all to be asleep.

    python benchmarks/parked.py [--runs 10000] [--sleep 30] [--trace]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from flujo_async import Flujo, InMemoryBackend, SQLiteBackend, sleep, step
from flujo_async._model.stored import RunQuery
from flujo_async.abc import StateBackend
from flujo_async.testing import VirtualClock

AT_ONCE = 500
"""So many are started at the same time."""

FEW_TASKS = 10
"""So many the runtime itself may have, whatever the number of runs."""


@dataclass
class Figures:
    """What was measured."""

    runs: int
    starting: float = 0
    waking: float = 0
    traced: float = 0
    resident: float = 0
    tasks: int = 0
    lags: list[float] = field(default_factory=list)

    def row(self, name: str) -> str:
        """Return the figures as a line of the table."""
        start, wake = (seconds / self.runs * 1e6 for seconds in (self.starting, self.waking))
        lag = sorted(self.lags)[int(len(self.lags) * 0.99)] * 1e3
        return (
            f"{name:<10} {self.runs:>7,} {self.starting:>8.1f} {start:>9.0f} {self.waking:>8.1f} {wake:>9.0f} "
            f"{self.traced / self.runs:>10.0f} {self.resident / self.runs:>10.0f} {self.tasks:>6} {lag:>8.1f}"
        )


HEADER = (
    f"{'store':<10} {'runs':>7} {'start, s':>8} {'µs/run':>9} {'wake, s':>8} {'µs/run':>9} "
    f"{'traced B':>10} {'RSS B':>10} {'tasks':>6} {'lag, ms':>8}"
)


def resident() -> int:
    """Return the memory of this process, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) * 1024


def pipeline(seconds: float, woken: list[int]) -> Any:
    """Return a step, a sleep, and a step that tells of itself."""

    async def before(n: int) -> int:
        return n + 1

    async def after(n: int) -> int:
        woken.append(n)
        return n + 1

    return step(name="before")(before) >> sleep(seconds) >> step(name="after")(after)


async def until_all(backend: StateBackend, runs: int, is_so: Callable[[Any], bool]) -> None:
    """Return when all runs are as asked for."""
    while sum(map(is_so, await backend.query_runs(RunQuery()))) < runs:
        await asyncio.sleep(0.1)


async def watch_lag(lags: list[float]) -> None:
    """Measure how late the event loop is."""
    while True:
        before = time.perf_counter()
        await asyncio.sleep(0.005)
        lags.append(time.perf_counter() - before - 0.005)


async def measure(backend: StateBackend, runs: int, seconds: float, clock: VirtualClock | None = None) -> Figures:
    """Start runs, let them sleep, and wake them."""
    figures, woken = Figures(runs), list[int]()
    async with Flujo(pipeline(seconds, woken), state_backend=backend, clock=clock) as flujo:
        gc.collect()
        tasks, traced, rss = len(asyncio.all_tasks()), tracemalloc.get_traced_memory()[0], resident()
        began = time.perf_counter()
        for first in range(0, runs, AT_ONCE):
            numbers = range(first, min(first + AT_ONCE, runs))
            await asyncio.gather(*(flujo.start(number, run_id=f"r{number}") for number in numbers))
        while len(asyncio.all_tasks()) > tasks + FEW_TASKS:
            await asyncio.sleep(0.01)
        figures.starting = time.perf_counter() - began
        await until_all(backend, runs, lambda head: head.wake_at is not None and head.lease is None)
        gc.collect()
        figures.tasks = len(asyncio.all_tasks()) - tasks
        figures.traced, figures.resident = tracemalloc.get_traced_memory()[0] - traced, resident() - rss
        lag = asyncio.create_task(watch_lag(figures.lags))
        began = await wake(backend, seconds, clock)
        while len(woken) < runs:
            await asyncio.sleep(0.01)
        await until_all(backend, runs, lambda head: head.status == "completed")
        figures.waking = time.perf_counter() - began
        lag.cancel()
    return figures


async def wake(backend: StateBackend, seconds: float, clock: VirtualClock | None) -> float:
    """Let the time of the sleep pass; return when it was over."""
    if clock is not None:
        clock.advance(timedelta(seconds=seconds))
        return time.perf_counter()
    heads = await backend.query_runs(RunQuery())
    last = max(head.wake_at.timestamp() for head in heads if head.wake_at is not None)
    await asyncio.sleep(max(0.0, last - time.time()))
    return time.perf_counter()


async def in_memory(runs: int) -> Figures:
    """Measure in memory."""
    return await measure(InMemoryBackend(), runs, 3600, VirtualClock())


async def on_sqlite(directory: Path, runs: int, seconds: float) -> Figures:
    """Measure on SQLite."""
    async with SQLiteBackend(directory / "parked.db") as backend:
        return await measure(backend, runs, seconds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--sleep", type=float, default=30, help="seconds, on SQLite; longer than starting takes")
    parser.add_argument("--trace", action="store_true", help="trace allocations, which makes all slower")
    size = parser.parse_args()
    print(HEADER)
    if size.trace:
        tracemalloc.start()
    print(asyncio.run(in_memory(size.runs)).row("memory"), flush=True)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        print(asyncio.run(on_sqlite(Path(directory), size.runs, size.sleep)).row("sqlite"))


if __name__ == "__main__":
    main()
