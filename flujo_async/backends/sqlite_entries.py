"""What callers keep of runs by hand, inside the writer's transaction, and what lists need of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from flujo_async._codec.plain import encode_plain
from flujo_async._model.entry import EntryKind
from flujo_async.abc.known_runs import KnownRun, of_entries
from flujo_async.backends import sqlite_rows as rows
from flujo_async.backends.sql import queries
from flujo_async.errors import FlujoError

_SQL = queries("sqlite.sql")
_LISTED = frozenset({"state", "run"})


def put_entries(db: sqlite3.Connection, entries: Sequence[rows.Values], instead_of: EntryKind | None) -> None:
    """Insert or replace entries; what else their runs have of the kind ``instead_of`` goes."""
    last = {(entry["run_id"], entry["kind"], entry["key"]): entry for entry in entries}
    if instead_of is not None:
        for run_id in dict.fromkeys(entry["run_id"] for entry in entries):
            keys = rows.json_text([key for of, kind, key in last if (of, kind) == (run_id, instead_of)])
            db.execute(_SQL["delete_other_entries"], {"run_id": run_id, "kind": instead_of, "keys": keys})
    db.executemany(_SQL["put_entry"], last.values())
    for run_id in dict.fromkeys(of for of, kind, _ in last if not _LISTED.isdisjoint((kind, instead_of))):
        _list(db, run_id)


def delete_entries(db: sqlite3.Connection, run_id: str) -> None:
    """Delete all that was kept of a run."""
    for name in ("delete_entries", "delete_saved_run"):
        db.execute(_SQL[name], {"run_id": run_id})


def _list(db: sqlite3.Connection, run_id: str) -> None:
    """Keep what lists need of a run, as its entries tell."""
    kept = [rows.entry(row) for row in db.execute(_SQL["entries_of_saved_run"], {"run_id": run_id})]
    try:
        values = _listed(of_entries(kept)) if kept else None
    except (FlujoError, AttributeError, TypeError, ValueError):
        values = None  # what somebody has put is no state: it is there to be read, and is in no list
    if values is None:
        db.execute(_SQL["delete_saved_run"], {"run_id": run_id})
    else:
        db.execute(_SQL["put_saved_run"], values)


def _listed(run: KnownRun) -> rows.Values:
    """Return the values of ``put_saved_run``."""
    took = run.execution_time_ms
    return {
        "run_id": run.run_id,
        "pipeline_id": _text(run.pipeline_id),
        "pipeline_name": _text(run.pipeline_name),
        "parent_run_id": _text(run.parent_run_id),
        "status": run.status,
        "created_at": rows.micros(run.created_at),
        "updated_at": rows.micros(run.updated_at),
        "is_background": run.is_background_task,
        "execution_time_ms": None if took is None else float(took),
        "metadata": rows.json_text(encode_plain(run.metadata, at="metadata")),
    }


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
