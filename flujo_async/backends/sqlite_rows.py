"""Heads, records and signals as rows of SQLite."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any, Final, TypeAlias, cast

from flujo_async._codec.heads import decode_usage, decode_waiting, encode_usage, encode_waiting, load_object
from flujo_async._codec.tree import dumps, loads
from flujo_async._model.audit import AuditQuery
from flujo_async._model.entry import Entry, EntryKind
from flujo_async._model.lease import ClaimQuery, Lease
from flujo_async._model.state import RESTING, RUN_STATUSES, RunStatus, Waiting
from flujo_async._model.stored import Record, RunUpdate, Signal, Snapshot, StoredRun
from flujo_async._model.summary import RunSummary
from flujo_async.backends.sql import queries
from flujo_async.errors import IntegrityError, SerializationError

Row: TypeAlias = Sequence[Any]
Values: TypeAlias = dict[str, Any]
"""The named values of a query."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_BEGINNING = -(2**63)
NOTHING: Final = float(queries("sqlite.sql")["nothing"])
"""Stands for NULL where it is given often."""

END: Final = 2**63 - 1
"""No ``seq`` and no moment comes after it."""


def micros(moment: datetime) -> int:
    """Return a moment as microseconds since 1970.

    Raises:
        SerializationError: the moment is naive.
    """
    if moment.tzinfo is None:
        raise SerializationError(f"a stored moment needs a time zone, {moment} has none")
    return (moment - _EPOCH) // _MICROSECOND


_FIRST: Final = micros(datetime.min.replace(tzinfo=UTC))
_LAST: Final = micros(datetime.max.replace(tzinfo=UTC))


def optional_micros(moment: datetime | None) -> int | None:
    """Return what ``micros`` returns, for a moment that may be missing."""
    return None if moment is None else micros(moment)


def moment(micros: int) -> datetime:
    """Return the moment that ``micros`` wrote.

    Raises:
        SerializationError: it wrote nothing like that.
    """
    try:
        return _EPOCH + timedelta(microseconds=micros)
    except OverflowError as error:
        raise SerializationError(f"no calendar goes as far as {micros} microseconds from 1970") from error


def nearest(micros: int | None) -> int | None:
    """Return of a damaged moment the nearest one that there is; of all others what they are."""
    return None if micros is None else min(max(micros, _FIRST), _LAST)


def optional_moment(micros: int | None) -> datetime | None:
    """Return the moment that ``optional_micros`` wrote."""
    return None if micros is None else moment(micros)


def json_text(tree: Any) -> str:
    """Return a tree as JSON text."""
    return dumps(tree).decode()


def page(limit: int | None = None, offset: int = 0) -> Values:
    """Return the values of the part of a list that is asked for; to SQLite, a negative limit is none."""
    return {"limit": -1 if limit is None else limit, "offset": offset}


def head(summary: RunSummary) -> Row:
    """Return the values of ``insert_runs``, the short key left out."""
    lease = summary.lease
    return (
        summary.run_id,
        summary.pipeline_name,
        summary.pipeline_version,
        summary.status,
        micros(summary.created_at),
        micros(summary.updated_at),
        summary.last_seq,
        summary.current_step_index,
        json_text(dict(summary.metadata)),
        _or_nothing(summary.error_message),
        _waiting_text(summary.waiting_for),
        summary.attempts,
        _or_nothing(summary.parent_run_id),
        _or_nothing(summary.queue),
        summary.priority,
        _or_nothing(optional_micros(summary.wake_at)),
        summary.signals,
        summary.signals_read,
        NOTHING if lease is None else lease.owner,
        NOTHING if lease is None else micros(lease.expires_at),
        summary.pipeline_id,
        int(summary.is_background),
        json_text(encode_usage(summary.usage)),
    )


