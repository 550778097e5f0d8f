"""The journal of one leased run: what is recorded, and the one way to record more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from flujo_async._log.chain import seal
from flujo_async._log.fold import Fold
from flujo_async._model.facts import Fact
from flujo_async._model.lease import Lease
from flujo_async._model.state import RESTING
from flujo_async._model.stored import RunUpdate
from flujo_async.abc.backend import StateBackend
from flujo_async.abc.shield import settle


class Journal:
    """The log of a run in the hands of its only writer.

    Attributes:
        fold: the state after all facts, those on their way to the store included.
        failure: why nothing more can be recorded, if that is so.
        signals_read: tells how many signals of the run its owner knows.
    """

    def __init__(self, backend: StateBackend, lease: Lease, fold: Fold, signals_read: Callable[[], int]) -> None:
        self.fold = fold
        self._first_seq = fold.seq
        self.signals_read = signals_read
        self._backend = backend
        self._lease = lease
        self._noted: list[Fact] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._is_flushing = False
        self._writer: asyncio.Task[None] | None = None
        self.failure: BaseException | None = None

    @property
    def is_at_rest(self) -> bool:
        """Whether the run rests, by what was recorded here: with that the store has taken the lease back."""
        return self.failure is None and self.fold.seq > self._first_seq and self.fold.status in RESTING

    def note(self, fact: Fact) -> None:
        """Put a fact into the next commit: nothing depends on it before that."""
        self._noted.append(fact)

    async def commit(self, *facts: Fact) -> None:
        """Record facts, after all that was noted; they are durable when this returns.

        Commits that meet while the store is busy go down together. A caller that is cancelled stops waiting;
        its facts are written all the same.

        Raises:
            BackendError: the store failed, now or earlier: nothing more can be recorded through this journal.
        """
        if self.failure is not None:
            raise self.failure
        self._noted.extend(facts)
        durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(durable)
        self._ensure_writer()
        await durable

    def flush(self) -> None:
        """Let what was noted go down soon; nobody waits for it."""
        self._is_flushing = bool(self._noted)
        if self._is_flushing:
            self._ensure_writer()

    async def settle(self) -> None:
        """Return when nothing is on its way to the store any more."""
        if self._writer is not None:
            await settle(self._writer)

    def _ensure_writer(self) -> None:
        if self._writer is None or self._writer.done():  # where tasks begin eagerly, it may be done at once
            self._writer = asyncio.create_task(self._write())

    async def _write(self) -> None:
        while (self._waiting or self._is_flushing) and self.failure is None:
            self._is_flushing = False
            waiting, self._waiting = self._waiting, []
            try:
                await self._append()
            except BaseException as failure:  # handed to every caller; whatever it is, the log is unknown now
                self.failure = failure
                waiting += self._waiting
            self._answer(waiting)

    def _answer(self, waiting: list[asyncio.Future[None]]) -> None:
        for durable in waiting:
            if durable.done():
                continue
            if self.failure is None:
                durable.set_result(None)
            else:
                durable.set_exception(self.failure)

    async def _append(self) -> None:
        facts, self._noted = self._noted, []
        if not facts:
            return
        expected_seq = self.fold.seq
        records = seal(facts, after=expected_seq, prev_hash=self.fold.hash)
        for fact, record in zip(facts, records, strict=True):
            self.fold.apply(fact, record)
        await self._backend.append(self._lease, records, expected_seq=expected_seq, update=self._update())

    def _update(self) -> RunUpdate:
        is_at_rest = self.fold.status in RESTING
        return self.fold.update(self.signals_read() if is_at_rest else None)
