"""The spans of runs, steps and attempts, each where it belongs in the trace of its run."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan, Span, SpanContext, Tracer, TracerProvider

from flujo_async._model import facts
from flujo_async.abc.instrument import AttemptIdentity, RunIdentity
from flujo_async.telemetry.otel_ids import Ids, span_id, trace_id

SCOPE: Final = "flujo_async"
"""The name of the tracer and of the meter."""

_CALLER: Final = "flujo-caller"
"""Where a carrier has the id of the span in which its run was created."""

_RANDOM: Final = 0x02
"""The flag of an id of a trace that was made by chance."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run stands in its trace.

    Attributes:
        own: what its span is, or will be.
        parent: the context to start that span in.
        inside: the context of all that happens in the run.
    """

    own: SpanContext
    parent: Context
    inside: Context


class Traces:
    """Starts spans.

    Args:
        provider: makes the tracer; ``None`` is the global one, as soon as that has been set.
    """

    def __init__(self, provider: TracerProvider | None) -> None:
        self._provider = provider
        self._known: tuple[Tracer, Ids | None] | None = None

    def _tracer(self) -> tuple[Tracer, Ids | None]:
        """Return the tracer, and what chooses the ids of its spans, if anything can."""
        if self._known is not None:
            return self._known
        tracer = (self._provider or trace.get_tracer_provider()).get_tracer(SCOPE)
        known = tracer, Ids.of(tracer)
        if not isinstance(tracer, trace.ProxyTracer):  # which stands for one that is not there yet
            self._known = known
        return known

    def _choosing(
        self, span_id: int, trace_id: int = 0, *, is_random: bool = False
    ) -> tuple[Tracer, AbstractContextManager[None]]:
        """Return the tracer, and what is entered while it starts a span with these ids."""
        tracer, ids = self._tracer()
        return tracer, nullcontext() if ids is None else ids.chosen(span_id, trace_id, is_random=is_random)

    def carrier(self, run: RunIdentity) -> dict[str, str]:
        """Return what tells other processes the place of a run that is being created here."""
        caller = trace.get_current_span().get_span_context()
        carrier: dict[str, str] = {}
        # Begun, and ended elsewhere: what is carried is its place in the trace, and whether that is sampled.
        propagate.inject(carrier, trace.set_span_in_context(self._start_run(run, None)))
        if caller.is_valid:
            carrier[_CALLER] = trace.format_span_id(caller.span_id)
        return carrier

    def place(self, run: RunIdentity) -> Place:
        """Return where a run stands: the same in every process."""
        carried = propagate.extract(run.carrier, Context())
        first = trace.get_current_span(carried).get_span_context()
        if not first.is_valid:  # it was created where nobody observed it
            first = self._start_run(run, Context(), trace_id(run)).get_span_context()
        if first.span_id == span_id(run):
            caller = _at(run.carrier.get(_CALLER, ""), first)
            return Place(first, _inside(caller, carried), _inside(first, carried))
        own = first  # the place of what it was before it was tried again, or of what it was forked from
        if self._tracer()[1] is not None and first.is_valid:
            own = SpanContext(first.trace_id, span_id(run), False, first.trace_flags, first.trace_state)
        return Place(own, _inside(first, carried), _inside(own, carried))

    def run(self, run: RunIdentity, place: Place) -> Span:
        """Start the span of a run, when the run has ended."""
        if place.own.is_valid and not place.own.trace_flags.sampled:  # which was decided when it was created
            return NonRecordingSpan(place.own)
        return self._start_run(run, place.parent, place.own.trace_id, bool(place.own.trace_flags & _RANDOM))

    def _start_run(self, run: RunIdentity, parent: Context | None, trace_id: int = 0, is_random: bool = False) -> Span:
        tracer, chosen = self._choosing(span_id(run), trace_id, is_random=is_random)
        with chosen:
            return tracer.start_span(
                f"run {run.pipeline_name}", parent, attributes=_of(run), start_time=nanoseconds(run.began_at)
            )

    def step(
        self, run: RunIdentity, place: Place, fact: facts.StepCompleted | facts.StepFailed, began: datetime
    ) -> Span:
        """Start the span of a step, when the step has ended."""
        attributes = {
            **_of(run),
            "flujo.step.name": fact.name,
            "flujo.step.key": fact.key,
            "flujo.step.attempts": fact.attempts,
        }
        tracer, chosen = self._choosing(span_id(run, fact.key))
        with chosen:
            return tracer.start_span(
                f"step {fact.name}", place.inside, attributes=attributes, start_time=nanoseconds(began)
            )

    def attempt(self, run: RunIdentity, place: Place, attempt: AttemptIdentity) -> Span:
        """Start the span of an attempt, when it begins."""
        tracer, ids = self._tracer()
        attributes = {
            **_of(run),
            "flujo.step.name": attempt.name,
            "flujo.step.key": attempt.key,
            "flujo.attempt.number": attempt.number,
        }
        own, parent = place.own, place.inside
        if ids is not None and own.is_valid:
            step = SpanContext(own.trace_id, span_id(run, attempt.key), False, own.trace_flags, own.trace_state)
            parent = _inside(step, parent)
        return tracer.start_span(f"attempt {attempt.name}", parent, attributes=attributes)


def nanoseconds(moment: datetime) -> int:
    """Return a moment as OpenTelemetry counts time: since 1970, exactly."""
    return (moment - _EPOCH) // _MICROSECOND * 1_000


def _of(run: RunIdentity) -> dict[str, str | int]:
    attributes: dict[str, str | int] = {
        "flujo.run.id": run.run_id,
        "flujo.pipeline.name": run.pipeline_name,
        "flujo.pipeline.version": run.pipeline_version,
    }
    if run.parent_run_id is not None:
        attributes["flujo.run.parent_id"] = run.parent_run_id
    return attributes


def _at(number: str, beside: SpanContext) -> SpanContext | None:
    """Return the place of a span in another process, of which only the id is known; ``None`` without one."""
    try:
        return SpanContext(beside.trace_id, int(number, 16), True, beside.trace_flags, beside.trace_state)
    except ValueError:
        return None


def _inside(place: SpanContext | None, context: Context) -> Context:
    return trace.set_span_in_context(INVALID_SPAN if place is None else NonRecordingSpan(place), context)
