"""``flujo-async verify``, ``backup`` and ``compact``: the upkeep of a whole store."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from flujo_async._model.policy import Retention
from flujo_async._model.report import VerifyReport
from flujo_async._model.summary import RunSummary
from flujo_async._runtime.flujo import runner_of
from flujo_async.cli.exit_code import ExitCode
from flujo_async.cli.given import length
from flujo_async.cli.options import DryRun, FlujoName, Json, MaybeDb
from flujo_async.cli.runtime import Place, Runtime, name_of, perform, place_at
from flujo_async.cli.screen import columns, plain, print_json, print_line, print_old_runs, put, runs_text, say, size
from flujo_async.cli.store import Store, head_of


def verify(
    run_id: Annotated[str | None, typer.Argument(metavar="RUN_ID", help="Only this run.")] = None,
    db: MaybeDb = None,
    flujo: FlujoName = None,
    json: Json = False,
) -> None:
    """Check that what is stored is what was written. Looks at every hash and head, and at the large values beside logs.

    Runs may go on meanwhile. The exit code is 1 if a run is broken.
    """
    place = place_at(flujo, db)
    report = perform(place, lambda flujo: _verify(flujo, run_id))
    if json:
        print_json(report)
    else:
        _print_report(report, name_of(place))
    if not report.ok:
        raise typer.Exit(ExitCode.FAILED)


def backup(
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="Where to; nothing is there yet.")],
    db: MaybeDb = None,
    flujo: FlujoName = None,
    json: Json = False,
) -> None:
    """Copy a store while others use it. The copy is a store of the same kind: --db opens it.

    It has all that was committed before the command was given, and is there as a whole, or not at all.
    """
    place, path = place_at(flujo, db), target.absolute()
    perform(place, lambda flujo: flujo.state_backend.backup(path), interrupted=f"interrupted; there is no {target}")
    count = _bytes_of(path)
    if json:
        print_json({"target": str(target), "bytes": count})
    else:
        print_line(f"copied {name_of(place)} to {target}, {size(count)}")


def compact(
    older_than: Annotated[
        str | None, typer.Option(metavar="AGE", help="Delete runs that ended so long ago: 30d, 12h, 90m, 45s or 2w.")
    ] = None,
    keep_last: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Keep the newest N runs of each pipeline that have ended.")
    ] = None,
    dry_run: DryRun = False,
    db: MaybeDb = None,
    flujo: FlujoName = None,
    json: Json = False,
) -> None:
    """Delete runs that ended long ago, and give space back. Their child runs go with them.

    Without --older-than and --keep-last it deletes what the Retention of the Flujo does not keep; with a store alone,
    nothing. Runs that are pending, running or paused stay, and --keep-last spares those that have failed.
    """
    place = place_at(flujo, db)
    asked = None if older_than is None and keep_last is None else Retention(keep_last=keep_last, ttl=_ttl(older_than))
    if dry_run:
        found = perform(place, lambda flujo: _find(flujo, _sweep(place, flujo, asked)))
        if not json:
            print_old_runs([(run.run_id, run.pipeline_name, run.status, run.updated_at) for run in found], "Ended")
        count = len(found)
    else:
        count = perform(place, lambda flujo: _compact(flujo, _sweep(place, flujo, asked)))
    if json:
        print_json({"runs": count, "is_dry_run": dry_run})
    else:
        print_line(f"{'would delete' if dry_run else 'deleted'} {runs_text(count)} in {name_of(place)}")


@dataclass(frozen=True, slots=True)
class _Sweep:
    """What to delete: the runs that a retention does not keep, of some definitions, or of all."""

    retention: Retention | None
    names: frozenset[str] | None


def _sweep(place: Place, flujo: Runtime, asked: Retention | None) -> _Sweep:
    runner = runner_of(flujo)
    names = None if isinstance(place, Store) else runner.catalogue.names()
    return _Sweep(runner.sweeper.retention if asked is None else asked, names)


async def _verify(flujo: Runtime, run_id: str | None) -> VerifyReport:
    if run_id is not None:
        await head_of(flujo.state_backend, run_id)
    return await flujo.verify(run_id)


async def _find(flujo: Runtime, sweep: _Sweep) -> list[RunSummary]:
    if sweep.retention is None:
        return []
    trees = runner_of(flujo).sweeper.trees(sweep.retention, sweep.names)
    return [head async for tree in trees for head in reversed(tree)]


async def _compact(flujo: Runtime, sweep: _Sweep) -> int:
    deleted = 0
    if sweep.retention is not None:
        deleted = await runner_of(flujo).sweeper.sweep(sweep.retention, sweep.names)
    await flujo.state_backend.compact()
    return deleted


def _print_report(report: VerifyReport, name: str) -> None:
    if report.ok:
        print_line(f"{runs_text(report.runs)} in {name}, {report.facts:,} facts: all as they were written")
        return
    table = columns("Run", "What is wrong", numbers=("Seq",))
    for broken in report.broken:
        table.add_row(plain(broken.run_id), plain(broken.reason), str(broken.seq or ""))
    put(table)
    say(f"{len(report.broken):,} of {runs_text(report.runs)} in {name}: not as they were written")


def _ttl(text: str | None) -> timedelta | None:
    return None if text is None else length(text, "--older-than")


def _bytes_of(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
