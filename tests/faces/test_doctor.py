"""Examining and upgrading a store from the command line."""

from __future__ import annotations

import re
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flujo_async._model.lease import ClaimQuery, DefinitionKey
from flujo_async._model.report import StoreReport
from flujo_async.cli.finding import about_runs, about_store, about_versions
from flujo_async.testing.samples import new_run
from tests.backends.first_schema import DATABASE
from tests.faces.conftest import InProcess, Project, on_terminal
from tests.faces.test_upkeep import spoil


@pytest.fixture
def old(call: InProcess) -> Path:
    return Path(shutil.copy(DATABASE, call.directory / "old.db"))


def version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        number: int = db.execute("PRAGMA user_version").fetchone()[0]
    return number


def findings(told: Any, level: str) -> dict[str, list[str]]:
    return {item["about"]: item["run_ids"] for item in told["findings"] if item["level"] == level}


class TestMigrate:
    def test_an_older_store_is_brought_to_today(self, call: InProcess, old: Path) -> None:
        told = call("migrate", "--check", "--db", "old.db")
        assert (told.code, told.out) == (
            1,
            "old.db: schema version 1; this flujo_async has 5, `migrate` brings it there\n",
        )
        assert version(old) == 1
        told = call("migrate", "--db", "old.db")
        assert (told.code, told.out) == (0, "old.db: brought from schema version 1 to 5\n")
        assert version(old) == 5
        for arguments in (["migrate"], ["migrate", "--check"]):
            told = call(*arguments, "--db", "old.db")
            assert (told.code, told.out) == (0, "old.db: schema version 5, the newest: nothing to do\n")
        assert call("migrate", "--db", "old.db", "--json").json == {"before": 5, "after": 5, "newest": 5}

    def test_a_newer_store_is_refused_with_what_to_do(self, call: InProcess, old: Path) -> None:
        with closing(sqlite3.connect(old)) as db:
            db.execute("PRAGMA user_version = 99")
        for command in ("migrate", "doctor"):
            told = call(command, "--db", "old.db")
            assert told.code == 1
            assert "schema version 99" in told.err
            assert "upgrade flujo_async, or open a backup" in told.err

    def test_a_kind_of_store_that_never_changed(self, call: InProcess) -> None:
        (call.directory / "runs").mkdir()
        told = call("migrate", "--db", "runs")
        assert (told.code, told.out) == (
            0,
            "runs: there has been only one version of such a store, nothing to do\n",
        )


