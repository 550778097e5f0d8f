"""What SQLite answers by queries of its own is what is derived from the verbs, and no query walks where it need not."""

from __future__ import annotations

import asyncio
import random
import re
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flujo_async import Flujo, SQLiteBackend, StateBackend, step
from flujo_async._model.entry import EntryQuery
from flujo_async._model.state import RUN_STATUSES
from flujo_async._model.stored import RunQuery
from flujo_async.abc.known_runs import KnownRunQuery
from flujo_async.backends import sqlite as verbs
from flujo_async.backends import sqlite_lists as lists
from flujo_async.backends.sql import queries
from flujo_async.backends.sqlite_statistics import spans_to_keep
from flujo_async.errors import InvalidArgument, RunFailed
from flujo_async.testing import FaultyBackend, VirtualClock
from flujo_async.testing.samples import new_run
from tests.backends.first_schema import DATABASE
from tests.backends.test_first_schema import THEN

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
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
async def backend(path: Path, clock: VirtualClock) -> AsyncIterator[SQLiteBackend]:
    backend = SQLiteBackend(path)
    backend.clock = clock
    yield backend
    await backend.shutdown()


async def populate(backend: SQLiteBackend, clock: VirtualClock, chance: random.Random) -> None:
    """Let there be runs that a runtime has driven, that callers have saved, and that both have."""
    flujo = Flujo(work >> more, pipeline_name="driven", state_backend=backend, clock=backend.clock)
    other = Flujo(work, pipeline_name="both", state_backend=backend, clock=backend.clock)
    for number in range(chance.randrange(5, 25)):
        run_id = f"run {number}"
        known = await backend.query_runs(RunQuery(run_id=run_id))
        if known and chance.random() < 0.5:
            await go_on({"driven": flujo, "both": other}[known[0].pipeline_name], run_id)
        elif chance.random() < 0.6:
            await backend.delete_run(run_id)
            await drive(chance.choice([flujo, other]), run_id, chance)
        if chance.random() < 0.6:
            await save(backend, run_id, chance)
        if chance.random() < 0.5:
            clock.advance(chance.choice([0.000001, 1, 3600, 40_000]))
    for number in range(0, 25, 7):
        await backend.delete_run(f"run {number}")
    await flujo.aclose()
    await other.aclose()


async def go_on(flujo: Flujo[Any, Any], run_id: str) -> None:
    is_pending = await flujo.handle(run_id).status() == "pending"
    with suppress(RunFailed, InvalidArgument):  # once more, or a completed run is not to be redriven
        await (flujo.resume(run_id) if is_pending else flujo.redrive(run_id))


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
                    run_id, [{**span, "span_id": span_id, "end_time": ends} for span_id in {"s1", *own}]
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
async def test_lists_are_as_they_are_derived(backend: SQLiteBackend, clock: VirtualClock, seed: int) -> None:
    chance = random.Random(seed)
    await populate(backend, clock, chance)
    for name, arguments in questions(chance):
        own = await getattr(backend, name)(*arguments)
        assert own == await derived(backend, name, *arguments), (name, arguments)
    assert backend.get_workflow_stats_sync() == await derived(backend, "get_workflow_stats")


@pytest.mark.parametrize("seed", range(6))
async def test_spans_are_counted_as_it_is_derived(backend: SQLiteBackend, clock: VirtualClock, seed: int) -> None:
    chance = random.Random(100 + seed)
    for _ in range(3):  # what was worked out before is used, brought up to date, and gone with its run
        await populate(backend, clock, chance)
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
        backend.clock = clock = VirtualClock()
        await populate(backend, clock, random.Random(200 + seed))
        if is_derived:
            count = await deriving(backend).cleanup_old_workflows(20)
        else:
            count = await backend.cleanup_old_workflows(20)
        left.append((count, [run["run_id"] for run in await backend.list_workflows()]))
        await backend.shutdown()
    assert left[0] == left[1]


async def test_statistics_wait_for_no_writer(backend: SQLiteBackend, path: Path) -> None:
    await backend.create_run(new_run())
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE runs SET status = 'failed'")
        assert backend.get_workflow_stats_sync()["status_counts"] == {"running": 1}
        assert (await backend.get_workflow_stats())["status_counts"] == {"running": 1}
        writer.execute("COMMIT")
    assert backend.get_workflow_stats_sync()["status_counts"] == {"failed": 1}


async def test_spans_of_a_deleted_run_do_not_take_the_place_of_its_successors(
    backend: SQLiteBackend, clock: VirtualClock, path: Path
) -> None:
    """The key of the last run is given to the next one, whose spans somebody else may have kept meanwhile."""
    runner = Flujo(work, state_backend=backend, clock=clock)
    await runner.run("good", run_id="first")
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as db:
        [late] = await asyncio.to_thread(spans_to_keep, db, None, None, 0)
        db.execute("COMMIT")
        await backend.delete_run("first")
        await runner.run("good", run_id="second")
        before = await backend.get_span_statistics()
        await asyncio.to_thread(late, db)
    assert before["total_spans"] == 2
    assert await backend.get_span_statistics() == before


async def test_statistics_of_nothing_create_nothing(backend: SQLiteBackend, path: Path) -> None:
    assert backend.get_workflow_stats_sync()["total_workflows"] == 0
    assert (await backend.get_span_statistics())["total_spans"] == 0
    assert await backend.cleanup_old_workflows(0) == 0
    assert not is_there(path)


def test_statistics_upgrade_an_old_database(path: Path) -> None:
    shutil.copy(DATABASE, path)
    assert SQLiteBackend(path).get_workflow_stats_sync()["total_workflows"] == len(THEN)


def is_there(path: Path) -> bool:
    return path.exists()


