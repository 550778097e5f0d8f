"""The types of answers: whether they will do, and which one is behind a JSON schema that was recorded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, Literal, Union, cast

from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError, PydanticUserError

from flujo_async._plan.definition import Definition
from flujo_async._plan.nodes import WaitFor
from flujo_async.errors import DefinitionError

_PLAIN: Final[Mapping[str, Any]] = {"integer": int, "number": float, "boolean": bool, "null": None}


def check_answer_types(definition: Definition) -> None:
    """Check that the answers which a definition waits for can be validated, and described to those who give them.

    Raises:
        DefinitionError: one of them cannot.
    """
    for node in definition.nodes():
        if isinstance(node, WaitFor) and node.schema is not None:
            try:
                TypeAdapter(node.schema).json_schema()
            except (PydanticSchemaGenerationError, PydanticInvalidForJsonSchema) as error:
                raise DefinitionError(
                    f"wait_for({node.name!r}): schema= is a type that pydantic can validate and describe, such as a "
                    f"model or a dataclass, not {node.schema!r}"
                ) from error
            except PydanticUserError:
                pass  # a class that mentions one which is yet to come


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
