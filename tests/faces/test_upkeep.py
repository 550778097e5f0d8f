"""Checking, copying and cleaning a whole store from the command line."""

import asyncio
import json
import re
import shutil
import sqlite3
from pathlib import Path

import pytest

from flujo_async import Flujo, child, wait_for
from tests.faces.conftest import InProcess, Project, eventually, on_terminal

YES = json.dumps({"is_yes": True, "by": "ann"})


def spoil(project: Project, run_id: str) -> None:
    """Change a byte of what a run has stored, as another program would."""
    if project.db.startswith("file:"):
        path = project.directory / "runs" / f"{run_id}.jsonl"
        path.write_bytes(path.read_bytes().replace(b'"input":"tea"', b'"input":"TEA"'))
        return
    with sqlite3.connect(project.directory / "runs.db") as database:
        spoilt = """UPDATE facts SET body = replace(body, '"input":"tea"', '"input":"TEA"') WHERE instr(hash, ?)"""
        database.execute(spoilt, (first_hash(project, run_id),))
    database.close()


def first_hash(project: Project, run_id: str) -> str:
    return str(project("runs", "history", run_id, "--json").json[0]["hash"])


def complete(project: Project, *run_ids: str) -> None:
    project.run("orders", *run_ids)
    for run_id in run_ids:
        assert project("runs", "signal", run_id, "approval", "--payload", YES, "--resume").code == 0


class TestVerify:
    def test_a_store_that_is_as_it_was_written(self, project: Project) -> None:
        project.run("orders", "a", "b")
        verified = project.cli("verify")
        assert (verified.code, verified.err) == (0, "")
        assert verified.out == "2 runs in the store of app:flujo, 8 facts: all as they were written\n"
        assert project("verify", "a").out == "1 run in the store of app:flujo, 4 facts: all as they were written\n"
        assert project("verify", "--json").json == {"ok": True, "runs": 2, "facts": 8, "broken": []}

    def test_a_byte_that_was_changed_is_found(self, project: Project) -> None:
        project.run("orders", "a", "b", "c")
        spoil(project, "b")
        verified = project.cli("verify")
        assert verified.code == 1
        header, line = verified.out.splitlines()
        assert header.split() == ["Run", "What", "is", "wrong", "Seq"]
        assert (line.split()[0], line.split()[-1]) == ("b", "1")
        assert verified.err == "1 of 3 runs in the store of app:flujo: not as they were written\n"
        assert (project("verify", "b").code, project("verify", "c").code) == (1, 0)
        told = project("verify", "--json")
        assert (told.code, told.json["ok"], told.json["runs"], told.json["facts"]) == (1, False, 3, 8)
        assert [(item["run_id"], item["seq"]) for item in told.json["broken"]] == [("b", 1)]

    def test_it_fits_a_terminal(self, one_project: Project) -> None:
        one_project.run("orders", "a" * 100, "b")
        spoil(one_project, "a" * 100)
        sent = re.sub(r"\x1b\[[\d;]*m", "", on_terminal(one_project.cli, "verify"))
        assert max(len(line) for line in sent.splitlines()) <= 80
        assert "a" * 100 in "".join(line.split()[0] for line in sent.splitlines() if line.startswith("aaa"))

    def test_what_is_not_there(self, one_project: Project) -> None:
        assert one_project("verify", "--db", "nowhere.db").code == 2
        one_project.run("orders", "a")
        missing = one_project("verify", "b")
        assert (missing.code, missing.out) == (2, "")
        assert missing.err.startswith("flujo-async: there is no run 'b'")


