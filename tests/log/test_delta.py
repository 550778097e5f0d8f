"""Differences of contexts."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flujo_async._codec.tree import dumps, loads
from flujo_async._log.delta import Fields, apply, apply_all, diff, lengthen, same, shorten
from flujo_async._model.tree import MAX_DEPTH
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


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        ([1, 2], [1, 2, 3], ["add", [3]]),
        ("abc", "abcde", ["add", "de"]),
        ("", "de", ["set", "de"]),
        ("abc", "xbcd", ["set", "xbcd"]),
        ([], [1], ["set", [1]]),
        ([1, 2], [1], ["set", [1]]),
        ([*range(30)], [*range(1, 30)], ["cut", 0, 1, []]),
        ([*range(30)], [*range(29)], ["cut", 29, 30, []]),
        ([*range(30)], [-1, *range(30)], ["cut", 0, 0, [-1]]),
        ([*range(30)], [*range(9), "a", "b", *range(12, 30)], ["cut", 9, 12, ["a", "b"]]),
        ([1] * 30, [1] * 29, ["cut", 29, 30, []]),
        ([*range(30)], [True, *range(2, 30)], ["cut", 0, 2, [True]]),
        ([0.0] * 9 + ["a"] * 20, [-0.0] + [0.0] * 8 + ["a"] * 19, ["cut", 0, 10, [-0.0] + [0.0] * 8]),
        ([*range(30)], [*range(3, 30), "a", "b"], ["cut", 0, 3, [], ["a", "b"]]),
        ([*range(30)], [*range(3, 29), "a"], ["set", [*range(3, 29), "a"]]),
        ([*range(30)], [], ["set", []]),
        ([1, *range(30)], [True, *range(30), 3], ["in", {"0": ["set", True]}, [3]]),
        ([{"s": "ab", "n": 1}], [{"s": "abc", "n": 1}], ["set", [{"s": "abc", "n": 1}]]),
        ([0, {"s": "ab", "n": 1}], [0, {"s": "abc", "n": 1}], ["in", {"1": ["in", {"s": ["add", "c"]}]}]),
        ({"a": 1, "b": [1]}, {"a": 1, "b": [1, 2]}, ["in", {"b": ["add", [2]]}]),
        ({"a": 1, "b": 2, "c": 3}, {"a": 1, "c": 3}, ["in", {"b": ["drop"]}]),
        ({"a": 1, "b": 2, "c": 3}, {"b": 2, "a": 1, "c": 3}, ["set", {"b": 2, "a": 1, "c": 3}]),
        ({"$": "tuple", "v": [1]}, {"$": "tuple", "v": [1, 2]}, ["in", {"v": ["add", [2]]}]),
    ],
)
def test_a_short_patch_tells_what_was_added_or_changed_inside(before: Any, after: Any, change: Any) -> None:
    """The log grows with the change, not with the value."""
    short = shorten({"x": before}, {"x": ["set", after]})
    assert repr(short) == repr({"x": change})
    assert repr(apply({"x": before}, short)) == repr({"x": after})


@pytest.mark.parametrize("wrap", [lambda tree: [tree, 0], lambda tree: {"a": tree, "b": 0}])
def test_a_patch_of_the_deepest_value_can_be_written(wrap: Any) -> None:
    """Each level of a change takes two of the patch, and a line of the log has no more levels than JSON may have."""
    before, after = 0, 1
    for _ in range(MAX_DEPTH - 1):
        before, after = wrap(before), wrap(after)
    short = shorten({"x": before}, {"x": ["set", after]})
    data = dumps(["a line", dict(short)])
    assert loads(data) == ["a line", short]
    assert same(apply({"x": before}, short), {"x": after})


@given(objects, objects)
def test_a_short_patch_says_the_same_in_no_more_words(before: Any, after: Any) -> None:
    """And can be said with whole values again."""
    patch = diff(before, after)
    short = shorten(before, patch)
    assert same(apply(before, short), apply(before, patch))
    assert lengthen(before, short).keys() == patch.keys()
    assert same(apply(before, lengthen(before, short)), apply(before, patch))


@given(st.lists(st.tuples(trees, trees), max_size=6))
def test_patches_one_by_one_and_all_together_come_to_the_same(pairs: Any) -> None:
    """Whatever is looked at in between stays as it was."""
    fields: dict[str, Any] = {"x": []}
    patches, seen = [], []
    lazily = Fields(fields)
    one_by_one: dict[str, Any] = fields
    for add, other in pairs:
        for value in ([*one_by_one["x"], add], [*one_by_one["x"], add, other]):
            patch = shorten(one_by_one, {"x": ["set", value]})
            one_by_one = apply(one_by_one, patch)
            patches.append(patch)
            lazily.change(patch)
        seen.append((lazily.tree, dumps(dict(lazily.tree))))
    assert same(apply_all(fields, patches), one_by_one)
    assert same(lazily.tree, one_by_one)
    assert fields == {"x": []}
    assert all(dumps(dict(tree)) == shown for tree, shown in seen)


@pytest.mark.parametrize(
    ("before", "change", "after"),
    [
        (None, ["add", [2]], [2]),
        ("text", ["add", [2]], [2]),
        ([1], ["add", "b"], "b"),
        (1, ["in", {"k": ["set", 1]}], {"k": 1}),
        ([1], ["in", {"k": ["set", 1]}], {"k": 1}),
        ([1], ["in", {"7": ["set", 1]}, [2]], [1, 2]),
        ([1], ["in", {"²": ["set", 1]}], {"²": 1}),
        ({"a": 1}, ["in", {"0": ["set", 1]}, [2]], [2]),
        ("text", ["cut", 0, 1, [2]], [2]),
        ([1], ["cut", 5, 7, [2]], [1, 2]),
        (None, ["cut", 5, 7, [], [2]], [2]),
    ],
)
def test_what_does_not_fit_any_more_becomes_the_value(before: Any, change: Any, after: Any) -> None:
    """A migration may have come between."""
    assert apply({"x": before}, {"x": change}) == {"x": after}


@given(trees, trees)
def test_same_is_an_equivalence_finer_than_pythons(one: Any, other: Any) -> None:
    """Of equal values of different types none is the same."""
    assert same(one, one)
    assert same(one, other) == same(other, one)
    assert not same(one, other) or one == other
    assert not same(True, 1)
    assert not same(1, 1.0)
    assert not same([0], [False])


@pytest.mark.parametrize(
    "change", [None, [], ["set"], ["set", 1, 2], ["cut", 0, 1], ["drop", 1], "drop", ["replace", 1], {}]
)
def test_a_malformed_change_is_refused(change: Any) -> None:
    """With the field in the error."""
    with pytest.raises(SerializationError, match=r"patch\.x"):
        apply({}, {"x": change})
