"""Processes that share a store, for tests: ``python -m tests.runtime.sharing WHAT URL LOG …``.

``work TTL CONCURRENCY SECONDS`` works until SIGTERM comes; SIGUSR1 stops it, until SIGCONT comes. ``resume`` drives one
run that sleeps and waits, twice: the second time when it is told to.
"""

import asyncio
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from flujo_async import Flujo, StepContext, Worker, sleep, step, wait_for
from tests.records import on_record, put_on_record


def shared(log: Path | None = None, seconds: float = 0) -> Any:
    """Return ``a >> b >> c``: each puts itself on record, and takes a while."""
    a, b, c = (_effect(name, log, seconds) for name in ("a", "b", "c"))
    return a >> b >> c


def _effect(name: str, log: Path | None, seconds: float) -> Any:
    async def effect(n: int, ctx: StepContext) -> int:
        if log is not None:
            put_on_record(log, f"{os.getpid()} {ctx.run_id} {ctx.step_key}")
        await asyncio.sleep(seconds)
        return n + 1

    return step(name=name)(effect)


def executions(log: Path) -> list[tuple[int, str, str]]:
    """Return process, run and step of each side effect, in order."""
    return [(int(pid), run_id, key) for pid, run_id, key in map(str.split, on_record(log))]


async def work(url: str, log: str, ttl: str, concurrency: str, seconds: str) -> None:
    """Work until asked to stop."""
    flujo = Flujo(
        shared(Path(log), float(seconds)),
        pipeline_name="shared",
        state_backend=url,
        lease_ttl=timedelta(seconds=float(ttl)),
    )
    # Between two turns of the event loop: in the middle of a step, nobody can tell who had its effect first.
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, os.kill, os.getpid(), signal.SIGSTOP)
    print("ready", flush=True)
    await Worker(flujo, concurrency=int(concurrency), drain_timeout=10).run()


def waiting(log: Path | None = None) -> Any:
    """Return steps with a sleep and a wait between them, longer than a run stays in memory for."""
    names = ("a", "b", "c")
    a, b, c = (_effect(name, log, 0) for name in names)
    return a >> sleep(1.1) >> b >> wait_for("ok", schema=int) >> c


async def resume(url: str, log: str) -> None:
    """Drive the run until it waits, and again when somebody says that it has its answer."""
    flujo = Flujo(waiting(Path(log)), pipeline_name="waiting", state_backend=url)
    print((await flujo.run(1, run_id="r")).status, flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    print((await flujo.run(1, run_id="r")).output, flush=True)


if __name__ == "__main__":
    asyncio.run({"work": work, "resume": resume}[sys.argv[1]](*sys.argv[2:]))
