"""One run, on paper and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Console

from flujo_async._codec.exceptions import describe_error
from flujo_async._codec.values import Codec
from flujo_async._model.state import RESTING, TERMINAL, StepRecord, StepStatus, Waiting
from flujo_async._model.summary import RunSummary
from flujo_async._model.usage import Usage
from flujo_async.cli.fact_line import describe, open_retries, open_timers, open_waits
from flujo_async.cli.runtime import resume_command
from flujo_async.cli.screen import (
    ago,
    as_json,
    brief,
    clock,
    columns,
    duration,
    moment,
    plain,
    print_line,
    print_pairs,
    put,
    screen,
    usage_text,
)
from flujo_async.cli.store import Found, is_interrupted, needs_worker, who

_SHOWN: Final = 10
"""How many steps are shown of a run that has many: the last ones, and the last of those that failed."""

_CODEC: Final = Codec.lenient()
_FINGERPRINT: Final = "sha256:"
_FINGERPRINT_SHOWN: Final = 8
_UNREMARKABLE: Final = frozenset({StepStatus.SUCCEEDED, StepStatus.SKIPPED})
_VALUES: Final = frozenset({"input", "output"})


def print_run(found: Found, flujo_option: str, *, everything: bool) -> None:
    """Print a run.

    Args:
        found: the run.
        flujo_option: how the command that executes it finds its ``Flujo``; see ``as_typed``.
        everything: leave out no step, cut no value, and add the traceback of a failure.
    """
    out = screen()
    print_pairs([*_head(found), *_whereabouts(found, flujo_option, everything=everything)], everything=True)
    if everything and found.fold.error is not None:
        lines = _error(found.fold.error)["traceback"].splitlines()
        out.print("", *map(plain, lines), sep="\n", soft_wrap=True)
    if found.state.pipeline_context:
        out.print("\nContext", style="bold")
        context = [(name, repr(value)) for name, value in found.state.pipeline_context.items()]
        print_pairs(context, everything=everything)
    _print_steps(out, found, everything=everything)


def print_standing(found: Found, flujo_option: str) -> None:
    """Print where a run stands, and what it left; ``flujo_option`` as in ``print_run``."""
    pairs = [("Run", found.summary.run_id), ("Status", standing(found.summary))]
    print_pairs([*pairs, *_whereabouts(found, flujo_option, everything=False)], everything=True)


def run_as_json(found: Found, *, everything: bool = False) -> dict[str, Any]:
    """Return a run as JSON; ``everything`` adds what went in and out of each step."""
    error = found.fold.error
    return summary_as_json(found.summary) | {
        "forked_from": found.forked_from,
        "context": as_json(found.state.pipeline_context),
        "output": as_json(found.output),
        "error": None if error is None else _error(error),
        "steps": [_step_as_json(step, everything=everything) for step in found.state.step_history],
    }


def summary_as_json(summary: RunSummary) -> dict[str, Any]:
    """Return the head of a run as JSON, with whether it is interrupted instead of who has it."""
    names = [field.name for field in fields(summary) if field.name != "lease"]
    told = {name: as_json(getattr(summary, name)) for name in names}
    return told | {"usage": usage_as_json(summary.usage), "is_interrupted": is_interrupted(summary)}


def usage_as_json(usage: Usage) -> dict[str, Any]:
    """Return what was consumed as JSON; the cost is a number."""
    return {"tokens": usage.tokens, "cost": float(usage.cost), "token_counts": dict(usage.token_counts)}


def standing(summary: RunSummary) -> str:
    """Return the status of a run, where ``interrupted`` is one that is running and that nobody drives."""
    return "interrupted" if is_interrupted(summary) else summary.status


def version(summary: RunSummary) -> str:
    """Return the version of a run's definition; of a fingerprint so much as tells it from others."""
    name = summary.pipeline_version
    if name.startswith(_FINGERPRINT):
        name = f"{name[len(_FINGERPRINT) :][:_FINGERPRINT_SHOWN]}…"
    return plain(name)


def _head(found: Found) -> Iterator[tuple[str, str]]:
    summary = found.summary
    now = datetime.now(UTC)
    yield "Run", summary.run_id
    yield "Pipeline", f"{summary.pipeline_name} {version(summary)}"
    if summary.parent_run_id:
        yield "Parent", summary.parent_run_id
    if found.forked_from:
        yield "Fork of", found.forked_from
    if summary.queue is not None:
        yield "Queue", f"{summary.queue}, priority {summary.priority}"
    yield "Status", standing(summary)
    yield "Created", f"{moment(summary.created_at)}, {ago(summary.created_at, now)}"
    yield "Updated", f"{moment(summary.updated_at)}, {ago(summary.updated_at, now)}"
    yield "Claimed", "once" if summary.attempts == 1 else f"{summary.attempts:,} times" if summary.attempts else "never"
    if summary.usage:
        usage = summary.usage
        yield "Consumed", usage_text(usage.tokens, usage.cost, usage.token_counts)
    if summary.metadata:
        yield "Metadata", repr(dict(summary.metadata))


