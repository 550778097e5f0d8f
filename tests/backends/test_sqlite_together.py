"""What many callers want at once is done in few statements, and comes to the same as one by one."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from flujo_async._model import transition
from flujo_async._model.lease import Lease
from flujo_async._model.state import Waiting
from flujo_async._model.stored import NewRun, Prefix
from flujo_async.backends import sqlite_rows as rows
from flujo_async.backends.changes import Changes
from flujo_async.backends.sql import queries
from flujo_async.backends.sqlite_file import OpenFile, SQLiteFile
from flujo_async.backends.sqlite_together import SIZES, do_together, for_rows
from flujo_async.backends.sqlite_watch import Watch
from flujo_async.backends.sqlite_work import Append, Create
from flujo_async.errors import FlujoError
from flujo_async.testing.samples import LOG, T0, TTL, blob, new_run, update

TABLES = ("logs", "runs", "facts", "blobs", "blobs_of_logs")


def opened(path: Path) -> OpenFile:
    file = SQLiteFile(path, synchronous="normal", busy_timeout=timedelta(seconds=1), watch=Watch(Changes()))
    return file.open(create=True)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(opened(tmp_path / "runs.db")) as file:
        yield file.connection


def creation(run_id: str, **fields: Any) -> Create:
    run: NewRun = new_run(run_id, **fields)
    summary = transition.created(run, "w", TTL)
    return Create(rows.head(summary), run, summary.lease)


def to(
    run_id: str, *, after: int = 1, count: int = 1, token: int = 1, texts: Sequence[str] = (), **fields: Any
) -> Append:
    lease = Lease(run_id, token, "w", T0 + TTL)
    return Append(lease, LOG[after : after + count], after, update(**fields), [blob(text) for text in texts])


def content(db: sqlite3.Connection) -> dict[str, list[Any]]:
    return {table: db.execute(f"SELECT * FROM {table}").fetchall() for table in TABLES}


def one_by_one(db: sqlite3.Connection, waiting: Sequence[Create | Append]) -> dict[int, Any]:
    results: dict[int, Any] = {}
    for place, work in enumerate(waiting):
        try:
            results[place] = work(db)
        except FlujoError as refusal:
            results[place] = type(refusal)
    return results


WAITING = (Waiting(kind="signal", name="approval", since=T0),)
APPENDS = [
    to("run0"),
    to("run1", status="completed"),
    to("run2", status="paused", wake_at=T0, waiting_for=WAITING),
    to("run3", count=3, error_message="no"),
    to("run4", metadata={"a": 1}, pipeline_version="2", current_step_index=5),
    to("run5", texts=["x", "y"]),
    to("run6", texts=["x"], signals_read=0),
    to("run7", count=0, updated_at=T0 + timedelta(days=1)),
    to("run8", status="pending"),
    to("run9", signals_read=1),
    to("run10", wake_at=T0),
    to("run11", status="paused"),
]
"""Of all kinds, each to another run."""


def test_it_comes_to_the_same_as_one_by_one(db: sqlite3.Connection, tmp_path: Path) -> None:
    creations = [creation(f"run{n}", priority=n, blobs=[blob("z")] if n % 3 else []) for n in range(11)]
    creations.append(creation("run11", status="paused"))
    with closing(opened(tmp_path / "other.db")) as other:
        for waiting in (creations, APPENDS, [to("run0", after=2), to("run5", after=2)]):
            assert do_together(db, waiting) == one_by_one(other.connection, waiting)
        assert content(db) == content(other.connection)


def test_what_would_be_refused_is_left_out_and_leaves_no_trace(db: sqlite3.Connection) -> None:
    one_by_one(db, [creation(f"run{n}") for n in range(5)])
    new = creation("new")
    waiting = [
        to("run0"),
        to("run1", token=2),
        to("run2", after=2),
        to("nobody"),
        replace(to("run3"), lease=Lease("run3", 1, "another", T0)),
        to("run4"),
        creation("run0"),
        new,
    ]
    assert do_together(db, waiting) == {0: 2, 5: 2, 7: new.lease}
    assert [row[0] for row in db.execute("SELECT log FROM facts WHERE seq > 1")] == [1, 5]


def test_the_second_of_two_to_one_run_waits_its_turn(db: sqlite3.Connection) -> None:
    waiting = [creation("a"), creation("a"), creation("b")]
    assert do_together(db, waiting).keys() == {0, 2}
    waiting = [to("a"), to("a", after=2), to("b"), to("b")]
    assert do_together(db, waiting) == {0: 2, 2: 2}
    assert waiting[1](db) == 3


def test_forks_are_made_one_by_one(db: sqlite3.Connection) -> None:
    one_by_one(db, [creation("a")])
    fork = creation("b", records=LOG[1:2], prefix=Prefix("a", 1, LOG[0].hash))
    assert do_together(db, [fork, creation("c"), creation("d")]).keys() == {1, 2}


def test_keys_go_on_where_others_have_left_off(db: sqlite3.Connection) -> None:
    one_by_one(db, [creation("a")])
    do_together(db, [creation("b"), creation("c")])
    one_by_one(db, [creation("d")])
    assert [row[0] for row in db.execute("SELECT id FROM runs ORDER BY id")] == [1, 2, 3, 4]


def test_many_take_few_statements_of_few_sizes(db: sqlite3.Connection) -> None:
    names = [f"run{n}" for n in range(2 * SIZES[-1] + 5)]
    statements: list[str] = []
    do_together(db, [creation(name) for name in names])
    db.set_trace_callback(statements.append)
    assert len(do_together(db, [to(name) for name in names])) == len(names)
    assert len(statements) == 2 * 3  # looked up, facts inserted; by 64, 64, and 8 of which 3 are empty
    assert set(db.execute("SELECT max(seq) FROM facts GROUP BY log")) == {(2,)}


@pytest.mark.parametrize("name", ["which_exist", "which_are_held", "is_held_alike", "advance", "advance_many"])
def test_runs_are_found_by_indexes(db: sqlite3.Connection, name: str) -> None:
    sql = for_rows(queries("sqlite.sql")[name], 4 if "many" in name else 1)
    plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", [1] * sql.count("?"))]
    assert any(re.match("SEARCH runs USING .*(run_id|rowid)=", line) for line in plan)
    assert not any("SCAN runs" in line for line in plan)
