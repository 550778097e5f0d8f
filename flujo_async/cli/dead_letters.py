"""``flujo-async dead-letters``: the runs that have failed, each waiting for somebody."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import typer

from flujo_async._model.summary import RunSummary
from flujo_async.cli.options import FlujoName, Json, Limit, MaybeDb
from flujo_async.cli.run_page import summary_as_json
from flujo_async.cli.runtime import perform, place_at
from flujo_async.cli.screen import ago, brief, columns, plain, print_json, put, say, say_if_more

app: typer.Typer = typer.Typer(help="Look at the runs that have failed.", no_args_is_help=True)


@app.callback()
def dead_letters() -> None:
    """Look at the runs that have failed."""


@app.command("list")
def list_dead_letters(
    db: MaybeDb = None,
    flujo: FlujoName = None,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """List the runs that have failed, the newest first, with their errors.

    `runs redrive` tries one again, `runs delete` gives it up.
    """
    found = perform(place_at(flujo, db), lambda flujo: flujo.list_dead_letters(limit=limit + 1))
    if json:
        print_json([summary_as_json(summary) for summary in found[:limit]])
    elif not found:
        say("no run has failed")
    else:
        _print(found[:limit])
        say_if_more(found, limit)


def _print(summaries: Sequence[RunSummary]) -> None:
    table = columns("Run", "Pipeline", "Failed", "Error", whole=("Failed",))
    now = datetime.now(UTC)
    for summary in summaries:
        failed, error = ago(summary.updated_at, now), brief(summary.error_message or "")
        table.add_row(plain(summary.run_id), plain(summary.pipeline_name), failed, error)
    put(table)
