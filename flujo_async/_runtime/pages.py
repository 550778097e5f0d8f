"""All runs of a store, a page at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

from flujo_async._model.stored import RunQuery
from flujo_async._model.summary import RunSummary

Page: TypeAlias = Callable[[RunQuery], Awaitable[list[RunSummary]]]
"""Reads what a query asks for."""

_AT_ONCE: Final = 200
_LATEST: Final = datetime.max.replace(tzinfo=UTC)


async def every_run(read: Page, query: RunQuery) -> AsyncIterator[RunSummary]:
    """Yield the heads of all runs that match a query, the newest first, in constant memory.

    A run that comes or goes meanwhile makes it neither miss another nor yield one twice.
    """
    last: tuple[timedelta, str] | None = None
    offset = 0
    while True:
        page = await read(replace(query, limit=_AT_ONCE, offset=offset))
        if offset and (not page or (last is not None and _place(page[0]) > last)):
            offset = max(0, offset - _AT_ONCE)  # runs have gone, and what comes next has moved towards the front
            continue
        for head in page:
            if last is None or _place(head) > last:
                last = _place(head)
                yield head
        if len(page) < _AT_ONCE:
            return
        offset += len(page) - 1  # the last one once more: it shows whether anything has moved


def _place(head: RunSummary) -> tuple[timedelta, str]:
    """Return what listings are ordered by."""
    return _LATEST - head.created_at, head.run_id
