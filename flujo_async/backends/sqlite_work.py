"""What the verbs do to a SQLite database, inside the writer's transaction. All of it refuses before it writes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from flujo_async._model import transition
from flujo_async._model.lease import CLAIMABLE, ClaimQuery, Lease
from flujo_async._model.state import TERMINAL
from flujo_async._model.stored import GOES_ON, Blob, NewRun, Prefix, Record, RunUpdate, Signal, Snapshot
from flujo_async._model.summary import RunSummary
from flujo_async.backends import sqlite_rows as rows
from flujo_async.backends.sql import queries
from flujo_async.backends.sqlite_entries import delete_entries
from flujo_async.errors import RunExists

_SQL = queries("sqlite.sql")


@dataclass(slots=True)
class Create:
    """Inserts a run, its log and its first records.

    Attributes:
        head: the values of ``insert_runs``, the short key left out.
        run: the run.
        lease: who has it.
        signals: the values of ``insert_signal`` for its signals, the short key left out.
    """

    head: rows.Row
    run: NewRun
    lease: Lease | None
    signals: Sequence[rows.Values] = ()

    @property
    def run_id(self) -> str:
        """The run that is created."""
        return self.run.summary.run_id

    def __call__(self, db: sqlite3.Connection) -> Lease | None:
        """Do so, unless there is such a run; return the lease."""
        if db.execute(_SQL["key_of_run"], {"run_id": self.run_id}).fetchone():
            raise RunExists(f"run {self.run_id!r} exists")
        shared = (None, None) if self.run.prefix is None else _find(db, self.run.prefix)
        log: int = db.execute(_SQL["insert_log"], shared).fetchall()[0][0]
        db.execute(_SQL["insert_runs"], [log, *self.head])
        _insert_facts(db, log, self.run.records, self.run.summary)
        give_blobs(db, log, self.run.records[0].seq, self.run.blobs)
        db.executemany(_SQL["insert_signal"], [{**signal, "run": log} for signal in self.signals])
        return self.lease


@dataclass(slots=True)
class Append:
    """Inserts records and blobs, and updates the row of the run if these do not tell all that has changed."""

    lease: Lease
    records: Sequence[Record]
    expected_seq: int
    update: RunUpdate
    blobs: Sequence[Blob]

    @property
    def run_id(self) -> str:
        """The run whose log gets longer."""
        return self.lease.run_id

    @property
    def last_seq(self) -> int:
        """The last ``seq`` of the log afterwards."""
        return self.expected_seq + len(self.records)

    def __call__(self, db: sqlite3.Connection) -> int:
        """Do so, if all is as the caller believes; return the last ``seq``."""
        held = (self.lease.run_id, self.lease.token, self.lease.owner, self.expected_seq)
        found: list[tuple[int]] = []
        if self.update.change is GOES_ON:
            found = db.execute(_SQL["is_held_alike"], held).fetchall()
        if not found:
            values = (rows.NOTHING, *rows.change(self.update, self.last_seq), *held)
            found = db.execute(_SQL["advance"], values).fetchall()
        if not found:
            _refuse_append(db, self.lease, self.expected_seq)
        log = found[0][0]
        _insert_facts(db, log, self.records, self.update)
        give_blobs(db, log, self.expected_seq + 1, self.blobs)
        return self.last_seq


def claim(db: sqlite3.Connection, owner: str, now: datetime, ttl: timedelta, query: ClaimQuery) -> list[Lease]:
    """Lease the first of the runs that can be claimed."""
    # A run may be found twice, such as one that is ready and has news.
    candidates = sorted(set(_candidates(db, query, now)))[: query.limit]
    leases = [Lease(run_id, attempts + 1, owner, now + ttl) for _, _, run_id, attempts in candidates]
    db.executemany(_SQL["claim"], map(_lease_values, leases))
    return leases


def renew(db: sqlite3.Connection, leases: Sequence[Lease]) -> list[Lease]:
    """Let leases last until their ``expires_at``; return those that still are their runs'."""
    return [lease for lease in leases if db.execute(_SQL["renew"], _lease_values(lease)).rowcount]


def release(db: sqlite3.Connection, lease: Lease, parting: rows.Values) -> None:
    """Give a lease up, if it is the run's."""
    name = "release" if parting["waiting_for"] is None else "release_to_wait"
    db.execute(_SQL[name], rows.held(lease) | parting)


def post(db: sqlite3.Connection, signal: Signal, values: rows.Values) -> Signal:
    """Insert a signal and count it, unless the run has one of its id; return the one that it has."""
    run_id = signal.run_id
    key = db.execute(_SQL["key_of_run"], {"run_id": run_id}).fetchone()
    if key is None:
        raise transition.missing(run_id)
    run = {"run": key[0]}
    if not db.execute(_SQL["insert_signal"], values | run).rowcount:
        return rows.signals(db.execute(_SQL["signal"], run | {"run_id": run_id, "signal_id": signal.signal_id}))[0]
    db.execute(_SQL["count_signal"], run)
    return signal


