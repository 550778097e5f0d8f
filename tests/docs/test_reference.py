"""The reference pages name everything, as it is; the pages that name tests name real ones."""

import dataclasses
import inspect
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from typer.main import get_command

import flujo_async
from flujo_async import errors, telemetry, testing
from flujo_async._codec.builtin_shapes import BUILTIN_TAGS
from flujo_async._model.facts import Fact
from flujo_async._plan.step import StepOptions
from tests.docs.pages import PAGES, ROOT, links

REFERENCE = ROOT / "docs" / "reference"
TEST_NAME = re.compile(r"`(test_\w+)`")


def text(name: str) -> str:
    return (REFERENCE / name).read_text(encoding="utf-8")


def shown(name: str, function: Callable[..., Any]) -> str:
    """Return how a page shows a call: no annotations, no ``self``."""
    signature = inspect.signature(function)
    parameters = [
        item.replace(annotation=item.empty, default=item.empty if item.default is item.empty else Shown(item.default))
        for item in signature.parameters.values()
        if item.name != "self"
    ]
    return f"{name}{signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty)}"


class Shown:
    """A default as an author would write it."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __repr__(self) -> str:
        if self._value is ...:
            return "..."
        return self._value.__name__ if isinstance(self._value, type) else repr(self._value).removeprefix("datetime.")


def calls() -> Iterator[str]:
    """Yield every public call."""
    for name in flujo_async.__all__:
        thing = getattr(flujo_async, name)
        if inspect.isfunction(thing):
            yield shown(name, thing)
    for cls in (
        flujo_async.Flujo,
        flujo_async.RunHandle,
        flujo_async.Worker,
        flujo_async.RunContext,
        flujo_async.StepContext,
        flujo_async.PipelineRegistry,
    ):
        for name, function in inspect.getmembers(cls, inspect.isfunction):
            if not name.startswith("_"):
                yield shown(name, function)
    for cls in (
        flujo_async.Flujo,
        flujo_async.Worker,
        flujo_async.Retry,
        flujo_async.Retention,
        flujo_async.Limit,
        flujo_async.Resource,
        flujo_async.Depends,
        flujo_async.Action,
        flujo_async.SQLiteBackend,
        flujo_async.FileBackend,
        flujo_async.InMemoryBackend,
    ):
        yield shown(cls.__name__, cls)


@pytest.mark.parametrize("call", list(calls()))
def test_every_call_is_shown_as_it_is(call: str) -> None:
    assert f"`{call}`" in text("api.md")


@pytest.mark.parametrize("name", [*flujo_async.__all__, *testing.__all__])
def test_every_public_name_is_told(name: str) -> None:
    assert re.search(rf"`(flujo_async\.)?{name}\b", text("api.md"))


@pytest.mark.parametrize("name", [name for name, item in vars(errors).items() if inspect.isclass(item)])
def test_every_error_is_told(name: str) -> None:
    if issubclass(getattr(errors, name), Exception):
        assert f"| `{name}` |" in text("errors.md")


def first_cells(page: str) -> list[str]:
    """Return the first cell of every row of every table."""
    return [line.split("|")[1] for line in text(page).splitlines() if line.startswith("| ")]


@pytest.mark.parametrize(
    "cls",
    [
        flujo_async.RunResult,
        flujo_async.StepRecord,
        flujo_async.RunSummary,
        flujo_async.Commit,
        flujo_async.Event,
        flujo_async.Change,
        flujo_async.VerifyReport,
        flujo_async.Waiting,
        flujo_async.WorkflowState,
    ],
    ids=lambda cls: cls.__name__,
)
def test_every_field_of_what_comes_back_is_told(cls: type[Any]) -> None:
    """In the order in which the class has them; what is told after a comma is no field."""
    is_model = cls is flujo_async.WorkflowState
    names = (
        list(flujo_async.WorkflowState.model_fields) if is_model else [item.name for item in dataclasses.fields(cls)]
    )
    row = next(line for line in text("api.md").splitlines() if line.startswith(f"| `{cls.__name__}` |"))
    assert re.findall(r"`(\w+)`", row.split("|")[2].partition(",")[0]) == names


@pytest.mark.parametrize("name", list(inspect.signature(flujo_async.Flujo).parameters))
def test_every_argument_of_a_runtime_is_told(name: str) -> None:
    assert any(f"`{name}`" in cell for cell in first_cells("api.md"))


@pytest.mark.parametrize("cls", [telemetry.RunIdentity, telemetry.AttemptIdentity], ids=lambda cls: cls.__name__)
def test_instruments_are_told_what_they_are_told_about(cls: type[Any]) -> None:
    told = {name for cell in first_cells("instruments.md") for name in re.findall(r"`(\w+)`", cell)}
    assert {item.name for item in dataclasses.fields(cls)} - told == set()


@pytest.mark.parametrize("name", telemetry.__all__)
def test_every_instrument_is_shown_as_it_is(name: str) -> None:
    cls = getattr(telemetry, name)
    assert any(f"`{name}" in cell for cell in first_cells("instruments.md"))
    if not dataclasses.is_dataclass(cls) and cls is not telemetry.Instrument:
        assert f"| `{shown(name, cls)}` |" in text("instruments.md")


def test_every_option_of_a_step_is_told() -> None:
    told = {name for cell in first_cells("steps.md") for name in re.findall(r"`(\w+)`", cell)}
    assert StepOptions.__annotations__.keys() - told == set()


@pytest.mark.parametrize("name", [name for name in vars(flujo_async.RunContext) if not name.startswith("_")])
def test_everything_that_a_workflow_is_given_is_told(name: str) -> None:
    assert any(re.search(rf"`{name}\b", cell) for cell in first_cells("workflows.md"))


def commands(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, f"{path} {name}")
    if not hasattr(group, "commands"):
        yield path, group


def test_every_command_is_told_with_its_options() -> None:
    """No more and no fewer than ``--help`` has."""
    from flujo_async.cli.app import PROGRAM, app

    assert isinstance(app, typer.Typer)
    section = re.compile(r"^## `([\w -]+?)(?: [A-Z_]+)?`\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    sections = dict(section.findall(text("cli.md")))
    found = dict(commands(get_command(app), PROGRAM))
    assert sorted(sections) == sorted(found)
    for path, command in found.items():
        options = {option for item in command.params for option in item.opts if option.startswith("--")}
        assert set(re.findall(r"^\| `(--[\w-]+)", sections[path], re.MULTILINE)) == options - {"--help"}, path


@pytest.mark.parametrize("cls", get_args(Fact), ids=lambda cls: cls.__name__)
def test_every_fact_is_told_with_its_fields(cls: type[Any]) -> None:
    row = next(line for line in text("log.md").splitlines() if line.startswith(f"| `{cls.__name__}` |"))
    assert set(re.findall(r"`(\w+)`", row.split("|")[3])) == {item.name for item in dataclasses.fields(cls)} - {"at"}


async def test_every_column_of_sqlite_is_told(tmp_path: Path) -> None:
    async with flujo_async.SQLiteBackend(tmp_path / "runs.db") as backend:
        await backend.set_system_state("key", {})
    told = {}
    for line in text("log.md").partition("## In SQLite")[2].splitlines():
        if match := re.match(r"\| `(\w+)` \|.*\|(.*)\|$", line):
            told[match[1]] = re.findall(r"`(\w+)`", match[2])
    with sqlite3.connect(tmp_path / "runs.db") as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        found = {table: [row[1] for row in database.execute(f"PRAGMA table_xinfo({table})")] for table in tables}
    database.close()
    assert told == found


@pytest.mark.parametrize("tag", BUILTIN_TAGS)
def test_every_tag_is_told(tag: str) -> None:
    assert f"`{tag}`" in text("values.md")


def test_every_decision_is_listed() -> None:
    index = ROOT / "docs" / "adr" / "README.md"
    listed = [target for _, target in links(index)]
    assert listed == sorted(page.name for page in index.parent.glob("0*.md"))


def test_the_tests_that_pages_name_exist() -> None:
    sources = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "flujo_async" / "testing").glob("*.py")]
    tests = {name for path in sources for name in re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8"))}
    tests |= {path.stem for path in sources}
    named = {(page.name, name) for page in PAGES for name in TEST_NAME.findall(page.read_text(encoding="utf-8"))}
    assert sorted((page, name) for page, name in named if name not in tests) == []
