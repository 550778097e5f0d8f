"""What a shell offers on TAB, beside commands and options."""

from __future__ import annotations

import asyncio
from typing import Final, get_args

import typer

from flujo_async._log.audit_log import AUDIT_EVENTS
from flujo_async._model.facts import Decision
from flujo_async._model.state import RunStatus
from flujo_async._model.stored import RunQuery
from flujo_async.abc.backend import StateBackend
from flujo_async.cli.runtime import Named, place_at
from flujo_async.errors import FlujoError

SPAN_STATUSES: Final = ("running", "completed", "failed", "cancelled", "skipped")

_NEWEST: Final = 200


def complete_run(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the newest runs whose names begin so, as far as that needs no code of anybody: TAB imports nothing."""
    try:
        place = place_at(ctx.params.get("flujo"), ctx.params.get("db"))
        ids = [] if isinstance(place, Named) else asyncio.run(_newest(place.open()))
    except (FlujoError, OSError):  # the command itself will say so
        return []
    return [run_id for run_id in ids if run_id.startswith(incomplete)]


def complete_event(incomplete: str) -> list[str]:
    """Return the events of the audit log whose names begin so."""
    return sorted(event for event in AUDIT_EVENTS if event.startswith(incomplete))


def complete_decision(incomplete: str) -> list[str]:
    """Return the decisions on a step that begin so."""
    return [decision for decision in get_args(Decision) if decision.startswith(incomplete)]


def complete_status(incomplete: str) -> list[str]:
    """Return the statuses of runs that begin so."""
    return [status for status in get_args(RunStatus) if status.startswith(incomplete)]


def complete_span_status(incomplete: str) -> list[str]:
    """Return the statuses of spans that logs tell whose names begin so; who saves spans may have others."""
    return [status for status in SPAN_STATUSES if status.startswith(incomplete)]


async def _newest(backend: StateBackend) -> list[str]:
    async with backend:
        return [head.run_id for head in await backend.query_runs(RunQuery(limit=_NEWEST))]
