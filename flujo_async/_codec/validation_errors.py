"""pydantic's ``ValidationError``: it is made by a function of its own, of a line for each thing that is wrong."""

from __future__ import annotations

from typing import Any, Final, cast

from pydantic_core import InitErrorDetails, PydanticCustomError, PydanticKnownError, ValidationError

from flujo_async._codec.misfit import Misfit
from flujo_async._codec.shape import Coder, put_fields
from flujo_async._codec.tree import dumps
from flujo_async._model.tree import Json

MAX_INPUTS: Final = 20_000
"""Bytes kept of what was validated: each line may hold all of it."""


def put_validation_error(error: ValidationError, coder: Coder, depth: int, *, strict: bool) -> list[Json]:
    """Return ``[title, input_type, hide_input, line, …]``.

    Unless ``strict``, what was validated is left out where it cannot be stored, is large or is not to be shown.

    Raises:
        Misfit: it cannot be stored, and ``strict``.
    """
    title, _, input_type, hide_input = cast("Any", error.__reduce__())[1]
    trees: list[Json] = [coder.put(part, depth + 1) for part in (title, input_type, hide_input)]
    room = 0 if hide_input else MAX_INPUTS
    for line in cast("list[dict[str, Any]]", error.errors(include_url=False)):
        tree = put_fields([(name, line[name]) for name in ("type", "loc", "msg")], coder, depth + 2)
        for name in ("ctx", "input") if strict or room > 0 else ("ctx",):
            tree |= _put_part(name, line, coder, depth + 2, strict=strict)
        room -= len(dumps(tree.get("input")))
        if room < 0 and not strict:
            tree.pop("input", None)
        trees.append(tree)
    return trees


def _put_part(name: str, line: dict[str, Any], coder: Coder, depth: int, *, strict: bool) -> dict[str, Json]:
    try:
        return put_fields([(name, line[name])] if name in line else [], coder, depth)
    except Misfit:
        if strict:
            raise
        return {}


def validation_error(args: list[Any]) -> ValidationError | None:
    """Return the exception of what was stored of it, if anything; without inputs, if one could not be stored."""
    if not args:
        return None
    title, input_type, hide_input, *lines = args
    hidden = hide_input or not all("input" in line for line in lines)
    return ValidationError.from_exception_data(title, [_line(line) for line in lines], input_type, hidden)


def _line(line: dict[str, Any]) -> InitErrorDetails:
    return {"type": _kind(line), "loc": line["loc"], "input": line.get("input"), "ctx": line.get("ctx", {})}


def _kind(line: dict[str, Any]) -> Any:
    """Return pydantic's own type of error where it says the same here, or else one of this name and message."""
    try:
        known = PydanticKnownError(line["type"], line.get("ctx"))
        is_same = known.message() == line["msg"]
    except (KeyError, TypeError, ValueError):  # a type of a validator's own, or of which the context is not stored
        is_same = False
    return line["type"] if is_same else PydanticCustomError(line["type"], line["msg"])
