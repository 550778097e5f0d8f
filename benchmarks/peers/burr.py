"""Apache Burr with its ``AsyncSQLitePersister``.

Variants: ``default`` is what the persister does by itself (rollback journal, ``synchronous=FULL``); ``wal full`` and
``wal normal`` set pragmas on the connection that it is given; ``memory`` is without a persister.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import aiosqlite
from burr.core import Application, ApplicationBuilder, State, action, expr
from burr.core.graph import GraphBuilder
from burr.integrations.persisters.b_aiosqlite import AsyncSQLitePersister

from benchmarks.work import work


@action(reads=["value", "done"], writes=["value", "done"])
async def increment(state: State) -> State:
    return state.update(value=work(state["value"]), done=state["done"] + 1)


@action(reads=["done"], writes=["items", "done"])
async def extend(state: State) -> State:
    number = state["done"] + 1
    return state.append(items=f"item {number}").update(done=number)


class System:
    """An application whose one action follows itself until all steps are done."""

    def __init__(self, directory: Path, variant: str, steps: int, *, grows: bool = False) -> None:
        self._path = directory / "burr.db"
        self._variant = variant
        self._steps = steps
        self._name = "extend" if grows else "increment"
        body = {self._name: extend if grows else increment}
        more = (self._name, self._name, expr(f"done < {steps}"))
        self._graph = GraphBuilder().with_actions(**body).with_transitions(more).build()
        self._grows = grows

    async def __aenter__(self) -> Self:
        self._persister = None
        if self._variant != "memory":
            connection = await aiosqlite.connect(self._path)
            if self._variant.startswith("wal"):
                await connection.execute("PRAGMA journal_mode = WAL")
                await connection.execute(f"PRAGMA synchronous = {self._variant.split()[1]}")
            self._persister = AsyncSQLitePersister(connection)
            await self._persister.initialize()
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._persister is not None:
            await self._persister.cleanup()

    async def run(self, run_id: str, value: Any) -> Any:
        start = {"text": value, "items": []} if self._grows else {"value": value}
        builder = self._builder(run_id).with_state(**start, done=0).with_entrypoint(self._name)
        state = await self._until_done(await builder.abuild())
        return len(state["items"]) if self._grows else state["value"]

    async def resume(self, run_id: str) -> None:
        builder = self._builder(run_id).initialize_from(
            self._persister, resume_at_next_action=True, default_state={}, default_entrypoint=self._name
        )
        await self._until_done(await builder.abuild())

    def _builder(self, run_id: str) -> ApplicationBuilder[Any]:
        builder = ApplicationBuilder().with_graph(self._graph).with_identifiers(app_id=run_id, partition_key="")
        return builder if self._persister is None else builder.with_state_persister(self._persister)

    async def _until_done(self, application: Application[Any]) -> State:
        *_, state = await application.arun(halt_after=[])
        return state
