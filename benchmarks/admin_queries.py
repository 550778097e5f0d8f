"""What the lists, statistics and clean-ups of the state API cost in a large SQLite store: plan and time of each.

    python -m benchmarks.admin_queries [RUNS] [--plans]

The store is made of a few real runs of five steps, whose rows are multiplied.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flujo_async import Flujo, SQLiteBackend, step
from flujo_async._model.entry import EntryQuery
from flujo_async.abc.known_runs import KnownRunQuery
from flujo_async.backends import sqlite_lists as lists
from flujo_async.backends.sql import queries
from flujo_async.backends.sqlite import entries_query
from flujo_async.errors import RunFailed

SQL = queries("sqlite.sql")
STEPS = 5
PIPELINES = 10
DAYS = 90
FAILED_EVERY = 20


@step(name="one")
async def one(number: int) -> int:
    return number + 1


@step(name="last")
async def last(number: int) -> int:
    if number < 0:
        raise ValueError("below zero")
    return number


async def seed(path: Path) -> None:
    """Let there be a run of each kind and definition."""
    async with SQLiteBackend(path) as backend:
        for number in range(PIPELINES):
            chain = one >> one >> one >> one >> last
            flujo = Flujo(chain, pipeline_name=f"pipeline {number}", state_backend=backend)
            await flujo.run(1, run_id=f"good {number}", metadata={"team": number})
            try:
                await flujo.run(-STEPS * 2, run_id=f"bad {number}", metadata={"team": number})
            except RunFailed:
                continue


def multiply(path: Path, count: int) -> None:
    """Let there be ``count`` runs more, created over some months: every twentieth has failed, half are background."""
    with closing(sqlite3.connect(path)) as db, db:
        names: list[str] = [row[1] for row in db.execute("PRAGMA table_xinfo(runs)") if not row[6]]
        numbers = f"WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers LIMIT {count})"
        base = "1000 + n"
        later = f"(n * {DAYS * 86_400_000_000 // count}) - {DAYS * 86_400_000_000}"
        changed = {
            "id": base,
            "run_id": "'run ' || n",
            "created_at": f"created_at + {later}",
            "updated_at": f"updated_at + {later}",
            "is_background": "n % 2",
        }
        original = f"(CASE WHEN n % {FAILED_EVERY} THEN 'good ' ELSE 'bad ' END) || (n / {FAILED_EVERY} % {PIPELINES})"
        of_copy = ", ".join(changed.get(name, f'"{name}"') for name in names)
        columns = ", ".join(f'"{name}"' for name in names)
        db.execute(f"{numbers} INSERT INTO logs (id) SELECT {base} FROM numbers")
        copied = f"SELECT {of_copy} FROM numbers CROSS JOIN runs ON run_id = {original}"
        db.execute(f"{numbers} INSERT INTO runs ({columns}) {copied}")
        db.execute(
            f"{numbers} INSERT INTO facts (log, seq, body, hash) SELECT {base}, seq, body, hash "
            f"FROM numbers CROSS JOIN runs ON run_id = {original} CROSS JOIN facts ON facts.log = runs.id"
        )


def asked(backend: SQLiteBackend, count: int) -> dict[str, Callable[[], Awaitable[Any]]]:
    """Return what is timed."""
    month = (time.time() - 30 * 86_400, time.time())
    return {
        "list_workflows(limit=50)": lambda: backend.list_workflows(limit=50),
        f"list_workflows(limit=50, offset={count // 2:,})": lambda: backend.list_workflows(limit=50, offset=count // 2),
        'list_workflows("failed", limit=50)': lambda: backend.list_workflows("failed", limit=50),
        'list_runs(pipeline_name="pipeline 3", limit=50)': lambda: backend.list_runs(
            pipeline_name="pipeline 3", limit=50
        ),
        'list_runs(metadata_filter={"team": 3}, limit=50)': lambda: backend.list_runs(
            metadata_filter={"team": 3}, limit=50
        ),
        "list_runs(metadata_filter=…), none found": lambda: backend.list_runs(metadata_filter={"team": "x"}, limit=50),
        "get_failed_workflows(24)": lambda: backend.get_failed_workflows(24),
        "list_background_tasks(limit=50)": lambda: backend.list_background_tasks(limit=50),
        "get_failed_background_tasks()": lambda: backend.get_failed_background_tasks(),
        "get_workflow_stats()": backend.get_workflow_stats,
        "get_workflow_stats_sync()": lambda: asyncio.to_thread(backend.get_workflow_stats_sync),
        "get_span_statistics(), the first time": backend.get_span_statistics,
        "get_span_statistics()": backend.get_span_statistics,
        "get_span_statistics(time_range=a month)": lambda: backend.get_span_statistics(time_range=month),
        'get_span_statistics("pipeline 3")': lambda: backend.get_span_statistics("pipeline 3"),
        "list_evaluations()": lambda: backend.list_evaluations(),
        "cleanup_stale_background_tasks()": lambda: backend.cleanup_stale_background_tasks(),
        "cleanup_old_workflows(89), which deletes": lambda: backend.cleanup_old_workflows(89),
        "cleanup_old_workflows(89), nothing left": lambda: backend.cleanup_old_workflows(89),
    }


async def measure(path: Path, count: int) -> None:
    async with SQLiteBackend(path) as backend:
        await backend.list_workflows(limit=1)
        print(f"| {count:,} runs of {STEPS} steps | milliseconds |\n|---|---:|")
        for name, ask in asked(backend, count).items():
            began = time.perf_counter()
            await ask()
            print(f"| `{name}` | {(time.perf_counter() - began) * 1000:,.1f} |", flush=True)


def explain(path: Path) -> None:
    """Print how SQLite answers each."""
    moment = datetime.now(UTC) - timedelta(days=1)
    plans = {
        "list_workflows": lists.known_runs(KnownRunQuery(limit=50)),
        "list_workflows, a status": lists.known_runs(KnownRunQuery(status="failed", limit=50)),
        "list_runs, a pipeline": lists.known_runs(KnownRunQuery(pipeline_name="p", limit=50)),
        "get_failed_workflows": lists.known_runs(KnownRunQuery(status="failed", since=moment, order="updated_at")),
        "list_background_tasks": lists.known_runs(KnownRunQuery(is_background=True, order="updated_at", limit=50)),
        "cleanup_old_workflows": lists.ended_runs(moment),
        "get_workflow_stats": (SQL["count_runs"], {"since": 0}),
        "get_span_statistics": (SQL["count_spans"], {"first": 0, "last": 1}),
        "get_span_statistics, a pipeline": (
            SQL["count_spans_of_pipeline"],
            {"first": 0, "last": 1, "pipeline_name": "p"},
        ),
        "list_evaluations": entries_query(EntryQuery(kind="evaluation", limit=20)),
    }
    with closing(sqlite3.connect(path)) as db:
        for name, (sql, values) in plans.items():
            print(f"\n{name}")
            depths = {0: 0}
            for step_id, parent, _, text in db.execute(f"EXPLAIN QUERY PLAN {sql}", values):
                depths[step_id] = depths[parent] + 1
                print("  " * depths[step_id] + text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="?", type=int, default=100_000)
    parser.add_argument("--plans", action="store_true", help="print the plans as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "runs.db")
        asyncio.run(seed(path))
        multiply(path, options.runs)
        if options.plans:
            explain(path)
        asyncio.run(measure(path, options.runs))


if __name__ == "__main__":
    main()
