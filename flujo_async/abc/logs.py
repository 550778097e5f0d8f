"""The log of a run, read for those who have none of its definitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from flujo_async._codec.plain import decode_plain
from flujo_async._codec.values import Codec
from flujo_async._log.chain import verify
from flujo_async._log.fold import Fold, fold_log
from flujo_async._log.large import named_blobs, with_values
from flujo_async._log.views import step_records, workflow_state
from flujo_async._model.entry import Entry
from flujo_async._model.state import StepRecord, StepStatus
from flujo_async._model.stored import Record, StoredRun
from flujo_async._model.summary import RunSummary
from flujo_async.abc.known_runs import of_head, usage_dict
from flujo_async.abc.verbs import Verbs
from flujo_async.errors import RunNotFound

STATUSES: Final[Mapping[StepStatus, str]] = {
    StepStatus.PENDING: "pending",
    StepStatus.RUNNING: "running",
    StepStatus.SUCCEEDED: "completed",
    StepStatus.FAILED: "failed",
    StepStatus.CANCELLED: "cancelled",
    StepStatus.SKIPPED: "skipped",
}
"""How the state API calls what became of a step."""

_MILLISECONDS: Final = 1000


@dataclass(frozen=True, slots=True)
class ReadLog:
    """The whole log of a run.

    Attributes:
        head: the head of the run.
        fold: the state of the log; where the head knows better whether it is queued or paused, as the head says.
        records: all of it, with the values of its blobs.
    """

    head: RunSummary
    fold: Fold
    records: Sequence[Record]


async def read_log(store: Verbs, run_id: str) -> ReadLog | None:
    """Return the log of a run, verified; ``None`` if nobody has driven such a run.

    Raises:
        IntegrityError: it is broken.
    """
    stored = await store.load(run_id)
    if stored is None:
        return None
    try:
        return log_of(stored, await blobs_of(store, run_id, stored.records))
    except RunNotFound:
        return None


async def blobs_of(store: Verbs, run_id: str, records: Sequence[Record]) -> Mapping[str, bytes]:
    """Return the blobs that records of a run name, by digest.

    Raises:
        RunNotFound: the run was deleted since the records were read, and the blobs went with it.
    """
    named = named_blobs(records)
    found = await store.read_blobs(run_id, named) if named else {}
    if len(found) < len(named):
        last = await store.read_events(run_id, after=records[-1].seq - 1, limit=1)
        if [record.hash for record in last] != [records[-1].hash]:
            raise RunNotFound(f"run {run_id!r} was deleted meanwhile", run_id=run_id)
        found = await store.read_blobs(run_id, named)  # it may have been deleted, and imported again, in between
    return found


async def read_values(store: Verbs, run_id: str, records: Sequence[Record]) -> Sequence[Record]:
    """Return records with the values of the blobs that they name; equal ones are read once, and shared.

    Raises:
        IntegrityError: a blob is missing or damaged.
        RunNotFound: the run was deleted since the records were read.
    """
    if not named_blobs(records):
        return records
    return with_values(run_id, records, await blobs_of(store, run_id, records))


def log_of(stored: StoredRun, blobs: Mapping[str, bytes]) -> ReadLog:
    """Return the log of a run that was loaded from its first record on, verified.

    Args:
        stored: the run.
        blobs: what its records name, by digest.

    Raises:
        IntegrityError: it is broken.
    """
    run_id = stored.summary.run_id
    verify(run_id, stored.records)
    records = with_values(run_id, stored.records, blobs)
    fold = fold_log(run_id, records)
    fold.hear(stored.summary)
    return ReadLog(stored.summary, fold, records)


def state_of(log: ReadLog) -> dict[str, Any]:
    """Return the state of a run, with the keys of lists, and of ``WorkflowState``, whose meaning counts."""
    state = workflow_state(log.fold, Codec.lenient())
    own = {name: getattr(state, name) for name in type(state).model_fields}
    listed = of_head(log.head).as_dict()
    told = {name: listed[name] for name in ("usage", "waiting_for", "updated_at")}
    return {**listed, **own, **told, "step_history": list(map(_past, state.step_history))}


def _past(record: StepRecord) -> dict[str, Any]:
    own = {item.name: getattr(record, item.name) for item in fields(record)}
    return {**own, "status": STATUSES[record.status], "usage": usage_dict(record.usage)}


def steps_of(log: ReadLog) -> list[dict[str, Any]]:
    """Return the steps of a run, in the order of their completion, and then those that are not done."""
    records = step_records(log.fold, Codec.lenient())
    return [_step(record, place) for place, record in enumerate(records)]


def _step(record: StepRecord, place: int) -> dict[str, Any]:
    return {
        "step_name": record.name,
        "step_index": place,
        "status": STATUSES[record.status],
        "output": record.output,
        "raw_response": None,
        "cost_usd": float(record.usage.cost),
        "token_counts": record.usage.tokens,
        "execution_time_ms": None if record.duration is None else record.duration * _MILLISECONDS,
        "created_at": record.finished_at or record.started_at,
        "key": record.key,
        "attempts": record.attempts,
        "error": record.error,
        "input": record.input,
        "started_at": record.started_at,
        "finished_at": record.finished_at,
    }


def saved_step(entry: Entry) -> dict[str, Any]:
    """Return a step that was saved by hand; what other keys say the same is known as well."""
    body = decode_plain(entry.body, at="step_data")

    def get(*names: str) -> Any:
        return next((body[name] for name in names if body.get(name) is not None), None)

    tokens = get("token_counts", "tokens") or 0
    return {
        "step_name": body["step_name"],
        "step_index": body.get("step_index") or 0,
        "status": get("status") or "completed",
        "output": get("output"),
        "raw_response": get("raw_response"),
        "cost_usd": float(get("cost_usd", "cost") or 0),
        "token_counts": tokens if isinstance(tokens, int) else sum(tokens.values()),
        "execution_time_ms": get("execution_time_ms", "duration_ms"),
        "created_at": entry.created_at,
        "key": entry.key,
        "attempts": get("attempts") or 1,
        "error": get("error", "error_message"),
        "input": get("input"),
        "started_at": get("started_at", "start_time"),
        "finished_at": get("finished_at", "end_time"),
    }


def with_saved(steps: Sequence[dict[str, Any]], saved: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the steps of a log and those that were saved: these come after, or in place of what has their key."""
    by_key = {step["key"]: step for step in saved}
    own = [{**by_key.pop(step["key"], step), "step_index": step["step_index"]} for step in steps]
    return own + sorted(by_key.values(), key=lambda step: (step["step_index"], step["created_at"], step["key"]))
