"""What is around a run: side effects that are on disk at once, and time that passes when somebody sleeps."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from typing_extensions import override

from flujo_async.testing import VirtualClock
from tests.records import on_record, put_on_record

START = datetime(2026, 1, 1, tzinfo=UTC)
A_WHILE = 3600.0
"""Longer than anything is kept in memory for, in seconds."""


class World:
    """Where side effects are seen, and where time passes: one for each life of a process, all with one ``history``."""

    def __init__(self, life: str, history: "list[tuple[str, str]]", *, start: datetime = START) -> None:
        self.life = life
        self.clock = VirtualClock(start)
        self.is_reached = asyncio.Event()
        self._history = history

    def happens(self, name: str) -> None:
        """Put a side effect on record."""
        self._history.append((self.life, name))

    def history(self) -> list[tuple[str, str]]:
        """Return life and name of each side effect so far."""
        return list(self._history)

    def happened(self, life: str | None = None) -> list[str]:
        """Return the side effects so far: of one life, or of all."""
        return [name for whose, name in self.history() if life in (None, whose)]

    @asynccontextmanager
    async def passing_time(self) -> AsyncIterator[None]:
        """Let time pass whenever something sleeps."""
        task = asyncio.create_task(self._pass())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def _pass(self) -> None:
        while True:
            await self.clock.until_asleep()
            self.clock.advance(A_WHILE / 2)
            await asyncio.sleep(0.001)  # whoever it woke has a turn


class WorldOfProcess(World):
    """The world of a real process: what happens is in a file when it has happened. Time begins now."""

    def __init__(self, log: Path) -> None:
        super().__init__(str(os.getpid()), [], start=datetime.now(UTC))
        self._log = log

    @override
    def happens(self, name: str) -> None:
        put_on_record(self._log, f"{self.life} {name}")

    @override
    def history(self) -> list[tuple[str, str]]:
        return [(whose, name) for whose, _, name in (line.partition(" ") for line in on_record(self._log))]
