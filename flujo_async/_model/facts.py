"""Facts: the immutable lines of a run's log.

A fact holds encoded values only (``Json``): stores and tools read a log without knowing any user's types.
``at`` is when the fact was made, by the clock of the process that made it, in UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import ClassVar, Literal, TypeAlias

from flujo_async._model.quick import quick
from flujo_async._model.state import Waiting
from flujo_async._model.tree import Json, JsonObject, no_entries

Decision: TypeAlias = Literal["retry", "skip"]
"""What to do with a step that may have its effect only once and was interrupted, or that has failed."""

ResumeCause: TypeAlias = Literal["requested", "recovered", "woken", "queued"]
"""Why a run is taken up."""

Patch: TypeAlias = Mapping[str, Json]
"""What changed in a context: field → ``["set", value]`` or ``["drop"]``."""


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted:
    """A run was accepted. Always the first fact.

    Attributes:
        is_background: whether nobody waited for it: it was dispatched, or started in the background.
        carrier: what instruments gave it to carry along, such as the headers of a distributed trace.
    """

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
    deadline: datetime | None = None
    is_background: bool = False
    carrier: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class RunForked:
    """From here on the log is that of a new run, which shares all facts before with ``source_run_id``.

    Attributes:
        patch: what the fork changes in the context.
    """

    kind: ClassVar[str] = "RunForked"
    at: datetime
    run_id: str
    source_run_id: str
    patch: Patch = field(default_factory=no_entries)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRedriven:
    """A run that had ended is tried again from where it failed.

    Attributes:
        dropped: the keys of the steps whose outcomes no longer count.
    """

    kind: ClassVar[str] = "RunRedriven"
    at: datetime
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResumed:
    """A run that had been interrupted was taken up by ``owner``.

    Attributes:
        cause: it was asked for, found without a living owner, due or answered, or waited in a queue.
    """

    kind: ClassVar[str] = "RunResumed"
    at: datetime
    owner: str
    cause: ResumeCause = "requested"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMigrated:
    """The run goes on under another version of its definition."""

    kind: ClassVar[str] = "RunMigrated"
    at: datetime
    pipeline_version: str
    fingerprint: str
    patch: Patch = field(default_factory=no_entries)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataSet:
    """The run's own code changed its metadata: these entries are new or replaced."""

    kind: ClassVar[str] = "MetadataSet"
    at: datetime
    key: str
    metadata: JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChanged:
    """A workflow changed its context between steps; ``call`` is the key of what began then: a call, or the end."""

    kind: ClassVar[str] = "StateChanged"
    at: datetime
    key: str
    call: str = ""
    scope: str = ""
    patch: Patch = field(default_factory=no_entries)


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueDrawn:
    """A workflow asked for something that another time would differ: the time, an id, a random number."""

    kind: ClassVar[str] = "ValueDrawn"
    at: datetime
    key: str
    value: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStarted:
    """An attempt of a step that may have its effect only once is about to begin."""

    kind: ClassVar[str] = "StepStarted"
    at: datetime
    key: str
    name: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDecided:
    """Somebody decided on a step that was interrupted: ``retry`` it, or ``skip`` it, and ``output`` is its output."""

    kind: ClassVar[str] = "StepDecided"
    at: datetime
    key: str
    decision: Decision
    output: Json = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatRecorded:
    """A step told how far it is; its next attempt can read that."""

    kind: ClassVar[str] = "HeartbeatRecorded"
    at: datetime
    key: str
    name: str
    attempt: int
    details: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFailed:
    """An attempt of a step failed, and another one follows at ``retry_at``.

    Attributes:
        first_started_at: when the first attempt began, from which the step's deadline counts.
    """

    kind: ClassVar[str] = "AttemptFailed"
    at: datetime
    key: str
    name: str
    attempt: int
    error: JsonObject
    retry_at: datetime
    first_started_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReported:
    """What an attempt of a step, or a child run as a whole, has consumed, with its tokens by kind."""

    kind: ClassVar[str] = "UsageReported"
    at: datetime
    key: str
    name: str
    tokens: int = 0
    cost: Decimal = Decimal(0)
    token_counts: Mapping[str, int] = field(default_factory=dict[str, int])


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class StepCompleted:
    """A step returned.

    Attributes:
        source: where its input came from: the key of the step whose output it was, ``""`` for the input of
            the run; ``None``: nowhere else in the log, so it stands in ``input``.
        inputs: where it was called with more than its input: every argument by the name of its parameter
            (``"*"`` for further positional ones), as ``["from", source]`` or ``["is", value]``.
        scope: the context that it worked on: ``""`` is the run's, else the one of a branch or an item.
        patch: what it changed there.
        cached_from: the run whose recorded output was taken instead of executing the step.
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
    inputs: JsonObject = field(default_factory=no_entries)
    scope: str = ""
    patch: Patch = field(default_factory=no_entries)
    cached_from: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFailed:
    """A step failed for good: it is out of attempts. Its input is told as in ``StepCompleted``."""

    kind: ClassVar[str] = "StepFailed"
    at: datetime
    key: str
    name: str
    started_at: datetime
    attempts: int
    error: JsonObject
    source: str | None = None
    input: Json = None
    inputs: JsonObject = field(default_factory=no_entries)


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphStarted:
    """A graph began; ``steps`` are the names of its steps, by key."""

    kind: ClassVar[str] = "GraphStarted"
    at: datetime
    key: str
    steps: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSkipped:
    """A step of a graph does not run: its condition was false, its edge not taken, or all its inputs skipped."""

    kind: ClassVar[str] = "StepSkipped"
    at: datetime
    key: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCancelled:
    """A step of a graph will not run, because another one failed."""

    kind: ClassVar[str] = "StepCancelled"
    at: datetime
    key: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerStarted:
    """The run began to sleep until ``wake_at``."""

    kind: ClassVar[str] = "TimerStarted"
    at: datetime
    key: str
    wake_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerFired:
    """The sleep is over."""

    kind: ClassVar[str] = "TimerFired"
    at: datetime
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitStarted:
    """The run began to wait for a signal."""

    kind: ClassVar[str] = "WaitStarted"
    at: datetime
    key: str
    name: str
    prompt: str | None = None
    schema: JsonObject | None = None
    deadline: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalReceived:
    """A signal answered a wait: posted at ``sent_at`` by ``sent_by``, if that is known."""

    kind: ClassVar[str] = "SignalReceived"
    at: datetime
    key: str
    name: str
    signal_id: str
    payload: Json
    sent_at: datetime | None = None
    sent_by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitTimedOut:
    """A wait ended without an answer."""

    kind: ClassVar[str] = "WaitTimedOut"
    at: datetime
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildStarted:
    """A run of its own was started; what it returned comes with ``StepCompleted``."""

    kind: ClassVar[str] = "ChildStarted"
    at: datetime
    key: str
    name: str
    run_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallCancelled:
    """The code of a workflow cancelled a call.

    Attributes:
        after: where in the log the result stands that it had heard of last, or that of the call itself if it had ended.
        elapsed: how many seconds it had run in this process.
        together: whether it hears of that at the same instant as of the call that it cancelled before.
    """

    kind: ClassVar[str] = "CallCancelled"
    at: datetime
    key: str
    after: int = 0
    elapsed: float = 0.0
    together: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RollbackStarted:
    """The run will end as ``status``; what its steps did is undone first.

    Attributes:
        keys: the steps whose failure ended it.
    """

    kind: ClassVar[str] = "RollbackStarted"
    at: datetime
    status: Literal["failed", "cancelled"]
    error: JsonObject | None = None
    reason: str = ""
    keys: tuple[str, ...] = ()


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
    patch: Patch = field(default_factory=no_entries)


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
    """Nothing in the run can go on before somebody answers.

    Attributes:
        waiting_for: what it waits for that it did not wait for when it was paused last.
        through: for each of these the child through which it is waited for, if any; empty where that is who waits.
        gone: what it waits for no longer: all that it ever waited for when it was paused is numbered, from 0.
        kept: how much of what it waited for then it still waits for.
        signals: how many signals of the run had been looked at.
    """

    kind: ClassVar[str] = "RunPaused"
    at: datetime
    waiting_for: tuple[Waiting, ...] = ()
    through: tuple[str | None, ...] = ()
    gone: tuple[int, ...] = ()
    kept: int = 0
    signals: int = 0


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class RunCompleted:
    """The run returned ``output``."""

    kind: ClassVar[str] = "RunCompleted"
    at: datetime
    output: Json


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFailed:
    """The run ended with ``error``; ``keys`` are the steps whose failure ended it."""

    kind: ClassVar[str] = "RunFailed"
    at: datetime
    error: JsonObject
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCancelled:
    """The run was cancelled; ``keys`` are the steps that had just failed."""

    kind: ClassVar[str] = "RunCancelled"
    at: datetime
    reason: str = ""
    keys: tuple[str, ...] = ()


Fact: TypeAlias = (
    RunStarted
    | RunForked
    | RunRedriven
    | RunResumed
    | RunMigrated
    | MetadataSet
    | StateChanged
    | ValueDrawn
    | StepStarted
    | StepDecided
    | HeartbeatRecorded
    | AttemptFailed
    | UsageReported
    | StepCompleted
    | StepFailed
    | GraphStarted
    | StepSkipped
    | StepCancelled
    | TimerStarted
    | TimerFired
    | WaitStarted
    | SignalReceived
    | WaitTimedOut
    | ChildStarted
    | CallCancelled
    | RollbackStarted
    | ChoiceMade
    | BlockCompleted
    | EventEmitted
    | RunPaused
    | RunCompleted
    | RunFailed
    | RunCancelled
)
