"""What readers see of a log: states, step records, commits and events, with values decoded."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from flujo_async._codec.exceptions import describe_error
from flujo_async._codec.facts import read_fact
from flujo_async._codec.values import Codec
from flujo_async._log.fold import Fold
from flujo_async._log.inputs import input_of
from flujo_async._model.facts import (
    AttemptFailed,
    EventEmitted,
    Fact,
    HeartbeatRecorded,
    RunCompleted,
    StepCompleted,
    StepFailed,
    StepStarted,
    WaitStarted,
)
from flujo_async._model.state import StepRecord, StepStatus, WorkflowState
from flujo_async._model.stored import Record
from flujo_async._model.usage import NO_USAGE


@dataclass(frozen=True, slots=True)
class Commit:
    """One fact of a log and its place there.

    Attributes:
        seq: its position, from 1.
        fact: what happened; its values are encoded.
        step: the key of the step that it is about, if it is about one.
        at: when it happened.
        hash: seals this fact and all before it.
    """

    seq: int
    fact: Fact
    step: str | None
    at: datetime
    hash: str


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a follower of a run is told, after it is durable.

    Attributes:
        seq: grows strictly over facts and emitted events alike; a follower that reconnects gives the last
            one it saw.
        kind: the kind of fact, such as ``StepCompleted``; ``EventEmitted`` for what a step emitted.
        step: the key of the step that it is about, if it is about one.
        at: when it happened.
        data: what the step emitted, or told by ``heartbeat``, or the output of the step or the run; otherwise ``None``.
    """

    seq: int
    kind: str
    step: str | None
    at: datetime
    data: Any


def commit_of(record: Record) -> Commit:
    """Return a record as a reader sees it."""
    return sealed(record, read_fact(record))


def sealed(record: Record, fact: Fact) -> Commit:
    """Return a record as a reader sees it, where its fact is at hand."""
    return Commit(record.seq, fact, getattr(fact, "key", None), fact.at, record.hash)


def event_of(record: Record, codec: Codec) -> Event:
    """Return a record as a follower sees it."""
    fact = read_fact(record)
    match fact:
        case EventEmitted(data=tree) | HeartbeatRecorded(details=tree):
            data = codec.decode(tree, at="data")
        case StepCompleted(output=tree) | RunCompleted(output=tree):
            data = codec.decode(tree, at="data")
        case _:
            data = None
    return Event(record.seq, fact.kind, getattr(fact, "key", None), fact.at, data)


def step_records(fold: Fold, codec: Codec) -> list[StepRecord]:
    """Return a record of each step, in the order of completion; then those not done, and those of graphs not begun."""
    return [step_record(fold, outcome, codec) for outcome in fold.outcomes.values()] + steps_not_ended(fold)


def steps_not_ended(fold: Fold) -> list[StepRecord]:
    """Return the records of the steps that are not done, and then those of graphs not begun."""
    begun: dict[str, AttemptFailed | StepStarted] = {**fold.failed_attempts, **fold.once}
    ended = fold.outcomes.keys() | fold.not_run.keys()
    unfinished = [_begun(fold, fact) for key, fact in begun.items() if key not in ended]
    return unfinished + _not_run(fold, fold.outcomes.keys() | begun.keys() - fold.not_run.keys())


def _not_run(fold: Fold, others: Set[str]) -> list[StepRecord]:
    """Return the records of the steps of graphs that have not run, and of those that will not."""
    left = StepStatus.CANCELLED if fold.status in ("failed", "cancelled") else StepStatus.PENDING
    steps = {key: (name, left) for graph in fold.graphs.values() for key, name in graph.items()} | fold.not_run
    return [
        StepRecord(
            key=key,
            name=name,
            status=status,
            attempts=0,
            input=None,
            output=None,
            error=None,
            started_at=None,
            finished_at=None,
        )
        for key, (name, status) in steps.items()
        if key not in others
    ]


def _begun(fold: Fold, fact: AttemptFailed | StepStarted) -> StepRecord:
    """Return the record of a step that waits for its next attempt, or is in one whose end is not known."""
    failed = fact if isinstance(fact, AttemptFailed) else None
    return StepRecord(
        key=fact.key,
        name=fact.name,
        status=StepStatus.RUNNING,
        attempts=fact.attempt,
        input=None,
        output=None,
        error=None if failed is None else describe_error(failed.error),
        started_at=(failed and failed.first_started_at) or fact.at,
        finished_at=None,
        usage=fold.usages.get(fact.key, NO_USAGE),
    )


def step_record(fold: Fold, outcome: StepCompleted | StepFailed, codec: Codec) -> StepRecord:
    """Return the record of a step that has ended."""
    if isinstance(outcome, StepCompleted):
        status, output, error = StepStatus.SUCCEEDED, codec.decode(outcome.output, at=f"{outcome.key}.output"), None
    else:
        status, output, error = StepStatus.FAILED, None, describe_error(outcome.error)
    return StepRecord(
        key=outcome.key,
        name=outcome.name,
        status=status,
        attempts=outcome.attempts,
        input=codec.decode(input_of(fold, outcome), at=f"{outcome.key}.input"),
        output=output,
        error=error,
        started_at=outcome.started_at,
        finished_at=outcome.at,
        usage=fold.usages.get(outcome.key, NO_USAGE),
    )


def open_until(fold: Fold, wait: WaitStarted) -> datetime | None:
    """Return when the time for an answer is over, if ever; a fork and a run tried again have the whole time."""
    return None if wait.deadline is None else wait.deadline + max(fold.began_at - wait.at, timedelta(0))


def workflow_state(fold: Fold, codec: Codec, steps: list[StepRecord] | None = None) -> WorkflowState:
    """Return the state of a run at the end of its fold; ``steps`` are its ``step_records``, if they are at hand."""
    started = fold.started
    context = fold.context.tree
    return WorkflowState(
        run_id=fold.run_id,
        pipeline_id=fold.fingerprint,
        pipeline_name=started.pipeline_name,
        pipeline_version=fold.pipeline_version,
        current_step_index=fold.current_step_index,
        pipeline_context={name: codec.decode(tree, at=f"context.{name}") for name, tree in context.items()},
        last_step_output=codec.decode(fold.last_step_output, at="last_step_output"),
        step_history=step_records(fold, codec) if steps is None else steps,
        status=fold.status,
        created_at=started.at,
        updated_at=fold.updated_at,
        error_message=fold.error_message,
        metadata=dict(fold.metadata),
        parent_run_id=started.parent_run_id,
        waiting_for=list(fold.waiting_for),
        version=fold.seq,
        hash=fold.hash,
        prev_hash=fold.prev_hash,
        usage=fold.usage,
        is_background_task=started.is_background,
        task_id=fold.run_id if started.is_background else None,
        background_error=fold.error_message if started.is_background else None,
    )
