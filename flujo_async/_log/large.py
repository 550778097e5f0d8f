"""What is large in a log, put back where the records name it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from flujo_async._codec.blobs import digests_in, value_of
from flujo_async._model.stored import Record
from flujo_async._model.tree import Json
from flujo_async.errors import IntegrityError, SerializationError


def named_blobs(records: Sequence[Record]) -> set[str]:
    """Return the digests of all blobs that records name."""
    return set[str]().union(*(digests_in(record.body) for record in records))


def with_values(run_id: str, records: Sequence[Record], data: Mapping[str, bytes]) -> Sequence[Record]:
    """Return records with the values of the blobs that they name; equal ones are shared.

    Raises:
        IntegrityError: a blob is missing or damaged.
    """
    values: dict[str, Json] = {}
    return [_with_values(run_id, record, data, values) for record in records]


def _with_values(run_id: str, record: Record, data: Mapping[str, bytes], values: dict[str, Json]) -> Record:
    digests = digests_in(record.body)
    for digest in digests - values.keys():
        values[digest] = _value(run_id, record.seq, digest, data.get(digest))
    return replace(record, values=values) if digests else record


def _value(run_id: str, seq: int, digest: str, data: bytes | None) -> Json:
    if data is None:
        raise IntegrityError(f"the blob {digest!r} is missing", run_id=run_id, seq=seq)
    try:
        return value_of(digest, data)
    except SerializationError as error:
        raise IntegrityError(str(error), run_id=run_id, seq=seq) from error
