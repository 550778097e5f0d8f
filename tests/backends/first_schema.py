"""How ``first_schema.db`` was made, once, before the first release: ``python -m tests.backends.first_schema DIR``.

From then on the file is data: the code that wrote it is gone, and what it wrote has to be read for ever. It was made by
schema version 1 of the SQLite store. ``first_schema.json`` is what was to be seen of each run then. What stays of this
module is what the runs in it need to go on: the definitions.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from flujo_async import Flujo, PipelineRegistry, Retry, RunContext, SQLiteBackend, StepContext, step, wait_for, workflow
from flujo_async._log.fold import fold_log
from flujo_async._log.snapshot import snapshot_of
from flujo_async.cli.screen import as_json
from flujo_async.errors import RunFailed

HERE = Path(__file__).parent
DATABASE = HERE / "first_schema.db"
AS_THEN = HERE / "first_schema.json"
LARGE = [f"line {number} of a value that stands beside the log" for number in range(700)]
SYSTEM_STATE = {"since": 2026, "by": "the first schema"}
DIES_AT = "FIRST_SCHEMA_DIES_AT"
SNAPSHOT_AT = 6


@step
async def greet(name: str, ctx: StepContext) -> str:
    ctx.emit({"greeted": name})
    return f"hello {name}"


@step
async def shout(text: str) -> str:
    return text.upper()


@step(retry=Retry(max_attempts=2, base=0.01))
async def refuse(text: str) -> str:
    raise ValueError(f"no {text}")


@step
async def write_much(text: str) -> list[str]:
    return [text, *LARGE]


@step
async def shout_if(is_approved: bool) -> str:
    return "APPROVED" if is_approved else "refused"


@step
async def count(number: int) -> int:
    if os.environ.get(DIES_AT) == str(number):
        os.kill(os.getpid(), signal.SIGKILL)
    return number + 1


@workflow(name="counting", version="1.0.0")
async def counting(upto: int, ctx: RunContext) -> int:
    number = 0
    while number < upto:
        number = await count(number)
    return number


def registry() -> PipelineRegistry:
    found = PipelineRegistry()
    found.register(greet >> shout, "greeting", "1.0.0")
    found.register(greet >> refuse, "refusing", "1.0.0")
    found.register(greet >> wait_for("approval", schema=bool, prompt="Go on?") >> shout_if, "asking", "1.0.0")
    found.register(greet >> write_much, "writing", "1.0.0")
    found.register(counting, "counting", "1.0.0")
    return found


def flujo(name: str, backend: SQLiteBackend) -> Flujo[Any, Any]:
    return Flujo(registry=registry(), pipeline_name=name, state_backend=backend)


async def seen(backend: SQLiteBackend) -> dict[str, Any]:
    """Return all that is to be seen of each run, as JSON tells it."""
    runs: dict[str, Any] = {}
    for head in await flujo("greeting", backend).list_runs(limit=None):
        reader = flujo(head.pipeline_name, backend)
        state = await reader.state(head.run_id)
        runs[head.run_id] = {
            "head": as_json(head),
            "state": as_json({name: getattr(state, name) for name in type(state).model_fields}),
            "history": [[at.seq, at.fact.kind, at.step, at.at, at.hash] for at in await reader.history(head.run_id)],
            "steps": as_json(await reader.steps(head.run_id)),
        }
    told: dict[str, Any] = shortened(as_json(runs))
    return told


def shortened(tree: Any) -> Any:
    """Return a tree with a digest in place of each long list."""
    if isinstance(tree, dict):
        return {key: shortened(item) for key, item in tree.items()}
    if isinstance(tree, list) and len(tree) > 100:
        return {"sha256": sha256(json.dumps(tree).encode()).hexdigest()}
    return [shortened(item) for item in tree] if isinstance(tree, list) else tree


async def make(path: Path) -> None:
    backend = SQLiteBackend(path)
    await flujo("greeting", backend).run("world", run_id="completed", metadata={"team": "red", "nested": {"n": 1}})
    await flujo("greeting", backend).run("moon", run_id="completed too")
    with suppress(RunFailed):
        await flujo("refusing", backend).run("world", run_id="failed")
    await flujo("asking", backend).run("world", run_id="paused")
    asking = flujo("asking", backend)
    await asking.run("moon", run_id="answered")
    await asking.signal("answered", "approval", True)
    await asking.handle("answered").result()
    await asking.aclose()
    await flujo("writing", backend).run("world", run_id="large")
    await (await flujo("greeting", backend).fork("completed", at=4, new_run_id="fork")).status()
    await flujo("greeting", backend).dispatch("queue", run_id="pending", queue="slow", priority=3)
    await backend.set_system_state("origin", SYSTEM_STATE)
    die_while_counting(path)
    await keep_snapshot(backend, "orphan")
    (path.parent / AS_THEN.name).write_text(json.dumps(await seen(backend), indent=1))
    await backend.shutdown()


def die_while_counting(path: Path) -> None:
    """Leave a run to nobody: its owner is a process that SIGKILL ends."""
    code = f"""
import asyncio
from pathlib import Path
from tests.backends.first_schema import SQLiteBackend, flujo
asyncio.run(flujo("counting", SQLiteBackend(Path({str(path)!r}))).run(8, run_id="orphan"))
"""
    process = subprocess.run([sys.executable, "-c", code], check=False, env={**os.environ, DIES_AT: "5"})
    assert process.returncode == -signal.SIGKILL


async def keep_snapshot(backend: SQLiteBackend, run_id: str) -> None:
    stored = await backend.load(run_id, until=SNAPSHOT_AT)
    assert stored is not None
    assert stored.summary.lease is not None
    await backend.put_snapshot(stored.summary.lease, snapshot_of(fold_log(run_id, stored.records)))


if __name__ == "__main__":
    asyncio.run(make(Path(sys.argv[1]) / DATABASE.name))
