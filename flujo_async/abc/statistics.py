"""Runs and spans, counted over a whole store."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, Final

from flujo_async._log.spans import Span
from flujo_async._model.entry import EntryQuery
from flujo_async._model.state import TERMINAL
from flujo_async._model.stored import RunQuery
from flujo_async.abc.known_runs import KnownRun, KnownRunQuery, known_runs
from flujo_async.abc.verbs import Verbs
from flujo_async.errors import IntegrityError

_log: Final = logging.getLogger("flujo_async")


def workflow_stats(runs: Sequence[KnownRun], since: datetime) -> dict[str, Any]:
    """Return how many runs there are, and how many were created from a moment on."""
    took = [run.execution_time_ms or 0 for run in runs if run.status in TERMINAL]
    return {
        "total_workflows": len(runs),
        "status_counts": dict(Counter(run.status for run in runs)),
        "recent_workflows_24h": sum(run.created_at >= since for run in runs),
        "average_execution_time_ms": sum(took) / len(took) if took else 0,
        "background_status_counts": dict(Counter(run.status for run in runs if run.is_background_task)),
    }


async def span_statistics(
    store: Verbs,
    get_spans: Callable[[str], Awaitable[list[Span]]],
    pipeline_name: str | None,
    time_range: tuple[float, float] | None,
) -> list[Span]:
    """Return the spans of all runs that count; a log that cannot be read does not keep others from being counted."""
    first, last = time_range or (float("-inf"), float("inf"))
    found: list[Span] = []
    for run_id in await _runs_with_spans(store, pipeline_name, first):
        try:
            found += [span for span in await get_spans(run_id) if first <= span["start_time"] <= last]
        except IntegrityError as error:
            _log.warning("its spans are not counted: %s", error)
    return found


async def _runs_with_spans(store: Verbs, pipeline_name: str | None, first: float) -> dict[str, None]:
    heads = await store.query_runs(RunQuery(pipeline_name=pipeline_name))
    driven = dict.fromkeys(head.run_id for head in heads if head.updated_at.timestamp() >= first)
    saved = dict.fromkeys(entry.run_id for entry in await store.read_entries(EntryQuery(kind="span")))
    if pipeline_name and saved:
        asked = await known_runs(store, KnownRunQuery(pipeline_name=pipeline_name))
        saved = {run.run_id: None for run in asked if run.run_id in saved}
    return driven | saved
