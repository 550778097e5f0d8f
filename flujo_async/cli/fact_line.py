"""Facts in one line each, for whoever looks at a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from flujo_async._codec.exceptions import describe_error
from flujo_async._codec.values import Codec
from flujo_async._log.awaited import told_waits
from flujo_async._log.fold import Fold
from flujo_async._log.keys import is_own_signal
from flujo_async._log.views import open_until
from flujo_async._model import facts
from flujo_async._model.facts import Fact
from flujo_async._model.state import Waiting
from flujo_async._model.tree import Json
from flujo_async.cli.screen import brief, clock, duration, usage_text

_CODEC: Final = Codec.lenient()


def tell(fact: Fact) -> str | None:
    """Return what a fact says; ``None`` for those that only the runtime cares about."""
    teller = _TELL.get(type(fact))
    return None if teller is None else teller(fact)


def describe(waiting: Waiting, *, tell_moment: Callable[[datetime], str] = clock, since: str = "") -> str:
    """Return what is waited for, until when, and what to ask.

    Args:
        waiting: what.
        tell_moment: how to write moments.
        since: what to tell of the beginning.
    """
    child = f" of child {waiting.run_id}" if waiting.run_id else ""
    until = f", until {tell_moment(waiting.deadline)}" if waiting.deadline else ""
    prompt = f": {waiting.prompt}" if waiting.prompt else ""
    return f"{_what(waiting)}{child}{since}{until}{prompt}"


def _what(waiting: Waiting) -> str:
    match waiting.kind:
        case "signal":
            return f"signal {waiting.name}"
        case "decision":
            return f"a decision on step {waiting.name}, by `runs redrive`"
        case "pause":
            return "`runs resume`: somebody paused it"
        case "definition":
            return "the code that it was recorded by"


def open_waits(fold: Fold) -> list[Waiting]:
    """Return what a run waits for: all of it if it is paused, else what some of its branches wait for."""
    if fold.waiting_for or fold.finished_at is not None:
        return list(fold.waiting_for)
    return [
        Waiting(kind="signal", name=wait.name, since=wait.at, prompt=wait.prompt, deadline=open_until(fold, wait))
        for key, wait in fold.waits.items()
        if key not in fold.answers
    ]


def open_timers(fold: Fold, now: datetime) -> list[tuple[str, datetime]]:
    """Return the sleeps that are not over, by key."""
    timers = fold.timers.items() if fold.finished_at is None else ()
    # That one is over is told together with what comes next.
    return [(key, moment) for key, moment in timers if key not in fold.answers and moment > now]


def open_retries(fold: Fold) -> Iterator[facts.AttemptFailed]:
    """Yield the last failed attempt of each step that is to be tried again."""
    if fold.finished_at is None:
        yield from (fact for key, fact in fold.failed_attempts.items() if key not in fold.outcomes)


def _completed(fact: facts.StepCompleted) -> str:
    if fact.cached_from is not None:
        return f"{fact.key}: taken from run {fact.cached_from}, which had done it"
    return f"{fact.key}: done{_effort(fact)}"


def _failed(fact: facts.StepFailed) -> str:
    return f"{fact.key}: failed{_effort(fact)}: {brief(describe_error(fact.error))}"


def _effort(fact: facts.StepCompleted | facts.StepFailed) -> str:
    tries = f" at attempt {fact.attempts}" if fact.attempts > 1 else ""
    return f"{tries}, {duration((fact.at - fact.started_at).total_seconds())}"


def _attempt_failed(fact: facts.AttemptFailed) -> str:
    error = brief(describe_error(fact.error))
    return f"{fact.key}: attempt {fact.attempt} failed ({error}), the next is at {clock(fact.retry_at)}"


def _consumed(fact: facts.UsageReported) -> str:
    return f"{fact.key}: consumed {usage_text(fact.tokens, fact.cost, fact.token_counts) or 'nothing'}"


def _emitted(fact: facts.EventEmitted) -> str:
    return f"{fact.key}: {_value(fact.data)}"


def _value(tree: Json) -> str:
    return brief(repr(_CODEC.decode(tree)))


def _wait(fact: facts.WaitStarted) -> str:
    waiting = Waiting(kind="signal", name=fact.name, since=fact.at, prompt=fact.prompt, deadline=fact.deadline)
    return f"waits for {describe(waiting)}"


def _received(fact: facts.SignalReceived) -> str | None:
    by = f" by {fact.sent_by}" if fact.sent_by else ""
    return None if is_own_signal(fact.name) else f"{fact.name}: answered{by}"


def _paused(fact: facts.RunPaused) -> str:
    return "; ".join(["paused", *(f"waits for {each}" for each in told_waits(fact, _what))])


_TELL: Final[Mapping[type[Any], Callable[[Any], str | None]]] = {
    facts.RunStarted: lambda fact: f"started: {fact.pipeline_name}",
    facts.RunForked: lambda fact: f"forked from run {fact.source_run_id}",
    facts.RunRedriven: lambda _: "tried again",
    facts.RunResumed: lambda _: "taken up",
    facts.RunMigrated: lambda fact: f"goes on as version {fact.pipeline_version}",
    facts.StepStarted: lambda fact: f"{fact.key}: attempt {fact.attempt} begins",
    facts.StepDecided: lambda fact: f"{fact.key}: decided to {fact.decision} it",
    facts.HeartbeatRecorded: lambda fact: f"{fact.key}: {_value(fact.details)}",
    facts.UsageReported: _consumed,
    facts.AttemptFailed: _attempt_failed,
    facts.StepCompleted: _completed,
    facts.StepFailed: _failed,
    facts.StepSkipped: lambda fact: f"{fact.key}: skipped",
    facts.StepCancelled: lambda fact: f"{fact.key}: cancelled",
    facts.TimerStarted: lambda fact: f"{fact.key}: sleeps until {clock(fact.wake_at)}",
    facts.TimerFired: lambda fact: f"{fact.key}: woke up",
    facts.WaitStarted: _wait,
    facts.SignalReceived: _received,
    facts.WaitTimedOut: lambda fact: f"{fact.key}: nobody answered in time",
    facts.ChildStarted: lambda fact: f"{fact.key}: child run {fact.run_id}",
    facts.RollbackStarted: lambda _: "what was done is being undone",
    facts.EventEmitted: _emitted,
    facts.RunPaused: _paused,
    facts.RunCompleted: lambda _: "completed",
    facts.RunFailed: lambda fact: f"failed: {brief(describe_error(fact.error))}",
    facts.RunCancelled: lambda fact: f"cancelled: {fact.reason}" if fact.reason else "cancelled",
}
