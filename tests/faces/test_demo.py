"""The demo: a survey of real files, interrupted in every way, with one and the same report."""

import asyncio
import os
import shutil
import signal
import sysconfig
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flujo_async import StateBackend
from flujo_async._log.chain import GENESIS
from flujo_async._model.facts import Fact, RunFailed, RunStarted
from flujo_async._model.stored import NewRun
from flujo_async._model.summary import RunSummary
from flujo_async.backends import backend_from_url
from flujo_async.cli.survey import NAME, VERSION, python_files
from tests.faces.conftest import STORES, CommandLine, Finished, InProcess, on_terminal
from tests.log.made import seal

KILLED = -signal.SIGKILL


def listed(directory: Path) -> list[Path]:
    """Return the files that a survey should find."""
    return [path for path in directory.rglob("*.py") if "tests" not in path.parts]


def test_it_reports_what_is_in_the_files(sources: Path, survey: Finished) -> None:
    files = listed(sources)
    assert f"Survey of {sources}\n{len(files)} files, " in survey.out
    for title in ("Largest modules", "Most imported packages", "Longest functions, one a file"):
        assert title in survey.out
    assert survey.counts == (0, 3 * len(files) + 2)


def test_files_that_cannot_be_read_or_parsed_are_named_and_fail_nothing(survey: Finished) -> None:
    assert "4 files could not be read or parsed\n" in survey.out
    assert "bad_encoding.py: UnicodeDecodeError: " in survey.out
    assert "bad_null.py: " in survey.out
    assert "bad_syntax.py: SyntaxError: " in survey.out
    assert "dangling.py: FileNotFoundError: No such file or directory" in survey.out


ODD_FILES = {
    b"alarming.py": b"x = '\\d'\nassert (1, 'always')\nx is 1\n",
    b"deep_elif.py": b"if x: pass\n" + b"elif x: pass\n" * 3000,
    b"deep_sum.py": b"x = " + b" + ".join([b"1"] * 20_000),
    b"empty.py": b"",
    b"form_feed.py": b"a = 1\n\x0cb = 2\r\nc = 3\rd = 4",
    b"line\nbreak.py": b"def f():\n    def g():\n        class C: ...\n",
    b"not_text.py": b"# coding: rot13\n",
    b"not_unicode.py": b"# coding: unicode_escape\nx = '\\ud800'\n",
    b"steering\x1b[31m.py": b"x = 1\n",
    b"undecodable\xff.py": b"x = 1\n",
}


def test_odd_files_fail_nothing(call: InProcess, tmp_path: Path) -> None:
    root = tmp_path / "odd"
    root.mkdir()
    for name, content in ODD_FILES.items():
        Path(os.fsdecode(os.fsencode(root) + b"/" + name)).write_bytes(content)
    finished = call("demo", "--path", root)
    assert finished.code == 0, finished.err
    assert all(char.isprintable() or char == "\n" for char in finished.out)
    report = call("demo", "--path", root, "--json").json
    assert report["files"] == len(ODD_FILES)
    assert {"not_text.py", "not_unicode.py"} <= {each["path"] for each in report["skipped"]}
    modules = {module["path"]: module for module in report["largest"]}
    assert modules["form_feed.py"]["lines"] == 4
    assert modules["line\nbreak.py"]["longest"] == {"name": "1 f", "count": 3}
    assert [modules["line\nbreak.py"][kind] for kind in ("functions", "classes")] == [2, 1]


def test_the_state_is_in_one_file_beside_us(call: InProcess, sources: Path) -> None:
    assert call("demo", "--path", sources).code == 0
    assert [path.name for path in call.directory.iterdir()] == ["flujo-demo.db"]


