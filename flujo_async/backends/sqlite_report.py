"""What a SQLite database tells of itself."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, Final, TypeAlias

from flujo_async._model.report import StorePart, StoreReport
from flujo_async.backends.sql import queries
from flujo_async.backends.sqlite_file import SQLiteFile
from flujo_async.backends.sqlite_place import log_of

_SQL = queries("sqlite.sql")
_MOST_DAMAGES: Final = 20

_Rows: TypeAlias = list[tuple[Any, ...]]


def report(file: SQLiteFile, db: sqlite3.Connection | None, *, is_quick: bool) -> StoreReport:
    """Return what the database tells of itself; ``db`` is ``None`` where there is no file."""
    schema = file.schema_version(db)
    if db is None or not schema.stored:
        return StoreReport(schema=schema, size=0)
    log = _size(log_of(file.path))
    size, free = _rows(db, _SQL["pages"])[0]
    damages = _damages(db, is_quick)
    parts = () if damages else _parts(db, is_quick)
    return StoreReport(schema=schema, size=size + log, free=free, unsettled=log, parts=parts, damages=damages)


def _damages(db: sqlite3.Connection, is_quick: bool) -> tuple[str, ...]:
    check = "quick_check" if is_quick else "integrity_check"
    try:
        found = [text for (text,) in _rows(db, f"PRAGMA {check}({_MOST_DAMAGES})") if text != "ok"]
        orphans = [] if is_quick else _rows(db, "PRAGMA foreign_key_check")
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise
        return (f"the check does not come to its end: {error}",)
    lost = [f"row {row} of {table} belongs to a row of {owner} that is gone" for table, row, owner, _ in orphans]
    return (*found, *lost[:_MOST_DAMAGES])


def _parts(db: sqlite3.Connection, is_quick: bool) -> tuple[StorePart, ...]:
    sizes = {} if is_quick else _sizes(db)
    names = [name for (name,) in _rows(db, _SQL["tables"])]
    parts = [StorePart(name, _rows(db, f'SELECT count(*) FROM "{name}"')[0][0], sizes.get(name)) for name in names]
    return tuple(sorted(parts, key=lambda part: (-(part.size or 0), -part.count, part.name)))


def _sizes(db: sqlite3.Connection) -> dict[str, int]:
    try:
        return dict(_rows(db, _SQL["table_sizes"]))
    except sqlite3.OperationalError:  # this SQLite was built without the table that tells
        return {}


def _rows(db: sqlite3.Connection, sql: str) -> _Rows:
    return db.execute(sql).fetchall()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
