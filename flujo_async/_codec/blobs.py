"""Large values, which stand beside the log and are named there by their digests."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

from flujo_async._codec.tree import PAYLOAD, TAG, dumps, loads
from flujo_async._model.stored import Blob
from flujo_async._model.tree import Json
from flujo_async.errors import SerializationError

LARGE: Final = 32 * 1024
"""From so many bytes on a value stands beside the log: about where one more look-up costs less than the copy."""

_BLOB: Final = "blob"
NAMES: Final = "blobs"
"""The first key of a line that names blobs: so it can be seen without reading the line."""

_BEGINNING: Final = b'{"blobs":['


def names_blobs(body: bytes) -> bool:
    """Return whether the body of a record names blobs."""
    return body.startswith(_BEGINNING)


def digests_in(body: bytes) -> set[str]:
    """Return the digests of the blobs that the body of a record names."""
    if not names_blobs(body):
        return set()
    named = body[len(_BEGINNING) :].partition(b"]")[0]  # what is damaged here is found by the hash of the record
    return {digest.strip(b'"').decode(errors="replace") for digest in named.split(b",")}


def extract(tree: Json, blobs: dict[str, Blob]) -> Json:
    """Return a tree whose large parts are named by their digests, and add these parts to ``blobs``.

    The smallest parts that are large by themselves are taken out, so that one that stays while others change is stored
    once.
    """
    if not isinstance(tree, str | dict | list) or len(data := dumps(tree)) < LARGE:
        return tree
    if not isinstance(tree, str):
        smaller = _extract_inside(tree, blobs)
        if smaller != tree:
            return smaller
    return _name(data, blobs)


def restore(tree: Json, values: Mapping[str, Json]) -> Json:
    """Return the tree that ``extract`` was given.

    Args:
        tree: what it returned.
        values: the trees of the parts that were taken out, by digest; equal ones are shared.

    Raises:
        SerializationError: one of them is missing.
    """
    if isinstance(tree, list):
        return [restore(item, values) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if tree.get(TAG) != _BLOB:
        return {key: restore(item, values) for key, item in tree.items()}
    digest = tree.get(PAYLOAD)
    if not isinstance(digest, str) or digest not in values:
        raise SerializationError(f"the blob {digest!r} is missing")
    return values[digest]


def value_of(digest: str, data: bytes) -> Json:
    """Return the tree that a blob holds.

    Raises:
        SerializationError: the data are not those of the digest.
    """
    if sha256(data).hexdigest() != digest:
        raise SerializationError(f"the blob {digest!r} is damaged: its content does not fit its digest")
    return loads(data)


def _extract_inside(tree: dict[str, Json] | list[Json], blobs: dict[str, Blob]) -> Json:
    if isinstance(tree, list):
        return [extract(item, blobs) for item in tree]
    return {key: extract(item, blobs) for key, item in tree.items()}


def _name(data: bytes, blobs: dict[str, Blob]) -> Json:
    digest = sha256(data).hexdigest()
    blobs[digest] = Blob(digest, data)
    named: dict[str, Any] = {TAG: _BLOB, PAYLOAD: digest}
    return named
