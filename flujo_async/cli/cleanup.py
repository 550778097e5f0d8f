"""``flujo-async cleanup``: runs that have ended, and are old."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from flujo_async.abc.clean_up import delete_ended
from flujo_async.abc.known_runs import KnownRun
from flujo_async.cli.given import length
from flujo_async.cli.options import DryRun, FlujoName, Json, MaybeDb
from flujo_async.cli.runtime import Runtime, name_of, perform, place_at
from flujo_async.cli.screen import plain, print_json, print_line, print_old_runs, runs_text, say


def cleanup(
    older_than: Annotated[
        str, typer.Option(metavar="AGE", help="Delete runs that were created so long ago: 30d, 12h, 90m, 45s or 2w.")
    ],
    dry_run: DryRun = False,
    db: MaybeDb = None,
    flujo: FlujoName = None,
    json: Json = False,
) -> None:
    """Delete runs that have ended and were created long ago. Shows them, also those that were saved by hand.

    A run that has not ended stays, and so do its child runs. `compact` goes by the end of runs, by their number and by
    the Retention of the Flujo, and gives space back to the disk.
    """
    place, age = place_at(flujo, db), length(older_than, "--older-than")
    found = perform(place, lambda flujo: _find(flujo, age))
    if not json:
        print_old_runs([(run.run_id, run.pipeline_name, run.status, run.created_at) for run in found], "Created")
    run_ids = [run.run_id for run in found]
    if found and not dry_run:
        run_ids = perform(place, lambda flujo: delete_ended(flujo.state_backend, found))
    if json:
        print_json({"runs": len(run_ids), "run_ids": run_ids, "is_dry_run": dry_run})
        return
    if spared := [run.run_id for run in found if run.run_id not in run_ids]:
        say(f"left, because somebody goes on with it, or it cannot be read: {', '.join(map(plain, spared))}")
    print_line(f"{'would delete' if dry_run else 'deleted'} {runs_text(len(run_ids))} in {name_of(place)}")


async def _find(flujo: Runtime, age: timedelta) -> list[KnownRun]:
    backend = flujo.state_backend
    return await backend.ended_runs(backend.clock.now() - age)
