"""Workflows: one coroutine as a definition."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Concatenate, Generic, Protocol, TypeVar, overload
from uuid import UUID

from flujo_async._model.policy import Durability, Duration, misnamed_durability
from flujo_async._model.usage import reported_usage
from flujo_async._plan.calls import Calls
from flujo_async._plan.function_names import mentioned_by, names_of
from flujo_async._plan.pipeline import Chain, End, check_name
from flujo_async._plan.signature import (
    Signature,
    check_unfilled,
    is_coroutine_function,
    name_of,
    read_signature,
    underlying,
)
from flujo_async.errors import DefinitionError

In = TypeVar("In")
Out = TypeVar("Out")
Answer = TypeVar("Answer")
Default = TypeVar("Default")
InT = TypeVar("InT", contravariant=True)
OutT = TypeVar("OutT", covariant=True)


class RunContext:
    """The run, for the code of its workflow: handed to a parameter annotated ``RunContext``.

    What must not differ in a replay comes from here: the time, ids, random numbers. What takes long and has to
    survive a restart is awaited from here: ``sleep``, ``wait_for``, ``child``. What the plain calls record goes into
    the run's next commit.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    @property
    def run_id(self) -> str:
        """The run."""
        return self._calls.run_id

    @property
    def state(self) -> Any:
        """The typed context of the run, to be changed in place; changes go into the next commit."""
        return self._calls.state

    def now(self) -> datetime:
        """Return the present moment, in UTC; in a replay the one that was recorded."""
        moment: datetime = self._calls.draw("now")
        return moment

    def uuid(self) -> UUID:
        """Return a new random UUID; in a replay the one that was recorded."""
        drawn: UUID = self._calls.draw("uuid")
        return drawn

    def random(self) -> float:
        """Return a random number from [0, 1); in a replay the one that was recorded."""
        drawn: float = self._calls.draw("random")
        return drawn

    def sleep(self, duration: Duration) -> Awaitable[None]:
        """Sleep, durably.

        Args:
            duration: how long, a ``timedelta`` or seconds.
        """
        return self._calls.sleep(duration)

    @overload
    def wait_for(
        self, name: str, *, schema: type[Answer], prompt: str | None = None, timeout: Duration | None = None
    ) -> Awaitable[Answer]: ...

    @overload
    def wait_for(
        self, name: str, *, schema: type[Answer], prompt: str | None = None, timeout: Duration, default: Default
    ) -> Awaitable[Answer | Default]: ...

    @overload
    def wait_for(
        self,
        name: str,
        *,
        schema: Any = None,
        prompt: str | None = None,
        timeout: Duration | None = None,
        default: Any = ...,
    ) -> Awaitable[Any]: ...

    def wait_for(
        self,
        name: str,
        *,
        schema: Any = None,
        prompt: str | None = None,
        timeout: Duration | None = None,
        default: Any = ...,
    ) -> Awaitable[Any]:
        """Wait until somebody answers with ``signal(run_id, name, payload)``; return the payload.

        Arguments are those of ``flujo_async.wait_for``.

        Raises:
            WaitTimeout: the time is over, and there is no default.
        """
        return self._calls.wait_for(name, schema=schema, prompt=prompt, timeout=timeout, default=default)

    def child(
        self, definition: Chain[In, Out], input: In | None = None, *, run_id: str | None = None
    ) -> Awaitable[Out]:
        """Run a definition as a run of its own, and return its output.

        Args:
            definition: a pipeline, a step or a workflow.
            input: its input.
            run_id: names the child; by default a name made of this run's and the place of the call.

        Raises:
            RunFailed: the child failed.
            RunCancelled: it was cancelled.
        """
        return self._calls.child(definition, input, run_id=run_id)

    def emit(self, event: Any) -> None:
        """Emit an event: followers of the run see it once it is durable.

        Args:
            event: any value that can be stored.
        """
        self._calls.emit(event)

    def report_usage(self, *, tokens: int | Mapping[str, int] = 0, cost: Decimal | float | str = 0) -> None:
        """Tell what the code of the workflow has consumed between its steps; goes into the run's next commit.

        Args:
            tokens: how many, or how many of each kind, as in ``{"input": 900, "output": 80}``.
            cost: how much money, in a currency of your choice.

        Raises:
            InvalidArgument: tokens that are no whole number from 0, or a cost that is not finite, or negative.
        """
        self._calls.report_usage(reported_usage(tokens, cost))

    def set_metadata(self, **entries: Any) -> None:
        """Set entries of the run's metadata, which ``list_runs`` finds runs by.

        Args:
            **entries: plain JSON.
        """
        self._calls.set_metadata(entries)


