"""Planting bugs in copies of the package, and running tests there."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from tests.bite.bug import Bug, MovedOn, planted

COPIED = ("flujo_async", "tests", "pytest_flujo_async.py", "pyproject.toml")
SECONDS_A_TEST = 15
SECONDS_A_BUG = 120
SECONDS_WITHOUT_BUGS = 900

_OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "--tb=no", f"--timeout={SECONDS_A_TEST}", "--hypothesis-profile=ci")
_FAILED = re.compile(r"^(?:FAILED|ERROR) (?P<test>\S.*?)(?: - (?P<message>.*))?$", re.MULTILINE)
_PASSED = re.compile(r"\b\d+ passed\b")
_TESTS_FAILED = 1  # of pytest's exit codes; those above tell that it could not run them

Verdict: TypeAlias = Literal["caught", "SURVIVED", "not tried", "BROKEN"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of a bug, or of the tests where there is none.

    Attributes:
        verdict: ``not tried`` if all of the tests were skipped; ``BROKEN`` if they could not be run, or the bug could
            not be planted.
        test: the first test that failed.
        message: what it said.
        seconds: how long it took.
    """

    verdict: Verdict
    test: str = ""
    message: str = ""
    seconds: float = 0.0


@contextmanager
def pristine(root: Path) -> Generator[Path]:
    """Lend a copy of the package and its tests; the checkout itself is never touched."""
    with tempfile.TemporaryDirectory(prefix="flujo-bite-", ignore_cleanup_errors=True) as directory:
        tree = Path(directory, "pristine")
        tree.mkdir()
        for name in COPIED:
            _copy(root / name, tree / name)
        yield tree


def try_bug(tree: Path, bug: Bug) -> Finding:
    """Plant a bug in a copy of ``tree``, and run the tests that have to catch it."""
    began = time.monotonic()
    place = tree.with_name(bug.id)
    shutil.copytree(tree, place)  # with what was compiled: it goes by the time of the files, which the copies keep
    try:
        target = place / "flujo_async" / bug.file
        target.write_text(planted(bug, target.read_text()))
        found = run(place, bug.tests, SECONDS_A_BUG)
    except MovedOn as error:
        found = Finding("BROKEN", message=str(error))
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return Finding(found.verdict, found.test, found.message, time.monotonic() - began)


def run(place: Path, tests: Iterable[str], seconds: float) -> Finding:
    """Run tests on the package beside them, until one fails."""
    made = tempfile.mkdtemp(prefix="made-", dir=place.parent)
    command = [sys.executable, "-m", "pytest", *_OPTIONS, f"--basetemp={made}", *tests]
    environment = {**os.environ, "PYTHONPATH": str(place), "COLUMNS": "250"}
    process = subprocess.Popen(
        command, cwd=place, env=environment, text=True, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        out, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with the processes that the tests have started
        process.communicate()
        return Finding("caught", "the time limit", f"the tests hang: {seconds:g} s were over")
    return judge(process.returncode, out)


def judge(exit_code: int, out: str) -> Finding:
    """Return what the end of pytest tells of a bug."""
    if exit_code == 0:
        return Finding("SURVIVED" if _PASSED.search(out) else "not tried")
    failed = _FAILED.search(out)
    if exit_code != _TESTS_FAILED or failed is None:
        return Finding("BROKEN", message=f"pytest ended with {exit_code}:\n{out[-2000:]}")
    return Finding("caught", failed["test"], failed["message"] or "")


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy2(source, target)
