"""What is known of a run to those who answer it, kept from one answer to the next: then only what is new is read."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from flujo_async._codec.facts import read_fact
from flujo_async._log.gradual import each_of
from flujo_async._model.facts import (
    Fact,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunMigrated,
    RunRedriven,
    SignalReceived,
    WaitStarted,
    WaitTimedOut,
)
from flujo_async._model.ids import check_run_id
from flujo_async._model.state import TERMINAL, RunStatus
from flujo_async._model.stored import Record, Signal
from flujo_async._model.tree import JsonObject
from flujo_async._runtime.reader import Reader, Seen
from flujo_async._runtime.waits import PARENT, parents_of
from flujo_async.abc.pace import in_turns
from flujo_async.abc.turn import Turn
from flujo_async.errors import SerializationError

_MAX_INBOXES: Final = 64


class _Changed(Exception):
    """What was known of a run does not hold any more."""


class Inbox:
    """What a run waits for, and what was posted to it.

    Attributes:
        pipeline_name: the definition that it was started with.
        pipeline_version: the version that it goes on under.
        ended_as: the status that it has ended with.
        parents: the runs that are told of it.
        schemas: what an answer is to look like, by the name of the wait; of several the latest.
        last: the last signal of each name.
        newest: the last one of all.
        numbers: the highest number in the ids of those of each name.
        heard: how many there are in all.
        seq: the last fact that is known.
        hash: the hash of that one.
    """

    def __init__(self, seen: Seen) -> None:
        fold = seen.fold
        self.run_id: str = fold.run_id
        self.pipeline_name: str = fold.started.pipeline_name
        self.pipeline_version: str = fold.pipeline_version
        self.ended_as: RunStatus | None = fold.status if fold.status in TERMINAL else None
        self.parents: list[str] = parents_of(seen.summary.parent_run_id, ())
        self.schemas: dict[str, JsonObject | None] = {}
        self.last: dict[str, Signal] = {}
        self.newest: Signal | None = None
        self.numbers: Counter[str] = Counter()
        self.heard: int = 0
        self.seq: int = fold.seq
        self.hash: str = fold.hash
        self._open: dict[str, str] = {}  # the names of the waits that have not ended, by key
        self._waits: Counter[str] = Counter()
        self._untaken: dict[str, str] = {}  # the names of the signals that were not taken, by id
        self._answers: Counter[str] = Counter()
        for wait in fold.waits.values():
            self._begin(wait)
        for key in fold.answers:
            self._end(key)
        self.hear(seen.signals)
        for signal_id in fold.taken:
            self._take(signal_id)

    def is_awaited(self, name: str) -> bool:
        """Return whether the run waits for one more answer of a name."""
        return self._waits[name] > self._answers[name]

    def hear(self, signals: Iterable[Signal]) -> None:
        """Take note of the signals that follow those which are known."""
        for signal in signals:
            self.last[signal.name] = self.newest = signal
            self.numbers[signal.name] = max(self.numbers[signal.name], number_of(signal))
            self.heard += 1
            self._untaken[signal.signal_id] = signal.name
            self._answers[signal.name] += 1
            if signal.name == PARENT:
                self.parents.append(str(signal.payload))

    def read(self, records: Sequence[Record]) -> None:
        """Take note of the records that follow those which are known; what they tell of signals is known.

        Raises:
            _Changed: the run has become another.
        """
        for record in records:
            self._apply(read_fact(record))
            self.seq, self.hash = record.seq, record.hash

    def _apply(self, fact: Fact) -> None:
        match fact:
            case WaitStarted():
                self._begin(fact)
            case SignalReceived():
                self._take(fact.signal_id)
                self._end(fact.key)
            case WaitTimedOut():
                self._end(fact.key)
            case RunCompleted():
                self.ended_as = "completed"
            case RunFailed():
                self.ended_as = "failed"
            case RunCancelled():
                self.ended_as = "cancelled"
            case RunRedriven() | RunMigrated():
                raise _Changed
            case _:
                pass

    def _begin(self, wait: WaitStarted) -> None:
        self._open[wait.key] = wait.name
        self._waits[wait.name] += 1
        self.schemas[wait.name] = wait.schema

    def _end(self, key: str) -> None:
        if (name := self._open.pop(key, None)) is not None:
            self._waits[name] -= 1

    def _take(self, signal_id: str) -> None:
        if (name := self._untaken.pop(signal_id, None)) is not None:
            self._answers[name] -= 1


def number_of(signal: Signal) -> int:
    """Return the number in the id of a signal.

    The next one of its name gets one more than the highest, which may be more than there are: somebody may have counted
    those of a run that was deleted meanwhile, and the answer goes to the one that was begun in its place.
    """
    number = signal.signal_id.rpartition("#")[2]
    return int(number) if number.isdecimal() else 0


@dataclass(slots=True)
class _Kept:
    """The place of an inbox.

    Attributes:
        turn: of those who read what is new.
        rounds: how often that was begun.
        inbox: what is known, if anything is.
    """

    turn: Turn = field(default_factory=Turn)
    rounds: int = 0
    inbox: Inbox | None = None


class Inboxes:
    """The inboxes of the runs that were answered last."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._guard = threading.Lock()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    async def look(self, run_id: str) -> Inbox:
        """Return the inbox of a run as it is by now.

        Raises:
            RunNotFound: there is no such run.
            IntegrityError: its log is broken.
        """
        kept = self._place_of(check_run_id(run_id))
        rounds = kept.rounds
        async with kept.turn.taken():
            if kept.inbox is None or kept.rounds == rounds:  # else somebody has looked since this was asked for
                kept.rounds += 1
                inbox, kept.inbox = kept.inbox, None
                kept.inbox = await self._renewed(inbox) or Inbox(await self._reader.see(run_id))
            return kept.inbox

    def _place_of(self, run_id: str) -> _Kept:
        with self._guard:
            kept = self._kept.setdefault(run_id, _Kept())
            self._kept.move_to_end(run_id)
            if len(self._kept) > _MAX_INBOXES:
                self._kept.popitem(last=False)
            return kept

    async def _renewed(self, inbox: Inbox | None) -> Inbox | None:
        """Return an inbox with what has come since; ``None`` if that is not all that has changed."""
        if inbox is None or (tail := await self._reader.since(inbox.run_id, inbox.seq, inbox.hash)) is None:
            return None
        # In this order: a signal may come and be taken in between, but none is taken that is not known.
        news = await self._reader.signals_since(inbox.run_id, inbox.heard, inbox.newest)
        if news is None:
            return None
        inbox.hear(news)
        try:
            await in_turns(each_of(tail, inbox.read))
        except (_Changed, SerializationError):
            return None
        return inbox
