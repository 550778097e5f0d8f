"""What tests of the command line share: the real command, and a directory of real files."""

import asyncio
import fcntl
import importlib
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import sysconfig
import termios
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flujo_async import Flujo, StateBackend
from flujo_async._model.stored import RunQuery
from flujo_async._model.summary import RunSummary
from flujo_async.backends import backend_from_url
from flujo_async.cli.app import run

ROOT = Path(__file__).parents[2]
COUNTS = re.compile(r"^([\d,]+) steps taken from the log, ([\d,]+) executed now, ", re.MULTILINE)

OF_SOMEBODYS_SHELL = {"FLUJO_DB", "FORCE_COLOR", "NO_COLOR", "COLUMNS", "LINES"}
"""Variables that commands go by, also on a terminal that has a size of its own."""

STORES = ["sqlite:///runs.db", "file:///runs"]


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def counts(self) -> tuple[int, int]:
        """How many steps a demo took from the log, and how many it executed."""
        found = COUNTS.search(self.err)
        assert found, self.err
        recorded, executed = (int(number.replace(",", "")) for number in found.groups())
        return recorded, executed


class Process(subprocess.Popen[str]):
    """One that does not outlive its test, nor make it wait, when that has failed."""

    def __exit__(self, exc_type: type[BaseException] | None, *about: Any) -> None:
        if exc_type is not None:
            self.kill()
        super().__exit__(exc_type, *about)


