"""Every page is true: its Python and its commands are executed, in order, where the page shows them.

In a page's fences:

- ``python``: executed; all blocks of a page share one namespace, and ``await`` is allowed at the top;
- ``python {file=NAME}``: saved under that name instead, for a command further down;
- ``python {.fragment}``: shown only. For mere signatures; there may be few;
- ``console``: each line that begins with ``$ `` is executed by bash and must succeed; where lines stand below it, they
  are what it has to print. What differs each time stands in a ``text`` block of its own;
- ``console {exit=N}``: the same, and must end with that exit code;
- ``console {needs=TOOL}``: the same, where that tool is installed (a page shows the way without it as well);
- other languages are data or output, and are not executed.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import PAGE_IDS, PAGES, ROOT, Block, blocks

RUNNER = Path(__file__).with_name("run_page.py")
MOST_FRAGMENTS = 6
LONGEST_FRAGMENT = 15
PAGE_LIMIT = 300  # seconds

SETS_UP = re.compile(r"(python3? -m venv|git clone|cd |(\.venv[\w-]*/bin/)?(python3? -m )?(pip|nox)\b)")
IN_VENV = re.compile(r"(?<![\w/.-])\.venv[\w-]*/bin/")
UNCHECKED = {"bash", "sh", "shell", "shell-session", "py", "python3", "pycon", "Python", ""}


def items(block: Block) -> list[dict[str, Any]]:
    """Return what to do for one block."""
    if block.language == "python" and "fragment" not in block.options:
        kind = "file" if "file" in block.options else "python"
        return [{"kind": kind, "line": block.line, "text": block.text, "name": block.options.get("file")}]
    if block.language == "console" and has_what_it_needs(block):
        # Set-up commands are executed by CI itself; the environment of the test stands in for the one they make.
        code = int(block.options.get("exit", "0"))
        return [
            {
                "kind": "command",
                "line": command.line,
                "text": IN_VENV.sub("", command.text),
                "exit": code,
                "output": command.output,
            }
            for command in block.commands
            if not SETS_UP.match(command.text)
        ]
    return []


def has_what_it_needs(block: Block) -> bool:
    return "needs" not in block.options or shutil.which(block.options["needs"]) is not None


def read_aloud(page: Path, directory: Path) -> str:
    """Execute a page in a process and a directory of its own; return what went wrong and where, or nothing."""
    todo = [item for block in blocks(page) for item in items(block)]
    if not todo:
        return ""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    done = subprocess.run(
        [sys.executable, str(RUNNER), str(page)],
        input=json.dumps(todo),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=directory,
        env={**os.environ, "PATH": path, "NO_COLOR": "1", "COLUMNS": "120"},
        text=True,
        timeout=PAGE_LIMIT,
        check=False,
    )
    if done.returncode == 0:
        return ""
    reached = re.findall(rf"^--- {re.escape(str(page))}:(\d+)$", done.stdout, re.MULTILINE)
    return f"{page.name}:{reached[-1] if reached else '?'}: this block fails\n\n{done.stdout[-6000:]}"


@pytest.mark.timeout(PAGE_LIMIT + 10)
@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_a_page_does_what_it_says(page: Path, tmp_path: Path) -> None:
    if wrong := read_aloud(page, tmp_path):
        pytest.fail(wrong, pytrace=False)


@pytest.mark.parametrize(
    ("fence", "wrong"),
    [
        ("python", "import asyncio\nawait asyncio.sleep(0)\nassert 1 == 2"),
        ("python", "print(("),
        ("console", "$ true\n$ exit 3"),
        ("console {exit=1}", "$ true"),
        ("console", "$ echo 1\n1\n$ echo 2\n3"),
    ],
)
def test_a_page_that_lies_is_caught(fence: str, wrong: str, tmp_path: Path) -> None:
    page = tmp_path / "lie.md"
    page.write_text(f"# A page\n\n```python\nx = 1\n```\n\n```{fence}\n{wrong}\n```\n", encoding="utf-8")
    shown = wrong.splitlines() if fence.startswith("console") else [wrong]
    last_line = 8 + max(place for place, line in enumerate(shown) if line.startswith("$ ") or line is wrong)
    assert read_aloud(page, tmp_path).startswith(f"lie.md:{last_line}: this block fails")


def test_few_blocks_are_left_out() -> None:
    """A fragment is a signature: whatever can run is executed."""
    fragments = [
        (f"{page.relative_to(ROOT)}:{block.line}", len(block.text.splitlines()))
        for page in PAGES
        for block in blocks(page)
        if "fragment" in block.options
    ]
    assert len(fragments) <= MOST_FRAGMENTS, fragments
    assert [place for place, length in fragments if length > LONGEST_FRAGMENT] == []


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_no_block_hides_behind_another_name(page: Path) -> None:
    """Python is spelled ``python``, commands ``console`` and output ``text``: nothing goes unchecked."""
    assert [(block.line, block.language) for block in blocks(page) if block.language in UNCHECKED] == []


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_a_console_block_has_a_command(page: Path) -> None:
    assert [block.line for block in blocks(page) if block.language == "console" and not block.commands] == []


def test_ci_runs_the_command_that_the_readme_gives() -> None:
    readme = ROOT / "README.md"
    given = [command.text for block in blocks(readme) for command in block.commands]
    shown = [text for text in given if re.search(r"\bnox -s tests\b", text)]
    assert len(shown) == 1
    assert shown[0] in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
