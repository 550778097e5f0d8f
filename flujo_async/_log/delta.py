"""What changed in a context: whole values for whoever merges changes, as little as possible for the log.

A change is ``["set", tree]``, ``["drop"]``, ``["add", tail]`` for a list or a text that grew at its end,
``["cut", start, stop, items]`` for a list in which items came in the place of others, of which there may be none, with
a fifth item where it grew at its end as well, or
``["in", {key: change}]`` for what changed inside: of a dictionary by key, of a list by index, with a third item where
the list grew as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final, TypeAlias, cast

from typing_extensions import override

from flujo_async._codec.tree import dumps
from flujo_async._model.facts import Patch
from flujo_async._model.tree import Json, JsonObject
from flujo_async.errors import SerializationError

_Change: TypeAlias = list[Json]
_Made: TypeAlias = dict[int, list[Json]]
"""Lists that nobody else has, by identity: they may grow in place."""

_DROP: Final[_Change] = ["drop"]

_QUICK: Final = frozenset({str, int, bool, type(None)})
"""Of two values of one of these, Python's equality tells all."""

_DEEPEST: Final = 32
"""How many levels inside a change is looked for: each takes two in a patch, and those of JSON are bounded."""


@dataclass(frozen=True, slots=True)
class Migration:
    """What a fork or a migration changed in the context, and where in the log that stands."""

    patch: Patch = field(hash=False)
    seq: int


def diff(before: JsonObject, after: JsonObject) -> Patch:
    """Return the patch that turns ``before`` into ``after``, field by field, with whole values."""
    patch: dict[str, Json] = {name: ["drop"] for name in before if name not in after}
    patch.update(
        {name: ["set", tree] for name, tree in after.items() if name not in before or not same(before[name], tree)}
    )
    return patch


def shorten(before: JsonObject, patch: Patch) -> Patch:
    """Return a patch of ``before`` that says the same in fewer words."""
    short: dict[str, Json] = {}
    for name, change in patch.items():
        match change:
            case ["set", tree] if name in before:
                short[name] = _change(before[name], tree) or ["set", tree]
            case _:
                short[name] = change
    return short


def lengthen(before: JsonObject, patch: Patch) -> Patch:
    """Return a patch of ``before`` that says the same with whole values."""
    after = apply(before, patch)
    return {name: ["set", after[name]] if name in after else _DROP for name in patch}


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
    return apply_all(fields, (patch,)) if patch else fields


def apply_all(fields: JsonObject, patches: Iterable[Patch]) -> JsonObject:
    """Return ``fields`` changed by patches in their order, in a time that goes with what they add; see ``apply``.

    A change that does not fit, since what it was made for has changed meanwhile, becomes the value: a migration may
    have come between, or the step whose change this one continues may have been dropped.
    """
    changed = dict(fields)
    made: _Made = {}
    for patch in patches:
        _apply(changed, patch, made, "patch")
    return changed


def check_patch(patch: object) -> None:
    """Check the form of a patch as far as can be seen without what it changes.

    Raises:
        SerializationError: it has none.
    """
    if not isinstance(patch, dict):
        raise SerializationError("a patch is an object", path="patch")
    for name, change in cast("dict[str, Json]", patch).items():
        match change:
            case ["set", _] | ["drop"] | ["add", str() | list()] | ["in", dict()] | ["in", dict(), list()]:
                pass
            case ["cut", int(), int(), list()] | ["cut", int(), int(), list(), list()]:
                pass
            case _:
                raise SerializationError(f"not a change of a field: {change!r}", path=f"patch.{name}")


class Fields:
    """The encoded fields of one context, which change patch by patch and are looked at now and then."""

    __slots__ = ("_pending", "_tree")

    def __init__(self, tree: JsonObject) -> None:
        self._tree = tree
        self._pending: list[Patch] = []

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fields) and same(dict(self.tree), dict(other.tree))

    __hash__: ClassVar[None]  # type: ignore[assignment]  # what changes has none

    def copy(self) -> Fields:
        """Return the same fields, to go on by themselves."""
        copied = Fields(self._tree)
        copied._pending = [*self._pending]
        return copied

    def change(self, patch: Patch) -> None:
        """Take in a change."""
        if patch:
            self._pending.append(patch)

    @property
    def tree(self) -> JsonObject:
        """The fields now; not to be changed.

        Raises:
            SerializationError: a patch is malformed.
        """
        if self._pending:
            pending, self._pending = self._pending, []
            self._tree = apply_all(self._tree, pending)
        return self._tree


def _apply(entries: dict[str, Json], patch: Mapping[str, Json], made: _Made, path: str) -> None:
    for name, change in patch.items():
        if change == _DROP:
            entries.pop(name, None)
        else:
            entries[name] = _changed(entries.get(name), change, made, f"{path}.{name}")


