"""What changed in a context."""

from __future__ import annotations

from flujo_async._codec.tree import dumps
from flujo_async._model.facts import Patch
from flujo_async._model.tree import Json, JsonObject
from flujo_async.errors import SerializationError


def diff(before: JsonObject, after: JsonObject) -> Patch:
    """Return the patch that turns ``before`` into ``after``, field by field."""
    patch: dict[str, Json] = {name: ["drop"] for name in before if name not in after}
    patch.update(
        {name: ["set", tree] for name, tree in after.items() if name not in before or not same(before[name], tree)}
    )
    return patch


def same(one: Json, other: Json) -> bool:
    """Return whether two trees are the same value.

    Python takes ``1``, ``1.0`` and ``True`` for equal; a value that changed from one to the other did change.
    """
    return one is other or (one == other and dumps(one) == dumps(other))


def apply(fields: JsonObject, patch: Patch) -> JsonObject:
    """Return ``fields`` changed by ``patch``; the argument stays as it is.

    Raises:
        SerializationError: the patch is malformed.
    """
    if not patch:
        return fields
    changed = dict(fields)
    for name, change in patch.items():
        match change:
            case ["set", tree]:
                changed[name] = tree
            case ["drop"]:
                changed.pop(name, None)
            case _:
                raise SerializationError(f"not a change of a field: {change!r}", path=f"patch.{name}")
    return changed
