"""An event loop with a time of its own, which passes at once when there is nothing else to do."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from typing_extensions import override

from flujo_async.abc.clock import Clock
from flujo_async.abc.pace import Pace

T = TypeVar("T")

_TURN = 0.0001
"""So many seconds a turn takes."""
_START = datetime(2026, 1, 1, tzinfo=UTC)


class _Selector(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    @override
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += _TURN  # else who spins until its time has come would do so for ever
        events = super().select(0)
        if events or timeout is None:
            return events or super().select(timeout)
        self.now += timeout
        return events


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._own = _Selector()
        super().__init__(self._own)

    @override
    def time(self) -> float:
        return self._own.now


class LoopClock(Clock):
    """The time of the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    @override
    def now(self) -> datetime:
        return _START + timedelta(seconds=self._loop.time())

    @override
    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(seconds, 0))


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine; whatever takes time takes none, and ends alike each time."""

    async def timelessly() -> T:
        with Pace.here().timeless():
            return await main

    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(timelessly())
