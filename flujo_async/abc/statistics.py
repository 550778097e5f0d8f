"""Runs and spans, counted over a whole store."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from math import isnan
from typing import Any, Final, cast

from flujo_async._log.spans import Span
from flujo_async._model.entry import EntryQuery
from flujo_async._model.state import TERMINAL
from flujo_async._model.stored import RunQuery
from flujo_async.abc.known_runs import KnownRun, KnownRunQuery, known_runs
from flujo_async.abc.verbs import Verbs
from flujo_async.errors import IntegrityError, InvalidArgument

_PAIR: Final = 2
_log: Final = logging.getLogger("flujo_async")


def check_range(time_range: Any) -> None:
    """Check that a range of time is one.

    Raises:
        InvalidArgument: it is not two numbers.
    """
    if not time_range:
        return
    numbers: list[Any] = [*cast("Any", time_range)] if isinstance(time_range, (tuple, list)) else []
    if len(numbers) != _PAIR or not all(isinstance(number, (int, float)) and not isnan(number) for number in numbers):
        raise InvalidArgument(f"time_range is two moments in seconds since 1970, not {time_range!r}")


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