class Workflow(Chain[InT, OutT], Generic[InT, OutT]):
    """A coroutine whose step calls are recorded; made by ``@workflow``. Immutable.

    Calling it just calls the function, with nothing recorded.
    """

    has_own_name = True

    def __init__(
        self, function: Callable[..., Any], name: str, version: str | None, durability: Durability | None = None
    ) -> None:
        check_name(name, "a workflow")
        if durability is not None and (problem := misnamed_durability(durability)):
            raise DefinitionError(f"workflow {name!r}: {problem}")
        if not is_coroutine_function(function):
            raise DefinitionError(f"workflow {name!r} is a coroutine function: async def")
        functools.update_wrapper(self, function, updated=())
        self.function = function
        self.name = name
        self.version = version
        self.durability: Durability | None = durability
        self.signature: Signature = read_signature(function, name, RunContext, "workflow")
        check_unfilled(self.signature, f"workflow {name!r}", RunContext)
        if self.signature.resources:
            raise DefinitionError(f"workflow {name!r} asks for a Resource: those are for steps, which touch the world")

    @overload
    def __call__(self, input: InT, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, OutT]: ...
    @overload
    def __call__(self, **kwargs: Any) -> Coroutine[Any, Any, OutT]: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, OutT]:
        """Call the function."""
        coroutine: Coroutine[Any, Any, OutT] = self.function(*args, **kwargs)
        return coroutine

    def inlets(self) -> list[End]:
        """Return the first parameter; nothing where the workflow ignores its input."""
        return [End(self.name, self.signature.input_type)] if self.signature.takes_input else []

    def outlets(self) -> list[End]:
        """Return the result."""
        return [End(self.name, self.signature.output_type)]

    def names(self) -> dict[str, Any]:
        """Return what the names stand for that the function can use: globals, and variables around it.

        What it will call and which types it will meet is looked for there, before it runs.
        """
        return names_of(underlying(self.function))

    def mentions(self) -> dict[str, Any]:
        """Return those of ``names`` that stand in the code of the function itself, or of a function inside it."""
        return mentioned_by(underlying(self.function))

    def __repr__(self) -> str:
        return f"<workflow {self.name}>"


class _Decorator(Protocol):
    """What ``@workflow(option=…)`` is applied with; keeps the types of the function."""

    @overload
    def __call__(self, function: Callable[Concatenate[RunContext, ...], Awaitable[Out]], /) -> Workflow[Any, Out]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[In, ...], Awaitable[Out]], /) -> Workflow[In, Out]: ...
    @overload
    def __call__(self, function: Callable[[], Awaitable[Out]], /) -> Workflow[Any, Out]: ...


@overload
def workflow(function: Callable[Concatenate[RunContext, ...], Awaitable[Out]], /) -> Workflow[Any, Out]: ...
@overload
def workflow(function: Callable[Concatenate[In, ...], Awaitable[Out]], /) -> Workflow[In, Out]: ...
@overload
def workflow(function: Callable[[], Awaitable[Out]], /) -> Workflow[Any, Out]: ...
@overload
def workflow(
    *, name: str | None = None, version: str | None = None, durability: Durability | None = None
) -> _Decorator: ...
def workflow(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    version: str | None = None,
    durability: Durability | None = None,
) -> Any:
    """Make a coroutine function a workflow: ordinary Python, in which every call of a step is recorded.

    As a decorator, ``@workflow`` or ``@workflow(name="order", version="2.0.0")``. The first parameter is the input;
    one annotated ``RunContext`` is injected. ``asyncio.gather``, task groups and loops are safe inside. Between steps
    the code has to do the same in a replay: the time, ids and random numbers come from ``RunContext``, and what
    touches the world belongs into steps.

    Args:
        function: the coroutine function.
        name: under which runs are recorded; the function's name by default.
        version: under which version; by default runs go on with whatever code is there.
        durability: when what its steps did is durable, where a step does not say itself; by default that is up to
            the runtime.

    Raises:
        DefinitionError: it is no coroutine function, or its signature cannot be called.
    """
    if function is None:
        return functools.partial(_make_workflow, name=name, version=version, durability=durability)
    return _make_workflow(function, name=name, version=version, durability=durability)


def _make_workflow(
    function: Any, *, name: str | None, version: str | None, durability: Durability | None
) -> Workflow[Any, Any]:
    if not callable(function) or isinstance(function, Chain):
        raise DefinitionError(f"@workflow needs a coroutine function, not {function!r}")
    return Workflow(function, name_of(function) if name is None else name, version, durability)
