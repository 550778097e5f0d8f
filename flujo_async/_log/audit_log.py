"""Which facts belong into the audit log, and what it says of them.

Those are the facts that a person may be asked about later: who answered, what was taken up again, undone or given up.
The usual course of a run is not among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

from flujo_async._codec.exceptions import describe_error
from flujo_async._codec.facts import read_outline
from flujo_async._log.keys import is_compensation, is_own_signal
from flujo_async._model import facts
from flujo_async._model.audit import AuditEvent, AuditMark
from flujo_async._model.facts import Fact
from flujo_async._model.stored import Record
from flujo_async._model.tree import Json
from flujo_async.errors import SerializationError

_FORKED: Final = "workflow.forked"
_RESUMED: Final = {"requested": "workflow.resumed", "recovered": "workflow.recovered"}
_OWN_SIGNALS: Final = {"$refused": "signal.refused", "$pause": "signal.received", "$cancel": "signal.received"}

_EVENTS: Final[dict[type[Any], Callable[[Any], str | None]]] = {
    facts.RunResumed: lambda fact: _RESUMED.get(fact.cause),
    facts.RunForked: lambda _: _FORKED,
    facts.RunRedriven: lambda _: "workflow.redriven",
    facts.RunMigrated: lambda _: "workflow.migrated",
    facts.RunPaused: lambda _: "workflow.paused",
    facts.RunFailed: lambda _: "workflow.dead_lettered",
    facts.RunCancelled: lambda _: "workflow.cancelled",
    facts.RollbackStarted: lambda _: "compensation.started",
    facts.StepCompleted: lambda fact: "compensation.completed" if is_compensation(fact.key) else None,
    facts.StepFailed: lambda fact: "compensation.failed" if is_compensation(fact.key) else None,
    facts.StepDecided: lambda _: "decision.made",
    facts.SignalReceived: lambda fact: _OWN_SIGNALS.get(fact.name) if is_own_signal(fact.name) else "signal.received",
    facts.WaitTimedOut: lambda _: "signal.missed",
}

AUDIT_EVENTS: Final = frozenset(
    {
        *_RESUMED.values(),
        *(_FORKED, "workflow.redriven", "workflow.migrated", "workflow.paused", "workflow.dead_lettered"),
        *("workflow.cancelled", "compensation.started", "compensation.completed", "compensation.failed"),
        *("decision.made", "signal.received", "signal.refused", "signal.missed"),
    }
)
"""All that the audit log can tell."""


def audit_mark(fact: Fact) -> AuditMark | None:
    """Return what marks a fact that belongs into the audit log; ``None`` of any other."""
    name = _EVENTS.get(type(fact))
    event = None if name is None else name(fact)
    return None if event is None else AuditMark(event, fact.at)


def audit_event(run_id: str, record: Record) -> AuditEvent | None:
    """Return the line of the audit log that a record makes, if it makes one.

    Raises:
        SerializationError: it holds no fact.
    """
    fact = read_outline(record)
    mark = audit_mark(fact)
    if mark is None:
        return None
    tell = _DETAILS.get(type(fact))
    details = {} if tell is None else tell(fact)
    return AuditEvent(run_id, record.seq, fact.at, mark.event, getattr(fact, "key", None), _by(fact), details)


def marked(records: Sequence[Record]) -> tuple[Record, ...]:
    """Return the whole log of a run, as it was before it was stored: with the marks of its own part.

    Raises:
        SerializationError: one holds no fact.
    """
    sealed = [replace(record, mark=audit_mark(read_outline(record))) for record in records]
    own = max((place for place, record in enumerate(sealed) if record.mark and record.mark.event == _FORKED), default=0)
    return (*(replace(record, mark=None) for record in sealed[:own]), *sealed[own:])


def own_events(run_id: str, records: Sequence[Record]) -> list[AuditEvent]:
    """Return the lines of a run, in the order of its log; what a fork shares is told of its source only."""
    events: list[AuditEvent] = []
    for record in records:
        event = audit_event(run_id, record)
        if event is not None:
            if event.event == _FORKED:
                events.clear()
            events.append(event)
    return events


def newest_first(events: Iterable[AuditEvent]) -> list[AuditEvent]:
    """Return lines in the order of listings: newest first, ties by ascending ``run_id``, then descending ``seq``."""
    by_run = sorted(events, key=lambda event: (event.run_id, -event.seq))
    return sorted(by_run, key=lambda event: event.at, reverse=True)


def _by(fact: Fact) -> str | None:
    match fact:
        case facts.SignalReceived(sent_by=who) | facts.RunResumed(owner=who):
            return who
        case _:
            return None


def _answer(fact: facts.SignalReceived) -> dict[str, Any]:
    sent_at = None if fact.sent_at is None else fact.sent_at.isoformat()
    name = fact.signal_id.rpartition("#")[0] if is_own_signal(fact.name) else fact.name
    return {"name": name, "signal_id": fact.signal_id, "sent_at": sent_at}


def _told(**details: Any) -> dict[str, Any]:
    return {name: told for name, told in details.items() if told}


def _in_short(error: Json) -> str:
    try:
        return describe_error(error)
    except SerializationError:  # its message stands beside the log
        return "an error with a long message: see the run"


_DETAILS: Final[dict[type[Any], Callable[[Any], dict[str, Any]]]] = {
    facts.SignalReceived: _answer,
    facts.RunForked: lambda fact: {"source_run_id": fact.source_run_id},
    facts.RunMigrated: lambda fact: {"pipeline_version": fact.pipeline_version},
    facts.RunPaused: lambda fact: _told(waiting_for=[each.name for each in fact.waiting_for], as_before=fact.kept),
    facts.RunFailed: lambda fact: {"error": _in_short(fact.error)},
    facts.RunCancelled: lambda fact: {"reason": fact.reason},
    facts.RollbackStarted: lambda fact: {"status": fact.status},
    facts.StepFailed: lambda fact: {"error": _in_short(fact.error)},
    facts.StepDecided: lambda fact: {"decision": fact.decision},
}
