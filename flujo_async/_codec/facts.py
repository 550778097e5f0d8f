"""Facts as one line of JSON each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from datetime import UTC
from typing import Any, Final, get_args

from flujo_async._codec.blobs import LARGE, NAMES, Blobs, LastText, extract, restore
from flujo_async._codec.heads import decode_cost, decode_moment, decode_waiting, encode_waiting, in_utc
from flujo_async._codec.tree import dumps_with_moments, loads
from flujo_async._model.facts import Fact
from flujo_async._model.quick import UNSET, default_of, is_quick, made_by
from flujo_async._model.stored import Blob, Record
from flujo_async._model.tree import Json
from flujo_async.errors import SerializationError


def _default(item: Field[Any]) -> Any:
    if item.default_factory is not MISSING:
        return item.default_factory()
    return default_of(item)


_MOMENTS: Final = ("at", "started_at", "first_started_at", "retry_at", "wake_at", "deadline", "sent_at")
_LISTS: Final = ("dropped", "keys", "through", "gone")
_TREES: Final = frozenset(
    {"input", "inputs", "context", "patch", "output", "data", "details", "payload", "value", "error", "choice"}
)
"""The fields that hold trees of values, where something may be large."""

_ENCODE: Final[dict[str, Callable[[Any], Any]]] = {
    **dict.fromkeys(_MOMENTS, in_utc),
    "waiting_for": encode_waiting,
    "cost": str,
    **dict.fromkeys(_LISTS, list),
}
_DECODE: Final[dict[str, Callable[[Any], Any]]] = {
    **dict.fromkeys(_MOMENTS, decode_moment),
    "waiting_for": lambda tree: tuple(decode_waiting(tree)),
    "cost": decode_cost,
    **dict.fromkeys(_LISTS, tuple),
}


def _writer(cls: type[Any]) -> Callable[[Any], dict[str, Any]]:
    """Return what makes a line of facts of a class: needed at every step, so it is written out field by field.

    The kind comes first, then what every such fact has, then what is not at its default.
    """
    names: dict[str, Any] = {"_utc": UTC} | {f"_encode_{name}": encode for name, encode in _ENCODE.items()}
    required = [item for item in fields(cls) if _default(item) is UNSET]
    lines = [f"    line = {{'kind': {cls.kind!r}, {', '.join(f'{i.name!r}: {_encoded(i)}' for i in required)}}}"]
    for item in fields(cls):
        if (default := _default(item)) is UNSET:
            continue
        names[f"_default_{item.name}"] = default
        is_other = "is not None" if default is None else f"!= _default_{item.name}"
        lines += [f"    if fact.{item.name} {is_other}:", f"        line[{item.name!r}] = {_encoded(item)}"]
    exec("def write(fact):\n" + "\n".join([*lines, "    return line"]), names)
    write: Callable[[Any], dict[str, Any]] = names["write"]
    return write


def _encoded(item: Field[Any]) -> str:
    value = f"fact.{item.name}"
    if item.name not in _ENCODE:
        return value
    encoded = f"_encode_{item.name}({value})"
    # A call for the two moments of each step would do no more than look whether they are in UTC, which they are.
    return f"({value} if {value}.tzinfo is _utc else {encoded})" if item.name in _MOMENTS else encoded


_WRITERS: Final = {cls: _writer(cls) for cls in get_args(Fact)}


def _reader(cls: type[Any]) -> Callable[[dict[str, Any]], Any]:
    """Return what makes a fact of a line, which it uses up; the counterpart of ``_writer``.

    A log is read as a whole when its run is taken up, so a fact is filled field by field: in a third of the time that
    it takes to call its class with as many keywords.
    """
    names: dict[str, Any] = {"new": object.__new__, "cls": cls, "put": object.__setattr__}
    names |= {f"_decode_{name}": decode for name, decode in _DECODE.items()}
    lines = ["take = line.pop", "fact = new(cls)"]
    for item in fields(cls):
        names[f"_default_{item.name}"] = default = default_of(item)
        is_simple = default is not UNSET and item.name not in _DECODE
        value = f"take({item.name!r}, _default_{item.name})" if is_simple else f"take({item.name!r})"
        if item.name in _DECODE:
            value = f"_decode_{item.name}({value})"
        if default is not UNSET:
            value = value if is_simple else f"{value} if {item.name!r} in line else _default_{item.name}"
        elif item.default_factory is not MISSING:
            names[f"_make_{item.name}"] = made_by(item.default_factory)
            value = f"{value} if {item.name!r} in line else _make_{item.name}()"
        lines.append(f"fact.{item.name} = {value}" if is_quick(cls) else f"put(fact, {item.name!r}, {value})")
    lines += ["if line:", "    raise TypeError(f'unexpected {[*line]}')", "return fact"]
    exec("def read(line):\n    " + "\n    ".join(lines), names)
    read: Callable[[dict[str, Any]], Any] = names["read"]
    return read


_READERS: Final = {cls.kind: _reader(cls) for cls in get_args(Fact)}


def pack_fact(fact: Fact, last: LastText | None = None) -> tuple[bytes, Sequence[Blob]]:
    """Return a fact as one line of JSON, its kind first, and what is large in it beside that.

    Fields at their default are left out. A line with something beside it begins with the digests.

    Args:
        fact: what happened.
        last: the large text of the log that was packed last; it is not among what is returned again.
    """
    line = _WRITERS[type(fact)](fact)
    body = b""
    if type(output := line.get("output")) is not str or len(output) < LARGE:  # else it is large without a look
        body = dumps_with_moments(line)
        if len(body) < LARGE:
            return body, ()
    blobs: Blobs = {}
    smaller = {name: extract(tree, blobs, last) if name in _TREES else tree for name, tree in line.items()}
    if not blobs:
        return body, ()
    return dumps_with_moments({NAMES: [*blobs], **smaller}), [blob for blob in blobs.values() if blob is not None]


def encode_fact(fact: Fact) -> bytes:
    """Return a fact as one line of JSON, with all that is large in it."""
    return dumps_with_moments(_WRITERS[type(fact)](fact))


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
    if not isinstance(kind, str) or kind not in _READERS:
        raise SerializationError(f"unknown kind of fact: {kind!r}")
    try:
        fact: Fact = _READERS[kind](line)
    except (TypeError, ValueError, AttributeError) as error:
        raise SerializationError(f"a malformed {kind}: {error}") from error
    except KeyError as error:
        raise SerializationError(f"a {kind} without {error}") from error
    return fact
