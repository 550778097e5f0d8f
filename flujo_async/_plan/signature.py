"""What the signature of a step's function tells: its types, and what it wants injected."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import Parameter
from types import FunctionType, UnionType
from typing import Annotated, Any, Final, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from flujo_async._model.context import Resource, StepContext
from flujo_async._plan.depends import Depends
from flujo_async.errors import DefinitionError

_POSITIONAL: Final = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_VARIADIC: Final = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)

Marker = TypeVar("Marker", Depends, Resource)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """How a step's function is called.

    Attributes:
        input_type: the annotation of the parameter that takes the input; ``Any`` where it has none.
        output_type: the annotation of the result, once awaited; ``Any`` where it has none.
        takes_input: whether it has a parameter for the input; a step without ignores its input.
        input_parameter: the name of that parameter; ``None`` where it is but a part of ``*args``.
        is_input_first: whether the input can be passed as the first argument; by name otherwise.
        context_parameter: the name of the parameter that gets the ``StepContext``, if it wants one.
        parameters: the annotation of each parameter that a caller fills, in order, those of ``dependencies`` included.
        defaults: the parameters among them that have a default.
        dependencies: what fills parameters in a graph.
        resources: the names of the resources that fill parameters.
        has_varargs: whether it takes any number of further positional arguments.
        has_kwargs: whether it takes any further arguments by name.
        by_place: the parameters that can only be passed by their place.
        places: all parameters that can be, in order.
        unfilled: the first parameter that nothing fills where the step is given its input only.
    """

    input_type: Any = Any
    output_type: Any = Any
    takes_input: bool = True
    input_parameter: str | None = None
    is_input_first: bool = True
    context_parameter: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    defaults: frozenset[str] = frozenset()
    dependencies: Mapping[str, Depends] = field(default_factory=dict[str, Depends])
    resources: Mapping[str, str] = field(default_factory=dict[str, str])
    has_varargs: bool = False
    has_kwargs: bool = False
    by_place: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    unfilled: str | None = None

    @property
    def positional(self) -> tuple[str, ...]:
        """The parameters that a caller may fill by place, in order."""
        return tuple(name for name in self.places if name in self.parameters)

    def arrange(self, named: Mapping[str, Any], extra: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return the positional arguments and those by name of a call.

        Args:
            named: arguments by parameter, injected ones included.
            extra: further positional arguments.
        """
        rest = dict(named)
        places = self.places if extra else self.by_place
        return [*(rest.pop(name) for name in places if name in rest), *extra], rest


def read_signature(
    function: Callable[..., Any], name: str, context_class: type[Any] = StepContext, kind: str = "step"
) -> Signature:
    """Return how to call ``function`` as the step ``name``.

    Args:
        function: the function.
        name: what errors call it.
        context_class: the class by whose annotation the context is injected.
        kind: what errors say that it is.

    Raises:
        DefinitionError: a generator, an annotation that cannot be resolved, or an injected parameter that cannot be
            passed by name.
    """
    who = f"{kind} {name!r}"
    target = underlying(function)
    if inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target):
        raise DefinitionError(f"{who} is a generator, whose items cannot be recorded; return a list of them")
    hints = _hints(target, who)
    output_type = target if isinstance(target, type) else _awaited(hints.get("return", Any))
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:  # some builtins, such as `int`, do not tell their parameters
        return Signature(output_type=output_type)
    _check_method(target, parameters, name)
    contexts = [item for item in parameters if _is_context(hints.get(item.name), context_class)]
    _check_contexts(contexts, who, context_class)
    resources = {item.name: found.name for item in parameters if (found := _marker(hints.get(item.name), Resource))}
    injected = {*(item.name for item in contexts), *resources}
    _check_injected([item for item in parameters if item.name in injected], who)
    return _signature(parameters, hints, output_type, contexts[0].name if contexts else None, resources)