def put_snapshot(db: sqlite3.Connection, lease: Lease, snapshot: Snapshot) -> None:
    """Keep a snapshot, if the lease is the run's and the log has what it is of."""
    values = {"seq": snapshot.seq, "hash": snapshot.hash, "body": snapshot.body}
    db.execute(_SQL["put_snapshot"], rows.held(lease) | values)


def delete(db: sqlite3.Connection, run_id: str) -> None:
    """Delete a run with its signals, its snapshot and its entries, and of its log what no fork shares."""
    delete_entries(db, run_id)
    deleted = db.execute(_SQL["delete_run"], {"run_id": run_id}).fetchall()
    log = deleted[0][0] if deleted else None
    db.execute(_SQL["delete_audit"], {"log": log})
    while log is not None:
        log = _forget(db, log)


def give_back(db: sqlite3.Connection, pages: int) -> bool:
    """Cut that many free pages off the end of the file; tell whether there are more."""
    before = _free_pages(db)
    for _ in range(min(pages, before)):
        db.execute("PRAGMA incremental_vacuum(1)")  # one at a time: the driver does not go on by itself
    return 0 < _free_pages(db) < before


def set_system_state(db: sqlite3.Connection, key: str, value: str) -> None:
    """Keep a value under a key, in place of what was there."""
    db.execute(_SQL["set_system_state"], {"key": key, "value": value})


def insert_audit(db: sqlite3.Connection, log: int, records: Sequence[Record]) -> None:
    """Put the facts into the audit log that belong there; few do."""
    for record in records:
        if (mark := record.mark) is not None:
            db.execute(_SQL["insert_audit"], (log, record.seq, rows.micros(mark.at), mark.event))


def give_blobs(db: sqlite3.Connection, log: int, seq: int, blobs: Sequence[Blob]) -> None:
    """Insert blobs that the facts of a log name from ``seq`` on."""
    for blob in blobs:
        db.execute(_SQL["insert_blob"], {"digest": blob.digest, "data": blob.data})
        db.execute(_SQL["give_blob"], {"log": log, "digest": blob.digest, "seq": seq})


def _find(db: sqlite3.Connection, prefix: Prefix) -> tuple[int, int]:
    """Return the log that has the last record of a prefix, and that record's ``seq``."""
    values = {"run_id": prefix.run_id, "shared": prefix.last_seq}
    found = db.execute(_SQL["source"], values).fetchone()
    if found is None:
        raise transition.missing(prefix.run_id)
    log, last_seq, hash_ = found
    transition.check_prefix(prefix, last_seq, hash_)
    return log, prefix.last_seq


def _insert_facts(db: sqlite3.Connection, log: int, records: Sequence[Record], head: RunUpdate | RunSummary) -> None:
    db.executemany(_SQL["insert_fact"], rows.facts(log, records, head))
    insert_audit(db, log, records)


def _forget(db: sqlite3.Connection, log: int) -> int | None:
    """Delete of a log what nobody needs; if that is all of it, return the log whose beginning it shared."""
    shared, has_run = db.execute(_SQL["who_needs_log"], {"log": log}).fetchone()
    if has_run:
        return None
    if shared is None:
        source: int | None = db.execute(_SQL["delete_log"], {"log": log}).fetchone()[0]
        return source
    for name in ("cut_facts", "cut_blobs"):
        db.execute(_SQL[name], {"log": log, "shared": shared})
    return None


def _free_pages(db: sqlite3.Connection) -> int:
    pages: int = db.execute("PRAGMA freelist_count").fetchone()[0]
    return pages


def _refuse_append(db: sqlite3.Connection, lease: Lease, expected_seq: int) -> None:
    row = db.execute(_SQL["head_of_run"], {"run_id": lease.run_id}).fetchone()
    if row is None:
        raise transition.lost(lease)
    transition.check_append(rows.summary(row), lease, expected_seq)


def _lease_values(lease: Lease) -> rows.Values:
    return rows.held(lease) | {"expires_at": rows.micros(lease.expires_at)}


def _candidates(db: sqlite3.Connection, query: ClaimQuery, now: datetime) -> Iterator[tuple[Any, ...]]:
    """Find the runs to choose from, as (-priority, created_at, run_id, attempts), which is how claims are ordered."""
    values = rows.wanted(query) | {"now": rows.micros(now), "limit": query.limit}
    for name, more in _ways_to_be_claimable(query):
        yield from db.execute(_SQL[name], values | more)


def _ways_to_be_claimable(query: ClaimQuery) -> Iterator[tuple[str, rows.Values]]:
    """Name the queries that find the candidates, each with the values that only it has."""
    if query.run_id is not None:
        yield "claimable_run", {}
        return
    yield "woken", {}
    yield "signalled", {}
    if not query.is_due:
        yield from _ways_to_be_ready(query)
        yield "expired", {}
        if query.dead_owners:
            yield "left_by_dead_owners", {}


def _ways_to_be_ready(query: ClaimQuery) -> Iterator[tuple[str, rows.Values]]:
    if query.statuses & CLAIMABLE:
        yield ("ready" if query.queues is None else "ready_in_queue"), {}
    yield from (("finished", {"status": status}) for status in query.statuses & TERMINAL)
