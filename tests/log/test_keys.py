"""Structural keys."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flujo_async._log.keys import child, escape, is_top_level, item_source, number_repeated, split_source
from tests.log.made import text


@pytest.mark.parametrize(
    ("path", "label", "key"), [("", "a", "a"), ("a", "b", "a/b"), ("map_each", 0, "map_each/0"), ("", 0, "0")]
)
def test_a_key_is_a_path(path: str, label: str | int, key: str) -> None:
    """The outermost label stands alone."""
    assert child(path, label) == key
    assert is_top_level(key) == (path == "")


@pytest.mark.parametrize(
    ("labels", "numbered"),
    [
        ([], []),
        (["a"], ["a"]),
        (["a", "b"], ["a", "b"]),
        (["a", "b", "a"], ["a@1", "b", "a@3"]),
        (["a", "a", "a"], ["a@1", "a@2", "a@3"]),
    ],
)
def test_what_occurs_twice_gets_its_position(labels: list[str], numbered: list[str]) -> None:
    """And what occurs once does not, so that an element added elsewhere does not rename it."""
    assert number_repeated(labels) == numbered


@given(st.lists(st.sampled_from("abcd"), max_size=12))
def test_numbered_labels_are_unique(labels: list[str]) -> None:
    """Whatever repeats."""
    numbered = number_repeated(labels)
    assert len(set(numbered)) == len(labels)
    assert [label.partition("@")[0] for label in numbered] == labels


@given(text, text)
def test_escaped_labels_are_one_label_each(one: str, other: str) -> None:
    """Different texts stay different, and none looks like a path."""
    assert "/" not in escape(one)
    assert (escape(one) == escape(other)) == (one == other)


@given(st.sampled_from(["", "a", "a@2", "map_each/0/a"]), st.integers(0, 10**6))
def test_the_source_of_an_item_can_be_taken_apart(source: str, index: int) -> None:
    """The key, and the place in its output."""
    item = item_source(source, index)
    assert item is not None
    assert split_source(item) == (source, index)
    assert split_source(source) == (source, None)
    assert item_source(item, 0) is None
    assert item_source(None, index) is None
