"""The shapes of Python's own types. Plain JSON types are stored as they are wherever JSON can hold them."""

from __future__ import annotations

import math
from base64 import b64encode
from binascii import a2b_base64
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import PosixPath, PurePath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any, cast
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic_core import TzInfo

from flujo_async._codec.misfit import Misfit, key_step
from flujo_async._codec.shape import Coder, Mapped, Shape, check_names, put_fields
from flujo_async._codec.tree import PAYLOAD, TAG, dumps
from flujo_async._model.text import is_unicode
from flujo_async._model.tree import Json

SMALLEST_INT = -(2**63)
LARGEST_INT = 2**63 - 1


def has_plain_keys(value: dict[Any, Any]) -> bool:
    """Tell whether a dict can be stored as a JSON object and not be taken for a tagged tree."""
    for key in value:
        if type(key) is not str or not (key.isascii() or is_unicode(key)):
            return False
    return TAG not in value


class StrShape:
    """Text; with lone surrogates as base64 of its UTF-8-like bytes, so that pairs of them stay two characters."""

    tag = "str"

    def encode(self, value: Any, coder: Coder, depth: int) -> Json:
        """Return the text itself where JSON can hold it."""
        if is_unicode(value):
            return value  # type: ignore[no-any-return]
        return {TAG: self.tag, PAYLOAD: b64encode(value.encode("utf-8", "surrogatepass")).decode()}

    def decode(self, tree: dict[str, Json], coder: Coder) -> Any:
        """Return the text with its surrogates."""
        check_names(tree, {TAG, PAYLOAD})
        return _bytes(tree[PAYLOAD]).decode("utf-8", "surrogatepass")


class IntShape:
    """Whole numbers; beyond 64 bits as hexadecimal digits, which cost linear time and know no limit."""

    tag = "int"

    def encode(self, value: Any, coder: Coder, depth: int) -> Json:
        """Return the number itself where JSON readers can hold it."""
        if SMALLEST_INT <= value <= LARGEST_INT:
            return value  # type: ignore[no-any-return]
        return {TAG: self.tag, PAYLOAD: f"{value:x}"}

    def decode(self, tree: dict[str, Json], coder: Coder) -> Any:
        """Return the large number."""
        check_names(tree, {TAG, PAYLOAD})
        return int(_text(tree[PAYLOAD]), 16)


class FloatShape:
    """Floats; the three that JSON lacks by their names."""

    tag = "float"
    _SPECIAL = ("inf", "-inf", "nan")

    def encode(self, value: Any, coder: Coder, depth: int) -> Json:
        """Return the number itself where it is finite."""
        return value if math.isfinite(value) else {TAG: self.tag, PAYLOAD: str(value)}

    def decode(self, tree: dict[str, Json], coder: Coder) -> Any:
        """Return infinity or nan."""
        check_names(tree, {TAG, PAYLOAD})
        if tree[PAYLOAD] not in self._SPECIAL:
            raise Misfit("a stored float is none of inf, -inf and nan")
        return float(_text(tree[PAYLOAD]))


class DictShape:
    """Dicts are JSON objects; where a key is not plain text, a flat list ``[key, value, key, value, …]``.

    Args:
        build: makes the value from the flat list.
    """

    tag = "dict"

    def __init__(self, build: Callable[[list[Any]], Any]) -> None:
        self._build = build

    def encode(self, value: Any, coder: Coder, depth: int) -> Json:
        """Return the trees of the entries, in their order."""
        if has_plain_keys(value):
            return put_fields(value.items(), coder, depth + 1)
        return {TAG: self.tag, PAYLOAD: _put_pairs(value, coder, depth + 2)}

    def decode(self, tree: dict[str, Json], coder: Coder) -> Any:
        """Return the dict of a flat list."""
        check_names(tree, {TAG, PAYLOAD})
        pairs = _items(coder.get(tree[PAYLOAD]))
        if len(pairs) % 2:
            raise Misfit("a stored dict has a key without a value")
        return self._build(pairs)


def _put_pairs(value: dict[Any, Any], coder: Coder, depth: int) -> list[Json]:
    pairs: list[Json] = []
    key: Any = None
    try:
        for key, item in value.items():
            pairs += (coder.put(key, depth), coder.put(item, depth))
    except Misfit as misfit:
        misfit.steps.append(key_step(key))
        raise
    return pairs


class SetShape:
    """Sets, their members sorted by their bytes, so that equal sets are stored as equal bytes.

    Args:
        tag: ``set`` or ``frozenset``.
        build: makes the value from the list of its members.
    """

    def __init__(self, tag: str, build: Callable[[list[Any]], Any]) -> None:
        self.tag: str = tag
        self._build = build

    def encode(self, value: Any, coder: Coder, depth: int) -> Json:
        """Return the trees of the members in their one order."""
        try:
            return {TAG: self.tag, PAYLOAD: sorted((coder.put(item, depth + 2) for item in value), key=dumps)}
        except Misfit as misfit:
            misfit.steps.append("{}")
            raise

    def decode(self, tree: dict[str, Json], coder: Coder) -> Any:
        """Return the set."""
        check_names(tree, {TAG, PAYLOAD})
        return self._build(_items(coder.get(tree[PAYLOAD])))


