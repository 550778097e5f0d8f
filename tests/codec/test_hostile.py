"""Stored data that is not what it should be: a value or a ``SerializationError``, and nothing else happens."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flujo_async._codec.exceptions import decode_error, describe_error, encode_error
from flujo_async._codec.tree import dumps, loads
from flujo_async._codec.values import Codec
from flujo_async.errors import SerializationError
from tests.codec.samples import CODEC, KNOWN, UNHURRIED, values

TAGS = [
    *[
        "int",
        "float",
        "str",
        "dict",
        "tuple",
        "set",
        "frozenset",
        "bytes",
        "bytearray",
        "complex",
        "Decimal",
        "Fraction",
        "UUID",
        "date",
        "datetime",
        "time",
    ],
    *[
        "timedelta",
        "timezone",
        "ZoneInfo",
        "PosixPath",
        "WindowsPath",
        "PurePosixPath",
        "PureWindowsPath",
        "error",
        "@none",
        "os:system",
    ],
    *(f"{cls.__module__}:{cls.__qualname__}" for cls in KNOWN),
]
SLOTS = ["$", "v", "extra", "private", "unset", "attributes", "type", "message", "args", "cause", "members", "notes"]
words = st.one_of(
    st.text(max_size=4),
    st.sampled_from([*TAGS, "builtins:KeyError", "builtins:ExceptionGroup", "builtins:OSError", "nan", "x", "a", "id"]),
    st.sampled_from(["2024-01-01", "2024-01-01T00:00:00+99:00", "RED", "../../etc/passwd", "America", "1/0", "AP8="]),
)
trees = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), words),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.sampled_from(SLOTS), words), inner, max_size=4),
        st.fixed_dictionaries({"$": st.sampled_from(TAGS), "v": inner}),
        st.fixed_dictionaries({"$": st.sampled_from(TAGS), "v": st.dictionaries(words, inner, max_size=2)}),
        st.fixed_dictionaries(
            {
                "$": st.just("error"),
                "v": st.fixed_dictionaries({"type": words, "message": words}, optional=dict.fromkeys(SLOTS[8:], inner)),
            }
        ),
    ),
    max_leaves=15,
)
relaxed = settings(suppress_health_check=UNHURRIED)


@relaxed
@given(st.binary(max_size=60))
@example(b"\xff")
@example(b'"\xed\xa0\x80"')
@example(b"[" * 100_000)
@example(b'{"$":"tuple","v":' * 400 + b"[]" + b"}" * 400)
@example(b"1e999")
def test_any_bytes(data: bytes) -> None:
    with contextlib.suppress(SerializationError):
        CODEC.decode(loads(data))


@relaxed
@given(trees)
def test_any_tree(tree: Any) -> None:
    for decode in (CODEC.decode, Codec.lenient().decode):
        with contextlib.suppress(SerializationError):
            decode(tree)


@relaxed
@given(trees, trees, trees)
def test_any_tree_as_the_record_of_an_exception(args: Any, attributes: Any, cause: Any) -> None:
    for kind in ("builtins:OSError", "builtins:ExceptionGroup", "tests.codec.samples:Unavailable"):
        record = {"type": kind, "message": "m", "args": args, "attributes": attributes, "members": [cause]}
        for tree in (record, cause, {**record, "cause": cause}):
            with contextlib.suppress(SerializationError):
                assert isinstance(decode_error(CODEC, tree), Exception)
            with contextlib.suppress(SerializationError):
                describe_error(tree)


def _mutated(data: st.DataObject, tree: Any) -> Any:
    """Return the tree with one part replaced, on a random way down."""
    if not isinstance(tree, (list, dict)) or not tree or data.draw(st.integers(0, 3)) == 0:
        return data.draw(trees)
    key = data.draw(st.sampled_from(sorted(tree) if isinstance(tree, dict) else range(len(tree))))
    changed: Any = tree.copy()
    if isinstance(changed, dict) and data.draw(st.integers(0, 3)) == 0:
        changed[data.draw(words)] = changed.pop(key)
    else:
        changed[key] = _mutated(data, tree[key])
    return changed


@relaxed
@given(st.data(), values)
def test_any_change_of_a_good_tree(data: st.DataObject, value: Any) -> None:
    tree = _mutated(data, CODEC.encode(value))
    with contextlib.suppress(SerializationError):
        CODEC.decode(tree)


@pytest.mark.parametrize(
    "tree",
    [
        {"$": 1},
        {"$": []},
        {"$": None, "v": 1},
        {"$": "tuple"},
        {"$": "tuple", "v": "ab"},
        {"$": "tuple", "v": [], "w": 1},
        {"$": "int", "v": 5},
        {"$": "int", "v": "zz"},
        {"$": "float", "v": "1.0"},
        {"$": "float", "v": [1]},
        {"$": "bytes", "v": "A"},
        {"$": "bytes", "v": "é"},
        {"$": "dict", "v": [1]},
        {"$": "dict", "v": [[], 1]},
        {"$": "set", "v": [[1]]},
        {"$": "date", "v": "2024-13-01"},
        {"$": "datetime", "v": ["2024-01-01", 5, 0]},
        {"$": "datetime", "v": ["2024-01-01"]},
        {"$": "timedelta", "v": [10**12, 0, 0]},
        {"$": "Fraction", "v": [1, 0]},
        {"$": "Decimal", "v": "one"},
        {"$": "ZoneInfo", "v": "../../etc/passwd"},
        {"$": "ZoneInfo", "v": "America"},
        {"$": "WindowsPath", "v": "a"},
        {"$": "os:system", "v": "true"},
        {"$": "builtins:eval", "v": "1"},
        {"$": "@nobody", "v": 1},
        {"$": "tests.codec.samples:Unknown", "v": {}},
        {"$": "tests.codec.samples:Colour", "v": "BLUE"},
        {"$": "tests.codec.samples:Colour", "v": "__class__"},
        {"$": "tests.codec.samples:Colour", "v": 1},
        {"$": "tests.codec.samples:Access", "v": 64},
        {"$": "tests.codec.samples:Plain", "v": [1]},
        {"$": "tests.codec.samples:Plain", "v": {"number": 1, "__class__": 2}},
        {"$": "tests.codec.samples:Account", "v": {"password": "x"}, "extra": {"y": 1}},
        {"$": "tests.codec.samples:Account", "v": {"password": "x"}, "private": {"_z": 1}},
        {"$": "tests.codec.samples:Account", "v": {"password": "x"}, "unset": 1},
        {"$": "tests.codec.samples:Frozen", "v": {"key": 1}, "attributes": {"x": 1}},
        {"$": "error", "v": {"type": "builtins:ValueError"}},
        {"$": "error", "v": {"type": "builtins:OSError", "message": "", "attributes": {"characters_written": "x"}}},
        {"$": "error", "v": {"type": "builtins:ExceptionGroup", "message": "", "members": {}}},
        {"$": "error", "v": {"type": "builtins:ValueError", "message": "", "notes": [1]}},
        {"a": object()},
    ],
)
def test_a_malformed_tree(tree: Any) -> None:
    with pytest.raises(SerializationError):
        CODEC.decode(tree)


def test_a_class_outside_the_annotations_is_never_built() -> None:
    """Also not one that another codec knows."""
    stored = CODEC.encode(values_of_every_class())
    with pytest.raises(SerializationError, match="neither reachable"):
        Codec().decode(stored)


def values_of_every_class() -> list[Any]:
    return [KNOWN[4](1), KNOWN[5](2)]


def test_system_exceptions_are_never_built() -> None:
    """``SystemExit`` in a log must not end the process that reads it."""
    error = decode_error(CODEC, encode_error(CODEC, SystemExit(3)))
    assert str(error) == "builtins:SystemExit: 3"


@pytest.mark.parametrize("tree", [float, object(), {1}, 2**70, {"a": {1: 2}, 3: 4}, "\ud800"])
def test_only_json_is_written(tree: Any) -> None:
    """What is no tree is refused, not approximated."""
    with pytest.raises(SerializationError):
        dumps(tree)
