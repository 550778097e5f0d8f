"""For your own tests. ``BackendContract`` needs ``pytest`` and ``pytest-asyncio``; nothing else here does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flujo_async.testing.clock import VirtualClock
from flujo_async.testing.explorer import CrashExplorer
from flujo_async.testing.explorer_report import CrashReport
from flujo_async.testing.faulty import FaultyBackend

if TYPE_CHECKING:
    from flujo_async.testing.contract import BackendContract

__all__ = ["BackendContract", "CrashExplorer", "CrashReport", "FaultyBackend", "VirtualClock"]


def __getattr__(name: str) -> Any:
    if name != "BackendContract":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from flujo_async.testing.contract import BackendContract  # noqa: PLC0415 -- needs the extra `testing`
    except ModuleNotFoundError as error:
        if error.name not in ("pytest", "pytest_asyncio"):
            raise
        raise ImportError(f"BackendContract needs {error.name}: pip install 'flujo-async[testing]'") from error
    return BackendContract
