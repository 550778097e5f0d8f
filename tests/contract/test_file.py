"""``FileBackend`` keeps the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from flujo_async.abc.backend import StateBackend
from flujo_async.backends.file import FileBackend
from flujo_async.testing import BackendContract


class TestFileBackend(BackendContract):
    @pytest.fixture(autouse=True)
    def directory(self, tmp_path: Path) -> None:
        self.runs = tmp_path / "runs"

    @pytest.fixture
    def backend(self) -> StateBackend:
        return FileBackend(self.runs)

    def reopen(self, backend: StateBackend) -> StateBackend:
        return FileBackend(self.runs)

    def open_copy(self, target: Path) -> StateBackend:
        return FileBackend(target)
