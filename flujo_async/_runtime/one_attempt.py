"""One attempt of a step: its function, called once."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from datetime import datetime
from functools import partial
from hashlib import sha256
from types import CoroutineType
from typing import Any, Final, Protocol, TypeVar

from flujo_async._codec.error_record import add_note
from flujo_async._codec.exceptions import decode_error
from flujo_async._model.context import StepContext
from flujo_async._model.facts import EventEmitted, Fact, Patch, StepCompleted, StepStarted, UsageReported
from flujo_async._model.policy import later
from flujo_async._model.state import StepRecord
from flujo_async._model.tree import NO_ENTRIES, Json, JsonObject
from flujo_async._model.usage import NO_USAGE, Usage
from flujo_async._plan.step import Step
from flujo_async._runtime.contexts import Scope
from flujo_async._runtime.execution import Execution, Value, uncalled_for
from flujo_async._runtime.heartbeat import Pulse
from flujo_async._runtime.misread import Misread
from flujo_async._runtime.processes import Borrowed
from flujo_async._runtime.threads import run_in_thread
from flujo_async._runtime.time_limit import TimeLimit
from flujo_async._runtime.witness import executing
from flujo_async.abc.instrument import AttemptIdentity
from flujo_async.errors import SerializationError

T = TypeVar("T")

_log: Final = logging.getLogger("flujo_async")


class Call(Protocol):
    """The call of a step that an attempt belongs to."""

    @property
    def execution(self) -> Execution: ...
    @property
    def step(self) -> Step[Any, Any]: ...
    @property
    def key(self) -> str: ...
    @property
    def value(self) -> Value | None: ...
    @property
    def scope(self) -> Scope: ...
    @property
    def is_simple(self) -> bool: ...
    def recorded_input(self) -> tuple[str | None, Json, JsonObject]: ...
    def arguments(self) -> tuple[dict[str, Value], list[Value]]: ...


class Attempt:
    """One attempt.

    Attributes:
        number: from 1.
        first_started_at: when the first attempt of the step began.
        started_at: when this one began; ``None`` while it waits for that.
        deadline: when the step has to be over, if ever.
        is_late: whether the deadline has ended this attempt, or kept it from beginning.
        found: the fields of the context that it began with.
        completed: the outcome, once there is one; the changes in it are those of what it found.
    """

    completed: StepCompleted
    started_at: datetime | None = None
    deadline: datetime | None = None
    is_late = False
    found: JsonObject = NO_ENTRIES
    _context: StepContext | None = None
    _pulse: Pulse | None = None
    _process: Borrowed | None = None
    _watching: ExitStack | None = None
    _is_abandoned = False

    def __init__(
        self, call: Call, number: int, now: datetime, first_started_at: datetime, compensates: StepRecord | None
    ) -> None:
        self._call = call
        self._execution = call.execution
        self._step = call.step
        self._compensates = compensates
        self._now = now
        self.number = number
        self.first_started_at = first_started_at
        if (limit := call.step.policy.deadline) is not None:
            self.deadline = later(first_started_at, limit)

    def run(self) -> Awaitable[Sequence[Fact]]:
        """Return what an attempt that succeeded has told beside its outcome, which is ``completed``.

        Raises:
            Exception: the attempt failed.
        """
        return self._run() if self._execution.watch is None else self._watched()

    async def _watched(self) -> Sequence[Fact]:
        with ExitStack() as self._watching:
            return await self._run()

    def _run(self) -> Awaitable[Sequence[Fact]]:
        if self._step.is_plain and not self._execution.services.limits.counts_all:
            self._begin(self._now)
            return self._complete(NO_ENTRIES)
        return self._admitted() if self.deadline is None else self._in_time(self.deadline)

    async def _in_time(self, deadline: datetime) -> Sequence[Fact]:
        left = (deadline - self._execution.clock.now()).total_seconds()
        if left <= 0:
            self.is_late = True
            raise self.lateness()
        return await self._within(left, self._admitted(), self._too_late)

    def lateness(self, cause: Exception | None = None) -> TimeoutError:
        """Return the error of a step whose deadline has passed, or will have before the next attempt."""
        error = TimeoutError(
            f"step {self._call.key!r} missed its deadline, {self._step.policy.deadline:g} s after its first attempt "
            f"began{self._abandonment}"
        )
        error.__cause__ = cause
        return error

    def last_words(self) -> list[Fact]:
        """Return the newest heartbeat, if it is not recorded yet, and what was consumed."""
        if self._pulse is None or self._context is None:
            return []
        return [*self._pulse.close(), *self._usage(self._context)]

    def leave_word(self) -> None:
        """Record the last words of an attempt that is interrupted; nobody waits for that."""
        if words := self.last_words():
            for fact in words:
                self._execution.journal.note(fact)
            self._execution.journal.flush()

    # --------------------------------------------------------------------------------------------------- limits

    async def _within(self, seconds: float, work: Awaitable[T], error: Callable[[], TimeoutError]) -> T:
        limit = TimeLimit(self._execution.clock, seconds)
        try:
            async with limit:
                return await work
        except TimeoutError as expired:
            if not limit.is_over:
                raise  # the step's own
            if self._is_abandoned:
                run_id, key = self._execution.run_id, self._call.key
                _log.warning("run %r, step %r: its thread cannot be stopped, and runs on", run_id, key)
            raise error() from expired

    def _too_late(self) -> TimeoutError:
        self.is_late = True
        return self.lateness()

    def _too_slow(self) -> TimeoutError:
        return TimeoutError(
            f"step {self._call.key!r} took longer than its timeout of {self._step.policy.timeout:g} s"
            f"{self._abandonment}"
        )

    @property
    def _abandonment(self) -> str:
        return "; its thread cannot be stopped, and runs on" if self._is_abandoned else ""

    async def _admitted(self) -> Sequence[Fact]:
        """Wait until the attempt may begin, and carry it out. Its timeout does not count the waiting."""
        policy = self._step.policy
        async with AsyncExitStack() as stack:
            await self._enter(stack)
            if policy.effect == "once":
                await self._announce()
            self._begin(self._execution.clock.now())
            if policy.timeout is None:
                return await self._equipped()
            return await self._within(policy.timeout, self._equipped(), self._too_slow)

    def _begin(self, now: datetime) -> None:
        self.started_at = now
        if self._watching is not None and (watch := self._execution.watch) is not None:
            attempt = AttemptIdentity(
                key=self._call.key,
                name=self._step.name,
                number=self.number,
                started_at=now,
                first_started_at=self.first_started_at,
            )
            self._watching.enter_context(watch(attempt))

    async def _enter(self, stack: AsyncExitStack) -> None:
        services, policy = self._execution.services, self._step.policy
        if policy.limit is not None or services.limits.counts_all:
            services.limits.check(self._step)
            ticket = await services.limits.enter(policy.limit, self._execution.run_id, self._execution.priority)
            stack.callback(services.limits.leave, ticket)
        if policy.run_in == "thread":
            await services.threads.acquire_on_behalf_of(self)
            stack.callback(services.threads.release_on_behalf_of, self)
        elif policy.run_in == "process":
            self._process = await stack.enter_async_context(services.processes.borrow(self._step))

    async def _announce(self) -> None:
        """Put on record that an effect which must not happen twice may have happened from now on."""
        now = self._execution.clock.now()
        begun = StepStarted(at=now, key=self._call.key, name=self._step.name, attempt=self.number)
        await self._execution.journal.commit(begun)

    async def _equipped(self) -> Sequence[Fact]:
        """Carry the attempt out with the resources that it asks for; they see how it ends."""
        wanted = self._step.signature.resources
        if not wanted:
            return await self._complete({})
        failure: BaseException | None = None
        async with AsyncExitStack() as stack:
            try:
                given: dict[str, Any] = {}
                for parameter, name in wanted.items():
                    who = f"step {self._step.name!r}"
                    given[parameter] = await self._execution.services.resources.enter(stack, name, who)
                return await self._complete(given)
            except BaseException as error:  # raised again below, where a resource has swallowed it
                failure = error
                raise
        raise failure

    # ------------------------------------------------------------------------------------------------- the call

    async def _complete(self, given: Mapping[str, Any]) -> Sequence[Fact]:
        context = None
        if (parameter := self._step.signature.context_parameter) is not None:
            context = self._context = self._new_context()
            given = {**given, parameter: context}
        try:
            with executing(self._execution.run_id, self._call.key):
                result = self._begin_call(given)
                # A plain function may return a coroutine, as `lambda url: fetch(url)` does; it is awaited on the loop.
                if type(result) is CoroutineType or inspect.isawaitable(result):  # the usual case is quick to tell
                    result = await result  # pyright: ignore[reportUnknownVariableType] -- whatever the function returns
        except asyncio.CancelledError as error:
            if self._execution.is_cancelled():
                raise
            raise uncalled_for(f"step {self._call.key!r}") from error
        return self._outcome(result, context)

    def _begin_call(self, given: Mapping[str, Any]) -> Any:
        """Call the function; return its result, or what that comes from."""
        if self._process is not None:
            return self._result_of_process(self._process)
        args, kwargs = self._arguments(given)
        if self._step.policy.run_in == "thread":
            return self._result_of_thread(partial(self._step.function, *args, **kwargs))
        return self._step.function(*args, **kwargs)

    async def _result_of_thread(self, call: Callable[[], Any]) -> Any:
        result = await run_in_thread(call, self._abandon)
        return await result if inspect.isawaitable(result) else result

    def _arguments(self, given: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return fresh copies of the arguments, with what is injected."""
        call, signature, read = self._call, self._step.signature, self._execution.read
        if call.is_simple and signature.is_input_first and call.value is not None:  # the usual case
            return [read(call.value.tree, at=f"{call.key}.input")], dict(given)
        named, extra = call.arguments()
        values = {name: read(value.tree, at=f"{call.key}.{name}") for name, value in named.items()}
        return signature.arrange({**values, **given}, [read(value.tree, at=f"{call.key}.*") for value in extra])

    async def _result_of_process(self, process: Borrowed) -> Any:
        named, extra = self._call.arguments()
        trees = {name: value.tree for name, value in named.items()}
        answer = await process.call(*self._step.signature.arrange(trees, [value.tree for value in extra]))
        codec = self._execution.codec
        if "misread" in answer:
            path = f"{self._call.key}.{answer['path']}"
            raise Misread(SerializationError(str(answer["misread"]), path=path))
        if "error" in answer:
            raise _with_its_traceback(decode_error(codec, answer["error"]), answer["error"])
        return codec.decode(answer["output"], at=f"{self._call.key}.output")

    def _abandon(self) -> None:
        self._is_abandoned = True

    def _new_context(self) -> StepContext:
        execution, call = self._execution, self._call
        repeats = execution.journal.fold.repeats.get(call.key, 0)
        self._pulse = Pulse(execution, call.key, self._step.name, self.number)
        self.found = call.scope.latest
        return StepContext(
            run_id=execution.run_id,
            step_name=self._step.name,
            step_key=call.key,
            attempt=self.number,
            idempotency_key=idempotency_key(execution.run_id, call.key, repeats),
            load=partial(execution.contexts.read, self.found, call.scope.lists),
            encode=partial(execution.codec.encode, at=f"{call.key}.event"),
            beat=self._pulse.beat,
            recall=self._pulse.recall,
            deadline=self._ends_at(),
            compensates=self._compensates,
        )

    def _ends_at(self) -> datetime | None:
        timeout = self._step.policy.timeout
        if timeout is None or self.started_at is None:
            return self.deadline
        ends_at = later(self.started_at, timeout)
        return ends_at if self.deadline is None else min(ends_at, self.deadline)

    # ---------------------------------------------------------------------------------------------- its outcome

    def _outcome(self, result: Any, context: StepContext | None) -> Sequence[Fact]:
        call, execution = self._call, self._execution
        output = execution.codec.encode(result, at=f"{call.key}.output")
        source, inline, inputs = call.recorded_input()
        now = execution.clock.now()
        self.completed = StepCompleted(
            at=now,
            key=call.key,
            name=self._step.name,
            started_at=self.started_at or now,
            attempts=self.number,
            output=output,
            source=source,
            input=inline,
            inputs=inputs,
            scope=call.scope.path,
            patch=NO_ENTRIES if context is None else self._changes(context),
        )
        return () if context is None else (*self._events(context, now), *self.last_words())

    def _changes(self, context: StepContext) -> Patch:
        if not context.is_state_loaded:
            return NO_ENTRIES
        return self._execution.contexts.changes(self.found, context.state, self._call.scope.lists)

    def _events(self, context: StepContext, now: datetime) -> list[EventEmitted]:
        return [EventEmitted(at=now, key=self._call.key, name=self._step.name, data=event) for event in context.events]

    def _usage(self, context: StepContext) -> list[UsageReported]:
        if not (usage := sum(context.reports, NO_USAGE)):
            return []
        return [usage_fact(usage, self._execution.clock.now(), self._call.key, self._step.name)]


def usage_fact(usage: Usage, now: datetime, key: str, name: str) -> UsageReported:
    """Return the fact that something was consumed."""
    counts = dict(usage.token_counts)
    return UsageReported(at=now, key=key, name=name, tokens=usage.tokens, cost=usage.cost, token_counts=counts)


def _with_its_traceback(error: Exception, record: Json) -> Exception:
    """Return an exception that came from another process with the place there where it was raised."""
    match record:
        case {"traceback": str(text)}:
            add_note(error, f"in its own process:\n{text}")
        case _:
            pass
    return error


def idempotency_key(run_id: str, key: str, repeats: int = 0) -> str:
    """Return what names one execution of a step for the outside world: 32 hex digits, the same in every process.

    Args:
        run_id: the run.
        key: the step.
        repeats: how often the step, once completed, was begun anew: each is another execution.
    """
    name = f"{run_id}\0{key}" if not repeats else f"{run_id}\0{key}\0{repeats}"
    return sha256(name.encode()).hexdigest()[:32]
