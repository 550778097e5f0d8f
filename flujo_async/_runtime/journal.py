"""The journal of one leased run: what is recorded, and the one way to record more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from flujo_async._codec.blobs import LastText
from flujo_async._log.chain import seal
from flujo_async._log.fold import Fold
from flujo_async._log.views import Commit, sealed
from flujo_async._model.facts import Fact
from flujo_async._model.lease import Lease
from flujo_async._model.policy import Durability
from flujo_async._model.state import RESTING
from flujo_async._model.stored import Blob, Record, RunUpdate
from flujo_async.abc.backend import StateBackend
from flujo_async.abc.pace import Pace
from flujo_async.abc.pending import Pending


class Journal:
    """The log of a run in the hands of its only writer.

    Attributes:
        fold: the state after all facts, those on their way to the store included.
        failure: why nothing more can be recorded, if that is so.
        signals_read: tells how many signals of the run its owner knows.
        on_durable: told of facts as soon as they are durable.
        on_write: told of each write, with its records, when it has begun; by then ``fold`` is the state after it.
        soloist: the task in which all of the run happens, if there is one; what others commit waits for what is
            committed at the same instant.
    """

    def __init__(self, backend: StateBackend, lease: Lease, fold: Fold, pace: Pace) -> None:
        self.fold = fold
        self.failure: BaseException | None = None
        self.signals_read: Callable[[], int] = lambda: 0
        self.on_durable: Callable[[Sequence[Commit]], None] | None = None
        self.on_write: Callable[[Pending[int], Sequence[Record]], None] | None = None
        self.soloist: asyncio.Task[Any] | None = None
        self._backend = backend
        self._lease = lease
        self._pace = pace
        self._loop = asyncio.get_running_loop()  # asking for it takes a system call before Python 3.12
        self._first_seq = self._sent_seq = fold.seq
        self._told = fold.seldom
        self._noted: list[Record] = []
        self._unheard: list[Commit] = []
        self._blobs: dict[str, Blob] = {}
        self._given = set[str]()
        self._last_text = LastText()
        self._waking = 0  # so many answers have come to some who have not gone on yet
        self._going_on: asyncio.Future[None] | None = None  # done when who was last to record so has gone on
        self._writing: Pending[int] | None = None
        self._behind: list[asyncio.Future[None]] = []  # who waits for the next write
        self._answering: list[asyncio.Future[None]] = []  # and for the one that is under way
        self._soon: asyncio.Handle | None = None
        self._is_wanted = False
        self._is_deferring = False

    @property
    def is_at_rest(self) -> bool:
        """Whether the run rests, by what was recorded here: with that the store has taken the lease back."""
        return self.failure is None and self.fold.seq > self._first_seq and self.fold.status in RESTING

    @property
    def is_settled(self) -> bool:
        """Whether nothing is on its way to the store, nor waits for that."""
        return self._writing is None and not self._is_wanted and not self._noted

    def note(self, fact: Fact) -> None:
        """Put a fact into the next commit: nothing depends on it before that."""
        record, blobs = seal(fact, after=self.fold.seq, prev_hash=self.fold.hash, last=self._last_text)
        self.fold.apply(fact, record)
        self._noted.append(record)
        if self.on_durable is not None:
            self._unheard.append(sealed(record, fact))
        if blobs:
            self._blobs.update((blob.digest, blob) for blob in blobs if blob.digest not in self._given)

    def commit(self, *facts: Fact) -> Awaitable[object]:
        """Record facts, after all that was noted; they are durable once what this returns was awaited.

        Commits that meet while the store is busy go down together. The facts of a caller that is cancelled are written
        all the same.

        Raises:
            BackendError: the store failed, now or earlier: nothing more can be recorded through this journal.
        """
        self._check()
        for fact in facts:
            self.note(fact)
        if self._writing is None and not self._is_wanted and self.soloist is asyncio.current_task(self._loop):
            writing = self._send()
            if writing is None:
                return self.settle()
            return self._after_a_turn(writing) if writing.done() and self._pace.is_over else writing
        durable = self._place_in(self._behind)
        self.flush()
        return durable

    def _place_in(self, queue: list[asyncio.Future[None]]) -> asyncio.Future[None]:
        place: asyncio.Future[None] = self._loop.create_future()
        queue.append(place)
        return place

    async def _after_a_turn(self, writing: Pending[int]) -> None:
        await self._pace.turn()
        await writing

    def record(self, durability: Durability, *facts: Fact) -> Awaitable[object]:
        """Record facts; what is true of them once what this returns was awaited is up to ``durability``.

        Raises:
            BackendError: as in ``commit``.
        """
        return self.commit(*facts) if durability == "sync" else self._record_meanwhile(durability, facts)

    async def _record_meanwhile(self, durability: Durability, facts: Sequence[Fact]) -> None:
        self.defer(*facts)
        if durability == "async":
            self.flush()
        # Nobody goes on before those who have recorded something before: results reach code in the order of the log.
        before, mine = self._going_on, self._loop.create_future()
        self._going_on = mine
        try:
            if queue := self._behind or self._answering:
                await self._place_in(queue)
            elif self._pace.is_over:
                await self._pace.turn()
            elif self._waking:
                await asyncio.sleep(0)
            if before is not None and not before.done():
                await asyncio.wait([before])
        finally:
            mine.set_result(None)

    def defer(self, *facts: Fact) -> None:
        """Record facts with the next commit, at the latest when the run rests or leaves memory.

        Raises:
            BackendError: as in ``commit``.
        """
        self._check()
        for fact in facts:
            self.note(fact)
        self._is_deferring = True

    def flush(self) -> None:
        """Let what was noted go down soon, with what comes at the same instant; nobody waits for it."""
        self._is_wanted = True
        if self._writing is None and self._soon is None:
            self._soon = self._loop.call_soon(self._go_on)

    async def settle(self) -> None:
        """Return when nothing is on its way to the store any more, nor deferred until now."""
        while self._writing is not None or self._is_wanted or self._is_deferring:
            if self._writing is not None:
                await self._writing.over()
            else:
                self._is_deferring = False
                self._go_on()

    def _check(self) -> None:
        if self.failure is not None:
            raise self.failure

    def _go_on(self) -> None:
        """Hand to the store what was noted, for all that wait for it."""
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        self._is_wanted = False
        self._answering = behind = self._behind
        self._behind = []
        if self.failure is None:
            with suppress(BaseException):  # it is the journal's failure, and told to all that wait
                following = self._send()
                if following is not None and not following.done():
                    following.when_done(partial(self._answer, behind))
                    return
        self._answer(behind)

    def _send(self) -> Pending[int] | None:
        """Hand all that was noted to the store."""
        if not self._noted:
            return None
        records, self._noted = self._noted, []
        blobs: Sequence[Blob] = ()
        if self._blobs:
            blobs = list(self._blobs.values())
            self._given.update(self._blobs)
            self._blobs.clear()
        expected_seq, self._sent_seq = self._sent_seq, self.fold.seq
        try:
            writing = self._backend.begin_append(
                self._lease, records, expected_seq=expected_seq, update=self._update(), blobs=blobs
            )
        except BaseException as failure:  # whatever it is, the log is unknown now
            self.failure = failure
            raise
        if writing.done():
            self.failure = writing.exception()
        else:
            self._writing = writing
            writing.when_done(self._take_in)
        if self.on_durable is not None:
            self._tell(writing)
        if self.on_write is not None:
            self.on_write(writing, records)
        return writing

    def _tell(self, writing: Pending[int]) -> None:
        """Tell of what is being written, once it is durable, and before anybody who waits for that goes on."""
        unheard, self._unheard = self._unheard, []

        def tell(writing: Pending[int]) -> None:
            if writing.exception() is None and self.on_durable is not None:
                self.on_durable(unheard)

        writing.when_done(tell)

    def _take_in(self, writing: Pending[int]) -> None:
        """Go on after a write: with what has been noted meanwhile, if somebody wants it written."""
        self._writing = None
        self.failure = writing.exception()
        if self._is_wanted:
            self._go_on()

    def _answer(self, behind: list[asyncio.Future[None]], _: object = None) -> None:
        if self._answering is behind:
            self._answering = []
        for durable in behind:
            if durable.done():
                continue
            if self.failure is None:
                durable.set_result(None)
            else:
                durable.set_exception(self.failure)
        if behind:
            self._waking += 1
            self._loop.call_soon(self._woken)

    def _woken(self) -> None:
        self._waking -= 1

    def _update(self) -> RunUpdate:
        fold = self.fold
        told, self._told = self._told, fold.seldom
        return fold.update(self.signals_read() if fold.status in RESTING else None, told=told)
