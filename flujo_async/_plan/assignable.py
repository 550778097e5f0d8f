"""Whether a value of one annotated type may be given where another is asked for.

A check for authors, not a type checker: it refuses what a type checker would refuse in plain cases, and lets pass
what it cannot judge.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Mapping
from enum import EnumMeta
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    NewType,
    NotRequired,
    Required,
    Union,
    Unpack,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from typing_extensions import get_protocol_members, is_protocol, is_typeddict

_WRAPPERS: Final = (Annotated, Required, NotRequired)
_PROMOTIONS: Final[dict[Any, tuple[type, ...]]] = {float: (int,), complex: (int, float)}
"""What PEP 484 lets stand for the numeric types."""

_ITEMS: Final[dict[Any, tuple[Any, ...]]] = {str: (str,), bytes: (int,), bytearray: (int,), range: (int,)}
"""What iterating the classes yields that are collections without a parameter."""

_STANDARD: Final = frozenset({"builtins", "collections", "collections.abc"})
"""Modules in which the first parameter of a collection is what iterating it yields."""


def describe_type(annotation: Any) -> str:
    """Return an annotation as an author would write it."""
    if annotation is None or annotation is types.NoneType:
        return "None"
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return annotation.__qualname__
    return str(annotation).replace("typing.", "").replace("collections.abc.", "")


def is_assignable(source: Any, target: Any) -> bool:
    """Return whether a value annotated ``source`` may flow where ``target`` is asked for.

    ``Any``, type variables and what is too intricate to judge pass. Collections pass item by item, whether they can
    be changed or not: a step gets a copy.

    >>> is_assignable(list[bool], list[int]), is_assignable(str | None, str)
    (True, False)
    """
    source, target = _plain(source), _plain(target)
    if target is object or _is_open(source) or _is_open(target) or source == target:
        return True
    if (members := _alternatives(source)) is not None:
        return all(is_assignable(member, target) for member in members)
    if get_origin(target) in (Union, types.UnionType):
        return any(is_assignable(source, member) for member in get_args(target))
    if get_origin(target) is Literal:
        return _values(source) is not None and _values(source) <= _values(target)
    if get_origin(source) is Literal:
        return is_assignable(type(get_args(source)[0]), target)
    return _is_subtype(source, target)


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """Return the types of which a value with this annotation has one."""
    plain = _plain(annotation)
    return _alternatives(plain) or (plain,)


def _plain(annotation: Any) -> Any:
    """Return what an annotation stands for, without the names and notes around it."""
    while True:
        if get_origin(annotation) in _WRAPPERS:
            annotation = get_args(annotation)[0]
        elif isinstance(annotation, NewType):
            annotation = annotation.__supertype__
        elif type(annotation).__name__ == "TypeAliasType":  # `typing` has it since 3.12 only
            annotation = annotation.__value__
        else:
            return types.NoneType if annotation is None else annotation


def _is_open(annotation: Any) -> bool:
    """Return whether nothing is known of a type: ``Any``, a type variable, a special form, a name not resolved."""
    if annotation is Any:
        return True
    return not (isinstance(annotation, type | types.UnionType) or get_origin(annotation) is not None)


def _alternatives(source: Any) -> tuple[Any, ...] | None:
    """Return the types of which a value has one, if they are several."""
    arguments = get_args(source)
    if get_origin(source) in (Union, types.UnionType):
        return arguments
    if get_origin(source) is Literal and len(arguments) > 1:
        return tuple(Literal[value] for value in arguments)
    return None


def _values(annotation: Any) -> Any:
    """Return every value of a type that has few, each with its class (``1 == True``); ``None`` for other types."""
    if get_origin(annotation) is Literal:
        values: Iterable[Any] = get_args(annotation)
    elif annotation is bool:
        values = (True, False)
    elif isinstance(annotation, EnumMeta):
        values = cast("Iterable[Any]", annotation)
    else:
        return None
    return {(type(value), value) for value in values}


def _is_subtype(source: Any, target: Any) -> bool:
    (given, arguments), (wanted, parameters) = _split(source), _split(target)
    if not (isinstance(given, type) and isinstance(wanted, type)):
        return True
    if is_typeddict(wanted):
        return _fits_typed_dict(given, wanted)
    if is_typeddict(given):
        given, arguments = dict, (str, Any)
    if is_protocol(wanted):
        return _has_methods(given, wanted)
    if not _is_subclass(given, (wanted, *_PROMOTIONS.get(wanted, ()))):
        return False
    return _arguments_fit(given, arguments, wanted, parameters)


def _split(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return the class and its arguments; pydantic makes classes of its parametrised models."""
    generic = getattr(annotation, "__pydantic_generic_metadata__", None)
    if generic and generic["origin"]:
        return generic["origin"], generic["args"]
    return get_origin(annotation) or annotation, get_args(annotation)


def _is_subclass(cls: type, candidates: tuple[type, ...]) -> bool:
    try:
        return issubclass(cls, candidates)
    except TypeError:  # a class that refuses the question cannot be judged
        return True


def _fits_typed_dict(given: type, wanted: type) -> bool:
    """Return whether two ``TypedDict`` agree on their keys; of any other mapping the keys are not known."""
    if not is_typeddict(given):
        return issubclass(given, Mapping)
    have, want = _fields(given), _fields(wanted)
    return all(
        is_assignable(have[key], annotation) if key in have else _is_optional(key, annotation, wanted)
        for key, annotation in want.items()
    )


def _is_optional(key: str, annotation: Any, typed_dict: Any) -> bool:
    return get_origin(annotation) is NotRequired or key in typed_dict.__optional_keys__


def _fields(typed_dict: type) -> dict[str, Any]:
    try:
        return get_type_hints(typed_dict, include_extras=True)
    except NameError:
        return dict.fromkeys(typed_dict.__annotations__, Any)


def _has_methods(cls: type, protocol: type) -> bool:
    """Return whether a class has the methods of a protocol; its attributes may be set at any time."""
    methods = [name for name in get_protocol_members(protocol) if callable(getattr(protocol, name, None))]
    return hasattr(cls, "__getattr__") or all(hasattr(cls, name) for name in methods)


def _arguments_fit(given: type, arguments: tuple[Any, ...], wanted: type, parameters: tuple[Any, ...]) -> bool:
    arguments = arguments or _ITEMS.get(given, ())
    if not (arguments and parameters) or wanted is cast("Any", Callable):
        return True
    if given is tuple:
        return _tuple_fits(arguments, parameters if wanted is tuple else (parameters[0], ...))
    if given is not wanted and given.__module__ not in _STANDARD:
        return True  # the parameters of a user's own class need not be those of its base
    return all(is_assignable(one, other) for one, other in zip(arguments, parameters, strict=False))


def _tuple_fits(arguments: tuple[Any, ...], parameters: tuple[Any, ...]) -> bool:
    if any(get_origin(item) is Unpack for item in (*arguments, *parameters)):
        return True
    if parameters[-1] is Ellipsis:
        parameters = parameters[:1] * len(arguments)
    if arguments[-1] is Ellipsis:
        arguments = arguments[:1] * len(parameters)
    fits = (is_assignable(one, other) for one, other in zip(arguments, parameters, strict=False))
    return len(arguments) == len(parameters) and all(fits)
