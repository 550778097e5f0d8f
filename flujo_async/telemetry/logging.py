"""Runs in the log of the program that drives them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from typing_extensions import override

from flujo_async._codec.exceptions import describe_error
from flujo_async._log.awaited import told_waits
from flujo_async._log.keys import is_own_signal
from flujo_async._log.views import Commit
from flujo_async._model import facts
from flujo_async._model.state import Waiting
from flujo_async.abc.instrument import Instrument, RunIdentity

Told: TypeAlias = tuple[int, str]
"""A level, and what is said at it."""


class LoggingInstrument(Instrument):
    """Writes a line to a logger of the standard library for each fact that is worth one.

    Runs and completed steps are told at ``INFO``, what else steps and waits do at ``DEBUG``, an attempt that failed at
    ``WARNING``, and what failed for good at ``ERROR``. Values are not logged: inputs, outputs, answers to waits and
    what steps emit may be large, or secret. Errors are, with their message.

    Each record has these attributes, where they apply, for a formatter that writes them as fields: ``flujo_run_id``,
    ``flujo_pipeline``, ``flujo_version``, ``flujo_parent_run_id``, ``flujo_seq``, ``flujo_kind`` (of the fact),
    ``flujo_step`` (its key), ``flujo_attempt``, ``flujo_duration`` (in seconds), ``flujo_tokens``, ``flujo_cost``,
    ``flujo_owner`` (who takes a run up) and ``flujo_error``.

    Args:
        logger: the logger to write to, or its name.
    """

    def __init__(self, logger: logging.Logger | str = "flujo_async.run") -> None:
        self._logger = logging.getLogger(logger) if isinstance(logger, str) else logger

    @override
    def committed(self, run: RunIdentity, commits: Sequence[Commit]) -> None:
        for commit in commits:
            told = _tell(commit.fact)
            if told is not None and self._logger.isEnabledFor(told[0]):
                level, text = told
                self._logger.log(level, "run %r %s", run.run_id, text, extra=_fields(run, commit))


def _tell(fact: facts.Fact) -> Told | None:
    """Return what a fact says, and how loudly; ``None`` for those that only the runtime cares about."""
    teller = _TELL.get(type(fact))
    return None if teller is None else teller(fact)


def _fields(run: RunIdentity, commit: Commit) -> dict[str, Any]:
    fact = commit.fact
    fields: dict[str, Any] = {
        "flujo_run_id": run.run_id,
        "flujo_pipeline": run.pipeline_name,
        "flujo_version": run.pipeline_version,
        "flujo_seq": commit.seq,
        "flujo_kind": fact.kind,
    }
    if run.parent_run_id is not None:
        fields["flujo_parent_run_id"] = run.parent_run_id
    if commit.step is not None:
        fields["flujo_step"] = commit.step
    match fact:
        case facts.StepCompleted() | facts.StepFailed():
            fields["flujo_attempt"] = fact.attempts
            fields["flujo_duration"] = (fact.at - fact.started_at).total_seconds()
        case facts.AttemptFailed() | facts.StepStarted() | facts.HeartbeatRecorded():
            fields["flujo_attempt"] = fact.attempt
        case facts.RunCompleted() | facts.RunFailed() | facts.RunCancelled():
            fields["flujo_duration"] = (fact.at - run.began_at).total_seconds()
        case facts.RunResumed():
            fields["flujo_owner"] = fact.owner
        case facts.UsageReported():
            fields["flujo_tokens"], fields["flujo_cost"] = fact.tokens, fact.cost
        case _:
            pass
    if isinstance(fact, facts.AttemptFailed | facts.StepFailed | facts.RunFailed):
        fields["flujo_error"] = describe_error(fact.error)
    return fields


def _effort(fact: facts.StepCompleted | facts.StepFailed) -> str:
    tries = f", at attempt {fact.attempts}" if fact.attempts > 1 else ""
    return f"after {(fact.at - fact.started_at).total_seconds():.3f} s{tries}"


def _completed(fact: facts.StepCompleted) -> Told:
    if fact.cached_from is not None:
        return logging.INFO, f"step {fact.key!r}: taken from run {fact.cached_from!r}, which had done it"
    return logging.INFO, f"step {fact.key!r}: done {_effort(fact)}"


def _failed(fact: facts.StepFailed) -> Told:
    return logging.ERROR, f"step {fact.key!r}: failed {_effort(fact)}: {describe_error(fact.error)}"


def _attempt_failed(fact: facts.AttemptFailed) -> Told:
    wait = (fact.retry_at - fact.at).total_seconds()
    error = describe_error(fact.error)
    return logging.WARNING, f"step {fact.key!r}: attempt {fact.attempt} failed, the next is in {wait:.3f} s: {error}"


def _used(fact: facts.UsageReported) -> Told:
    return logging.DEBUG, f"step {fact.key!r}: has used {fact.tokens} tokens, at a cost of {fact.cost}"


def _received(fact: facts.SignalReceived) -> Told | None:
    return None if is_own_signal(fact.name) else (logging.DEBUG, f"wait {fact.name!r}: answered")


def _what(waiting: Waiting) -> str:
    return waiting.kind if waiting.kind == waiting.name else f"{waiting.kind} {waiting.name!r}"


def _paused(fact: facts.RunPaused) -> Told:
    return logging.INFO, f"is paused, and waits for {', '.join(told_waits(fact, _what)) or 'nothing'}"


_TELL: Final[Mapping[type[Any], Callable[[Any], Told | None]]] = {
    facts.RunStarted: lambda fact: (logging.INFO, f"is started: {fact.pipeline_name} {fact.pipeline_version}"),
    facts.RunForked: lambda fact: (logging.INFO, f"is forked from run {fact.source_run_id!r}"),
    facts.RunRedriven: lambda _: (logging.INFO, "is tried again"),
    facts.RunResumed: lambda fact: (logging.INFO, f"is taken up ({fact.cause})"),
    facts.RunMigrated: lambda fact: (logging.INFO, f"goes on as version {fact.pipeline_version}"),
    facts.RollbackStarted: lambda fact: (logging.INFO, f"will be {fact.status}: what it did is being undone"),
    facts.RunPaused: _paused,
    facts.RunCompleted: lambda _: (logging.INFO, "is completed"),
    facts.RunFailed: lambda fact: (logging.ERROR, f"has failed: {describe_error(fact.error)}"),
    facts.RunCancelled: lambda fact: (logging.INFO, f"is cancelled: {fact.reason}" if fact.reason else "is cancelled"),
    facts.StepCompleted: _completed,
    facts.StepFailed: _failed,
    facts.AttemptFailed: _attempt_failed,
    facts.UsageReported: _used,
    facts.StepStarted: lambda fact: (logging.DEBUG, f"step {fact.key!r}: attempt {fact.attempt} begins"),
    facts.StepDecided: lambda fact: (logging.INFO, f"step {fact.key!r}: decided to {fact.decision} it"),
    facts.StepSkipped: lambda fact: (logging.DEBUG, f"step {fact.key!r}: skipped"),
    facts.StepCancelled: lambda fact: (logging.DEBUG, f"step {fact.key!r}: cancelled"),
    facts.TimerStarted: lambda fact: (logging.DEBUG, f"sleep {fact.key!r}: until {fact.wake_at.isoformat()}"),
    facts.TimerFired: lambda fact: (logging.DEBUG, f"sleep {fact.key!r}: over"),
    facts.WaitStarted: lambda fact: (logging.DEBUG, f"wait {fact.name!r}: begins"),
    facts.SignalReceived: _received,
    facts.WaitTimedOut: lambda fact: (logging.DEBUG, f"wait {fact.key!r}: nobody answered in time"),
    facts.ChildStarted: lambda fact: (logging.DEBUG, f"child run {fact.run_id!r}: started"),
}
