"""Reading what is large in a log."""

from __future__ import annotations

from collections.abc import Sequence

from flujo_async._log.large import named_blobs, with_values
from flujo_async._model.stored import Record
from flujo_async.abc.backend import StateBackend
from flujo_async.abc.logs import blobs_of


async def read_values(backend: StateBackend, run_id: str, records: Sequence[Record]) -> Sequence[Record]:
    """Return records with the values of the blobs that they name; equal ones are read once, and shared.

    Raises:
        IntegrityError: a blob is missing or damaged.
        RunNotFound: the run was deleted since the records were read.
    """
    if not named_blobs(records):
        return records
    return with_values(run_id, records, await blobs_of(backend, run_id, records))