def change(update: RunUpdate, last_seq: int) -> Row:
    """Return the first values of ``advance``, and those of ``advance_many``, behind the short key."""
    changes = update.change
    return (
        last_seq,
        micros(update.updated_at),
        update.current_step_index,
        _or_nothing(changes.pipeline_version),
        NOTHING if changes.metadata is None else json_text(changes.metadata),
        _or_nothing(changes.error_message),
        _waiting_text(changes.waiting_for),
        changes.status,
        int(changes.status in RESTING),
        _or_nothing(optional_micros(changes.wake_at)),
        _or_nothing(changes.signals_read),
        _or_nothing(changes.pipeline_id),
        NOTHING if changes.usage is None else json_text(encode_usage(changes.usage)),
    )


def facts(log: int, records: Iterable[Record], head: RunUpdate | RunSummary) -> list[Row]:
    """Return the values of ``insert_fact`` for each record, with what the head says after them."""
    at, step_index = micros(head.updated_at), head.current_step_index
    # For bytes, the driver would look for an adapter.
    return [(log, record.seq, bytearray(record.body), record.hash, at, step_index) for record in records]


def parting(wake_at: datetime | None, signals_read: int | None, waiting_for: Iterable[Waiting] | None) -> Values:
    """Return the values of ``release`` and ``release_to_wait``, those of the lease left out."""
    return {
        "wake_at": optional_micros(wake_at),
        "signals_read": signals_read,
        "waiting_for": None if waiting_for is None else _waiting_text(waiting_for),
    }


def wanted(query: ClaimQuery) -> Values:
    """Return the values of the conditions ``asked_for``, ``is_dead`` and ``needs_no_reason``, and ``run_id``."""
    return {
        "run_id": query.run_id,
        "statuses": json_text(sorted(query.statuses)),
        "queues": None if query.queues is None else json_text(sorted(query.queues)),
        "definitions": None if query.definitions is None else json_text(sorted(map(list, query.definitions))),
        "pipeline_names": None if query.pipeline_names is None else json_text(sorted(query.pipeline_names)),
        "is_due": query.is_due,
        "dead_owners": json_text(sorted(query.dead_owners)),
    }


def held(lease: Lease) -> Values:
    """Return the values of the condition ``held``."""
    return {"run_id": lease.run_id, "token": lease.token, "owner": lease.owner}


def signal_values(signal: Signal) -> Values:
    """Return the values of ``insert_signal``, the run's short key left out."""
    return {
        "signal_id": signal.signal_id,
        "name": signal.name,
        "payload": json_text(signal.payload),
        "at": micros(signal.at),
        "sent_by": signal.sent_by,
    }


def audit_values(query: AuditQuery) -> Values:
    """Return the values of ``audit`` and ``audit_of_run``."""
    return {
        "run_id": query.run_id,
        "events": json_text(sorted(query.events)) if query.events else None,
        "since": _BEGINNING if query.since is None else micros(query.since),
        "until": END if query.until is None else micros(query.until),
        **page(query.limit, query.offset),
    }


def summary(row: Row) -> RunSummary:
    """Return the head that the columns ``head`` tell."""
    run_id, attempts, owner, expires_at = row[0], row[11], row[18], row[19]
    return RunSummary(
        run_id=run_id,
        pipeline_name=row[1],
        pipeline_version=row[2],
        status=cast("RunStatus", row[3]),
        created_at=moment(row[4]),
        updated_at=moment(row[5]),
        last_seq=row[6],
        current_step_index=row[7],
        metadata=cast("dict[str, Any]", loads(row[8])),
        error_message=row[9],
        waiting_for=decode_waiting(loads(row[10])),
        attempts=attempts,
        parent_run_id=row[12],
        queue=row[13],
        priority=row[14],
        wake_at=optional_moment(row[15]),
        signals=row[16],
        signals_read=row[17],
        lease=None if owner is None else Lease(run_id, attempts, owner, moment(expires_at)),
        pipeline_id=row[20],
        is_background=bool(row[21]),
        usage=decode_usage(loads(row[22])),
    )


