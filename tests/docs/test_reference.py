"""The reference pages name everything, as it is; the pages that name tests name real ones."""

import dataclasses
import inspect
import pydoc
import re
import sqlite3
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from typer.main import get_command

import flujo_async
from flujo_async import abc, errors, telemetry, testing
from flujo_async._codec.builtin_shapes import BUILTIN_TAGS
from flujo_async._model.facts import Fact
from flujo_async._plan.step import StepOptions
from flujo_async.cli.app import PROGRAM, app
from tests.docs.pages import PAGES, ROOT, links

REFERENCE = ROOT / "docs" / "reference"
NOT_MADE_BY_CALLERS = {"Pipeline", "RunContext", "RunHandle", "Step", "StepContext", "StepStatus"}
TEST_NAME = re.compile(r"`(test_\w+)`")


def text(name: str) -> str:
    return (REFERENCE / name).read_text(encoding="utf-8")


def generated() -> set[str]:
    """Return what the reference pages take from the docstrings: lines such as ``::: flujo_async.step``."""
    pages = "\n".join(page.read_text(encoding="utf-8") for page in REFERENCE.glob("*.md"))
    return set(re.findall(r"^::: (flujo_async[\w.]*)$", pages, re.MULTILINE))


@pytest.mark.parametrize(
    "name",
    [
        *(f"flujo_async.{name}" for name in flujo_async.__all__ if name not in {"Clock", "StateBackend", "facts"}),
        *(f"flujo_async.abc.{name}" for name in abc.__all__),
        *(f"flujo_async.testing.{name}" for name in testing.__all__),
        *(f"flujo_async.telemetry.{name}" for name in telemetry.__all__ if name not in abc.__all__),
    ],
)
def test_every_public_name_is_told(name: str) -> None:
    """The ports stand where those of ``abc`` are; the facts have a table of their own."""
    assert name in generated()


def test_what_the_pages_take_from_the_docstrings_exists() -> None:
    """``errors`` and ``reducers`` are modules, and stand there as a whole."""
    missing = [name for name in generated() if pydoc.locate(name) is None]
    assert missing == []


def public_things() -> Iterator[tuple[str, Any]]:
    """Yield every public class and call; the verbs of a store are told by the port."""
    for name in flujo_async.__all__:
        thing = getattr(flujo_async, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            yield name, thing
        for cls in inspect.getmro(thing) if inspect.isclass(thing) and not name.endswith("Backend") else ():
            for member, item in vars(cls).items() if cls.__module__.startswith("flujo_async") else ():
                if not member.startswith("_") and isinstance(item, (types.FunctionType, property, classmethod)):
                    yield f"{name}.{member}", item


@pytest.mark.parametrize(("name", "thing"), list(public_things()), ids=[name for name, _ in public_things()])
def test_every_call_has_a_docstring(name: str, thing: Any) -> None:
    """What has none is left out of the reference. Examples have a section, or they would be set as a quotation."""
    assert thing.__doc__, name
    assert ">>> " not in thing.__doc__.partition("Examples:\n")[0]


CLASSES = [thing for name, thing in public_things() if inspect.isclass(thing) and name not in NOT_MADE_BY_CALLERS]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_a_class_tells_what_it_is_made_of(cls: type[Any]) -> None:
    told = re.findall(r"^ {4}(\w+)(?: \([^)]*\))?: ", inspect.cleandoc(cls.__doc__ or ""), re.MULTILINE)
    made_of = cls.model_fields if issubclass(cls, BaseModel) else inspect.signature(cls).parameters
    assert set(made_of) - set(told) == set()


@pytest.mark.parametrize("name", [name for name, item in vars(errors).items() if inspect.isclass(item)])
def test_every_error_is_told(name: str) -> None:
    if issubclass(getattr(errors, name), Exception):
        assert f"| `{name}` |" in text("errors.md")


def first_cells(page: str) -> list[str]:
    """Return the first cell of every row of every table."""
    return [line.split("|")[1] for line in text(page).splitlines() if line.startswith("| ")]


def test_every_option_of_a_step_is_told() -> None:
    told = {name for cell in first_cells("steps.md") for name in re.findall(r"`(\w+)`", cell)}
    assert StepOptions.__annotations__.keys() - told == set()


@pytest.mark.parametrize("name", [name for name in vars(flujo_async.RunContext) if not name.startswith("_")])
def test_everything_that_a_workflow_is_given_is_told(name: str) -> None:
    assert any(re.search(rf"`{name}\b", cell) for cell in first_cells("workflows.md"))


def commands(group: Any, path: str) -> Iterator[str]:
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, f"{path} {name}")
    if not hasattr(group, "commands"):
        yield path


def test_every_command_has_a_section_that_takes_in_its_help() -> None:
    section = re.compile(r"^## `([\w -]+?)(?: [A-Z_]+)?`\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    sections = dict(section.findall(text("cli.md")))
    assert sorted(sections) == sorted(commands(get_command(app), PROGRAM))
    assert [path for path, told in sections.items() if f"\n::: {path}\n" not in told] == []


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
