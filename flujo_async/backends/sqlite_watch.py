"""Noticing what other processes commit."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, TypeAlias

from flujo_async.backends.changes import Changes
from flujo_async.backends.sql import queries
from flujo_async.backends.sqlite_rows import json_text

POLL_SECONDS = 0.02

_SIGNS_OF_CHANGE = queries("sqlite.sql")["signs_of_change"]
_NO_RUN = ""  # announcing it wakes only those who wait for any run

_Signs: TypeAlias = dict[str, tuple[Any, ...] | None]


class Watch:
    """Announces changes that other processes make, while somebody waits for changes.

    The writer looks: on its connection ``data_version`` tells commits of others from those of this process,
    which are announced when they happen. Who waits for one run is woken only if that run has changed since the look
    before, or has not been looked at since somebody waits for it: what came in between may have been a change.
    """

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._guard = threading.Lock()
        self._awaited: Counter[str] = Counter()
        # What was seen last; only the writer's thread uses these. The versions of two connections say nothing together.
        self._seen: tuple[sqlite3.Connection, int] | None = None
        self._next_look = 0.0
        self._signs: _Signs = {}

    @contextmanager
    def waiting(self, run_id: str | None) -> Generator[None]:
        """Keep an eye on ``run_id`` (``None``: on any run) meanwhile."""
        run_id = run_id or _NO_RUN
        with self._guard:
            self._awaited[run_id] += 1
        try:
            yield
        finally:
            with self._guard:
                self._awaited[run_id] -= 1
                if not self._awaited[run_id]:
                    del self._awaited[run_id]

    def look(self, db: sqlite3.Connection) -> float | None:
        """Announce what others have changed since the last look.

        Returns:
            After how many seconds to look again; ``None`` if nobody waits.
        """
        if not self._awaited:
            return None
        now = time.monotonic()
        if now < self._next_look:
            return self._next_look - now
        self._next_look = now + POLL_SECONDS
        seen: tuple[sqlite3.Connection, int] = db, db.execute("PRAGMA data_version").fetchone()[0]
        if seen != self._seen:
            self._seen = seen
            self._announce(self._read(db))
        return POLL_SECONDS

    def _announce(self, signs: _Signs) -> None:
        before, self._signs = self._signs, signs
        self._changes.announce(_NO_RUN)
        for run_id, sign in signs.items():
            if run_id not in before or before[run_id] != sign:
                self._changes.announce(run_id)

    def _read(self, db: sqlite3.Connection) -> _Signs:
        with self._guard:
            signs: _Signs = dict.fromkeys(self._awaited)
        found = db.execute(_SIGNS_OF_CHANGE, {"run_ids": json_text(list(signs))})
        return signs | {row[0]: row for row in found}