def listed(row: Row) -> RunSummary:
    """Return the head that the columns ``head`` tell; of a damaged one what can be read, and what is wrong with it."""
    try:
        return summary(row)
    except SerializationError as error:  # one damaged row must not keep the others from being listed
        nothing: dict[int, Any] = {8: b"{}", 9: f"the head of this run is damaged: {error}", 10: b"[]", 22: b"{}"}
        nothing |= {place: nearest(row[place]) for place in (4, 5, 15, 19)}
        return summary([nothing.get(place, value) for place, value in enumerate(row)])


def records(rows: Iterable[Row]) -> list[Record]:
    """Return the records that the rows of ``events`` tell."""
    return [Record(seq, body, hash_) for seq, body, hash_ in sorted(rows, key=itemgetter(0))]


def stored_run(run_id: str, rows: Iterable[Row]) -> StoredRun | None:
    """Return the run that the rows of ``load`` tell, if there is one.

    Raises:
        IntegrityError: its head or a signal is damaged; of its log, its chain tells.
    """
    try:
        return _stored_run(rows)
    except SerializationError as error:
        raise IntegrityError(f"its head or a signal is damaged: {error}", run_id=run_id, seq=0) from error


def _stored_run(rows: Iterable[Row]) -> StoredRun | None:
    by_kind: tuple[list[Row], ...] = ([], [], [], [])
    for row in rows:
        kind: int = row[0]
        by_kind[kind].append(row)
    heads, facts, posted, snapshots = (sorted(of_kind, key=itemgetter(1)) for of_kind in by_kind)
    if not heads:
        return None
    loaded = summary(_columns(heads[0]))
    if loaded.status not in RUN_STATUSES:
        raise SerializationError(f"{loaded.status!r} is none", path="status")
    log = tuple([Record(seq, body, hash_) for _, seq, body, hash_ in facts])
    taken = [Snapshot(seq, hash_, body) for _, seq, body, hash_ in snapshots]
    return StoredRun(
        loaded,
        log,
        tuple(_signal(loaded.run_id, _columns(row)) for row in posted),
        taken[0] if taken else None,
    )


def signals(rows: Iterable[Row]) -> list[Signal]:
    """Return the signals that the rows of ``signals`` tell.

    Raises:
        IntegrityError: one is damaged.
    """
    return [_sound_signal(row[1], row[2:]) for row in sorted(rows, key=itemgetter(0))]


def entry_values(entry: Entry) -> Values:
    """Return the values of ``put_entry``."""
    return {
        "run_id": entry.run_id,
        "kind": entry.kind,
        "key": entry.key,
        "body": json_text(dict(entry.body)),
        "created_at": micros(entry.created_at),
        "updated_at": micros(entry.updated_at),
    }


def entry(row: Row) -> Entry:
    """Return the entry that a row of ``read_entries`` tells."""
    run_id, kind, key, body, created_at, updated_at = row
    return Entry(
        run_id=run_id,
        kind=cast("EntryKind", kind),
        key=key,
        body=load_object(body.encode()),
        created_at=moment(created_at),
        updated_at=moment(updated_at),
    )


def _sound_signal(run_id: str, columns: Row) -> Signal:
    try:
        return _signal(run_id, columns)
    except SerializationError as error:
        raise IntegrityError(f"a signal is damaged: {error}", run_id=run_id, seq=0) from error


def _signal(run_id: str, columns: Row) -> Signal:
    signal_id, name, payload, at, sent_by = columns
    return Signal(run_id, signal_id, name, loads(payload), moment(at), sent_by)


def _columns(row: Row) -> Row:
    return cast("Row", loads(row[2]))


def _waiting_text(waiting: Iterable[Waiting]) -> str:
    waits = list(waiting)
    return json_text(encode_waiting(waits)) if waits else "[]"


def _or_nothing(value: Any) -> Any:
    return NOTHING if value is None else value
