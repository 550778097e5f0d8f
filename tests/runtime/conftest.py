"""The stores that runs live in, and what is executed there."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from flujo_async.abc import StateBackend
from tests.runtime.executed import EXECUTED
from tests.runtime.stores import KINDS, Store


@pytest_asyncio.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    store = Store(request.param, tmp_path)
    yield store
    await store.close()


@pytest.fixture
def backend(store: Store) -> StateBackend:
    return store.open()


@pytest.fixture(autouse=True)
def executed() -> list[Any]:
    EXECUTED.clear()
    return EXECUTED
