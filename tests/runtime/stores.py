"""Stores that a test can open as often as it likes, as several processes would."""

from pathlib import Path

import pytest

from flujo_async.abc import StateBackend
from flujo_async.backends.file import FileBackend
from flujo_async.backends.memory import InMemoryBackend
from flujo_async.backends.sqlite import SQLiteBackend

KINDS = ("memory", "file", "sqlite")
on_disk = pytest.mark.parametrize("store", ["file", "sqlite"], indirect=True)
mostly_in_memory = pytest.mark.parametrize(
    "store", ["memory", *(pytest.param(kind, marks=pytest.mark.crash) for kind in ("file", "sqlite"))], indirect=True
)
"""For what is about the runtime, and takes long: stores on disk are tried by ``-m crash``."""


class Store:
    """One store of one kind.

    ``open`` returns a backend as a process of its own would have it; memory is always the same object.
    """

    def __init__(self, kind: str, directory: Path) -> None:
        self.kind = kind
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._opened: list[StateBackend] = []

    @property
    def url(self) -> str:
        return {
            "memory": "memory://",
            "file": f"file:///{self._directory}/runs",
            "sqlite": f"sqlite:///{self._directory}/runs.db",
        }[self.kind]

    def open(self) -> StateBackend:
        if self.kind == "memory" and self._opened:
            return self._opened[0]
        backend: StateBackend
        match self.kind:
            case "memory":
                backend = InMemoryBackend()
            case "file":
                backend = FileBackend(self._directory / "runs")
            case _:
                backend = SQLiteBackend(self._directory / "runs.db")
        self._opened.append(backend)
        return backend

    def open_once(self) -> StateBackend:
        """Return a backend that is opened already, if there is one."""
        return self._opened[0] if self._opened else self.open()

    async def close(self) -> None:
        for backend in self._opened:
            await backend.shutdown()
