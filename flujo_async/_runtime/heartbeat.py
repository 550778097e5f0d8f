"""What an attempt tells of how far it is."""

from __future__ import annotations

import asyncio
import threading
from datetime import datetime, timedelta
from typing import Any, Final

from flujo_async._model.facts import HeartbeatRecorded
from flujo_async._model.tree import Json
from flujo_async._runtime.execution import Execution
from flujo_async.abc.event_loop import tell

_PAUSE: Final = timedelta(seconds=1)
"""Heartbeats that follow each other faster are not all recorded."""


class Pulse:
    """The heartbeats of one attempt: about one a second goes into the log, and the newest with the outcome."""

    def __init__(self, execution: Execution, key: str, name: str, attempt: int) -> None:
        self._execution = execution
        self._key = key
        self._name = name
        self._attempt = attempt
        self._before = execution.journal.fold.heartbeats.get(key)
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._last: datetime | None = None
        self._pending: HeartbeatRecorded | None = None
        self._is_over = False

    def recall(self) -> Any:
        """Return the details of the attempt before, a new copy each time.

        Raises:
            Misread: they do not fit their class.
        """
        return self._execution.read(self._before, at=f"{self._key}.heartbeat")

    def beat(self, details: Any) -> None:
        """Take in details, in whatever thread.

        Raises:
            SerializationError: they cannot be stored.
        """
        tree = self._execution.codec.encode(details, at=f"{self._key}.heartbeat")
        if threading.get_ident() == self._thread:
            self._take(tree)
            return
        tell(self._loop, self._take, tree)

    def close(self) -> list[HeartbeatRecorded]:
        """Take in nothing any more; return what is not recorded yet."""
        self._is_over = True
        return [] if self._pending is None else [self._pending]

    def _take(self, tree: Json) -> None:
        if self._is_over:
            return
        now = self._execution.clock.now()
        self._pending = HeartbeatRecorded(at=now, key=self._key, name=self._name, attempt=self._attempt, details=tree)
        if self._last is None or abs(now - self._last) >= _PAUSE:  # the clock may be set back
            self._last = now
            self.record()

    def record(self) -> None:
        """Put what is not recorded yet into the log soon; nobody waits for it."""
        if self._pending is not None:
            self._execution.journal.note(self._pending)
            self._execution.journal.flush()
            self._pending = None
