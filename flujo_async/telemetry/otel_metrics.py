"""What a runtime counts and measures, for OpenTelemetry."""

from __future__ import annotations

from typing import Final

from opentelemetry.metrics import Meter

from flujo_async._model import facts
from flujo_async.abc.instrument import RunIdentity

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800, 3_600, 21_600, 86_400)
"""The bounds of the buckets of durations: a step may take milliseconds, and a run days."""


class Metrics:
    """The instruments of one meter. Names of definitions and steps are attributes, ids of runs are not.

    Args:
        meter: what makes them.
    """

    def __init__(self, meter: Meter) -> None:
        self._started = meter.create_counter("flujo.runs.started", "{run}", "Runs that were created.")
        self._ended = meter.create_counter("flujo.runs.ended", "{run}", "Runs that have ended, by status.")
        self._driven = meter.create_up_down_counter("flujo.runs.driven", "{run}", "Runs that are driven now.")
        self._steps = meter.create_counter("flujo.steps", "{step}", "Steps that have ended, by status.")
        self._attempts = meter.create_counter("flujo.attempts", "{attempt}", "Attempts of steps, by outcome.")
        self._retries = meter.create_counter(
            "flujo.retries", "{attempt}", "Attempts that failed and are followed by one."
        )
        self._tokens = meter.create_counter("flujo.usage.tokens", "{token}", "Tokens that were consumed, by kind.")
        self._cost = meter.create_counter(
            "flujo.usage.cost", "", "Money that was spent, in the currency it is reported in."
        )
        self._run_time = meter.create_histogram(
            "flujo.run.duration",
            "s",
            "From when a run began to its end.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._step_time = meter.create_histogram(
            "flujo.step.duration",
            "s",
            "From a step's first attempt to its end.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self._attempt_time = meter.create_histogram(
            "flujo.attempt.duration", "s", "One attempt of a step.", explicit_bucket_boundaries_advisory=_SECONDS
        )

    def started(self, run: RunIdentity) -> None:
        """Count a run that was created."""
        self._started.add(1, _of(run))

    def driven(self, run: RunIdentity, change: int) -> None:
        """Count a run that is driven from now on, or no more."""
        self._driven.add(change, _of(run))

    def ended(self, run: RunIdentity, status: str, seconds: float) -> None:
        """Count a run that has ended."""
        attributes = {**_of(run), "flujo.run.status": status}
        self._ended.add(1, attributes)
        self._run_time.record(seconds, attributes)

    def step(self, run: RunIdentity, fact: facts.StepCompleted | facts.StepFailed, status: str, seconds: float) -> None:
        """Count a step that has ended."""
        attributes = {**_of(run), "flujo.step.name": fact.name, "flujo.step.status": status}
        self._steps.add(1, attributes)
        self._step_time.record(seconds, attributes)

    def attempt(self, run: RunIdentity, name: str, outcome: str, seconds: float) -> None:
        """Count an attempt that is over."""
        attributes = {**_of(run), "flujo.step.name": name, "flujo.attempt.outcome": outcome}
        self._attempts.add(1, attributes)
        self._attempt_time.record(seconds, attributes)

    def retry(self, run: RunIdentity, fact: facts.AttemptFailed) -> None:
        """Count a failed attempt that another one follows."""
        self._retries.add(1, {**_of(run), "flujo.step.name": fact.name})

    def usage(self, run: RunIdentity, fact: facts.UsageReported) -> None:
        """Count what a step or the code of a workflow has reported to have consumed."""
        attributes = {**_of(run), "flujo.step.name": fact.name}
        for kind, tokens in (fact.token_counts or {"": fact.tokens}).items():
            if tokens:
                self._tokens.add(tokens, {**attributes, "flujo.token.kind": kind} if kind else attributes)
        if fact.cost:
            self._cost.add(float(fact.cost), attributes)


def _of(run: RunIdentity) -> dict[str, str]:
    return {"flujo.pipeline.name": run.pipeline_name}
