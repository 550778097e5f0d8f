"""Reading runs: their state, history, steps and events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Final

from flujo_async._codec.values import Codec
from flujo_async._log.chain import GENESIS, verify
from flujo_async._log.fold import Fold
from flujo_async._log.gradual import each_of, fold_gradually, verify_gradually
from flujo_async._log.history import Change, changes
from flujo_async._log.snapshot import blobs_of, fold_from, weight
from flujo_async._log.views import Commit, Event, commit_of, event_of, step_record, steps_not_ended, workflow_state
from flujo_async._model.facts import StepCompleted, StepFailed
from flujo_async._model.ids import check_run_id
from flujo_async._model.page import check_whole
from flujo_async._model.selection import has_news
from flujo_async._model.state import RESTING, TERMINAL, StepRecord, WorkflowState
from flujo_async._model.stored import Record, RunQuery, Signal, Snapshot, StoredRun
from flujo_async._model.summary import RunSummary
from flujo_async._model.transition import missing
from flujo_async._runtime.program import Catalogue
from flujo_async._runtime.waits import is_due
from flujo_async.abc.backend import StateBackend
from flujo_async.abc.clock import Clock
from flujo_async.abc.logs import read_values
from flujo_async.abc.pace import Pace, in_turns
from flujo_async.abc.shield import settle
from flujo_async.errors import IntegrityError, InvalidArgument, SerializationError

_log: Final = logging.getLogger("flujo_async")

_EVENTS_AT_ONCE: Final = 500
_LOOK_AGAIN_SECONDS: Final = 1.0
"""News from a store are hints; whoever waits looks again after this time at the latest."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A run as it was read at one instant.

    Attributes:
        fold: the state of its log; where the head knows better whether it is queued or paused, as the head says.
        summary: its head.
        signals: what was posted to it.
        facts: about how many facts were read, in the log or in a snapshot.
    """

    fold: Fold
    summary: RunSummary
    signals: tuple[Signal, ...]
    facts: int

    def is_due(self, now: datetime) -> bool:
        """Return whether a paused run can go on."""
        # Put off until another moment than its own, it was not driven since its signals were read.
        is_put_off = self.summary.wake_at != self.fold.wake_at
        return is_due(self.fold, self.signals, now, has_news=has_news(self.summary) or is_put_off)


class Reader:
    """Reads what is stored of runs, verified and decoded."""

    def __init__(self, backend: StateBackend, catalogue: Catalogue, clock: Clock) -> None:
        self._backend = backend
        self._catalogue = catalogue
        self._clock = clock

    async def look(self, run_id: str, *, is_whole: bool = False) -> Seen | None:
        """Return a run with its signals; ``None`` if there is no such run.

        Args:
            run_id: the run.
            is_whole: whether to read its whole log, also where a snapshot stands for the beginning.

        Raises:
            IntegrityError: its log is broken, as far as it was read.
        """
        stored = await self._backend.load(check_run_id(run_id), from_snapshot=not is_whole)
        if stored is None:
            return None
        if stored.snapshot is None:
            fold, facts = await self._fold(await self._checked(stored)), len(stored.records)
        elif (going_on := await self._going_on(stored, stored.snapshot)) is not None:
            fold, facts = going_on
        else:
            return await self.look(run_id, is_whole=True)
        fold.hear(stored.summary)
        return Seen(fold, stored.summary, stored.signals, facts)

    async def see(self, run_id: str, *, is_whole: bool = False) -> Seen:
        """Return a run with its signals; see ``look``.

        Raises:
            RunNotFound: there is no such run.
            IntegrityError: its log is broken.
        """
        seen = await self.look(run_id, is_whole=is_whole)
        if seen is None:
            raise missing(run_id)
        return seen

    async def get(self, run_id: str, *, until: int | None = None) -> Fold:
        """Return the state of a run.

        Raises:
            RunNotFound: there is no such run.
            InvalidArgument: its log has no fact ``until``.
            IntegrityError: its log is broken.
        """
        if until is None:
            return (await self.see(run_id, is_whole=True)).fold
        return await self._fold(await self.stored(run_id, until=until))

    async def stored(self, run_id: str, *, until: int | None = None) -> StoredRun:
        """Return what is stored of a run, with its log up to ``until``; errors as in ``get``."""
        if until is not None:
            check_whole("the place in a log", until)
        found = await self._backend.load(check_run_id(run_id), until=until)
        if found is None:
            raise missing(run_id)
        if until is not None and not 1 <= until <= found.summary.last_seq:
            raise InvalidArgument(f"the log of run {run_id!r} has facts 1 to {found.summary.last_seq}, not {until}")
        return await self._checked(found, until)

    async def summary(self, run_id: str) -> RunSummary | None:
        """Return the head of a run, ``None`` if there is no such run."""
        found = await self._backend.query_runs(RunQuery(run_id=check_run_id(run_id)))
        return found[0] if found else None

    async def state(self, run_id: str, *, at: int | None = None) -> WorkflowState:
        """Return the state of a run, at the end of its log or at ``at``."""
        fold = await self.get(run_id, until=at)
        codec = self._catalogue.reading(fold).codec
        return workflow_state(fold, codec, await self._steps(fold, codec))

    async def history(self, run_id: str) -> list[Commit]:
        """Return all facts of a run."""
        found: list[Commit] = []
        records = (await self.stored(run_id)).records
        await in_turns(each_of(records, lambda some: found.extend(map(commit_of, some))))
        return found

    async def steps(self, run_id: str) -> list[StepRecord]:
        """Return the steps of a run."""
        fold = await self.get(run_id)
        return await self._steps(fold, self._catalogue.reading(fold).codec)

    @staticmethod
    async def _steps(fold: Fold, codec: Codec) -> list[StepRecord]:
        ended: list[StepRecord] = []

        def add(some: Sequence[StepCompleted | StepFailed]) -> None:
            ended.extend(step_record(fold, outcome, codec) for outcome in some)

        await in_turns(each_of(list(fold.outcomes.values()), add))
        return ended + steps_not_ended(fold)

    async def diff(self, run_id: str, a: int, b: int) -> list[Change]:
        """Return what is different between two states of a run."""
        before, after = await self.get(run_id, until=a), await self.get(run_id, until=b)
        return changes(before, after, self._catalogue.reading(after).codec)

    async def events(
        self, run_id: str, *, after: int, follow: bool, driver: asyncio.Task[None] | None = None
    ) -> AsyncIterator[Event]:
        """Yield what was committed after ``after``; with ``follow`` go on until the run rests, or its driver fails."""
        check_whole("after", after)
        head = await self.summary(run_id)
        if head is None:
            raise missing(run_id)
        codec, pace = self._catalogue.knowing(head.pipeline_name, head.pipeline_version).codec, Pace.here()
        is_over, prev_hash = not follow, GENESIS if after == 0 else None
        while True:
            records = await self._backend.read_events(run_id, after=after, limit=_EVENTS_AT_ONCE)
            if not records and head.last_seq > after:
                await self._check_deleted(head, after)
            if records:
                before = await self._hash_of(run_id, after) if prev_hash is None else prev_hash
                verify(run_id, records, after=after, prev_hash=before or GENESIS)
                prev_hash = records[-1].hash
            for record in await read_values(self._backend, run_id, records):
                if pace.is_over:
                    await pace.turn()
                yield event_of(record, codec)
                after = record.seq
            if records:
                is_over = not follow  # that it rested is an old story
                continue
            if is_over:
                return
            summary = await self.watch(run_id, partial(_has_news, after), driver)
            head = summary or head
            is_over = summary is None or summary.status in TERMINAL or (driver is not None and driver.done())
            if not is_over and summary is not None and summary.status == "paused" and summary.last_seq <= after:
                is_over = not await self.goes_on(summary, driver)

    async def _check_deleted(self, head: RunSummary, after: int) -> None:
        """Check that a run is no more, of which the head told more facts than there are."""
        now = await self.summary(head.run_id)
        if now is not None and now.created_at == head.created_at:
            raise _cut_off(head, after, head.last_seq)

    async def goes_on(self, head: RunSummary, driver: asyncio.Task[None] | None = None) -> bool:
        """Return whether a run that was paused rests no more, or has its answer: then, once its head has changed."""
        seen = await self.look(head.run_id)
        if seen is None or (seen.fold.status == "paused" and not seen.is_due(self._clock.now())):
            return False
        await self.watch(head.run_id, lambda found: found != head, driver)
        return True

    async def watch(
        self, run_id: str, is_reached: Callable[[RunSummary], bool], driver: asyncio.Task[None] | None = None
    ) -> RunSummary | None:
        """Return the head of a run once it is as asked for, or when ``driver`` ends; ``None`` if the run is gone."""
        while True:
            news = asyncio.create_task(self._backend.wait_for_work(run_id, timeout=_LOOK_AGAIN_SECONDS))
            try:
                await asyncio.sleep(0)  # from here on it listens, so that nothing is missed while we look
                summary = await self.summary(run_id)
                if summary is None or is_reached(summary) or (driver is not None and driver.done()):
                    return summary
                await self._first_of(news, driver, summary.wake_at)
            finally:
                news.cancel()
                await settle(news)

    async def _first_of(
        self, news: asyncio.Task[None], driver: asyncio.Task[None] | None, wake_at: datetime | None
    ) -> None:
        """Return when there is news, the driver has ended, or ``wake_at`` comes."""
        left = 0.0 if wake_at is None else (wake_at - self._clock.now()).total_seconds()
        alarm = asyncio.create_task(self._clock.sleep(left)) if left > 0 else None
        try:
            await asyncio.wait(
                {task for task in (news, driver, alarm) if task is not None}, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            if alarm is not None:
                alarm.cancel()
                await settle(alarm)

    async def _checked(self, stored: StoredRun, until: int | None = None) -> StoredRun:
        run_id = stored.summary.run_id
        await in_turns(verify_gradually(run_id, stored.records))
        _check_length(stored, until)
        return replace(stored, records=tuple(await read_values(self._backend, run_id, stored.records)))

    @staticmethod
    async def _fold(stored: StoredRun) -> Fold:
        return await in_turns(fold_gradually(stored.summary.run_id, stored.records))

    async def _going_on(self, stored: StoredRun, snapshot: Snapshot) -> tuple[Fold, int] | None:
        """Return the state that a snapshot and the facts after it make, and about how many facts that took.

        Nothing is said of one that does not fit: a snapshot only saves time, and the whole log tells what is wrong.
        """
        run_id, records = stored.summary.run_id, stored.records
        try:
            named = blobs_of(snapshot)
            fold = fold_from(snapshot, run_id, await self._backend.read_blobs(run_id, named) if named else None)
            if not records:
                await self._check_end(run_id, snapshot)
            await in_turns(verify_gradually(run_id, records, after=snapshot.seq, prev_hash=snapshot.hash))
            _check_length(stored)
            facts = weight(fold) + len(records)
            await in_turns(each_of(await read_values(self._backend, run_id, records), fold.extend))
        except (SerializationError, IntegrityError):
            _log.debug("the snapshot of run %r is not used", run_id, exc_info=True)
            return None
        return fold, facts

    async def _check_end(self, run_id: str, snapshot: Snapshot) -> None:
        """Check the hash of a snapshot that nothing follows."""
        if await self._hash_of(run_id, snapshot.seq) != snapshot.hash:
            raise IntegrityError("the snapshot does not fit the log", run_id=run_id, seq=snapshot.seq)

    async def since(self, run_id: str, seq: int, hash_: str) -> Sequence[Record] | None:
        """Return what follows the record ``seq``; ``None`` if the log has no such record with this hash.

        Raises:
            IntegrityError: what follows is broken.
        """
        found = await self._backend.read_events(run_id, after=seq - 1)
        if not found or found[0].hash != hash_:
            return None
        tail = found[1:]
        await in_turns(verify_gradually(run_id, tail, after=seq, prev_hash=hash_))
        return await read_values(self._backend, run_id, tail)

    async def signals_since(self, run_id: str, known: int, last: Signal | None) -> Sequence[Signal] | None:
        """Return the signals that follow so many; ``None`` if the last of these is not ``last``.

        A run that was created anew may have the log of the one before, as after an import of what that was once.
        """
        found = await self._backend.read_signals({run_id: max(known - 1, 0)})
        if last is None:
            return found
        return found[1:] if found[:1] == [last] else None

    async def _hash_of(self, run_id: str, seq: int) -> str | None:
        found = await self._backend.read_events(run_id, after=seq - 1, limit=1)
        return found[0].hash if found else None


def _check_length(stored: StoredRun, until: int | None = None) -> None:
    """Check that a log goes as far as its head says: else what its last facts tell would be done again."""
    seq = 0 if stored.snapshot is None else stored.snapshot.seq
    if stored.records:
        seq = stored.records[-1].seq
    if seq != (told := stored.summary.last_seq if until is None else until):
        raise _cut_off(stored.summary, seq, told)


def _cut_off(head: RunSummary, seq: int, told: int) -> IntegrityError:
    return IntegrityError(f"the log ends with seq {seq}, and not with {told}", run_id=head.run_id, seq=seq + 1)


def _has_news(after: int, head: RunSummary) -> bool:
    return head.last_seq > after or head.status in RESTING
