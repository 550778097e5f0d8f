"""Runs in one SQLite file, which several processes may share."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from typing_extensions import override

from flujo_async._codec.heads import check_key, dump_state, load_object, own_entry
from flujo_async._log.audit_log import audit_event
from flujo_async._model import transition
from flujo_async._model.audit import AuditEvent, AuditQuery
from flujo_async._model.entry import Entry, EntryKind, EntryQuery
from flujo_async._model.ids import check_run_id
from flujo_async._model.lease import ANY_RUN, ClaimQuery, Lease
from flujo_async._model.report import SchemaVersion, StoreReport
from flujo_async._model.state import Waiting
from flujo_async._model.stored import Blob, NewRun, Record, RunQuery, RunUpdate, Signal, Snapshot, StoredRun
from flujo_async._model.summary import RunSummary
from flujo_async.abc.backend import StateBackend
from flujo_async.abc.known_runs import KnownRun, KnownRunQuery
from flujo_async.abc.pending import Pending
from flujo_async.abc.statistics import check_range
from flujo_async.backends import sqlite_lists as lists
from flujo_async.backends import sqlite_rows as rows
from flujo_async.backends import sqlite_statistics as statistics
from flujo_async.backends import sqlite_work as work
from flujo_async.backends.changes import Changes
from flujo_async.backends.group_commit import GroupCommit, Work
from flujo_async.backends.sql import queries
from flujo_async.backends.sqlite_copy import back_up
from flujo_async.backends.sqlite_entries import put_entries
from flujo_async.backends.sqlite_file import NoFileYet, SQLiteFile, Synchronous
from flujo_async.backends.sqlite_look import look, look_now
from flujo_async.backends.sqlite_readers import Readers, Rows
from flujo_async.backends.sqlite_report import report
from flujo_async.backends.sqlite_together import do_together
from flujo_async.backends.sqlite_watch import Watch
from flujo_async.backends.store_path import store_path
from flujo_async.errors import FlujoError, InvalidArgument

T = TypeVar("T")

_SQL = queries("sqlite.sql")
_PAGES_AT_ONCE = 256  # so that nobody waits long behind it
_HEADS_AT_ONCE = 200  # so that the event loop turns between two pages


class SQLiteBackend(StateBackend):
    """Keeps runs in a SQLite database, which is created at first use.

    All writes go through one thread with one connection, and those that wait at the same time share a
    transaction, so a store under load is faster than one at rest. Reads have connections of their own and wait
    for no writer. Several processes may use one file, on one machine: a network file system does not lock well
    enough. Beside the file lie its write-ahead log (``-wal``) and the index of that (``-shm``); they belong to
    the database, and go when its last connection is closed.

    Args:
        path: the database file, in a directory that exists.
        synchronous: ``full`` waits for the disk at every commit; ``normal`` survives the death of the process
            as well, but the failure of power or operating system may take the last commits away.
        busy_timeout: how long a verb waits while other processes write, before it raises ``BackendError``.

    Raises:
        InvalidArgument: ``path`` names no file, or another argument is none of the above.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        synchronous: Synchronous = "full",
        busy_timeout: timedelta = timedelta(seconds=10),
    ) -> None:
        if synchronous not in ("full", "normal"):
            raise InvalidArgument(f"synchronous is 'full' or 'normal', not {synchronous!r}")
        if os.fspath(path) in ("", ":memory:"):
            raise InvalidArgument(f"{path!r} names no file; InMemoryBackend keeps runs in memory")
        self.path: Path = store_path(path, "file")
        self._changes = Changes()
        self._watch = Watch(self._changes)
        self._file = SQLiteFile(self.path, synchronous=synchronous, busy_timeout=busy_timeout, watch=self._watch)
        self._commits = GroupCommit(self._file, refusal=FlujoError, together=do_together)
        self._readers = Readers(self._file.open_reader, self._file.explain)

    @override
    async def create_run(self, run: NewRun, *, owner: str | None = None, ttl: timedelta = timedelta(0)) -> Lease | None:
        return await self.begin_create(run, owner=owner, ttl=ttl)

    @override
    def begin_create(
        self, run: NewRun, *, owner: str | None = None, ttl: timedelta = timedelta(0)
    ) -> Pending[Lease | None]:
        run_id = check_run_id(run.summary.run_id)
        summary = transition.created(run, owner, ttl)
        create = work.Create(rows.head(summary), run, summary.lease, list(map(rows.signal_values, run.signals)))
        return self._commits.begin(create, then=partial(self._changes.announce, run_id))

    @override
    async def load(self, run_id: str, *, until: int | None = None, from_snapshot: bool = False) -> StoredRun | None:
        values = {
            "run_id": run_id,
            "upto": rows.END if until is None else min(until, rows.END),
            "from_snapshot": from_snapshot,
        }
        return rows.stored_run(run_id, await self._read(_SQL["load"], values))

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
        return await self.begin_append(lease, records, expected_seq=expected_seq, update=update, blobs=blobs)

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
        append = work.Append(lease, records, expected_seq, update, blobs)
        return self._commits.begin(append, then=partial(self._changes.announce, lease.run_id))

    @override
    async def claim(self, owner: str, *, now: datetime, ttl: timedelta, query: ClaimQuery = ANY_RUN) -> list[Lease]:
        return await self._commits.put(lambda db: work.claim(db, owner, now, ttl, query))

    @override
    async def renew(self, leases: Sequence[Lease], *, now: datetime, ttl: timedelta) -> list[Lease]:
        longer = [replace(lease, expires_at=now + ttl) for lease in leases]
        return await self._commits.put(lambda db: work.renew(db, longer))

    @override
    async def next_due(self, query: ClaimQuery) -> datetime | None:
        found = await self._read(_SQL["next_due" if query.run_id is None else "run_is_due"], rows.wanted(query))
        return rows.optional_moment(rows.nearest(found[0][0])) if found else None

    @override
    async def release(
        self,
        lease: Lease,
        *,
        wake_at: datetime | None = None,
        signals_read: int | None = None,
        waiting_for: Sequence[Waiting] | None = None,
    ) -> None:
        parting = rows.parting(wake_at, signals_read, waiting_for)
        await self._write(lease.run_id, lambda db: work.release(db, lease, parting))

    @override
    async def post(self, signal: Signal) -> Signal:
        values = rows.signal_values(signal)
        return await self._write(signal.run_id, lambda db: work.post(db, signal, values))

    @override
    async def read_signals(self, known: Mapping[str, int]) -> list[Signal]:
        counts = [[run_id, count] for run_id, count in known.items()]
        return rows.signals(await self._read(_SQL["signals"], {"known": rows.json_text(counts)}))

    @override
    async def query_runs(self, query: RunQuery) -> list[RunSummary]:
        found = await self._read(*runs_query(query))
        return [rows.listed(row) for row in found]

    @override
    async def every_run(self, query: RunQuery) -> AsyncIterator[RunSummary]:
        query, last = replace(query, limit=_HEADS_AT_ONCE, offset=0), None
        while found := await self._read(*runs_query(query, last)):
            for last in found:
                yield rows.listed(last)

    @override
    async def read_events(self, run_id: str, *, after: int = 0, limit: int | None = None) -> list[Record]:
        upto = rows.END if limit is None else min(after + limit, rows.END)
        values = {"run_id": run_id, "after": min(after, rows.END), "upto": upto}
        return rows.records(await self._read(_SQL["events"], values))

    @override
    async def read_audit(self, query: AuditQuery) -> list[AuditEvent]:
        name = "audit" if query.run_id is None else "audit_of_run"
        found = await self._read(_SQL[name], rows.audit_values(query))
        events = [audit_event(run_id, Record(seq, body, hash_)) for run_id, seq, body, hash_ in found]
        return [event for event in events if event is not None]

    @override
    async def read_blobs(self, run_id: str, digests: Collection[str]) -> dict[str, bytes]:
        values = {"run_id": run_id, "upto": rows.END, "digests": rows.json_text(list(digests))}
        return dict(await self._read(_SQL["blobs"], values))

    @override
    async def put_snapshot(self, lease: Lease, snapshot: Snapshot) -> None:
        await self._commits.put(lambda db: work.put_snapshot(db, lease, snapshot))

    @override
    async def delete_run(self, run_id: str) -> None:
        await self._write(check_run_id(run_id), lambda db: work.delete(db, run_id))

    @override
    async def put_entries(self, entries: Sequence[Entry], *, instead_of: EntryKind | None = None) -> None:
        values = [rows.entry_values(own_entry(entry)) for entry in entries]
        await self._commits.put(lambda db: put_entries(db, values, instead_of))

    @override
    async def read_entries(self, query: EntryQuery) -> list[Entry]:
        return [rows.entry(row) for row in await self._read(*entries_query(query))]

    @override
    async def known_runs(self, query: KnownRunQuery) -> list[KnownRun]:
        return lists.read(await self._read(*lists.known_runs(query)))

    @override
    async def ended_runs(self, before: datetime) -> list[KnownRun]:
        return lists.read(await self._read(*lists.ended_runs(before)))

    @override
    async def get_workflow_stats(self) -> dict[str, Any]:
        question = partial(statistics.workflow_stats, since=self._yesterday())
        await self.upgrade()
        return await look(self._file, question)

    @override
    def get_workflow_stats_sync(self) -> dict[str, Any]:
        return look_now(self._file, partial(statistics.stats_of_any_version, self._file, since=self._yesterday()))

    @override
    async def get_span_statistics(
        self, pipeline_name: str | None = None, time_range: tuple[float, float] | None = None
    ) -> dict[str, Any]:
        check_range(time_range)
        await self._keep_spans(partial(statistics.spans_to_keep, pipeline_name=pipeline_name, time_range=time_range))
        counted = partial(statistics.span_statistics, pipeline_name=pipeline_name, time_range=time_range)
        return await look(self._file, counted)

    @override
    async def set_system_state(self, key: str, value: Mapping[str, Any]) -> None:
        check_key(key)
        text = dump_state(value).decode()
        await self._commits.put(lambda db: work.set_system_state(db, key, text))

    @override
    async def get_system_state(self, key: str) -> dict[str, Any] | None:
        found = await self._read(_SQL["get_system_state"], {"key": check_key(key)})
        return load_object(found[0][0].encode()) if found else None

    @override
    async def wait_for_work(self, run_id: str | None = None, *, timeout: float) -> None:
        with self._watch.waiting(run_id), self._changes.listening(run_id) as waiter:
            self._commits.look(self._watch.look)
            await waiter.sleep(timeout)

    @override
    async def backup(self, target: Path) -> None:
        await self._commits.open()
        await back_up(self._file, target)

    @override
    async def compact(self) -> None:
        with suppress(NoFileYet):
            await self._commits.open()
            while await self._commits.put(_give_back):
                pass
            await self._commits.tend()

    @override
    async def schema_version(self) -> SchemaVersion:
        return await look(self._file, self._file.schema_version)

    @override
    async def upgrade(self) -> None:
        with suppress(NoFileYet):
            await self._commits.open()

    @override
    async def report(self, *, is_quick: bool = False) -> StoreReport:
        return await look(self._file, partial(report, self._file, is_quick=is_quick))

    @override
    async def shutdown(self) -> None:
        # The connection that writes comes last: one that only reads could not checkpoint the file.
        await self._readers.stop()
        await self._commits.stop()

    def _yesterday(self) -> datetime:
        return self.clock.now() - timedelta(hours=24)

    async def _keep_spans(self, to_keep: Callable[..., list[statistics.NewSpans]]) -> None:
        """Keep the spans of the runs whose logs have got longer since they were kept."""
        await self.upgrade()
        after = 0
        while found := await look(self._file, partial(to_keep, after=after)):
            await self._commits.put(partial(_keep_all, found))
            after = found[-1].run["run"]

    async def _read(self, sql: str, values: rows.Values) -> Rows:
        try:
            if not self._readers.are_open:
                await self._commits.open()  # which brings the file up to date, or says that there is none
            return await self._readers.fetch(sql, values)
        except NoFileYet:
            return []

    async def _write(self, run_id: str, write: Work[T]) -> T:
        return await self._commits.put(write, then=partial(self._changes.announce, run_id))


