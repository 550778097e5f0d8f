"""What the verbs do to a SQLite database, inside the writer's transaction. All of it refuses before it writes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import product
from typing import Any

from flujo_async._model import transition
from flujo_async._model.lease import CLAIMABLE, ClaimQuery, Lease
from flujo_async._model.state import TERMINAL
from flujo_async._model.stored import Record
from flujo_async.backends import sqlite_rows as rows
from flujo_async.backends.sql import queries
from flujo_async.errors import RunExists, RunNotFound

_SQL = queries("sqlite.sql")


def create(db: sqlite3.Connection, head: rows.Values, records: Sequence[Record]) -> None:
    """Insert a run and its first records."""
    created = db.execute(_SQL["insert_run"], head).fetchall()
    if not created:
        raise RunExists(f"run {head['run_id']!r} exists")
    _insert_facts(db, created[0][0], records)


def append(
    db: sqlite3.Connection, lease: Lease, records: Sequence[Record], expected_seq: int, change: rows.Values
) -> int:
    """Insert records and update the head, if the lease and ``expected_seq`` are the run's; return the last ``seq``."""
    values = {**change, **rows.held(lease), "expected_seq": expected_seq}
    advanced = db.execute(_SQL["advance"], values).fetchall()
    if not advanced:
        advanced = db.execute(_SQL["advance_to_status"], values).fetchall()
    if not advanced:
        _refuse_append(db, lease, expected_seq)
    _insert_facts(db, advanced[0][0], records)
    return expected_seq + len(records)


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


def post(db: sqlite3.Connection, run_id: str, signal: rows.Values) -> None:
    """Insert a signal and count it, unless the run has it."""
    key = db.execute(_SQL["key_of_run"], {"run_id": run_id}).fetchone()
    if key is None:
        raise RunNotFound(f"run {run_id!r} does not exist", run_id=run_id)
    run = {"run": key[0]}
    if db.execute(_SQL["insert_signal"], signal | run).rowcount:
        db.execute(_SQL["count_signal"], run)


def delete(db: sqlite3.Connection, run_id: str) -> None:
    """Delete a run, and with it its facts and signals."""
    db.execute(_SQL["delete_run"], {"run_id": run_id})


def set_system_state(db: sqlite3.Connection, key: str, value: str) -> None:
    """Keep a value under a key, in place of what was there."""
    db.execute(_SQL["set_system_state"], {"key": key, "value": value})


def _insert_facts(db: sqlite3.Connection, run: int, records: Sequence[Record]) -> None:
    db.executemany(_SQL["insert_fact"], [(run, record.seq, record.body, record.hash) for record in records])


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
    can_go_on = query.statuses & CLAIMABLE
    if query.queues is None:
        yield from (("ready", {"status": status}) for status in can_go_on)
    else:
        pairs = product(can_go_on, query.queues)
        yield from (("ready_in_queue", {"status": status, "queue": queue}) for status, queue in pairs)
    yield from (("finished", {"status": status}) for status in query.statuses & TERMINAL)
