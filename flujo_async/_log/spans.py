"""The spans of a run: what took how long, as its log tells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any, Final, TypeAlias

from flujo_async._codec.exceptions import describe_error
from flujo_async._codec.facts import read_fact
from flujo_async._codec.values import Codec
from flujo_async._log.fold import Fold
from flujo_async._log.keys import is_task
from flujo_async._model import facts
from flujo_async._model.facts import Fact
from flujo_async._model.state import TERMINAL
from flujo_async._model.stored import Record
from flujo_async._model.usage import NO_USAGE, Usage

Span: TypeAlias = dict[str, Any]
"""Has ``span_id``, ``parent_span_id``, ``name``, ``start_time``, ``end_time``, ``status``, ``attributes``, ``events``.

Times are seconds since 1970 in UTC."""

_COMBINATORS: Final = frozenset({"parallel", "map_each", "branch", "loop", "graph"})
_ID_DIGITS: Final = 16


def span_id_of(run_id: str, key: str = "", attempt: int = 0) -> str:
    """Return the id of the span of a run, of something in it, or of one attempt: the same whenever it is asked for."""
    return sha256(f"{run_id}\0{key}\0{attempt}".encode()).hexdigest()[:_ID_DIGITS]


def span_order(span: Span) -> tuple[float, str]:
    """Return the sort key of spans: by the time of their start, ties by id."""
    return span["start_time"], span["span_id"]


def spans_of(fold: Fold, records: Iterable[Record]) -> list[Span]:
    """Return the spans of a run, in the order of ``span_order``.

    There is one for the run, whose name is that of its definition, one for each step, combinator, child, wait and
    sleep, and, of a step that was tried several times, one for each attempt. What is still open when the run ends,
    ends with it.

    Args:
        fold: the state of the run.
        records: its whole log, with the values of its blobs.
    """
    trace = _Trace(fold)
    for record in records:
        trace.take_in(read_fact(record))
    return trace.finished()


class _Trace:
    """Makes spans of facts."""

    def __init__(self, fold: Fold) -> None:
        self._fold = fold
        self._by_key: dict[str, Span] = {}
        self._attempts: dict[str, Span] = {}
        self._retries: dict[str, datetime] = {}
        self._blocks: dict[str, datetime] = {}  # when combinators were done
        self._graphs: dict[str, datetime] = {}
        self._events: list[facts.EventEmitted] = []

    def take_in(self, fact: Fact) -> None:
        match fact:
            case facts.EventEmitted():
                self._events.append(fact)
            case facts.GraphStarted():
                self._graphs[fact.key] = fact.at
            case facts.BlockCompleted():
                self._blocks[fact.key] = fact.at
            case facts.RunRedriven():
                self._blocks = {key: at for key, at in self._blocks.items() if key not in fact.dropped}
            case facts.TimerStarted():
                self._begin(fact.key, "sleep", fact.at, "sleep")
            case facts.WaitStarted():
                self._begin(fact.key, fact.name, fact.at, "wait")
            case facts.TimerFired() | facts.SignalReceived() | facts.WaitTimedOut():
                self._end(fact.key, fact.at, "failed" if isinstance(fact, facts.WaitTimedOut) else "completed")
            case _:
                self._take_in_step(fact)

    def _take_in_step(self, fact: Fact) -> None:
        match fact:
            case facts.StepStarted():
                self._begin(fact.key, fact.name, fact.at, "step")
            case facts.ChildStarted():
                self._begin(fact.key, fact.name, fact.at, "child")["attributes"]["child_run_id"] = fact.run_id
            case facts.AttemptFailed():
                self._fail_attempt(fact)
            case facts.StepCompleted() | facts.StepFailed():
                self._end_step(fact)
            case facts.StepSkipped() | facts.StepCancelled():
                self._begin(fact.key, fact.name, fact.at, "step")
                self._end(fact.key, fact.at, "skipped" if isinstance(fact, facts.StepSkipped) else "cancelled")
            case facts.CallCancelled():
                self._end(fact.key, fact.at, "cancelled")
            case _:
                pass

    def finished(self) -> list[Span]:
        """Return all spans."""
        fold = self._fold
        root = _span(fold.run_id, "", fold.started.pipeline_name, fold.started.at, "run")
        root["attributes"] |= {"run_id": fold.run_id, "pipeline_version": fold.pipeline_version}
        if fold.finished_at is not None:
            _close(root, fold.finished_at, fold.status)
        self._close_what_is_open()
        self._by_key |= {key: self._block(key, inside) for key, inside in self._inside_blocks().items()}
        for key, span in self._by_key.items():
            span["parent_span_id"] = self._around(key, root)["span_id"]
        self._tell_usage(root)
        self._tell_events(root)
        spans = [root, *self._by_key.values(), *self._attempts.values()]
        return sorted(spans, key=span_order)

    def _begin(self, key: str, name: str, at: datetime, kind: str) -> Span:
        """Return the span that is open for a key, a new one if there is none."""
        span = self._by_key.get(key)
        if span is None or span["end_time"] is not None:
            span = self._by_key[key] = _span(self._fold.run_id, key, name, at, kind)
        return span

    def _end(self, key: str, at: datetime, status: str) -> None:
        span = self._by_key.get(key)
        if span is not None and span["end_time"] is None:
            _close(span, at, status)

    def _fail_attempt(self, fact: facts.AttemptFailed) -> None:
        began = self._retries.get(fact.key) or fact.first_started_at or fact.at
        self._begin(fact.key, fact.name, began, "step")
        self._retries[fact.key] = fact.retry_at
        self._attempt(fact, fact.attempt, min(began, fact.at), "failed", describe_error(fact.error))

    def _end_step(self, fact: facts.StepCompleted | facts.StepFailed) -> None:
        span = self._begin(fact.key, fact.name, fact.started_at, "step")
        span["attributes"]["attempts"] = fact.attempts
        status, error = "completed", None
        if isinstance(fact, facts.StepFailed):
            status, error = "failed", describe_error(fact.error)
            span["attributes"]["error"] = error
        elif fact.cached_from is not None:
            span["attributes"]["cached_from"] = fact.cached_from
        if self._retries.pop(fact.key, None) is not None:
            self._attempt(fact, fact.attempts, fact.started_at, status, error)
        _close(span, fact.at, status)

    def _attempt(
        self,
        fact: facts.AttemptFailed | facts.StepCompleted | facts.StepFailed,
        attempt: int,
        began: datetime,
        status: str,
        error: str | None,
    ) -> None:
        span = _span(self._fold.run_id, fact.key, f"{fact.name} attempt {attempt}", began, "attempt", attempt)
        span["parent_span_id"] = span_id_of(self._fold.run_id, fact.key)
        span["attributes"] |= {"attempt": attempt} if error is None else {"attempt": attempt, "error": error}
        _close(span, fact.at, status)
        self._attempts[span["span_id"]] = span

    def _close_what_is_open(self) -> None:
        at = self._fold.finished_at
        for span in self._by_key.values():
            if at is not None and span["end_time"] is None:
                _close(span, at, "cancelled")

    def _inside_blocks(self) -> dict[str, list[Span]]:
        """Return what is in each combinator, also in those that are not done, and not told by a fact of their own."""
        inside: dict[str, list[Span]] = {key: [] for key in (*self._blocks, *self._graphs)}
        for key, span in self._by_key.items():
            for outer in _above(key):
                is_kind = outer.rpartition("/")[2].partition("@")[0] in _COMBINATORS
                if outer in inside or ((is_kind or "/" not in outer) and outer not in self._by_key):
                    inside.setdefault(outer, []).append(span)
        return {key: spans for key, spans in inside.items() if key not in self._by_key}

    def _block(self, key: str, inside: Sequence[Span]) -> Span:
        done_at = self._blocks.get(key)
        begun_at = self._graphs.get(key) or done_at or self._fold.started.at
        kind = "task" if is_task(key) else "combinator"
        span = _span(self._fold.run_id, key, key.rpartition("/")[2], begun_at, kind)
        span["start_time"] = min((inner["start_time"] for inner in inside), default=span["start_time"])
        if done_at is not None:
            _close(span, done_at, "completed")
        elif self._fold.status in TERMINAL or any(outer in self._blocks for outer in _above(key)):
            span["end_time"] = max(
                (inner["end_time"] or inner["start_time"] for inner in inside), default=span["start_time"]
            )
            span["status"] = self._status_of(key, inside)
        return span

    def _status_of(self, key: str, inside: Sequence[Span]) -> str:
        """Return how a combinator ended whose end is told by no fact: that of an outermost one is, if it is done.

        The end of a task of a workflow is told by none: it ended as what it did last.
        """
        if is_task(key):
            last = max(inside, key=lambda inner: inner["end_time"] or inner["start_time"])
            return str(last["status"])
        if "/" not in key:
            return "failed" if self._fold.status == "failed" else "cancelled"
        found = {inner["status"] for inner in inside}
        return next((status for status in ("failed", "cancelled") if status in found), "completed")

    def _around(self, key: str, root: Span) -> Span:
        return next((self._by_key[outer] for outer in _above(key) if outer in self._by_key), root)

    def _tell_usage(self, root: Span) -> None:
        totals: dict[str, Usage] = {}  # what the code of a workflow reports has no span of its own
        for key, usage in self._fold.usages.items():
            span = self._by_key.get(key) or self._around(key, root)
            total = totals[span["span_id"]] = totals.get(span["span_id"], NO_USAGE) + usage
            span["attributes"] |= {"cost": float(total.cost), "tokens": total.tokens}

    def _tell_events(self, root: Span) -> None:
        codec = Codec.lenient()
        for event in self._events:
            span = self._by_key.get(event.key) or self._around(event.key, root)
            data = codec.decode(event.data, at=f"{event.key}.event")
            span["events"].append({"name": event.name, "time": event.at.timestamp(), "data": data})


def _above(key: str) -> Iterator[str]:
    """Yield the keys that a key stands below, the nearest first."""
    while "/" in key:
        key = key.rpartition("/")[0]
        yield key


def _span(run_id: str, key: str, name: str, at: datetime, kind: str, attempt: int = 0) -> Span:
    return {
        "span_id": span_id_of(run_id, key, attempt),
        "parent_span_id": None,
        "name": name,
        "start_time": at.timestamp(),
        "end_time": None,
        "status": "running",
        "attributes": {"kind": kind, "key": key} if key else {"kind": kind},
        "events": [],
    }


def _close(span: Span, at: datetime, status: str) -> None:
    span["end_time"], span["status"] = max(at.timestamp(), span["start_time"]), status
