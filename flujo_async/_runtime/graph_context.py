"""What the nodes of a graph see of the context, and what their changes come to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flujo_async._log.delta import apply, diff
from flujo_async._model.facts import Patch
from flujo_async._model.tree import Json, JsonObject
from flujo_async._runtime.contexts import ContextType, Scope


class GraphContext:
    """The contexts of the nodes of one graph.

    A node starts with what those before it left. What it changed counts as the difference from that, so that
    following one another is no conflict, and being side by side is one unless a reducer settles it.

    Args:
        contexts: merges fields.
        base: the context that the graph began with.
        order: the nodes, each after those before it.
    """

    def __init__(self, contexts: ContextType, base: Scope, order: Sequence[str]) -> None:
        self._contexts = contexts
        self._base = base
        self._order = order
        self._places = {name: place for place, name in enumerate(order)}
        self._starts: dict[str, JsonObject] = {}
        self._scopes: dict[str, Scope] = {}  # of those that are done
        self._writers: dict[str, int] = {}
        """Of each node those that changed something, up to itself: a bit each, in their order."""
        self._all_writers = 0

    def start(self, name: str, path: str, before: Sequence[str]) -> Scope:
        """Return the context of a node that comes after the nodes ``before``.

        Raises:
            ContextConflict: two of them, side by side, changed a field that names no reducer.
        """
        writers = self._writers[name] = self.writers(before)
        self._starts[name] = fields = self._left_by(writers, before)
        return Scope(path, fields, self._base.lists)

    def _left_by(self, writers: int, before: Iterable[str]) -> JsonObject:
        """Return the fields after what some nodes changed, all of which stand among ``before`` or before that."""
        if not writers:
            return self._base.fields
        for name in before:
            if name in self._scopes and self._writers[name] == writers:
                return self._scopes[name].fields
        return apply(self._base.fields, self._merge(writers))

    def end(self, name: str, scope: Scope) -> None:
        """A node is done."""
        self._scopes[name] = scope
        if scope.fields is not self._starts[name]:
            bit = 1 << self._places[name]
            self._writers[name] |= bit
            self._all_writers |= bit

    def skip(self, name: str, before: Iterable[str]) -> None:
        """A node is done without having run."""
        self._writers[name] = self.writers(before)

    def writers(self, names: Iterable[str]) -> int:
        """Return which nodes changed something, among some and those before them."""
        writers = 0
        for name in names:
            writers |= self._writers.get(name, 0)
        return writers

    def patch(self) -> Patch:
        """Return what all nodes together changed.

        Raises:
            ContextConflict: two of them, side by side, changed a field that names no reducer.
        """
        return diff(self._base.fields, apply(self._base.fields, self._merge(self._all_writers)))

    def _merge(self, writers: int) -> Patch:
        merged: dict[str, Json] = {}
        written_by: dict[str, int] = {}
        while writers:
            bit = writers & -writers  # the first
            writers ^= bit
            name = self._name(bit)
            start, scope = self._starts[name], self._scopes[name]
            for field, change in diff(start, scope.fields).items():
                beside = written_by.get(field, 0) & ~self._writers[name]
                if beside:
                    paths = (self._scopes[self._name(beside)].path, scope.path)
                    change = self._contexts.reduce(field, Scope(scope.path, start), merged[field], change, paths)
                merged[field] = change
                written_by[field] = written_by.get(field, 0) | bit
        return merged

    def _name(self, writers: int) -> str:
        """Return the last of some nodes."""
        return self._order[writers.bit_length() - 1]
