"""The port of time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import datetime


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
