"""Which runs a query asks for, and in which order: the same on every backend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from heapq import nsmallest
from typing import Any

from flujo_async._model.entry import Entry, EntryQuery
from flujo_async._model.lease import ClaimQuery
from flujo_async._model.page import page
from flujo_async._model.stored import RunQuery
from flujo_async._model.summary import RunSummary


def is_claimable(summary: RunSummary, query: ClaimQuery, now: datetime) -> bool:
    """Tell whether a claimant who asks for ``query`` at ``now`` may have the run."""
    return is_asked_for(summary, query) and _is_awake(summary, query, now) and _is_free(summary, query, now)


def is_asked_for(summary: RunSummary, query: ClaimQuery) -> bool:
    """Tell whether the run is one of those that are asked for, whenever it can be claimed."""
    return (
        summary.status in query.statuses
        and query.run_id in (None, summary.run_id)
        and (query.queues is None or (summary.queue or "") in query.queues)
        and is_of(summary, query)
    )


def is_of(summary: RunSummary, query: ClaimQuery) -> bool:
    """Tell whether the run goes on with one of the definitions that are asked for."""
    key = summary.pipeline_name, summary.pipeline_version, summary.pipeline_id  # quicker to make than a DefinitionKey
    return (query.definitions is None or key in query.definitions) and (
        query.pipeline_names is None or summary.pipeline_name in query.pipeline_names
    )


def due_at(summary: RunSummary, query: ClaimQuery) -> datetime | None:
    """Return the moment from which a claimant who asks for ``query`` may have the run; ``None`` if none is in sight.

    From ``updated_at`` on, ``is_claimable`` says the same.
    """
    moment = _wakes_at(summary, query) if is_asked_for(summary, query) else None
    lease = summary.lease
    if moment is None or lease is None or lease.owner in query.dead_owners:
        return moment
    return max(moment, lease.expires_at)


def has_news(summary: RunSummary) -> bool:
    """Tell whether the run has signals that its last owner has not read."""
    return summary.signals > summary.signals_read


def is_woken(summary: RunSummary) -> bool:
    """Tell whether something wakes the run, now or later: unread signals, or its ``wake_at``."""
    return summary.wake_at is not None or has_news(summary)


def claim_order(summary: RunSummary) -> tuple[int, datetime, str]:
    """Return the sort key of claims: higher priority first, then the older run."""
    return -summary.priority, summary.created_at, summary.run_id


def matches(summary: RunSummary, query: RunQuery) -> bool:
    """Tell whether a listing that asks for ``query`` shows the run; ``limit`` and ``offset`` do not count."""
    return (
        query.run_id in (None, "", summary.run_id)
        and query.status in (None, "", summary.status)
        and query.pipeline_name in (None, "", summary.pipeline_name)
        and (query.parent_run_ids is None or summary.parent_run_id in query.parent_run_ids)
        and query.is_leased in (None, summary.lease is not None)
        and contains(summary.metadata, query.metadata)
    )


def listing_order(summary: RunSummary) -> tuple[float, int, str]:
    """Return the sort key of listings: newest ``created_at`` first, ties by ascending ``run_id``."""
    return *newest_first(summary.created_at), summary.run_id


def newest_first(moment: datetime) -> tuple[float, int]:
    """Return a sort key by which the latest moment comes first."""
    # Two parts, since one float holds a timestamp only to about a microsecond.
    return -moment.replace(microsecond=0).timestamp(), -moment.microsecond


def select(summaries: Iterable[RunSummary], query: RunQuery) -> list[RunSummary]:
    """Return what a listing shows of ``summaries``: filtered, ordered, then cut to one page."""
    found = sorted((summary for summary in summaries if matches(summary, query)), key=listing_order)
    return page(found, query.limit, query.offset)


def select_entries(entries: Iterable[Entry], query: EntryQuery) -> list[Entry]:
    """Return what a reader of entries gets: filtered, newest first, then cut to one page."""
    asked = (entry for entry in entries if _is_entry_asked_for(entry, query))
    found = sorted(asked, key=lambda entry: (*newest_first(entry.created_at), entry.run_id, entry.kind, entry.key))
    return page(found, query.limit, query.offset)


def choose(summaries: Iterable[RunSummary], query: ClaimQuery, now: datetime) -> list[RunSummary]:
    """Return the runs that a claimant who asks for ``query`` at ``now`` gets, in the order of claims."""
    claimable = (summary for summary in summaries if is_claimable(summary, query, now))
    return nsmallest(query.limit, claimable, key=claim_order)


def next_due(summaries: Iterable[RunSummary], query: ClaimQuery) -> datetime | None:
    """Return the first moment at which a claimant who asks for ``query`` finds a run; ``None`` if none is in sight."""
    moments = (due_at(summary, query) for summary in summaries)
    return min((moment for moment in moments if moment is not None), default=None)


def contains(whole: Any, part: Any) -> bool:
    """Tell whether the JSON value ``whole`` contains ``part``: objects key by key, all else by equality.

    >>> contains({"team": {"name": "a", "size": 3}, "beta": True}, {"team": {"size": 3}})
    True
    >>> contains({"beta": True}, {"beta": 1})
    False
    """
    if _is_object(part):
        return _is_object(whole) and all(key in whole and contains(whole[key], part[key]) for key in part)
    if _is_list(part):
        return _is_list(whole) and len(whole) == len(part) and all(map(_equal, whole, part))
    return isinstance(whole, bool) == isinstance(part, bool) and bool(whole == part)


def _is_entry_asked_for(entry: Entry, query: EntryQuery) -> bool:
    return query.kind in (None, entry.kind) and query.run_id in (None, entry.run_id)


def _equal(one: Any, other: Any) -> bool:
    return contains(one, other) and contains(other, one)


def _is_object(value: Any) -> bool:
    return isinstance(value, Mapping)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _is_awake(summary: RunSummary, query: ClaimQuery, now: datetime) -> bool:
    if query.run_id is not None or has_news(summary):
        return True
    if summary.wake_at is not None:
        return summary.wake_at <= now
    return not _needs_a_reason(summary, query)


def _wakes_at(summary: RunSummary, query: ClaimQuery) -> datetime | None:
    if query.run_id is not None or has_news(summary):
        return summary.updated_at
    if summary.wake_at is not None:
        return summary.wake_at
    return None if _needs_a_reason(summary, query) else summary.updated_at


def _needs_a_reason(summary: RunSummary, query: ClaimQuery) -> bool:
    """Tell whether the run may be claimed only when something wakes it."""
    return query.is_due or summary.status == "paused"


def _is_free(summary: RunSummary, query: ClaimQuery, now: datetime) -> bool:
    lease = summary.lease
    return lease is None or lease.expires_at <= now or lease.owner in query.dead_owners
