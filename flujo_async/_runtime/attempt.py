"""One step: its attempts, under their limits, turned into facts."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

from flujo_async._codec.exceptions import encode_error
from flujo_async._log.keys import fallback_of
from flujo_async._model.facts import AttemptFailed, StepCompleted, StepDecided, StepFailed
from flujo_async._model.policy import Durability, asked_delay, retry_delay
from flujo_async._model.quick import quick
from flujo_async._model.state import StepRecord
from flujo_async._model.tree import NO_ENTRIES, Json, JsonObject
from flujo_async._plan.step import Step
from flujo_async._runtime.cache import Hit, cache_key
from flujo_async._runtime.contexts import Scope
from flujo_async._runtime.execution import Execution, Fault, Value
from flujo_async._runtime.misread import Misread
from flujo_async._runtime.one_attempt import Attempt, idempotency_key
from flujo_async._runtime.witness import dice
from flujo_async.errors import DefinitionError, SerializationError

_NO_VALUES: Final[Mapping[str, Value]] = {}
_HOPELESS: Final = (SerializationError, DefinitionError)
"""What another attempt would end with again."""


@quick
@dataclass(frozen=True, slots=True)
class StepCall:
    """A step about to be executed: where it stands, with which arguments and in which context.

    Attributes:
        value: its input; ``None`` where it is left to its default.
        named: further arguments, by the name of the parameter. The input may be among them; ``value`` is then unused.
        extra: further positional arguments, for a function with ``*args``.
    """

    execution: Execution
    step: Step[Any, Any]
    key: str
    value: Value | None
    scope: Scope
    named: Mapping[str, Value] = field(default_factory=lambda: _NO_VALUES)
    extra: Sequence[Value] = ()

    def perform(self, *, compensates: StepRecord | None = None) -> Coroutine[Any, Any, StepCompleted]:
        """Try the step until it succeeds or is out of attempts; return the fact that is now durable.

        Args:
            compensates: in a compensation, the record of the step that it undoes.

        Raises:
            Fault: it failed for good, and that is durable.
        """
        fold = self.execution.journal.fold
        decision = fold.decisions.get(self.key)
        if decision is not None and decision.decision == "skip":
            return self._skip(decision)
        if decision is None and self.key in fold.once:
            effect = idempotency_key(self.execution.run_id, self.key, fold.repeats.get(self.key, 0))
            return self.execution.waits.decision(fold.once[self.key], effect)
        if self.step.policy.cache is not None:
            return self._from_cache(self.step.policy.cache)
        return self._execute(compensates)

    @property
    def _durability(self) -> Durability:
        return self.step.policy.durability or self.execution.durability

    async def _execute(self, compensates: StepRecord | None = None) -> StepCompleted:
        fold, number, first_started_at = self.execution.journal.fold, 1, None
        if self.key in fold.failed_attempts or self.key in fold.once:
            number, first_started_at = await self._due()
        while True:
            now = self.execution.clock.now()
            if self.execution.held.lease.expires_at <= now:
                now = await self.execution.secure()
            attempt = Attempt(self, number, now, first_started_at or now, compensates)
            try:
                beside = await attempt.run()
                completed = self._take_in(attempt)
            except (asyncio.CancelledError, Misread):
                attempt.leave_word()
                raise
            except Exception as error:  # whatever a step raises is the outcome of the attempt
                await self._record_failure(error, attempt)
                number, first_started_at = number + 1, attempt.first_started_at
            else:
                if self.key == self.execution.ends_with:  # nothing comes after it: it goes down with the run's end
                    self.execution.journal.defer(*beside, completed)
                else:
                    await self.execution.journal.record(self._durability, *beside, completed)
                return completed

    def _take_in(self, attempt: Attempt) -> StepCompleted:
        """Let the context take in what an attempt changed, at the instant of its commit; return the outcome."""
        completed = attempt.completed
        if not completed.patch:
            return completed
        return replace(completed, patch=self.scope.take_in(attempt.found, completed.patch, self.key))

    async def _due(self) -> tuple[int, datetime | None]:
        """Return the number of the next attempt when it is due, and when the first one began, if that is known."""
        fold = self.execution.journal.fold
        failed, begun = fold.failed_attempts.get(self.key), fold.once.get(self.key)
        number = 1 + max(fact.attempt for fact in (failed, begun) if fact is not None)
        if failed is None or self.key in fold.decisions:  # who decides, decides for now, with the whole time
            return number, None
        await self.execution.waits.until(failed.retry_at)
        first = failed.first_started_at
        return number, first and max(first, fold.began_at)  # a fork and a run tried again have the whole time, too

    async def _skip(self, decision: StepDecided) -> StepCompleted:
        """Record the output that somebody decided on."""
        fold = self.execution.journal.fold
        begun, now = fold.once.get(self.key) or fold.failed_attempts.get(self.key), self.execution.clock.now()
        if begun is None:
            return await self._take(decision.output, now, decision.at)
        return await self._take(decision.output, now, begun.at, attempts=begun.attempt)

    async def _take(
        self, output: Json, now: datetime, started_at: datetime, *, attempts: int = 0, cached_from: str | None = None
    ) -> StepCompleted:
        """Record an output that no attempt has returned."""
        source, inline, inputs = self.recorded_input()
        completed = StepCompleted(
            at=now,
            key=self.key,
            name=self.step.name,
            started_at=started_at,
            attempts=attempts,
            output=output,
            source=source,
            input=inline,
            inputs=inputs,
            scope=self.scope.path,
            cached_from=cached_from,
        )
        await self.execution.journal.record(self._durability, completed)
        return completed

    # ------------------------------------------------------------------------------------------------- failures

    async def _record_failure(self, error: Exception, attempt: Attempt) -> None:
        """Record that an attempt failed; return when the next one is due.

        Raises:
            Fault: there is no next one.
        """
        now = self.execution.clock.now()
        if attempt.is_late or not self._is_worth_retrying(error, attempt.number):
            await self._fail(error, attempt, now)
        wait = asked_delay(error, now)
        if wait is None:
            chance = dice(self.execution.run_id, f"{self.key}#{attempt.number}") or random
            wait = retry_delay(self.step.policy.retry, attempt.number, chance.random())
        retry_at = now + timedelta(seconds=wait)
        if attempt.deadline is not None and retry_at >= attempt.deadline:
            await self._fail(attempt.lateness(error), attempt, now)
        failed = AttemptFailed(
            at=now,
            key=self.key,
            name=self.step.name,
            attempt=attempt.number,
            error=encode_error(self.execution.codec, error),
            retry_at=retry_at,
            first_started_at=attempt.first_started_at,
        )
        await self.execution.journal.record(self._durability, *attempt.last_words(), failed)
        await self.execution.waits.until(retry_at)

    def _is_worth_retrying(self, error: Exception, attempt: int) -> bool:
        return not isinstance(error, _HOPELESS) and self.step.policy.retry.allows(error, attempt)

    async def _fail(self, error: Exception, attempt: Attempt, now: datetime) -> None:
        """Record that the step failed for good.

        Raises:
            Fault: always.
        """
        has_begun = attempt.started_at is not None
        source, inline, inputs = self.recorded_input()
        failed = StepFailed(
            at=now,
            key=self.key,
            name=self.step.name,
            started_at=attempt.started_at or attempt.first_started_at,
            attempts=attempt.number if has_begun else attempt.number - 1,
            error=encode_error(self.execution.codec, error),
            source=source,
            input=inline,
            inputs=inputs,
        )
        await self.execution.record_failure(self._durability, failed, *attempt.last_words())
        raise Fault(error, (self.key,))

    # --------------------------------------------------------------------------------------------------- cache

    async def _from_cache(self, ttl: float) -> StepCompleted:
        """Record the output of an equal call, or execute the step, and keep its output for others."""
        key = cache_key(self.step, self._arguments_tree())
        async with self.execution.services.cache.flight(key) as flight:
            hit = await flight.find(ttl, self.execution.clock.now())
            if hit is not None and self._can_read(hit):
                now = self.execution.clock.now()
                return await self._take(hit.output, now, now, cached_from=hit.run_id)
            completed = await self._execute()
            await flight.keep(Hit(completed.output, self.execution.run_id, completed.at))
            return completed

    def _can_read(self, hit: Hit) -> bool:
        try:
            self.execution.codec.decode(hit.output)
        except SerializationError:  # its classes have changed since
            return False
        return True

    # ----------------------------------------------------------------------------------------------- arguments

    @property
    def is_simple(self) -> bool:
        """Whether the step gets its input and nothing else."""
        return not self.named and not self.extra

    def recorded_input(self) -> tuple[str | None, Json, JsonObject]:
        """Return its input as a fact tells it: ``source``, ``input`` and ``inputs``, of which one is not empty."""
        if self.named or self.extra:
            return None, None, self._recorded_arguments()
        if self.value is None:
            return None, None, NO_ENTRIES
        return self.value.source, (self.value.tree if self.value.source is None else None), NO_ENTRIES

    def _recorded_arguments(self) -> JsonObject:
        named, extra = self.arguments()
        recorded: dict[str, Json] = {name: _recorded(value) for name, value in named.items()}
        return {**recorded, "*": ["is", [value.tree for value in extra]]} if extra else recorded

    def arguments(self) -> tuple[dict[str, Value], list[Value]]:
        """Return the arguments by the names of their parameters, and further positional ones."""
        signature = self.step.signature
        named, extra = dict(self.named), list(self.extra)
        if self.value is not None and signature.takes_input:
            if signature.input_parameter is None:
                extra.insert(0, self.value)
            elif signature.input_parameter not in named:
                named = {signature.input_parameter: self.value, **named}
        return named, extra

    def for_fallback(self) -> StepCall | None:
        """Return the call of the step that stands in for this one, with the same arguments; ``None`` without one.

        It is given those that it has parameters for, and the input as its own, whatever that is called.
        """
        fallback = self.step.policy.fallback
        if fallback is None:
            return None
        mine, its = self.step.signature, fallback.signature
        named, value = dict(self.named), self.value
        if mine.input_parameter in named:
            value = named.pop(mine.input_parameter)
        if not its.has_kwargs:
            named = {name: item for name, item in named.items() if name in its.parameters}
        extra = self.extra if its.has_varargs else ()
        return StepCall(self.execution, fallback, fallback_of(self.key), value, self.scope, named, extra)

    def _arguments_tree(self) -> Json:
        named, extra = self.arguments()
        return [{name: value.tree for name, value in named.items()}, [value.tree for value in extra]]


def _recorded(value: Value) -> Json:
    return ["is", value.tree] if value.source is None else ["from", value.source]
