"""``flujo-async runs``: what took how long, and what it cost."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, cast

import typer
from rich.text import Text

from flujo_async._log.spans import Span
from flujo_async._model.usage import Usage
from flujo_async.cli.completion import SPAN_STATUSES, complete_span_status
from flujo_async.cli.given import length
from flujo_async.cli.options import FlujoName, Json, MaybeDb, RunId
from flujo_async.cli.run_page import usage_as_json
from flujo_async.cli.runtime import Runtime, name_of, perform, place_at
from flujo_async.cli.screen import (
    clock,
    columns,
    duration,
    name_cell,
    plain,
    print_json,
    print_line,
    print_text,
    put,
    runs_text,
    say,
    usage_text,
)
from flujo_async.cli.store import known_run
from flujo_async.cli.trace_page import attributes_of, print_trace
from flujo_async.errors import InvalidArgument

app: typer.Typer = typer.Typer()


@app.command("trace")
def show_trace(
    run_id: RunId,
    db: MaybeDb = None,
    flujo: FlujoName = None,
    everything: Annotated[bool, typer.Option("--all", help="Leave out nothing, however many spans there are.")] = False,
    json: Json = False,
) -> None:
    """Show what in a run took how long. A tree of spans, each with its bar on the time axis of the run.

    Steps are there with their attempts, errors, events and what they have consumed. JSON is the tree.
    """
    run, roots = perform(place_at(flujo, db), lambda flujo: _trace(flujo, run_id))
    if json:
        _print_tree(run_id, roots)
    elif not roots:
        say(f"there are no spans of run {run_id!r}")
    else:
        _print_head(run)
        print_trace(roots, time.time(), everything=everything)


@app.command("spans")
def list_spans(
    run_id: RunId,
    status: Annotated[
        str | None,
        typer.Option(
            metavar="STATUS",
            help=f"Only these: {', '.join(SPAN_STATUSES)}.",
            autocompletion=complete_span_status,
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Only spans of this name.")] = None,
    db: MaybeDb = None,
    flujo: FlujoName = None,
    json: Json = False,
) -> None:
    """List the spans of a run in the order in which they began."""
    spans = perform(place_at(flujo, db), lambda flujo: _spans(flujo, run_id, status, name))
    if json:
        print_json(spans)
    elif not spans:
        say(f"there are no{' such' if status or name else ''} spans of run {run_id!r}")
    else:
        _print_spans(spans)


@app.command("stats")
def show_stats(
    pipeline: Annotated[
        str | None, typer.Option(metavar="NAME", help="Count only spans of this pipeline; the runs are all counted.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="AGE", help="Count only spans that began in the last 24h, 90m or 7d.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, metavar="N", help="How many names of spans, those that took most.")] = 20,
    db: MaybeDb = None,
    flujo: FlujoName = None,
    json: Json = False,
) -> None:
    """Count runs by status, spans by name, and what was consumed."""
    place, age = place_at(flujo, db), None if since is None else length(since, "--since")
    found = perform(place, lambda flujo: _stats(flujo, pipeline, age))
    if json:
        print_json({"runs": found.runs, "spans": found.spans, "usage": usage_as_json(found.usage)})
    else:
        _print_stats(found, name_of(place), top)


@dataclass(frozen=True, slots=True)
class _Stats:
    """What a store tells of all its runs and spans, and what they have consumed together."""

    runs: dict[str, Any]
    spans: dict[str, Any]
    usage: Usage


async def _trace(flujo: Runtime, run_id: str) -> tuple[Mapping[str, Any], list[Span]]:
    run = await known_run(flujo.state_backend, run_id)
    trace = await flujo.state_backend.get_trace(run_id)
    roots = cast("list[Span]", trace if isinstance(trace, list) else [trace])
    return run, [] if trace is None else roots


async def _spans(flujo: Runtime, run_id: str, status: str | None, name: str | None) -> list[Span]:
    await known_run(flujo.state_backend, run_id)
    return await flujo.state_backend.get_spans(run_id, status, name)


async def _stats(flujo: Runtime, pipeline: str | None, age: timedelta | None) -> _Stats:
    backend = flujo.state_backend
    now = backend.clock.now()
    since = None if age is None else ((now - age).timestamp(), now.timestamp())
    runs = await backend.list_workflows()
    return _Stats(
        await backend.get_workflow_stats(),
        await backend.get_span_statistics(pipeline, since),
        sum((_consumed(run) for run in _roots(runs)), Usage()),
    )


def _roots(runs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the runs that no other one among them counts as its own: a parent's usage has that of its children."""
    known = {run["run_id"] for run in runs}
    return [run for run in runs if run["parent_run_id"] not in known]


