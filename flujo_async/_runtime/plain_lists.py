"""Lists in a context that grow: what is added to them is found without encoding all that was there."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from operator import is_
from typing import Any, Final, cast

from flujo_async._codec.growing import GrowingList
from flujo_async._codec.misfit import Misfit
from flujo_async._codec.values import Codec
from flujo_async._model.facts import Patch
from flujo_async._model.tree import Json, JsonObject

_ATOMS: Final = frozenset({str, int, float, bool, type(None)})
_LISTS: Final = (list, GrowingList)


class PlainLists:
    """Which fields of a context are lists of plain values.

    Their trees can be copied as they are, and what is added to a copy at its end is all that is new in it: the copy
    knows whether anything else was done to it. Never changed in place: branches begin with what their parent knows.
    """

    __slots__ = ("_known",)

    def __init__(self, known: Mapping[str, list[Json]]) -> None:
        self._known = known

    def copies(self, fields: JsonObject, names: Container[str]) -> dict[str, GrowingList]:
        """Return a value of each known list, by field, as far as it is among ``names``."""
        known = self._known.items()
        return {name: GrowingList(tree) for name, tree in known if name in names and fields.get(name) is tree}

    def added(self, name: str, before: Json, value: Any, codec: Codec) -> list[Json] | None:
        """Return what was added to a field at its end; ``None`` if that may not be all that has changed."""
        if value is before and type(value) in _ATOMS:
            return []
        tree = self._known.get(name)
        if tree is None or tree is not before or not _begins_with(value, tree):
            return None
        try:
            tail = [codec.put(item, 1) for item in value[len(tree) :]]
        except Misfit:
            return None  # the long way tells where it is
        return tail if _is_plain(tail) else None

    def after(self, changes: Patch, before: JsonObject, fields: JsonObject) -> PlainLists:
        """Return what is known when ``changes`` have made ``fields`` of ``before``."""
        known = dict(self._known)
        for name, change in changes.items():
            tree, old = fields.get(name), known.pop(name, None)
            is_known = old is not None and old is before.get(name)
            if type(tree) is list and _is_plain(_news(tree, change, is_known=is_known)):
                known[name] = tree
        return PlainLists(known)

    def all_in(self, fields: JsonObject) -> PlainLists:
        """Return all lists of plain values that there are."""
        known = self._known
        lists = {name: tree for name, tree in fields.items() if type(tree) is list}
        return PlainLists({name: tree for name, tree in lists.items() if tree is known.get(name) or _is_plain(tree)})


NO_LISTS: Final = PlainLists({})


def _begins_with(value: Any, tree: list[Json]) -> bool:
    """Return whether a value is a list of which the first items are those of a tree of plain values."""
    length = len(tree)
    if type(value) is GrowingList and value.has_only_grown:
        # What is written in C, as heapq is, may have gone past the methods of the list.
        return tree == (value if len(value) == length else value[:length])
    # Of another list Python's equality does not tell that 1 has become True.
    return type(value) in _LISTS and len(value) >= length and all(map(is_, value, tree))


def _news(tree: list[Json], change: Json, *, is_known: bool) -> list[Json]:
    """Return the items of a list that nothing is known of."""
    match change:
        case ["add", list(tail)] if is_known:
            return tail
        case ["cut", _, _, list(items), *rest] if is_known:
            return [*items, *(item for tail in rest for item in cast("list[Json]", tail))]
        case _:
            return tree


def _is_plain(trees: Iterable[Json]) -> bool:
    return _ATOMS.issuperset(map(type, trees))
