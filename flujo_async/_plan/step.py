"""Steps: named functions whose results are recorded."""

from __future__ import annotations

import functools
import math
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Concatenate, Generic, Literal, Protocol, TypeAlias, TypedDict, Unpack, cast, get_args, overload

from typing_extensions import TypeVar  # `default=` is in `typing` since 3.13 only

from flujo_async._model.context import StepContext
from flujo_async._model.policy import Durability, Duration, Retry, check_duration, misnamed_durability
from flujo_async._plan.assignable import describe_type, is_assignable
from flujo_async._plan.calls import CALLS
from flujo_async._plan.depends import On
from flujo_async._plan.function_code import fingerprint, is_free, reference_to
from flujo_async._plan.pipeline import Chain, End, check_flow, check_name
from flujo_async._plan.signature import Signature, check_unfilled, is_coroutine_function, name_of, read_signature
from flujo_async.errors import DefinitionError

In = TypeVar("In")
Out = TypeVar("Out")
InT = TypeVar("InT", contravariant=True)
OutT = TypeVar("OutT", covariant=True)
Called = TypeVar("Called", covariant=True, default=Any)

RunIn: TypeAlias = Literal["loop", "thread", "process"]
Effect: TypeAlias = Literal["pure", "idempotent", "once"]


class StepOptions(TypedDict, total=False):
    """What ``@step(…)`` takes.

    Attributes:
        name: what the step is called in logs and keys; the function's name by default.
        retry: how often it is tried; once by default.
        timeout: how long one attempt may take, a ``timedelta`` or seconds; without end by default.
        deadline: how long all its attempts may take together, from the start of the first one on, with the waits
            between them and across restarts; without end by default.
        fallback: a step that stands in for this one when it has failed for good; it gets the same input.
        effect: what a second execution after a crash would do: nothing visible (``"pure"``), or the same again
            (``"idempotent"``, the default: pass ``StepContext.idempotency_key`` on), or something that must not happen
            (``"once"``: after a crash inside of it somebody decides).
        compensate: a step, or a function to make one of, that undoes this one when the run fails or is cancelled.
        cache: how long its output may stand in for executing it again on equal input, in any run: a ``timedelta``,
            seconds, or ``True`` for ever.
        limit: the name of one of the runtime's limits.
        run_in: on the event ``"loop"``, the default for coroutine functions; in a ``"thread"``, the default for plain
            ones; or in a ``"process"`` of its own.
        durability: when its outcome is durable: before the next step starts (``"sync"``), soon after (``"async"``), or
            when the run rests (``"exit"``); by default that is up to the definition, and then to the runtime.
    """

    name: str | None
    retry: Retry | None
    timeout: Duration | None
    deadline: Duration | None
    fallback: Step[Any, Any, Any] | None
    effect: Effect
    compensate: Callable[..., Any] | None
    cache: Duration | bool | None
    limit: str | None
    run_in: RunIn | None
    durability: Durability | None


@dataclass(frozen=True, slots=True)
class Policy:
    """How a step is executed: its options, with the defaults filled in and durations in seconds."""

    retry: Retry
    timeout: float | None
    effect: Effect
    run_in: RunIn
    deadline: float | None = None
    fallback: Step[Any, Any, Any] | None = None
    compensate: Step[Any, Any, Any] | None = None
    cache: float | None = None
    limit: str | None = None
    durability: Durability | None = None

    @property
    def is_plain(self) -> bool:
        """Whether an attempt is just a call of the function, on the event loop."""
        has_limits = self.timeout is not None or self.deadline is not None or self.limit is not None
        return self.run_in == "loop" and self.effect != "once" and not has_limits


