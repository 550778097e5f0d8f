"""``flujo-async runs``: what a store knows about its runs. Other modules add what acts on them, and what took long."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Final

import typer
from rich.cells import cell_len

from flujo_async._codec.values import Codec
from flujo_async._log.history import Change, changes
from flujo_async._log.views import Commit
from flujo_async._model.state import check_status
from flujo_async._model.stored import RunQuery
from flujo_async._model.summary import RunSummary
from flujo_async._runtime.flujo import runner_of
from flujo_async.abc.backend import StateBackend
from flujo_async.cli.completion import complete_status
from flujo_async.cli.exit_code import ExitCode
from flujo_async.cli.fact_line import tell
from flujo_async.cli.options import STATUSES, FlujoName, Json, Limit, MaybeDb, RunId
from flujo_async.cli.run_page import note, print_run, run_as_json, standing, summary_as_json, version
from flujo_async.cli.runtime import Runtime, as_typed, name_of, perform, place_at
from flujo_async.cli.saved_page import Saved, find_saved, print_saved, saved_as_json, saved_by_hand
from flujo_async.cli.screen import (
    GAP,
    ago,
    brief,
    clock,
    columns,
    plain,
    print_json,
    print_line,
    put,
    runs_text,
    say,
    say_if_more,
    screen,
)
from flujo_async.cli.store import Found, find_run, find_summary, head_of
from flujo_async.cli.watch import LinePrinter, LivePage, Viewer, commit_as_json, has_terminal, watch

app: typer.Typer = typer.Typer(help="Look at runs, and act on them.", no_args_is_help=True)

_NAMED: Final = 3
_NAMES: Final = ("Run", "Pipeline")
_NUMBERS: Final = ("Steps", "Created", "Updated")
_LEFT_OUT: Final = {"Version": sys.maxsize, "Created": sys.maxsize, "Steps": 16, "Pipeline": 16, "Updated": 16}
"""What a list goes without on a narrow terminal, in this order, before names of up to so many columns are folded."""


@app.command("list")
def list_runs(
    db: MaybeDb = None,
    flujo: FlujoName = None,
    status: Annotated[
        str | None, typer.Option(metavar=STATUSES, help="Only runs in this status.", autocompletion=complete_status)
    ] = None,
    pipeline: Annotated[str | None, typer.Option(metavar="NAME", help="Only runs of this pipeline.")] = None,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """List runs, the newest first.

    "Steps" counts the top-level steps that are done: a map or a parallel is one. A running run that nobody drives
    is shown as interrupted, and `runs resume` takes it up; in a queue it waits for a worker instead.
    """
    query = RunQuery(status=None if status is None else check_status(status), pipeline_name=pipeline)
    place = place_at(flujo, db)
    found, saved = perform(place, lambda flujo: _find_runs(flujo, query, limit + 1))
    if json:
        print_json([summary_as_json(summary) for summary in found[:limit]])
        return
    if found:
        _print_list(found[:limit])
    elif not saved:
        such = " such" if status or pipeline else ""
        say(f"there are no{such} runs in {name_of(place)}")
    say_if_more(found, limit)
    if saved:
        say(_beside(saved))


@app.command("show")
def show_run(
    run_id: RunId,
    db: MaybeDb = None,
    flujo: FlujoName = None,
    everything: Annotated[bool, typer.Option("--all", help="Show every step, and values at full length.")] = False,
    json: Json = False,
) -> None:
    """Show one run: where it stands, its context and its steps. Tells what it waits for, or why it failed.

    Of many steps it shows the last ones and those that failed. JSON has all of them; with --all, also what went in
    and out of each. Of a run that was saved by hand, and has no log, it shows what was saved.
    """
    place = place_at(flujo, db)
    found = perform(place, lambda flujo: _find_run(flujo.state_backend, run_id))
    if isinstance(found, Saved):
        if json:
            print_json(saved_as_json(found))
        else:
            print_saved(found, everything=everything)
    elif json:
        print_json(run_as_json(found, everything=everything))
    else:
        print_run(found, as_typed(place), everything=everything)


@app.command("history")
def show_history(run_id: RunId, db: MaybeDb = None, flujo: FlujoName = None, json: Json = False) -> None:
    """Show every fact of a run's log, with its number.

    The numbers are those that `runs fork --at` and `runs diff` take.
    """
    commits = perform(place_at(flujo, db), lambda flujo: _history(flujo, run_id))
    if json:
        print_json([commit_as_json(commit) for commit in commits])
    else:
        _print_history(commits)


@app.command("diff")
def show_diff(
    run_id: RunId,
    a: Annotated[int, typer.Argument(metavar="A", help="A number of a fact.")],
    b: Annotated[int, typer.Argument(metavar="B", help="A number of a fact.")],
    db: MaybeDb = None,
    flujo: FlujoName = None,
    json: Json = False,
) -> None:
    """Show what has changed in a run from fact A to fact B."""
    found = perform(place_at(flujo, db), lambda flujo: _diff(flujo, run_id, a, b))
    if json:
        print_json(found)
    elif not found:
        say(f"there is no difference between {a} and {b}")
    else:
        _print_diff(found, a, b)


@app.command("watch")
def watch_run(
    run_id: RunId,
    db: MaybeDb = None,
    flujo: FlujoName = None,
    after: Annotated[int, typer.Option(min=0, metavar="SEQ", help="Leave out the facts up to this one.")] = 0,
    json: Json = False,
) -> None:
    """Watch a run until it rests. Shows its steps, its retries and timers, and what it waits for.

    A terminal has a page that changes; a pipe gets a line for everything that happens. Ctrl-C ends the watching and
    nothing else. The exit code is 1 if the run has failed or was cancelled.
    """
    viewer: Viewer = LivePage() if has_terminal() and not json else LinePrinter(json=json)
    place = place_at(flujo, db)
    flujo_option = as_typed(place)
    head = perform(
        place,
        lambda flujo: watch(flujo, run_id, viewer, flujo_option, after=after),
        interrupted=f"stopped watching run {run_id!r}, which goes on as before",
    )
    if head.status in ("failed", "cancelled"):
        raise typer.Exit(ExitCode.FAILED)


async def _find_runs(flujo: Runtime, query: RunQuery, limit: int) -> tuple[list[RunSummary], list[str]]:
    """Return the runs that have a log, at most so many, and the names of those that were saved by hand."""
    found = await flujo.list_runs(status=query.status, pipeline_name=query.pipeline_name, limit=limit)
    return found, await saved_by_hand(flujo.state_backend, query)


async def _find_run(backend: StateBackend, run_id: str) -> Found | Saved:
    return await find_run(backend, run_id) if await find_summary(backend, run_id) else await find_saved(backend, run_id)


def _beside(saved: Sequence[str]) -> str:
    names, more = ", ".join(saved[:_NAMED]), len(saved) - _NAMED
    return f"{runs_text(len(saved))} saved by hand, without a log: {names}{f' and {more:,} more' if more > 0 else ''}"


async def _history(flujo: Runtime, run_id: str) -> list[Commit]:
    await head_of(flujo.state_backend, run_id)
    return await flujo.history(run_id)


async def _diff(flujo: Runtime, run_id: str, a: int, b: int) -> list[Change]:
    await head_of(flujo.state_backend, run_id)
    reader = runner_of(flujo).reader
    before, after = await reader.get(run_id, until=a), await reader.get(run_id, until=b)
    return changes(before, after, Codec.lenient())  # also of values whose classes are not here


def _print_list(summaries: Sequence[RunSummary]) -> None:
    now = datetime.now(UTC)
    rows = [_row(summary, now) for summary in summaries]
    shown = _columns_for(rows, screen().width)
    table = columns(
        *(name for name in shown if name not in _NUMBERS),
        numbers=[name for name in shown if name in _NUMBERS],
        whole=("Version", "Status"),
    )
    for row in rows:
        table.add_row(*(row[name] for name in shown))
    put(table)
    _print_notes(summaries)


def _row(summary: RunSummary, now: datetime) -> dict[str, str]:
    return {
        "Run": plain(summary.run_id),
        "Pipeline": plain(summary.pipeline_name),
        "Version": version(summary),
        "Status": standing(summary),
        "Steps": f"{summary.current_step_index:,}",
        "Created": ago(summary.created_at, now),
        "Updated": ago(summary.updated_at, now),
    }


def _columns_for(rows: Sequence[Mapping[str, str]], room: int) -> list[str]:
    """Return the columns for a terminal: a narrow one goes without those that matter least."""
    widths = {name: max(cell_len(text) for text in (name, *(row[name] for row in rows))) for name in rows[0]}
    shown = list(widths)
    for least, most in _LEFT_OUT.items():
        needed = sum(min(widths[name], most) if name in _NAMES else widths[name] for name in shown)
        if needed + GAP * (len(shown) - 1) <= room:
            break
        shown.remove(least)
    return shown


def _print_notes(summaries: Sequence[RunSummary]) -> None:
    """Print what the runs wait for: too long for a column beside the others."""
    notes = columns("Run", "Waits for")
    for summary in summaries:
        if text := note(summary):
            notes.add_row(plain(summary.run_id), brief(text))
    if notes.row_count:
        print_line("")
        put(notes)


def _print_history(commits: Sequence[Commit]) -> None:
    table = columns("Seq", "At", "Fact", "Says", whole=("Seq", "At", "Fact"))
    for commit in commits:
        said = tell(commit.fact) or commit.step or ""
        table.add_row(str(commit.seq), clock(commit.at), commit.fact.kind, plain(said))
    put(table)


def _print_diff(found: Sequence[Change], a: int, b: int) -> None:
    table = columns("What", f"After {a}", f"After {b}")
    for change in found:
        before = "" if change.kind == "added" else brief(repr(change.before))
        after = "" if change.kind == "removed" else brief(repr(change.after))
        table.add_row(plain(change.path), before, after)
    put(table)
