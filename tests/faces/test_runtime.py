"""How a command finds the Flujo and the store that it is about."""

import os
from pathlib import Path

import pytest

from tests.faces.conftest import InProcess, Project

NO_FLUJO = (
    "flujo-async: no Flujo given: a store alone does not know what to execute; --flujo MODULE:ATTRIBUTE names one, "
    'or pyproject.toml does: [tool.flujo-async] flujo = "MODULE:ATTRIBUTE"\n'
)


WHAT_EXECUTES = [["runs", "resume", "a"], ["runs", "cancel", "a"], ["runs", "redrive", "a"], ["worker"]]


@pytest.mark.parametrize("command", WHAT_EXECUTES)
def test_what_executes_needs_a_flujo(call: InProcess, command: list[str]) -> None:
    finished = call(*command)
    assert (finished.code, finished.out, finished.err) == (2, "", NO_FLUJO)


@pytest.mark.parametrize("command", WHAT_EXECUTES)
def test_who_gives_a_store_to_what_executes_is_told_what_to_give(call: InProcess, command: list[str]) -> None:
    finished = call(*command, "--db", "runs.db")
    assert (finished.code, finished.out) == (2, "")
    assert finished.err.startswith("flujo-async: --db: a store alone does not know what this command executes; --flujo")
    assert "--db" not in call(*command, "--help").out


@pytest.mark.parametrize("command", [["signal", "a", "approval", "--resume"], ["fork", "a", "--run"]])
def test_options_that_execute_need_a_flujo(one_project: Project, command: list[str]) -> None:
    one_project.run("orders", "a")
    finished = one_project("runs", *command, "--db", "runs.db")
    assert (finished.code, finished.out) == (2, "")
    assert "no Flujo given" in finished.err
    assert one_project.head("a").signals == 0
    assert len(one_project("runs", "list", "--json").json) == 1


@pytest.mark.parametrize("name", ["app:flujo", "app:runtime", "app:later"])
def test_a_flujo_or_a_function_that_returns_one(one_project: Project, name: str) -> None:
    one_project.run("orders", "a")
    (one_project.directory / "pyproject.toml").unlink()
    finished = one_project.cli("runs", "resume", "a", "--flujo", name, "--json")
    assert (finished.code, finished.json["status"]) == (0, "paused"), finished.err