def _text(payload: Any) -> str:
    if type(payload) is not str:
        raise Misfit("the payload is not text")
    return payload


def _items(payload: Any) -> list[Any]:
    items: list[Any] = payload
    if type(items) is not list:
        raise Misfit("the payload is not a list")
    return items


def _bytes(payload: Any) -> bytes:
    return a2b_base64(_text(payload), strict_mode=True)


def _dict(pairs: list[Any]) -> dict[Any, Any]:
    return dict(zip(pairs[::2], pairs[1::2], strict=True))


def _zone_to_payload(zone: timezone) -> list[Any]:
    offset, name = zone.utcoffset(None), zone.tzname(None)
    return [offset] if name == timezone(offset).tzname(None) else [offset, name]


def _zone_key(zone: ZoneInfo) -> str:
    key = cast("str | None", zone.key)  # typeshed forgets `ZoneInfo.from_file`
    if key is None:
        raise Misfit("a ZoneInfo without a key cannot be found again: make it with ZoneInfo(key)")
    return key


def _moment_to_payload(moment: Any) -> Any:
    """Return ISO text where it says all, else ``[text without zone, zone, fold]``. For datetime and time."""
    zone = moment.tzinfo
    if (zone is None or _is_plain(zone)) and not moment.fold:
        return moment.isoformat()
    return [moment.replace(tzinfo=None, fold=0).isoformat(), zone, moment.fold]


def _is_plain(zone: Any) -> bool:
    """Tell whether ISO text says all of a zone: it has no name, and parsers lose offsets below a second."""
    return zone is UTC or (
        type(zone) is timezone
        and _zone_to_payload(zone) == [zone.utcoffset(None)]
        and not zone.utcoffset(None).microseconds
    )


def _moment(cls: type[Any]) -> Callable[[Any], Any]:
    def from_payload(payload: Any) -> Any:
        if type(payload) is str:
            return cls.fromisoformat(payload)
        text, zone, fold = _items(payload)
        return cls.fromisoformat(text).replace(tzinfo=zone, fold=fold)

    return from_payload


def _path_text(path: PurePath) -> str:
    text = str(path)
    if type(path)(text) != path:
        raise Misfit("the text of this path means another path")
    return text


_MAPPED: dict[type, Mapped] = {
    tuple: Mapped("tuple", list, tuple, list),
    bytes: Mapped("bytes", lambda data: b64encode(data).decode(), _bytes, str),
    bytearray: Mapped("bytearray", lambda data: b64encode(data).decode(), lambda text: bytearray(_bytes(text)), str),
    complex: Mapped("complex", lambda number: [number.real, number.imag], lambda parts: complex(*parts), list),
    Decimal: Mapped("Decimal", str, Decimal, str),
    Fraction: Mapped("Fraction", lambda value: [value.numerator, value.denominator], lambda n: Fraction(*n), list),
    UUID: Mapped("UUID", str, UUID, str),
    date: Mapped("date", date.isoformat, date.fromisoformat, str),
    datetime: Mapped("datetime", _moment_to_payload, _moment(datetime), object),
    time: Mapped("time", _moment_to_payload, _moment(time), object),
    timedelta: Mapped("timedelta", lambda d: [d.days, d.seconds, d.microseconds], lambda n: timedelta(*n), list),
    timezone: Mapped("timezone", _zone_to_payload, lambda parts: timezone(*parts), list),
    ZoneInfo: Mapped("ZoneInfo", _zone_key, ZoneInfo, str),
    TzInfo: Mapped("TzInfo", lambda z: z.utcoffset(None), lambda offset: TzInfo(offset.total_seconds()), timedelta),
    **{
        kind: Mapped(kind.__name__, _path_text, kind, str)
        for kind in (PosixPath, WindowsPath, PurePosixPath, PureWindowsPath)
    },
}

BUILTIN_SHAPES: dict[type, Shape] = {
    int: IntShape(),
    float: FloatShape(),
    str: StrShape(),
    dict: DictShape(_dict),
    set: SetShape("set", set),
    frozenset: SetShape("frozenset", frozenset),
    **_MAPPED,
}
"""By exact class: a subclass is never taken for its base. The codec itself stores atoms and lists."""

BUILTIN_TYPES = frozenset({*BUILTIN_SHAPES, type(None), bool, list})
"""Everything that needs neither an annotation nor a registration, besides exceptions."""

BUILTIN_TAGS: dict[str, Shape] = {shape.tag: shape for shape in BUILTIN_SHAPES.values()}


def _forgiving(build: Callable[[list[Any]], Any]) -> Callable[[list[Any]], Any]:
    """Return a builder that leaves the list a list where its members cannot be hashed."""

    def from_items(items: list[Any]) -> Any:
        try:
            return build(items)
        except TypeError:
            return items

    return from_items


LENIENT_TAGS: dict[str, Shape] = {
    **BUILTIN_TAGS,
    "dict": DictShape(_forgiving(_dict)),
    "set": SetShape("set", _forgiving(set)),
    "frozenset": SetShape("frozenset", _forgiving(frozenset)),
}
"""For readers without definitions: what was a hashable object may be an unhashable dict of its fields there."""
