"""Runs that leave a store as a file, and come into another one."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from flujo_async._log.audit_log import marked
from flujo_async._log.fork import check_past, fork
from flujo_async._log.gradual import fold_gradually
from flujo_async._log.large import with_values
from flujo_async._log.run_file import dump_run, load_run
from flujo_async._model.facts import RunForked
from flujo_async._model.ids import check_run_id
from flujo_async._model.stored import NewRun
from flujo_async._model.transition import missing
from flujo_async.abc.backend import StateBackend
from flujo_async.abc.logs import blobs_of
from flujo_async.abc.pace import in_turns
from flujo_async.abc.shield import finish
from flujo_async.errors import InvalidArgument, RunExists


async def export_run(backend: StateBackend, run_id: str) -> bytes:
    """Return a run as a file; see ``Flujo.export_run``."""
    run = await backend.load(check_run_id(run_id))
    if run is None:
        raise missing(run_id)
    return await in_turns(dump_run(run, await blobs_of(backend, run_id, run.records)))


async def import_run(backend: StateBackend, data: bytes, run_id: str | None, now: datetime) -> str:
    """Create the run that a file has, and return its id; see ``Flujo.import_run``.

    Args:
        backend: where.
        data: the file.
        run_id: the name of the new run; ``None`` is the one that it has.
        now: the present moment.
    """
    file = await in_turns(load_run(data))
    head, records, signals = replace(file.run.summary, lease=None), file.run.records, file.run.signals
    if run_id is not None and check_run_id(run_id) != head.run_id:
        blobs = {blob.digest: blob.data for blob in file.blobs}
        whole = with_values(head.run_id, records, blobs)
        fold = await in_turns(fold_gradually(head.run_id, whole))
        check_past(fold, whole)
        forked = RunForked(at=now, run_id=run_id, source_run_id=head.run_id)  # which has nothing large
        head, record, _ = fork(head, fold, forked)
        records, signals = (*records, record), ()
    else:
        records = marked(records)
    check_run_id(head.run_id)
    try:
        await finish(backend.create_run(NewRun(head, records, file.blobs, signals=signals)))
    except RunExists as error:
        raise InvalidArgument(
            f"there is a run {head.run_id!r} already: delete it, or give the imported one another name"
        ) from error
    return head.run_id
