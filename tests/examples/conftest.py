"""What tests of the examples share: a terminal, in which the commands of a docstring are typed."""

import ast
import asyncio
import contextlib
import io
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from flujo_async import Flujo, SQLiteBackend, step
from flujo_async.cli.app import run

Answer = TypeVar("Answer")

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PATIENCE = 40  # seconds; a limit, not a wait

PROGRAMS = {
    "python": [sys.executable],
    "uvicorn": [sys.executable, "-m", "uvicorn"],
}


def commands(example: Path) -> list[str]:
    """Return the commands that an example tells its reader to type."""
    told = ast.get_docstring(ast.parse(example.read_text(encoding="utf-8"))) or ""
    return [line.strip().removeprefix("$ ") for line in told.splitlines() if line.startswith("    $ ")]


class Running(subprocess.Popen[str]):
    """A command that has been typed.

    Attributes:
        said: the lines that came before one that was waited for.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.said: list[str] = []

    def says(self, text: str) -> str:
        """Wait for a line that has a text, and return it."""
        assert self.stdout is not None
        for line in self.stdout:
            if text in line:
                return line
            self.said.append(line.rstrip("\n"))
        raise AssertionError(f"it never said {text!r}, but: {self.said}")

    def ends(self, code: int = 0) -> list[str]:
        """Wait for its end, and return the lines that it said and nobody has heard yet."""
        assert self.stdout is not None
        said = self.stdout.read()  # `communicate` would not know what has been read already and not been asked for
        assert self.wait(PATIENCE) == code, said
        return said.splitlines()

    def dies(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.kill()
        self.wait()


class Terminal:
    """Types the commands of one example, and no others, in an empty directory."""

    def __init__(self, example: Path, directory: Path, stack: contextlib.ExitStack) -> None:
        self.directory = directory
        self._commands = commands(example)
        self._stack = stack

    def type(self, command: str, **replaced: str) -> Running:
        """Start a command. A word of it may be replaced, such as a port that others may need as well."""
        assert command in self._commands, f"the docstring does not tell to type {command!r}"
        words = [replaced.get(word, word) for word in shlex.split(command)]
        settings = [word.partition("=") for word in words if "=" in word.partition(" ")[0]]
        program, *arguments = words[len(settings) :]
        here = [str(ROOT / word) if word.startswith("examples") else word for word in arguments]
        running = Running(
            [*PROGRAMS.get(program, [program]), *here],
            cwd=self.directory,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | {name: value for name, _, value in settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._stack.callback(_clean_up, running)
        return running

    def lines(self, name: str) -> list[str]:
        """Return the lines of a file that the example writes."""
        path = self.directory / name
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def show(self, command: str) -> Any:
        """Do what a command of ``flujo-async`` does, in this process, quicker; return what it tells as JSON."""
        assert command in self._commands, f"the docstring does not tell to type {command!r}"
        told = io.StringIO()
        with contextlib.chdir(self.directory), contextlib.redirect_stdout(told):
            code = run([*shlex.split(command)[1:], "--json"])
        assert code == 0
        return json.loads(told.getvalue())

    def succeeded(self, command: str, name: str) -> list[str]:
        """Return the keys of the steps of a name whose results are on disk, as ``runs show`` tells them."""
        steps = self.show(command)["steps"]
        return [record["key"] for record in steps if (record["name"], record["status"]) == (name, "SUCCEEDED")]

    def in_hand(self, store: str) -> list[str]:
        """Return the runs that somebody has taken and that do not rest."""
        runs = asyncio.run(_ask(self.directory / store, lambda flujo: flujo.list_runs(status="running", limit=None)))
        return [run.run_id for run in runs]


def _clean_up(running: Running) -> None:
    if running.poll() is None:
        running.kill()
    running.communicate()


@step
async def _nothing() -> None: ...


async def _ask(store: Path, question: Callable[[Flujo[Any, Any]], Awaitable[Answer]]) -> Answer:
    backend = SQLiteBackend(store)
    try:
        return await question(Flujo(_nothing, state_backend=backend))
    finally:
        await backend.shutdown()


def until(is_so: Callable[[], bool]) -> None:
    """Look again and again, up to a deadline."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, "it never became so"
        time.sleep(0.05)


@pytest.fixture
def terminal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Terminal]:
    """A terminal for the example that the test module is named after."""
    example = EXAMPLES / request.path.name.removeprefix("test_")
    with contextlib.ExitStack() as stack:
        yield Terminal(example, tmp_path, stack)
