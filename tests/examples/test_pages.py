"""The examples, their pages and their tests tell the same."""

from pathlib import Path

import pytest

from tests.examples.conftest import EXAMPLES, ROOT, commands

FILES = sorted(EXAMPLES.glob("*.py"))
DONE_BY_READERS = ("pip install ",)


@pytest.mark.parametrize("example", FILES, ids=[path.stem for path in FILES])
def test_every_command_of_an_example_is_executed_by_its_test(example: Path) -> None:
    source = Path(__file__).with_name(f"test_{example.name}").read_text(encoding="utf-8")
    told = [command for command in commands(example) if not command.startswith(DONE_BY_READERS)]
    assert told
    assert [command for command in told if command not in source] == []


@pytest.mark.parametrize("page", ["examples/README.md", "docs/tutorial/examples.md"])
def test_every_example_is_on_the_pages(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert [path.name for path in FILES if path.name not in text] == []
