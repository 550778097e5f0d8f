"""The stores that faults are tried on."""

from datetime import timedelta
from pathlib import Path

from flujo_async.abc import StateBackend
from flujo_async.backends.file import FileBackend
from flujo_async.backends.sqlite import SQLiteBackend

ON_DISK = ("file", "sqlite", "sqlite-normal")
BUSY = timedelta(seconds=0.5)


def open_store(kind: str, directory: Path) -> StateBackend:
    """Return the store of a kind in a directory, as a process of its own would open it."""
    if kind == "file":
        return FileBackend(directory / "runs")
    return SQLiteBackend(
        directory / "runs.db", synchronous="normal" if kind == "sqlite-normal" else "full", busy_timeout=BUSY
    )
