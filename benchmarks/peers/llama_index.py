"""llama-index-workflows with the ``SqliteWorkflowStore`` of llama-agents-server (WAL, ``synchronous=FULL``).

The server's runtime is used without its HTTP half, which has no public name of its own.

Variants: ``default`` opens a connection for each write; ``single connection`` keeps one, and takes no locks;
``memory`` is the workflow without a server.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from llama_agents.server import SqliteWorkflowStore
from llama_agents.server.runtime import _DurableWorkflowRuntime
from workflows import Context, Workflow, step
from workflows.events import Event, StartEvent, StopEvent

from benchmarks.work import work


class Next(Event):
    value: Any
    left: int


class Count(Workflow):
    @step
    async def begin(self, event: StartEvent) -> Next:
        return Next(value=event.value, left=event.steps)

    @step
    async def increment(self, event: Next) -> Next | StopEvent:
        value = work(event.value)
        return Next(value=value, left=event.left - 1) if event.left > 1 else StopEvent(result=value)


class Grow(Workflow):
    @step
    async def begin(self, ctx: Context, event: StartEvent) -> Next:
        await ctx.store.set("text", event.value)
        await ctx.store.set("items", [])
        return Next(value=0, left=event.steps)

    @step
    async def extend(self, ctx: Context, event: Next) -> Next | StopEvent:
        items = await ctx.store.get("items")
        items.append(f"item {len(items) + 1}")
        await ctx.store.set("items", items)
        return Next(value=0, left=event.left - 1) if event.left > 1 else StopEvent(result=len(items))


class System:
    """A workflow whose one step sends itself an event until all steps are done; a start resumes what is unfinished."""

    def __init__(self, directory: Path, variant: str, steps: int, *, grows: bool = False) -> None:
        self._path = str(directory / "llama.db")
        self._variant = variant
        self._steps = steps
        self._workflow = Grow(timeout=None) if grows else Count(timeout=None)
        self._runtime: _DurableWorkflowRuntime | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._runtime is not None:
            await self._runtime.stop()

    async def run(self, run_id: str, value: Any) -> Any:
        if self._variant == "memory":
            return await self._workflow.run(value=value, steps=self._steps)
        runtime = await self._started()
        data = await runtime.run("benchmark", handler_id=run_id, value=value, steps=self._steps)
        return await runtime._active_handlers[data.handler_id]

    async def resume(self, run_id: str) -> None:
        runtime = await self._started()
        await runtime._build_workflow_handler(await runtime._get_handler(run_id))

    async def _started(self) -> _DurableWorkflowRuntime:
        if self._runtime is None:
            store = SqliteWorkflowStore(self._path, single_connection=self._variant == "single connection")
            self._runtime = _DurableWorkflowRuntime(workflow_store=store)
            self._runtime.add_workflow("benchmark", self._workflow)
            await self._runtime.start()
        return self._runtime