def _consumed(run: Mapping[str, Any]) -> Usage:
    told = run["usage"]  # what was saved by hand is whatever it is
    tokens = cast("Mapping[str, Any]", told).get("tokens") if isinstance(told, Mapping) else 0
    return Usage(tokens if isinstance(tokens, int) else 0, Decimal(str(run["total_cost"])))


def _print_tree(run_id: str, roots: Sequence[Span]) -> None:
    try:
        print_json(roots)
    except RecursionError as error:
        hint = "`runs spans --json` lists its spans one by one"
        raise InvalidArgument(f"the trace of run {run_id!r} is too deep for JSON: {hint}") from error


def _print_head(run: Mapping[str, Any]) -> None:
    words = [run.get("pipeline_name"), run.get("status")]
    if "usage" in run and (consumed := _consumed(run)):
        words.append(usage_text(consumed.tokens, consumed.cost))
    told = "  ".join(plain(str(word)) for word in words if word)
    print_text(Text.assemble((name_cell(run["run_id"]), "bold"), f"  {told}"))


def _print_spans(spans: Sequence[Span]) -> None:
    table = columns("Began", "Span", "Key", "Kind", "Status", whole=("Began", "Kind", "Status"), numbers=("Time",))
    now = time.time()
    for span in spans:
        end = now if span["end_time"] is None else span["end_time"]
        began = clock(datetime.fromtimestamp(span["start_time"], UTC))
        key, kind = (plain(str(attributes_of(span).get(name, ""))) for name in ("key", "kind"))
        took = duration(end - span["start_time"])
        table.add_row(began, plain(span["name"]), key, kind, plain(str(span["status"])), took)
    put(table)


def _print_stats(found: _Stats, name: str, top: int) -> None:
    runs = found.runs
    print_line(f"{runs_text(runs['total_workflows'])} in {name}, {runs['recent_workflows_24h']:,} of the last 24 hours")
    if not runs["total_workflows"]:
        return
    print_line("")
    table = columns("Status", numbers=("Runs", "Background"))
    background = runs["background_status_counts"]
    for status, count in sorted(runs["status_counts"].items(), key=lambda entry: (-entry[1], entry[0])):
        table.add_row(status, f"{count:,}", f"{background.get(status, 0):,}")
    put(table)
    print_line("")
    print_line(f"Those that have ended took {duration(runs['average_execution_time_ms'] / 1000)} on average.")
    if found.usage:
        print_line(f"Consumed: {usage_text(found.usage.tokens, found.usage.cost)}")
    _print_span_stats(found.spans, top)


def _print_span_stats(spans: Mapping[str, Any], top: int) -> None:
    by_name: Mapping[str, Mapping[str, Any]] = spans["avg_duration_by_name"]
    if not by_name:
        return
    counts = ", ".join(f"{count:,} {status}" for status, count in spans["by_status"].items())
    print_line("")
    print_line(f"Spans that have ended: {counts}")
    table = columns("Span", numbers=("Count", "Average", "Together"))
    ranked = sorted(by_name, key=lambda name: (-by_name[name]["total"], name))
    for name in ranked[:top]:
        took = by_name[name]
        table.add_row(plain(name), f"{took['count']:,}", duration(took["average"]), duration(took["total"]))
    put(table)
    if len(ranked) > top:
        say(f"there are {len(ranked) - top:,} more names; --top shows them")
