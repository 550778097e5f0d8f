"""Reading what is large in a log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flujo_async._codec.blobs import digests_in, value_of
from flujo_async._model.stored import Record
from flujo_async._model.tree import Json
from flujo_async.abc.backend import StateBackend
from flujo_async.errors import IntegrityError, SerializationError


async def with_values(backend: StateBackend, run_id: str, records: Sequence[Record]) -> Sequence[Record]:
    """Return records with the values of the blobs that they name; equal ones are read once, and shared.

    Raises:
        IntegrityError: a blob is missing or damaged.
    """
    named = {record.seq: digests for record in records if (digests := digests_in(record.body))}
    if not named:
        return records
    data = await backend.read_blobs(run_id, set[str]().union(*named.values()))
    values: dict[str, Json] = {}
    for seq, digests in named.items():
        for digest in digests - values.keys():
            values[digest] = _value(run_id, seq, digest, data.get(digest))
    return [replace(record, values=values) if record.seq in named else record for record in records]


def _value(run_id: str, seq: int, digest: str, data: bytes | None) -> Json:
    if data is None:
        raise IntegrityError(f"the blob {digest!r} is missing", run_id=run_id, seq=seq)
    try:
        return value_of(digest, data)
    except SerializationError as error:
        raise IntegrityError(str(error), run_id=run_id, seq=seq) from error
