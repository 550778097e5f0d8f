"""Giving up a run without having gone on with it."""

from __future__ import annotations

from flujo_async._model.lease import Lease
from flujo_async._model.stored import RunQuery
from flujo_async.abc.backend import StateBackend


async def give_back(backend: StateBackend, lease: Lease) -> None:
    """Give up a lease; the run wants to be claimed when it wanted that before: nothing else may ever wake it."""
    heads = await backend.query_runs(RunQuery(run_id=lease.run_id))
    await backend.release(lease, wake_at=heads[0].wake_at if heads else None)