class TestBackup:
    def test_a_copy_of_a_store_that_is_written(self, one_project: Project) -> None:
        """A process goes on with its runs meanwhile; in the copy they can be resumed."""
        one_project.run("orders", "a")
        with one_project.start("ticking", *(f"r{i}" for i in range(3))) as driver:
            eventually(lambda: one_project.executed.count("pack") == 2)
            eventually(lambda: one_project.head("r0").last_seq > 5)
            try:
                for i in range(2):
                    made = one_project.cli("backup", f"copy{i}.db", "--db", "runs.db")
                    assert (made.code, made.err) == (0, "")
                    assert re.fullmatch(rf"copied runs\.db to copy{i}\.db, \d+ kB\n", made.out)
            finally:
                one_project.go()
            driver.communicate(timeout=50)
        assert one_project.head("r2").status == "completed"
        for i in range(2):
            verified = one_project("verify", "--db", f"copy{i}.db", "--json").json
            assert (verified["ok"], verified["runs"]) == (True, 2)
            [ticking] = one_project("runs", "list", "--db", f"copy{i}.db", "--pipeline", "ticking", "--json").json
            assert (ticking["run_id"], ticking["status"]) == ("r0", "running")
        shutil.move(one_project.directory / "copy1.db", one_project.directory / "restored.db")
        restored = (one_project.directory / "app.py").read_text().replace("runs.db", "restored.db")
        (one_project.directory / "app.py").write_text(restored)
        done = one_project("runs", "resume", "r0", "--json").json
        assert (done["status"], done["output"]) == ("completed", "stop")
        assert one_project("runs", "show", "a", "--json").json["status"] == "paused"
        assert one_project("verify").code == 0

    def test_it_tells_how_much_it_was(self, project: Project) -> None:
        project.run("orders", "a")
        made = project("backup", "copy", "--json")
        assert (made.code, made.err) == (0, "")
        assert made.json["target"] == "copy"
        assert made.json["bytes"] > 1000
        assert project("verify", "--db", "copy").out == "1 run in copy, 4 facts: all as they were written\n"

    def test_it_replaces_nothing(self, one_project: Project) -> None:
        one_project.run("orders", "a")
        (one_project.directory / "note").write_text("keep me")
        made = one_project("backup", "note")
        assert (made.code, made.out) == (2, "")
        assert "exists" in made.err
        assert (one_project.directory / "note").read_text() == "keep me"
        assert one_project("backup", "nowhere/copy.db").code == 1
        assert one_project("backup", "copy.db", "--db", "nowhere.db").code == 2


class TestCompact:
    def test_what_ended_long_ago_goes(self, project: Project) -> None:
        complete(project, "a", "b")
        project.run("orders", "paused")
        would = project("compact", "--older-than", "0.001s", "--dry-run")
        assert would.code == 0
        assert [line.split()[0] for line in would.out.splitlines()] == ["Run", "b", "a", "would"]
        assert would.out.endswith("would delete 2 runs in the store of app:flujo\n")
        assert project("compact", "--older-than", "1h").out == "deleted 0 runs in the store of app:flujo\n"
        assert project("compact", "--older-than", "0.001s").out == "deleted 2 runs in the store of app:flujo\n"
        assert [head["run_id"] for head in project("runs", "list", "--json").json] == ["paused"]

    def test_the_newest_are_kept_of_each_pipeline(self, one_project: Project) -> None:
        """With a store alone, of all that there are."""
        complete(one_project, "a", "b", "c")
        one_project.go()
        one_project.run("held", "x", "y")
        arguments = ("compact", "--keep-last", "1", "--db", "runs.db", "--json")
        assert one_project(*arguments, "--dry-run").json == {"runs": 3, "is_dry_run": True}
        assert one_project(*arguments).json == {"runs": 3, "is_dry_run": False}
        assert [head["run_id"] for head in one_project("runs", "list", "--json").json] == ["y", "c"]

    def test_without_options_the_flujo_says_what_goes(self, one_project: Project) -> None:
        complete(one_project, "a", "b")
        assert one_project("compact").out == "deleted 0 runs in the store of app:flujo\n"
        app = one_project.directory / "app.py"
        keeping = app.read_text().replace("context_type=Cart)", "context_type=Cart, retention=Retention(keep_last=1))")
        app.write_text(keeping.replace("PipelineRegistry, ", "PipelineRegistry, Retention, "))
        assert one_project("compact", "--db", "runs.db").out == "deleted 0 runs in runs.db\n"
        assert one_project("compact").out == "deleted 1 run in the store of app:flujo\n"

    def test_other_commands_delete_nothing(self, one_project: Project) -> None:
        """Not even a run that the Flujo would not keep: whoever asks for it sees it."""
        app = one_project.directory / "app.py"
        keeping = app.read_text().replace(
            "context_type=Cart)", 'context_type=Cart, retention=Retention(keep_last=1, on_complete="delete"))'
        )
        app.write_text(keeping.replace("PipelineRegistry, ", "PipelineRegistry, Retention, "))
        complete(one_project, "a", "b")
        assert one_project("runs", "resume", "a").out == "Run     a\nStatus  completed\nOutput  'shipped for ann'\n"
        assert one_project("compact").out == "deleted 2 runs in the store of app:flujo\n"

    def test_the_file_gets_smaller(self, one_project: Project) -> None:
        one_project.go()
        one_project.run("held", *(f"{i}" for i in range(100)))
        path = one_project.directory / "runs.db"
        before = path.stat().st_size
        assert one_project("compact", "--older-than", "0.001s", "--db", "runs.db").code == 0
        assert path.stat().st_size < before * 0.7  # what an empty store takes stays

    @pytest.mark.parametrize("age", ["30", "d", "-1d", "1y", "", "1d 2h"])
    def test_what_is_no_age(self, one_project: Project, age: str) -> None:
        one_project.run("orders", "a")
        refused = one_project("compact", "--older-than", age)
        assert (refused.code, refused.out) == (2, "")
        assert "30d, 12h, 90m, 45s or 2w" in refused.err