class TestDoctor:
    def test_an_older_store_is_not_upgraded_by_looking_at_it(self, call: InProcess, old: Path) -> None:
        told = call("doctor", "--db", "old.db", "--json")
        assert (told.code, told.json["ok"], told.json["verified"]) == (1, False, None)
        assert findings(told.json, "problem") == {"schema": []}
        assert version(old) == 1

    def test_runs_that_need_somebody_are_named_with_what_to_do(self, call: InProcess, old: Path) -> None:
        call("migrate", "--db", "old.db")
        told = call("doctor", "--db", "old.db")
        assert told.code == 1
        assert re.search(r"problem +orphans +1 run that nobody drives.*\n +orphan\n +→ `runs resume RUN_ID`", told.out)
        assert re.search(r"note +waits +1 run waiting for the signal approval.*\n +paused\n", told.out)
        assert re.search(r"note +dead letters +1 run failed.*\n +failed\n", told.out)
        report = call("doctor", "--db", "old.db", "--json").json
        assert findings(report, "problem") == {"orphans": ["orphan"]}
        assert report["verified"] == {"ok": True, "runs": 9, "facts": 47, "broken": []}
        assert {part["name"]: part["count"] for part in report["store"]["parts"]}["facts"] == 43

    def test_a_sound_store(self, project: Project) -> None:
        project.run("orders", "a", "b")
        told = project("doctor", "--json")
        assert (told.code, told.json["ok"]) == (0, True)
        assert findings(told.json, "note") == {"waits": ["b", "a"]}
        assert told.json["store"]["size"] > 1000
        assert project("doctor", "--quick", "--json").json["verified"] is None

    def test_a_run_that_was_changed_is_a_problem(self, project: Project) -> None:
        project.run("orders", "a", "b")
        spoil(project, "a")
        told = project("doctor", "--json")
        assert (told.code, findings(told.json, "problem")) == (1, {"hashes": ["a"]})
        assert project("doctor", "--quick").code == 0

    def test_a_damaged_file_is_a_problem(self, one_project: Project) -> None:
        one_project.run("orders", *(f"run{i}" for i in range(50)))
        path = one_project.directory / "runs.db"
        content = bytearray(path.read_bytes())
        content[3 * len(content) // 4 :] = bytes(len(content) - 3 * len(content) // 4)
        path.write_bytes(content)
        told = one_project("doctor")
        assert told.code == 1
        assert re.search(r"problem +store .*\n( +.*\n)*? +→ stop what writes to it, and restore a backup", told.out)

    def test_a_directory_that_is_no_store_is_told_from_one(self, call: InProcess) -> None:
        (call.directory / "elsewhere").mkdir()
        (call.directory / "elsewhere" / "notes.txt").write_text("tea")
        told = call("doctor", "--db", "elsewhere")
        assert (told.code, told.out) == (2, "")
        assert told.err.startswith("flujo-async: there is no store in the directory elsewhere: ")

    def test_what_there_is_none_of_is_told_to_programs_only(self, one_project: Project) -> None:
        one_project.run("orders", "a")
        assert "blobs" in {part["name"] for part in one_project("doctor", "--json").json["store"]["parts"]}
        _, _, parts = one_project("doctor").out.partition("In it")
        assert "facts" in parts
        assert "blobs" not in parts

    def test_runs_that_the_new_code_does_not_know_are_named(self, one_project: Project) -> None:
        """By who has the code; a store alone does not know what is deployed."""
        one_project.dispatch("orders", "a")
        path = one_project.directory / "app.py"
        path.write_text(path.read_text().replace('"orders", "1.0.0"', '"orders", "2.0.0"'))
        told = one_project("doctor", "--quick", "--json")
        assert (told.code, findings(told.json, "note")) == (0, {"versions": ["a"]})
        told = one_project("doctor", "--quick", "--json", "--db", one_project.db)
        assert findings(told.json, "note") == {}

    def test_it_fits_a_terminal(self, call: InProcess, one_project: Project, old: Path) -> None:
        call("migrate", "--db", "old.db")
        sent = re.sub(r"\x1b\[[\d;]*m", "", on_terminal(one_project.cli, "doctor", "--db", "old.db"))
        assert max(len(line) for line in sent.splitlines()) <= 80
        assert "orphan" in sent


NOW = datetime(2026, 6, 1, tzinfo=UTC)


def told(status: str, **head: Any) -> list[tuple[str, str, str]]:
    """What is told of one run that is an hour and a half old."""
    ago = NOW - timedelta(hours=1.5)
    run = new_run(status=status, created_at=ago, updated_at=ago, **head).summary
    heads: dict[Any, Any] = {"running": [], "pending": [], "paused": [], "failed": [], status: [run]}
    return [(each.level, each.about, each.text) for each in about_runs(heads, NOW)]


def test_runs_of_queues_are_a_workers() -> None:
    assert told("running", queue="slow") == [
        ("problem", "orphans", "1 run of queue slow that nobody drives, for 90 min")
    ]
    assert told("pending", queue="slow") == [("note", "queues", "1 run of queue slow not begun, for 90 min")]
    assert told("pending", queue="slow", wake_at=NOW + timedelta(hours=1)) == []
    assert told("pending") == [("note", "queues", "1 run not begun, for 90 min")]


def test_runs_of_versions_that_are_not_known() -> None:
    """Of what is known by name; with ``migrate=`` all of that is."""
    ago = NOW - timedelta(hours=1.5)
    versions = {"a": "1.0", "b": "2.0", "c": "3.0"}
    paused = [new_run(n, pipeline_version=v, pipeline_id="f", updated_at=ago).summary for n, v in versions.items()]
    failed = [new_run("failed", status="failed", pipeline_version="1.0").summary]
    another = [new_run("another", status="pending", pipeline_name="another").summary]
    heads: dict[Any, Any] = {"paused": paused, "failed": failed, "pending": another}
    known = frozenset({DefinitionKey("hello", "2.0", "f"), DefinitionKey("hello", "3.0", "g")})
    assert [
        (each.level, each.text, each.run_ids) for each in about_versions(heads, ClaimQuery(definitions=known), NOW)
    ] == [
        ("note", "1 run of hello 1.0, which is not known here, for 90 min", ("a",)),
        ("note", "1 run of hello 3.0, which has another structure here, for 90 min", ("c",)),
    ]
    assert not list(about_versions(heads, ClaimQuery(pipeline_names=frozenset({"hello"})), NOW))


def test_space_that_can_be_won() -> None:
    report = StoreReport(size=100 * 2**20, free=60 * 2**20, unsettled=70 * 2**20)
    assert [found.advice for found in about_store(report)] == ["", "`compact`", "end that process, then `compact`"]
    assert [found.level for found in about_store(StoreReport(size=10**9, free=10**8))] == ["fine"]
