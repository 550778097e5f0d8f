"""Whether a stored run is as it was written: its chain, its head, and the blobs that it names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256

from flujo_async._codec.blobs import digests_in
from flujo_async._log.chain import verify
from flujo_async._log.fold import Fold, fold_log
from flujo_async._model.state import TERMINAL
from flujo_async._model.stored import Record, StoredRun
from flujo_async._model.summary import RunSummary
from flujo_async.errors import IntegrityError


def audit(run: StoredRun) -> Fold:
    """Return the state of a run whose log is whole and whose head fits it.

    Raises:
        IntegrityError: the chain is broken, a body is no fact, or the head says something else.
    """
    run_id = run.summary.run_id
    verify(run_id, run.records)
    fold = fold_log(run_id, run.records)
    for what, told, found in _compared(run.summary, fold):
        if told != found:
            raise IntegrityError(f"the head says {what} {told!r}, and the log {found!r}", run_id=run_id, seq=fold.seq)
    return fold


def named_blobs(records: Iterable[Record]) -> dict[str, int]:
    """Return the digests of all blobs that records name, with the ``seq`` of the first that does."""
    named: dict[str, int] = {}
    for record in records:
        for digest in sorted(digests_in(record.body)):
            named.setdefault(digest, record.seq)
    return named


def check_blobs(run_id: str, named: Mapping[str, int], found: Mapping[str, bytes]) -> None:
    """Check that the blobs that records name are there, and are what they were.

    Raises:
        IntegrityError: one is missing, or has another digest.
    """
    for digest, seq in named.items():
        if digest not in found:
            raise IntegrityError(f"the blob {digest} is missing", run_id=run_id, seq=seq)
        if sha256(found[digest]).hexdigest() != digest:
            raise IntegrityError(f"the blob {digest} has another content", run_id=run_id, seq=seq)


def _compared(head: RunSummary, fold: Fold) -> list[tuple[str, object, object]]:
    """Return what both the head and the log tell, by name."""
    return [
        ("run_id", head.run_id, fold.run_id),
        ("last_seq", head.last_seq, fold.seq),
        ("pipeline_name", head.pipeline_name, fold.started.pipeline_name),
        ("pipeline_version", head.pipeline_version, fold.pipeline_version),
        ("status", head.status, _expected_status(head, fold)),
        ("current_step_index", head.current_step_index, fold.current_step_index),
    ]


def _expected_status(head: RunSummary, fold: Fold) -> str:
    """Return the status that the head is to have; where both have it right, that of the head."""
    is_queued = head.status == "pending" and fold.seq == 1
    is_parked = head.status == "paused" and fold.status not in TERMINAL  # a run is let go paused without a fact
    return head.status if is_queued or is_parked else fold.status
