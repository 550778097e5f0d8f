"""What SQLite answers by queries of its own is what is derived from the verbs, and no query walks where it need not."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from flujo_async import Flujo, SQLiteBackend, StateBackend, step
from flujo_async._model.state import RUN_STATUSES
from flujo_async.abc.state_api import StateApi
from flujo_async.backends import sqlite_lists as lists
from flujo_async.backends.sql import queries
from flujo_async.errors import FlujoError, RunFailed
from flujo_async.testing import VirtualClock

STATUSES = [None, *sorted(RUN_STATUSES)]
SQL = queries("sqlite.sql")


@step
async def work(name: str) -> str:
    if name == "bad":
        raise ValueError(name)
    return name


@step
async def more(name: str) -> str:
    return f"{name} more"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture
async def backend(path: Path) -> AsyncIterator[SQLiteBackend]:
    backend = SQLiteBackend(path)
    backend.clock = VirtualClock()
    yield backend
    await backend.shutdown()


async def populate(backend: SQLiteBackend, chance: random.Random) -> None:
    """Let there be runs that a runtime has driven, that callers have saved, and that both have."""
    flujo = Flujo(work >> more, pipeline_name="driven", state_backend=backend, clock=backend.clock)
    other = Flujo(work, pipeline_name="both", state_backend=backend, clock=backend.clock)
    for number in range(chance.randrange(5, 25)):
        run_id = f"run {number}"
        if chance.random() < 0.6:
            await drive(chance.choice([flujo, other]), run_id, chance)
        if chance.random() < 0.6:
            await save(backend, run_id, chance)
        if chance.random() < 0.5:
            backend.clock.advance(chance.choice([0.000001, 1, 3600, 40_000]))
    for number in range(0, 25, 7):
        await backend.delete_run(f"run {number}")
    await flujo.aclose()
    await other.aclose()


async def drive(flujo: Flujo[Any, Any], run_id: str, chance: random.Random) -> None:
    metadata = chance.choice([{}, {"team": "red"}, {"team": "blue", "nested": {"n": [1, 2]}}])
    what = chance.choice(["run", "run", "bad", "dispatch", "dispatch later"])
    if what.startswith("dispatch"):
        delay = 10 if what.endswith("later") else None
        await flujo.dispatch("good", run_id=run_id, metadata=metadata, delay=delay)
    else:
        try:
            await flujo.run("bad" if what == "bad" else "good", run_id=run_id, metadata=metadata)
        except RunFailed:
            assert what == "bad"


async def save(backend: SQLiteBackend, run_id: str, chance: random.Random) -> None:
    told: dict[str, Any] = {
        "status": chance.choice(STATUSES[1:]),
        "pipeline_name": chance.choice(["both", "saved", None]),
        "pipeline_id": chance.choice(["p1", "p2", None]),
        "is_background_task": chance.choice([True, False, None]),
        "parent_run_id": chance.choice(["run 1", "run 2", None, None]),
        "metadata": chance.choice([{}, {"team": "red"}, {"at": timedelta(1), "team": "blue", "nested": {"n": [1, 2]}}]),
        "execution_time_ms": chance.choice([None, 1, 2.5]),
        "created_at": chance.choice([None, backend.clock.now() - timedelta(days=chance.randrange(60))]),
    }
    for what in chance.sample(["state", "start", "end", "spans", "again"], chance.randrange(1, 5)):
        match what:
            case "state" | "again":
                await backend.save_state(run_id, told)
            case "start":
                await backend.save_run_start({"run_id": run_id, **told})
            case "end":
                await backend.save_run_end(run_id, told)
            case _:
                span = {"name": "by hand", "start_time": backend.clock.now().timestamp() - 5, "status": "odd"}
                ends = chance.choice([None, backend.clock.now().timestamp()])
                own = [item["span_id"] for item in await backend.get_spans(run_id)][:1]
                await backend.save_spans(
                    run_id, [{**span, "span_id": span_id, "end_time": ends} for span_id in ["s1", *own]]
                )


def questions(chance: random.Random) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield what to ask of both."""
    pages = [(None, 0), (3, 0), (2, 2), (None, 4), (0, 0)]
    yield from (("list_states", (status,)) for status in STATUSES)
    yield from (
        ("list_workflows", (status, pipeline, *chance.choice(pages)))
        for status in STATUSES
        for pipeline in (None, "p1", "unknown")
    )
    filters: list[dict[str, Any] | None] = [None, {}, {"team": "red"}, {"nested": {"n": [1, 2]}}, {"none": 1}]
    yield from (
        ("list_runs", (chance.choice(STATUSES), name, *chance.choice(pages), metadata))
        for metadata in filters
        for name in (None, "both", "driven", "saved", "unknown")
    )
    parents = (None, "run 1")
    yield from (
        ("list_background_tasks", (parent, status, *chance.choice(pages))) for parent in parents for status in STATUSES
    )
    yield from (("get_failed_background_tasks", (parent, hours)) for parent in parents for hours in (0, 1, 24, 10**6))
    yield from (("get_failed_workflows", (hours,)) for hours in (0, 1, 24, 10**6))
    yield "get_workflow_stats", ()


