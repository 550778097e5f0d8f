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
        self._place = {name: place for place, name in enumerate(order)}
        self._scopes: dict[str, Scope] = {}  # of those that changed something
        self._ends: dict[str, JsonObject] = {}
        self._starts: dict[str, Scope] = {}
        self._writers: dict[str, frozenset[str]] = {}
        """Of each node that is done those that changed something, up to itself."""

    def start(self, name: str, path: str, before: Iterable[str]) -> Scope:
        """Return the context of a node that comes after the nodes ``before``.

        Raises:
            ContextConflict: two of them, side by side, changed a field that names no reducer.
        """
        names = list(before)
        writers = self.writers(names)
        latest = (self._ends[other] for other in names if other in self._ends and self._writers[other] == writers)
        fields = next(latest, None)
        if fields is None:
            fields = apply(self._base.fields, self._merge(writers))
        self._starts[name] = Scope(path, fields)
        return Scope(path, fields, self._base.lists)

    def end(self, name: str, scope: Scope | None, before: Iterable[str]) -> None:
        """A node is done: with its context, or without having run."""
        writers = self.writers(before)
        if scope is not None:
            self._ends[name] = scope.fields
            if scope.fields is not self._starts[name].fields:
                self._scopes[name] = scope
                writers |= {name}
        self._writers[name] = writers

    def writers(self, names: Iterable[str]) -> frozenset[str]:
        """Return which nodes changed something, among some and those before them."""
        return frozenset[str]().union(*(self._writers.get(name, ()) for name in names))

    def patch(self) -> Patch:
        """Return what all nodes together changed.

        Raises:
            ContextConflict: two of them, side by side, changed a field that names no reducer.
        """
        return diff(self._base.fields, apply(self._base.fields, self._merge(frozenset(self._scopes))))

    def _merge(self, writers: frozenset[str]) -> Patch:
        merged: dict[str, Json] = {}
        written_by: dict[str, list[str]] = {}
        for name in sorted(writers, key=self._place.__getitem__):
            start, scope = self._starts[name], self._scopes[name]
            for field, change in diff(start.fields, scope.fields).items():
                beside = [other for other in written_by.get(field, ()) if other not in self._writers[name]]
                if beside:
                    paths = (self._scopes[beside[-1]].path, scope.path)
                    change = self._contexts.reduce(field, start, merged[field], change, paths)
                merged[field] = change
                written_by.setdefault(field, []).append(name)
        return merged
