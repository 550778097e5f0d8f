"""Another process holds the store for longer than anybody waits."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from flujo_async import Flujo, step
from flujo_async.errors import BackendError
from tests.crash.faults.stores import BUSY, open_store
from tests.runtime.children import ROOT

LEAST_TURNS = 5
"""So often at least the event loop goes on during the wait, on any machine; one that waits itself, once or twice."""

HOLD_DATABASE = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute(sys.argv[2])
print("held", flush=True)
sys.stdin.read()
"""
HOLD_LOG = """
import fcntl, sys
file = open(sys.argv[1])
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@asynccontextmanager
async def held(script: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Have a process hold something meanwhile."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        *arguments,
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"held\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def turns_during(work: Awaitable[object]) -> int:
    """Return how often the event loop has turned for somebody else meanwhile."""
    turns = 0

    async def watch() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.005)
            turns += 1

    task = asyncio.create_task(watch())
    try:
        await work
    finally:
        task.cancel()
    return turns


@step
async def one(n: int) -> int:
    return n + 1


async def refused(flujo: Flujo[int, int]) -> None:
    with pytest.raises(BackendError, match="another process holds the database"):
        await flujo.run(1, run_id="during")


@pytest.mark.parametrize("lock", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
@pytest.mark.parametrize("kind", ["sqlite", "sqlite-normal"])
async def test_a_database_that_is_locked_for_long_is_told_and_left_alone(tmp_path: Path, kind: str, lock: str) -> None:
    """An error after the busy timeout, nothing lost, a loop that goes on, the same file; then all is well."""
    path = tmp_path / "runs.db"
    flujo = Flujo(one, state_backend=(store := open_store(kind, tmp_path)))
    assert (await flujo.run(1, run_id="before")).output == 2
    inode, before = path.stat().st_ino, set(os.listdir(tmp_path))
    async with held(HOLD_DATABASE, str(path), lock):
        for _ in range(5):  # a busy machine may stand still meanwhile, but not each time
            began = time.monotonic()
            turns = await turns_during(refused(flujo))
            assert time.monotonic() - began > BUSY.total_seconds() * 0.9
            if turns >= LEAST_TURNS:
                break
        assert turns >= LEAST_TURNS
    assert (path.stat().st_ino, set(os.listdir(tmp_path))) == (inode, before)
    assert {summary.run_id for summary in await flujo.list_runs()} == {"before"}
    assert (await flujo.run(1, run_id="during")).output == 2
    await store.shutdown()


async def test_a_locked_log_is_waited_for_and_its_neighbours_go_on(tmp_path: Path) -> None:
    """A run whose file is held waits, without blocking the loop; other runs do not."""
    flujo = Flujo(one, state_backend=open_store("file", tmp_path))
    assert (await flujo.run(1, run_id="r")).output == 2
    async with held(HOLD_LOG, str(tmp_path / "runs" / "r.jsonl")) as process:
        waiting = asyncio.create_task(flujo.run(run_id="r"))
        assert (await flujo.run(1, run_id="other")).output == 2
        assert not waiting.done()
        process.kill()
        assert (await waiting).output == 2
