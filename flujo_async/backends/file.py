"""Runs as files: one log of JSON lines for each, safe for several processes."""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import anyio.to_thread
from anyio import CapacityLimiter
from anyio.lowlevel import RunVar
from typing_extensions import override

from flujo_async._codec.heads import check_key, dump_object, load_object, own_update
from flujo_async._model import selection, transition
from flujo_async._model.ids import check_run_id
from flujo_async._model.lease import ANY_RUN, ClaimQuery, Lease
from flujo_async._model.state import Waiting
from flujo_async._model.stored import NewRun, Record, RunQuery, RunUpdate, Signal, StoredRun
from flujo_async._model.summary import RunSummary
from flujo_async.abc.backend import Capabilities, StateBackend
from flujo_async.backends import file_lock
from flujo_async.backends.changes import Changes
from flujo_async.backends.file_log import RunLog
from flujo_async.backends.file_name import SUFFIX, file_name, run_id_of
from flujo_async.backends.file_system_state import SystemStates
from flujo_async.errors import BackendError, IntegrityError, RunExists, RunNotFound

T = TypeVar("T")

_THREADS = 8
_MAX_OPEN_LOGS = 64
_MAX_KNOWN_HEADS = 50_000
_SYSTEM = "system"  # no log has this name, since each ends in SUFFIX
_POLL_SECONDS = 0.05

_logger = logging.getLogger("flujo_async")
_limiter: RunVar[CapacityLimiter] = RunVar("flujo_async.backends.file")


