"""Runs as files: one log of JSON lines for each, safe for several processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial, wraps
from pathlib import Path
from types import CoroutineType
from typing import Any, ClassVar, Concatenate, ParamSpec, TypeVar

import anyio.to_thread
from anyio import CapacityLimiter
from anyio.lowlevel import RunVar
from typing_extensions import override

from flujo_async._codec.heads import check_key, dump_state, load_object, own_entry, own_update
from flujo_async._model import selection, transition
from flujo_async._model.entry import Entry, EntryKind, EntryQuery
from flujo_async._model.ids import check_run_id
from flujo_async._model.lease import ANY_RUN, ClaimQuery, Lease
from flujo_async._model.report import StoreReport
from flujo_async._model.state import Waiting
from flujo_async._model.stored import Blob, NewRun, Record, RunQuery, RunUpdate, Signal, Snapshot, StoredRun
from flujo_async._model.summary import RunSummary
from flujo_async.abc.backend import Capabilities, StateBackend
from flujo_async.backends import file_lock
from flujo_async.backends.changes import Changes
from flujo_async.backends.file_entries import EntryFile
from flujo_async.backends.file_locked import LogIsBusy
from flujo_async.backends.file_log import RunLog
from flujo_async.backends.file_logs import PATIENCE, Heads, OpenLogs
from flujo_async.backends.file_name import file_name
from flujo_async.backends.file_system_state import SystemStates
from flujo_async.backends.file_upkeep import back_up, compact, report
from flujo_async.backends.store_path import store_path
from flujo_async.errors import BackendError, IntegrityError, RunExists

P = ParamSpec("P")
T = TypeVar("T")

_THREADS = 32  # they wait for the disk; anyio starts them as they are needed
_POLL_SECONDS = 0.05

_limiter: RunVar[CapacityLimiter] = RunVar("flujo_async.backends.file")


def _off_loop(
    verb: Callable[Concatenate[FileBackend, P], T],
) -> Callable[Concatenate[FileBackend, P], CoroutineType[Any, Any, T]]:
    """Let a verb run in a worker thread. Should the caller be cancelled, it goes on to its end there."""

    @wraps(verb)
    async def run(self: FileBackend, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await anyio.to_thread.run_sync(partial(verb, self, *args, **kwargs), limiter=_threads())
        except (OSError, RuntimeError) as error:  # the latter: there are too many threads
            raise BackendError(f"{self._directory}: {error}") from error  # pyright: ignore[reportPrivateUsage] -- its own

    return run  # type: ignore[return-value]  # pyright knows what kind of coroutine it is, mypy does not


class FileBackend(StateBackend):
    """Keeps each run in a file of its own in ``directory``: a log of JSON lines, for ``cat`` and ``jq``.

    The directory is made with the first run. Every verb locks the file of its run, so several processes may
    share the directory (on one machine, or over a file system whose locks work). There is no index: listing
    looks at the first and the last line of the files that have changed since this object last listed them.
    System state is kept in the directory ``system`` in it, one file a key, and entries in the file ``entries.log``.

    Args:
        directory: where the files are.

    Raises:
        InvalidArgument: ``directory`` can name none, or is a URL.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(durable=True, multi_process=True)

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = store_path(directory, "directory")
        self._logs = OpenLogs(self._directory)
        self._heads = Heads(self._logs)
        self._system = SystemStates(self._directory)
        self._entries = EntryFile(self._directory)
        self._changes = Changes()

    @override
    @_off_loop
    def create_run(self, run: NewRun, *, owner: str | None = None, ttl: timedelta = timedelta(0)) -> Lease | None:
        run_id, prefix = check_run_id(run.summary.run_id), run.prefix
        name, source = file_name(run_id), prefix and file_name(prefix.run_id)
        summary = transition.created(run, owner, ttl)
        file_lock.make_directory(self._directory)
        with self._logs.using_all([name, source or name], create=name) as logs:
            log = logs[name]
            if log.head():
                raise RunExists(f"run {run_id!r} exists")
            log.begin(summary, run, source=logs[source] if source else None)
        self._changes.announce(run_id)
        return summary.lease

    @override
    @_off_loop
    def load(self, run_id: str, *, until: int | None = None, from_snapshot: bool = False) -> StoredRun | None:
        with self._logs.using(file_name(run_id)) as log:
            return log.read(until=until, from_snapshot=from_snapshot)

    @override
    @_off_loop
    def append(
        self,
        lease: Lease,
        records: Sequence[Record],
        *,
        expected_seq: int,
        update: RunUpdate,
        blobs: Sequence[Blob] = (),
    ) -> int:
        last_seq = expected_seq + len(records)
        with self._logs.using(file_name(lease.run_id)) as log:
            head = log.head()
            if head is None:
                raise transition.lost(lease)
            transition.check_append(head, lease, expected_seq)
            log.write(transition.advanced(head, last_seq, own_update(update)), records=records, blobs=blobs)
        self._changes.announce(lease.run_id)
        return last_seq

    @override
    @_off_loop
    def claim(self, owner: str, *, now: datetime, ttl: timedelta, query: ClaimQuery = ANY_RUN) -> list[Lease]:
        leases: list[Lease] = []
        for run_id in self._candidates(query, now):
            if len(leases) >= query.limit:
                break
            # Of many, one whose lock somebody has for long may well be left for later.
            with suppress(LogIsBusy):
                lease = self._claim_one(run_id, owner, now, ttl, query)
                leases += [lease] if lease else []
        return leases

    def _candidates(self, query: ClaimQuery, now: datetime) -> list[str]:
        if query.run_id is not None:
            return [query.run_id]
        found = (summary for summary in self._heads.all() if selection.is_claimable(summary, query, now))
        return [summary.run_id for summary in sorted(found, key=selection.claim_order)]

    def _claim_one(self, run_id: str, owner: str, now: datetime, ttl: timedelta, query: ClaimQuery) -> Lease | None:
        is_one_of_many = query.run_id is None
        with self._logs.using(file_name(run_id), patience=PATIENCE if is_one_of_many else None) as log:
            head = _readable_head(log) if is_one_of_many else log.head()
            if head is None or not selection.is_claimable(head, query, now):
                return None
            claimed, lease = transition.claimed(head, owner, now, ttl)
            log.write(claimed, sync=False)  # as with ``renew``; the first append makes it durable too
            return lease

    @override
    @_off_loop
    def next_due(self, query: ClaimQuery) -> datetime | None:
        if query.run_id is None:
            return selection.next_due(self._heads.all(), query)
        with self._logs.using(file_name(query.run_id)) as log:
            head = log.head()
        return None if head is None else selection.due_at(head, query)

    @override
    @_off_loop
    def renew(self, leases: Sequence[Lease], *, now: datetime, ttl: timedelta) -> list[Lease]:
        renewed: list[Lease | None] = []
        for lease in leases:
            try:
                renewed.append(self._renew_one(lease, now + ttl, PATIENCE if len(leases) > 1 else None))
            except LogIsBusy:  # not lost: whoever wants to claim it waits for the same lock
                renewed.append(lease)
        return [lease for lease in renewed if lease]

    def _renew_one(self, lease: Lease, expires_at: datetime, patience: float | None) -> Lease | None:
        with self._logs.using(file_name(lease.run_id), patience=patience) as log:
            head = log.head()
            if head is None or not transition.is_held(head, lease):
                return None
            summary, renewed = transition.renewed(head, lease, expires_at)
            log.write(summary, sync=False)  # only a failure of the machine loses it, and that ends the owner too
            return renewed

    @override
    @_off_loop
    def release(
        self,
        lease: Lease,
        *,
        wake_at: datetime | None = None,
        signals_read: int | None = None,
        waiting_for: Sequence[Waiting] | None = None,
    ) -> None:
        with self._logs.using(file_name(lease.run_id)) as log:
            head = log.head()
            if head is None or not transition.is_held(head, lease):
                return
            log.write(transition.released(head, wake_at, signals_read, waiting_for))
        self._changes.announce(lease.run_id)

    @override
    @_off_loop
    def post(self, signal: Signal) -> Signal:
        with self._logs.using(file_name(signal.run_id)) as log:
            head = log.head()
            if head is None:
                raise transition.missing(signal.run_id)
            kept = log.signal(signal.signal_id)
            if kept is None:
                log.write(transition.signalled(head), signal=signal)
        self._changes.announce(signal.run_id)
        return kept or signal

    @override
    @_off_loop
    def read_signals(self, known: Mapping[str, int]) -> list[Signal]:
        found = [self._logs.look(file_name(run_id), partial(RunLog.signals, known=n)) for run_id, n in known.items()]
        return [signal for signals in found for signal in signals]

    @override
    @_off_loop
    def query_runs(self, query: RunQuery) -> list[RunSummary]:
        if query.run_id:
            head = self._heads.read(file_name(query.run_id))
            return selection.select([head] if head else [], query)
        return selection.select(self._heads.all(), query)

    @override
    @_off_loop
    def read_events(self, run_id: str, *, after: int = 0, limit: int | None = None) -> list[Record]:
        with self._logs.using(file_name(run_id)) as log:
            return log.tail(after, limit)

    @override
    @_off_loop
    def read_blobs(self, run_id: str, digests: Collection[str]) -> dict[str, bytes]:
        with self._logs.using(file_name(run_id)) as log:
            files = log.files
        return files.read(digests) if files else {}

    @override
    @_off_loop
    def put_snapshot(self, lease: Lease, snapshot: Snapshot) -> None:
        with self._logs.using(file_name(lease.run_id)) as log:
            head = log.head()
            if head and transition.is_held(head, lease):
                log.put_snapshot(snapshot)

    @override
    @_off_loop
    def delete_run(self, run_id: str) -> None:
        self._entries.remove(check_run_id(run_id))
        with self._logs.using(file_name(run_id)) as log:
            log.remove()
        self._changes.announce(run_id)

    @override
    @_off_loop
    def put_entries(self, entries: Sequence[Entry], *, instead_of: EntryKind | None = None) -> None:
        self._entries.put(list(map(own_entry, entries)), instead_of)

    @override
    @_off_loop
    def read_entries(self, query: EntryQuery) -> list[Entry]:
        return self._entries.read(query)

    @override
    @_off_loop
    def set_system_state(self, key: str, value: Mapping[str, Any]) -> None:
        self._system.set(check_key(key), load_object(dump_state(value)))

    @override
    @_off_loop
    def get_system_state(self, key: str) -> dict[str, Any] | None:
        return self._system.get(check_key(key))

    @override
    async def wait_for_work(self, run_id: str | None = None, *, timeout: float) -> None:
        # What other processes write is announced by nobody.
        await self._changes.wait(run_id, timeout=min(timeout, _POLL_SECONDS))

    @override
    @_off_loop
    def backup(self, target: Path) -> None:
        # Forks come after what they continue, so that their copies share what is there already.
        oldest_first = sorted(self._heads.all(), key=lambda summary: summary.created_at)
        names = dict.fromkeys(file_name(summary.run_id) for summary in oldest_first)
        names.update(dict.fromkeys(entry.name for entry in self._logs.names()))
        back_up(self._logs, names, [self._system, self._entries], Path(target))

    @override
    @_off_loop
    def compact(self) -> None:
        compact(self._logs)
        self._system.compact()
        self._entries.compact()

    @override
    @_off_loop
    def report(self, *, is_quick: bool = False) -> StoreReport:
        return report(self._directory)

    @override
    @_off_loop
    def shutdown(self) -> None:
        self._logs.close_idle()


def _readable_head(log: RunLog) -> RunSummary | None:
    # One broken log must not keep the others from being claimed; ``Heads`` has told of it.
    with suppress(IntegrityError):
        return log.head()
    return None


def _threads() -> CapacityLimiter:
    # One for each event loop: a limiter may not be shared between loops.
    try:
        return _limiter.get()
    except LookupError:
        limiter = CapacityLimiter(_THREADS)
        _limiter.set(limiter)
        return limiter
