"""Reading what is large in a log."""

from __future__ import annotations

from collections.abc import Sequence

from flujo_async._log.large import named_blobs, with_values
from flujo_async._model.stored import Record
from flujo_async.abc.backend import StateBackend


async def read_values(backend: StateBackend, run_id: str, records: Sequence[Record]) -> Sequence[Record]:
    """Return records with the values of the blobs that they name; equal ones are read once, and shared.

    Raises:
        IntegrityError: a blob is missing or damaged.
    """
    named = named_blobs(records)
    return with_values(run_id, records, await backend.read_blobs(run_id, named)) if named else records
