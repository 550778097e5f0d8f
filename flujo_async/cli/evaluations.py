"""``flujo-async evaluations``: how well runs and steps have done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from flujo_async.abc.backend import StateBackend
from flujo_async.cli.completion import complete_run
from flujo_async.cli.options import FlujoName, Json, Limit, MaybeDb
from flujo_async.cli.runtime import perform, place_at
from flujo_async.cli.screen import brief, clock, columns, name_cell, plain, print_json, put, say, say_if_more
from flujo_async.cli.store import known_run

app: typer.Typer = typer.Typer(help="Look at how well runs have done.", no_args_is_help=True)


@app.callback()
def evaluations() -> None:
    """Look at how well runs have done."""


@app.command("list")
def list_evaluations(
    run_id: Annotated[
        str | None, typer.Option("--run", metavar="RUN_ID", help="Only of this run.", autocompletion=complete_run)
    ] = None,
    limit: Limit = 20,
    db: MaybeDb = None,
    flujo: FlujoName = None,
    json: Json = False,
) -> None:
    """List evaluations, the newest first. They are what programs have kept by `persist_evaluation`."""
    place = place_at(flujo, db)
    found = perform(place, lambda flujo: _find(flujo.state_backend, limit + 1, run_id))
    if json:
        print_json(found[:limit])
    elif not found:
        say("nothing was evaluated" if run_id is None else f"nothing of run {run_id!r} was evaluated")
    else:
        _print(found[:limit])
        say_if_more(found, limit)


async def _find(backend: StateBackend, limit: int, run_id: str | None) -> list[dict[str, Any]]:
    found = await backend.list_evaluations(limit, run_id)
    if run_id is not None and not found:
        await known_run(backend, run_id)  # to be told if there is none
    return found


def _print(found: Sequence[Mapping[str, Any]]) -> None:
    table = columns("At", "Run", "Step", "Feedback", whole=("At",), numbers=("Score",))
    for each in found:
        names = name_cell(each["run_id"]), plain(each["step_name"] or "")
        table.add_row(clock(each["created_at"]), *names, brief(each["feedback"] or ""), f"{each['score']:.4g}")
    put(table)
