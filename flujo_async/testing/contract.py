"""What every store has to do, as tests to inherit: one behaviour each, with time as an argument."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import pytest_asyncio

from flujo_async.abc.backend import StateBackend
from flujo_async.testing.contract_blob import BlobContract
from flujo_async.testing.contract_due import DueContract
from flujo_async.testing.contract_entries import EntryContract
from flujo_async.testing.contract_fork import ForkContract
from flujo_async.testing.contract_lease import LeaseContract
from flujo_async.testing.contract_log import LogContract
from flujo_async.testing.contract_signal import SignalContract
from flujo_async.testing.contract_state_api import StateApiContract
from flujo_async.testing.contract_store import StoreContract
from flujo_async.testing.contract_system import SystemContract
from flujo_async.testing.contract_trace_api import TraceApiContract
from flujo_async.testing.contract_upkeep import UpkeepContract


class BackendContract(
    LogContract,
    SignalContract,
    LeaseContract,
    DueContract,
    StoreContract,
    SystemContract,
    ForkContract,
    BlobContract,
    UpkeepContract,
    EntryContract,
    StateApiContract,
    TraceApiContract,
):
    """Inherit this, override ``backend``, and run it by pytest.

    Override ``reopen`` as well if the store outlives its object, and ``open_copy`` if it can be copied.

    ```python
    class TestMyBackend(BackendContract):
        @pytest.fixture
        def backend(self, tmp_path):
            return MyBackend(tmp_path / "runs.db")

        def reopen(self, backend):
            return MyBackend(backend.path)

        def open_copy(self, target):
            return MyBackend(target)
    ```

    Needs ``pytest-asyncio``. What the tests are made of is in ``flujo_async.testing.samples``, also for tests of one
    store's own.
    """

    pytestmark: ClassVar[Any] = pytest.mark.asyncio

    @pytest.fixture
    def backend(self) -> Any:
        """Return the backend under test, with nothing stored."""
        raise NotImplementedError("override the fixture `backend`")

    def reopen(self, backend: StateBackend) -> StateBackend | None:
        """Return another object for the same store, as another process would make it; ``None`` if there is none."""
        return None

    @pytest_asyncio.fixture
    async def second(self, backend: StateBackend) -> Any:
        """Return another object for the same store."""
        other = self.reopen(backend)
        if other is None:
            pytest.skip("the store does not outlive its object")
        yield other
        await other.shutdown()
