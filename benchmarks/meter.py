"""The clock around a workload, and what the kernel counted meanwhile.

Only the standard library: this is imported in the environments of all peers.
"""

from __future__ import annotations

import asyncio
import gc
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BEGIN, END = "/benchmark/begin", "/benchmark/end"
"""Files that nobody has: looking for them leaves a mark between the system calls that strace writes down."""

STORES = Path(".nox/bench-stores")
"""Where stores are put while they are measured: on the disk of the working directory."""

LOOK_EVERY = 0.001
"""Seconds between two looks at how late the event loop is."""


@contextmanager
def measured(figures: dict[str, float], directory: Path) -> Iterator[None]:
    """Put into ``figures`` what the body took: seconds, bytes written to files, and by how much the files grew."""
    written, stored = _written(), size_of(directory)
    os.access(BEGIN, os.F_OK)
    began = time.perf_counter()
    yield
    figures["seconds"] = time.perf_counter() - began
    os.access(END, os.F_OK)
    figures["written_bytes"] = _written() - written
    figures["stored_bytes"] = size_of(directory) - stored
    figures["resident_bytes"] = resident_bytes()


@contextmanager
def place_for_a_store() -> Iterator[Path]:
    """Give an empty directory, which is removed afterwards."""
    STORES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=STORES) as directory:
        yield Path(directory).absolute()


def size_of(directory: Path) -> int:
    """Return the bytes of all files in a directory, write-ahead logs and journals included."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def resident_bytes() -> int:
    """Return the memory of this process."""
    return _status("VmRSS") * 1024


def threads() -> int:
    """Return how many threads this process has, those of extensions included."""
    return _status("Threads")


class Lags:
    """How late an event loop is, while one is inside, and how many threads there were meanwhile."""

    def __init__(self) -> None:
        self._seconds: list[float] = []
        self._threads: list[int] = []

    async def __aenter__(self) -> Lags:
        gc.collect()  # what is due from before would hold the loop up at some point, whoever is measured
        self._task = asyncio.create_task(self._look())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *error: object) -> None:
        self._task.cancel()

    def figures(self) -> dict[str, float]:
        """Return the percentiles in milliseconds, and how many threads there were."""
        late = sorted(self._seconds)
        return {
            "lag_p50_ms": late[len(late) // 2] * 1e3,
            "lag_p99_ms": late[int(len(late) * 0.99)] * 1e3,
            "lag_max_ms": late[-1] * 1e3,
            "threads_max": max(self._threads),
            "threads_more": max(self._threads) - min(self._threads),
        }

    async def _look(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(LOOK_EVERY)
            self._seconds.append(time.perf_counter() - before - LOOK_EVERY)
            self._threads.append(threads())


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


def _written() -> int:
    """Return the bytes of the pages that this process, and a server that it has started, have made dirty."""
    children = [pid for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()]
    return sum(_written_by(pid) for pid in ["self", *children])


def _written_by(pid: str) -> int:
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("write_bytes"):
            return int(line.split()[1])
    return 0
