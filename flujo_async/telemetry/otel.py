"""Runs as traces and metrics of OpenTelemetry.

The span of a run, and that of a step, has the same id in every process: it is made of the names of both. So a process
can be told of a parent that another one will end, and it does not matter which of them is killed. An attempt, which
happens in one process or not at all, has the span of that process.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from opentelemetry import context, metrics, trace
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import Span, Status, StatusCode, TracerProvider
from typing_extensions import override

from flujo_async._codec.exceptions import describe_error
from flujo_async._log.keys import is_plain_call
from flujo_async._log.views import Commit
from flujo_async._model import facts
from flujo_async._model.tree import JsonObject
from flujo_async.abc.instrument import AttemptIdentity, Instrument, RunIdentity, name_of
from flujo_async.telemetry.otel_metrics import Metrics
from flujo_async.telemetry.otel_traces import SCOPE, Place, Traces, nanoseconds


@dataclass(frozen=True, slots=True)
class _Driven:
    """A run that is driven here.

    Attributes:
        began: when the first attempt of each step began that has not ended, by key.
    """

    place: Place
    began: dict[str, datetime] = field(default_factory=dict[str, datetime])


class OpenTelemetryInstrument(Instrument):
    """Makes a span of each run, of each step and of each attempt of a step, and counts and measures them.

    The span of a run is a child of the span in which the run was created, that of a child run of its parent's. It is
    exported when the run ends, in the process where it ends, and so is that of a step. A run that is resumed, wherever,
    goes on in its trace, and what was recorded before is not exported again. While a step is executed, the span of the
    attempt is the current one, in a thread too; in the code of a workflow it is that of the run.

    Values are not exported: inputs, outputs and what steps emit may be large, or secret. Errors are.

    Args:
        tracer_provider: where spans go; by default the global one, which has to be set before the first run.
        meter_provider: where measurements go; by default the global one.
    """

    def __init__(
        self, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        self._traces = Traces(tracer_provider)
        self._metrics = Metrics(metrics.get_meter(SCOPE, meter_provider=meter_provider))
        self._driven: dict[tuple[str, datetime], _Driven] = {}

    @override
    def carrier(self, run: RunIdentity) -> Mapping[str, str]:
        return self._traces.carrier(run)

    @override
    def committed(self, run: RunIdentity, commits: Sequence[Commit]) -> None:
        for commit in commits:
            match commit.fact:
                case facts.RunStarted():
                    self._metrics.started(run)
                case facts.AttemptFailed() as fact:
                    self._metrics.retry(run, fact)
                case facts.UsageReported() as fact if self._is_counted(run, fact.key):
                    self._metrics.usage(run, fact)
                case facts.StepCompleted() | facts.StepFailed() as fact:
                    self._end_step(run, fact)
                case facts.RunCompleted() | facts.RunFailed() | facts.RunCancelled() as fact:
                    self._end_run(run, fact)
                case _:
                    pass

    @override
    @contextmanager
    def driving(self, run: RunIdentity) -> Generator[None]:
        driven = self._driven[name_of(run)] = _Driven(self._traces.place(run))
        self._metrics.driven(run, 1)
        token = context.attach(driven.place.inside)
        try:
            yield
        finally:
            context.detach(token)
            self._metrics.driven(run, -1)
            if self._driven.get(name_of(run)) is driven:  # else somebody else has the run by now
                del self._driven[name_of(run)]

    @override
    @contextmanager
    def attempt(self, run: RunIdentity, attempt: AttemptIdentity) -> Generator[None]:
        driven = self._driven_here(run)
        driven.began.setdefault(attempt.key, attempt.first_started_at)
        span = self._traces.attempt(run, driven.place, attempt)
        began, outcome = time.perf_counter(), "interrupted"
        try:
            with trace.use_span(span):  # which tells of an exception
                yield
            outcome = "succeeded"
        except Exception as error:
            outcome = "failed"
            span.set_attribute("error.type", type(error).__qualname__)
            raise
        finally:
            span.set_attribute("flujo.attempt.outcome", outcome)
            span.end()
            self._metrics.attempt(run, attempt.name, outcome, time.perf_counter() - began)

    def _end_step(self, run: RunIdentity, fact: facts.StepCompleted | facts.StepFailed) -> None:
        driven = self._driven_here(run)
        began = driven.began.pop(fact.key, fact.started_at)
        span = self._traces.step(run, driven.place, fact, began)
        status = "succeeded"
        if isinstance(fact, facts.StepFailed):
            status = "failed"
            _tell_error(span, fact.error)
        elif fact.cached_from is not None:
            span.set_attribute("flujo.step.cached_from", fact.cached_from)
        span.set_attribute("flujo.step.status", status)
        span.end(nanoseconds(fact.at))
        self._metrics.step(run, fact, status, (fact.at - began).total_seconds())

    def _is_counted(self, run: RunIdentity, key: str) -> bool:
        """Return whether this run has consumed something itself; what a child has is told by the child."""
        return key in self._driven_here(run).began or is_plain_call(key)

    def _end_run(self, run: RunIdentity, fact: facts.RunCompleted | facts.RunFailed | facts.RunCancelled) -> None:
        status = fact.kind.removeprefix("Run").lower()
        span = self._traces.run(run, self._driven_here(run).place)
        span.set_attribute("flujo.run.status", status)
        if isinstance(fact, facts.RunFailed):
            _tell_error(span, fact.error)
        span.end(nanoseconds(fact.at))
        self._metrics.ended(run, status, (fact.at - run.began_at).total_seconds())

    def _driven_here(self, run: RunIdentity) -> _Driven:
        return self._driven.get(name_of(run)) or _Driven(self._traces.place(run))


def _tell_error(span: Span, error: JsonObject) -> None:
    text = describe_error(error)
    span.set_attribute("error.type", text.partition(":")[0])
    span.set_status(Status(StatusCode.ERROR, text))
