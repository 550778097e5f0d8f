"""Values that callers keep by hand: dumped to what any reader can build again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, Final, cast

from pydantic import BaseModel

from flujo_async._codec.registry import REGISTERED
from flujo_async._codec.values import Codec
from flujo_async._model.tree import MAX_DEPTH, JsonObject
from flujo_async.errors import SerializationError

# What `type` returns for a value of type `Any` is unknown to pyright.
_type_of: Callable[[object], type[Any]] = type


def encode_plain(value: Mapping[str, Any], *, at: str) -> JsonObject:
    """Return the tree of a mapping, in which models and dataclasses are dictionaries of their fields.

    Enum members become their values. Instances of registered types stay what they are, as everything does that the
    codec knows by itself.

    Args:
        value: what a caller keeps.
        at: its name, where paths in errors begin.

    Raises:
        SerializationError: something in it cannot be stored; its ``path`` tells what.
    """
    try:
        plain = _plain(dict(value), 0)
    except RecursionError as error:
        raise SerializationError(f"nested deeper than {MAX_DEPTH} levels, or part of itself", path=at) from error
    return cast("JsonObject", Codec().encode(plain, at=at))


def decode_plain(tree: JsonObject, *, at: str) -> dict[str, Any]:
    """Return the dictionary that ``encode_plain`` made a tree of; what is of no known type any more, as what it holds.

    Raises:
        SerializationError: the tree is malformed.
    """
    return cast("dict[str, Any]", Codec.lenient().decode(tree, at=at))


def _plain(value: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise RecursionError
    if type(value) in REGISTERED:
        return value
    if isinstance(value, Enum):
        return _plain(value.value, depth + 1)
    if isinstance(value, BaseModel):
        return {name: _plain(item, depth + 1) for name, item in value}
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name), depth + 1) for item in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item, depth + 1) for key, item in cast("dict[Any, Any]", value).items()}
    return _plain_group(value, depth)


def _plain_group(value: Any, depth: int) -> Any:
    make = _GROUPS.get(_type_of(value))
    return value if make is None else make([_plain(item, depth + 1) for item in value])


_GROUPS: Final[dict[type, Callable[[Iterable[Any]], Any]]] = {
    list: list,
    tuple: tuple,
    set: set,
    frozenset: frozenset,
}
