"""The type behind a recorded JSON schema, for answers that come where the wait itself is not at hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, Literal, Union, cast

from pydantic import TypeAdapter

_PLAIN: Final[Mapping[str, Any]] = {"integer": int, "number": float, "boolean": bool, "null": None}


def answer_type(schema: Mapping[str, Any], known: Iterable[object]) -> Any:
    """Return the type that an answer is validated by.

    Args:
        schema: what was recorded when the waiting began.
        known: objects among which its class may be.

    Returns:
        The very class, if it is known; else a type that takes at least whatever the schema takes.
    """
    title = schema.get("title")
    for cls in known:
        if isinstance(cls, type) and cls.__name__ == title:
            with suppress(Exception):  # not every class has a JSON schema
                if TypeAdapter(cls).json_schema() == schema:
                    return cls
    return _type_of(schema)


def _type_of(schema: Mapping[str, Any]) -> Any:
    match schema:
        case {"const": value}:
            return Literal[value]
        case {"enum": [*values]}:
            return Literal[tuple(values)]
        case {"anyOf": [*options]}:
            return Union[tuple(map(_type_of, options))]  # noqa: UP007 -- made at run time
        case {"type": str(kind)}:
            return _type_of_kind(kind, schema)
        case _:
            return Any


def _type_of_kind(kind: str, schema: Mapping[str, Any]) -> Any:
    items, values = schema.get("items"), schema.get("additionalProperties")
    if isinstance(items, dict) and "uniqueItems" not in schema and "prefixItems" not in schema:
        return list[_type_of(cast("Mapping[str, Any]", items))]  # type: ignore[misc]
    if isinstance(values, dict):
        return dict[str, _type_of(cast("Mapping[str, Any]", values))]  # type: ignore[misc]
    if kind == "string" and "format" not in schema:
        return str
    return _PLAIN.get(kind, Any)
