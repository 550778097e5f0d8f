"""Differences of contexts."""

from typing import Any

import pytest
from hypothesis import given

from flujo_async._log.delta import apply, diff, same
from flujo_async.errors import SerializationError
from tests.log.made import objects, trees


@pytest.mark.parametrize(
    ("before", "after", "patch"),
    [
        ({}, {}, {}),
        ({"a": 1}, {"a": 1}, {}),
        ({"a": 1}, {"a": 2}, {"a": ["set", 2]}),
        ({"a": 1}, {}, {"a": ["drop"]}),
        ({}, {"a": None}, {"a": ["set", None]}),
        ({"a": None}, {}, {"a": ["drop"]}),
        ({"a": 1}, {"a": True}, {"a": ["set", True]}),
        ({"a": 1}, {"a": 1.0}, {"a": ["set", 1.0]}),
        ({"a": 0.0}, {"a": -0.0}, {"a": ["set", -0.0]}),
        ({"a": [1, {"b": 0}]}, {"a": [1, {"b": False}]}, {"a": ["set", [1, {"b": False}]]}),
        ({"a": ["drop"]}, {"a": ["set", 1]}, {"a": ["set", ["set", 1]]}),
    ],
)
def test_a_patch_tells_what_changed(before: Any, after: Any, patch: Any) -> None:
    """Field by field, and nothing else."""
    found = diff(before, after)
    assert repr(found) == repr(patch)
    assert repr(apply(before, found)) == repr(after)


@given(objects, objects)
def test_a_patch_turns_one_into_the_other(before: Any, after: Any) -> None:
    """Round trip, type included."""
    changed = apply(before, diff(before, after))
    assert changed.keys() == after.keys()
    assert all(same(changed[name], after[name]) for name in after)


@given(objects)
def test_nothing_changed_is_an_empty_patch(fields: Any) -> None:
    """And applying it returns the very object."""
    assert diff(fields, dict(fields)) == {}
    assert apply(fields, {}) is fields


@given(objects, objects)
def test_what_is_patched_stays_as_it_is(before: Any, after: Any) -> None:
    """``apply`` changes a copy."""
    shown = repr(before)
    apply(before, diff(before, after))
    assert repr(before) == shown


@given(trees, trees)
def test_same_is_an_equivalence_finer_than_pythons(one: Any, other: Any) -> None:
    """Of equal values of different types none is the same."""
    assert same(one, one)
    assert same(one, other) == same(other, one)
    assert not same(one, other) or one == other
    assert not same(True, 1)
    assert not same(1, 1.0)
    assert not same([0], [False])


@pytest.mark.parametrize("change", [None, [], ["set"], ["set", 1, 2], ["drop", 1], "drop", ["replace", 1], {}])
def test_a_malformed_change_is_refused(change: Any) -> None:
    """With the field in the error."""
    with pytest.raises(SerializationError, match=r"patch\.x"):
        apply({}, {"x": change})
