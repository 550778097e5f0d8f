"""Undoing what a run did, when it fails or is cancelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from flujo_async._codec.error_record import add_note, repr_of
from flujo_async._codec.exceptions import decode_error, encode_error
from flujo_async._codec.values import Codec
from flujo_async._log.keys import compensation_of
from flujo_async._log.views import step_record
from flujo_async._model.facts import RollbackStarted, StepCompleted
from flujo_async._runtime.attempt import StepCall
from flujo_async._runtime.contexts import main_scope
from flujo_async._runtime.execution import Execution, Fault, Value
from flujo_async._runtime.misread import reading


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run is going to end.

    Attributes:
        status: failed or cancelled.
        error: what failed it.
        reason: why it was cancelled.
        keys: the steps whose failure ended it.
    """

    status: Literal["failed", "cancelled"]
    error: Exception | None = None
    reason: str = ""
    keys: Sequence[str] = ()

    @classmethod
    def again(cls, fact: RollbackStarted, codec: Codec) -> Ending:
        """Return the ending that was recorded when its rollback began."""
        error = None if fact.error is None else decode_error(codec, fact.error)
        return cls(fact.status, error, fact.reason, fact.keys)


async def roll_back(execution: Execution, ending: Ending) -> Exception | None:
    """Undo the completed steps that have a compensation, the newest first.

    One that fails does not keep the others from running.

    Returns:
        What to end the run with if a compensation failed for good.
    """
    journal = execution.journal
    todo = [key for key in reversed(journal.fold.outcomes) if _is_undoable(execution, key)]
    if not todo:
        return None
    if journal.fold.rollback is None:
        error = None if ending.error is None else encode_error(execution.codec, ending.error)
        now = execution.clock.now()
        await journal.commit(
            RollbackStarted(at=now, status=ending.status, error=error, reason=ending.reason, keys=tuple(ending.keys))
        )
    failures = [failure for key in todo if (failure := await _undo(execution, key)) is not None]
    return _trouble(ending, failures)


def _is_undoable(execution: Execution, key: str) -> bool:
    return key in execution.to_undo and isinstance(execution.journal.fold.outcomes.get(key), StepCompleted)


async def _undo(execution: Execution, key: str) -> Exception | None:
    fold = execution.journal.fold
    outcome = fold.outcomes[key]
    undo_key = compensation_of(key)
    done = fold.outcomes.get(undo_key)
    if isinstance(done, StepCompleted) or not isinstance(outcome, StepCompleted):
        return None
    if done is not None:
        return decode_error(execution.codec, done.error)
    compensation = execution.to_undo[key].policy.compensate
    assert compensation is not None
    scope = main_scope(fold.context.tree)
    call = StepCall(execution, compensation, undo_key, Value(outcome.output, key), scope)
    with reading():
        compensates = step_record(fold, outcome, execution.codec)
    await execution.enter()
    try:
        await call.perform(compensates=compensates)
    except Fault as fault:
        return fault.error
    finally:
        execution.leave()
    return None


def _trouble(ending: Ending, failures: Sequence[Exception]) -> Exception | None:
    if not failures:
        return None
    if ending.error is None:
        add_note(failures[0], f"a compensation, after the run was cancelled: {ending.reason}")
        return failures[0]
    for failure in failures:
        add_note(ending.error, f"a compensation failed as well: {repr_of(failure)}")
    return ending.error