def _keep_all(found: Sequence[statistics.NewSpans], db: sqlite3.Connection) -> None:
    for spans in found:
        spans(db)


def _give_back(db: sqlite3.Connection) -> bool:
    return work.give_back(db, _PAGES_AT_ONCE)


def runs_query(query: RunQuery, last: rows.Row | None = None) -> tuple[str, rows.Values]:
    """Return the statement that answers a query, and its values; only what comes behind ``last``, if that is given."""
    has_parents, parents = query.parent_run_ids is not None, sorted(query.parent_run_ids or ())
    wanted = {
        "run_id = :run_id": query.run_id,
        "status = :status": query.status,
        "pipeline_name = :pipeline_name": query.pipeline_name,
        "parent_run_id = :parent_run_id": len(parents) == 1,
        "parent_run_id IN (SELECT value FROM json_each(:parent_run_ids))": has_parents and len(parents) != 1,
        "lease_owner IS NOT NULL": query.is_leased,
        "lease_owner IS NULL": query.is_leased is False,
        "json_contains(metadata, :metadata)": query.metadata,
        "created_at <= :last_at AND (created_at < :last_at OR run_id > :last)": last,
    }
    conditions = [condition for condition, value in wanted.items() if value]
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    values = {
        "run_id": query.run_id,
        "status": query.status,
        "pipeline_name": query.pipeline_name,
        "parent_run_id": next(iter(parents), None),
        "parent_run_ids": rows.json_text(parents),
        "metadata": rows.json_text(dict(query.metadata)),
        "last_at": None if last is None else last[4],
        "last": None if last is None else last[0],
        **rows.page(query.limit, query.offset),
    }
    runs = "list_leased" if query.is_leased else "list_children" if has_parents else "list_runs"
    return f"{_SQL['list_runs' if query.run_id else runs]} {where} {_SQL['in_order']}", values


def entries_query(query: EntryQuery) -> tuple[str, rows.Values]:
    """Return the statement that answers a query, and its values."""
    wanted = {"run_id = :run_id": query.run_id, "kind = :kind": query.kind}
    conditions = [condition for condition, value in wanted.items() if value is not None]
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    values = {
        "run_id": query.run_id,
        "kind": query.kind,
        **rows.page(query.limit, query.offset),
    }
    return f"{_SQL['read_entries']} {where} {_SQL['entries_in_order']}", values