def _whereabouts(found: Found, flujo_option: str, *, everything: bool) -> Iterator[tuple[str, str]]:
    """Tell why a run does not go on, or what came out of it."""
    summary = found.summary
    if driver := _driver(summary, flujo_option):
        yield "Driven by", driver
    if summary.wake_at is not None and summary.status not in RESTING:
        yield "Sleeps", f"until {moment(summary.wake_at)}"
    elif summary.status == "running":
        yield from (
            ("Sleeps", f"until {moment(wake_at)}, in {key}")
            for key, wake_at in open_timers(found.fold, datetime.now(UTC))
        )
    if (undoing := found.fold.rollback) is not None and summary.status not in TERMINAL:
        why = undoing.reason if undoing.error is None else describe_error(undoing.error)
        yield "Undoing", f"what was done; it will end as {undoing.status}{f': {why}' if why else ''}"
    for waiting in summary.waiting_for or open_waits(found.fold):
        yield "Waits for", _waiting(waiting)
    yield from (("Missing", _missing(child, summary, flujo_option)) for child in found.missing)
    if summary.signals > summary.signals_read and summary.status not in TERMINAL:
        yield "Signals", f"{summary.signals - summary.signals_read} that nobody has read yet"
    if summary.error_message is not None:
        yield "Error", summary.error_message
    if found.fold.reason:
        yield "Reason", found.fold.reason
    if summary.status == "completed":
        yield "Output", repr(found.output) if everything else brief(repr(found.output))


def _driver(summary: RunSummary, flujo_option: str) -> str | None:
    """Return who drives a run, or who would have to."""
    if is_interrupted(summary):
        return f"nobody: {resume_command(summary.run_id, flujo_option)} takes it up"
    if needs_worker(summary):
        return f"nobody: a worker of queue {summary.queue} takes it"
    if summary.lease is not None:
        return who(summary.lease.owner)
    if summary.status != "pending":
        return None
    return f"nobody yet: {resume_command(summary.run_id, flujo_option)} begins"


def _missing(child: str, summary: RunSummary, flujo_option: str) -> str:
    begins = resume_command(summary.run_id, flujo_option)
    return f"run {child!r}, which it waits for: import it as well, or {begins} begins it anew"


def _waiting(waiting: Waiting) -> str:
    return describe(waiting, tell_moment=moment, since=f", since {moment(waiting.since)}")


def note(summary: RunSummary) -> str:
    """Return what a run waits for, in short."""
    if summary.status in TERMINAL:
        return ""
    parts = [describe(waiting) for waiting in summary.waiting_for]
    if summary.wake_at is not None and not summary.waiting_for:
        parts.append(f"{clock(summary.wake_at)}, when it wakes")
    if needs_worker(summary):
        parts.append(f"a worker of queue {summary.queue}")
    return "; ".join(parts)


def _print_steps(out: Console, found: Found, *, everything: bool) -> None:
    steps = found.state.step_history
    statuses = Counter(step.status.value.lower() for step in steps)
    counts = ", ".join(f"{count:,} {status}" for status, count in statuses.items())
    out.print(f"\nSteps: {counts or 'none yet'}", style="bold")
    shown = list(steps) if everything else _telling(steps)
    if len(shown) < len(steps):
        out.print(f"The last {_SHOWN}, and what did not succeed; --all shows every step.")
    if not shown:
        return
    kinds = [kind for kind in ("Tokens", "Cost") if any(_amount(step.usage, kind) for step in shown)]
    table = columns("Step", "Status", whole=("Status",), numbers=("Attempts", "Time", *kinds))
    for step in shown:
        took = "" if step.duration is None else duration(step.duration)
        attempts = str(step.attempts) if step.attempts else ""
        amounts = [_amount(step.usage, kind) for kind in kinds]
        table.add_row(plain(step.key), step.status.value.lower(), attempts, took, *amounts)
    put(table)
    _print_errors(found, shown, everything=everything)


def _print_errors(found: Found, shown: Sequence[StepRecord], *, everything: bool) -> None:
    """Print why steps have failed: too long for a column beside the others."""
    table = columns("Step", "Error")
    retries = {fact.key: f"; the next attempt is at {clock(fact.retry_at)}" for fact in open_retries(found.fold)}
    for step in shown:
        if step.error:
            error = plain(step.error) if everything else brief(step.error)
            table.add_row(plain(step.key), f"{error}{retries.get(step.key, '')}")
    if table.row_count:
        print_line("")
        put(table)


def _amount(usage: Usage, kind: str) -> str:
    """Return how many tokens or how much money; nothing for none."""
    if kind == "Tokens":
        return f"{usage.tokens:,}" if usage.tokens else ""
    return f"{usage.cost:.6g}" if usage.cost else ""


def _telling(steps: Sequence[StepRecord]) -> list[StepRecord]:
    """Return the steps that tell how a run stands."""
    if len(steps) <= 2 * _SHOWN:
        return list(steps)
    trouble = [step for step in steps[:-_SHOWN] if step.status not in _UNREMARKABLE]
    return [*trouble[-_SHOWN:], *steps[-_SHOWN:]]


def _step_as_json(step: StepRecord, *, everything: bool) -> dict[str, Any]:
    names = [field.name for field in fields(step) if everything or field.name not in _VALUES]
    told = {name: as_json(getattr(step, name)) for name in names}
    return told | {"usage": usage_as_json(step.usage), "duration": step.duration}


def _error(record: Mapping[str, Any]) -> dict[str, str]:
    """Return what is legible of a recorded exception."""
    return {name: str(_CODEC.decode(record.get(name, ""))) for name in ("type", "message", "traceback")}