class FileBackend(StateBackend):
    """Keeps each run in a file of its own in ``directory``: a log of JSON lines, for ``cat`` and ``jq``.

    The directory is made with the first run. Every verb locks the file of its run, so several processes may
    share the directory (on one machine, or over a file system whose locks work). There is no index: listing
    looks at the first and the last line of the files that have changed since this object last listed them.
    System state is kept in the directory ``system`` in it, one file a key.

    Args:
        directory: where the files are.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(durable=True, multi_process=True)

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = Path(directory)
        self._logs = _OpenLogs(self._directory)
        self._heads = _Heads(self._directory, self._logs)
        self._system = SystemStates(self._directory / _SYSTEM)
        self._changes = Changes()

    @override
    async def create_run(self, run: NewRun, *, owner: str | None = None, ttl: timedelta = timedelta(0)) -> Lease | None:
        check_run_id(run.summary.run_id)
        return await self._off_loop(partial(self._create_run, run, owner, ttl))

    @override
    async def load(self, run_id: str, *, until: int | None = None) -> StoredRun | None:
        run = await self._off_loop(partial(self._load, run_id))
        return run and StoredRun(run.summary, run.records[:until], run.signals)

    @override
    async def append(self, lease: Lease, records: Sequence[Record], *, expected_seq: int, update: RunUpdate) -> int:
        return await self._off_loop(partial(self._append, lease, records, expected_seq, own_update(update)))

    @override
    async def claim(self, owner: str, *, now: datetime, ttl: timedelta, query: ClaimQuery = ANY_RUN) -> list[Lease]:
        return await self._off_loop(partial(self._claim, owner, now, ttl, query))

    @override
    async def renew(self, leases: Sequence[Lease], *, now: datetime, ttl: timedelta) -> list[Lease]:
        return await self._off_loop(partial(self._renew, leases, now + ttl))

    @override
    async def next_due(self, query: ClaimQuery) -> datetime | None:
        return await self._off_loop(partial(self._next_due, query))

    @override
    async def release(
        self,
        lease: Lease,
        *,
        wake_at: datetime | None = None,
        signals_read: int | None = None,
        waiting_for: Sequence[Waiting] | None = None,
    ) -> None:
        await self._off_loop(partial(self._release, lease, wake_at, signals_read, waiting_for))

    @override
    async def post(self, signal: Signal) -> None:
        await self._off_loop(partial(self._post, signal))

    @override
    async def read_signals(self, run_ids: Collection[str]) -> list[Signal]:
        return await self._off_loop(partial(self._read_signals, dict.fromkeys(run_ids)))

    @override
    async def query_runs(self, query: RunQuery) -> list[RunSummary]:
        return await self._off_loop(partial(self._query_runs, query))

    @override
    async def read_events(self, run_id: str, *, after: int = 0, limit: int | None = None) -> list[Record]:
        return await self._off_loop(partial(self._read_events, run_id, after, limit))

    @override
    async def delete_run(self, run_id: str) -> None:
        await self._off_loop(partial(self._delete_run, run_id))

    @override
    async def set_system_state(self, key: str, value: Mapping[str, Any]) -> None:
        await self._off_loop(partial(self._system.set, check_key(key), load_object(dump_object(value))))

    @override
    async def get_system_state(self, key: str) -> dict[str, Any] | None:
        return await self._off_loop(partial(self._system.get, check_key(key)))

    @override
    async def wait_for_work(self, run_id: str | None = None, *, timeout: float) -> None:
        # What other processes write is announced by nobody.
        await self._changes.wait(run_id, timeout=min(timeout, _POLL_SECONDS))

    @override
    async def shutdown(self) -> None:
        await self._off_loop(self._logs.close_idle)

    async def _off_loop(self, work: Callable[[], T]) -> T:
        try:
            return await anyio.to_thread.run_sync(work, limiter=_threads())
        except OSError as error:
            raise BackendError(f"{self._directory}: {error}") from error

    # What follows runs in a worker thread. Should the caller be cancelled, it goes on to its end there.

    def _create_run(self, run: NewRun, owner: str | None, ttl: timedelta) -> Lease | None:
        run_id = run.summary.run_id
        summary = transition.created(run.summary, owner, ttl)
        file_lock.make_directory(self._directory)
        with self._logs.using(file_name(run_id), create=True) as log:
            if log.head():
                raise RunExists(f"run {run_id!r} exists")
            log.begin(summary, run.records)
        self._changes.announce(run_id)
        return summary.lease

    def _load(self, run_id: str) -> StoredRun | None:
        with self._logs.using(file_name(run_id)) as log:
            return log.read()

    def _read_events(self, run_id: str, after: int, limit: int | None) -> list[Record]:
        with self._logs.using(file_name(run_id)) as log:
            return log.tail(after, limit)

    def _append(self, lease: Lease, records: Sequence[Record], expected_seq: int, update: RunUpdate) -> int:
        last_seq = expected_seq + len(records)
        with self._logs.using(file_name(lease.run_id)) as log:
            head = log.head()
            if head is None:
                raise transition.lost(lease)
            transition.check_append(head, lease, expected_seq)
            log.write(transition.advanced(head, last_seq, update), records=records)
        self._changes.announce(lease.run_id)
        return last_seq

    def _claim(self, owner: str, now: datetime, ttl: timedelta, query: ClaimQuery) -> list[Lease]:
        leases: list[Lease] = []
        for run_id in self._candidates(query, now):
            if len(leases) >= query.limit:
                break
            lease = self._claim_one(run_id, owner, now, ttl, query)
            leases += [lease] if lease else []
        return leases

    def _candidates(self, query: ClaimQuery, now: datetime) -> list[str]:
        if query.run_id is not None:
            return [query.run_id]
        found = (summary for summary in self._heads.all() if selection.is_claimable(summary, query, now))
        return [summary.run_id for summary in sorted(found, key=selection.claim_order)]

    def _claim_one(self, run_id: str, owner: str, now: datetime, ttl: timedelta, query: ClaimQuery) -> Lease | None:
        with self._logs.using(file_name(run_id)) as log:
            head = _readable_head(log) if query.run_id is None else log.head()
            if head is None or not selection.is_claimable(head, query, now):
                return None
            claimed, lease = transition.claimed(head, owner, now, ttl)
            log.write(claimed)
            return lease

    def _next_due(self, query: ClaimQuery) -> datetime | None:
        if query.run_id is None:
            return selection.next_due(self._heads.all(), query)
        with self._logs.using(file_name(query.run_id)) as log:
            head = log.head()
        return None if head is None else selection.due_at(head, query)

    def _renew(self, leases: Sequence[Lease], expires_at: datetime) -> list[Lease]:
        renewed = (self._renew_one(lease, expires_at) for lease in leases)
        return [lease for lease in renewed if lease]

    def _renew_one(self, lease: Lease, expires_at: datetime) -> Lease | None:
        with self._logs.using(file_name(lease.run_id)) as log:
            head = log.head()
            if head is None or not transition.is_held(head, lease):
                return None
            summary, renewed = transition.renewed(head, lease, expires_at)
            log.write(summary, sync=False)  # only a failure of the machine loses it, and that ends the owner too
            return renewed

    def _release(
        self,
        lease: Lease,
        wake_at: datetime | None,
        signals_read: int | None,
        waiting_for: Sequence[Waiting] | None,
    ) -> None:
        with self._logs.using(file_name(lease.run_id)) as log:
            head = log.head()
            if head is None or not transition.is_held(head, lease):
                return
            log.write(transition.released(head, wake_at, signals_read, waiting_for))
        self._changes.announce(lease.run_id)

    def _post(self, signal: Signal) -> None:
        with self._logs.using(file_name(signal.run_id)) as log:
            head = log.head()
            if head is None:
                raise RunNotFound(f"run {signal.run_id!r} does not exist", run_id=signal.run_id)
            if not log.has_signal(signal.signal_id):
                log.write(transition.signalled(head), signal=signal)
        self._changes.announce(signal.run_id)

    def _read_signals(self, run_ids: Iterable[str]) -> list[Signal]:
        runs = map(self._load, run_ids)
        return [signal for run in runs if run for signal in run.signals]

    def _query_runs(self, query: RunQuery) -> list[RunSummary]:
        if query.run_id:
            head = self._heads.read(file_name(query.run_id))
            return selection.select([head] if head else [], query)
        return selection.select(self._heads.all(), query)

    def _delete_run(self, run_id: str) -> None:
        with self._logs.using(file_name(run_id)) as log:
            log.remove()
        self._changes.announce(run_id)


class _OpenLogs:
    """The logs that were used last, kept open: an append then neither opens its file nor reads it again."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._start_over()

    @contextmanager
    def using(self, name: str, *, create: bool = False) -> Generator[RunLog]:
        """Lend the log in the file ``name``, locked."""
        log = self._borrow(name)
        try:
            with log.locked(create=create):
                yield log
        finally:
            self._give_back(log)

    def close_idle(self, keep: int = 0) -> None:
        """Close logs that nobody uses, the one unused for longest first, until ``keep`` are left."""
        with self._guard:
            idle = [name for name, log in self._logs.items() if not log.users]
            for name in idle[: max(0, len(self._logs) - keep)]:
                self._logs.pop(name).close()

    def _start_over(self) -> None:
        self._process = os.getpid()
        self._guard = threading.Lock()
        self._logs: OrderedDict[str, RunLog] = OrderedDict()

    def _borrow(self, name: str) -> RunLog:
        if self._process != os.getpid():
            # A forked child shares its parent's open files, and the system sees their locks as one.
            self._start_over()
        with self._guard:
            log = self._logs.get(name) or RunLog(self._directory / name)
            self._logs[name] = log
            self._logs.move_to_end(name)
            log.users += 1
            return log

    def _give_back(self, log: RunLog) -> None:
        with self._guard:
            log.users -= 1
            crowded = len(self._logs) > _MAX_OPEN_LOGS
        if crowded:
            self.close_idle(_MAX_OPEN_LOGS)