@dataclass(frozen=True)
class CommandLine:
    """Runs the command in one directory, as a shell would."""

    directory: Path

    def __call__(self, *arguments: str | Path, answer: str = "", **environment: str) -> Finished:
        """Run a command to its end; ``answer`` is its standard input."""
        with self.start(*arguments, **environment) as process:
            out, err = process.communicate(answer, timeout=50)
        return Finished(process.returncode, out, err)

    def start(self, *arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
        return self.python("-m", "flujo_async", *map(str, arguments), **environment)

    def python(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return Process(
            [sys.executable, *arguments],
            cwd=self.directory,
            env=self.environment(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def environment(self, more: dict[str, str]) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if name not in OF_SOMEBODYS_SHELL}
        return inherited | {"PYTHONPATH": str(ROOT)} | more


@pytest.fixture
def cli(tmp_path: Path) -> CommandLine:
    return CommandLine(tmp_path)


@dataclass(frozen=True)
class InProcess:
    """Runs the command in this process, which is quicker; the working directory is a temporary one."""

    capsys: pytest.CaptureFixture[str]
    directory: Path

    def __call__(self, *arguments: str | Path) -> Finished:
        self.capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        out, err = self.capsys.readouterr()
        return Finished(code, out, err)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InProcess:
    monkeypatch.delenv("FLUJO_DB", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # where a command looks for modules
    return InProcess(capsys, tmp_path)


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packages of the standard library, and files that cannot be read or parsed. Not to be changed."""
    root = tmp_path_factory.mktemp("sources")
    for package in ("email", "importlib", "json"):
        shutil.copytree(Path(sysconfig.get_path("stdlib"), package), root / package)
    (root / "bad_syntax.py").write_text("def f(:\n")
    (root / "bad_encoding.py").write_bytes(b"# -*- coding: utf-8 -*-\n'\xff'\n")
    (root / "bad_null.py").write_bytes(b"x = 1\0\n")
    (root / "dangling.py").symlink_to(root / "nothing.py")
    (root / "tests").mkdir()
    (root / "tests" / "test_left_out.py").write_text("")
    return root


@pytest.fixture(scope="session")
def survey(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A survey of the sources that nothing interrupted."""
    finished = CommandLine(tmp_path_factory.mktemp("survey"))("demo", "--path", sources)
    assert finished.code == 0, finished.err
    return finished


@pytest.fixture
def copied(sources: Path, tmp_path: Path) -> Path:
    """A copy of the sources, to be changed."""
    return shutil.copytree(sources, tmp_path / "copy", symlinks=True)


APP = """
import asyncio
import os
import time
from dataclasses import dataclass

from anyio import Path

from flujo_async import Flujo, PipelineRegistry, StepContext, loop, step, wait_for


@dataclass
class Answer:
    is_yes: bool
    by: str


@dataclass
class Cart:
    items: int = 0


def note(name):
    with open("executed.txt", "a") as file:
        file.write(name + "\\n")


def unpack(packed: str) -> None:
    note("unpack")


@step
def pack(order: str, ctx: StepContext) -> str:
    note("pack")
    ctx.state.items = len(order)
    return order


@step(compensate=unpack)
def pack_loosely(order: str) -> str:
    note("pack")
    return order


@step
def ship(answer: Answer) -> str:
    note("ship")
    if os.path.exists("closed"):
        raise ConnectionError("the shop is closed")
    return f"shipped for {answer.by}"


async def wait_for_file():
    await Path("holding").touch()
    while not await Path("go").exists():
        await asyncio.sleep(0.01)


@step
async def hold(order: str) -> str:
    await wait_for_file()
    return order


@step(effect="once")
async def charge(order: str) -> str:
    note("charge")
    await wait_for_file()
    return order


@step
def block(order: str) -> str:
    open("holding", "w").close()
    time.sleep(60)
    return order


@step
def tick(order: str) -> str:
    time.sleep(0.02)
    return "stop" if os.path.exists("go") else order


approval = wait_for("approval", schema=Answer, prompt="Ship it?")
registry = PipelineRegistry()
registry.register(pack >> approval >> ship, "orders", "1.0.0")
registry.register(pack_loosely >> approval >> ship, "undone", "1.0.0")
registry.register(pack >> hold >> pack, "held", "1.0.0")
ticks = loop(tick, until=lambda order: order == "stop", max_iterations=10_000)
registry.register(pack >> ticks, "ticking", "1.0.0")
registry.register(charge, "charged", "1.0.0")
registry.register(block, "blocked", "1.0.0")


def runtime(name="orders"):
    return Flujo(registry=registry, pipeline_name=name, state_backend="{db}", context_type=Cart)


async def later():
    return runtime()


flujo = runtime()
in_memory = Flujo(pack)
"""

START = """
import asyncio, sys
import app

async def main():
    async with app.runtime(sys.argv[2]) as flujo:
        for run_id in sys.argv[3:]:
            print(await getattr(flujo, sys.argv[1])("tea", run_id=run_id), flush=True)

asyncio.run(main())
"""


@dataclass(frozen=True)
class Project:
    """A directory with somebody's code, whose runs live in a store, and the command line in it.

    Called, it runs a command in this process; ``cli`` has the real one.
    """

    cli: CommandLine
    call: InProcess
    db: str

    def __call__(self, *arguments: str) -> Finished:
        forget_app()
        return self.call(*arguments)

    @property
    def directory(self) -> Path:
        return self.cli.directory

    @property
    def executed(self) -> list[str]:
        """The steps that were executed, as they tell."""
        path = self.directory / "executed.txt"
        return path.read_text().split() if path.exists() else []

    def start(self, pipeline: str, *run_ids: str) -> subprocess.Popen[str]:
        """Start runs in a process of their own."""
        return self.cli.python("start.py", "run", pipeline, *run_ids)

    def hold(self, pipeline: str, run_id: str) -> subprocess.Popen[str]:
        """Start a run in a process of its own that stays in a step until ``go``."""
        process = self.start(pipeline, run_id)
        eventually((self.directory / "holding").exists)
        return process

    def go(self) -> None:
        (self.directory / "go").touch()

    def run(self, pipeline: str, *run_ids: str) -> None:
        """Start runs here, and return when they rest."""
        asyncio.run(_for_each(self.runtime(pipeline), "run", run_ids))

    def dispatch(self, pipeline: str, *run_ids: str, queue: str = "default") -> None:
        asyncio.run(_for_each(self.runtime(pipeline), "dispatch", run_ids, queue=queue))

    def runtime(self, pipeline: str) -> Flujo[Any, Any]:
        """Return the project's own runtime, in this process."""
        forget_app()
        runtime: Flujo[Any, Any] = importlib.import_module("app").runtime(pipeline)
        return runtime

    def head(self, run_id: str) -> RunSummary:
        url = self.db.replace(":///", f":///{self.directory}/")
        return asyncio.run(_head(backend_from_url(url), run_id))

    def wait_until(self, run_id: str, status: str) -> None:
        eventually(lambda: self.head(run_id).status == status)


async def _for_each(flujo: Flujo[Any, Any], verb: str, run_ids: Iterable[str], **options: Any) -> None:
    async with flujo:
        for run_id in run_ids:
            await getattr(flujo, verb)("tea", run_id=run_id, **options)


async def _head(backend: StateBackend, run_id: str) -> RunSummary:
    async with backend:
        return (await backend.query_runs(RunQuery(run_id=run_id)))[0]


def forget_app() -> None:
    """Have the project's module imported anew, as another process would."""
    sys.modules.pop("app", None)


@pytest.fixture(params=[STORES[0], pytest.param(STORES[1], marks=pytest.mark.crash)])
def project(
    request: pytest.FixtureRequest, cli: CommandLine, call: InProcess, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Project]:
    yield make_project(cli, call, monkeypatch, request.param)
    forget_app()


@pytest.fixture
def one_project(cli: CommandLine, call: InProcess, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A project on one kind of store, where the kind makes no difference."""
    yield make_project(cli, call, monkeypatch, STORES[0])
    forget_app()


def make_project(cli: CommandLine, call: InProcess, monkeypatch: pytest.MonkeyPatch, db: str) -> Project:
    (cli.directory / "app.py").write_text(APP.replace("{db}", db))
    (cli.directory / "start.py").write_text(START)
    (cli.directory / "pyproject.toml").write_text('[tool.flujo-async]\nflujo = "app:flujo"\n')
    monkeypatch.syspath_prepend(cli.directory)
    return Project(cli, call, db)


def eventually(is_true: Callable[[], bool]) -> None:
    """Return as soon as something is true that another process does."""
    deadline = time.monotonic() + 50
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def on_terminal(cli: CommandLine, *arguments: str, **environment: str) -> str:
    """Return what a terminal of 80 columns is sent."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "flujo_async", *arguments],
        cwd=cli.directory,
        env=cli.environment({"TERM": "xterm-256color"} | environment),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    sent = b""
    try:
        while data := os.read(ours, 65536):
            sent += data
    except OSError:  # Linux says so when the last writer has gone
        pass
    finally:
        os.close(ours)
        process.wait(timeout=50)
    return sent.decode()
