"""Facts as one line of JSON each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from operator import attrgetter
from typing import Any, Final, get_args

from flujo_async._codec.blobs import LARGE, NAMES, extract, restore
from flujo_async._codec.heads import decode_cost, decode_moment, decode_waiting, encode_waiting, in_utc
from flujo_async._codec.tree import dumps_with_moments, loads
from flujo_async._model.facts import Fact
from flujo_async._model.stored import Blob, Record
from flujo_async._model.tree import Json
from flujo_async.errors import SerializationError

_UNSET: Final = object()


def _default(item: Field[Any]) -> Any:
    if item.default_factory is not MISSING:
        return item.default_factory()
    return _UNSET if item.default is MISSING else item.default


_MOMENTS: Final = ("at", "started_at", "first_started_at", "retry_at", "wake_at", "deadline", "sent_at")
_KEYS: Final = ("dropped", "keys")
_TREES: Final = frozenset(
    {"input", "inputs", "context", "patch", "output", "data", "details", "payload", "value", "error", "choice"}
)
"""The fields that hold trees of values, where something may be large."""

_ENCODE: Final[dict[str, Callable[[Any], Any]]] = {
    **dict.fromkeys(_MOMENTS, in_utc),
    "waiting_for": encode_waiting,
    "cost": str,
    **dict.fromkeys(_KEYS, list),
}
_DECODE: Final[dict[str, Callable[[Any], Any]]] = {
    **dict.fromkeys(_MOMENTS, decode_moment),
    "waiting_for": lambda tree: tuple(decode_waiting(tree)),
    "cost": decode_cost,
    **dict.fromkeys(_KEYS, tuple),
}


class _Layout:
    """What a kind of fact looks like as a line: read at every step, so what can be known beforehand is."""

    __slots__ = ("encoders", "names", "optional", "values")

    def __init__(self, cls: type[Any]) -> None:
        required = ["kind", *(item.name for item in fields(cls) if _default(item) is _UNSET)]
        self.names: tuple[str, ...] = tuple(required)
        self.values: Callable[[Any], tuple[Any, ...]] = attrgetter(*required)
        self.encoders = tuple((name, _ENCODE[name]) for name in required if name in _ENCODE)
        self.optional = tuple(
            (item.name, default, _ENCODE.get(item.name))
            for item in fields(cls)
            if (default := _default(item)) is not _UNSET
        )


_LAYOUTS: Final = {cls: _Layout(cls) for cls in get_args(Fact)}
_KINDS: Final[dict[str, tuple[type[Any], Sequence[tuple[str, Callable[[Any], Any]]]]]] = {
    cls.kind: (cls, [(item.name, _DECODE[item.name]) for item in fields(cls) if item.name in _DECODE])
    for cls in get_args(Fact)
}


def pack_fact(fact: Fact) -> tuple[bytes, Sequence[Blob]]:
    """Return a fact as one line of JSON, its kind first, and what is large in it beside that.

    Fields at their default are left out. A line with something beside it begins with the digests.
    """
    line = _line(fact)
    body = dumps_with_moments(line)
    if len(body) < LARGE:
        return body, ()
    blobs: dict[str, Blob] = {}
    smaller = {name: extract(tree, blobs) if name in _TREES else tree for name, tree in line.items()}
    return (dumps_with_moments({NAMES: [*blobs], **smaller}), list(blobs.values())) if blobs else (body, ())


def encode_fact(fact: Fact) -> bytes:
    """Return a fact as one line of JSON, with all that is large in it."""
    return dumps_with_moments(_line(fact))


def _line(fact: Fact) -> dict[str, Any]:
    layout = _LAYOUTS[type(fact)]
    line: dict[str, Any] = dict(zip(layout.names, layout.values(fact), strict=True))
    for name, encode in layout.encoders:
        line[name] = encode(line[name])
    for name, default, optional_encode in layout.optional:
        value = getattr(fact, name)
        if value is not default and value != default:
            line[name] = value if optional_encode is None else optional_encode(value)
    return line


def read_fact(record: Record) -> Fact:
    """Return the fact that a record holds.

    Raises:
        SerializationError: it holds none, or names blobs that have not been read.
    """
    return decode_fact(record.body, record.values)


def read_outline(record: Record) -> Fact:
    """Return the fact that a record holds; of a large value in it only the name of the blob.

    Raises:
        SerializationError: it holds none.
    """
    line = loads(record.body)
    if isinstance(line, dict):
        line.pop(NAMES, None)
    return fact_of(line)


def decode_fact(body: bytes, values: Mapping[str, Json] | None = None) -> Fact:
    """Return the fact that ``pack_fact`` made ``body`` from.

    Raises:
        SerializationError: the bytes are no fact, or name a blob that is not among ``values``.
    """
    return fact_of(loads(body), values)


def fact_of(line: Json, values: Mapping[str, Json] | None = None) -> Fact:
    """Return the fact that a line holds, which is used up; see ``decode_fact``."""
    if not isinstance(line, dict):
        raise SerializationError("a fact is a JSON object")
    if line.pop(NAMES, None) is not None:
        line = {name: restore(tree, values or {}) if name in _TREES else tree for name, tree in line.items()}
    kind = line.pop("kind", None)
    if not isinstance(kind, str) or kind not in _KINDS:
        raise SerializationError(f"unknown kind of fact: {kind!r}")
    cls, decoders = _KINDS[kind]
    decoded: dict[str, Any] = line
    try:
        for name, decode in decoders:
            if name in decoded:
                decoded[name] = decode(decoded[name])
        fact: Fact = cls(**decoded)
    except (TypeError, ValueError, AttributeError) as error:
        raise SerializationError(f"a malformed {kind}: {error}") from error
    return fact
