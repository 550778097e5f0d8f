"""Work of several callers in statements that they share, inside the writer's transaction.

Each step of a statement lets other threads have the interpreter and has to get it back, which under load takes longer
than what the step does. So runs are looked up, changed and inserted by dozens, in one step for all of them.
"""

from __future__ import annotations

import re
import sqlite3
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain
from typing import Any, Final, TypeAlias, TypeVar, cast

from flujo_async._codec.tree import loads
from flujo_async._model.lease import Lease
from flujo_async._model.stored import GOES_ON
from flujo_async.backends import sqlite_rows as rows
from flujo_async.backends.sql import queries
from flujo_async.backends.sqlite_work import Append, Create, give_blobs, insert_audit

T = TypeVar("T", Append, Create)
Placed: TypeAlias = dict[int, T]
"""Work by its place among all that waits."""

SIZES: Final = (1, 2, 4, 8, 16, 24, 32, 48, 64)
"""How many rows a statement may have, so that few statements have to be prepared. Rows that are left over are empty."""

_SQL = queries("sqlite.sql")
_ROW = re.compile(r"^\(\?.*\)", re.MULTILINE)


def do_together(db: sqlite3.Connection, waiting: Sequence[object]) -> dict[int, Any]:
    """Create runs and append to runs, one piece of work for each run; return the results by place.

    What would be refused is left out and leaves no trace, and so is what only some runs need.
    """
    creations = {place: create for place, create in _one_a_run(waiting, Create).items() if not _is_rare(create)}
    appends = _one_a_run(waiting, Append)
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


def _one_a_run(waiting: Sequence[object], kind: type[T]) -> Placed[T]:
    first: dict[str, tuple[int, T]] = {}
    for place, work in enumerate(waiting):
        if isinstance(work, kind):
            first.setdefault(work.run_id, (place, work))
    return dict(first.values())


def _is_rare(create: Create) -> bool:
    return create.run.prefix is not None or bool(create.signals)


def _create(db: sqlite3.Connection, creations: Placed[Create]) -> dict[int, Lease | None]:
    exist = set(_ask(db, "which_exist", [(place, create.run_id) for place, create in creations.items()]))
    last: int = db.execute(_SQL["last_log"]).fetchall()[0][0]
    fresh = [place for place in creations if place not in exist]
    new = {log: creations[place] for log, place in enumerate(fresh, last + 1)}
    _do(db, "insert_logs", [(log,) for log in new])
    _do(db, "insert_runs", [(log, *create.head) for log, create in new.items()])
    _do(
        db,
        "insert_facts",
        [fact for log, create in new.items() for fact in rows.facts(log, create.run.records, create.run.summary)],
    )
    for log, create in new.items():
        insert_audit(db, log, create.run.records)
        give_blobs(db, log, create.run.records[0].seq, create.run.blobs)
    return {place: creations[place].lease for place in fresh}


def _append(db: sqlite3.Connection, appends: Placed[Append]) -> dict[int, int]:
    held = _ask(db, "which_are_held", [_asked(place, append) for place, append in appends.items()])
    changes: list[rows.Row] = []
    facts: list[rows.Row] = []
    results: dict[int, int] = {}
    for place, log, is_alike in held:
        append = appends[place]
        results[place] = last_seq = append.last_seq
        if not (is_alike and append.update.change is GOES_ON):
            changes.append((log, *rows.change(append.update, last_seq)))
        facts += rows.facts(log, append.records, append.update)
        insert_audit(db, log, append.records)
        give_blobs(db, log, append.expected_seq + 1, append.blobs)
    _do(db, "advance_many", changes)
    _do(db, "insert_facts", facts)
    return results


def _asked(place: int, append: Append) -> rows.Row:
    """Return the values of ``which_are_held``."""
    lease = append.lease
    return place, lease.run_id, lease.token, lease.owner, append.expected_seq


def _ask(db: sqlite3.Connection, name: str, values: Sequence[rows.Row]) -> list[Any]:
    """Return what a query tells of all rows of values; it returns a JSON list."""
    answers = (db.execute(*statement).fetchall() for statement in _statements(name, values))
    return [item for answer in answers for item in cast("list[Any]", loads(answer[0][0]))]


def _do(db: sqlite3.Connection, name: str, values: Sequence[rows.Row]) -> None:
    for statement in _statements(name, values):
        db.execute(*statement)


def _statements(name: str, values: Sequence[rows.Row]) -> Iterator[tuple[str, list[Any]]]:
    """Spread rows of values over statements, as few as can be."""
    for start in range(0, len(values), SIZES[-1]):
        some = values[start : start + SIZES[-1]]
        size = SIZES[bisect_left(SIZES, len(some))]
        left_over = [rows.NOTHING] * ((size - len(some)) * len(some[0]))
        yield for_rows(_SQL[name], size), [*chain.from_iterable(some), *left_over]
