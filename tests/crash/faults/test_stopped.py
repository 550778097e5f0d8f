"""An owner that is stopped for longer than its lease: another takes over, and the late one does nothing more (G3)."""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.crash.faults.walker import STEPS
from tests.crash.nest import Process, fork
from tests.records import on_record

PATIENCE = 120.0
MOST = 24
"""How often one is stopped; one that has the lock of the store then, or is as good as done, is not taken over."""


def effects(log: Path) -> list[tuple[int, int]]:
    """Return process and number of each step that was executed."""
    return [(int(pid), int(number)) for pid, number in map(str.split, on_record(log))]


async def until(condition: Callable[[], bool]) -> None:
    """Look until it is so."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came to it"
        await asyncio.sleep(0.002)


async def start(kind: str, directory: Path) -> Process:
    return await fork("tests.crash.faults.walker", kind, directory, directory / "effects.log")


async def said(process: Process) -> str:
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert (process.returncode, err) == (0, b""), err.decode()
    return out.decode().split()[-1]


async def end(process: Process) -> None:
    """Leave nothing behind of a process, however the test ends."""
    if process.returncode is None:
        process.kill()
        await process.communicate()


async def stop_and_go_on(kind: str, directory: Path, dice: random.Random) -> bool:
    """Stop a process somewhere, let another take over, and go on; return whether that one had to execute something."""
    log = directory / "effects.log"
    async with AsyncExitStack() as alive:
        late = await start(kind, directory)
        alive.push_async_callback(end, late)
        stop_after = dice.randrange(1, STEPS * 2 // 3)
        await until(lambda: len(effects(log)) >= stop_after)
        await asyncio.sleep(dice.uniform(0, 0.012))  # the moment is what the dice say, wherever the process then is
        os.kill(late.pid, signal.SIGSTOP)
        before = len(effects(log))
        other = await start(kind, directory)
        alive.push_async_callback(end, other)
        await other.stdout.readline()  # only now does time count: a busy machine takes its time to start a process
        # One that is stopped while it has the lock of the store keeps that, and nobody can take over before it goes on.
        await asyncio.wait({taken := asyncio.create_task(until(lambda: len(effects(log)) > before + 1))}, timeout=5)
        os.kill(late.pid, signal.SIGCONT)
        taken.cancel()
        told = await asyncio.gather(said(late), said(other))
    result = str(sum(range(STEPS)))
    assert set(told) <= {result, "stale"}
    assert result in told
    pids = Counter(pid for pid, _ in effects(log))
    twice = [number for number, count in Counter(number for _, number in effects(log)).items() if count > 1]
    assert set(range(STEPS)) == {number for _, number in effects(log)}
    assert len(twice) <= 1, f"only what was executing when it was stopped may be executed again, not {twice}"
    if len(pids) == 2:
        # It may have been stopped inside a step, just before that did what it does.
        further = [number for pid, number in effects(log)[before:] if pid == late.pid]
        assert further in ([], [before]), f"the late one went on, with {further}"
    return len(pids) == 2


@pytest.mark.crash
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", ["file", "sqlite"])
async def test_owners_that_are_stopped_anywhere_are_too_late(tmp_path: Path, kind: str, seed: int) -> None:
    dice, taken_over = random.Random(seed), list[bool]()
    while sum(taken_over) < 6:
        (place := tmp_path / str(len(taken_over))).mkdir()
        taken_over.append(await stop_and_go_on(kind, place, dice))
        assert len(taken_over) < MOST, "hardly any was taken over"
    print(f"{kind}, seed {seed}: {sum(taken_over)} of {len(taken_over)} were taken over")
