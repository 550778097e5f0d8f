"""Runs and spans, counted by the database."""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from math import isfinite
from typing import Any, Final

from flujo_async._log.large import named_blobs
from flujo_async._log.spans import Span, spans_of
from flujo_async._model.state import TERMINAL
from flujo_async._model.stored import StoredRun
from flujo_async.abc.logs import log_of
from flujo_async.backends import sqlite_rows as rows
from flujo_async.backends.sql import queries
from flujo_async.backends.sqlite_file import SQLiteFile
from flujo_async.errors import IntegrityError

_SQL = queries("sqlite.sql")
_FAR: Final = 9e12
"""As many seconds as the database can count in microseconds."""

_log: Final = logging.getLogger("flujo_async")

AT_ONCE: Final = 200
"""Runs whose spans are written in one transaction: nobody waits long behind it."""


def workflow_stats(db: sqlite3.Connection | None, since: datetime) -> dict[str, Any]:
    """Return what ``get_workflow_stats`` does."""
    found = [] if db is None else db.execute(_SQL["count_runs"], {"since": rows.micros(since)}).fetchall()
    counts: Counter[str] = Counter()
    background: Counter[str] = Counter()
    recent, ended, took = 0, 0, 0.0
    for status, count, in_background, milliseconds in found:
        if status is None:
            recent = count
            continue
        counts[status] += count
        background[status] += in_background
        if status in TERMINAL:
            ended += count
            took += milliseconds
    return {
        "total_workflows": counts.total(),
        "status_counts": dict(counts),
        "recent_workflows_24h": recent,
        "average_execution_time_ms": took / ended if ended else 0,
        "background_status_counts": dict(+background),
    }


def stats_of_any_version(file: SQLiteFile, db: sqlite3.Connection | None, since: datetime) -> dict[str, Any]:
    """Return what ``get_workflow_stats`` does, when the database has been brought up to date."""
    if file.schema_version(db).is_old:
        file.open(create=False).close()
    return workflow_stats(db, since)


@dataclass(frozen=True, slots=True)
class NewSpans:
    """The spans of one run that have ended, as its log was at ``seq``.

    Attributes:
        run: the values of ``mark_spans``.
        spans: the rows of values of ``put_span``.
    """

    run: rows.Values
    spans: list[rows.Row]

    def __call__(self, db: sqlite3.Connection) -> None:
        """Keep them, unless the run is gone."""
        if db.execute(_SQL["mark_spans"], self.run).fetchall():
            db.execute(_SQL["delete_spans"], self.run)
            db.executemany(_SQL["put_span"], self.spans)


def spans_to_keep(
    db: sqlite3.Connection | None, pipeline_name: str | None, time_range: tuple[float, float] | None, after: int
) -> list[NewSpans]:
    """Return the spans of some runs that have none yet, or whose logs have got longer.

    Args:
        db: the database.
        pipeline_name: only runs of this definition.
        time_range: only runs in which a span may have started at that time.
        after: only runs whose keys come after this one.
    """
    if db is None:
        return []
    first = 0.0 if time_range is None or not isfinite(time_range[0]) else time_range[0]
    since = int(min(max(first, -_FAR), _FAR) * 1_000_000) - 1
    values = {"pipeline_name": pipeline_name or None, "since": since, "after": after, "limit": AT_ONCE}
    db.execute("BEGIN")  # all of it is of one instant
    stale = db.execute(_SQL["runs_without_spans"], values).fetchall()
    return [_new_spans(db, key, run_id, created_at) for key, run_id, created_at in stale]


def _new_spans(db: sqlite3.Connection, key: int, run_id: str, created_at: int) -> NewSpans:
    values = {"run_id": run_id, "upto": rows.END, "from_snapshot": False}
    run = {"run": key, "run_id": run_id, "created_at": created_at, "seq": 0}
    try:
        stored = rows.stored_run(run_id, db.execute(_SQL["load"], values))
        assert stored is not None
        run["seq"] = stored.summary.last_seq
        return NewSpans(run, [_row(key, span) for span in _spans(db, stored) if span["end_time"] is not None])
    except IntegrityError as error:
        _log.warning("its spans are not counted: %s", error)
        return NewSpans(run, [])


def _spans(db: sqlite3.Connection, stored: StoredRun) -> list[Span]:
    digests = rows.json_text(list(named_blobs(stored.records)))
    values = {"run_id": stored.summary.run_id, "upto": rows.END, "digests": digests}
    log = log_of(stored, dict(db.execute(_SQL["blobs"], values).fetchall()))
    return spans_of(log.fold, log.records)


def _row(key: int, span: Span) -> rows.Row:
    return key, span["span_id"], span["name"], span["status"], span["start_time"], span["end_time"]


def span_statistics(
    db: sqlite3.Connection | None, pipeline_name: str | None, time_range: tuple[float, float] | None
) -> dict[str, Any]:
    """Return what ``get_span_statistics`` does, of the spans that are kept, and of those that were saved by hand."""
    first, last = time_range or (float("-inf"), float("inf"))
    values = {"pipeline_name": pipeline_name or None, "first": first, "last": last}
    if db is None:
        return _counted(())
    db.execute("BEGIN")  # all of it is of one instant
    names = ("count_spans_of_pipeline" if pipeline_name else "count_spans", "count_saved_spans")
    return _counted(row for name in names for row in db.execute(_SQL[name], values))


def _counted(found: Iterable[rows.Row]) -> dict[str, Any]:
    by_name: Counter[str] = Counter()
    by_status: Counter[str] = Counter()
    totals: defaultdict[str, float] = defaultdict(float)
    for name, status, count, total in found:
        by_name[name] += count
        by_status[status] += count
        totals[name] += total
    return {
        "total_spans": by_name.total(),
        "by_name": dict(by_name),
        "by_status": dict(by_status),
        "avg_duration_by_name": {
            name: {"total": totals[name], "count": count, "average": totals[name] / count}
            for name, count in by_name.items()
        },
    }
