"""JSON trees and their bytes."""

from __future__ import annotations

from typing import Any

import orjson

from flujo_async._codec.growing import GrowingList
from flujo_async._model.tree import Json
from flujo_async.errors import SchemaTooNew, SerializationError

TAG = "$"
"""The key that makes a JSON object a tagged value: a plain ``dict`` is never stored with it."""

PAYLOAD = "v"
"""The key of what a tagged value holds."""

# Without these orjson would quietly write a dataclass, a date or a ``str`` subclass as something simpler.
_EXACT = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS


def dumps(tree: Json) -> bytes:
    """Return the bytes of a tree; ``dumps(loads(data)) == data`` for all data made here.

    Its floats are finite, as those of every tree that ``Codec`` makes: JSON has no others, and writes ``null``.

    Raises:
        SerializationError: the tree is too deep, or holds something that is not JSON.
    """
    return _write(tree, _EXACT)


def loads(data: bytes) -> Json:
    """Return the tree that the bytes hold.

    Raises:
        SerializationError: the bytes are not JSON in UTF-8, or nested too deep.
    """
    try:
        tree: Json = orjson.loads(data)
    except (TypeError, ValueError, RecursionError) as error:
        raise SerializationError(f"not JSON: {error}") from error
    return tree


def check_format(what: object, found: int, newest: int) -> None:
    """Check that this version of the package reads a format.

    Args:
        what: that which has it, for the error.
        found: the number of the format.
        newest: that of the newest one known here.

    Raises:
        SchemaTooNew: it is a later one.
    """
    if found > newest:
        raise SchemaTooNew(
            f"{what} has format {found}; this version of flujo_async reads up to {newest}: upgrade flujo_async"
        )


def dumps_with_moments(line: dict[str, Any]) -> bytes:
    """Return the bytes of an object some of whose entries are moments, aware and in UTC: ISO-8601 text there.

    Raises:
        SerializationError: as in ``dumps``.
    """
    return _write(line, _EXACT & ~orjson.OPT_PASSTHROUGH_DATETIME)


def canonical(tree: Json) -> bytes:
    """Return bytes that are the same for dictionaries that differ only in the order of their keys.

    Raises:
        SerializationError: as in ``dumps``.
    """
    return _write(tree, _EXACT | orjson.OPT_SORT_KEYS)


def _write(tree: Any, option: int) -> bytes:
    try:
        return orjson.dumps(tree, default=_as_list, option=option)
    except (TypeError, ValueError, RecursionError) as error:
        raise SerializationError(f"not a JSON tree: {error}") from error


def _as_list(value: object) -> list[Any]:
    """Return a list of a context, which to users is one like any other."""
    if type(value) is GrowingList:
        return list(value)
    raise TypeError
