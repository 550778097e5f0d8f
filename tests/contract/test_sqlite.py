"""``SQLiteBackend`` keeps the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from flujo_async.abc.backend import StateBackend
from flujo_async.backends.sqlite import SQLiteBackend
from flujo_async.testing import BackendContract


class TestSQLiteBackend(BackendContract):
    @pytest.fixture(autouse=True)
    def file(self, tmp_path: Path) -> None:
        self.path = tmp_path / "runs.db"

    @pytest.fixture
    async def backend(self) -> AsyncIterator[StateBackend]:
        backend = SQLiteBackend(self.path)
        yield backend
        await backend.shutdown()

    def reopen(self, backend: StateBackend) -> StateBackend:
        return SQLiteBackend(self.path)

    def open_copy(self, target: Path) -> StateBackend:
        return SQLiteBackend(target)
