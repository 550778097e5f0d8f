"""Runs in memory by when they can be claimed, so that a claim looks at no others."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from heapq import merge
from itertools import islice
from operator import itemgetter
from typing import Final, TypeAlias

from flujo_async._model import selection
from flujo_async._model.lease import ClaimQuery
from flujo_async._model.state import TERMINAL
from flujo_async._model.summary import RunSummary

Kind: TypeAlias = tuple[str, str, str, str, str, bool]
Order: TypeAlias = tuple[int, datetime, str]

_NEVER: Final = datetime.min.replace(tzinfo=UTC)


class DueRuns:
    """Runs that may be claimed, now or at some time, and runs that somebody has.

    For a query that names neither a run nor a status of runs that have ended, ``choose`` and ``next_due`` return what
    those of ``selection`` return for all runs. They look at what can be claimed, and not at what is parked, sleeps or
    is driven.

    Args:
        head: returns the head of a run as it is now.
    """

    def __init__(self, head: Callable[[str], RunSummary]) -> None:
        self._head = head
        self._places: dict[str, _Place] = {}
        self._groups: dict[Kind, _Group] = {}
        self._leased: dict[str, dict[str, None]] = {}  # by owner

    def put(self, summary: RunSummary) -> None:
        """Let a run be where its head says.

        To be told after each change of the head, unless only its owner has written, and has left the status,
        ``wake_at``, the definition and the count of read signals as they were.
        """
        run_id = summary.run_id
        self.remove(run_id)
        place = self._places[run_id] = _Place(summary)
        if place.owner is not None:
            self._leased.setdefault(place.owner, {})[run_id] = None
        if place.is_claimable:
            group = self._groups.get(place.kind)
            if group is None:
                group = self._groups[place.kind] = _Group(summary)
            group.add(place)
        elif place.owner is None:
            del self._places[run_id]

    def remove(self, run_id: str) -> None:
        """Forget a run."""
        place = self._places.pop(run_id, None)
        if place is None:
            return
        if place.owner is not None:
            of_owner = self._leased[place.owner]
            del of_owner[run_id]
            if not of_owner:
                del self._leased[place.owner]
        if place.is_claimable:
            group = self._groups[place.kind]
            group.remove(place)
            if not group.moments:
                del self._groups[place.kind]

    def leased(self) -> list[RunSummary]:
        """Return the heads of the runs that somebody has a lease of, in no order."""
        return self._leased_to(self._leased)

    def choose(self, query: ClaimQuery, now: datetime) -> list[RunSummary]:
        """Return the runs that a claimant gets, in the order of claims."""
        ready = merge(*(group.ready_at(now) for group in self._asked_for(query)))
        heads = (self._head(run_id) for _, _, run_id in ready)
        first = islice((head for head in heads if selection.is_claimable(head, query, now)), query.limit)
        found = {head.run_id: head for head in (*first, *self._leased_to(query.dead_owners))}
        return selection.choose(found.values(), query, now)

    def next_due(self, query: ClaimQuery) -> datetime | None:
        """Return the first moment at which a claimant finds a run; ``None`` if none is in sight."""
        first = [head for group in self._asked_for(query) for head in self._first(group, query)]
        return selection.next_due([*first, *self._leased_to(query.dead_owners)], query)

    def _asked_for(self, query: ClaimQuery) -> list[_Group]:
        return [group for group in self._groups.values() if group.is_asked_for(query)]

    def _first(self, group: _Group, query: ClaimQuery) -> Iterator[RunSummary]:
        """Yield runs of a group until none of the others can be due before one of them."""
        first: datetime | None = None
        for moment, run_id, _ in group.moments:
            if first is not None and first <= moment:
                return
            head = self._head(run_id)
            due_at = selection.due_at(head, query)
            first = due_at if first is None or due_at is None else min(first, due_at)
            yield head

    def _leased_to(self, owners: Iterable[str]) -> list[RunSummary]:
        return [self._head(run_id) for owner in owners for run_id in self._leased.get(owner, ())]


class _Place:
    """Where a run stands.

    Attributes:
        run_id: the run.
        owner: who has it, if anybody.
        is_claimable: whether it can be claimed at some time by who does not name it.
        kind: what all runs of its group have in common: whoever asks for one of them asks for all.
        waits_until: before this moment nobody gets it, unless its owner is known to be dead; ``None`` if at any time.
        moment: it is not due before, and later only if an owner has written that should have lost it.
        order: where it stands in the order of claims.
        is_ready: whether its group has seen that it can be claimed.
    """

    __slots__ = ("is_claimable", "is_ready", "kind", "moment", "order", "owner", "run_id", "waits_until")

    def __init__(self, summary: RunSummary) -> None:
        lease, is_woken = summary.lease, selection.is_woken(summary)
        self.run_id = summary.run_id
        self.owner = None if lease is None else lease.owner
        self.is_claimable = summary.status not in TERMINAL and (is_woken or summary.status != "paused")
        self.kind: Kind = (
            summary.status,
            summary.queue or "",
            summary.pipeline_name,
            summary.pipeline_version,
            summary.pipeline_id,
            is_woken,
        )
        wakes_at = None if selection.has_news(summary) else summary.wake_at
        expires_at = None if lease is None else lease.expires_at
        waits = [moment for moment in (wakes_at, expires_at) if moment is not None]
        self.waits_until = max(waits, default=None)
        self.moment = summary.updated_at if self.waits_until is None else self.waits_until
        self.order: Order = selection.claim_order(summary)
        self.is_ready = False


class _Group:
    """Runs of one kind.

    Attributes:
        moments: all of them, in the order of their moments.
        ready: those that can be claimed, in the order of claims, as far as anybody has looked.
    """

    __slots__ = ("_looked_until", "_sample", "moments", "ready")

    def __init__(self, sample: RunSummary) -> None:
        self._sample = sample
        self._looked_until = _NEVER
        self.moments: list[tuple[datetime, str, _Place]] = []
        self.ready: list[Order] = []

    def is_asked_for(self, query: ClaimQuery) -> bool:
        """Return whether a query asks for the runs of this kind."""
        return selection.is_asked_for(self._sample, query) and (not query.is_due or selection.is_woken(self._sample))

    def add(self, place: _Place) -> None:
        """Let a run be one of them."""
        insort(self.moments, (place.moment, place.run_id, place))
        if place.waits_until is None or place.waits_until <= self._looked_until:
            self._let_be_ready(place)

    def remove(self, place: _Place) -> None:
        """Let a run be none of them."""
        del self.moments[bisect_left(self.moments, (place.moment, place.run_id))]
        if place.is_ready:
            del self.ready[bisect_left(self.ready, place.order)]

    def ready_at(self, now: datetime) -> list[Order]:
        """Return what can be claimed ``now``, in the order of claims; after a clock was set back, also others."""
        if now > self._looked_until:
            first = bisect_right(self.moments, self._looked_until, key=itemgetter(0))
            last = bisect_right(self.moments, now, key=itemgetter(0))
            for _, _, place in self.moments[first:last]:
                if not place.is_ready:
                    self._let_be_ready(place)
            self._looked_until = now
        return self.ready

    def _let_be_ready(self, place: _Place) -> None:
        place.is_ready = True
        insort(self.ready, place.order)
