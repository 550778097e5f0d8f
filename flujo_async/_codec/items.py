"""The items of an encoded collection, in the order in which they are stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flujo_async._codec.tree import PAYLOAD, TAG
from flujo_async._model.tree import Json
from flujo_async.errors import SerializationError


def item_trees(tree: Json) -> Sequence[Json]:
    """Return the encoded items that iterating the value of ``tree`` yields.

    The order is that of the stored form: a set has an order there that every process agrees on.

    Raises:
        SerializationError: it is not a list, tuple, set or frozenset.
    """
    match tree:
        case list():
            return tree
        case {"$": "tuple" | "set" | "frozenset", "v": list(items)}:
            return items
        case _:
            raise SerializationError("not a collection")


def entry_trees(tree: Json) -> Mapping[str, Json]:
    """Return the encoded values of the dictionary of ``tree``, as far as their keys are text.

    Raises:
        SerializationError: it is no dictionary.
    """
    match tree:
        case {"$": "dict", "v": list(parts)}:
            entries = zip(parts[::2], parts[1::2], strict=True)
            return {key: value for key, value in entries if isinstance(key, str)}
        case dict() if TAG not in tree:
            return tree
        case _:
            raise SerializationError("not a dictionary")


def mapping_tree(trees: dict[str, Json]) -> Json:
    """Return the encoded dictionary whose values are ``trees``."""
    if TAG not in trees:
        return trees
    return {TAG: "dict", PAYLOAD: [part for entry in trees.items() for part in entry]}
