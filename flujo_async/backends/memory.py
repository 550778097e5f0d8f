"""Runs in the memory of this process."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, ClassVar

from typing_extensions import override

from flujo_async._codec import heads
from flujo_async._model import selection, transition
from flujo_async._model.entry import Entry, EntryId, EntryKind, EntryQuery, by_run, put
from flujo_async._model.ids import check_run_id
from flujo_async._model.lease import ANY_RUN, ClaimQuery, Lease
from flujo_async._model.state import TERMINAL, Waiting
from flujo_async._model.stored import (
    GOES_ON,
    Blob,
    NewRun,
    Prefix,
    Record,
    RunQuery,
    RunUpdate,
    Signal,
    Snapshot,
    StoredRun,
)
from flujo_async._model.summary import RunSummary
from flujo_async.abc.backend import Capabilities, StateBackend
from flujo_async.abc.pending import Pending, done
from flujo_async.backends.changes import Changes
from flujo_async.backends.memory_due import DueRuns
from flujo_async.errors import RunExists


class _Data:
    """What is in a blob; one for all runs that were given it, and gone with the last of them."""

    __slots__ = ("__weakref__", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data


class _Run:
    """All that is kept of one run. Forks refer to the same records and blobs; so none of them needs the other."""

    __slots__ = ("_advance", "_lines", "_summary", "blobs", "signals", "snapshot")

    def __init__(self, summary: RunSummary) -> None:
        self._summary = summary
        self._advance: tuple[int, RunUpdate] | None = None
        self._lines: list[tuple[bytes, str]] = []  # bodies and hashes; plain tuples weigh nothing on the collector
        self.signals: dict[str, Signal] = {}
        self.blobs: dict[str, tuple[int, _Data]] = {}  # with the seq since when
        self.snapshot: Snapshot | None = None

    def share(self, source: _Run, last_seq: int) -> None:
        """Begin as ``source`` does."""
        self._lines = source._lines[:last_seq]
        self.blobs = {digest: given for digest, given in source.blobs.items() if given[0] <= last_seq}

    def stored(self, until: int | None, from_snapshot: bool) -> StoredRun:
        snapshot = self.snapshot if from_snapshot else None
        if snapshot is not None and until is not None and snapshot.seq > until:
            snapshot = None
        records = tuple(self.records(snapshot.seq if snapshot else 0, until))
        return StoredRun(self.summary, records, tuple(self.signals.values()), snapshot)

    def records(self, after: int, until: int | None) -> list[Record]:
        """Return the records behind ``after``, up to ``until``."""
        return [Record(seq, *line) for seq, line in enumerate(self._lines[after:until], after + 1)]

    def extend(self, records: Sequence[Record]) -> int:
        """Take in the records that continue the log; return the ``seq`` at which they begin."""
        since = len(self._lines) + 1
        # A body that orjson has just made holds four kilobytes; a copy takes the room that it needs.
        self._lines += [(memoryview(record.body).tobytes(), record.hash) for record in records]
        return since

    def signals_after(self, known: int) -> list[Signal]:
        """Return its signals without the first ones."""
        return list(islice(reversed(self.signals.values()), max(0, len(self.signals) - known)))[::-1]

    @property
    def summary(self) -> RunSummary:
        """Its head, which is made when somebody looks: a run is written far more often."""
        if self._advance is not None:
            self.summary = transition.advanced(self._summary, *self._advance)
        return self._summary

    @summary.setter
    def summary(self, summary: RunSummary) -> None:
        self._summary, self._advance = summary, None

    def advance(self, lease: Lease, count: int, expected_seq: int, update: RunUpdate) -> bool:
        """Let the head be as after ``count`` more records; return whether that may change when it can be claimed."""
        last_seq = self._summary.last_seq if self._advance is None else self._advance[0]
        if last_seq != expected_seq or not transition.is_held(self._summary, lease):
            transition.check_append(self.summary, lease, expected_seq)
        if update.change is GOES_ON and self._summary.status == "running" and self._summary.wake_at is None:
            self._advance = expected_seq + count, update
            return False
        self.summary = transition.advanced(self.summary, expected_seq + count, update)
        return True


class InMemoryBackend(StateBackend):
    """Keeps runs in dictionaries, for tests and for work that need not survive the process.

    The other backends are compared with this one. No verb waits for anything, so none can be cancelled
    half way. There is no ``backup`` of it.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(durable=False, multi_process=False)

    def __init__(self) -> None:
        self._guard = threading.Lock()  # never held across an await
        self._runs: dict[str, _Run] = {}
        self._children: dict[str, dict[str, _Run]] = {}  # of each run that has some
        self._due = DueRuns(lambda run_id: self._runs[run_id].summary)
        self._blobs: weakref.WeakValueDictionary[str, _Data] = weakref.WeakValueDictionary()
        self._system: dict[str, bytes] = {}
        self._entries: dict[str, dict[EntryId, Entry]] = {}  # by run
        self._changes = Changes()

    @override
    async def create_run(self, run: NewRun, *, owner: str | None = None, ttl: timedelta = timedelta(0)) -> Lease | None:
        return self._create(run, owner, ttl)

    @override
    def begin_create(
        self, run: NewRun, *, owner: str | None = None, ttl: timedelta = timedelta(0)
    ) -> Pending[Lease | None]:
        return done(self._create, run, owner, ttl)

    def _create(self, run: NewRun, owner: str | None, ttl: timedelta) -> Lease | None:
        run_id = check_run_id(run.summary.run_id)
        # Through the codec: the store shares nothing with its caller, and refuses what other stores refuse.
        summary = heads.load_summary(heads.dump_summary(transition.created(run, owner, ttl)))
        with self._guard:
            if run_id in self._runs:
                raise RunExists(f"run {run_id!r} exists")
            kept = _Run(summary)
            if run.prefix is not None:
                kept.share(self._source(run.prefix), run.prefix.last_seq)
            self._extend(kept, run.records, run.blobs)
            kept.signals.update((signal.signal_id, signal) for signal in run.signals)
            self._runs[run_id] = kept
            if summary.parent_run_id:
                self._children.setdefault(summary.parent_run_id, {})[run_id] = kept
            self._due.put(summary)
        self._changes.announce(run_id)
        return summary.lease

    @override
    async def load(self, run_id: str, *, until: int | None = None, from_snapshot: bool = False) -> StoredRun | None:
        with self._guard:
            run = self._runs.get(run_id)
            return None if run is None else run.stored(until, from_snapshot)

    @override
    async def append(
        self,
        lease: Lease,
        records: Sequence[Record],
        *,
        expected_seq: int,
        update: RunUpdate,
        blobs: Sequence[Blob] = (),
    ) -> int:
        return self._append(lease, records, expected_seq, update, blobs)

    @override
    def begin_append(
        self,
        lease: Lease,
        records: Sequence[Record],
        *,
        expected_seq: int,
        update: RunUpdate,
        blobs: Sequence[Blob] = (),
    ) -> Pending[int]:
        return done(self._append, lease, records, expected_seq, update, blobs)

    def _append(
        self, lease: Lease, records: Sequence[Record], expected_seq: int, update: RunUpdate, blobs: Sequence[Blob]
    ) -> int:
        update = heads.own_update(update)
        with self._guard:
            run = self._runs.get(lease.run_id)
            if run is None:
                raise transition.lost(lease)
            may_be_due = run.advance(lease, len(records), expected_seq, update)
            self._extend(run, records, blobs)
            if may_be_due:
                self._due.put(run.summary)
        self._changes.announce(lease.run_id)
        return expected_seq + len(records)

    @override
    async def claim(self, owner: str, *, now: datetime, ttl: timedelta, query: ClaimQuery = ANY_RUN) -> list[Lease]:
        leases: list[Lease] = []
        with self._guard:
            for summary in self._choose(query, now):
                claimed, lease = transition.claimed(summary, owner, now, ttl)
                self._change(self._runs[summary.run_id], claimed)
                leases.append(lease)
        return leases

    @override
    async def renew(self, leases: Sequence[Lease], *, now: datetime, ttl: timedelta) -> list[Lease]:
        with self._guard:
            return [self._renew(run, lease, now + ttl) for lease in leases if (run := self._held(lease))]

    @override
    async def next_due(self, query: ClaimQuery) -> datetime | None:
        with self._guard:
            if _asks_for_others(query):
                return selection.next_due(self._summaries(query.run_id), query)
            return self._due.next_due(query)

    @override
    async def release(
        self,
        lease: Lease,
        *,
        wake_at: datetime | None = None,
        signals_read: int | None = None,
        waiting_for: Sequence[Waiting] | None = None,
    ) -> None:
        with self._guard:
            run = self._held(lease)
            if run is None:
                return
            self._change(run, transition.released(run.summary, wake_at, signals_read, waiting_for))
        self._changes.announce(lease.run_id)

    @override
    async def post(self, signal: Signal) -> Signal:
        with self._guard:
            run = self._runs.get(signal.run_id)
            if run is None:
                raise transition.missing(signal.run_id)
            kept = run.signals.get(signal.signal_id)
            if kept is None:
                run.signals[signal.signal_id] = signal
                self._change(run, transition.signalled(run.summary))
        self._changes.announce(signal.run_id)
        return kept or signal

    @override
    async def read_signals(self, known: Mapping[str, int]) -> list[Signal]:
        with self._guard:
            runs = [(self._runs[run_id], count) for run_id, count in known.items() if run_id in self._runs]
            return [signal for run, count in runs for signal in run.signals_after(count)]

    @override
    async def query_runs(self, query: RunQuery) -> list[RunSummary]:
        with self._guard:
            if query.is_leased and not query.run_id:
                return selection.select(self._due.leased(), query)
            if query.parent_run_ids is not None and not query.run_id:
                families = [self._children.get(parent, {}) for parent in query.parent_run_ids]
                return selection.select((run.summary for family in families for run in family.values()), query)
            return selection.select(self._summaries(query.run_id), query)

    @override
    async def read_events(self, run_id: str, *, after: int = 0, limit: int | None = None) -> list[Record]:
        with self._guard:
            run = self._runs.get(run_id)
            if run is None:
                return []
            return run.records(after, None if limit is None else after + limit)

    @override
    async def read_blobs(self, run_id: str, digests: Collection[str]) -> dict[str, bytes]:
        with self._guard:
            run = self._runs.get(run_id)
            blobs = {} if run is None else run.blobs
            return {digest: blobs[digest][1].data for digest in digests if digest in blobs}

    @override
    async def put_snapshot(self, lease: Lease, snapshot: Snapshot) -> None:
        with self._guard:
            run = self._held(lease)
            if run is not None and 1 <= snapshot.seq <= run.summary.last_seq:
                run.snapshot = snapshot

    @override
    async def delete_run(self, run_id: str) -> None:
        check_run_id(run_id)
        with self._guard:
            run = self._runs.pop(run_id, None)
            if run is not None and (parent := run.summary.parent_run_id):
                self._children[parent].pop(run_id)
                if not self._children[parent]:
                    del self._children[parent]
            self._due.remove(run_id)
            self._entries.pop(run_id, None)
        self._changes.announce(run_id)

    @override
    async def put_entries(self, entries: Sequence[Entry], *, instead_of: EntryKind | None = None) -> None:
        own = by_run(map(heads.own_entry, entries))
        with self._guard:
            for run_id, more in own.items():
                self._entries[run_id] = put(self._entries.get(run_id, {}), more, instead_of)

    @override
    async def read_entries(self, query: EntryQuery) -> list[Entry]:
        with self._guard:
            runs = self._entries if query.run_id is None else [query.run_id]
            kept = [entry for run_id in runs for entry in self._entries.get(run_id, {}).values()]
        return list(map(heads.own_entry, selection.select_entries(kept, query)))

    @override
    async def set_system_state(self, key: str, value: Mapping[str, Any]) -> None:
        data = heads.dump_state(value)
        with self._guard:
            self._system[heads.check_key(key)] = data

    @override
    async def get_system_state(self, key: str) -> dict[str, Any] | None:
        with self._guard:
            data = self._system.get(heads.check_key(key))
        return None if data is None else heads.load_object(data)

    @override
    async def wait_for_work(self, run_id: str | None = None, *, timeout: float) -> None:
        await self._changes.wait(run_id, timeout=timeout)

    def _source(self, prefix: Prefix) -> _Run:
        source = self._runs.get(prefix.run_id)
        if source is None:
            raise transition.missing(prefix.run_id)
        last = source.records(prefix.last_seq - 1, prefix.last_seq)
        transition.check_prefix(prefix, source.summary.last_seq, last[0].hash if last else None)
        return source

    def _extend(self, run: _Run, records: Sequence[Record], blobs: Iterable[Blob]) -> None:
        since = run.extend(records)
        for blob in blobs:
            data = self._blobs.get(blob.digest)
            if data is None:
                data = self._blobs[blob.digest] = _Data(blob.data)
            run.blobs.setdefault(blob.digest, (since, data))

    def _summaries(self, run_id: str | None) -> list[RunSummary]:
        if not run_id:
            return [run.summary for run in self._runs.values()]
        run = self._runs.get(run_id)
        return [run.summary] if run else []

    def _choose(self, query: ClaimQuery, now: datetime) -> list[RunSummary]:
        if _asks_for_others(query):
            return selection.choose(self._summaries(query.run_id), query, now)
        return self._due.choose(query, now)

    def _change(self, run: _Run, summary: RunSummary) -> None:
        run.summary = summary
        self._due.put(summary)

    def _held(self, lease: Lease) -> _Run | None:
        run = self._runs.get(lease.run_id)
        return run if run and transition.is_held(run.summary, lease) else None

    def _renew(self, run: _Run, lease: Lease, expires_at: datetime) -> Lease:
        summary, renewed = transition.renewed(run.summary, lease, expires_at)
        self._change(run, summary)
        return renewed


def _asks_for_others(query: ClaimQuery) -> bool:
    """Tell whether a query asks for one run, or for runs that have ended."""
    return query.run_id is not None or bool(query.statuses & TERMINAL)
