"""How the log of a run goes on as that of another run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flujo_async._codec.facts import read_fact
from flujo_async._log.chain import seal
from flujo_async._log.fold import Fold
from flujo_async._model.facts import RollbackStarted, RunForked
from flujo_async._model.stored import Blob, Record
from flujo_async._model.summary import RunSummary
from flujo_async.errors import InvalidArgument


def check_past(fold: Fold, records: Sequence[Record]) -> None:
    """Check that a past can be shared: what comes after one that was undone would rest on what is no more.

    Args:
        fold: the past.
        records: the log of it.

    Raises:
        InvalidArgument: it was undone, or that had begun.
    """
    if fold.rollback is None:
        return
    began = next(record.seq for record in reversed(records) if isinstance(read_fact(record), RollbackStarted))
    raise InvalidArgument(
        f"run {fold.run_id!r} is undone from fact {began} on, and a fork of that would go on from results that are no "
        f"more: fork(at={began - 1}) has them as they were; to have them done again, fork from before, or redrive it"
    )


def fork(source: RunSummary, fold: Fold, forked: RunForked) -> tuple[RunSummary, Record, Sequence[Blob]]:
    """Return the head of a new run, the first record of its own, which follows those of its source, and its blobs.

    Args:
        source: the head of the run that it shares the past of.
        fold: that past; afterwards it is the state of the new run.
        forked: the first fact of its own.
    """
    record, blobs = seal(forked, after=fold.seq, prev_hash=fold.hash)
    fold.apply(forked, record)
    head = replace(
        source,
        run_id=forked.run_id,
        pipeline_version=fold.pipeline_version,
        status="pending",
        created_at=forked.at,
        updated_at=forked.at,
        last_seq=fold.seq,
        current_step_index=fold.current_step_index,
        metadata=fold.metadata,
        error_message=None,
        waiting_for=[],
        parent_run_id=None,
        queue=None,
        wake_at=None,
        signals=0,
        signals_read=0,
        lease=None,
        pipeline_id=fold.fingerprint,
        is_background=False,
        usage=fold.usage,
    )
    return head, record, blobs
