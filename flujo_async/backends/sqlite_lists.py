"""Lists of runs, by hand or by a runtime, as queries that walk along indexes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Final, cast

from flujo_async._codec.plain import encode_plain
from flujo_async._codec.tree import loads
from flujo_async._model.state import RUN_STATUSES, TERMINAL
from flujo_async.abc.known_runs import KnownRun, KnownRunQuery, of_entries, of_head
from flujo_async.backends import sqlite_rows as rows
from flujo_async.backends.sql import queries

_SQL = queries("sqlite.sql")
_MAY_BE_LEASED: Final = ("of_heads", "of_leased")

_WANTED: Final = {
    "pipeline_id": "pipeline_id = :pipeline_id",
    "pipeline_name": "pipeline_name = :pipeline_name",
    "parent_run_id": "parent_run_id = :parent_run_id",
    "since": "updated_at >= :since",
}


def known_runs(query: KnownRunQuery) -> tuple[str, rows.Values]:
    """Return the statement that answers a query, and its values."""
    return _statement(_parts(query)), _values(query)


def ended_runs(before: datetime) -> tuple[str, rows.Values]:
    """Return the statement that finds what has ended, was created before, and has no parent that goes on."""
    parts = [
        f"{_part(kind, 'created_at')} AND status = '{status}' AND created_at < :before "
        f"AND NOT {_SQL['has_going_parent'].replace('CHILD', child)}"
        for kind, child in (("of_heads", "runs"), ("of_saved", "saved_runs"))
        for status in sorted(TERMINAL)
    ]
    return _statement(parts), {"before": rows.micros(before), **rows.page()}


def read(found: Sequence[rows.Row]) -> list[KnownRun]:
    """Return the runs that the rows tell."""
    in_order = sorted(found, key=itemgetter(1))
    in_order.sort(key=itemgetter(0), reverse=True)
    return [_known(entries, head) for _, _, entries, *head in in_order]


def _statement(parts: Iterable[str]) -> str:
    return _SQL["known_runs"].replace("PARTS", "\nUNION ALL\n".join(parts))


def _part(kind: str, order: str, *conditions: str) -> str:
    part = " AND ".join([_SQL[kind].replace("MOMENT", order), *conditions])
    return part.replace("updated_at", _SQL["updated_at"]) if kind in _MAY_BE_LEASED else part


def _parts(query: KnownRunQuery) -> Iterator[str]:
    """Yield what is merged, each part in the order that is asked for."""
    conditions = [condition for name, condition in _WANTED.items() if getattr(query, name)]
    if query.is_background is not None:
        conditions.append("is_background = :is_background")
    heads, saved = list(conditions), list(conditions)
    if query.metadata:
        heads.append("json_contains_value(metadata, :plain_metadata)")
        saved.append("plain_contains(metadata, :plain_metadata)")
    statuses = [query.status] if query.status else sorted(RUN_STATUSES)
    of_status = [f"status = '{status}'" for status in statuses]
    asked = of_status if query.status else []
    if query.order == "created_at" or query.parent_run_id:
        yield _part("of_heads", query.order, *asked, *heads)
        yield _part("of_saved", query.order, *asked, *saved)
        return
    for status in of_status:
        yield _part("of_unleased", query.order, status, *heads)
        yield _part("of_saved", query.order, status, *saved)
    yield _part("of_leased", query.order, *asked, *heads)


def _values(query: KnownRunQuery) -> rows.Values:
    metadata = dict(query.metadata)
    return {
        "pipeline_id": query.pipeline_id,
        "pipeline_name": query.pipeline_name,
        "parent_run_id": query.parent_run_id,
        "since": rows.optional_micros(query.since),
        "is_background": query.is_background,
        "plain_metadata": rows.json_text(encode_plain(metadata, at="metadata")) if metadata else None,
        **rows.page(query.limit, query.offset),
    }


def _known(entries: str, head: rows.Row) -> KnownRun:
    kept = cast("list[rows.Row]", loads(entries.encode()))
    return of_entries([rows.entry(row) for row in kept]) if kept else of_head(rows.listed(head))
