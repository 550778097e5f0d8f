"""Facts: the immutable lines of a run's log.

A fact holds encoded values only (``Json``): stores and tools read a log without knowing any user's types.
``at`` is when the fact was made, by the clock of the process that made it, in UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar, TypeAlias

from flujo_async._model.state import Waiting
from flujo_async._model.tree import Json, JsonObject

Patch: TypeAlias = Mapping[str, Json]
"""What changed in a context: field → ``["set", value]`` or ``["drop"]``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted:
    """A run was accepted. Always the first fact."""

    kind: ClassVar[str] = "RunStarted"
    at: datetime
    run_id: str
    pipeline_name: str
    pipeline_version: str
    fingerprint: str
    input: Json
    context: JsonObject = field(default_factory=dict[str, Json])
    metadata: JsonObject = field(default_factory=dict[str, Json])
    parent_run_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResumed:
    """A run that had been interrupted was taken up by ``owner``."""

    kind: ClassVar[str] = "RunResumed"
    at: datetime
    owner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMigrated:
    """The run goes on under another version of its definition."""

    kind: ClassVar[str] = "RunMigrated"
    at: datetime
    pipeline_version: str
    fingerprint: str
    patch: Patch = field(default_factory=dict[str, Json])


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFailed:
    """An attempt of a step failed, and another one follows at ``retry_at``."""

    kind: ClassVar[str] = "AttemptFailed"
    at: datetime
    key: str
    name: str
    attempt: int
    error: JsonObject
    retry_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCompleted:
    """A step returned.

    Attributes:
        source: where its input came from: the key of the step whose output it was, ``""`` for the input of
            the run; ``None``: nowhere else in the log, so it stands in ``input``.
        scope: the context that it worked on: ``""`` is the run's, else the one of a branch or an item.
        patch: what it changed there.
    """

    kind: ClassVar[str] = "StepCompleted"
    at: datetime
    key: str
    name: str
    started_at: datetime
    attempts: int
    output: Json
    source: str | None = None
    input: Json = None
    scope: str = ""
    patch: Patch = field(default_factory=dict[str, Json])


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFailed:
    """A step failed for good: it is out of attempts. ``source`` and ``input`` are as in ``StepCompleted``."""

    kind: ClassVar[str] = "StepFailed"
    at: datetime
    key: str
    name: str
    started_at: datetime
    attempts: int
    error: JsonObject
    source: str | None = None
    input: Json = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceMade:
    """A selector or a predicate answered; a replay does not ask it again."""

    kind: ClassVar[str] = "ChoiceMade"
    at: datetime
    key: str
    choice: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockCompleted:
    """All of a combinator is done; ``patch`` is what its branches changed, merged, in context ``scope``."""

    kind: ClassVar[str] = "BlockCompleted"
    at: datetime
    key: str
    scope: str = ""
    patch: Patch = field(default_factory=dict[str, Json])


@dataclass(frozen=True, slots=True, kw_only=True)
class EventEmitted:
    """A step emitted an event; it goes into the log together with the step's outcome."""

    kind: ClassVar[str] = "EventEmitted"
    at: datetime
    key: str
    name: str
    data: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPaused:
    """Nothing in the run can go on before somebody answers."""

    kind: ClassVar[str] = "RunPaused"
    at: datetime
    waiting_for: tuple[Waiting, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCompleted:
    """The run returned ``output``."""

    kind: ClassVar[str] = "RunCompleted"
    at: datetime
    output: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFailed:
    """The run ended with ``error``."""

    kind: ClassVar[str] = "RunFailed"
    at: datetime
    error: JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCancelled:
    """The run was cancelled."""

    kind: ClassVar[str] = "RunCancelled"
    at: datetime
    reason: str = ""


Fact: TypeAlias = (
    RunStarted
    | RunResumed
    | RunMigrated
    | AttemptFailed
    | StepCompleted
    | StepFailed
    | ChoiceMade
    | BlockCompleted
    | EventEmitted
    | RunPaused
    | RunCompleted
    | RunFailed
    | RunCancelled
)
