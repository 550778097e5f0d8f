"""Noticing, from another thread, that an event loop does not turn, and what it is at."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterable
from contextlib import suppress
from typing import Final
from weakref import WeakValueDictionary

from flujo_async.errors import InvalidArgument

_log: Final = logging.getLogger("flujo_async")
_PATIENCE: Final = 0.25
"""This part of the threshold a late answer is waited for once more: a process that was stopped gives it at once."""

THRESHOLD_VARIABLE: Final = "FLUJO_ASYNC_STALL_SECONDS"
"""The environment variable that says for how long a loop may stand still before it is told of; 0 is for ever."""

_THRESHOLD_SECONDS: Final = 1.0
_MOST_RUNS_TOLD: Final = 5


def stall_threshold() -> float | None:
    """Return for how many seconds a loop may stand still before it is told of; ``None`` is for ever.

    Raises:
        InvalidArgument: the environment says something else than a number of seconds.
    """
    text = os.environ.get(THRESHOLD_VARIABLE, "")
    try:
        seconds = float(text) if text else _THRESHOLD_SECONDS
    except ValueError:
        seconds = -1
    if not 0 <= seconds < math.inf:
        raise InvalidArgument(f"the environment variable {THRESHOLD_VARIABLE} is a number of seconds, not {text!r}")
    return seconds or None


class Watched:
    """An event loop that is watched, by all runtimes of the process together: it is asked to turn, and has to answer.

    Made in the thread of that loop.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()
        self._guard = threading.Lock()
        self._answered = threading.Event()
        self._asked_at: float | None = None
        self._answered_at = 0.0
        self._is_told = False

    @classmethod
    def here(cls) -> Watched:
        """Return the running loop, watched."""
        loop = asyncio.get_running_loop()
        with _GUARD:
            watched = _WATCHED.get(loop)
            if watched is None:
                watched = _WATCHED[loop] = cls()
            return watched

    def look(self, threshold: float, run_ids: Iterable[str], *, at_most: float) -> None:
        """Ask the loop to turn, or see whether it has; tell of one that has not for ``threshold`` seconds.

        Called from any thread but its own.

        Args:
            threshold: in seconds.
            run_ids: what the caller drives in that loop.
            at_most: for how many seconds the caller can wait.
        """
        with self._guard:
            self._tell_if_over()
            if self._asked_at is None:
                self._ask()
            elif self._is_late(threshold, min(threshold * _PATIENCE, at_most)):
                self._is_told = True
                self._tell(time.monotonic() - self._asked_at, run_ids)

    def look_away(self) -> None:
        """Tell that a stop is over, if one was told of; the loop is not asked again."""
        with self._guard:
            self._tell_if_over()

    def _ask(self) -> None:
        self._answered.clear()
        with suppress(RuntimeError):  # it was closed at this instant
            self._loop.call_soon_threadsafe(self._answer)
            self._asked_at = time.monotonic()

    def _answer(self) -> None:
        self._answered_at = time.monotonic()
        self._answered.set()

    def _is_late(self, threshold: float, patience: float) -> bool:
        """Return whether the loop does not answer, and has not been told of."""
        if self._is_told or self._asked_at is None or time.monotonic() - self._asked_at < threshold:
            return False
        return not self._answered.wait(patience) and not self._loop.is_closed()

    def _tell_if_over(self) -> None:
        if self._asked_at is None or not self._answered.is_set():
            return
        if self._is_told:
            _log.info("the event loop turns again, after %.1f s", self._answered_at - self._asked_at)
        self._asked_at, self._is_told = None, False

    def _tell(self, seconds: float, run_ids: Iterable[str]) -> None:
        frame = sys._current_frames().get(self._thread_id)  # pyright: ignore[reportPrivateUsage] -- documented so
        stack = "" if frame is None else "".join(traceback.format_stack(frame)).rstrip()
        _log.warning(
            "the event loop has not turned for %.1f s, and nothing in it goes on; it drives %s. It is at\n%s",
            seconds,
            _named(run_ids),
            stack,
        )


_GUARD: Final = threading.Lock()
_WATCHED: Final[WeakValueDictionary[asyncio.AbstractEventLoop, Watched]] = WeakValueDictionary()
"""Each loop that somebody watches."""


def _named(run_ids: Iterable[str]) -> str:
    names = sorted(set(run_ids))
    more = len(names) - _MOST_RUNS_TOLD
    rest = f" and {more} more" if more > 0 else ""
    return f"{'run' if len(names) == 1 else 'runs'} {', '.join(map(repr, names[:_MOST_RUNS_TOLD]))}{rest}"
