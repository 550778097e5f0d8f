"""pydantic-graph 1.x with ``FileStatePersistence``: a JSON file a run, rewritten, without any fsync.

Variants: ``file``, ``memory`` (``SimpleStatePersistence``, which is its default).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pydantic_graph import BaseNode, End, Graph, GraphRunContext
from pydantic_graph.persistence.file import FileStatePersistence
from pydantic_graph.persistence.in_mem import SimpleStatePersistence

from benchmarks.work import work


@dataclass
class Counted:
    value: Any
    steps: int
    done: int = 0


@dataclass
class Grown:
    text: str
    steps: int
    items: list[str] = field(default_factory=list)


@dataclass
class Increment(BaseNode[Counted, None, Any]):
    async def run(self, ctx: GraphRunContext[Counted]) -> Increment | End[Any]:
        ctx.state.value = work(ctx.state.value)
        ctx.state.done += 1
        return Increment() if ctx.state.done < ctx.state.steps else End(ctx.state.value)


@dataclass
class Extend(BaseNode[Grown, None, int]):
    async def run(self, ctx: GraphRunContext[Grown]) -> Extend | End[int]:
        ctx.state.items.append(f"item {len(ctx.state.items) + 1}")
        return Extend() if len(ctx.state.items) < ctx.state.steps else End(len(ctx.state.items))


class System:
    """A graph whose one node follows itself until all steps are done."""

    def __init__(self, directory: Path, variant: str, steps: int, *, grows: bool = False) -> None:
        self._directory = directory
        self._variant = variant
        self._steps = steps
        self._grows = grows
        self._graph: Any = Graph(nodes=[Extend if grows else Increment])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        pass

    async def run(self, run_id: str, value: Any) -> Any:
        state = Grown(value, self._steps) if self._grows else Counted(value, self._steps)
        node = Extend() if self._grows else Increment()
        return (await self._graph.run(node, state=state, persistence=self._persistence(run_id))).output

    async def resume(self, run_id: str) -> None:
        persistence = self._persistence(run_id)
        persistence.set_graph_types(self._graph)
        # The node that was at work is recorded as running, and such a one is never taken up: the record is mended.
        snapshots = await persistence.load_all()
        snapshots[-1].status = "created"
        await asyncio.to_thread(persistence._save_sync, snapshots)
        async with self._graph.iter_from_persistence(persistence) as run:
            async for _ in run:
                pass

    def _persistence(self, run_id: str) -> Any:
        if self._variant == "memory":
            return SimpleStatePersistence()
        return FileStatePersistence(self._directory / f"{run_id}.json")
