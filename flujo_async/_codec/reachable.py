"""The classes that annotations lead to: the only ones, with the registered, that decoding may build."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Annotated, Any, Literal, NewType, TypeVar, cast, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from typing_extensions import is_typeddict

from flujo_async._codec.class_shapes import class_shape

_FOREIGN = frozenset({"builtins", "enum", "typing", "pydantic.main", "pydantic.root_model"})
"""Modules whose classes are bases of the user's but say nothing about the user's data."""


def reachable_classes(annotations: Iterable[object]) -> list[type]:
    """Return every class that the annotations mention, directly or through the fields of another."""
    # By identity, since annotations need not be hashable; keeping them keeps the identities apart.
    seen: dict[int, object] = {}
    waiting = list(annotations)
    while waiting:
        annotation = waiting.pop()
        if id(annotation) not in seen:
            seen[id(annotation)] = annotation
            waiting += _parts(annotation)
    return [found for found in seen.values() if inspect.isclass(found)]


def _parts(annotation: object) -> Iterable[object]:
    """Return what an annotation is made of, one level down."""
    if isinstance(annotation, list):  # the parameters of a `Callable`
        return cast("list[object]", annotation)
    if isinstance(annotation, TypeVar):
        return [*_resolved(annotation.__bound__, annotation.__module__, {}), *annotation.__constraints__]
    if isinstance(annotation, NewType):
        return [annotation.__supertype__]
    if inspect.isclass(annotation):
        return _field_types(annotation)
    if type(annotation).__name__ == "TypeAliasType":  # `typing` has it since 3.12 only, and it evaluates lazily
        return [getattr(annotation, "__value__", None)]
    return _arguments(annotation)


def _arguments(annotation: object) -> list[object]:
    origin = get_origin(annotation)
    arguments = get_args(annotation)
    if origin is Annotated:
        return [arguments[0]]
    if origin is Literal:
        return [type(value) for value in arguments]
    return [origin, *arguments]


def _field_types(cls: type[Any]) -> list[object]:
    if issubclass(cls, BaseModel):
        return [*_model_types(cls), *_hints(cls)]
    if is_typeddict(cls) or issubclass(cls, Exception) or class_shape(cls) is not None:
        return _hints(cls)
    return []


def _model_types(cls: type[BaseModel]) -> list[object]:
    """Return the types of a model's fields, in which the type variables of a generic model are filled in."""
    cls.model_rebuild(raise_errors=False)
    generic = cls.__pydantic_generic_metadata__
    return [generic["origin"], *generic["args"], *(field.annotation for field in cls.model_fields.values())]


def _hints(cls: type) -> list[object]:
    bases = [base for base in cls.__mro__ if base.__module__ not in _FOREIGN]
    return [found for base in bases for name in _annotated_names(base) for found in _hint(base, name)]


def _annotated_names(cls: type) -> dict[str, Any]:
    try:
        return inspect.get_annotations(cls)
    except NameError:  # evaluated lazily since 3.14; a name that is missing then is missing for users too
        return {}


def _hint(cls: type, name: str) -> list[object]:
    return _resolved(_annotated_names(cls)[name], cls.__module__, {cls.__name__: cls})


def _resolved(annotation: object, module: str, local: dict[str, Any]) -> list[object]:
    """Return an annotation that may be text, evaluated; nothing where it names what cannot be found.

    One by one, because one name that only type checkers import must not hide the other fields.
    """
    one = SimpleNamespace(__annotations__={"": annotation})
    names = vars(sys.modules.get(module, object))
    try:
        return list(get_type_hints(one, dict(names), local, include_extras=True).values())
    except Exception:  # evaluating an annotation runs any expression; an unknown class is refused when a value has it
        return []
