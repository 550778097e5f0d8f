"""How many steps a second, durably, beside as many bare commits in the same process.

W1 is one run of many steps, one after the other; W2 is many runs of five steps at once. Both on SQLite with
``synchronous=FULL``. The bare commits are what the disk allows: one row, one transaction, one fsync each, by the
standard library's driver in this thread, with the same pragmas. Rounds of both alternate, so that a machine that
slows down slows both; what counts is the ratio.

    python benchmarks/steps.py [--steps 200] [--runs 1000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import operator
import platform
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from flujo_async import Flujo, SQLiteBackend, step

STEPS_PER_RUN = 5


@step
async def increment(value: int) -> int:
    return value + 1


def chain(length: int) -> Any:
    """Return a pipeline of ``length`` steps."""
    return functools.reduce(operator.rshift, [increment] * length)


def bare_commits(directory: Path, count: int) -> float:
    """Return the seconds that ``count`` commits of one row take."""
    connection = sqlite3.connect(directory / "bare.db", isolation_level=None)
    connection.executescript(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=0;"
        "CREATE TABLE facts (id INTEGER PRIMARY KEY, body BLOB)"
    )
    body = b"x" * 300  # about what a step's fact takes
    began = time.perf_counter()
    for _ in range(count):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO facts (body) VALUES (?)", (body,))
        connection.execute("COMMIT")
    seconds = time.perf_counter() - began
    connection.close()
    return seconds


async def one_run(directory: Path, steps: int) -> float:
    """Return the seconds that one run of ``steps`` steps takes (W1)."""
    async with SQLiteBackend(directory / "w1.db") as backend:
        flujo = Flujo(chain(steps), state_backend=backend)
        await Flujo(increment, state_backend=backend).run(0)  # opens the file
        began = time.perf_counter()
        result = await flujo.run(0)
        seconds = time.perf_counter() - began
    assert result.output == steps
    return seconds


async def many_runs(directory: Path, runs: int) -> float:
    """Return the seconds that ``runs`` runs of five steps take, all started at once (W2)."""
    async with SQLiteBackend(directory / "w2.db") as backend:
        flujo = Flujo(chain(STEPS_PER_RUN), state_backend=backend)
        await flujo.run(0)
        began = time.perf_counter()
        results = await asyncio.gather(*[flujo.run(number) for number in range(runs)])
        seconds = time.perf_counter() - began
    assert [result.output for result in results] == [number + STEPS_PER_RUN for number in range(runs)]
    return seconds


def in_empty_directory(measure: Callable[[Path], float]) -> float:
    """Return what ``measure`` returns for a directory of its own."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        return measure(Path(directory))


def measure(name: str, steps: int, rounds: int, ours: Callable[[Path], float]) -> None:
    """Print the medians of both, in microseconds per step, and their ratio."""
    pairs = []
    for _ in range(rounds):
        bare = in_empty_directory(lambda directory: bare_commits(directory, steps))
        pairs.append((in_empty_directory(ours), bare))
    flujo = statistics.median(first for first, _ in pairs) / steps * 1e6
    bare = statistics.median(second for _, second in pairs) / steps * 1e6
    ratio = statistics.median(first / second for first, second in pairs)
    print(f"{name:<32} {flujo:9.0f} {1e6 / flujo:9.0f} {bare:9.0f} {ratio:8.2f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="steps of the one run of W1")
    parser.add_argument("--runs", type=int, default=1000, help="runs of W2")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured; medians are shown")
    size = parser.parse_args()
    print(
        f"flujo_async {version('flujo-async')}, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, "
        f"{platform.system()} {platform.machine()}, synchronous=FULL, {size.rounds} rounds"
    )
    print(f"{'':<32} {'µs/step':>9} {'steps/s':>9} {'bare µs':>9} {'ratio':>8}")
    measure(
        f"W1: one run × {size.steps} steps",
        size.steps,
        size.rounds,
        lambda directory: asyncio.run(one_run(directory, size.steps)),
    )
    measure(
        f"W2: {size.runs} runs × {STEPS_PER_RUN} steps at once",
        size.runs * STEPS_PER_RUN,
        size.rounds,
        lambda directory: asyncio.run(many_runs(directory, size.runs)),
    )


if __name__ == "__main__":
    main()
