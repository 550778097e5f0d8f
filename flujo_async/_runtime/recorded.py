"""What is recorded of a run, by the paths that it stands below, for those who walk through the run once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from heapq import merge
from typing import TypeVar

from flujo_async._log.delta import Migration
from flujo_async._log.fold import Fold
from flujo_async._log.keys import is_compensation, paths_above
from flujo_async._model.facts import CallCancelled, StateChanged, StepCompleted

T = TypeVar("T")


class Recorded:
    """What was recorded when the first one asked in a walk through a run, so that each finds its own at once.

    What comes below a path later on the way is recorded by who has begun there by then, and has asked.
    """

    def __init__(self, fold: Fold) -> None:
        self._fold = fold

    def answered(self, path: str) -> Sequence[str]:
        """Return the keys of what was answered at ``path`` or below it, in the order of the answers."""
        return self._answered.get(path, ()) if path else self._fold.order

    def cancelled(self, path: str) -> Mapping[str, CallCancelled]:
        """Return what the code at ``path`` has cancelled and is to cancel again, by key."""
        found = self._cancelled.get(path, ()) if path else self._fold.cancelled_calls.values()
        return {fact.key: fact for fact in found if not self.is_forgotten(path, fact.after)}

    def is_forgotten(self, path: str, place: int) -> bool:
        """Return whether the code at ``path`` need not come again to what stands at a place of the log.

        That is what came after a step of this code that has failed, and before the redrive that dropped that step.
        """
        return any(place in between for between in self._passed_over.get(path, ()))

    def changed(
        self, path: str, scope: str, migrations: Collection[Migration]
    ) -> Sequence[StepCompleted | StateChanged | Migration]:
        """Return what the steps and the code of a workflow at ``path`` changed in a context, as the log has it.

        Args:
            path: the workflow.
            scope: the context.
            migrations: of the context, which have their places among that.
        """
        found = [fact for fact in self.changes(path) if fact.scope == scope]
        return [*merge(found, migrations, key=self._place)] if migrations else found

    def changes(self, path: str) -> Sequence[StepCompleted | StateChanged]:
        """Return what the steps and the code of a workflow at ``path`` changed in contexts, as the log has it."""
        return self._changed.get(path, ()) if path else self._changes

    def _place(self, change: StepCompleted | StateChanged | Migration) -> int:
        return change.seq if isinstance(change, Migration) else self._fold.places[change.key]

    @cached_property
    def failed_below(self) -> Mapping[str, int]:
        """Of each path with a failure for good, at it or below, how many there had been before the first of those."""
        found: dict[str, int] = {}
        for number, key in enumerate(self._fold.failures):
            for path in _paths_of(key):
                found.setdefault(path, number)
        return found

    @cached_property
    def _answered(self) -> Mapping[str, Sequence[str]]:
        return _by_paths((key, key) for key in self._fold.order)

    @cached_property
    def _cancelled(self) -> Mapping[str, Sequence[CallCancelled]]:
        return _by_paths(self._fold.cancelled_calls.items())

    @cached_property
    def _passed_over(self) -> Mapping[str, Sequence[range]]:
        found: defaultdict[str, list[range]] = defaultdict(list)
        for seq, dropped in self._fold.redriven:
            first: dict[str, int] = {}
            for key, place in dropped.items():
                for path in ("", *_paths_of(key)):
                    first[path] = min(place, first.get(path, place))
            for path, place in first.items():
                found[path].append(range(place, seq))
        return found

    @cached_property
    def _changes(self) -> Sequence[StepCompleted | StateChanged]:
        return [
            fact
            for fact in self._fold.changes
            if fact.patch and isinstance(fact, StepCompleted | StateChanged) and not is_compensation(fact.key)
        ]

    @cached_property
    def _changed(self) -> Mapping[str, Sequence[StepCompleted | StateChanged]]:
        return _by_paths((fact.key, fact) for fact in self._changes)


def _by_paths(items: Iterable[tuple[str, T]]) -> Mapping[str, Sequence[T]]:
    """Return items that have keys by all the paths that these are, or stand below."""
    found: defaultdict[str, list[T]] = defaultdict(list)
    for key, item in items:
        for path in _paths_of(key):
            found[path].append(item)
    return found


def _paths_of(key: str) -> Iterator[str]:
    yield from paths_above(key)
    yield key
