"""A process that walks through many steps: ``main(KIND, DIRECTORY, LOG)``, all of them strings.

Each step puts itself on record in a file, and takes a moment. A lease lasts no longer than ``TTL``. The process says
when it begins, and then what came of it.
"""

import asyncio
import os
from datetime import timedelta
from pathlib import Path

from flujo_async import Flujo, RunContext, step, workflow
from flujo_async.errors import StaleLease
from tests.crash.faults.stores import open_store
from tests.records import put_on_record

STEPS = 60
TTL = timedelta(seconds=0.6)
LONG = timedelta(seconds=20)
"""Longer than a process is stopped for, which may have the lock of the store."""


async def walk(kind: str, directory: Path, log: Path) -> None:
    """Drive the run, or wait for whoever does."""

    @step
    async def add(total: int, n: int) -> int:
        put_on_record(log, f"{os.getpid()} {n}")
        await asyncio.sleep(0.01)
        return total + n

    @workflow(name="walk")
    async def way(start: int, ctx: RunContext) -> int:
        total = start
        for n in range(STEPS):
            total = await add(total, n)
        return total

    print("begins", flush=True)
    flujo = Flujo(way, state_backend=open_store(kind, directory, busy=LONG), lease_ttl=TTL)
    try:
        print((await flujo.run(0, run_id="r")).output)
    except StaleLease:
        print("stale")
    await flujo.aclose()


def main(kind: str, directory: str, log: str) -> None:
    asyncio.run(walk(kind, Path(directory), Path(log)))
