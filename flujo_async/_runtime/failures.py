"""What has failed in the code of a workflow."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from flujo_async._log.fold import Fold
from flujo_async._model.facts import StepFailed
from flujo_async._runtime.execution import Fault


class Failures:
    """The failures of what the code has called.

    Attributes:
        last: the steps that have failed since the code called anything: nothing that it did rests on that.
    """

    def __init__(self, fold: Fold) -> None:
        """Begin without any.

        Args:
            fold: of the run.
        """
        self._fold = fold
        self._keys: defaultdict[int, list[str]] = defaultdict(list)
        self._faults: list[Fault] = []  # as long as they are here, no other error has the identity of theirs
        self.last: list[str] = []

    def add(self, fault: Fault) -> None:
        """Take in one that the code hears of."""
        self._faults.append(fault)
        self._keys[id(fault.error)] += fault.keys
        self.last += fault.keys

    def cut_short(self, key: str) -> None:
        """Take in that a call was cancelled: it may have failed, and the code not heard of it."""
        if isinstance(self._fold.outcomes.get(key), StepFailed):
            self.last.append(key)

    def behind(self, error: BaseException) -> list[str]:
        """Return the keys of the steps whose failure an exception is, or comes from, and of those failed with them.

        An outage lets all fail that are under way, and the code hears of one.
        """
        keys = list(dict.fromkeys(self._behind(error)))
        return list(dict.fromkeys([*keys, *self.last])) if keys else keys

    def _behind(self, error: BaseException) -> Iterator[str]:
        todo, seen = [error], set[int]()
        while todo:
            one = todo.pop()
            if id(one) in seen:
                continue
            seen.add(id(one))
            if id(one) in self._keys:
                yield from self._keys[id(one)]
                continue  # what was being handled when a step failed is not why
            if isinstance(one, BaseExceptionGroup):
                todo.extend(reversed(one.exceptions))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
            todo.extend(cause for cause in (one.__cause__, one.__context__) if cause is not None)
