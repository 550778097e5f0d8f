"""Whether a stored run is as it was written: its chain, its head, its snapshot, and the blobs that it names."""

from __future__ import annotations

from collections.abc import Mapping

from flujo_async._log.fold import Fold
from flujo_async._log.gradual import Gradual, each_of, fold_gradually, verify_gradually
from flujo_async._log.large import with_values
from flujo_async._log.snapshot import blobs_of, fold_from, snapshot_of
from flujo_async._model.state import TERMINAL
from flujo_async._model.stored import Snapshot, StoredRun
from flujo_async._model.summary import RunSummary
from flujo_async.errors import IntegrityError, SerializationError


def audit(run: StoredRun, blobs: Mapping[str, bytes], snapshot: Snapshot | None = None) -> Gradual[Fold]:
    """Return the state of a run whose log is whole and whose head fits it.

    Args:
        run: the run, with its whole log.
        blobs: the data of the blobs that its records name, by digest.
        snapshot: its snapshot, if it has one; one that cannot be read is none.

    Raises:
        IntegrityError: the chain is broken, a body is no fact, a blob is missing or damaged, or the head or the
            snapshot says something else.
    """
    run_id = run.summary.run_id
    yield from verify_gradually(run_id, run.records)
    records = with_values(run_id, run.records, blobs)
    if snapshot is None:
        fold = yield from fold_gradually(run_id, records)
    else:
        fold = yield from fold_gradually(run_id, records[: snapshot.seq])
        _check_snapshot(fold, snapshot, blobs)
        yield from each_of(records[snapshot.seq :], fold.extend)
    for what, told, found in (*_compared(run.summary, fold), *_counted(run.summary, len(run.signals))):
        if told != found:
            raise IntegrityError(f"the head says {what} {told!r}, and the log {found!r}", run_id=run_id, seq=fold.seq)
    return fold


def _check_snapshot(fold: Fold, snapshot: Snapshot, blobs: Mapping[str, bytes]) -> None:
    try:
        told = fold_from(snapshot, fold.run_id, {key: blobs[key] for key in blobs_of(snapshot) & blobs.keys()})
    except SerializationError:
        return  # nobody would believe it
    if snapshot_of(told) != snapshot_of(fold):
        raise IntegrityError("the snapshot says something else than the log", run_id=fold.run_id, seq=snapshot.seq)


def _compared(head: RunSummary, fold: Fold) -> list[tuple[str, object, object]]:
    """Return what both the head and the log tell, by name."""
    return [
        ("run_id", head.run_id, fold.run_id),
        ("last_seq", head.last_seq, fold.seq),
        ("pipeline_name", head.pipeline_name, fold.started.pipeline_name),
        ("pipeline_version", head.pipeline_version, fold.pipeline_version),
        ("pipeline_id", head.pipeline_id or fold.fingerprint, fold.fingerprint),
        ("metadata", head.metadata, fold.metadata),
        ("usage", head.usage, fold.usage),
        ("status", head.status, _expected_status(head, fold)),
        ("current_step_index", head.current_step_index, fold.current_step_index),
        ("parent_run_id", head.parent_run_id, fold.started.parent_run_id),
        ("error_message", head.error_message, fold.error_message),
    ]


def _counted(head: RunSummary, signals: int) -> list[tuple[str, int, int]]:
    """Return what the head tells of signals, and what there is."""
    return [("signals", head.signals, signals), ("signals_read", head.signals_read, min(head.signals_read, signals))]


def _expected_status(head: RunSummary, fold: Fold) -> str:
    """Return the status that the head is to have; where both have it right, that of the head."""
    is_queued = head.status == "pending" and fold.seq == 1
    is_parked = head.status == "paused" and fold.status not in TERMINAL  # a run is let go paused without a fact
    return head.status if is_queued or is_parked else fold.status
