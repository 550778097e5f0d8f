"""``flujo-async audit``: who answered, and what was taken up again, undone or given up."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Annotated, Any, Final, cast

import typer

from flujo_async._model.audit import AuditEvent
from flujo_async.cli.completion import complete_event, complete_run
from flujo_async.cli.given import length
from flujo_async.cli.options import FlujoName, Json, Limit, MaybeDb
from flujo_async.cli.runtime import Runtime, perform, place_at
from flujo_async.cli.screen import brief, clock, columns, name_cell, print_json, put, say, say_if_more
from flujo_async.cli.store import known_run, who

_UNTOLD: Final = frozenset({"signal_id", "sent_at"})
_SAYS: Final = {
    "waiting_for": "waits for {}",
    "as_before": "waits for {} as before",
    "source_run_id": "from run {}",
    "pipeline_version": "as version {}",
    "status": "ends as {}",
}


def audit(
    run_id: Annotated[
        str | None, typer.Argument(metavar="RUN_ID", help="Only this run.", autocompletion=complete_run)
    ] = None,
    event: Annotated[
        list[str] | None,
        typer.Option(
            metavar="EVENT",
            help="Only such events, such as workflow.recovered; can be repeated.",
            autocompletion=complete_event,
        ),
    ] = None,
    since: Annotated[str | None, typer.Option(metavar="AGE", help="Only the last 24h, 90m or 7d.")] = None,
    limit: Limit = 50,
    db: MaybeDb = None,
    flujo: FlujoName = None,
    json: Json = False,
) -> None:
    """Show what somebody may ask about later, the newest first.

    That is who answered what and when; which runs were resumed, recovered, forked or tried again; what was undone; and
    what has failed for good. The usual course of a run is not among it.
    """
    age = None if since is None else length(since, "--since")
    found = perform(place_at(flujo, db), lambda flujo: _read(flujo, run_id, event or (), age, limit + 1))
    if json:
        print_json(found[:limit])
    elif not found:
        say("there is nothing of the kind in the audit log")
    else:
        _print(found[:limit])
        say_if_more(found, limit)


async def _read(
    flujo: Runtime, run_id: str | None, events: Sequence[str], age: timedelta | None, limit: int
) -> list[AuditEvent]:
    if run_id is not None:
        await known_run(flujo.state_backend, run_id)
    since = None if age is None else flujo.state_backend.clock.now() - age
    return await flujo.audit_log(run_id, events=events, since=since, limit=limit)


def _print(events: Sequence[AuditEvent]) -> None:
    table = columns("At", "Event", "Run", "Says", whole=("At", "Event"))
    for event in events:
        table.add_row(clock(event.at), event.event, name_cell(event.run_id), brief(says(event)))
    put(table)


def says(event: AuditEvent) -> str:
    """Return what is to be said of an event beside its name: its details, the step, and who did it."""
    told = [_detail(name, value) for name, value in event.details.items() if value and name not in _UNTOLD]
    if event.step and "name" not in event.details:
        told.insert(0, event.step)
    if event.by:
        told.append(f"by {who(event.by)}")
    return ", ".join(told)


def _detail(name: str, value: Any) -> str:
    text = ", ".join(map(str, cast("list[object]", value))) if isinstance(value, list) else str(value)
    return _SAYS.get(name, "{}").format(text.removeprefix("$"))  # the names of the runtime's own signals begin so
