"""``InMemoryBackend`` keeps the contract."""

from __future__ import annotations

import pytest

from flujo_async.abc.backend import StateBackend
from flujo_async.backends.memory import InMemoryBackend
from flujo_async.testing import BackendContract


class TestInMemoryBackend(BackendContract):
    @pytest.fixture
    def backend(self) -> StateBackend:
        return InMemoryBackend()
