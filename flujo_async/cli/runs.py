"""``flujo-async runs``: what a store knows about its runs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer

from flujo_async._model.state import RunStatus
from flujo_async._model.stored import RunQuery
from flujo_async._model.summary import RunSummary
from flujo_async.abc.backend import StateBackend
from flujo_async.cli.run_page import print_run, run_as_json, standing, summary_as_json, version
from flujo_async.cli.screen import ago, columns, plain, print_json, put, say
from flujo_async.cli.store import DEFAULT_DB, Db, Found, find_run, store_at

app: typer.Typer = typer.Typer(help="Look at runs.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_runs(
    db: Db = DEFAULT_DB,
    status: Annotated[RunStatus | None, typer.Option(help="Only runs in this status.")] = None,
    pipeline: Annotated[str | None, typer.Option(metavar="NAME", help="Only runs of this pipeline.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    json: Json = False,
) -> None:
    """List runs, the newest first.

    "Steps" counts the top-level steps that are done: a map or a parallel is one. A running run that nobody drives
    is shown as interrupted; running it again with its id takes it up.
    """
    store = store_at(db)
    store.check_exists()
    found = asyncio.run(_find_runs(store.open(), RunQuery(status=status, pipeline_name=pipeline, limit=limit + 1)))
    if json:
        print_json([summary_as_json(summary) for summary in found[:limit]])
        return
    if not found:
        say(f"there are no such runs in {store.name}" if status or pipeline else f"there are no runs in {store.name}")
        return
    _print_list(found[:limit])
    if len(found) > limit:
        say(f"there are more than {limit:,}; --limit shows them")


@app.command("show")
def show_run(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help="The run to show.")],
    db: Db = DEFAULT_DB,
    everything: Annotated[bool, typer.Option("--all", help="Show every step, and values at full length.")] = False,
    json: Json = False,
) -> None:
    """Show one run: where it stands, its context, its steps, what it waits for or why it failed.

    Of many steps it shows the last ones and those that failed. JSON has all of them; with --all, also what went in
    and out of each.
    """
    store = store_at(db)
    store.check_exists()
    found = asyncio.run(_find_run(store.open(), run_id))
    if json:
        print_json(summary_as_json(found.summary) | run_as_json(found, everything=everything))
    else:
        print_run(found, everything=everything)


async def _find_runs(backend: StateBackend, query: RunQuery) -> list[RunSummary]:
    async with backend:
        return await backend.query_runs(query)


async def _find_run(backend: StateBackend, run_id: str) -> Found:
    async with backend:
        return await find_run(backend, run_id)


def _print_list(summaries: Sequence[RunSummary]) -> None:
    table = columns("Run", "Pipeline", "Version", "Status", numbers=("Steps", "Created", "Updated"))
    now = datetime.now(UTC)
    for summary in summaries:
        table.add_row(
            plain(summary.run_id),
            plain(summary.pipeline_name),
            version(summary),
            standing(summary),
            f"{summary.current_step_index:,}",
            ago(summary.created_at, now),
            ago(summary.updated_at, now),
        )
    put(table)
