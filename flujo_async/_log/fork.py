"""How the log of a run goes on as that of another run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flujo_async._log.chain import seal
from flujo_async._log.fold import Fold
from flujo_async._model.facts import RunForked
from flujo_async._model.stored import Blob, Record
from flujo_async._model.summary import RunSummary


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
