"""One step: its attempts, under their limits, turned into facts."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from hashlib import sha256
from typing import Any

from flujo_async._codec.exceptions import encode_error
from flujo_async._log.delta import diff
from flujo_async._model.context import StepContext
from flujo_async._model.facts import AttemptFailed, EventEmitted, Patch, StepCompleted, StepFailed
from flujo_async._model.policy import retry_delay
from flujo_async._model.tree import Json
from flujo_async._plan.step import Step
from flujo_async._runtime.contexts import Scope
from flujo_async._runtime.execution import Execution, Fault, Value
from flujo_async._runtime.threads import run_in_thread
from flujo_async.errors import SerializationError


@dataclass(frozen=True, slots=True)
class StepCall:
    """A step about to be executed: where it stands, on what value and in which context."""

    execution: Execution
    step: Step[Any, Any]
    key: str
    value: Value
    scope: Scope

    async def perform(self) -> StepCompleted:
        """Try the step until it succeeds or is out of attempts; return the fact that is now durable.

        Raises:
            Fault: it failed for good, and that is durable.
        """
        attempt = await self._due_attempt()
        while True:
            started_at = self.execution.clock.now()
            try:
                completed, events = await self._try(attempt, started_at)
            except Exception as error:  # whatever a step raises is the outcome of the attempt
                await self._record_failure(error, attempt, started_at)
                attempt += 1
            else:
                await self.execution.journal.commit(*events, completed)
                return completed

    async def _due_attempt(self) -> int:
        """Return the number of the next attempt, when it is due."""
        failed = self.execution.journal.fold.failed_attempts.get(self.key)
        if failed is None:
            return 1
        await self._sleep_until(failed.retry_at)
        return failed.attempt + 1

    async def _sleep_until(self, moment: datetime) -> None:
        clock = self.execution.clock
        if (wait := (moment - clock.now()).total_seconds()) > 0:
            await clock.sleep(wait)

    async def _try(self, attempt: int, started_at: datetime) -> tuple[StepCompleted, list[EventEmitted]]:
        context = self._step_context(attempt)
        try:
            result = await self._within_timeout(context)
        except asyncio.CancelledError as error:
            if _is_being_cancelled():
                raise
            # Let through, it would pass for a cancellation of the run: a branch would be missing, without a failure.
            raise RuntimeError(f"step {self.key!r} raised CancelledError, and nobody had cancelled it") from error
        output = self.execution.codec.encode(result, at=f"{self.key}.output")
        now = self.execution.clock.now()
        completed = StepCompleted(
            at=now,
            key=self.key,
            name=self.step.name,
            started_at=started_at,
            attempts=attempt,
            output=output,
            source=self.value.source,
            input=self._inline_input(),
            scope=self.scope.path,
            patch=self._changes(context),
        )
        return completed, self._events(context, now)

    async def _within_timeout(self, context: StepContext) -> Any:
        timeout = self.step.policy.timeout
        if timeout is None:
            return await self._call(context)
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                return await self._call(context)
        except TimeoutError as error:
            if not limit.expired():
                raise  # the step's own
            raise TimeoutError(f"step {self.key!r} took longer than its timeout of {timeout:g} s") from error

    async def _call(self, context: StepContext) -> Any:
        signature = self.step.signature
        arguments: list[Any] = []
        if signature.takes_input:
            arguments.append(self.execution.codec.decode(self.value.tree, at=f"{self.key}.input"))
        function: Callable[..., Any] = self.step.function
        if signature.context_parameter is not None:
            function = partial(function, **{signature.context_parameter: context})
        if self.step.policy.run_in == "thread":
            result = await run_in_thread(partial(function, *arguments), self.execution.threads)
        else:
            result = function(*arguments)
        # A plain function may return a coroutine, as `lambda url: fetch(url)` does; it is awaited on the loop.
        return await result if inspect.isawaitable(result) else result

    def _step_context(self, attempt: int) -> StepContext:
        execution, scope = self.execution, self.scope
        return StepContext(
            run_id=execution.run_id,
            step_name=self.step.name,
            step_key=self.key,
            attempt=attempt,
            idempotency_key=idempotency_key(execution.run_id, self.key),
            load=lambda: execution.contexts.decode(scope.fields),
        )

    def _changes(self, context: StepContext) -> Patch:
        if not context.is_state_loaded:
            return {}
        return diff(self.scope.fields, self.execution.contexts.encode(context.state))

    def _events(self, context: StepContext, now: datetime) -> list[EventEmitted]:
        encode = self.execution.codec.encode
        return [
            EventEmitted(at=now, key=self.key, name=self.step.name, data=encode(event, at=f"{self.key}.event"))
            for event in context.events
        ]

    def _inline_input(self) -> Json:
        return self.value.tree if self.value.source is None else None

    async def _record_failure(self, error: Exception, attempt: int, started_at: datetime) -> None:
        """Record that an attempt failed; return when the next one is due.

        Raises:
            Fault: there is no next one.
        """
        journal, now = self.execution.journal, self.execution.clock.now()
        recorded = encode_error(self.execution.codec, error)
        if not self._is_worth_retrying(error, attempt):
            failed = StepFailed(
                at=now,
                key=self.key,
                name=self.step.name,
                started_at=started_at,
                attempts=attempt,
                error=recorded,
                source=self.value.source,
                input=self._inline_input(),
            )
            await journal.commit(failed)
            raise Fault(error)
        retry_at = now + timedelta(seconds=retry_delay(self.step.policy.retry, attempt, random.random()))
        await journal.commit(
            AttemptFailed(at=now, key=self.key, name=self.step.name, attempt=attempt, error=recorded, retry_at=retry_at)
        )
        await self._sleep_until(retry_at)

    def _is_worth_retrying(self, error: Exception, attempt: int) -> bool:
        # A value that cannot be stored will not be storable next time either.
        return not isinstance(error, SerializationError) and self.step.policy.retry.allows(error, attempt)


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def idempotency_key(run_id: str, key: str) -> str:
    """Return what names one step of one run for the outside world: 32 hex digits, the same in every process."""
    return sha256(f"{run_id}\0{key}".encode()).hexdigest()[:32]
