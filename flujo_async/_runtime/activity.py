"""Whether anything in a driven run can go on by itself."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

_TURNS_TO_SETTLE: Final = 6
"""So many turns of the event loop a wake-up may take through tasks, gathers and task groups."""

_SHORTEST_PAUSE: Final = 0.005
_LONGEST_PAUSE: Final = 1.0
"""Seconds between two looks at code that may be held up soon."""


class Watcher(Protocol):
    """Somebody who is told of a standstill."""

    @property
    def is_waiting(self) -> bool:
        """Whether anything is waited for; if not, the next step is about to begin."""
        ...

    def settle(self) -> None:
        """The run has come to a standstill; called each time it does."""
        ...


class Code(Protocol):
    """Code of a workflow, in one task."""

    @property
    def is_held_up(self) -> bool:
        """Whether it waits for other code of the workflow: for a lock, say."""
        ...


class Activity:
    """Counts what goes on in a run: steps that execute, and commits; and knows the code of workflows that goes on.

    When nothing does but code that is held up, and nothing has begun for a few turns of the event loop, everything in
    the run waits for something from outside. Nobody tells when code comes to a lock; so where there is nothing else,
    the code is looked at from time to time.

    As long as a block of it lasts, something goes on.

    Attributes:
        code: what goes on until it is held up; ``look_if_at_rest`` is called after some has left for good.
    """

    def __init__(self, watcher: Watcher) -> None:
        """Count from nothing."""
        self._watcher: Watcher | None = watcher
        self.code: set[Code] = set()
        self._count = 0
        self._turns = _TURNS_TO_SETTLE
        self._looking: asyncio.Handle | None = None
        self._later: asyncio.Handle | None = None
        self._pause = _SHORTEST_PAUSE

    def began(self) -> None:
        """Something goes on."""
        self._count += 1
        self._turns = _TURNS_TO_SETTLE

    def ended(self) -> None:
        """It does no more: it is over, or waits for something from outside."""
        self._count -= 1
        self.look_if_at_rest()

    def __enter__(self) -> None:
        self.began()

    def __exit__(self, *_: object) -> None:
        self.ended()

    def look_if_at_rest(self) -> None:
        """Tell of a standstill, if this is one and anything is waited for."""
        if not self._count and self._watcher is not None and self._watcher.is_waiting:
            self.look()

    def look(self) -> None:
        """Tell of a standstill, if this is one; asked for when something has changed in what is waited for."""
        self._turns, self._pause = _TURNS_TO_SETTLE, _SHORTEST_PAUSE
        if self._looking is None:
            self._looking = asyncio.get_running_loop().call_soon(self._look)

    def close(self) -> None:
        """Tell of nothing any more."""
        self._watcher = None
        for handle in (self._looking, self._later):
            if handle is not None:
                handle.cancel()
        self._looking = self._later = None  # they know the context of who has asked

    def _look(self) -> None:
        self._looking = None
        if self._count:  # when that ends, it is looked at again
            return
        if self._turns:
            self._turns -= 1
            self._looking = asyncio.get_running_loop().call_soon(self._look)
            return
        if self._watcher is not None and all(code.is_held_up for code in self.code):
            self._watcher.settle()
        if self._watcher is not None and self.code and self._later is None:
            self._later = asyncio.get_running_loop().call_later(self._pause, self._look_again)
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _look_again(self) -> None:
        self._later = None
        if self._looking is None:
            self._look()
