"""The command as a whole: its help, its mistakes, and what it says where its extra is missing."""

import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path

import pytest

from flujo_async.cli.screen import as_json, brief, duration, plain
from tests.faces.conftest import CommandLine, InProcess, Project

WITHOUT = "import runpy, sys; sys.modules[{name!r}] = None; runpy.run_module('flujo_async', run_name='__main__')"


def test_help_names_the_commands(cli: CommandLine) -> None:
    finished = cli("--help")
    assert finished.code == 0
    assert finished.err == ""
    for command in ("demo", "runs"):
        assert f"\n  {command} " in finished.out
    assert max(len(line) for line in finished.out.splitlines()) <= 80


@pytest.mark.parametrize("group", ["", "runs", "dead-letters", "evaluations", "state"])
def test_an_overview_has_whole_sentences(call: InProcess, group: str) -> None:
    commands = call(*group.split(), "--help").out.partition("\nCommands:\n")[2].splitlines()
    assert commands
    assert [line for line in commands if line.endswith("...")] == []


def test_it_tells_its_version(cli: CommandLine) -> None:
    finished = cli("--version")
    assert (finished.code, finished.out, finished.err) == (0, f"flujo-async {version('flujo-async')}\n", "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["bogus"],
        ["runs", "bogus"],
        ["runs", "show"],
        ["runs", "list", "--status", "finished"],
        ["runs", "list", "--limit", "0"],
        ["demo", "--top", "0"],
        ["demo", "--crash-after", "0"],
        ["demo", "--run-id", ""],
        ["demo", "--bogus"],
    ],
)
def test_a_mistake_in_the_arguments(call: InProcess, arguments: list[str]) -> None:
    finished = call(*arguments)
    assert (finished.code, finished.out) == (2, "")
    assert "Traceback" not in finished.err
    assert "rror: " in finished.err or finished.err.startswith("flujo-async: ")
    assert list(call.directory.iterdir()) == []


@pytest.mark.parametrize("name", ["typer", "rich", "rich.console"])
def test_without_its_extra_it_says_how_to_get_it(cli: CommandLine, name: str) -> None:
    script = WITHOUT.format(name=name)
    finished = subprocess.run(
        [sys.executable, "-c", script], env=cli.environment({}), capture_output=True, text=True, check=False
    )
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert finished.stderr == "flujo-async needs its cli extra: pip install 'flujo-async[cli]'\n"


def test_a_module_of_our_own_that_is_missing_is_no_missing_extra(cli: CommandLine) -> None:
    script = WITHOUT.format(name="flujo_async.cli.survey")
    finished = subprocess.run(
        [sys.executable, "-c", script], env=cli.environment({}), capture_output=True, text=True, check=False
    )
    assert finished.returncode == 1
    assert "flujo_async.cli.survey" in finished.stderr


def test_a_reader_that_goes_away_is_no_error(cli: CommandLine) -> None:
    with cli.start("demo", "--help") as process:
        assert process.stdout
        process.stdout.close()
        assert process.stderr
        assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_lacks_a_sign_is_shown_the_others(one_project: Project, encoding: str) -> None:
    """JSON has none but those that all have."""
    one_project.run("orders", "to→1")
    table, trace, document = (
        one_project.cli("runs", *command, PYTHONIOENCODING=encoding)
        for command in (["list"], ["trace", "to→1"], ["list", "--json"])
    )
    assert [finished.code for finished in (table, trace, document)] == [0, 0, 0]
    assert "to?1  orders" in table.out
    assert "approval" in trace.out
    assert document.json[0]["run_id"] == "to→1"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 ms"),
        (0.0004, "0 ms"),
        (0.25, "250 ms"),
        (3.21, "3.2 s"),
        (119, "119 s"),
        (120, "2.0 min"),
        (7199, "120 min"),
        (7200, "2.0 h"),
        (500_000, "5.8 d"),
    ],
)
def test_durations_have_a_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_text_is_one_line_and_cannot_steer_a_terminal() -> None:
    assert plain("a\nb\x1b[2J\x07é\ud800") == "a b\\x1b[2J\\x07é\\ud800"
    assert brief("x" * 10_000) == "x" * 200 + "…"


@dataclass
class Point:
    x: Decimal
    tags: frozenset[str]


def test_every_value_has_a_json_form() -> None:
    value = {1: Point(Decimal("1.5"), frozenset({"a"})), "big": 2**70, "nan": float("nan"), "bytes": b"x", "none": None}
    assert as_json(value) == {
        "1": {"x": "1.5", "tags": ["a"]},
        "big": 2**70,
        "nan": "nan",
        "bytes": "b'x'",
        "none": None,
    }
    assert as_json((datetime(2026, 1, 2, tzinfo=UTC), Path("a"))) == ["2026-01-02T00:00:00+00:00", "a"]
