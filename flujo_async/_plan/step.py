"""Steps: named functions whose results are recorded."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Concatenate, Generic, Literal, Protocol, TypeAlias, TypedDict, Unpack, get_args, overload

from typing_extensions import TypeVar  # `default=` is in `typing` since 3.13 only

from flujo_async._model.context import StepContext
from flujo_async._model.policy import Duration, Retry, check_duration
from flujo_async._plan.pipeline import Chain, End, Pipeline, check_name
from flujo_async._plan.signature import Signature, is_coroutine_function, name_of, read_signature
from flujo_async.errors import DefinitionError

In = TypeVar("In")
Out = TypeVar("Out")
InT = TypeVar("InT", contravariant=True)
OutT = TypeVar("OutT", covariant=True)
Called = TypeVar("Called", covariant=True, default=Any)

RunIn: TypeAlias = Literal["loop", "thread"]
Effect: TypeAlias = Literal["pure", "idempotent"]


class StepOptions(TypedDict, total=False):
    """What ``@step(…)`` takes.

    Attributes:
        name: what the step is called in logs and keys; the function's name by default.
        retry: how often it is tried; once by default.
        timeout: how long one attempt may take, a ``timedelta`` or seconds; without end by default.
        effect: what a second execution after a crash would do: nothing visible (``"pure"``), or the same again
            (``"idempotent"``, the default: pass ``StepContext.idempotency_key`` on).
        run_in: on the event ``"loop"``, the default for coroutine functions, or in a ``"thread"``, the default for
            plain ones.
    """

    name: str | None
    retry: Retry | None
    timeout: Duration | None
    effect: Effect
    run_in: RunIn | None


@dataclass(frozen=True, slots=True)
class Policy:
    """How a step is executed: its options, with the defaults filled in and the timeout in seconds."""

    retry: Retry
    timeout: float | None
    effect: Effect
    run_in: RunIn


class Step(Chain[InT, OutT], Generic[InT, OutT, Called]):
    """A named function whose result is recorded; made by ``@step``. Immutable.

    Calling a step just calls its function, with nothing recorded; ``Called`` is the type of what that returns: a
    coroutine of the output, or the output.
    """

    has_own_name = True

    def __init__(self, function: Callable[..., Any], name: str, policy: Policy) -> None:
        check_name(name, "a step")
        # Without its attributes: an object that is called like a function may have a `name` of its own.
        functools.update_wrapper(self, function, updated=())
        self.function = function
        self.name = name
        self.policy = policy
        self.signature: Signature = read_signature(function, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Called:
        """Call the function."""
        result: Called = self.function(*args, **kwargs)
        return result

    def inlets(self) -> list[End]:
        """Return the first parameter; nothing where the step ignores its input."""
        return [End(self.name, self.signature.input_type)] if self.signature.takes_input else []

    def outlets(self) -> list[End]:
        """Return the result."""
        return [End(self.name, self.signature.output_type)]

    def bodies(self) -> list[tuple[str, Pipeline[Any, Any]]]:
        """Return nothing: a step is a leaf."""
        return []

    def __repr__(self) -> str:
        return f"<step {self.name}>"


_Awaited: TypeAlias = Coroutine[Any, Any, Out]


class _Decorator(Protocol):
    """What ``@step(option=…)`` is applied with; keeps the types of the function."""

    @overload
    def __call__(self, function: Callable[[StepContext], Awaitable[Out]], /) -> Step[Any, Out, _Awaited[Out]]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[In, ...], Awaitable[Out]], /) -> Step[In, Out, _Awaited[Out]]: ...
    @overload
    def __call__(self, function: Callable[[], Awaitable[Out]], /) -> Step[Any, Out, _Awaited[Out]]: ...
    @overload
    def __call__(self, function: Callable[[StepContext], Out], /) -> Step[Any, Out, Out]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[In, ...], Out], /) -> Step[In, Out, Out]: ...
    @overload
    def __call__(self, function: Callable[[], Out], /) -> Step[Any, Out, Out]: ...


@overload
def step(
    function: Callable[[StepContext], Awaitable[Out]], /, **options: Unpack[StepOptions]
) -> Step[Any, Out, _Awaited[Out]]: ...
@overload
def step(
    function: Callable[Concatenate[In, ...], Awaitable[Out]], /, **options: Unpack[StepOptions]
) -> Step[In, Out, _Awaited[Out]]: ...
@overload
def step(
    function: Callable[[], Awaitable[Out]], /, **options: Unpack[StepOptions]
) -> Step[Any, Out, _Awaited[Out]]: ...
@overload
def step(function: Callable[[StepContext], Out], /, **options: Unpack[StepOptions]) -> Step[Any, Out, Out]: ...
@overload
def step(function: Callable[Concatenate[In, ...], Out], /, **options: Unpack[StepOptions]) -> Step[In, Out, Out]: ...
@overload
def step(function: Callable[[], Out], /, **options: Unpack[StepOptions]) -> Step[Any, Out, Out]: ...
@overload
def step(**options: Unpack[StepOptions]) -> _Decorator: ...
def step(function: Callable[..., Any] | None = None, /, **options: Unpack[StepOptions]) -> Any:
    """Make a function a step.

    As a decorator, ``@step`` or ``@step(option=…)``, or called: ``step(json.loads, name="parse")``. Takes coroutine
    functions and plain ones, bound methods, partials, classes and objects that can be called; no generators.

    The first parameter is the input; a later one annotated ``StepContext`` is injected; others keep their defaults.
    A step without parameters ignores its input.

    Args:
        function: the function.
        **options: those of ``StepOptions``: ``name``, ``retry``, ``timeout``, ``effect``, ``run_in``.

    Raises:
        DefinitionError: an unknown option, a value out of range, an annotation that cannot be resolved, or a
            signature that cannot be called.
    """
    if unknown := sorted(options.keys() - StepOptions.__annotations__.keys()):
        raise DefinitionError(
            f"@step has no option {', '.join(unknown)}; there are {', '.join(StepOptions.__annotations__)}"
        )
    if function is None:
        return functools.partial(_make_step, options=options)
    return _make_step(function, options)


def _make_step(function: Any, options: StepOptions) -> Step[Any, Any]:
    if not callable(function) or isinstance(function, Chain):
        raise DefinitionError(f"@step needs a function, not {function!r}")
    name = options.get("name")
    name = name_of(function) if name is None else name
    return Step(function, name, _read_policy(name, options, is_coroutine_function(function)))


def _read_policy(name: str, options: StepOptions, is_async: bool) -> Policy:
    retry: Any = options.get("retry") or Retry()
    timeout = options.get("timeout")
    effect = options.get("effect", "idempotent")
    run_in = options.get("run_in") or ("loop" if is_async else "thread")
    if not isinstance(retry, Retry):
        raise DefinitionError(f"step {name!r}: retry is a Retry, not {retry!r}")
    if effect not in get_args(Effect):
        raise DefinitionError(f"step {name!r}: effect is 'pure' or 'idempotent', not {effect!r}")
    if run_in not in get_args(RunIn) or (is_async and run_in == "thread"):
        raise DefinitionError(
            f"step {name!r}: run_in is 'loop', or for a function that is not a coroutine 'thread', not {run_in!r}"
        )
    limit = None if timeout is None else check_duration(timeout, f"step {name!r}: timeout")
    if limit == 0:
        raise DefinitionError(f"step {name!r}: timeout is longer than zero")
    return Policy(retry, limit, effect, run_in)