class Step(Chain[InT, OutT], Generic[InT, OutT, Called]):
    """A named function whose result is recorded; made by ``@step``. Immutable.

    Calling a step just calls its function, with nothing recorded; ``Called`` is the type of what that returns: a
    coroutine of the output. With a plain function that is the output, but in the code of a workflow what is awaited for
    it: no type says both, so it is ``Any``.
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
        self.is_plain: bool = policy.is_plain and not self.signature.resources
        self.may_be_undone: bool = policy.compensate is not None or (
            policy.fallback is not None and policy.fallback.may_be_undone
        )

    @functools.cached_property
    def fingerprint(self) -> str:
        """What changes with the code of the function."""
        return fingerprint(self.function)

    @overload
    def __call__(self, input: InT, /, *args: Any, **kwargs: Any) -> Called: ...
    @overload
    def __call__(self, **kwargs: Any) -> Called: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Called:
        """Call the function; in the code of a workflow, return what awaits its recorded result."""
        calls = CALLS.get()
        if calls is not None:
            recorded: Called = calls.step(self, args, kwargs)
            return recorded
        result: Called = self.function(*args, **kwargs)
        return result

    def inlets(self) -> list[End]:
        """Return the first parameter; nothing where the step ignores its input."""
        return [End(self.name, self.signature.input_type)] if self.signature.takes_input else []

    def outlets(self) -> list[End]:
        """Return the result."""
        return [End(self.name, self.signature.output_type)]

    def check_filled(self) -> None:
        """Check that the step can be called with its input alone, as in a pipeline.

        Raises:
            DefinitionError: nothing fills one of its parameters, or one of its fallback.
        """
        check_unfilled(self.signature, f"step {self.name!r}")
        if self.policy.fallback is not None:
            self.policy.fallback.check_filled()

    def on(self, action: str) -> On:
        """Return the way out of this step that ``Action(action)`` chooses, for the edges of a ``graph``.

        Args:
            action: the name of the action.

        Raises:
            DefinitionError: it is empty, or no text.
        """
        return On(self, action)

    def __repr__(self) -> str:
        return f"<step {self.name}>"


_Awaited: TypeAlias = Coroutine[Any, Any, Out]


class _Decorator(Protocol):
    """What ``@step(option=…)`` is applied with; keeps the types of the function."""

    @overload
    def __call__(
        self, function: Callable[Concatenate[StepContext, ...], Awaitable[Out]], /
    ) -> Step[Any, Out, _Awaited[Out]]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[In, ...], Awaitable[Out]], /) -> Step[In, Out, _Awaited[Out]]: ...
    @overload
    def __call__(self, function: Callable[[], Awaitable[Out]], /) -> Step[Any, Out, _Awaited[Out]]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[StepContext, ...], Out], /) -> Step[Any, Out]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[In, ...], Out], /) -> Step[In, Out]: ...
    @overload
    def __call__(self, function: Callable[[], Out], /) -> Step[Any, Out]: ...


@overload
def step(
    function: Callable[Concatenate[StepContext, ...], Awaitable[Out]], /, **options: Unpack[StepOptions]
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
def step(
    function: Callable[Concatenate[StepContext, ...], Out], /, **options: Unpack[StepOptions]
) -> Step[Any, Out]: ...
@overload
def step(function: Callable[Concatenate[In, ...], Out], /, **options: Unpack[StepOptions]) -> Step[In, Out]: ...
@overload
def step(function: Callable[[], Out], /, **options: Unpack[StepOptions]) -> Step[Any, Out]: ...
@overload
def step(**options: Unpack[StepOptions]) -> _Decorator: ...
def step(function: Callable[..., Any] | None = None, /, **options: Unpack[StepOptions]) -> Any:
    """Make a function a step.

    As a decorator, ``@step`` or ``@step(option=…)``, or called: ``step(json.loads, name="parse")``. Takes coroutine
    functions and plain ones, bound methods, partials, classes and objects that can be called; no generators.

    Parameters annotated ``StepContext`` or ``Annotated[T, Resource("name")]`` are injected; the first of the others is
    the input. The rest keep their defaults in a pipeline; in a graph ``Depends`` and the run's input fill them, in a
    workflow the call does. A step without parameters ignores its input.

    Args:
        function: the function.
        **options: those of ``StepOptions``: ``name``, ``retry``, ``timeout``, ``deadline``, ``fallback``, ``effect``,
            ``compensate``, ``cache``, ``limit``, ``run_in``, ``durability``.

    Raises:
        DefinitionError: an unknown option, a value out of range, options that do not go together, an annotation that
            cannot be resolved, or a signature that cannot be called.
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
    made: Step[Any, Any] = Step(function, name, _read_policy(name, options, is_coroutine_function(function)))
    _check_together(made)
    return made


def _read_policy(name: str, options: StepOptions, is_async: bool) -> Policy:
    retry: Any = options.get("retry") or Retry()
    effect = options.get("effect", "idempotent")
    run_in = options.get("run_in") or ("loop" if is_async else "thread")
    if not isinstance(retry, Retry):
        raise DefinitionError(f"step {name!r}: retry is a Retry, not {retry!r}")
    if effect not in get_args(Effect):
        raise DefinitionError(f"step {name!r}: effect is 'pure', 'idempotent' or 'once', not {effect!r}")
    if run_in not in get_args(RunIn) or (is_async and run_in == "thread"):
        raise DefinitionError(
            f"step {name!r}: run_in is 'loop' or 'process', or for a function that is not a coroutine 'thread', "
            f"not {run_in!r}"
        )
    return Policy(
        retry=retry,
        timeout=_read_duration(name, "timeout", options.get("timeout")),
        effect=effect,
        run_in=run_in,
        deadline=_read_duration(name, "deadline", options.get("deadline")),
        fallback=_read_fallback(name, options.get("fallback")),
        compensate=_read_compensation(name, options.get("compensate")),
        cache=_read_cache(name, options.get("cache")),
        limit=_read_limit(name, options.get("limit")),
        durability=_read_durability(name, options.get("durability")),
    )