class _Heads:
    """The heads of all runs; a file that has not changed since is not opened again."""

    def __init__(self, directory: Path, logs: _OpenLogs) -> None:
        self._directory = directory
        self._logs = logs
        self._known: dict[str, tuple[tuple[int, ...], RunSummary]] = {}

    def all(self) -> list[RunSummary]:
        """Return the heads of all runs, in no order."""
        known: dict[str, tuple[tuple[int, ...], RunSummary]] = {}
        summaries: list[RunSummary] = []
        for name, mark in self._files():
            seen, summary = self._known.get(name, ((), None))
            if seen != mark or summary is None:
                summary = self.read(name)
            if summary:
                summaries.append(summary)
                known[name] = mark, summary
        self._known = known if len(known) <= _MAX_KNOWN_HEADS else {}
        return summaries

    def read(self, name: str) -> RunSummary | None:
        """Return the head of the run whose log is the file ``name``.

        A log that is broken hides no run and keeps none of the others from being listed: it stands for a failed
        run that says so.
        """
        try:
            with self._logs.using(name) as log:
                return log.head()
        except IntegrityError as error:
            _logger.error("%s: %s", self._directory / name, error)
            return _broken_run(run_id_of(name), str(error))

    def _files(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        try:
            entries = os.scandir(self._directory)
        except FileNotFoundError:
            return
        with entries:
            for entry in entries:
                if entry.name.endswith(SUFFIX) and (mark := _mark(entry)):
                    yield entry.name, mark


def _mark(entry: os.DirEntry[str]) -> tuple[int, ...] | None:
    """Return what tells one content of a file from another without reading it; ``None`` if it is gone."""
    try:
        stat = entry.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _readable_head(log: RunLog) -> RunSummary | None:
    # One broken log must not keep the others from being claimed; ``_Heads`` has told of it.
    with suppress(IntegrityError):
        return log.head()
    return None


def _broken_run(run_id: str, message: str) -> RunSummary:
    never = datetime.fromtimestamp(0, UTC)
    return RunSummary(
        run_id=run_id,
        pipeline_name="",
        pipeline_version="",
        status="failed",
        created_at=never,
        updated_at=never,
        error_message=message,
    )


def _threads() -> CapacityLimiter:
    # One for each event loop: a limiter may not be shared between loops.
    try:
        return _limiter.get()
    except LookupError:
        limiter = CapacityLimiter(_THREADS)
        _limiter.set(limiter)
        return limiter
