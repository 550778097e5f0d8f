"""What is recorded of a run, by the paths that it stands below, for those who walk through the run once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from flujo_async._log.fold import Change, Fold
from flujo_async._log.keys import is_compensation, paths_above
from flujo_async._model.facts import StateChanged, StepCompleted


class Recorded:
    """What was recorded when the first one asked in a walk through a run, so that each finds its own at once.

    What comes below a path later on the way is recorded by who has begun there by then, and has asked.
    """

    def __init__(self, fold: Fold) -> None:
        self._fold = fold

    def answered(self, path: str) -> Sequence[str]:
        """Return the keys in ``Fold.order`` that are ``path`` or stand below it."""
        return self._answered.get(path, ())

    def changed(self, path: str, scope: str) -> Sequence[StepCompleted | StateChanged]:
        """Return what the steps and the code of a workflow at ``path`` changed in a context, as the log has it."""
        changes = self._fold.changes if not path else self._changed.get(path, ())
        return [
            fact
            for fact in changes
            if isinstance(fact, StepCompleted | StateChanged)
            and fact.patch
            and fact.scope == scope
            and not is_compensation(fact.key)
        ]

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
        found: defaultdict[str, list[str]] = defaultdict(list)
        for key in self._fold.order:
            for path in _paths_of(key):
                found[path].append(key)
        return found

    @cached_property
    def _changed(self) -> Mapping[str, Sequence[Change]]:
        found: defaultdict[str, list[Change]] = defaultdict(list)
        for fact in self._fold.changes:
            if isinstance(fact, StepCompleted | StateChanged) and fact.patch:
                for path in _paths_of(fact.key):
                    found[path].append(fact)
        return found


def _paths_of(key: str) -> Iterator[str]:
    yield from paths_above(key)
    yield key
