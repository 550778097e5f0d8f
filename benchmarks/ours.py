"""flujo_async, through its public names."""

from __future__ import annotations

import functools
import operator
from pathlib import Path
from typing import Annotated, Any, Self

from benchmarks.work import work
from flujo_async import (
    Depends,
    Flujo,
    InMemoryBackend,
    RunContext,
    SQLiteBackend,
    StateBackend,
    StepContext,
    graph,
    step,
    workflow,
)


@step
async def increment(value: Any) -> Any:
    return work(value)


@step
async def extend(number: int, ctx: StepContext) -> int:
    ctx.state["items"].append(f"item {number}")
    return number + 1


def pipeline(steps: int, body: Any = increment) -> Any:
    """Return a pipeline of ``steps`` steps."""
    return functools.reduce(operator.rshift, [body] * steps)


def coroutine(steps: int, body: Any = increment) -> Any:
    """Return a workflow that calls ``steps`` steps."""

    @workflow(name="coroutine", version="1")
    async def calls(value: Any, ctx: RunContext) -> Any:
        for _ in range(steps):
            value = await body(value)
        return value

    return calls


def chain_of_nodes(steps: int) -> Any:
    """Return a graph of ``steps`` nodes, each of which depends on the one before."""
    nodes: list[Any] = []
    for number in range(steps):

        async def node(value: Any) -> Any:
            return work(value)

        if nodes:
            node.__annotations__["value"] = Annotated[Any, Depends(nodes[-1])]
        nodes.append(step(name=f"node{number}")(node))
    return graph(*nodes)


class System:
    """Variants: ``pipeline``, ``workflow`` or ``graph``, then ``full``, ``normal`` or ``memory``."""

    def __init__(self, directory: Path, variant: str, steps: int, *, grows: bool = False) -> None:
        self._kind, store = variant.split()
        self._grows = grows
        self._steps = steps
        self._backend = backend(directory, store)

    async def __aenter__(self) -> Self:
        self._flujo = Flujo(self._definition(), state_backend=self._backend)
        await self._backend.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._flujo.aclose()
        await self._backend.__aexit__(None, None, None)

    async def run(self, run_id: str, value: Any) -> Any:
        if self._grows:
            result = await self._flujo.run(1, run_id=run_id, context={"text": value, "items": []})
            return len(result.context["items"])
        taken = {"value": value} if self._kind == "graph" else value
        return (await self._flujo.run(taken, run_id=run_id)).output

    async def resume(self, run_id: str) -> None:
        await self._flujo.resume(run_id)

    def _definition(self) -> Any:
        body = extend if self._grows else increment
        match self._kind:
            case "pipeline":
                return pipeline(self._steps, body)
            case "workflow":
                return coroutine(self._steps, body)
            case _:
                return chain_of_nodes(self._steps)


def backend(directory: Path, store: str) -> StateBackend:
    """Return a store: ``memory``, or SQLite with ``synchronous`` ``full`` or ``normal``."""
    if store == "memory":
        return InMemoryBackend()
    return SQLiteBackend(directory / "ours.db", synchronous="full" if store == "full" else "normal")
