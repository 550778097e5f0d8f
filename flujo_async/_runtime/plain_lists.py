"""Long lists in a context: what one step adds to them is found without going through all that was there."""

from __future__ import annotations

from typing import Any, Final, cast

from flujo_async._codec.growing import GrowingList
from flujo_async._codec.misfit import Misfit
from flujo_async._codec.values import Codec
from flujo_async._model.facts import Patch
from flujo_async._model.tree import Json, JsonObject

_ATOMS: Final = frozenset({str, int, float, bool, type(None)})
_WORTH_IT: Final = 32


class PlainLists:
    """Which fields of a context are long lists of plain values.

    Their trees can be copied as they are, and what is added to a copy at its end is all that is new in it: the copy
    knows whether anything else was done to it.
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[str, list[Json]] = {}

    def copies(self, fields: JsonObject) -> dict[str, GrowingList]:
        """Return a value of each known list, by field."""
        return {name: GrowingList(tree) for name, tree in self._known.items() if fields.get(name) is tree}

    def added(self, name: str, before: Json, value: Any, codec: Codec) -> list[Json] | None:
        """Return what was added to a field at its end; ``None`` if that may not be all that has changed."""
        if value is before and type(value) in _ATOMS:
            return []
        tree = self._known.get(name)
        if tree is None or tree is not before or type(value) is not GrowingList or not value.has_only_grown:
            return None
        length = len(tree)
        if value[:length] != tree:  # what is written in C, as heapq is, may have gone past the methods of the copy
            return None
        try:
            tail = [codec.put(item, 1) for item in value[length:]]
        except Misfit:
            return None  # the long way tells where it is
        return tail if _is_plain(tail) else None

    def take_in(self, fields: JsonObject, changes: Patch) -> None:
        """Take note of lists that are new, or longer now."""
        for name, change in changes.items():
            tree = fields.get(name)
            if type(tree) is not list or len(tree) < _WORTH_IT:
                self._known.pop(name, None)
            elif _is_plain(_news(tree, change, is_known=name in self._known)):
                self._known[name] = tree
            else:
                self._known.pop(name, None)


def _news(tree: list[Json], change: Json, *, is_known: bool) -> list[Json]:
    """Return the items of a list that nothing is known of."""
    match change:
        case ["add", list(tail)] if is_known:
            return tail
        case ["cut", _, _, list(items), *rest] if is_known:
            return [*items, *(item for tail in rest for item in cast("list[Json]", tail))]
        case _:
            return tree


def _is_plain(trees: Any) -> bool:
    return all(type(tree) in _ATOMS for tree in trees)
