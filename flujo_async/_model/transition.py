"""How a verb of the port changes the head of a run: the same on every backend that computes it in Python."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from flujo_async._model.lease import Lease
from flujo_async._model.quick import changed
from flujo_async._model.state import RESTING, Waiting
from flujo_async._model.stored import NewRun, Prefix, RunUpdate
from flujo_async._model.summary import RunSummary
from flujo_async.errors import RunNotFound, SequenceConflict, StaleLease


def created(run: NewRun, owner: str | None, ttl: timedelta) -> RunSummary:
    """Return the head of a run as ``create_run`` stores it."""
    summary, signals = run.summary, len(run.signals)
    lease = None if owner is None else Lease(summary.run_id, 1, owner, summary.created_at + ttl)
    attempts, signals_read = 0 if lease is None else lease.token, min(summary.signals_read, signals)
    return changed(summary, attempts=attempts, signals=signals, signals_read=signals_read, lease=lease)


def claimed(summary: RunSummary, owner: str, now: datetime, ttl: timedelta) -> tuple[RunSummary, Lease]:
    """Return the head of a run that ``owner`` has just claimed, and the lease."""
    # Every claim counts an attempt and nothing else does, so the number of attempts is the last token.
    token = summary.attempts + 1
    lease = Lease(summary.run_id, token, owner, now + ttl)
    return changed(summary, attempts=token, lease=lease), lease


def renewed(summary: RunSummary, lease: Lease, expires_at: datetime) -> tuple[RunSummary, Lease]:
    """Return the head of a run whose lease, which ``lease`` is, lasts until ``expires_at``, and that lease."""
    longer = changed(lease, expires_at=expires_at)
    return changed(summary, lease=longer), longer


def released(
    summary: RunSummary, wake_at: datetime | None, signals_read: int | None, waiting_for: Sequence[Waiting] | None
) -> RunSummary:
    """Return the head without a lease, to be claimed from ``wake_at`` on; ``paused`` if it waits for something."""
    return changed(
        summary,
        lease=None,
        wake_at=wake_at,
        signals_read=summary.signals_read if signals_read is None else signals_read,
        status=summary.status if waiting_for is None else "paused",
        waiting_for=summary.waiting_for if waiting_for is None else list(waiting_for),
    )


def signalled(summary: RunSummary) -> RunSummary:
    """Return the head of a run that one more signal was posted to."""
    return changed(summary, signals=summary.signals + 1)


def advanced(summary: RunSummary, last_seq: int, update: RunUpdate) -> RunSummary:
    """Return the head after an append; a resting run gives up its lease."""
    change = update.change
    return changed(
        summary,
        last_seq=last_seq,
        status=change.status,
        updated_at=update.updated_at,
        current_step_index=update.current_step_index,
        pipeline_version=summary.pipeline_version if change.pipeline_version is None else change.pipeline_version,
        error_message=change.error_message,
        waiting_for=list(change.waiting_for),
        wake_at=change.wake_at,
        signals_read=summary.signals_read if change.signals_read is None else change.signals_read,
        metadata=summary.metadata if change.metadata is None else change.metadata,
        pipeline_id=summary.pipeline_id if change.pipeline_id is None else change.pipeline_id,
        usage=summary.usage if change.usage is None else change.usage,
        lease=None if change.status in RESTING else summary.lease,
    )


def is_held(summary: RunSummary, lease: Lease) -> bool:
    """Tell whether ``lease`` is the one that the run has now, expired or not."""
    # The owner counts as well: a run that was deleted and created anew starts again with token 1.
    current = summary.lease
    return current is not None and (current.token, current.owner) == (lease.token, lease.owner)


def check_append(summary: RunSummary, lease: Lease, expected_seq: int) -> None:
    """Let an append go ahead, or not.

    Raises:
        StaleLease: the lease is not the run's; this comes first, since its holder has to stop.
        SequenceConflict: the log is not where the caller believes.
    """
    if not is_held(summary, lease):
        raise lost(lease)
    if summary.last_seq != expected_seq:
        raise SequenceConflict(f"run {lease.run_id!r}: the log is at seq {summary.last_seq}, not {expected_seq}")


def check_prefix(prefix: Prefix, last_seq: int, found: str | None) -> None:
    """Let a fork share the log of a run that is at ``last_seq`` and has the hash ``found`` at the prefix's, or not.

    Raises:
        SequenceConflict: the log ends before, or is another one.
    """
    if prefix.last_seq > last_seq:
        raise SequenceConflict(f"run {prefix.run_id!r}: the log is at seq {last_seq}, before {prefix.last_seq}")
    if found != prefix.hash:
        raise SequenceConflict(f"run {prefix.run_id!r} was deleted, and created anew, since it was looked at")


def lost(lease: Lease) -> StaleLease:
    """Return the error for a lease that is not, or no longer, its run's."""
    return StaleLease(f"run {lease.run_id!r}: the lease of {lease.owner!r} (token {lease.token}) is lost")


def missing(run_id: str) -> RunNotFound:
    """Return the error for a run that is not, or no longer, in the store."""
    return RunNotFound(f"there is no run {run_id!r}", run_id=run_id)
