"""What tests of the command line share: the real command, and a directory of real files."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flujo_async.cli.app import run

ROOT = Path(__file__).parents[2]
COUNTS = re.compile(r"^([\d,]+) steps taken from the log, ([\d,]+) executed now, ", re.MULTILINE)

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


@dataclass(frozen=True)
class CommandLine:
    """Runs the command in one directory, as a shell would."""

    directory: Path

    def __call__(self, *arguments: str | Path, **environment: str) -> Finished:
        with self.start(*arguments, **environment) as process:
            out, err = process.communicate(timeout=50)
        return Finished(process.returncode, out, err)

    def start(self, *arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "flujo_async", *map(str, arguments)],
            cwd=self.directory,
            env=self.environment(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def environment(self, more: dict[str, str]) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if name not in ("FLUJO_DB", "FORCE_COLOR")}
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
