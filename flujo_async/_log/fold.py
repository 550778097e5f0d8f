"""The fold of a log: from facts to the state of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, ClassVar, TypeAlias

from flujo_async._codec.exceptions import describe_error
from flujo_async._codec.facts import read_fact
from flujo_async._log.awaited import Awaited
from flujo_async._log.chain import GENESIS
from flujo_async._log.delta import Fields, Migration, check_patch
from flujo_async._log.keys import MAIN_SCOPE, fallback_of, is_own_signal, is_plain_call, is_top_level
from flujo_async._model import facts
from flujo_async._model.facts import AttemptFailed, ChoiceMade, Fact, Patch, RunStarted, StepCompleted, StepFailed
from flujo_async._model.state import TERMINAL, RunStatus, StepStatus, Waiting
from flujo_async._model.stored import HeadChange, Record, RunUpdate
from flujo_async._model.summary import RunSummary
from flujo_async._model.tree import Json, JsonObject
from flujo_async._model.usage import NO_USAGE, Usage
from flujo_async.errors import IntegrityError, SerializationError

Answer: TypeAlias = facts.TimerFired | facts.SignalReceived | facts.WaitTimedOut
"""How a sleep or a wait ended."""

Change: TypeAlias = StepCompleted | facts.BlockCompleted | facts.StateChanged | facts.RunMigrated | facts.RunForked
"""What changes a context, or the progress."""

Seldom: TypeAlias = tuple[str, str, JsonObject, Usage]
"""The version and the structure that a run goes on with, its metadata, and what was consumed so far."""


class Fold:
    """The state of one run, fact by fact.

    Attributes:
        outcomes: how each finished step ended, by key, in the order of completion.
        places: where in the log the outcome of each finished step, each choice and each change stands, by key.
        began_at: when the run began: when it was created, forked, or tried again after it had ended.
        deadline: when what the run does has to be over, if ever; a fork and a run tried again have the whole time.
        failures: the keys of the steps that failed for good.
        failed_keys: those among them whose failure ended the run, or that had just failed when it was cancelled.
        order: the keys of everything that a workflow may have waited for, in the order in which it came.
        redriven: the redrives, each with where it stands, and where what it has dropped stood, by key.
        failed_attempts: the last failed attempt of each step that is to be tried again, by key.
        repeats: how often each step that had completed was begun anew by a redrive, by key.
        usage: what was consumed so far, by steps and children; trying again does not take it back.
        usages: the same by key.
        child_usages: what each child had consumed when it ended, by its ``run_id``.
        once: attempts of steps that may have their effect only once, begun and not ended, by key.
        decisions: what was decided on such steps, by key, until it is carried out.
        heartbeats: the last details that a step told that has not ended, by key.
        not_run: the status of the steps of graphs that do not run, with their names, by key.
        graphs: the names of the steps of each graph, by the key of the graph and then of the step.
        timers: when each sleep is over, by key.
        waits: what was waited for, by key.
        answers: how each wait and each sleep ended, by key.
        taken: the ids of the signals that were taken.
        children: the runs that this one started, by key.
        inherited: the keys of those that were started before the last migration.
        cancelled_calls: what the code of a workflow called, and cancelled before it had the result, by key, in the
            order in which it heard of that.
        values: what was drawn, by key.
        rollback: how the run will end, once what its steps did is undone.
        choices: what selectors and predicates answered, by key.
        blocks: what the combinators that are done changed in the context, by key.
        changes: the facts that changed a context, or the progress, and still count.
        migrations: what each migration and each fork changed in the context, if anything.
        awaited: what it waits for, or waited for when it was paused last.
        context: the encoded fields of the run's context. Those of its branches matter to who executes it only.
    """

    __slots__ = (
        *("answers", "awaited", "began_at", "blocks", "cancelled_calls", "changes", "child_usages", "children"),
        *("choices", "context", "current_step_index", "deadline", "decisions", "error"),
        *("failed_attempts", "failed_keys", "failures", "fingerprint", "finished_at", "graphs", "hash", "heartbeats"),
        *("inherited", "last_step_output", "metadata", "migrations", "not_run", "once", "order", "outcomes", "output"),
        *("pipeline_version", "places", "prev_hash", "reason", "redriven", "repeats", "rollback", "run_id"),
        *("seq", "started", "status", "taken", "timers", "updated_at", "usage", "usages", "values", "waits"),
    )

    def __init__(self, started: RunStarted) -> None:
        self.started: RunStarted = started
        self.run_id: str = started.run_id
        self.metadata: JsonObject = started.metadata
        self.pipeline_version: str = started.pipeline_version
        self.fingerprint: str = started.fingerprint
        self.status: RunStatus = "pending"
        self.updated_at: datetime = started.at
        self.began_at: datetime = started.at
        self.finished_at: datetime | None = None
        self.deadline: datetime | None = started.deadline
        self.seq: int = 0
        self.hash: str = GENESIS
        self.prev_hash: str = GENESIS
        self.current_step_index: int = 0
        self.output: Json = None
        self.last_step_output: Json = None
        self.error: JsonObject | None = None
        self.reason: str = ""
        self.awaited: Awaited = Awaited()
        self.outcomes: dict[str, StepCompleted | StepFailed] = {}
        self.places: dict[str, int] = {}
        self.failures: list[str] = []
        self.failed_keys: tuple[str, ...] = ()
        self.order: list[str] = []
        self.redriven: list[tuple[int, Mapping[str, int]]] = []
        self.failed_attempts: dict[str, AttemptFailed] = {}
        self.repeats: dict[str, int] = {}
        self.usage: Usage = NO_USAGE
        self.usages: dict[str, Usage] = {}
        self.child_usages: dict[str, Usage] = {}
        self.once: dict[str, facts.StepStarted] = {}
        self.decisions: dict[str, facts.StepDecided] = {}
        self.heartbeats: dict[str, Json] = {}
        self.not_run: dict[str, tuple[str, StepStatus]] = {}
        self.graphs: dict[str, Mapping[str, str]] = {}
        self.timers: dict[str, datetime] = {}
        self.waits: dict[str, facts.WaitStarted] = {}
        self.answers: dict[str, Answer] = {}
        self.taken: set[str] = set()
        self.children: dict[str, str] = {}
        self.inherited: list[str] = []
        self.cancelled_calls: dict[str, facts.CallCancelled] = {}
        self.values: dict[str, Json] = {}
        self.rollback: facts.RollbackStarted | None = None
        self.choices: dict[str, Json] = {}
        self.blocks: dict[str, Patch] = {}
        self.changes: list[Change] = []
        self.migrations: list[Migration] = []
        self.context: Fields = Fields(started.context)

    @property
    def error_message(self) -> str | None:
        """The error in one line, if the run failed."""
        return None if self.error is None else describe_error(self.error)

    @property
    def waiting_for(self) -> tuple[Waiting, ...]:
        """What it waits for, while it is paused."""
        return self.awaited.now

    @property
    def wake_at(self) -> datetime | None:
        """When it goes on without an answer, if it is paused and ever does."""
        return self.awaited.wake_at(self.deadline)

    def hear(self, head: RunSummary) -> None:
        """Take in whether the run is queued or paused, which its head may know better than its log."""
        if head.last_seq == self.seq and self.status not in TERMINAL:
            self.status, self.awaited.aside = head.status, tuple(head.waiting_for)

    def is_asleep(self, now: datetime) -> bool:
        """Return whether something in the run waits for a moment, or for a child, which may.

        Otherwise nothing but a runtime that has no use for the run keeps it waiting.
        """
        timers = (moment for key, moment in self.timers.items() if key not in self.answers)
        retries = (fact.retry_at for key, fact in self.failed_attempts.items() if key not in self.outcomes)
        return bool(self.children.keys() - self.outcomes.keys()) or any(moment > now for moment in (*timers, *retries))

    @property
    def seldom(self) -> Seldom:
        """What seldom changes in the head of the run."""
        return self.pipeline_version, self.fingerprint, self.metadata, self.usage

    def update(self, signals_read: int | None = None, *, told: Seldom | None = None) -> RunUpdate:
        """Return the head that belongs to this state.

        Args:
            signals_read: how many signals of the run its owner has read, if it lets the run go.
            told: what the head says already; ``None`` is what it said when the run began.
        """
        told = told or (self.started.pipeline_version, self.started.fingerprint, self.started.metadata, NO_USAGE)
        if self.status == "running" and told == self.seldom:
            return RunUpdate(updated_at=self.updated_at, current_step_index=self.current_step_index)
        version, fingerprint, metadata, usage = told
        change = HeadChange(
            status=self.status,
            pipeline_version=None if self.pipeline_version == version else self.pipeline_version,
            error_message=self.error_message,
            waiting_for=self.waiting_for if self.awaited.is_paused else (),
            wake_at=self.wake_at if self.awaited.is_paused else None,
            signals_read=signals_read,
            metadata=None if self.metadata == metadata else self.metadata,
            pipeline_id=None if self.fingerprint == fingerprint else self.fingerprint,
            usage=None if self.usage == usage else self.usage,
        )
        return RunUpdate(updated_at=self.updated_at, current_step_index=self.current_step_index, change=change)

    def apply(self, fact: Fact, record: Record) -> None:
        """Take in the next fact of the log."""
        self.seq, self.prev_hash, self.hash = record.seq, self.hash, record.hash
        self.updated_at = fact.at
        self._APPLY[type(fact)](self, fact)

    def extend(self, records: Sequence[Record]) -> None:
        """Take in the records that continue the log; ``verify`` has passed them.

        Raises:
            IntegrityError: a body is no fact.
        """
        for record in records:
            try:
                fact = read_fact(record)
                self.apply(fact, record)
                if patch := getattr(fact, "patch", None):
                    check_patch(patch)
            except SerializationError as error:
                raise _not_a_fact(self.run_id, record, error) from error

    def place_of(self, key: str) -> int | None:
        """Return where in the log something ended: a step, a wait, a sleep or a combinator; ``None`` if it has not."""
        has_ended = key in self.outcomes or key in self.blocks or key in self.answers
        return self.places[key] if has_ended else None

    def _run_started(self, fact: facts.RunStarted) -> None:
        if fact is not self.started:
            raise SerializationError("a second RunStarted")
        self.status = "running"

    def _run_forked(self, fact: facts.RunForked) -> None:
        self._rest_no_more(fact.at)
        # Answers, and children that go on or can be tried again, are those of the source: a fork has its own.
        self.run_id, self.status, self.taken = fact.run_id, "pending", set[str]()
        self.started = replace(self.started, parent_run_id=None, is_background=False)
        completed = [key for key in self.children if isinstance(self.outcomes.get(key), StepCompleted)]
        self.children = {key: self.children[key] for key in completed}
        self._migrate(fact)

    def _run_redriven(self, fact: facts.RunRedriven) -> None:
        self.status = "running"
        self._rest_no_more(fact.at)
        for key in fact.dropped:
            if isinstance(self.outcomes.get(key), StepCompleted):
                self.repeats[key] = self.repeats.get(key, 0) + 1
        self._drop(frozenset(fact.dropped))

    def _rest_no_more(self, now: datetime) -> None:
        self.began_at = now
        if self.started.deadline is not None:  # with the whole time again
            self.deadline = now + (self.started.deadline - self.started.at)
        self.awaited.forget()
        self.error, self.reason, self.finished_at, self.rollback, self.failed_keys = None, "", None, None, ()

    def _drop(self, keys: frozenset[str]) -> None:
        """Forget outcomes, with what the steps changed in the contexts."""
        self.failures = [key for key in self.failures if key not in keys]
        self.order = [key for key in self.order if key not in keys]
        self.redriven.append((self.seq, {key: self.places[key] for key in keys & self.places.keys()}))
        by_keys: tuple[dict[str, Any], ...] = (
            *(self.outcomes, self.failed_attempts, self.not_run, self.once, self.blocks, self.heartbeats),
            *(self.timers, self.waits, self.answers, self.choices, self.places),
        )
        for by_key in by_keys:
            for key in keys & by_key.keys():
                del by_key[key]
        self._fold_changes_again([fact for fact in self.changes if getattr(fact, "key", None) not in keys])

    def _fold_changes_again(self, changes: list[Change]) -> None:
        self.context = Fields(self.started.context)
        self.current_step_index, self.last_step_output = sum(map(is_top_level, self.answers)), None
        self.changes = []
        for fact in changes:
            self._take_in(fact)

    def _run_resumed(self, fact: facts.RunResumed) -> None:
        self.status = "running"
        self.awaited.end()

    def _run_migrated(self, fact: facts.RunMigrated) -> None:
        self.pipeline_version, self.fingerprint = fact.pipeline_version, fact.fingerprint
        self.inherited = list(self.children)
        self.awaited.forget()
        self._migrate(fact)

    def _migrate(self, fact: facts.RunMigrated | facts.RunForked) -> None:
        if fact.patch:
            self.migrations.append(Migration(fact.patch, self.seq))
        self._take_in(fact)

    def _metadata_set(self, fact: facts.MetadataSet) -> None:
        self.metadata = {**self.metadata, **fact.metadata}
        self.values[fact.key] = None

    def _state_changed(self, fact: facts.StateChanged) -> None:
        self.places[fact.key] = self.seq
        self._take_in(fact)

    def _value_drawn(self, fact: facts.ValueDrawn) -> None:
        self.values[fact.key] = fact.value

    def _step_started(self, fact: facts.StepStarted) -> None:
        self.once[fact.key] = fact
        self.decisions.pop(fact.key, None)

    def _step_decided(self, fact: facts.StepDecided) -> None:
        self.decisions[fact.key] = fact
        self.status = "running"
        self.awaited.end()

    def _heartbeat_recorded(self, fact: facts.HeartbeatRecorded) -> None:
        self.heartbeats[fact.key] = fact.details

    def _attempt_failed(self, fact: facts.AttemptFailed) -> None:
        self.failed_attempts[fact.key] = fact
        self.once.pop(fact.key, None)
        self.decisions.pop(fact.key, None)

    def _usage_reported(self, fact: facts.UsageReported) -> None:
        usage = Usage(fact.tokens, fact.cost, fact.token_counts)
        self.usage += usage
        self.usages[fact.key] = self.usages.get(fact.key, NO_USAGE) + usage
        if (child := self.children.get(fact.key)) is not None:
            self.child_usages[child] = self.child_usages.get(child, NO_USAGE) + usage
        if is_plain_call(fact.key):
            self.values[fact.key] = None

    def _step_completed(self, fact: facts.StepCompleted) -> None:
        self._end_step(fact)
        self._take_in(fact)

    def _step_failed(self, fact: facts.StepFailed) -> None:
        self._end_step(fact)
        self.failures.append(fact.key)

    def _end_step(self, fact: StepCompleted | StepFailed) -> None:
        self.outcomes[fact.key] = fact
        self.places[fact.key] = self.seq
        self.order.append(fact.key)
        if self.failed_attempts or self.heartbeats or self.once or self.decisions or self.cancelled_calls:  # few do
            for by_key in (self.failed_attempts, self.heartbeats, self.once, self.decisions, self.cancelled_calls):
                by_key.pop(fact.key, None)

    def _take_in(self, fact: Change) -> None:
        """Do what a fact does to the contexts and the progress."""
        self.changes.append(fact)
        scope = MAIN_SCOPE
        if isinstance(fact, StepCompleted):
            self.last_step_output = fact.output
            self.current_step_index += is_top_level(fact.key) or self._is_fallback(fact.key)
            scope = fact.scope
        elif isinstance(fact, facts.BlockCompleted):
            self.current_step_index += is_top_level(fact.key)
            scope = fact.scope
        elif isinstance(fact, facts.StateChanged):
            scope = fact.scope
        if fact.patch and scope == MAIN_SCOPE:
            self.context.change(fact.patch)

    def _is_fallback(self, key: str) -> bool:
        """Return whether a step completes an element of the outermost sequence, for which it stands in."""
        while not is_top_level(key):
            key, _, label = key.rpartition("/")
            if fallback_of(key) != f"{key}/{label}" or not isinstance(self.outcomes.get(key), StepFailed):
                return False
        return True

    def _graph_started(self, fact: facts.GraphStarted) -> None:
        self.graphs[fact.key] = fact.steps

    def _step_skipped(self, fact: facts.StepSkipped) -> None:
        self.not_run[fact.key] = fact.name, StepStatus.SKIPPED

    def _step_cancelled(self, fact: facts.StepCancelled) -> None:
        self.not_run[fact.key] = fact.name, StepStatus.CANCELLED

    def _timer_started(self, fact: facts.TimerStarted) -> None:
        self.timers[fact.key] = fact.wake_at

    def _wait_started(self, fact: facts.WaitStarted) -> None:
        self.waits[fact.key] = fact

    def _answered(self, fact: Answer) -> None:
        if isinstance(fact, facts.SignalReceived):
            self.taken.add(fact.signal_id)
            if is_own_signal(fact.name):
                return
        self.answers[fact.key] = fact
        self.decisions.pop(fact.key, None)
        self.cancelled_calls.pop(fact.key, None)
        self.places[fact.key] = self.seq
        self.order.append(fact.key)
        self.current_step_index += is_top_level(fact.key)
        if isinstance(fact, facts.SignalReceived):
            self.last_step_output = fact.payload

    def _child_started(self, fact: facts.ChildStarted) -> None:
        self.children[fact.key] = fact.run_id

    def _call_cancelled(self, fact: facts.CallCancelled) -> None:
        self.cancelled_calls.pop(fact.key, None)  # the order is that of the last time
        self.cancelled_calls[fact.key] = fact

    def _rollback_started(self, fact: facts.RollbackStarted) -> None:
        self.rollback, self.deadline = fact, None  # undoing has no limit

    def _choice_made(self, fact: ChoiceMade) -> None:
        self.places[fact.key] = self.seq
        self.choices[fact.key] = fact.choice

    def _block_completed(self, fact: facts.BlockCompleted) -> None:
        self.blocks[fact.key] = fact.patch
        self.places[fact.key] = self.seq
        self._take_in(fact)

    def _event_emitted(self, fact: facts.EventEmitted) -> None:
        if is_plain_call(fact.key):
            self.values[fact.key] = None

    def _run_paused(self, fact: facts.RunPaused) -> None:
        self.status = "paused"
        self.awaited.take_in(fact)

    def _run_completed(self, fact: facts.RunCompleted) -> None:
        self.status, self.output, self.finished_at = "completed", fact.output, fact.at

    def _run_failed(self, fact: facts.RunFailed) -> None:
        self.failed_keys = fact.keys
        self.status, self.error, self.finished_at = "failed", fact.error, fact.at

    def _run_cancelled(self, fact: facts.RunCancelled) -> None:
        self.failed_keys = fact.keys
        self.status, self.reason, self.finished_at = "cancelled", fact.reason, fact.at

    _APPLY: ClassVar[dict[type[Any], Callable[[Fold, Any], None]]] = {
        facts.RunStarted: _run_started,
        facts.RunForked: _run_forked,
        facts.RunRedriven: _run_redriven,
        facts.RunResumed: _run_resumed,
        facts.RunMigrated: _run_migrated,
        facts.MetadataSet: _metadata_set,
        facts.StateChanged: _state_changed,
        facts.ValueDrawn: _value_drawn,
        facts.StepStarted: _step_started,
        facts.StepDecided: _step_decided,
        facts.HeartbeatRecorded: _heartbeat_recorded,
        facts.AttemptFailed: _attempt_failed,
        facts.UsageReported: _usage_reported,
        facts.StepCompleted: _step_completed,
        facts.StepFailed: _step_failed,
        facts.GraphStarted: _graph_started,
        facts.StepSkipped: _step_skipped,
        facts.StepCancelled: _step_cancelled,
        facts.TimerStarted: _timer_started,
        facts.TimerFired: _answered,
        facts.WaitStarted: _wait_started,
        facts.SignalReceived: _answered,
        facts.WaitTimedOut: _answered,
        facts.ChildStarted: _child_started,
        facts.CallCancelled: _call_cancelled,
        facts.RollbackStarted: _rollback_started,
        facts.ChoiceMade: _choice_made,
        facts.BlockCompleted: _block_completed,
        facts.EventEmitted: _event_emitted,
        facts.RunPaused: _run_paused,
        facts.RunCompleted: _run_completed,
        facts.RunFailed: _run_failed,
        facts.RunCancelled: _run_cancelled,
    }


def fold_log(run_id: str, records: Sequence[Record]) -> Fold:
    """Return the state at the end of a log that ``verify`` has passed.

    Raises:
        IntegrityError: a body is no fact, or the log does not begin with ``RunStarted``.
    """
    if not records:
        raise IntegrityError("the log is empty", run_id=run_id, seq=1)
    try:
        started = read_fact(records[0])
        fold = _begin(started)
        fold.apply(started, records[0])
    except SerializationError as error:
        raise _not_a_fact(run_id, records[0], error) from error
    fold.extend(records[1:])
    return fold


def _begin(fact: Fact) -> Fold:
    if not isinstance(fact, RunStarted):
        raise SerializationError(f"a log begins with RunStarted, not {fact.kind}")
    return Fold(fact)


def _not_a_fact(run_id: str, record: Record, error: SerializationError) -> IntegrityError:
    return IntegrityError(f"not a fact: {error}", run_id=run_id, seq=record.seq)