def _read_duration(name: str, option: str, duration: Any) -> float | None:
    if duration is None:
        return None
    length = check_duration(duration, f"step {name!r}: {option}")
    if length == 0:
        raise DefinitionError(f"step {name!r}: {option} is longer than zero")
    return length


def _read_fallback(name: str, fallback: Any) -> Step[Any, Any] | None:
    if fallback is None or isinstance(fallback, Step):
        return fallback  # pyright: ignore[reportUnknownVariableType] -- the parameters of a Step are not kept at run time
    hint = "; decorate it with @step" if callable(fallback) else ""
    raise DefinitionError(f"step {name!r}: fallback is a step, not {fallback!r}{hint}")


def _read_compensation(name: str, compensation: Any) -> Step[Any, Any] | None:
    if compensation is None or isinstance(compensation, Step):
        return compensation  # pyright: ignore[reportUnknownVariableType] -- as above
    if not callable(compensation) or isinstance(compensation, Chain):
        raise DefinitionError(f"step {name!r}: compensate is a step or a function, not {compensation!r}")
    return _make_step(compensation, {})


def _read_cache(name: str, cache: Any) -> float | None:
    if isinstance(cache, bool):
        return math.inf if cache else None
    return _read_duration(name, "cache", cache)


def _read_limit(name: str, limit: Any) -> str | None:
    if limit is not None and (not isinstance(limit, str) or not limit):
        raise DefinitionError(
            f"step {name!r}: limit is the name of one of those in Flujo(limits={{name: Limit(…)}}), not {limit!r}"
        )
    return limit


def _read_durability(name: str, durability: Any) -> Durability | None:
    if durability is not None and (problem := misnamed_durability(durability)):
        raise DefinitionError(f"step {name!r}: {problem}")
    return cast("Durability | None", durability)


def _check_together(made: Step[Any, Any]) -> None:
    """Check that the options of a step fit each other and its signature."""
    if made.policy.fallback is not None:
        _check_fallback(made, made.policy.fallback)
    if made.policy.compensate is not None:
        _check_compensation(made, made.policy.compensate)
    if made.policy.cache is not None:
        _check_cached(made)
    if made.policy.run_in == "process":
        _check_in_process(made)


def _check_fallback(made: Step[Any, Any], fallback: Step[Any, Any]) -> None:
    pairs = [(fallback.signature.output_type, made.signature.output_type, "returns")]
    if fallback.signature.takes_input and made.signature.takes_input:
        pairs.append((made.signature.input_type, fallback.signature.input_type, "takes"))
    for source, target, verb in pairs:
        if not is_assignable(source, target):
            raise DefinitionError(
                f"step {made.name!r}: its fallback {fallback.name!r} {verb} another type: "
                f"{describe_type(source)} is no {describe_type(target)}"
            )
    known = made.signature.parameters.keys() | fallback.signature.defaults | {fallback.signature.input_parameter}
    for name in fallback.signature.parameters:
        if name not in known:
            raise DefinitionError(
                f"step {made.name!r}: its fallback {fallback.name!r} gets the same arguments, and none is {name!r}"
            )


def _check_compensation(made: Step[Any, Any], compensation: Step[Any, Any]) -> None:
    if compensation.policy.fallback is not None:
        raise DefinitionError(
            f"step {made.name!r}: its compensation {compensation.name!r} has a fallback, and nothing stands in for a "
            f"compensation: let its function do both"
        )
    compensation.check_filled()
    check_flow(made.outlets(), compensation.inlets())


def _check_cached(made: Step[Any, Any]) -> None:
    if made.policy.effect == "once":
        raise DefinitionError(f"step {made.name!r}: what has an effect, and only once, cannot come from a cache")
    if made.signature.context_parameter is not None:
        raise DefinitionError(
            f"step {made.name!r}: a cached step has no StepContext; its events and what it changes in the context "
            f"would be missing when its output comes from the cache"
        )
    if not is_free(made.function):
        raise DefinitionError(
            f"step {made.name!r}: a cached step is a function; what a method, a partial or an object holds "
            f"is not part of what the cache compares"
        )


def _check_in_process(made: Step[Any, Any]) -> None:
    if made.signature.context_parameter is not None or made.signature.resources:
        raise DefinitionError(f"step {made.name!r}: in a process of its own a step has no StepContext and no resources")
    if reference_to(made.function) is None:
        raise DefinitionError(
            f"step {made.name!r}: another process has to find it by name, so it is a function at the top of a module, "
            f"or in a class there"
        )
