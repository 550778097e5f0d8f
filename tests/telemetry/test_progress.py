"""Runs on a terminal."""

import asyncio
import io
import os
import pty
import subprocess
import sys
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from flujo_async import Flujo, Retry, StepContext, errors, parallel, step, wait_for
from flujo_async.telemetry import ProgressInstrument
from tests.runtime.children import ROOT

SCRIPT = """
import asyncio
from flujo_async import Flujo, step
from flujo_async.telemetry import ProgressInstrument

@step
async def slow(value: int) -> int:
    await asyncio.sleep(0.3)
    return value

flujo = Flujo(slow >> slow, pipeline_name="sum", instruments=[ProgressInstrument()])
asyncio.run(flujo.run(1, run_id="[bold]r"))
"""


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=100, _environ={})


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def plain(text: str) -> list[str]:
    """Return the lines of a terminal's output, without what moves its cursor."""
    return [Text.from_ansi(line).plain.rstrip() for line in text.replace("\r", "\n").splitlines()]


@step(retry=Retry(max_attempts=2, base=0))
async def flaky(value: Any, ctx: StepContext) -> int:
    if ctx.attempt == 1:
        raise ValueError("the first time")
    return 1


@step
async def fails(_: Any) -> None:
    raise ZeroDivisionError("no [bold]way")


async def test_the_last_line_says_how_a_run_came_to_rest() -> None:
    console = terminal()
    instruments = [ProgressInstrument(console)]
    await Flujo(flaky, pipeline_name="one", instruments=instruments).run(1, run_id="a")
    with pytest.raises(errors.RunFailed):
        await Flujo(flaky >> fails, pipeline_name="two", instruments=instruments).run(1, run_id="b")
    await Flujo(wait_for("go"), pipeline_name="three", instruments=instruments).run(1, run_id="c")
    lines = [line for line in plain(written(console)) if ": " in line]
    assert lines == [
        "one a: completed, 1 step",
        "two b: failed: ZeroDivisionError: no [bold]way, 1 step",
        "three c: paused, and waits for go, 0 steps",
    ]


async def test_a_line_names_the_steps_that_are_executed() -> None:
    console = terminal()
    instrument = ProgressInstrument(console)
    seen: list[str] = []
    all_begun = asyncio.Barrier(5)

    def look(name: str) -> Any:
        async def call(_: Any) -> None:
            if name != "last":
                await all_begun.wait()
            progress = instrument._progress
            assert progress is not None
            progress.refresh()
            seen.append(plain(written(console))[-1])

        return step(name=name)(call)

    pipeline = parallel(*map(look, "abcde")) >> look("last")
    await Flujo(pipeline, pipeline_name="sum", instruments=[instrument]).run(1, run_id="r")
    assert "sum r 0 done" in seen[0]
    assert seen[0].endswith(" a, b, c and 2 more")
    assert "sum r 5 done" in seen[-1]
    assert seen[-1].endswith(" last")


async def test_runs_that_go_on_at_the_same_time_share_the_screen() -> None:
    console = terminal()
    flujo = Flujo(flaky, pipeline_name="sum", instruments=[ProgressInstrument(console)])
    await asyncio.gather(*(flujo.run(number, run_id=f"r{number}") for number in range(5)))
    lines = sorted(line for line in plain(written(console)) if "completed" in line)
    assert lines == [f"sum r{number}: completed, 1 step" for number in range(5)]


async def test_nothing_is_written_where_there_is_no_terminal() -> None:
    console = Console(file=io.StringIO())
    assert (await Flujo(flaky, instruments=[ProgressInstrument(console)]).run(1)).output == 1
    assert written(console) == ""


def test_a_real_terminal_shows_a_run_and_is_left_as_it_was() -> None:
    parent, end = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], stdin=end, stdout=end, stderr=end, env=environment)
    os.close(end)
    text = b""
    while chunk := read(parent):
        text += chunk
    os.close(parent)
    assert process.wait() == 0
    lines = plain(text.decode())
    assert any("sum [bold]r 1 done" in line and line.endswith(" slow") for line in lines)
    assert "sum [bold]r: completed, 2 steps" in lines
    assert text.rindex(b"\x1b[?25h") > text.rindex(b"\x1b[?25l")  # the cursor is shown again


def read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # the other side is gone: the end, on Linux
        return b""