def rounded(statistics: dict[str, Any]) -> dict[str, Any]:
    averages = statistics["avg_duration_by_name"]
    of_names = {name: {key: round(number, 4) for key, number in told.items()} for name, told in averages.items()}
    return {**statistics, "avg_duration_by_name": of_names}


def deriving(inner: SQLiteBackend) -> StateBackend:
    """Return a store whose verbs are those of another, and whose answers are derived from them."""
    store = FaultyBackend(inner)
    store.clock = inner.clock
    return store


async def derived(backend: SQLiteBackend, name: str, *arguments: Any) -> Any:
    return await getattr(deriving(backend), name)(*arguments)


# --------------------------------------------------------------------------------------------------------------- plans

ANY_MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
QUERIES: dict[str, tuple[str, dict[str, Any]]] = {
    "list_workflows": lists.known_runs(KnownRunQuery(limit=50)),
    "list_workflows of a status": lists.known_runs(KnownRunQuery(status="failed", limit=50)),
    "list_workflows of a pipeline_id": lists.known_runs(KnownRunQuery(pipeline_id="p", limit=50)),
    "list_runs of a pipeline": lists.known_runs(KnownRunQuery(pipeline_name="p", limit=50)),
    "list_runs by metadata": lists.known_runs(KnownRunQuery(metadata={"a": 1}, limit=50)),
    "get_failed_workflows": lists.known_runs(KnownRunQuery(status="failed", since=ANY_MOMENT, order="updated_at")),
    "list_background_tasks": lists.known_runs(KnownRunQuery(is_background=True, order="updated_at", limit=50)),
    "get_failed_background_tasks": lists.known_runs(
        KnownRunQuery(status="failed", is_background=True, since=ANY_MOMENT, order="updated_at")
    ),
    "cleanup_old_workflows": lists.ended_runs(ANY_MOMENT),
    "get_workflow_stats": (SQL["count_runs"], {"since": 0}),
    "get_span_statistics": (SQL["count_spans"], {"first": 0, "last": 1}),
    "get_span_statistics of a pipeline": (
        SQL["count_spans_of_pipeline"],
        {"first": 0, "last": 1, "pipeline_name": "p"},
    ),
    "what get_span_statistics brings up to date": (
        SQL["runs_without_spans"],
        {"after": 0, "limit": 1, "since": 0, "pipeline_name": None},
    ),
    "the children of a run": verbs.runs_query(RunQuery(parent_run_ids=frozenset("p"), status="failed", limit=100)),
    "the children of several runs": verbs.runs_query(
        RunQuery(parent_run_ids=frozenset("pq"), status="failed", limit=100)
    ),
    "the next of every run": verbs.runs_query(RunQuery(status="failed", limit=100), ["run", "", "", "", 0]),
    "list_evaluations": verbs.entries_query(EntryQuery(kind="evaluation", limit=20)),
    "list_evaluations of a run": verbs.entries_query(EntryQuery(kind="evaluation", run_id="r", limit=20)),
}
COUNTS = {"get_workflow_stats", "get_span_statistics", "get_span_statistics of a pipeline"}
OF_FEW = {"list_evaluations of a run", "the children of several runs"}
"""These sort what there is of one run, or of some."""


LEASED = "USING INDEX runs_leased"
"""Few runs are leased: these are sorted."""

LAST_FACT = re.compile(r"CORRELATED SCALAR SUBQUERY \d+|SEARCH facts USING INDEX facts_of_log \(log=\?\)")
"""What is asked of each leased run besides, and of no other."""


@pytest.fixture
async def plan(backend: SQLiteBackend, path: Path) -> Callable[[str], list[str]]:
    await backend.set_system_state("key", {})

    def explain(name: str) -> list[str]:
        sql, values = QUERIES[name]
        with closing(sqlite3.connect(path)) as db:
            for function in ("json_contains", "json_contains_value", "plain_contains"):
                db.create_function(function, 2, lambda whole, part: whole == part, deterministic=True)
            return [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", values)]

    return explain


def walks(steps: list[str]) -> list[str]:
    """Return what walks through all there is, the page of a list left aside."""
    return [step for step in steps if step.startswith("SCAN") and step not in ("SCAN page", "SCAN CONSTANT ROW")]


@pytest.mark.parametrize("name", QUERIES)
async def test_no_query_walks_through_a_table(plan: Callable[[str], list[str]], name: str) -> None:
    steps = plan(name)
    assert [step for step in walks(steps) if " INDEX " not in step] == [], steps
    assert not any("AUTOMATIC" in step for step in steps), steps


@pytest.mark.parametrize("name", sorted(QUERIES.keys() - COUNTS - OF_FEW))
async def test_lists_come_in_the_order_of_an_index(plan: Callable[[str], list[str]], name: str) -> None:
    steps = [step for step in plan(name) if not LAST_FACT.fullmatch(step)]
    sorts = [
        step for step, before in zip(steps[1:], steps, strict=False) if "TEMP B-TREE" in step and LEASED not in before
    ]
    assert sorts == [], steps
    if "page" in " ".join(steps):
        assert "MERGE (UNION ALL)" in steps


@pytest.mark.parametrize("name", sorted(COUNTS))
async def test_what_is_counted_is_in_the_index(plan: Callable[[str], list[str]], name: str) -> None:
    steps = plan(name)
    assert all("COVERING INDEX" in step for step in walks(steps)), steps


@pytest.mark.parametrize("name", ["the children of a run", "the children of several runs"])
async def test_children_are_found_by_their_parents(plan: Callable[[str], list[str]], name: str) -> None:
    assert plan(name)[0] == "SEARCH runs USING INDEX runs_parent (parent_run_id=?)"
