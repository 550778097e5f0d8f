"""What is recorded of a workflow, in the order in which its code has heard of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from flujo_async._log.delta import Migration
from flujo_async._log.keys import child, fallback_of, is_compensation
from flujo_async._model.facts import CallCancelled, StateChanged
from flujo_async._runtime.execution import Execution

_FALLBACK: Final = fallback_of("")


def recorded_calls(execution: Execution, path: str) -> list[str]:
    """Return the keys of the calls of a workflow that were answered, in the order of the answers."""
    cancelled = execution.recorded.cancelled(path)
    return [key for key in script_of(execution, path, cancelled) if key not in cancelled]


def script_of(execution: Execution, path: str, cancelled: Mapping[str, CallCancelled]) -> list[str]:
    """Return the keys of the calls that were answered, and of those that were cancelled, as the code heard of them."""
    fold = execution.journal.fold
    script: dict[str, None] = {}

    def place(key: str) -> tuple[int, bool]:
        after = cancelled[key].after
        return after, not had_ended(execution, key, after)

    others = deque(sorted(cancelled, key=place))
    for key in execution.recorded.answered(path):
        if is_compensation(key) or key in cancelled:
            continue
        while others and cancelled[others[0]].after < fold.places[key]:
            script[others.popleft()] = None
        while key.endswith(_FALLBACK):
            key = key.removesuffix(_FALLBACK)
            script.pop(key, None)
        script[key] = None
    return [*script, *others]


def place_of(execution: Execution, key: str) -> int:
    """Return where in the log a call was answered, by itself or what stands in for it; 0 if it was not."""
    places = execution.journal.fold.places
    while (other := fallback_of(key)) in places:
        key = other
    return places.get(key, 0)


def had_ended(execution: Execution, key: str, after: int) -> bool:
    """Return whether a call that was cancelled had ended, so that it stands itself where it was ``after``."""
    return after > 0 and after == place_of(execution, key)


def forgotten(execution: Execution, path: str, script: Sequence[str]) -> Collection[str]:
    """Return those of recorded calls to which the code need not come again; see ``Recorded.is_forgotten``."""
    fold, recorded = execution.journal.fold, execution.recorded
    return {key for key in script if recorded.is_forgotten(path, fold.places[key])} if fold.redriven else ()


def to_migrate(execution: Execution, path: str) -> dict[Migration, set[str]]:
    """Return what forks and migrations changed in the context of a workflow that had begun.

    They come with what its code had come to by then and comes to again: the calls that were answered, and the
    beginnings, or the end, before which it had changed the context.
    """
    fold, recorded = execution.journal.fold, execution.recorded
    if not fold.migrations:
        return {}
    come = [(key, fold.places[key]) for key in recorded_calls(execution, path)]
    come += [
        (begin_of(fact.call), fold.places[fact.key])
        for fact in recorded.changes(path)
        if isinstance(fact, StateChanged) and fact.call and fact.call not in fold.cancelled_calls
    ]
    first = min((place for _, place in come), default=fold.seq) if path else 0
    again = [(key, place) for key, place in come if not recorded.is_forgotten(path, place)]
    return {
        migration: {key for key, place in again if place < migration.seq}
        for migration in fold.migrations
        if first < migration.seq
    }


def begin_of(key: str) -> str:
    """Return what the beginning of a call is, beside the keys of those that are answered."""
    return child(key, "$begin")