def _changed(before: Json, change: Json, made: _Made, path: str) -> Json:
    match change:
        case ["set", tree]:
            return tree
        case ["add", str() | list() as tail]:
            return _added(before, tail, made)
        case ["cut", int(start), int(stop), list(items), *rest]:
            return _cut(before if isinstance(before, list) else [], slice(start, stop), [items, *rest], made)
        case ["in", dict(inner), *rest] if isinstance(before, list) and all(map(str.isdecimal, inner)):
            inside = _changed_inside(before, inner, made, path)
            return _grown(inside, cast("list[Json]", rest[0]), made) if rest else inside
        case ["in", dict(), list(tail)]:
            return list(tail)
        case ["in", dict(inner)]:
            entries = dict(before) if isinstance(before, dict) else {}
            _apply(entries, inner, made, path)
            return entries
        case _:
            raise SerializationError(f"not a change of a field: {change!r}", path=path)


def _added(before: Json, tail: str | list[Json], made: _Made) -> Json:
    if isinstance(tail, list):
        return _grown(before if isinstance(before, list) else [], tail, made)
    return before + tail if isinstance(before, str) else tail


def _grown(before: list[Json], tail: list[Json], made: _Made) -> list[Json]:
    if made.get(id(before)) is before:
        before.extend(tail)
        return before
    grown = [*before, *tail]
    made[id(grown)] = grown
    return grown


def _cut(before: list[Json], place: slice, items: list[Json], made: _Made) -> list[Json]:
    after = before if made.get(id(before)) is before else list(before)
    instead, *tails = cast("list[list[Json]]", items)
    after[place] = instead
    after.extend(item for tail in tails for item in tail)
    made[id(after)] = after
    return after


def _changed_inside(before: list[Json], inner: Mapping[str, Json], made: _Made, path: str) -> list[Json]:
    after = list(before)
    for place, change in inner.items():
        if int(place) < len(after):
            after[int(place)] = _changed(after[int(place)], change, made, f"{path}[{place}]")
    made[id(after)] = after
    return after


def _change(before: Json, after: Json, depth: int = 0) -> _Change | None:
    """Return the shortest change that makes ``after`` of ``before``; ``None`` if they are the same."""
    if before is after:
        return None
    if depth > _DEEPEST:
        return None if same(before, after) else ["set", after]
    if isinstance(before, str) and isinstance(after, str):
        is_tail = bool(before) and after.startswith(before)
        return None if before == after else ["add", after[len(before) :]] if is_tail else ["set", after]
    if isinstance(before, list) and isinstance(after, list):
        return _change_of_list(before, after, depth)
    if isinstance(before, dict) and isinstance(after, dict):
        return _change_of_dict(before, after, depth)
    return None if same(before, after) else ["set", after]


def _change_of_list(before: list[Json], after: list[Json], depth: int) -> _Change | None:
    if not before or not after:
        return ["set", after] if before or after else None
    tail = after[len(before) :]
    is_shorter = len(after) < len(before)
    if not is_shorter and same(before, after[: len(before)]):  # the usual case is quick to tell
        return ["add", tail] if tail else None
    change: _Change = ["set", after] if is_shorter else _change_in_place(before, after, tail, depth)
    if change[0] == "in" and not tail:
        return change
    return min((change, *_cuts(before, after)), key=lambda change: len(dumps(change)))


def _change_in_place(before: list[Json], after: list[Json], tail: list[Json], depth: int) -> _Change:
    inner = _inner(before, after, depth)
    if len(inner) == len(before):
        return ["set", after]
    return ["in", inner, tail] if tail else ["in", inner]


def _cuts(before: list[Json], after: list[Json]) -> Iterator[_Change]:
    """Yield changes between the items that both lists begin with and those that both end with, and that of a queue."""
    start = _alike(before, after)
    end = _alike(reversed(before[start:]), reversed(after[start:]))
    yield ["cut", start, len(before) - end, after[start : len(after) - end]]
    gone = next((place for place, item in enumerate(before) if same(item, after[0])), len(before))
    if 0 < gone < len(before) and _alike(before[gone:], after) == len(before) - gone:
        yield ["cut", 0, gone, [], after[len(before) - gone :]]


def _alike(before: Iterable[Json], after: Iterable[Json]) -> int:
    """Return how many items are the same, from the first on."""
    count = 0
    for one, other in zip(before, after, strict=False):
        is_plain = type(one) is type(other) and type(one) in _QUICK
        if not (one == other if is_plain else same(one, other)):
            break
        count += 1
    return count


def _inner(before: list[Json], after: list[Json], depth: int) -> dict[str, Json]:
    pairs = enumerate(zip(before, after, strict=False))
    return {
        str(place): change for place, (one, other) in pairs if (change := _change(one, other, depth + 1)) is not None
    }


def _change_of_dict(before: dict[str, Json], after: dict[str, Json], depth: int) -> _Change | None:
    kept = [key for key in before if key in after]
    if kept + [key for key in after if key not in before] != list(after):
        return ["set", after]  # the order of keys is part of the value
    inner: dict[str, Json] = {key: _DROP for key in before if key not in after}
    for key, tree in after.items():
        change = _change(before[key], tree, depth + 1) if key in before else ["set", tree]
        if change is not None:
            inner[key] = cast("Json", change)
    if not inner:
        return None
    return ["set", after] if len(inner) >= len(after) else ["in", inner]
