"""Facts as one line of JSON each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import Any, Final, get_args

from flujo_async._codec.heads import decode_moment, decode_waiting, encode_moment, encode_waiting
from flujo_async._codec.tree import dumps, loads
from flujo_async._model.facts import Fact
from flujo_async.errors import SerializationError

_KINDS: Final[dict[str, type[Any]]] = {cls.kind: cls for cls in get_args(Fact)}
_UNSET: Final = object()


def _default(item: Field[Any]) -> Any:
    if item.default_factory is not MISSING:
        return item.default_factory()
    return _UNSET if item.default is MISSING else item.default


_MOMENTS: Final = ("at", "started_at", "first_started_at", "retry_at", "wake_at", "deadline")
_KEYS: Final = ("dropped", "keys")
_ENCODE: Final[dict[str, Callable[[Any], Any]]] = {
    **dict.fromkeys(_MOMENTS, encode_moment),
    "waiting_for": encode_waiting,
    **dict.fromkeys(_KEYS, list),
}
_DECODE: Final[dict[str, Callable[[Any], Any]]] = {
    **dict.fromkeys(_MOMENTS, decode_moment),
    "waiting_for": lambda tree: tuple(decode_waiting(tree)),
    **dict.fromkeys(_KEYS, tuple),
}
_FIELDS: Final[dict[type[Any], tuple[tuple[str, Any, Callable[[Any], Any] | None], ...]]] = {
    cls: tuple((item.name, _default(item), _ENCODE.get(item.name)) for item in fields(cls)) for cls in _KINDS.values()
}


def encode_fact(fact: Fact) -> bytes:
    """Return a fact as one line of JSON, its kind first; fields at their default are left out."""
    line: dict[str, Any] = {"kind": fact.kind}
    for name, default, encode in _FIELDS[type(fact)]:
        value = getattr(fact, name)
        if default is _UNSET or value != default:
            line[name] = value if encode is None else encode(value)
    return dumps(line)


def decode_fact(body: bytes) -> Fact:
    """Return the fact that ``encode_fact`` made ``body`` from.

    Raises:
        SerializationError: the bytes are no fact.
    """
    line = loads(body)
    if not isinstance(line, dict):
        raise SerializationError("a fact is a JSON object")
    kind = line.pop("kind", None)
    if not isinstance(kind, str) or kind not in _KINDS:
        raise SerializationError(f"unknown kind of fact: {kind!r}")
    try:
        decoded = {name: _DECODE[name](value) if name in _DECODE else value for name, value in line.items()}
        fact: Fact = _KINDS[kind](**decoded)
    except (TypeError, ValueError, AttributeError) as error:
        raise SerializationError(f"a malformed {kind}: {error}") from error
    return fact