def test_pyproject_may_be_further_up(one_project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its modules are found there as well; a relative store is relative to where one is, as in any program."""
    app = one_project.directory / "app.py"
    app.write_text(app.read_text().replace("sqlite:///", f"sqlite:///{one_project.directory}/"))
    one_project.run("orders", "a")
    below = one_project.directory / "below" / "further"
    below.mkdir(parents=True)
    (below / "pyproject.toml").write_text("[project]\nname = 'another'\n")
    monkeypatch.chdir(below)
    assert [run["run_id"] for run in one_project("runs", "list", "--json").json] == ["a"]


def test_options_go_first_then_the_environment_then_pyproject(
    one_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_project.run("orders", "a")
    assert len(one_project("runs", "list", "--json").json) == 1
    monkeypatch.setenv("FLUJO_DB", "elsewhere.db")
    assert "there is no database elsewhere.db" in one_project("runs", "list").err
    assert len(one_project("runs", "list", "--json", "--db", "runs.db").json) == 1
    assert len(one_project("runs", "list", "--json", "--flujo", "app:flujo").json) == 1
    assert one_project("runs", "resume", "a", "--json").json["status"] == "paused"
    both = one_project("runs", "list", "--flujo", "app:flujo", "--db", "runs.db")
    assert both.code == 2
    assert both.err == "flujo-async: --flujo and --db both tell where the runs are: give one of them\n"


def test_a_store_that_is_named_imports_nothing(one_project: Project) -> None:
    one_project.run("orders", "a")
    (one_project.directory / "app.py").write_text("1 / 0")
    assert one_project("runs", "show", "a", "--db", "runs.db").code == 0
    assert one_project("runs", "show", "a").code == 2


def test_a_flujo_without_runs_creates_nothing(one_project: Project) -> None:
    before = sorted(one_project.directory.iterdir())
    finished = one_project.cli("runs", "list", PYTHONDONTWRITEBYTECODE="1")
    assert (finished.code, finished.err) == (0, "there are no runs in the store of app:flujo\n")
    assert sorted(one_project.directory.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("app", "'app' names no Flujo; that is MODULE:ATTRIBUTE, such as app:flujo"),
        (":flujo", "':flujo' names no Flujo"),
        ("./app.py:flujo", "'./app.py:flujo' names no Flujo"),
        ("nowhere:flujo", "there is no module 'nowhere', neither in "),
        ("nowhere.app:flujo", "there is no module 'nowhere', neither in "),
        ("app:fluio", "module 'app' has no 'fluio'; its Flujo is flujo or in_memory"),
        ("app:registry", "app:registry is no Flujo, and no function that returns one, but a PipelineRegistry"),
        ("app:Cart", "app:Cart is no Flujo, and no function that returns one, but the class Cart"),
        ("app:note", "app:note is a function with arguments: missing a required argument: 'name'"),
        ("app:in_memory", "app:in_memory keeps its runs in memory, for its own process only; give it a store"),
        ("broken:flujo", "module 'broken' cannot be imported: ZeroDivisionError: division by zero, in "),
        ("lacking:flujo", "module 'lacking' cannot be imported: ModuleNotFoundError: No module named 'numpi', in "),
        ("typo:flujo", "module 'typo' cannot be imported: SyntaxError: invalid syntax (typo.py, line 1), in /"),
        ("failing:make", "failing:make failed: KeyError: 'URL', in "),
        ("failing:make_later", "failing:make_later failed: KeyError: 'URL', in "),
    ],
)
def test_names_that_name_no_flujo(one_project: Project, name: str, told: str) -> None:
    (one_project.directory / "broken.py").write_text("x = 1\n1 / 0\n")
    (one_project.directory / "lacking.py").write_text("import numpi\n")
    (one_project.directory / "typo.py").write_text("def (\n")
    (one_project.directory / "failing.py").write_text(
        "def make(): return {}['URL']\nasync def make_later(): return make()\n"
    )
    finished = one_project("runs", "resume", "a", "--flujo", name)
    assert (finished.code, finished.out) == (2, "")
    assert finished.err.startswith(f"flujo-async: {told}")
    assert finished.err.count("\n") == 1
    assert "frozen" not in finished.err  # where it is told to be is in a file of the user's


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[tool.flujo-async]\n", 'has one entry, flujo = "MODULE:ATTRIBUTE"'),
        ("[tool.flujo-async]\nflujo = 1\n", 'has one entry, flujo = "MODULE:ATTRIBUTE"'),
        ("[tool.flujo-async]\nflujo = 'app:flujo'\nstore = 'x'\n", 'has one entry, flujo = "MODULE:ATTRIBUTE"'),
        ("[tool.flujo-async\n", "is no TOML: "),
        ("[tool]\nflujo-async = 1\n", 'has one entry, flujo = "MODULE:ATTRIBUTE"'),
        ("tool = 1\n", "no Flujo given"),
    ],
)
def test_a_pyproject_that_names_no_flujo(call: InProcess, text: str, told: str) -> None:
    (call.directory / "pyproject.toml").write_text(text)
    finished = call("runs", "resume", "a")
    assert (finished.code, finished.out) == (2, "")
    assert told in finished.err


def test_modules_come_from_the_current_directory(
    one_project: Project, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Not from where the command was installed."""
    elsewhere: Path = tmp_path_factory.mktemp("elsewhere")
    finished = one_project("runs", "list", "--flujo", "app:flujo")
    assert finished.code == 0
    os.chdir(elsewhere)
    real = type(one_project.cli)(elsewhere)("runs", "list", "--flujo", "app:flujo")
    assert real.code == 2
    assert real.err == f"flujo-async: there is no module 'app', neither in {elsewhere} nor installed\n"
