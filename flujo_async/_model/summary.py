"""The head of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from flujo_async._model.lease import Lease
from flujo_async._model.quick import quick
from flujo_async._model.state import RunStatus, Waiting
from flujo_async._model.usage import NO_USAGE, Usage


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """The head of a run, as listings show it; a cached part of the fold of its log.

    Attributes:
        run_id: the run.
        pipeline_name: the definition that it runs.
        pipeline_version: the version of the definition, or the fingerprint of its structure.
        status: where it stands.
        created_at: when it was created.
        updated_at: when its log last grew.
        last_seq: the last sequence number of its log.
        current_step_index: how many top-level steps have completed.
        metadata: what the caller attached, plain JSON.
        error_message: why it failed, in one line.
        waiting_for: what it waits for, while it is paused.
        attempts: how often it was claimed.
        parent_run_id: the run that started it, if one did.
        queue: the queue it was dispatched to, if any.
        priority: higher goes first.
        wake_at: when it wants to be claimed, if it sleeps.
        signals: how many signals were posted to it.
        signals_read: how many of them its last owner had read when it let the run go.
        lease: who has it, if anybody.
        pipeline_id: identifies the structure of the definition: its fingerprint.
        is_background: whether nobody waited for it when it was started: it was dispatched, or started so.
        usage: what its steps and its children have consumed.
    """

    run_id: str
    pipeline_name: str
    pipeline_version: str
    status: RunStatus
    created_at: datetime
    updated_at: datetime
    last_seq: int = 0
    current_step_index: int = 0
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    error_message: str | None = None
    waiting_for: list[Waiting] = field(default_factory=list[Waiting])
    attempts: int = 0
    parent_run_id: str | None = None
    queue: str | None = None
    priority: int = 0
    wake_at: datetime | None = None
    signals: int = 0
    signals_read: int = 0
    lease: Lease | None = None
    pipeline_id: str = ""
    is_background: bool = False
    usage: Usage = NO_USAGE
