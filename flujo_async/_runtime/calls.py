"""What a definition asks for, step by step: taken from the journal, or done and recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Final

from pydantic import TypeAdapter

from flujo_async._codec.exceptions import decode_error, encode_error
from flujo_async._log.keys import fallback_of
from flujo_async._log.views import open_until
from flujo_async._model.facts import (
    ChildStarted,
    SignalReceived,
    StepCompleted,
    StepFailed,
    TimerFired,
    TimerStarted,
    WaitStarted,
    WaitTimedOut,
)
from flujo_async._model.ids import MAX_RUN_ID_LENGTH
from flujo_async._model.state import Waiting
from flujo_async._model.stored import Signal
from flujo_async._model.tree import Json
from flujo_async._model.usage import NO_USAGE, Usage, grown
from flujo_async._plan.nodes import Child, WaitFor
from flujo_async._plan.step import Step
from flujo_async._runtime.attempt import StepCall
from flujo_async._runtime.contexts import Scope
from flujo_async._runtime.execution import Ended, Execution, Fault, Value
from flujo_async._runtime.one_attempt import usage_fact
from flujo_async._runtime.waits import REFUSED, ChildAtRest, news_of
from flujo_async.errors import RunCancelled, RunConflict, RunFailed, WaitTimeout

_NO_VALUES: Final[Mapping[str, Value]] = {}


async def call_step(
    execution: Execution,
    step: Step[Any, Any],
    key: str,
    value: Value | None,
    scope: Scope,
    named: Mapping[str, Value] = _NO_VALUES,
    extra: Sequence[Value] = (),
) -> StepCompleted:
    """Return how a step completed, or the step that stands in for it.

    Raises:
        Fault: it failed for good.
    """
    recorded = recorded_step(execution, step, key, scope)
    return recorded or await execute_step(execution, step, key, value, scope, named, extra)


async def execute_step(
    execution: Execution,
    step: Step[Any, Any],
    key: str,
    value: Value | None,
    scope: Scope,
    named: Mapping[str, Value] = _NO_VALUES,
    extra: Sequence[Value] = (),
) -> StepCompleted:
    """Return how a step completes that has not, or the step that stands in for it.

    Raises:
        Fault: it fails for good, or has.
    """
    call = StepCall(execution, step, key, value, scope, named, extra)
    outcome = execution.journal.fold.outcomes.get(key)
    try:
        if outcome is None:
            await execution.enter()
            try:
                outcome = await call.perform()
            finally:
                execution.leave()
        if isinstance(outcome, StepFailed):
            raise Fault(decode_error(execution.codec, outcome.error), (key,))
    except Fault:
        other = call.for_fallback()
        if other is None:
            raise
    else:
        return outcome
    # Only here, so that what it raises has nothing of ours as its context.
    return await call_step(execution, other.step, other.key, other.value, scope, other.named, other.extra)


def recorded_step(execution: Execution, step: Step[Any, Any], key: str, scope: Scope) -> StepCompleted | None:
    """Return how a step completed, if it has; the context is changed as it was then."""
    if step.may_be_undone:
        remember_to_undo(execution, step, key)
    outcome = execution.journal.fold.outcomes.get(key)
    if not isinstance(outcome, StepCompleted):
        return None
    if outcome.patch:
        scope.recall(outcome)
    return outcome


def last_to_stand_in(execution: Execution, step: Step[Any, Any], key: str) -> str:
    """Return the key of the step, or of the last one that stands in for it after what is recorded to have failed."""
    while isinstance(execution.journal.fold.outcomes.get(key), StepFailed) and step.policy.fallback is not None:
        key, step = fallback_of(key), step.policy.fallback
    return key


def migrate(execution: Execution, scope: Scope, key: str) -> None:
    """Change a context again where a fork or a migration came after ``key``, whose replay has undone that.

    What was changed then holds for the whole run: for the branches that were under way as well.
    """
    fold = execution.journal.fold
    if fold.migrations and (place := fold.place_of(key)) is not None:
        for migration in fold.migrations:
            if place < migration.seq:
                scope.change(migration.patch)


def remember_to_undo(execution: Execution, step: Step[Any, Any], key: str) -> None:
    """Take note of a step that has a compensation, or whose fallback has."""
    if step.policy.compensate is not None:
        execution.to_undo[key] = step
    if step.policy.fallback is not None:
        remember_to_undo(execution, step.policy.fallback, fallback_of(key))


async def sleep(execution: Execution, key: str, seconds: float, *, is_ordered: bool = False) -> None:
    """Return when the time is over, counted from when it was first asked for.

    Args:
        execution: the run.
        key: names the sleep.
        seconds: how long.
        is_ordered: whether it matters what came before it and what after; then that is durable as well.
    """
    fold = execution.journal.fold
    if key in fold.answers:
        return
    await execution.enter()
    try:
        if key not in fold.timers:
            now = execution.clock.now()
            await execution.journal.commit(TimerStarted(at=now, key=key, wake_at=now + timedelta(seconds=seconds)))
        await execution.waits.until(fold.timers[key])
        execution.journal.note(TimerFired(at=execution.clock.now(), key=key))
        if is_ordered:
            await execution.journal.commit()
    finally:
        execution.leave()


async def wait_for(execution: Execution, key: str, node: WaitFor) -> Value:
    """Return the answer to a wait.

    Raises:
        Fault: its time is over, and there is no default.
    """
    answer = execution.journal.fold.answers.get(key)
    if answer is None:
        await execution.enter()
        try:
            answer = await _answer(execution, key, node)
        finally:
            execution.leave()
    if isinstance(answer, SignalReceived):
        return Value(answer.payload, key)
    if node.default is ...:
        raise Fault(WaitTimeout(f"{node.name!r}: nobody answered within {node.timeout:g} s"), (key,))
    return Value(execution.codec.encode(node.default, at=f"{key}.default"))


async def _answer(execution: Execution, key: str, node: WaitFor) -> SignalReceived | WaitTimedOut:
    decision = execution.journal.fold.decisions.get(key)
    if decision is not None and decision.decision == "skip":
        now, name = execution.clock.now(), node.name
        decided = SignalReceived(at=now, key=key, name=name, signal_id=f"{name}#decided", payload=decision.output)
        await execution.journal.commit(decided)
        return decided
    started = execution.journal.fold.waits.get(key)
    if started is None:
        started = _wait_started(execution, key, node)
        await execution.journal.commit(started)
    waiting = Waiting(
        kind="signal",
        name=node.name,
        since=started.at,
        prompt=started.prompt,
        schema=started.schema,
        deadline=open_until(execution.journal.fold, started),
    )
    payloads: dict[str, Json] = {}

    def accept(signal: Signal) -> bool:
        try:
            payloads[signal.signal_id] = check_payload(execution, node.schema, signal.payload)
        except ValueError:
            execution.journal.note(_received(signal, execution.clock.now(), REFUSED, REFUSED, signal.payload))
            return False
        return True

    signal = await execution.waits.signal(waiting, accept)
    now = execution.clock.now()
    answer = (
        WaitTimedOut(at=now, key=key)
        if signal is None
        else _received(signal, now, key, node.name, payloads[signal.signal_id])
    )
    await execution.journal.commit(answer)
    return answer


def _wait_started(execution: Execution, key: str, node: WaitFor) -> WaitStarted:
    now = execution.clock.now()
    return WaitStarted(
        at=now,
        key=key,
        name=node.name,
        prompt=node.prompt,
        schema=None if node.schema is None else TypeAdapter(node.schema).json_schema(),
        deadline=None if node.timeout is None else now + timedelta(seconds=node.timeout),
    )


def check_payload(execution: Execution, schema: Any, payload: Json) -> Json:
    """Return an answer as it is recorded: validated and encoded again.

    Raises:
        ValueError: it does not fit the schema; pydantic's error tells where.
    """
    if schema is None:
        return payload
    return execution.codec.encode(TypeAdapter(schema).validate_python(execution.codec.decode(payload)), at="payload")


@dataclass(slots=True)
class ChildCall:
    """A call of a definition that runs as a run of its own.

    Attributes:
        run_id: what to call the child; by default its name is made of the parent's and the key.
    """

    execution: Execution
    node: Child
    key: str
    value: Value
    run_id: str | None = None

    async def perform(self) -> Value:
        """Return the output of the child.

        Raises:
            Fault: it failed or was cancelled.
        """
        outcome = self.execution.journal.fold.outcomes.get(self.key)
        if outcome is None:
            self.execution.children.learn(self.node)  # also where nothing new begins: it may have to be cancelled
            await self.execution.enter()
            try:
                outcome = await self._perform()
            finally:
                self.execution.leave()
        if isinstance(outcome, StepFailed):
            raise Fault(decode_error(self.execution.codec, outcome.error), (self.key,))
        return Value(outcome.output, self.key)

    async def _perform(self) -> StepCompleted | StepFailed:
        execution, clock = self.execution, self.execution.clock
        began = clock.now()
        try:
            ended = await self._ended()
        except (RunFailed, RunCancelled, RunConflict) as error:
            if not isinstance(error, RunConflict):
                self._note_usage(error.result.usage)
            failed = StepFailed(
                at=clock.now(),
                key=self.key,
                name=self.node.name,
                started_at=began,
                attempts=1,
                error=encode_error(execution.codec, error),
                source=self.value.source,
                input=self.value.tree if self.value.source is None else None,
            )
            await execution.record_failure(execution.durability, failed)
            raise Fault(error, (self.key,)) from error
        self._note_usage(ended.usage)
        completed = StepCompleted(
            at=clock.now(),
            key=self.key,
            name=self.node.name,
            started_at=began,
            attempts=1,
            output=ended.output,
            source=self.value.source,
            input=self.value.tree if self.value.source is None else None,
        )
        await execution.journal.record(execution.durability, completed)
        return completed

    async def _started(self) -> str:
        fold = self.execution.journal.fold
        run_id = fold.children.get(self.key)
        if run_id is None:
            return await self._start(self.run_id or child_run_id(fold.run_id, self.key))
        if self.key in fold.inherited and not fold.repeats:  # it goes on with what it was given then
            self.value = await self.execution.children.given(self, run_id)
        return run_id

    async def _start(self, run_id: str) -> str:
        now = self.execution.clock.now()
        await self.execution.journal.commit(ChildStarted(at=now, key=self.key, name=self.node.name, run_id=run_id))
        return run_id

    def _note_usage(self, total: Usage) -> None:
        """Note what the child has consumed, as far as it has not told that when it ended before."""
        if usage := grown(self._told_usage(), total):
            self.execution.journal.note(usage_fact(usage, self.execution.clock.now(), self.key, self.node.name))

    def _told_usage(self) -> Usage:
        fold = self.execution.journal.fold
        return fold.child_usages.get(fold.children.get(self.key, ""), NO_USAGE)

    async def _ended(self) -> Ended:
        decision = self.execution.journal.fold.decisions.get(self.key)
        if decision is not None and decision.decision == "skip":
            return Ended(decision.output, self._told_usage())
        run_id, waits = await self._started(), self.execution.waits
        if (before := waits.seen_before(run_id)) is not None:
            await waits.child(run_id, before)
        while True:
            heard = waits.heard_of(run_id)
            try:
                rested = await self.execution.children.complete_child(self, run_id)
            except RunConflict:
                if self.run_id is not None or not self.execution.journal.fold.repeats:
                    raise
                # What comes before it was undone and done again, otherwise this time: the old child does not count.
                reason = f"run {self.execution.run_id!r} has started another child in its place"
                await self.execution.children.cancel_children(self.execution, [run_id], reason)
                seq = self.execution.journal.fold.seq
                run_id = await self._start(child_run_id(self.execution.run_id, f"{self.key}@{seq}"))
                continue
            if isinstance(rested, Ended):
                return rested
            await waits.child(run_id, ChildAtRest([waiting for waiting, _ in rested.asked], rested.wake_at, heard))
            if (signal := waits.take(news_of(run_id))) is not None:
                self.execution.journal.note(taken(signal, self.execution.clock.now()))


def taken(signal: Signal, now: datetime) -> SignalReceived:
    """Return the fact that one of the runtime's own signals was taken."""
    return _received(signal, now, signal.name, signal.name, signal.payload)


def _received(signal: Signal, now: datetime, key: str, name: str, payload: Json) -> SignalReceived:
    return SignalReceived(
        at=now,
        key=key,
        name=name,
        signal_id=signal.signal_id,
        payload=payload,
        sent_at=signal.at,
        sent_by=signal.sent_by,
    )


def child_run_id(run_id: str, key: str) -> str:
    """Return the name of the child that ``key`` starts in a run: the same after every restart."""
    name = f"{run_id}/{key}"
    return name if len(name) <= MAX_RUN_ID_LENGTH else sha256(name.encode()).hexdigest()
