"""Whether anything in a driven run can go on by itself."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

_TURNS_TO_SETTLE: Final = 6
"""So many turns of the event loop a wake-up may take through tasks, gathers and task groups."""


class Watcher(Protocol):
    """Somebody who is told of a standstill."""

    @property
    def is_waiting(self) -> bool:
        """Whether anything is waited for; if not, the next step is about to begin."""
        ...

    def settle(self) -> None:
        """The run has come to a standstill; called each time it does."""
        ...


class Activity:
    """Counts what goes on in a run: steps that execute, commits, and code of workflows.

    When nothing does, and nothing has begun after a few turns of the event loop, everything in the run waits for
    something from outside.
    """

    def __init__(self, watcher: Watcher) -> None:
        """Count from nothing."""
        self._watcher: Watcher | None = watcher
        self._count = 0
        self._looking: asyncio.Handle | None = None

    def began(self) -> None:
        """Something goes on."""
        self._count += 1

    def ended(self) -> None:
        """It does no more: it is over, or waits for something from outside."""
        self._count -= 1
        if not self._count and self._watcher is not None and self._watcher.is_waiting:
            self.look()

    @property
    def count(self) -> int:
        """How many things go on."""
        return self._count

    def look(self) -> None:
        """Tell of a standstill, if this is one; asked for when something has changed in what is waited for."""
        if self._looking is None:
            self._looking = asyncio.get_running_loop().call_soon(self._look, _TURNS_TO_SETTLE)

    def close(self) -> None:
        """Tell of nothing any more."""
        self._watcher = None
        self._count += 1
        if self._looking is not None:
            self._looking.cancel()

    def _look(self, turns: int) -> None:
        self._looking = None
        if self._count:
            return
        if turns:
            self._looking = asyncio.get_running_loop().call_soon(self._look, turns - 1)
        elif self._watcher is not None:
            self._watcher.settle()
