"""The stores that faults are tried on."""

from datetime import timedelta
from pathlib import Path

from flujo_async.abc import StateBackend
from flujo_async.backends.file import FileBackend
from flujo_async.backends.memory import InMemoryBackend
from flujo_async.backends.sqlite import SQLiteBackend

ON_DISK = ("file", "sqlite", "sqlite-normal")
BUSY = timedelta(seconds=0.5)


def open_store(kind: str, directory: Path, *, busy: timedelta = BUSY) -> StateBackend:
    """Return the store of a kind in a directory, as a process of its own would open it."""
    match kind:
        case "memory":
            return InMemoryBackend()
        case "file":
            return FileBackend(directory / "runs")
        case "sqlite":
            return SQLiteBackend(directory / "runs.db", busy_timeout=busy)
        case _:
            return SQLiteBackend(directory / "runs.db", synchronous="normal", busy_timeout=busy)