class TestTransfer:
    """``runs export`` and ``runs import``."""

    def test_a_run_moves_to_another_store(self, project: Project) -> None:
        """Out of one kind into the other, where it goes on."""
        project.run("orders", "a")
        assert project("runs", "signal", "a", "approval", "--payload", YES).code == 0
        other = "file:///moved" if project.db.startswith("sqlite") else "sqlite:///moved.db"
        written = project("runs", "export", "a", "-o", "a.jsonl")
        assert (written.code, written.err) == (0, "")
        assert re.fullmatch(r"wrote run 'a' to a\.jsonl, [\d.]+ kB\n", written.out)
        moved = project("runs", "import", "a.jsonl", "--db", other)
        assert (moved.code, moved.err) == (0, "")
        assert "Status     paused\n" in moved.out
        assert project("verify", "--db", other).code == 0
        app = project.directory / "app.py"
        app.write_text(app.read_text().replace(project.db, other))
        assert project("runs", "resume", "a", "--json").json["output"] == "shipped for ann"
        assert project.executed == ["pack", "ship"]

    def test_through_a_pipe(self, one_project: Project) -> None:
        one_project.run("orders", "a")
        exported = one_project.cli("runs", "export", "a")
        assert (exported.code, exported.err) == (0, "")
        imported = one_project.cli("runs", "import", "-", "--run-id", "b", "--json", answer=exported.out)
        assert (imported.code, imported.err) == (0, "")
        assert (imported.json["run_id"], imported.json["forked_from"]) == ("b", "a")
        told = one_project("runs", "export", "b", "--output", "b.jsonl", "--json").json
        assert told == {"run_id": "b", "file": "b.jsonl", "bytes": (one_project.directory / "b.jsonl").stat().st_size}

    def test_a_parent_without_its_child_says_so(self, call: InProcess) -> None:
        """There is none here that could be answered."""
        flujo = Flujo(child(wait_for("go"), name="inner"), state_backend="sqlite:///runs.db")

        async def wait() -> None:
            async with flujo:
                await flujo.run(1, run_id="r")

        asyncio.run(wait())
        for run_id, file in (("r", "r.jsonl"), ("r/inner", "inner.jsonl")):
            assert call("runs", "export", run_id, "-o", file, "--db", "runs.db").code == 0
        told = call("runs", "import", "r.jsonl", "--db", "new.db").out
        assert "Missing    run 'r/inner', which it waits for: import it as well, or `flujo-async runs resume r" in told
        call("runs", "import", "inner.jsonl", "--db", "new.db")
        shown = call("runs", "show", "r", "--db", "new.db").out
        assert "r/inner" in shown
        assert "Missing" not in shown

    def test_what_is_refused(self, one_project: Project) -> None:
        """And nothing was written."""
        one_project.run("orders", "a")
        one_project("runs", "export", "a", "-o", "a.jsonl")
        data = (one_project.directory / "a.jsonl").read_bytes()
        (one_project.directory / "cut.jsonl").write_bytes(data[:-200])
        (one_project.directory / "changed.jsonl").write_bytes(data.replace(b'"tea"', b'"tee"', 1))
        for arguments, code, told in (
            (["a.jsonl"], 2, "there is a run 'a' already"),
            (["app.py", "--db", "new.db"], 2, "no file that a run was exported to"),
            (["nowhere.jsonl"], 2, "FILE cannot be read: "),
            (["cut.jsonl", "--db", "new.db"], 1, "run 'a', seq "),
            (["changed.jsonl", "--db", "new.db"], 1, "run 'a', seq 1: the hash does not fit the content"),
            (["a.jsonl", "--db", "no/such/new.db"], 2, "its directory does not exist"),
        ):
            refused = one_project("runs", "import", *arguments)
            assert (refused.code, refused.out) == (code, ""), arguments
            assert told in refused.err
            assert refused.err.count("\n") == 1
        assert not (one_project.directory / "new.db").exists()
        assert one_project("runs", "export", "nobody").code == 2
        assert one_project("runs", "export", "a", "--json").code == 2

    def test_a_file_that_cannot_be_written_is_left_as_it_was(self, one_project: Project) -> None:
        one_project.run("orders", "a")
        (one_project.directory / "taken").mkdir()
        for target, reason in (("nowhere/a.jsonl", "No such file or directory"), ("taken", "Is a directory")):
            refused = one_project("runs", "export", "a", "-o", target)
            assert (refused.code, refused.out) == (1, "")
            assert refused.err.endswith(f"{reason}: '{target}'\n")
        assert [path for path in one_project.directory.iterdir() if "taken" in path.name] == [
            Path(one_project.directory, "taken")
        ]
