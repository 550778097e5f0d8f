"""Temporal: a worker in this process, and the development server as its child, which keeps its log in a SQLite file.

Variant: ``server``: an activity a step.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    from benchmarks.work import work

QUEUE = "benchmark"
MINUTE = timedelta(minutes=1)


@activity.defn
async def increment(value: Any) -> Any:
    return work(value)


@activity.defn
async def extend(number: int) -> str:
    return f"item {number}"


@workflow.defn
class Count:
    @workflow.run
    async def run(self, value: Any, steps: int) -> Any:
        for _ in range(steps):
            value = await workflow.execute_activity(increment, value, start_to_close_timeout=MINUTE)
        return value


@workflow.defn
class Grow:
    @workflow.run
    async def run(self, text: str, steps: int) -> int:
        context: dict[str, Any] = {"text": text, "items": []}
        for number in range(steps):
            item = await workflow.execute_activity(extend, number + 1, start_to_close_timeout=MINUTE)
            context["items"].append(item)
        return len(context["items"])


class System:
    """A workflow that executes its one activity as often as asked."""

    def __init__(self, directory: Path, variant: str, steps: int, *, grows: bool = False) -> None:
        self._path = directory / "temporal.db"
        self._workflow = Grow if grows else Count
        self._steps = steps

    async def __aenter__(self) -> Self:
        port = _free_port()
        arguments = ["--headless", "--port", str(port), "--db-filename", str(self._path), "--log-level", "never"]
        program = Path(sys.executable).parent / "temporal"
        self._server = await asyncio.to_thread(
            subprocess.Popen, [program, "server", "start-dev", *arguments], stdout=subprocess.DEVNULL
        )
        self._client = await _connect(f"127.0.0.1:{port}")
        self._worker = Worker(
            self._client, task_queue=QUEUE, workflows=[Count, Grow], activities=[increment, extend],
            max_concurrent_activities=100, max_concurrent_workflow_tasks=100,
        )  # fmt: skip
        await self._worker.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._worker.__aexit__(None, None, None)
        self._server.terminate()
        await asyncio.to_thread(self._server.wait)

    async def run(self, run_id: str, value: Any) -> Any:
        return await self._client.execute_workflow(
            self._workflow.run, args=[value, self._steps], id=run_id, task_queue=QUEUE
        )


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


async def _connect(address: str) -> Client:
    for _ in range(300):
        try:
            return await Client.connect(address)
        except (RuntimeError, RPCError):  # it is still starting
            await asyncio.sleep(0.1)
    raise RuntimeError(f"the development server does not answer at {address}")
