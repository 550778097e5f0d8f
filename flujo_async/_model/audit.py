"""What operators want to know afterwards: the words of the audit log."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flujo_async._model.page import check_page
from flujo_async.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class AuditMark:
    """Marks a record that belongs into the audit log.

    Attributes:
        event: what happened, such as ``workflow.recovered``.
        at: when.
    """

    event: str
    at: datetime


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One line of the audit log.

    Attributes:
        run_id: the run that it happened to.
        seq: the fact in its log that tells so.
        at: when it happened.
        event: what happened, such as ``workflow.recovered`` or ``signal.received``.
        step: the key of the step or wait that it is about, if it is about one.
        by: who did it, where that is known: who answered, as told to ``signal``; or the owner that took the run up, as
            ``host:pid:start:runtime``: the machine's boot id and process namespace, the process, when it started in
            clock ticks since boot, and what tells one caller in it from the others.
        details: what else is to be said, plain JSON.
    """

    run_id: str
    seq: int
    at: datetime
    event: str
    step: str | None
    by: str | None
    details: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditQuery:
    """Which lines of the audit log are asked for.

    Attributes:
        run_id: only those of this run; ``None`` is any.
        events: only these events; empty is all.
        since: only from this moment on.
        until: only before this moment.
        limit: at most so many, the newest; ``None`` is no limit.
        offset: leave out so many of the newest.

    Raises:
        InvalidArgument: a negative number, or a moment without its time zone.
    """

    run_id: str | None = None
    events: frozenset[str] = frozenset()
    since: datetime | None = None
    until: datetime | None = None
    limit: int | None = None
    offset: int = 0

    def __post_init__(self) -> None:
        check_page(self.limit, self.offset)
        if not all(moment is None or _has_time_zone(moment) for moment in (self.since, self.until)):
            raise InvalidArgument("since and until are moments with a time zone")

    def asks_for(self, event: AuditEvent) -> bool:
        """Tell whether a line is asked for; ``limit`` and ``offset`` do not count."""
        return (
            self.run_id in (None, event.run_id)
            and (not self.events or event.event in self.events)
            and (self.since is None or event.at >= self.since)
            and (self.until is None or event.at < self.until)
        )


def _has_time_zone(moment: Any) -> bool:
    return isinstance(moment, datetime) and moment.tzinfo is not None
