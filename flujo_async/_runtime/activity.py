"""Whether anything in a driven run can go on by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

_TURNS_TO_SETTLE: Final = 6
"""So many turns of the event loop a wake-up may take through tasks, gathers and task groups."""


class Activity:
    """Counts what goes on in a run: steps that execute, commits, and code of workflows.

    When nothing does, and nothing has begun after a few turns of the event loop, everything in the run waits for
    something from outside.
    """

    def __init__(self, quiet: Callable[[], None], is_waiting: Callable[[], bool]) -> None:
        """Count from nothing.

        Args:
            quiet: called when the run has come to a standstill, each time it does.
            is_waiting: whether anything is waited for; if not, the next step is about to begin.
        """
        self._is_waiting = is_waiting
        self._quiet = quiet
        self._count = 0
        self._looking: asyncio.Handle | None = None

    def began(self) -> None:
        """Something goes on."""
        self._count += 1

    def ended(self) -> None:
        """It does no more: it is over, or waits for something from outside."""
        self._count -= 1
        if not self._count and self._is_waiting():
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
        self._quiet = self._is_waiting = _never
        self._count += 1
        if self._looking is not None:
            self._looking.cancel()

    def _look(self, turns: int) -> None:
        self._looking = None
        if self._count:
            return
        if turns:
            self._looking = asyncio.get_running_loop().call_soon(self._look, turns - 1)
        else:
            self._quiet()


def _never() -> bool:
    return False
