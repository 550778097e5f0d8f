"""DBOS Transact on SQLite.

Variants: ``default`` is what a ``sqlite:///`` URL gives (rollback journal, ``synchronous=FULL``); ``wal full`` and
``wal normal`` set the pragmas on the connections of the engine that it makes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import sqlalchemy
from dbos import DBOS, DBOSConfig, SetWorkflowID

from benchmarks.work import work


@DBOS.step()
async def increment(value: Any) -> Any:
    return work(value)


@DBOS.step()
async def extend(number: int) -> str:
    return f"item {number}"


@DBOS.workflow()
async def count(value: Any, steps: int) -> Any:
    for _ in range(steps):
        value = await increment(value)
    return value


@DBOS.workflow()
async def grow(text: str, steps: int) -> int:
    context: dict[str, Any] = {"text": text, "items": []}
    for number in range(steps):
        context["items"].append(await extend(number + 1))
    return len(context["items"])


class System:
    """A workflow that calls its one step as often as asked. A launch takes up the runs of a process that is gone."""

    def __init__(self, directory: Path, variant: str, steps: int, *, grows: bool = False) -> None:
        self._workflow = grow if grows else count
        self._steps = steps
        url = f"sqlite:///{directory / 'dbos.db'}"
        config: DBOSConfig = {
            "name": "benchmark",
            "system_database_url": url,
            "log_level": "ERROR",
            "run_admin_server": False,
            "application_version": "1",
        }
        if variant != "default":
            config["system_database_engine"] = _engine(url, variant.split()[1])
        self._is_launched = False
        DBOS(config=config)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        DBOS.destroy()

    async def run(self, run_id: str, value: Any) -> Any:
        self._launch()
        with SetWorkflowID(run_id):
            handle = await DBOS.start_workflow_async(self._workflow, value, self._steps)
        return await handle.get_result(polling_interval_sec=0.01)

    async def resume(self, run_id: str) -> None:
        self._launch()
        handle: Any = await DBOS.retrieve_workflow_async(run_id)
        await handle.get_result(polling_interval_sec=0.01)

    def _launch(self) -> None:
        if not self._is_launched:
            DBOS.launch()
            self._is_launched = True


def _engine(url: str, synchronous: str) -> sqlalchemy.Engine:
    engine = sqlalchemy.create_engine(url)

    @sqlalchemy.event.listens_for(engine, "connect")
    def connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = "IMMEDIATE"
        connection.execute("PRAGMA busy_timeout = 30000")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")

    return engine
