"""Time that a test holds in its hand."""

from __future__ import annotations

import asyncio
import heapq
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Final

from typing_extensions import override

from flujo_async._model.policy import seconds
from flujo_async.abc.clock import Clock
from flujo_async.abc.event_loop import wake

_START: Final = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(order=True, slots=True)
class _Sleeper:
    wakes_at: datetime
    number: int
    woken: asyncio.Future[None] = field(compare=False)


class VirtualClock(Clock):
    """A clock that stands still until it is told to ``advance``.

    Args:
        start: the first moment, an aware ``datetime``; by default the beginning of 2026.

    Examples:
        >>> clock = VirtualClock()
        >>> clock.advance(timedelta(hours=1))
        >>> clock.now().isoformat()
        '2026-01-01T01:00:00+00:00'
    """

    def __init__(self, start: datetime = _START) -> None:
        self._guard = threading.Lock()
        self._now = start.astimezone(UTC)
        self._sleepers: list[_Sleeper] = []
        self._watchers: dict[asyncio.Future[None], int] = {}
        self._numbers = count()

    @override
    def now(self) -> datetime:
        return self._now

    @override
    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        sleeper = self._lie_down(seconds)
        try:
            await sleeper.woken
        finally:
            self._get_up(sleeper)

    def advance(self, duration: timedelta | float) -> None:
        """Let time pass; whose time has come wakes, in the order of the moments, then in that of falling asleep.

        Who falls asleep again after waking counts from the new moment.

        Args:
            duration: a ``timedelta``, or seconds; not negative.

        Raises:
            ValueError: time does not go backwards.
        """
        if seconds(duration) < 0:
            raise ValueError(f"time does not go backwards: {duration!r}")
        with self._guard:
            self._now += timedelta(seconds=seconds(duration))
            due: list[_Sleeper] = []
            while self._sleepers and self._sleepers[0].wakes_at <= self._now:
                due.append(heapq.heappop(self._sleepers))
        for sleeper in due:
            wake(sleeper.woken)

    @property
    def sleepers(self) -> int:
        """How many are asleep now."""
        return len(self._sleepers)

    @property
    def next_wake_at(self) -> datetime | None:
        """When the first of those who are asleep wakes; ``None`` if nobody is."""
        with self._guard:
            return self._sleepers[0].wakes_at if self._sleepers else None

    async def until_asleep(self, sleepers: int = 1) -> None:
        """Return when at least so many are asleep: then it makes sense to ``advance``."""
        if self.sleepers >= sleepers:
            return
        watcher: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watchers[watcher] = sleepers
        try:
            await watcher
        finally:
            del self._watchers[watcher]

    def _lie_down(self, duration: float) -> _Sleeper:
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._guard:
            sleeper = _Sleeper(self._now + timedelta(seconds=duration), next(self._numbers), woken)
            heapq.heappush(self._sleepers, sleeper)
            asleep = len(self._sleepers)
        for watcher, wanted in list(self._watchers.items()):
            if asleep >= wanted:
                wake(watcher)
        return sleeper

    def _get_up(self, sleeper: _Sleeper) -> None:
        with self._guard:
            if sleeper in self._sleepers:  # it was cancelled
                self._sleepers.remove(sleeper)
                heapq.heapify(self._sleepers)
