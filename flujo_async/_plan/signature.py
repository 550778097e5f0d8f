"""What the signature of a step's function tells: its types, and what it wants injected."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from inspect import Parameter
from types import FunctionType
from typing import Annotated, Any, Final, cast, get_args, get_origin, get_type_hints

from flujo_async._model.context import StepContext
from flujo_async.errors import DefinitionError

_POSITIONAL: Final = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_VARIADIC: Final = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


@dataclass(frozen=True, slots=True)
class Signature:
    """How a step's function is called.

    Attributes:
        input_type: the annotation of its first parameter; ``Any`` where it has none.
        output_type: the annotation of its result, once awaited; ``Any`` where it has none.
        takes_input: whether it has a parameter for the input; a step without ignores its input.
        context_parameter: the name of the parameter that gets the ``StepContext``, if it wants one.
    """

    input_type: Any
    output_type: Any
    takes_input: bool
    context_parameter: str | None


def read_signature(function: Callable[..., Any], name: str) -> Signature:
    """Return how to call ``function`` as the step ``name``.

    Raises:
        DefinitionError: a generator, an annotation that cannot be resolved, or a parameter that nothing will fill.
    """
    target = underlying(function)
    if inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target):
        raise DefinitionError(f"step {name!r} is a generator, whose items cannot be recorded; return a list of them")
    hints = _hints(target, name)
    output_type = target if isinstance(target, type) else _awaited(hints.get("return", Any))
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:  # some builtins, such as `int`, do not tell their parameters
        return Signature(Any, output_type, takes_input=True, context_parameter=None)
    contexts = [item for item in parameters if _is_context(hints.get(item.name))]
    takes_input = bool(parameters) and parameters[0] not in contexts and _takes_a_value(parameters[0])
    _check_method(target, parameters, name)
    _check_contexts(contexts, name)
    _check_rest([item for item in parameters[takes_input:] if item not in contexts], name)
    return Signature(
        input_type=hints.get(parameters[0].name, Any) if takes_input else Any,
        output_type=output_type,
        takes_input=takes_input,
        context_parameter=contexts[0].name if contexts else None,
    )


def underlying(function: Any) -> Callable[..., Any]:
    """Return the function or class that a call ends in: of a partial, a method, a wrapper, or a callable object."""
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        elif inspect.ismethod(function):
            function = function.__func__
        elif inspect.isroutine(function) or isinstance(function, type):
            return cast("Callable[..., Any]", function)
        else:
            function = type(function).__call__


def is_coroutine_function(function: Callable[..., Any]) -> bool:
    """Return whether calling gives a coroutine, also for an object or a wrapper around a coroutine function."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(underlying(function))


def name_of(function: Any) -> str:
    """Return what a function is called; an object without a name is called like its class."""
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)


def takes_context(function: Callable[..., Any], place: str) -> bool:
    """Return whether a selector or predicate has to be given the context as a second argument.

    A second parameter with a default keeps its default, as in ``lambda value, limit=limit: value > limit``.

    Raises:
        DefinitionError: it can be called neither with the value nor with the value and the context.
    """
    try:
        signature = inspect.signature(function)
    except ValueError:  # some builtins do not tell their parameters
        return False
    for arguments in (["value"], ["value", "context"]):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return len(arguments) > 1
    raise DefinitionError(f"{place} is called with the value, or with the value and the context, not with {signature}")


def _takes_a_value(parameter: Parameter) -> bool:
    return parameter.kind in _POSITIONAL or parameter.kind is Parameter.VAR_POSITIONAL


def _check_method(target: Callable[..., Any], parameters: list[Parameter], name: str) -> None:
    if isinstance(target, FunctionType) and parameters and parameters[0].name in ("self", "cls"):
        raise DefinitionError(
            f"step {name!r} is a method that is not bound to its object; "
            f"make the step of the bound method, step(obj.{name}), or a static method of it"
        )


def _check_contexts(contexts: list[Parameter], name: str) -> None:
    if len(contexts) > 1:
        raise DefinitionError(
            f"step {name!r} asks for its StepContext twice: {', '.join(item.name for item in contexts)}"
        )
    if contexts and contexts[0].kind is Parameter.POSITIONAL_ONLY:
        raise DefinitionError(f"step {name!r}: {contexts[0].name!r} is injected by name, it cannot be positional-only")


def _check_rest(rest: list[Parameter], name: str) -> None:
    for item in rest:
        if item.default is Parameter.empty and item.kind not in _VARIADIC:
            raise DefinitionError(
                f"step {name!r}: nothing fills its parameter {item.name!r}; the first parameter is the input, "
                f"a later one annotated StepContext is injected, any other needs a default"
            )


def _hints(target: Any, name: str) -> dict[str, Any]:
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return get_type_hints(function, localns=_names_around(function), include_extras=True)
    except (NameError, AttributeError, SyntaxError, TypeError) as error:
        raise DefinitionError(
            f"step {name!r}: an annotation cannot be resolved: {error}; "
            f"import what it names where the step is defined, not under TYPE_CHECKING"
        ) from error


def _names_around(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the local names that annotations written as text may mean: those of the functions around ``function``.

    They are found while those functions run, which they do where a step is defined inside of one.
    """
    names: dict[str, Any] = {}
    frame = inspect.currentframe()
    while frame is not None:
        if function.__qualname__.startswith(f"{frame.f_code.co_qualname}.<locals>."):
            names = frame.f_locals | names
        frame = frame.f_back
    return names


def _is_context(annotation: Any) -> bool:
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return annotation is StepContext or StepContext in get_args(annotation)


def _awaited(annotation: Any) -> Any:
    """Return what awaiting a result gives, if it is annotated as something to await."""
    return get_args(annotation)[-1] if get_origin(annotation) in (Awaitable, Coroutine) else annotation