def _signature(
    parameters: list[Parameter], hints: dict[str, Any], output_type: Any, context: str | None, resources: dict[str, str]
) -> Signature:
    filled = [item for item in parameters if item.name != context and item.name not in resources]
    named = [item for item in filled if item.kind not in _VARIADIC]
    dependencies = {item.name: found for item in named if (found := _marker(hints.get(item.name), Depends))}
    free = [item for item in filled if item.name not in dependencies]
    takes_input = bool(free) and _takes_a_value(free[0])
    input_name = free[0].name if takes_input and free[0].kind in _POSITIONAL else None
    needs = [item for item in named if item.name != input_name and item.default is Parameter.empty]
    return Signature(
        input_type=hints.get(free[0].name, Any) if takes_input else Any,
        output_type=output_type,
        takes_input=takes_input,
        input_parameter=input_name,
        is_input_first=takes_input and free[0] is parameters[0],
        context_parameter=context,
        parameters={item.name: hints.get(item.name, Any) for item in named},
        defaults=frozenset(item.name for item in named if item.default is not Parameter.empty),
        dependencies=dependencies,
        resources=resources,
        has_varargs=any(item.kind is Parameter.VAR_POSITIONAL for item in parameters),
        has_kwargs=any(item.kind is Parameter.VAR_KEYWORD for item in parameters),
        by_place=tuple(item.name for item in parameters if item.kind is Parameter.POSITIONAL_ONLY),
        places=tuple(item.name for item in parameters if item.kind in _POSITIONAL),
        unfilled=needs[0].name if needs else None,
    )


def check_unfilled(signature: Signature, who: str, context_class: type[Any] = StepContext) -> None:
    """Check that a function needs nothing but its input and what is injected; ``who`` says in an error whose it is.

    Raises:
        DefinitionError: it does.
    """
    name = signature.unfilled
    if name is None:
        return
    if name in signature.dependencies:
        raise DefinitionError(f"{who}: nothing fills its parameter {name!r}, which depends on a step of a graph()")
    raise DefinitionError(
        f"{who}: nothing fills its parameter {name!r}; the first parameter is the input, "
        f"a later one annotated {context_class.__name__} is injected, any other needs a default"
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


def _check_contexts(contexts: list[Parameter], who: str, context_class: type[Any]) -> None:
    if len(contexts) > 1:
        names = ", ".join(item.name for item in contexts)
        raise DefinitionError(f"{who} asks for its {context_class.__name__} twice: {names}")


def _check_injected(injected: list[Parameter], who: str) -> None:
    for item in injected:
        if item.kind is Parameter.POSITIONAL_ONLY:
            raise DefinitionError(f"{who}: {item.name!r} is injected by name, it cannot be positional-only")
        if item.kind in _VARIADIC:
            raise DefinitionError(f"{who}: {item.name!r} is injected, it cannot be any number of arguments")


def _hints(target: Any, who: str) -> dict[str, Any]:
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return get_type_hints(function, localns=_names_around(function), include_extras=True)
    except (NameError, AttributeError, SyntaxError, TypeError) as error:
        raise DefinitionError(
            f"{who}: an annotation cannot be resolved: {error}; "
            f"import what it names where the function is defined, not under TYPE_CHECKING"
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


def _is_context(annotation: Any, context_class: type[Any]) -> bool:
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return annotation is context_class or context_class in get_args(annotation)


def _marker(annotation: Any, kind: type[Marker]) -> Marker | None:
    """Return the first marker of a kind that an annotation has, also where it stands in ``Annotated[…] | None``."""
    if get_origin(annotation) is Annotated:
        return next((item for item in get_args(annotation)[1:] if isinstance(item, kind)), None)
    if get_origin(annotation) not in (Union, UnionType):
        return None
    found = (_marker(part, kind) for part in get_args(annotation))
    return next((item for item in found if item is not None), None)


def _awaited(annotation: Any) -> Any:
    """Return what awaiting a result gives, if it is annotated as something to await."""
    return get_args(annotation)[-1] if get_origin(annotation) in (Awaitable, Coroutine) else annotation
