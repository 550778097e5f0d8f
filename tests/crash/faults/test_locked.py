"""Another process holds the store for longer than anybody waits."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from flujo_async import Flujo, step
from flujo_async.errors import BackendError
from tests.crash.faults.stores import BUSY, open_store
from tests.runtime.children import ROOT

MOST_LAG = 0.2
"""For how many seconds the event loop may be away, on a machine that is busy."""

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


@asynccontextmanager
async def lag_is_small() -> AsyncIterator[None]:
    """Fail if the event loop is away for long meanwhile."""
    worst = 0.0

    async def watch() -> None:
        nonlocal worst
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.005)
            worst = max(worst, time.monotonic() - before - 0.005)

    task = asyncio.create_task(watch())
    try:
        yield
    finally:
        task.cancel()
    assert worst < MOST_LAG, f"the event loop was away for {worst} seconds"


@step
async def one(n: int) -> int:
    return n + 1


@pytest.mark.parametrize("lock", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
@pytest.mark.parametrize("kind", ["sqlite", "sqlite-normal"])
async def test_a_database_that_is_locked_for_long_is_told_and_left_alone(tmp_path: Path, kind: str, lock: str) -> None:
    """An error after the busy timeout, nothing lost, a loop that goes on, the same file; then all is well."""
    path = tmp_path / "runs.db"
    flujo = Flujo(one, state_backend=(store := open_store(kind, tmp_path)))
    assert (await flujo.run(1, run_id="before")).output == 2
    inode, before = path.stat().st_ino, set(os.listdir(tmp_path))
    async with held(HOLD_DATABASE, str(path), lock):
        began = time.monotonic()
        async with lag_is_small():
            with pytest.raises(BackendError, match="another process holds the database"):
                await flujo.run(1, run_id="during")
        waited = time.monotonic() - began
        assert BUSY.total_seconds() * 0.9 < waited < BUSY.total_seconds() * 6
    assert (path.stat().st_ino, set(os.listdir(tmp_path))) == (inode, before)
    assert {summary.run_id for summary in await flujo.list_runs()} == {"before"}
    assert (await flujo.run(1, run_id="during")).output == 2
    await store.shutdown()


async def test_a_locked_log_is_waited_for_and_its_neighbours_go_on(tmp_path: Path) -> None:
    """A run whose file is held waits, without blocking the loop; other runs do not."""
    flujo = Flujo(one, state_backend=open_store("file", tmp_path))
    assert (await flujo.run(1, run_id="r")).output == 2
    async with held(HOLD_LOG, str(tmp_path / "runs" / "r.jsonl")) as process:
        async with lag_is_small():
            waiting = asyncio.create_task(flujo.run(run_id="r"))
            assert (await flujo.run(1, run_id="other")).output == 2
            assert not waiting.done()
        process.kill()
        assert (await waiting).output == 2
