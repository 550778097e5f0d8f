"""The shape of encoded values."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from math import isfinite
from typing import Any, Final, TypeAlias

from flujo_async._model.text import is_unicode

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
"""A value as it is stored: a JSON tree, with typed tags where JSON has no type. Never changed in place."""

JsonObject: TypeAlias = "dict[str, Json]"
"""A JSON object."""

NO_ENTRIES: Final[JsonObject] = {}
"""An object without entries: one for all that have none."""


def no_entries() -> JsonObject:
    """Return ``NO_ENTRIES``."""
    return NO_ENTRIES


MAX_DEPTH: Final = 200
"""How many levels a stored tree may have; orjson writes 254, and what a tree is wrapped in needs some too."""

_SMALLEST, _LARGEST = -(2**63), 2**64 - 1

# What `type` returns for a value of type `Any` is unknown to pyright.
_type_of: Callable[[object], type[Any]] = type


def is_json(value: Any, levels: int = MAX_DEPTH) -> bool:
    """Tell whether JSON, as every store writes it, can hold a value; a tuple counts as a list.

    Members of an ``Enum`` that are text or numbers as well count as these; no other subclass does.
    """
    kind = _type_of(value)
    if kind is str or kind is float or kind is int or isinstance(value, Enum):
        return _is_atom(value)
    if kind is list or kind is tuple:
        return levels > 0 and all(is_json(item, levels - 1) for item in value)
    if kind is dict:
        return (
            levels > 0
            and all(type(key) is str and is_unicode(key) for key in value)
            and is_json(list(value.values()), levels)
        )
    return value is None or kind is bool


def _is_atom(value: Any) -> bool:
    match value:
        case str():
            return is_unicode(value)
        case int():
            return _SMALLEST <= value <= _LARGEST
        case float():
            return isfinite(value)
        case _:
            return False
