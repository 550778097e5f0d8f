"""What can be done with a log that is past: comparing, forking, and trying again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Final, Literal, cast

from flujo_async._codec.values import Codec
from flujo_async._log.delta import same
from flujo_async._log.fold import Fold
from flujo_async._log.keys import compensation_of, fallback_of
from flujo_async._model.facts import StepCompleted, StepFailed
from flujo_async._model.state import StepStatus
from flujo_async._model.tree import Json

_BY_NAME: Final = ("context", "steps", "metadata")
"""What has users' names for its keys, and is no encoded value itself."""

_MISSING: Final = object()
"""Stands where one of two states has no value; ``None`` is one."""


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between two states of a run.

    Attributes:
        path: where, such as ``context.items[3]`` or ``steps.fetch``.
        before: the value in the first state; ``None`` if there is none.
        after: the value in the second state; ``None`` if there is none.
        kind: whether the second state has a value where the first has none, the first one where the second has none,
            or both have one; so ``None`` can be told from no value.
    """

    path: str
    before: Any
    after: Any
    kind: Literal["added", "removed", "changed"] = "changed"


def changes(before: Fold, after: Fold, codec: Codec) -> list[Change]:
    """Return what differs between two states: status, context, outputs of steps, output and error."""
    found = _by_name("", _view(before, codec), _view(after, codec))
    return [_change(path, one, other, codec) for path, one, other in found]


def _change(path: str, one: Any, other: Any, codec: Codec) -> Change:
    if one is _MISSING:
        return Change(path, None, codec.decode(other), "added")
    if other is _MISSING:
        return Change(path, codec.decode(one), None, "removed")
    return Change(path, codec.decode(one), codec.decode(other))


def _view(fold: Fold, codec: Codec) -> Mapping[str, Any]:
    steps: dict[str, Json] = {
        key: outcome.output if isinstance(outcome, StepCompleted) else {"error": outcome.error}
        for key, outcome in fold.outcomes.items()
    }
    return {
        "status": fold.status,
        "current_step_index": fold.current_step_index,
        "context": fold.context.tree,
        "steps": steps,
        "metadata": {name: codec.encode(value) for name, value in fold.metadata.items()},
        "last_step_output": fold.last_step_output,
        "output": fold.output,
        "error": fold.error_message,
    }


def _by_name(path: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for name in [*one, *(name for name in other if name not in one)]:
        below = f"{path}.{name}" if path else name
        if below in _BY_NAME:
            yield from _by_name(below, one[name], other[name])
        else:
            yield from _differences(below, one.get(name, _MISSING), other.get(name, _MISSING))


def _differences(path: str, one: Any, other: Any) -> Iterator[tuple[str, Any, Any]]:
    if one is _MISSING or other is _MISSING:
        yield path, one, other
        return
    if same(one, other):
        return
    if _is_plain_object(one) and _is_plain_object(other):
        yield from _by_name(path, cast("Mapping[str, Json]", one), cast("Mapping[str, Json]", other))
    elif isinstance(one, list) and isinstance(other, list):
        items = zip_longest(cast("list[Json]", one), cast("list[Json]", other), fillvalue=_MISSING)
        for index, (mine, theirs) in enumerate(items):
            yield from _differences(f"{path}[{index}]", mine, theirs)
    else:
        yield path, one, other


def _is_plain_object(tree: Json) -> bool:
    return isinstance(tree, dict) and "$" not in tree


def children_to_end(fold: Fold) -> list[str]:
    """Return the children of a run that may go on, the newest first: those that are not known to have completed."""
    left = [child for key, child in fold.children.items() if not isinstance(fold.outcomes.get(key), StepCompleted)]
    return list(dict.fromkeys(reversed(left)))


def children_to_redrive(fold: Fold) -> list[str]:
    """Return the keys of the children whose outcome a run asks for once more, when it is tried again."""
    dropped = frozenset(to_drop(fold))
    return [key for key in fold.children if key in dropped or key not in fold.outcomes]


def failed_last(fold: Fold, aside: range) -> list[str]:
    """Return the steps with whose failure a log ends, but for what stands ``aside``: nothing rests on that."""
    found, seq = list[str](), fold.seq
    for key in reversed(fold.failures):
        while seq in aside:
            seq -= 1
        if fold.places[key] != seq:
            break
        found.append(key)
        seq -= 1
    return found


def to_drop(fold: Fold) -> tuple[str, ...]:
    """Return the steps that run again when a run that has ended is tried again.

    Those are the ones whose failure ended it, and what was cancelled because of that. Where something was undone, the
    run goes back to before the oldest step that was: what came after may rest on it. A step that could not be undone is
    not repeated; if the run fails again, its compensation is tried again.
    """
    failed = [each for key in fold.failed_keys for each in (key, fallback_of(key))]
    cancelled = [key for key, (_, status) in fold.not_run.items() if status is StepStatus.CANCELLED]
    compensations = {key: fold.outcomes.get(compensation_of(key)) for key in fold.outcomes}
    undone = [fold.places[key] for key, done in compensations.items() if isinstance(done, StepCompleted)]
    oldest = min(undone, default=fold.seq + 1)
    still_done = [key for key, done in compensations.items() if isinstance(done, StepFailed)]
    later = [key for key, place in fold.places.items() if place >= oldest and key not in still_done]
    return tuple(dict.fromkeys([*failed, *cancelled, *map(compensation_of, still_done), *later]))
