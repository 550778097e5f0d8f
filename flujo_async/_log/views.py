"""What readers see of a log: states, step records, commits and events, with values decoded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flujo_async._codec.exceptions import describe_error
from flujo_async._codec.facts import decode_fact
from flujo_async._codec.values import Codec
from flujo_async._log.fold import Fold
from flujo_async._log.keys import MAIN_SCOPE
from flujo_async._model.facts import EventEmitted, Fact, StepCompleted, StepFailed
from flujo_async._model.state import StepRecord, StepStatus, WorkflowState
from flujo_async._model.stored import Record


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
        data: what the step emitted, or its output; ``None`` for other kinds.
    """

    seq: int
    kind: str
    step: str | None
    at: datetime
    data: Any


def commit_of(record: Record) -> Commit:
    """Return a record as a reader sees it."""
    fact = decode_fact(record.body)
    return Commit(record.seq, fact, getattr(fact, "key", None), fact.at, record.hash)


def event_of(record: Record, codec: Codec) -> Event:
    """Return a record as a follower sees it."""
    fact = decode_fact(record.body)
    match fact:
        case EventEmitted(data=tree) | StepCompleted(output=tree):
            data = codec.decode(tree, at="data")
        case _:
            data = None
    return Event(record.seq, fact.kind, getattr(fact, "key", None), fact.at, data)


def step_records(fold: Fold, codec: Codec) -> list[StepRecord]:
    """Return a record of each step, in the order of completion; steps that wait for a retry stand last."""
    finished = [_finished(fold, outcome, codec) for outcome in fold.outcomes.values()]
    return finished + [
        StepRecord(
            key=failed.key,
            name=failed.name,
            status=StepStatus.RUNNING,
            attempts=failed.attempt,
            input=None,
            output=None,
            error=describe_error(failed.error),
            started_at=failed.at,
            finished_at=None,
        )
        for failed in fold.failed_attempts.values()
        if failed.key not in fold.outcomes
    ]


def _finished(fold: Fold, outcome: StepCompleted | StepFailed, codec: Codec) -> StepRecord:
    if isinstance(outcome, StepCompleted):
        status, output, error = StepStatus.SUCCEEDED, codec.decode(outcome.output, at=f"{outcome.key}.output"), None
    else:
        status, output, error = StepStatus.FAILED, None, describe_error(outcome.error)
    return StepRecord(
        key=outcome.key,
        name=outcome.name,
        status=status,
        attempts=outcome.attempts,
        input=codec.decode(fold.input_of(outcome), at=f"{outcome.key}.input"),
        output=output,
        error=error,
        started_at=outcome.started_at,
        finished_at=outcome.at,
    )


def workflow_state(fold: Fold, codec: Codec) -> WorkflowState:
    """Return the state of a run at the end of its fold."""
    started = fold.started
    context = fold.contexts[MAIN_SCOPE]
    return WorkflowState(
        run_id=fold.run_id,
        pipeline_id=fold.fingerprint,
        pipeline_name=started.pipeline_name,
        pipeline_version=fold.pipeline_version,
        current_step_index=fold.current_step_index,
        pipeline_context={name: codec.decode(tree, at=f"context.{name}") for name, tree in context.items()},
        last_step_output=codec.decode(fold.last_step_output, at="last_step_output"),
        step_history=step_records(fold, codec),
        status=fold.status,
        created_at=started.at,
        updated_at=fold.updated_at,
        error_message=fold.error_message,
        metadata=dict(started.metadata),
        parent_run_id=started.parent_run_id,
        waiting_for=list(fold.waiting_for),
        version=fold.seq,
        hash=fold.hash,
        prev_hash=fold.prev_hash,
    )


def commits(records: Iterable[Record]) -> list[Commit]:
    """Return all records as readers see them."""
    return [commit_of(record) for record in records]
