"""An event loop that does not turn is told of, with what it is at; one that has nothing to do is not."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flujo_async import Flujo, InMemoryBackend, step
from flujo_async.backends.sqlite import SQLiteBackend
from flujo_async.errors import InvalidArgument
from tests.runtime.children import ROOT
from tests.runtime.pretend import until

THRESHOLD = "0.1"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    monkeypatch.setenv("FLUJO_ASYNC_STALL_SECONDS", THRESHOLD)
    caplog.set_level(logging.INFO, "flujo_async")
    return caplog


def spin(is_over: Callable[[], bool]) -> None:
    while not is_over():
        pass


def later(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


def either(*are_over: Callable[[], bool]) -> Callable[[], bool]:
    return lambda: any(is_over() for is_over in are_over)


@step
async def hog(seconds: float) -> float:
    spin(later(seconds))
    return seconds


async def test_a_loop_that_stands_still_is_told_of_once_with_what_it_is_at(
    tmp_path: Path, told: pytest.LogCaptureFixture
) -> None:
    """And once more, when it turns again, with how long that took."""

    def of_this() -> list[logging.LogRecord]:
        return [record for record in told.records if "in hog" in record.message]  # a busy machine has others

    @step
    async def hog(_: int) -> None:
        while not of_this():
            await asyncio.sleep(0)
            spin(either(lambda: bool(of_this()), later(5)))  # it may have been told a moment ago that it stood still
        spin(later(0.3))  # it is looked at again, and again

    began = time.monotonic()
    async with SQLiteBackend(tmp_path / "runs.db") as backend:
        await Flujo(hog, state_backend=backend).run(1, run_id="r")
        await until(lambda: told.records[-1] not in of_this())
    took = time.monotonic() - began
    [warning] = of_this()
    relief = told.records[told.records.index(warning) + 1]
    assert warning.levelno == logging.WARNING
    assert "run 'r'" in warning.message
    assert "in spin" in warning.message, "below what the step itself is at"
    assert "in hog" in warning.message
    assert relief.levelno == logging.INFO
    assert 0.4 <= float(relief.message.split()[-2]) <= took + 0.1


async def test_a_loop_that_only_waits_is_none_that_stands_still(
    tmp_path: Path, told: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked, and answers, as often as it is asked."""
    monkeypatch.setenv("FLUJO_ASYNC_STALL_SECONDS", "0.3")

    @step
    async def wait(n: int) -> int:
        await asyncio.sleep(1)
        return n

    async with SQLiteBackend(tmp_path / "runs.db") as backend:
        for _ in range(5):  # a busy machine may let it answer later, but not each time
            told.clear()
            await Flujo(wait, state_backend=backend).run(1)
            if not told.records:
                break
    assert told.records == []


async def test_loops_are_not_watched_where_nobody_wants_it(
    tmp_path: Path, told: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLUJO_ASYNC_STALL_SECONDS", "0")
    async with SQLiteBackend(tmp_path / "runs.db") as backend:
        await Flujo(hog, state_backend=backend).run(0.3)
    assert told.records == []


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf"])
def test_a_threshold_that_is_none_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUJO_ASYNC_STALL_SECONDS", text)
    with pytest.raises(InvalidArgument, match="FLUJO_ASYNC_STALL_SECONDS"):
        Flujo(hog, state_backend=InMemoryBackend())


STOPPED = """
import asyncio, logging, os, signal, sys, time
from datetime import timedelta
from flujo_async import Flujo, step

logging.basicConfig(level=logging.INFO)

@step
async def work(n: int) -> int:
    end = time.monotonic() + 0.45
    while time.monotonic() < end:
        pass
    os.kill(os.getpid(), signal.SIGSTOP)
    return n

@step
async def wait(n: int) -> int:
    await asyncio.sleep(0.2)
    return n

asyncio.run(Flujo(work >> wait, state_backend=sys.argv[1], lease_ttl=timedelta(seconds=1.2)).run(1))
"""


def test_a_process_that_was_stopped_is_not_told_of(tmp_path: Path) -> None:
    """Its loop was asked, worked for less than the threshold, and stood still as everything else did.

    A busy machine may let it work for longer, but not each time.
    """
    assert any("event loop" not in told_of_a_stop(tmp_path) for _ in range(3))


def told_of_a_stop(tmp_path: Path) -> str:
    environment = {**os.environ, "FLUJO_ASYNC_STALL_SECONDS": "1.2", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", STOPPED, f"sqlite:///{tmp_path}/runs.db"],
        stderr=subprocess.PIPE, text=True, env=environment,
    ) as process:  # fmt: skip
        os.waitpid(process.pid, os.WUNTRACED)  # until it is stopped
        time.sleep(1.3)  # longer than the threshold
        process.send_signal(signal.SIGCONT)
        _, err = process.communicate(timeout=50)
    assert process.returncode == 0, err
    return err