def test_the_standard_library_is_surveyed_without_tests_and_installed_packages() -> None:
    """Only listed here; to survey it takes some seconds."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = {path.relative_to(root).as_posix() for path in python_files(root)}
    assert {"os.py", "asyncio/runners.py"} <= paths
    assert not any({"site-packages", "test", "tests"} & set(Path(path).parts) for path in paths)


@pytest.mark.parametrize(
    ("commits", "db"),
    [
        (1, STORES[0]),
        (60, STORES[1]),
        pytest.param(60, STORES[0], marks=pytest.mark.crash),
        pytest.param(1, STORES[1], marks=pytest.mark.crash),
    ],
)
def test_a_killed_survey_is_taken_up_and_ends_the_same(
    cli: CommandLine, sources: Path, survey: Finished, db: str, commits: int
) -> None:
    command = ("demo", "--path", sources, "--db", db)
    killed = cli(*command, "--crash-after", str(commits))
    assert killed.code == KILLED
    assert killed.out == ""
    assert f"killing this process after {commits} commits" in killed.err

    resumed = cli(*command)
    assert resumed.code == 0, resumed.err
    assert resumed.out == survey.out
    assert "run 'demo' was interrupted: going on after " in resumed.err
    recorded, executed = resumed.counts
    assert recorded + executed == sum(survey.counts)
    assert executed > 0
    assert recorded >= commits - 2  # RunStarted, and what is told of a resumption, are commits too


def test_a_survey_survives_being_killed_over_and_over(cli: CommandLine, sources: Path, survey: Finished) -> None:
    command = ("demo", "--path", sources)
    kills = 0
    while (finished := cli(*command, "--crash-after", "70")).code == KILLED:
        kills += 1
        assert kills < 20
    assert kills > 1
    assert finished.out == survey.out


def test_a_complete_survey_is_shown_again(call: InProcess, sources: Path, survey: Finished) -> None:
    command = ("demo", "--path", sources)
    call(*command)
    again = call(*command)
    assert again.out == survey.out
    assert again.counts == (sum(survey.counts), 0)
    assert "run 'demo' is complete: this is its report; --fresh starts anew" in again.err


def test_fresh_starts_anew(call: InProcess, sources: Path, survey: Finished) -> None:
    command = ("demo", "--path", sources)
    call(*command)
    assert call(*command, "--fresh").counts == survey.counts


def test_a_survey_is_about_the_files_that_it_listed(cli: CommandLine, copied: Path) -> None:
    """A file that comes later is not surveyed, and one that goes fails nothing."""
    command = ("demo", "--path", copied)
    total = len(listed(copied))
    assert cli(*command, "--crash-after", "30").code == KILLED
    shutil.rmtree(copied)
    copied.mkdir()
    (copied / "late.py").write_text("x = 1\n")
    resumed = cli(*command)
    assert resumed.code == 0, resumed.err
    assert f"\n{total} files, " in resumed.out
    assert "FileNotFoundError" in resumed.out
    assert "late.py" not in resumed.out


def test_json(call: InProcess, sources: Path, survey: Finished) -> None:
    finished = call("demo", "--path", sources, "--json", "--top", "3")
    assert finished.code == 0
    report = finished.json
    assert report["root"] == str(sources)
    assert report["files"] == len(listed(sources))
    assert [len(report[ranking]) for ranking in ("largest", "imported", "longest")] == [3, 3, 3]
    assert [each["path"] for each in report["skipped"]] == [
        "bad_encoding.py", "bad_null.py", "bad_syntax.py", "dangling.py",
    ]  # fmt: skip
    largest = max(listed(sources / "email"), key=lambda path: len(path.read_bytes().splitlines()))
    assert report["largest"][0]["path"] == largest.relative_to(sources).as_posix()
    assert report["largest"][0]["lines"] == len(largest.read_bytes().splitlines())


def test_top_is_only_about_what_is_shown(call: InProcess, sources: Path) -> None:
    call("demo", "--path", sources)
    one = call("demo", "--path", sources, "--top", "1")
    assert one.code == 0
    assert one.counts[1] == 0


def test_two_surveys_live_side_by_side(call: InProcess, sources: Path) -> None:
    call("demo", "--path", sources / "json")
    other = call("demo", "--path", sources / "email")
    assert other.code == 2
    assert other.err == (
        "flujo-async: run 'demo' in ./flujo-demo.db is another survey, or an older demo's; "
        "--run-id starts one beside it, --fresh replaces it\n"
    )
    assert call("demo", "--path", sources / "email", "--run-id", "email").code == 0


def test_a_directory_without_python_files_is_an_error(call: InProcess, tmp_path: Path) -> None:
    finished = call("demo", "--path", tmp_path)
    assert finished.code == 2
    assert finished.err == f"flujo-async: there are no Python files in {tmp_path}; --path names another directory\n"
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_made_is_an_error(call: InProcess, sources: Path) -> None:
    finished = call("demo", "--path", sources, "--db", "missing/runs.db")
    assert finished.code == 2
    assert finished.err == "flujo-async: cannot create the database missing/runs.db: its directory does not exist\n"


def test_a_file_that_is_no_database_is_left_alone(call: InProcess, sources: Path) -> None:
    path = call.directory / "notes.txt"
    path.write_text("not a database\n" * 100)
    finished = call("demo", "--path", sources, "--db", path)
    assert finished.code == 1
    assert finished.err.startswith("flujo-async: ")
    assert finished.err.count("\n") == 1
    assert path.read_text() == "not a database\n" * 100


def test_a_survey_that_failed_stays_failed(call: InProcess, sources: Path, survey: Finished) -> None:
    asyncio.run(leave_a_failed_survey(backend_from_url("sqlite:///flujo-demo.db"), sources))
    finished = call("demo", "--path", sources)
    assert (finished.code, finished.out) == (1, "")
    assert finished.err == (
        "run 'demo' is failed; --fresh starts anew\nflujo-async: run 'demo' failed: ValueError: the disk melted\n"
    )
    fresh = call("demo", "--path", sources, "--fresh")
    assert (fresh.code, fresh.out) == (0, survey.out), fresh.err


async def leave_a_failed_survey(backend: StateBackend, sources: Path) -> None:
    """Record what a survey leaves whose first step failed."""
    at = datetime(2026, 1, 2, tzinfo=UTC)
    facts: list[Fact] = [
        RunStarted(
            at=at, run_id="demo", pipeline_name=NAME, pipeline_version=VERSION, fingerprint="f", input=str(sources)
        ),
        RunFailed(at=at, error={"type": "builtins:ValueError", "message": "the disk melted"}),
    ]
    summary = RunSummary(
        run_id="demo",
        pipeline_name=NAME,
        pipeline_version=VERSION,
        status="failed",
        created_at=at,
        updated_at=at,
        last_seq=len(facts),
    )
    async with backend:
        await backend.create_run(NewRun(summary, tuple(seal(facts, after=0, prev_hash=GENESIS))))


def test_ctrl_c_interrupts_and_tells_how_to_go_on(cli: CommandLine, sources: Path, survey: Finished) -> None:
    command = ("demo", "--path", sources, "--db", "file:///runs")
    with cli.start(*command) as process:
        wait_for_lines(cli.directory / "runs", 10)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=50)
    assert process.returncode == 130
    assert out == ""
    assert err == "interrupted; every step so far is kept, and the same command goes on from there\n"
    resumed = cli(*command)
    assert resumed.out == survey.out
    assert resumed.counts[0] > 0


def test_two_processes_drive_one_survey_once(cli: CommandLine, sources: Path, survey: Finished) -> None:
    """Each ends with the report; together they executed every step once."""
    command = ("demo", "--path", sources)
    with cli.start(*command) as first, cli.start(*command) as second:
        reports = {process.communicate(timeout=50)[0] for process in (first, second)}
    assert reports == {survey.out}
    assert cli(*command).counts == (sum(survey.counts), 0)


def test_a_terminal_sees_progress_and_gets_its_cursor_back(cli: CommandLine, sources: Path) -> None:
    shown = on_terminal(cli, "demo", "--path", str(sources))
    assert "Surveying" in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    killed = on_terminal(cli, "demo", "--path", str(sources), "--fresh", "--crash-after", "20")
    assert killed.rindex("\x1b[?25h") > killed.rindex("\x1b[?25l")


def test_a_terminal_without_colour_gets_none(cli: CommandLine, sources: Path) -> None:
    assert "\x1b[38" not in on_terminal(cli, "demo", "--path", str(sources), NO_COLOR="1")


def test_a_pipe_gets_no_control_characters(survey: Finished) -> None:
    assert all(char.isprintable() or char == "\n" for char in survey.out + survey.err)


def wait_for_lines(directory: Path, count: int) -> None:
    deadline = time.monotonic() + 50
    while sum(len(path.read_bytes().splitlines()) for path in directory.glob("*") if path.is_file()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)
