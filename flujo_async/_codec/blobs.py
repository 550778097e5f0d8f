"""Large values, which stand beside the log and are named there by their digests."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, TypeAlias

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

Blobs: TypeAlias = dict[str, Blob | None]
"""Blobs by digest; ``None`` for those that were handed out before."""

_NONE: Final = frozenset[str]()


def digests_in(body: bytes) -> AbstractSet[str]:
    """Return the digests of the blobs that the body of a record names."""
    if not body.startswith(_BEGINNING):
        return _NONE  # the same for all: a long log is full of records that name nothing
    named = body[len(_BEGINNING) :].partition(b"]")[0]  # what is damaged here is found by the hash of the record
    return {digest.strip(b'"').decode(errors="replace") for digest in named.split(b",")}


@dataclass(slots=True)
class LastText:
    """The large text that a log has named last, and its digest.

    The output of the last step is the run's, and a step may return the text that it was given: what is the same object
    is not encoded and hashed again.
    """

    text: str | None = None
    digest: str = ""


def extract(tree: Json, blobs: Blobs, last: LastText | None = None) -> Json:
    """Return a tree whose large parts are named by their digests, and add these parts to ``blobs``.

    The smallest parts that are large by themselves are taken out, so that one that stays while others change is stored
    once.

    Args:
        tree: any tree.
        blobs: the parts by digest; ``None`` for the text that is ``last``, which was taken out before.
        last: is kept up to date.
    """
    if isinstance(tree, str) and last is not None and tree is last.text:
        blobs.setdefault(last.digest)
        return _named(last.digest)
    # A context may have a field of any name, so it may look like the name of a blob; then it has to be one.
    is_like_one = isinstance(tree, dict) and tree.get(TAG) == _BLOB
    if not isinstance(tree, str | dict | list) or (len(data := dumps(tree)) < LARGE and not is_like_one):
        return tree
    if not isinstance(tree, str) and not is_like_one:
        smaller = _extract_inside(tree, blobs, last)
        if smaller != tree:
            return smaller
    digest = sha256(data).hexdigest()
    blobs[digest] = Blob(digest, data)
    if isinstance(tree, str) and last is not None:
        last.text, last.digest = tree, digest
    return _named(digest)


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


def _extract_inside(tree: dict[str, Json] | list[Json], blobs: Blobs, last: LastText | None) -> Json:
    if isinstance(tree, list):
        return [extract(item, blobs, last) for item in tree]
    return {key: extract(item, blobs, last) for key, item in tree.items()}


def _named(digest: str) -> Json:
    named: dict[str, Any] = {TAG: _BLOB, PAYLOAD: digest}
    return named
