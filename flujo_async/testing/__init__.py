"""For your own tests; needs ``pytest`` and ``pytest-asyncio``."""

from __future__ import annotations

from flujo_async.testing.clock import VirtualClock
from flujo_async.testing.contract import BackendContract

__all__ = ["BackendContract", "VirtualClock"]