@pytest.mark.parametrize("seed", range(12))
async def test_lists_are_as_they_are_derived(backend: SQLiteBackend, seed: int) -> None:
    chance = random.Random(seed)
    await populate(backend, chance)
    for name, arguments in questions(chance):
        own = await getattr(backend, name)(*arguments)
        assert own == await derived(backend, name, *arguments), (name, arguments)
    assert backend.get_workflow_stats_sync() == await derived(backend, "get_workflow_stats")


@pytest.mark.parametrize("seed", range(6))
async def test_statistics_of_spans_are_as_they_are_derived(backend: SQLiteBackend, seed: int) -> None:
    chance = random.Random(100 + seed)
    for _ in range(3):  # what was worked out before is used, brought up to date, and gone with its run
        await populate(backend, chance)
        now = backend.clock.now().timestamp()
        for name in (None, "driven", "both", "saved", "nobody"):
            for time_range in (None, (now - 7200, now), (0.0, now - 1)):
                own = await backend.get_span_statistics(name, time_range)
                assert rounded(own) == rounded(await derived(backend, "get_span_statistics", name, time_range))


@pytest.mark.parametrize("seed", range(6))
async def test_the_same_is_cleaned_up(path: Path, seed: int) -> None:
    left = []
    for number, is_derived in enumerate((False, True)):
        backend = SQLiteBackend(path.with_name(f"{number}.db"))
        backend.clock = VirtualClock()
        await populate(backend, random.Random(200 + seed))
        if is_derived:
            count = await StateApi.cleanup_old_workflows(Derived(backend), 20)
        else:
            count = await backend.cleanup_old_workflows(20)
        left.append((count, [run["run_id"] for run in await backend.list_workflows()]))
        await backend.shutdown()
    assert left[0] == left[1]


def rounded(statistics: dict[str, Any]) -> dict[str, Any]:
    averages = statistics["avg_duration_by_name"]
    of_names = {name: {key: round(number, 4) for key, number in told.items()} for name, told in averages.items()}
    return {**statistics, "avg_duration_by_name": of_names}


class Derived(StateApi):
    """A store whose verbs are another's, and whose answers are derived from them."""

    def __init__(self, inner: StateBackend) -> None:
        self.clock = inner.clock
        for verb in ("load", "append", "claim", "release", "query_runs", "read_blobs", "delete_run", "put_entries"):
            setattr(self, verb, getattr(inner, verb))
        self.read_entries = inner.read_entries  # type: ignore[method-assign]


async def derived(backend: StateBackend, name: str, *arguments: Any) -> Any:
    return await getattr(Derived(backend), name)(*arguments)
