"""Bringing a database of the first schema to today's: once, whole, whoever else opens it, however the process ends."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pytest

from flujo_async import SQLiteBackend
from flujo_async._model.report import SchemaVersion
from flujo_async._model.stored import RunQuery
from flujo_async.backends.sql import migrations
from flujo_async.cli.screen import as_json
from tests.backends.first_schema import DATABASE, flujo, seen
from tests.backends.test_first_schema import THEN, holds
from tests.backends.test_sqlite import content, outputs, processes

NEWEST = len(migrations())

OPEN = """
async def main():
    async with SQLiteBackend(path) as backend:
        runs = await backend.query_runs(RunQuery())
        print(len(runs), len({run.pipeline_id for run in runs if run.pipeline_id}))
asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return Path(shutil.copy(DATABASE, tmp_path / "old.db"))


def version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        number: int = db.execute("PRAGMA user_version").fetchone()[0]
    return number


def schema(path: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name").fetchall()


def columns(path: Path) -> dict[str, list[tuple[str, str]]]:
    with closing(sqlite3.connect(path)) as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: sorted(row[1:3] for row in db.execute(f"PRAGMA table_info({name})")) for name in tables}


def multiply(path: Path, count: int) -> None:
    """Let there be many more runs like ``completed``."""
    with closing(sqlite3.connect(path)) as db, db:
        names: list[str] = [row[1] for row in db.execute("PRAGMA table_info(runs)")]
        of_copy = ", ".join({"id": "1000 + value", "run_id": "'copy ' || value"}.get(name, name) for name in names)
        numbers = "WITH RECURSIVE numbers (value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM numbers LIMIT ?)"
        db.execute(f"{numbers} INSERT INTO logs (id) SELECT 1000 + value FROM numbers", [count])
        original = "SELECT * FROM runs WHERE run_id = 'completed'"
        as_original = ", ".join(name for name in names if name not in ("id", "run_id"))
        db.execute(
            f"{numbers} INSERT INTO runs ({', '.join(names)}) SELECT {of_copy} FROM numbers, "
            f"(SELECT {as_original} FROM ({original}))",
            [count],
        )
        db.execute(
            f"{numbers} INSERT INTO facts (log, seq, body, hash) SELECT 1000 + value, seq, body, hash "
            f"FROM numbers, facts WHERE log = (SELECT id FROM ({original}))",
            [count],
        )


async def test_what_the_first_schema_did_not_tell_is_taken_from_the_logs(path: Path) -> None:
    async with SQLiteBackend(path) as backend:
        heads = {head.run_id: head for head in await backend.query_runs(RunQuery())}
        told = await seen(backend)
    assert {run_id: head.pipeline_id for run_id, head in heads.items()} == {
        run_id: run["state"]["pipeline_id"] for run_id, run in told.items()
    }
    assert [run_id for run_id, head in heads.items() if head.is_background] == ["pending"]


async def test_an_upgraded_database_is_as_a_new_one(path: Path, tmp_path: Path) -> None:
    async with SQLiteBackend(path) as backend:
        await backend.upgrade()
    async with SQLiteBackend(tmp_path / "new.db") as backend:
        await backend.set_system_state("key", {})
    assert columns(path) == columns(tmp_path / "new.db")
    assert schema(path) == schema(tmp_path / "new.db")


async def test_looking_at_the_version_changes_nothing(path: Path) -> None:
    before = content(path)
    async with SQLiteBackend(path) as backend:
        assert await backend.schema_version() == SchemaVersion(1, NEWEST)
        await backend.report()
    assert content(path) == before
    async with SQLiteBackend(path) as backend:
        await backend.upgrade()
        assert await backend.schema_version() == SchemaVersion(NEWEST, NEWEST)


def test_of_processes_that_open_it_at_once_one_upgrades_it_and_all_see_all_of_it(path: Path) -> None:
    multiply(path, 1_000)
    told = outputs(4, OPEN, path)
    assert told == [f"{1_000 + len(THEN)} 5\n"] * 4
    assert version(path) == NEWEST


def kill_half_way(path: Path) -> None:
    """Kill a process that upgrades a database of many runs, when a part of that is on disk."""
    log = path.with_name(f"{path.name}-wal")
    for _ in range(5):  # who looks too late finds it done, but not each time
        shutil.copy(DATABASE, path)
        multiply(path, 10_000)
        with processes(1, OPEN, path) as (victim,):
            while size(log) < 100_000 and victim.poll() is None:  # what does not fit in memory goes there uncommitted
                pass
            victim.kill()
            victim.wait()
        if version(path) != NEWEST:
            return


def size(path: Path) -> int:
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


async def test_who_is_killed_half_way_has_done_nothing_and_the_next_one_does_it(path: Path) -> None:
    kill_half_way(path)
    assert version(path) == 1
    async with SQLiteBackend(path) as backend:
        report = await flujo("greeting", backend).verify("completed")
        heads = {head.run_id: as_json(head) for head in await backend.query_runs(RunQuery())}
    assert (version(path), report.ok, len(heads)) == (NEWEST, True, 10_000 + len(THEN))
    assert all(holds(heads[run_id], told["head"]) for run_id, told in THEN.items())
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("SELECT count(*) FROM runs WHERE pipeline_id = ''").fetchone() == (0,)


@pytest.mark.parametrize("damage", ["replace(body, '}', ']')", "json_remove(body, '$.at')"])
async def test_a_damaged_fact_does_not_keep_the_others_from_being_upgraded(path: Path, damage: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        spoilt = "log = (SELECT id FROM runs WHERE run_id = 'failed')"
        db.execute(f"UPDATE facts SET body = {damage} WHERE {spoilt}")
    async with SQLiteBackend(path) as backend:
        heads = {head.run_id: head for head in await backend.query_runs(RunQuery())}
        report = await flujo("greeting", backend).verify()
    assert bool(heads["failed"].pipeline_id) == ("remove" in damage)
    assert heads["completed"].pipeline_id
    assert [broken.run_id for broken in report.broken] == ["failed"]
