"""A SQLite store; what is kept in files needs no more than a directory."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from flujo_async.backends.sqlite import SQLiteBackend


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture
async def backend(path: Path) -> AsyncIterator[SQLiteBackend]:
    backend = SQLiteBackend(path)
    yield backend
    await backend.shutdown()
