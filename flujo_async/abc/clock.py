"""The port of time, and the time of the machine."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from datetime import UTC, datetime

from typing_extensions import override


class Clock(ABC):
    """Time as an object: what a runtime reads and waits by, so that tests never have to sleep.

    ``now`` may be called from any thread, ``sleep`` from the event loop that runs the runtime.
    """

    @abstractmethod
    def now(self) -> datetime:
        """Return the current moment, as an aware ``datetime`` in UTC."""

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds``; zero or less gives other tasks a turn."""


class SystemClock(Clock):
    """Reads the machine's clock and waits by the event loop's."""

    @override
    def now(self) -> datetime:
        return datetime.now(UTC)

    @override
    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(seconds, 0))
