"""The fold of a log: from facts to the state of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, ClassVar

from flujo_async._codec.exceptions import describe_error
from flujo_async._codec.facts import decode_fact
from flujo_async._codec.items import item_trees
from flujo_async._log.chain import GENESIS
from flujo_async._log.delta import apply
from flujo_async._log.keys import MAIN_SCOPE, RUN_INPUT, is_top_level, split_source
from flujo_async._model import facts
from flujo_async._model.facts import AttemptFailed, ChoiceMade, Fact, Patch, RunStarted, StepCompleted, StepFailed
from flujo_async._model.state import RunStatus, Waiting
from flujo_async._model.stored import Record, RunUpdate
from flujo_async._model.tree import Json, JsonObject
from flujo_async.errors import IntegrityError, SerializationError


class Fold:
    """The state of one run, fact by fact.

    Attributes:
        outcomes: how each finished step ended, by key, in the order of completion.
        failures: the keys of the steps that failed for good.
        failed_attempts: the last failed attempt of each step that had one, by key.
        choices: what selectors and predicates answered, by key.
        blocks: what the combinators that are done changed in the context, by key.
        migrations: what each migration changed there, with the keys of all that was done before it.
        contexts: the encoded fields of each live context, by scope.
    """

    def __init__(self, started: RunStarted) -> None:
        self.started = started
        self.pipeline_version: str = started.pipeline_version
        self.fingerprint: str = started.fingerprint
        self.status: RunStatus = "pending"
        self.updated_at: datetime = started.at
        self.finished_at: datetime | None = None
        self.seq: int = 0
        self.hash: str = GENESIS
        self.prev_hash: str = GENESIS
        self.current_step_index: int = 0
        self.output: Json = None
        self.last_step_output: Json = None
        self.error: JsonObject | None = None
        self.reason: str = ""
        self.waiting_for: tuple[Waiting, ...] = ()
        self.outcomes: dict[str, StepCompleted | StepFailed] = {}
        self.failures: list[str] = []
        self.failed_attempts: dict[str, AttemptFailed] = {}
        self.choices: dict[str, Json] = {}
        self.blocks: dict[str, Patch] = {}
        self.migrations: list[tuple[Patch, frozenset[str]]] = []
        self.contexts: dict[str, JsonObject] = {MAIN_SCOPE: started.context}

    @property
    def run_id(self) -> str:
        """The run."""
        return self.started.run_id

    @property
    def error_message(self) -> str | None:
        """The error in one line, if the run failed."""
        return None if self.error is None else describe_error(self.error)

    def update(self) -> RunUpdate:
        """Return the head that belongs to this state."""
        return RunUpdate(
            status=self.status,
            updated_at=self.updated_at,
            current_step_index=self.current_step_index,
            pipeline_version=self.pipeline_version,
            error_message=self.error_message,
            waiting_for=self.waiting_for,
        )

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
                self.apply(decode_fact(record.body), record)
            except SerializationError as error:
                raise _not_a_fact(self.run_id, record, error) from error

    def input_of(self, outcome: StepCompleted | StepFailed) -> Json:
        """Return the encoded input of a finished step.

        Raises:
            SerializationError: its source is not in the log.
        """
        if outcome.source is None:
            return outcome.input
        key, index = split_source(outcome.source)
        value = self._value_at(key)
        return value if index is None else item_trees(value)[index]

    def _value_at(self, key: str) -> Json:
        if key == RUN_INPUT:
            return self.started.input
        source = self.outcomes.get(key)
        if not isinstance(source, StepCompleted):
            raise SerializationError(f"an input comes from step {key!r}, which is not in the log")
        return source.output

    def _change_context(self, scope: str, patch: Patch) -> None:
        if patch:
            self.contexts[scope] = apply(self.context_in(scope), patch)

    def context_in(self, scope: str) -> JsonObject:
        """Return the fields of the context of ``scope``: its own, or those it began with."""
        while scope not in self.contexts:
            scope = scope.rpartition("/")[0]
        return self.contexts[scope]

    def _run_started(self, fact: facts.RunStarted) -> None:
        if fact is not self.started:
            raise SerializationError("a second RunStarted")
        self.status = "running"

    def _run_resumed(self, fact: facts.RunResumed) -> None:
        self.status = "running"
        self.waiting_for = ()

    def _run_migrated(self, fact: facts.RunMigrated) -> None:
        self.pipeline_version, self.fingerprint = fact.pipeline_version, fact.fingerprint
        self.migrations.append((fact.patch, frozenset(self.outcomes) | frozenset(self.blocks)))
        self._change_context(MAIN_SCOPE, fact.patch)

    def _attempt_failed(self, fact: facts.AttemptFailed) -> None:
        self.failed_attempts[fact.key] = fact

    def _step_completed(self, fact: facts.StepCompleted) -> None:
        self.outcomes[fact.key] = fact
        self.last_step_output = fact.output
        self.current_step_index += is_top_level(fact.key)
        self._change_context(fact.scope, fact.patch)

    def _step_failed(self, fact: facts.StepFailed) -> None:
        self.outcomes[fact.key] = fact
        self.failures.append(fact.key)

    def _choice_made(self, fact: ChoiceMade) -> None:
        self.choices[fact.key] = fact.choice

    def _block_completed(self, fact: facts.BlockCompleted) -> None:
        self.blocks[fact.key] = fact.patch
        self.current_step_index += is_top_level(fact.key)
        for scope in [scope for scope in self.contexts if scope.startswith(f"{fact.key}/")]:
            del self.contexts[scope]
        self._change_context(fact.scope, fact.patch)

    def _event_emitted(self, fact: facts.EventEmitted) -> None:
        """An event changes nothing."""

    def _run_paused(self, fact: facts.RunPaused) -> None:
        self.status, self.waiting_for = "paused", fact.waiting_for

    def _run_completed(self, fact: facts.RunCompleted) -> None:
        self.status, self.output, self.finished_at = "completed", fact.output, fact.at

    def _run_failed(self, fact: facts.RunFailed) -> None:
        self.status, self.error, self.finished_at = "failed", fact.error, fact.at

    def _run_cancelled(self, fact: facts.RunCancelled) -> None:
        self.status, self.reason, self.finished_at = "cancelled", fact.reason, fact.at

    _APPLY: ClassVar[dict[type[Any], Callable[[Fold, Any], None]]] = {
        facts.RunStarted: _run_started,
        facts.RunResumed: _run_resumed,
        facts.RunMigrated: _run_migrated,
        facts.AttemptFailed: _attempt_failed,
        facts.StepCompleted: _step_completed,
        facts.StepFailed: _step_failed,
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
        started = decode_fact(records[0].body)
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
