"""What a run leaves to its caller."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from flujo_async._model.on_demand import OnDemand
from flujo_async._model.state import RunStatus, StepRecord, Waiting
from flujo_async._model.usage import Usage

Out = TypeVar("Out")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult(Generic[Out]):
    """A run at rest.

    Attributes:
        run_id: the run.
        status: ``completed`` or ``paused``; ``failed`` and ``cancelled`` come on the error that is raised.
        output: what the run returned; ``None`` unless it completed.
        context: the typed context at the end; a dictionary where no ``context_type`` was given. It is made when it is
            first read, which is a ``SerializationError`` where its class has other fields by now.
        steps: a record of every step, in the order of completion; made when it is first read.
        error: the exception that failed the run, if it failed.
        waiting_for: what a paused run waits for.
        started_at: when the run was accepted.
        finished_at: when it ended; ``None`` while it is paused.
        usage: what its steps and its children have consumed, as they reported it.
    """

    run_id: str
    status: RunStatus
    output: Out
    context: Any
    steps: list[StepRecord]
    error: Exception | None
    waiting_for: list[Waiting]
    started_at: datetime
    finished_at: datetime | None
    usage: Usage


for _name in ("context", "steps"):
    type.__setattr__(RunResult, _name, OnDemand(RunResult.__dict__[_name]))
