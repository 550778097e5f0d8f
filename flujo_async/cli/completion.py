"""What a shell offers on TAB, beside commands and options."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
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
"""Those that logs tell; who saves spans may have others."""

_NEWEST: Final = 200


def complete_run(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the newest runs whose names begin so, as far as that needs no code of anybody: TAB imports nothing."""
    try:
        place = place_at(ctx.params.get("flujo"), ctx.params.get("db"))
        ids = [] if isinstance(place, Named) else asyncio.run(_newest(place.open()))
    except (FlujoError, OSError):  # the command itself will say so
        return []
    return [run_id for run_id in ids if run_id.startswith(incomplete)]


def _one_of(words: Iterable[str]) -> Callable[[str], list[str]]:
    """Return what offers those of some words that begin so."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete


complete_event: Final = _one_of(sorted(AUDIT_EVENTS))
complete_decision: Final = _one_of(get_args(Decision))
complete_status: Final = _one_of(get_args(RunStatus))
complete_span_status: Final = _one_of(SPAN_STATUSES)


async def _newest(backend: StateBackend) -> list[str]:
    async with backend:
        return [head.run_id for head in await backend.query_runs(RunQuery(limit=_NEWEST))]
