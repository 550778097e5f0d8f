"""When the owner of a run keeps a snapshot of it.

Loading a run is to cost what counts of it, however long its log has become. So a snapshot is made when more than half
of what would be read no longer counts. It is made in a thread, from a copy of the state, while the run goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import Final

from flujo_async._log.fold import Fold
from flujo_async._log.snapshot import copied, snapshot_of, weight
from flujo_async._model.lease import Lease
from flujo_async._model.stored import Record
from flujo_async._runtime.journal import Journal
from flujo_async._runtime.threads import run_in_thread
from flujo_async.abc.backend import StateBackend
from flujo_async.abc.pending import Pending
from flujo_async.abc.shield import settle

_log: Final = logging.getLogger("flujo_async")

LEAST: Final = 1_000
"""Fewer facts that no longer count are read in some ten milliseconds: they are worth no snapshot."""


class Snapshots:
    """The snapshots of one leased run: one at a time, and none that the store would have no use for."""

    def __init__(self, backend: StateBackend, lease: Lease, journal: Journal, facts: int) -> None:
        """Follow what is written through ``journal``.

        Args:
            backend: where the run is stored.
            lease: its lease.
            journal: its log.
            facts: about how many facts loading the run reads.
        """
        self._backend = backend
        self._lease = lease
        self._journal = journal
        self._facts, self._since = facts, journal.fold.seq
        self._next = journal.fold.seq + max(0, LEAST - facts)
        self._least_bytes = self._bytes = 0
        self._is_stopped = False
        self._making: asyncio.Task[None] | None = None
        journal.on_write = self._look

    @property
    def is_settled(self) -> bool:
        """Whether no snapshot is being made."""
        return self._making is None

    def stop(self) -> None:
        """Put no snapshot any more: the run is somebody else's."""
        self._is_stopped = True

    async def settle(self) -> None:
        """Return when no snapshot is being made any more."""
        while self._making is not None:
            await settle(self._making)

    def _look(self, writing: Pending[int], records: Sequence[Record]) -> None:
        """Begin a snapshot of what is being written, if it is time."""
        for record in records:
            self._bytes += len(record.body)
        fold = self._journal.fold
        if fold.seq < self._next or self._making is not None or self._bytes < self._least_bytes:
            return
        counting = weight(fold)
        missing = max(LEAST, counting) - (self._facts + fold.seq - self._since - counting)
        if missing > 0:
            self._next = fold.seq + missing
        else:
            self._making = asyncio.create_task(self._make(writing, copied(fold)))

    async def _make(self, writing: Pending[int], fold: Fold) -> None:
        # A snapshot takes about as long as what has been written since the last one, so that all of them together
        # are a constant share of the work, also where little of the log is the most of the state.
        self._bytes = 0
        try:
            await writing.over()
            snapshot = await run_in_thread(partial(snapshot_of, fold), lambda: None)
            self._least_bytes = len(snapshot.body)
            if self._is_wanted():
                await self._backend.put_snapshot(self._lease, snapshot)
                self._facts, self._since = weight(fold), fold.seq
        except Exception:  # whatever it is, the run goes on without one
            _log.debug("no snapshot of run %r at fact %d", fold.run_id, fold.seq, exc_info=True)
        finally:
            self._next = self._journal.fold.seq + LEAST
            self._making = None

    def _is_wanted(self) -> bool:
        """Return whether the lease is still held, as far as is known here, and all is in the store."""
        return not (self._is_stopped or self._journal.is_at_rest or self._journal.failure is not None)
