"""What can be read of a run: statuses, step records and the folded state."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, Literal, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict

from flujo_async._model.quick import quick
from flujo_async._model.usage import NO_USAGE, Usage
from flujo_async.errors import InvalidArgument

RunStatus: TypeAlias = Literal["pending", "running", "paused", "completed", "failed", "cancelled"]
"""Where a run stands."""

RUN_STATUSES: frozenset[RunStatus] = frozenset(get_args(RunStatus))
TERMINAL: frozenset[RunStatus] = frozenset({"completed", "failed", "cancelled"})
RESTING: frozenset[RunStatus] = frozenset({*TERMINAL, "paused"})
"""A resting run executes nothing and holds no lease."""


def check_status(status: Any) -> RunStatus:
    """Return a status that a run can have.

    Raises:
        InvalidArgument: there is no such status.
    """
    if status not in tuple(RUN_STATUSES):  # whatever it is, also what has no hash
        raise InvalidArgument(f"{status!r} is no status; there are {', '.join(sorted(RUN_STATUSES))}")
    return status  # type: ignore[no-any-return]


class StepStatus(StrEnum):
    """Where a step stands."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    SKIPPED = "SKIPPED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Something that a paused run waits for.

    Attributes:
        kind: ``signal``, ``decision``, ``pause`` or ``definition``.
        name: the name of the wait, or of the step that needs a decision.
        since: when the waiting began; of a decision, when the attempt began that was interrupted.
        prompt: what to ask a person, if anything.
        schema: the JSON schema of the answer, if it has one.
        deadline: when it ends without an answer, if ever.
        run_id: the child run that waits, and is to be answered; ``None`` is the run itself.
    """

    kind: Literal["signal", "decision", "pause", "definition"]
    name: str
    since: datetime
    prompt: str | None = None
    schema: dict[str, Any] | None = None
    deadline: datetime | None = None
    run_id: str | None = None


@quick
@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step of a run, as its log tells it.

    Attributes:
        key: the structural key of the step in the run, such as ``map_each/3/parse``.
        name: the step's name.
        status: how it ended.
        attempts: how many tries it took.
        input: the value it was given.
        output: the value it returned; ``None`` unless it succeeded.
        error: ``type: message`` of the exception that ended it, if one did.
        started_at: when its last attempt began; ``None`` where none has.
        finished_at: when its outcome was recorded.
        usage: what its attempts have consumed, as they reported it.
    """

    key: str
    name: str
    status: StepStatus
    attempts: int
    input: Any
    output: Any
    error: str | None
    started_at: datetime | None
    finished_at: datetime | None
    usage: Usage = NO_USAGE

    @property
    def duration(self) -> float | None:
        """Seconds from the start of the last attempt to the outcome, if there is one."""
        if self.started_at is None or self.finished_at is None:
            return None
        return (self.finished_at - self.started_at).total_seconds()


class WorkflowState(BaseModel):
    """The state of a run at one point of its log: the fold of its facts up to there.

    Attributes:
        run_id: the run.
        pipeline_id: identifies the definition's structure: its fingerprint.
        pipeline_name: the name of the definition.
        pipeline_version: its version.
        current_step_index: how many top-level steps have completed; the same with and without a crash.
        pipeline_context: the context, field by field.
        last_step_output: the output of the step that completed last.
        step_history: the records of the steps, in the order of their completion.
        status: where the run stands.
        created_at: when the run was accepted.
        updated_at: when the last fact was recorded.
        error_message: why the run failed or was cancelled, in a line.
        metadata: what the run was started with to be found by.
        parent_run_id: the run that started it as a child.
        waiting_for: what it waits for.
        version: the ``seq`` of the last fact in it; grows with every fact.
        hash: the hash of that fact, which seals all facts before it.
        prev_hash: the hash of the fact before.
        usage: what its steps and its children have consumed.
        is_background_task: whether nobody waited for it when it was started: it was dispatched, or started so.
        task_id: its name among the background tasks; ``None`` if it is none.
        background_error: why it failed, if it is one and did.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    run_id: str
    pipeline_id: str
    pipeline_name: str
    pipeline_version: str
    current_step_index: int
    pipeline_context: dict[str, Any]
    last_step_output: Any | None
    step_history: list[StepRecord]
    status: RunStatus
    created_at: datetime
    updated_at: datetime
    error_message: str | None = None
    metadata: dict[str, Any]
    parent_run_id: str | None = None
    waiting_for: list[Waiting]
    version: int
    hash: str
    prev_hash: str
    usage: Usage
    is_background_task: bool = False
    task_id: str | None = None
    background_error: str | None = None
