"""What goes in comes out equal, type included."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from flujo_async._codec.tree import dumps, loads
from tests.codec.sameness import same
from tests.codec.samples import CODEC, UNHURRIED, hashables, values


def round_trip(value: Any) -> Any:
    return CODEC.decode(loads(dumps(CODEC.encode(value))))


@settings(suppress_health_check=UNHURRIED)
@given(values)
def test_every_value_comes_back_as_it_was(value: Any) -> None:
    """Through the bytes and back: equal, and of the same type all the way down."""
    assert same(round_trip(value), value)


@settings(suppress_health_check=UNHURRIED)
@given(values)
def test_storing_what_came_back_gives_the_same_bytes(value: Any) -> None:
    """Otherwise a replay would look like a change."""
    data = dumps(CODEC.encode(value))
    assert dumps(CODEC.encode(CODEC.decode(loads(data)))) == data
    assert dumps(loads(data)) == data


@given(st.lists(hashables, max_size=5))
def test_equal_sets_are_equal_bytes(members: list[Any]) -> None:
    """A set has no order, so its stored form must choose one."""
    assert same(CODEC.encode(set(members)), CODEC.encode(set(dict.fromkeys(reversed([*set(members)])))))
