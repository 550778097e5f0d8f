"""LangGraph with ``AsyncSqliteSaver``, which sets WAL itself, and ``durability="sync"``.

Variants: ``full``, ``normal`` (``synchronous``), ``memory`` (without a checkpointer).
"""

from __future__ import annotations

from operator import add
from pathlib import Path
from typing import Annotated, Any, Self, TypedDict

from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph

from benchmarks.work import work


class Counted(TypedDict):
    value: Any
    done: int


class Grown(TypedDict):
    text: str
    items: Annotated[list[str], add]
    done: int


async def increment(state: Counted) -> dict[str, Any]:
    return {"value": work(state["value"]), "done": state["done"] + 1}


async def extend(state: Grown) -> dict[str, Any]:
    number = state["done"] + 1
    return {"items": [f"item {number}"], "done": number}


class System:
    """A graph whose one node follows itself until all steps are done."""

    def __init__(self, directory: Path, variant: str, steps: int, *, grows: bool = False) -> None:
        self._path = directory / "langgraph.db"
        self._variant = variant
        self._steps = steps
        self._grows = grows

    async def __aenter__(self) -> Self:
        saver = None
        if self._variant != "memory":
            self._opened = AsyncSqliteSaver.from_conn_string(str(self._path))
            saver = await self._opened.__aenter__()
            await saver.setup()
            await saver.conn.execute(f"PRAGMA synchronous = {self._variant}")
        self._graph = self._compiled(saver)
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._variant != "memory":
            await self._opened.__aexit__(None, None, None)

    async def run(self, run_id: str, value: Any) -> Any:
        start = {"text": value, "items": []} if self._grows else {"value": value}
        state = await self._invoke(run_id, {**start, "done": 0})
        return len(state["items"]) if self._grows else state["value"]

    async def resume(self, run_id: str) -> None:
        await self._invoke(run_id, None)

    async def _invoke(self, run_id: str, state: dict[str, Any] | None) -> Any:
        config = {"configurable": {"thread_id": run_id}, "recursion_limit": self._steps + 10}
        how = {} if self._variant == "memory" else {"durability": "sync"}
        return await self._graph.ainvoke(state, config, **how)

    def _compiled(self, saver: AsyncSqliteSaver | None) -> Any:
        graph = StateGraph(Grown if self._grows else Counted)
        graph.add_node("step", extend if self._grows else increment)
        graph.add_edge(START, "step")
        graph.add_conditional_edges("step", lambda state: "step" if state["done"] < self._steps else END)
        return graph.compile(checkpointer=saver)
