"""What the hooks of the site make of our pages. That the site can be built is shown by building it: `nox -s docs`."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from tests.docs.pages import PAGE_IDS, PAGES, ROOT


def hook(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "hooks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_fragment_is_in_the_changelog() -> None:
    changes = ROOT / "docs" / "changes"
    changelog = hook("changelog").gathered(changes)
    fragments = [path for path in changes.glob("*.md") if path.name != "README.md"]
    assert changelog.count("\n- ") == len(fragments)


def test_a_fragment_of_no_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "clock.improved.md").write_text("The clock is better.\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"clock\.improved\.md: name it <what>\.<kind>\.md"):
        hook("changelog").gathered(tmp_path)


def test_a_command_is_shown_with_its_usage_and_its_options() -> None:
    lines = hook("command_line").shown("flujo-async runs list").splitlines()
    assert "flujo-async runs list [OPTIONS]" in lines
    assert "| `--limit N` | At most so many. *(default `50`, 1 or more)* |" in lines
    assert "| `--db PATH|URL` |" in "\n".join(lines)


def test_what_a_fence_tells_the_tests_does_not_reach_the_highlighter() -> None:
    page = "```python {file=app.py}\n```\n```console {exit=1}\n```\n"
    assert hook("dialect").on_page_markdown(page) == '```python title="app.py"\n```\n```console\n```\n'


def test_a_bar_in_code_in_a_table_is_not_escaped() -> None:
    assert hook("dialect").on_page_markdown("| `int \\| None` | a \\| b |\n") == "| `int | None` | a \\| b |\n"


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_a_block_in_a_list_is_indented_by_four(page: Path) -> None:
    """The site's Markdown wants so; with less the list ends before the block."""
    indents = re.findall(r"^( +)```", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert [indent for indent in indents if len(indent) % 4] == []
