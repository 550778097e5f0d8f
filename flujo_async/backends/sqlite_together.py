"""Work of several callers in statements that they share, inside the writer's transaction.

Each step of a statement lets other threads have the interpreter and has to get it back, which under load takes longer
than what the step does. So runs are looked up, changed and inserted by dozens, in one step for all of them.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain
from typing import Any, Final, TypeAlias, TypeVar, cast

from flujo_async._codec.tree import loads
from flujo_async._model.lease import Lease
from flujo_async._model.state import RESTING
from flujo_async.backends import sqlite_rows as rows
from flujo_async.backends.sql import queries
from flujo_async.backends.sqlite_work import Append, Create, fact_rows, give_blobs, insert_audit

T = TypeVar("T", Append, Create)
Placed: TypeAlias = dict[int, T]
"""Work by its place among all that waits."""

LARGEST: Final = 64
"""Rows in one statement at most. Each size is a power of two, so that few statements have to be prepared."""

_SQL = queries("sqlite.sql")
_USUAL = 8  # columns that a usual append changes, the key included
_ROW = re.compile(r"^\(\?.*\)", re.MULTILINE)


def do_together(db: sqlite3.Connection, waiting: Sequence[object]) -> dict[int, Any]:
    """Create runs and append to runs, one piece of work for each run; return the results by place.

    What would be refused is left out and leaves no trace, and so is what only some runs need.
    """
    creations = {place: create for place, create in _one_a_run(waiting, Create) if not _is_rare(create)}
    appends = dict(_one_a_run(waiting, Append))
    results: dict[int, Any] = {}
    if len(creations) > 1:
        results.update(_create(db, creations))
    if len(appends) > 1:
        results.update(_append(db, appends))
    return results


@cache
def for_rows(sql: str, count: int) -> str:
    """Return a statement for ``count`` rows of values, made of one for a row, which stands on a line of its own."""
    return _ROW.sub(lambda row: ",\n".join([row[0]] * count), sql)


def _one_a_run(waiting: Sequence[object], kind: type[T]) -> Iterator[tuple[int, T]]:
    seen: set[str] = set()
    for place, work in enumerate(waiting):
        if isinstance(work, kind) and work.run_id not in seen:
            seen.add(work.run_id)
            yield place, work


def _is_rare(create: Create) -> bool:
    return create.run.prefix is not None or bool(create.signals)


def _create(db: sqlite3.Connection, creations: Placed[Create]) -> dict[int, Lease | None]:
    exist = set(_ask(db, "which_exist", [(place, create.run_id) for place, create in creations.items()]))
    last: int = db.execute(_SQL["last_log"]).fetchall()[0][0]
    fresh = [place for place in creations if place not in exist]
    new = {log: creations[place] for log, place in enumerate(fresh, last + 1)}
    _do(db, "insert_new_log", [(log,) for log in new])
    _do(db, "insert_run", [(log, *create.head.values()) for log, create in new.items()])
    _do(db, "insert_fact", [row for log, create in new.items() for row in fact_rows(log, create.run.records)])
    for log, create in new.items():
        insert_audit(db, log, create.run.records)
        give_blobs(db, log, create.run.records[0].seq, create.run.blobs)
    return {place: creations[place].lease for place in fresh}


def _append(db: sqlite3.Connection, appends: Placed[Append]) -> dict[int, int]:
    held = _ask(db, "which_are_held", [_asked(place, append) for place, append in appends.items()])
    usual: list[rows.Row] = []
    unusual: list[rows.Row] = []
    facts: list[rows.Row] = []
    for place, log, is_indexed_alike in held:
        append = appends[place]
        row = (log, *rows.change(append.update, append.last_seq).values())
        is_rare = append.update.pipeline_id is not None or append.update.usage is not None
        if is_indexed_alike and append.update.status not in RESTING and not is_rare:
            usual.append(row[:_USUAL])
        else:
            unusual.append(row)
        facts += fact_rows(log, append.records)
    _do(db, "advance_many", usual)
    _do(db, "advance_many_to_status", unusual)
    _do(db, "insert_fact", facts)
    for place, log, _ in held:
        insert_audit(db, log, appends[place].records)
        give_blobs(db, log, appends[place].expected_seq + 1, appends[place].blobs)
    return {place: appends[place].last_seq for place, _, _ in held}


def _asked(place: int, append: Append) -> rows.Row:
    """Return the values of ``which_are_held``."""
    lease, update = append.lease, append.update
    return (
        place,
        lease.run_id,
        lease.token,
        lease.owner,
        append.expected_seq,
        update.status,
        rows.optional_micros(update.wake_at),
        update.signals_read,
    )


def _ask(db: sqlite3.Connection, name: str, values: Sequence[rows.Row]) -> list[Any]:
    """Return what a query tells of all rows of values; it returns a JSON list."""
    answers = (db.execute(*statement).fetchall() for statement in _statements(name, values))
    return [item for answer in answers for item in cast("list[Any]", loads(answer[0][0]))]


def _do(db: sqlite3.Connection, name: str, values: Sequence[rows.Row]) -> None:
    for statement in _statements(name, values):
        db.execute(*statement)


def _statements(name: str, values: Sequence[rows.Row]) -> Iterator[tuple[str, list[Any]]]:
    """Spread rows of values over statements, the largest first."""
    start, size = 0, LARGEST
    while start < len(values):
        while size > len(values) - start:
            size //= 2
        yield for_rows(_SQL[name], size), list(chain.from_iterable(values[start : start + size]))
        start += size
