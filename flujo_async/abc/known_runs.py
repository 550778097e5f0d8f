"""One notion of a run for all lists: what a runtime has driven, and what callers have saved by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from flujo_async._codec.plain import decode_plain, encode_plain
from flujo_async._model.entry import Entry, EntryKind, EntryQuery, by_run, entry_id
from flujo_async._model.page import page
from flujo_async._model.selection import contains, newest_first
from flujo_async._model.state import TERMINAL, RunStatus, check_status
from flujo_async._model.stored import RunQuery
from flujo_async._model.summary import RunSummary
from flujo_async._model.tree import is_json
from flujo_async._model.usage import NO_USAGE, Usage
from flujo_async.abc.verbs import Verbs

RUN_START: Final = "start"
"""The key of what ``save_run_start`` keeps."""

RUN_END: Final = "end"
"""The key of what ``save_run_end`` keeps."""

SAVED_KINDS: Final[tuple[EntryKind, ...]] = ("state", "run")
"""What makes a run known that nobody has driven."""

_MILLISECOND: Final = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownRun:
    """A run, as all lists show it; ``as_dict`` has the same keys, and two more."""

    run_id: str
    pipeline_id: str
    pipeline_name: str
    pipeline_version: str
    current_step_index: int
    status: RunStatus
    created_at: datetime
    updated_at: datetime
    total_steps: int
    error_message: str | None
    execution_time_ms: float | None
    memory_usage_mb: float | None
    metadata: Mapping[str, Any]
    is_background_task: bool
    parent_run_id: str | None
    task_id: str | None
    background_error: str | None
    total_cost: float
    usage: dict[str, Any]
    waiting_for: list[dict[str, Any]]
    version: int

    def as_dict(self) -> dict[str, Any]:
        """Return it with ``start_time`` and, once it has ended, ``end_time``."""
        end_time = self.updated_at if self.status in TERMINAL else None
        own = {item.name: getattr(self, item.name) for item in fields(self)}
        return {**own, "metadata": dict(self.metadata), "start_time": self.created_at, "end_time": end_time}


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownRunQuery:
    """Which runs a list shows; ``None``, ``""`` and ``{}`` mean any.

    Attributes:
        since: only runs whose ``updated_at`` is this moment or later.
        order: by which moment, newest first; ties by ascending ``run_id``.

    Raises:
        InvalidArgument: an unknown status, a negative number, or text that is not Unicode.
        SerializationError: metadata that cannot be stored.
    """

    status: str | None = None
    pipeline_id: str | None = None
    pipeline_name: str | None = None
    parent_run_id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    is_background: bool | None = None
    since: datetime | None = None
    order: Literal["created_at", "updated_at"] = "created_at"
    limit: int | None = None
    offset: int = 0

    def __post_init__(self) -> None:
        encode_plain(self.metadata, at="metadata_filter")
        self._of_heads({})

    def of_heads(self) -> RunQuery:
        """Return as much of it as the port can be asked."""
        return self._of_heads(self.metadata)

    def _of_heads(self, metadata: Mapping[str, Any]) -> RunQuery:
        return RunQuery(
            status=check_status(self.status) if self.status else None,
            pipeline_name=self.pipeline_name,
            parent_run_ids=frozenset({self.parent_run_id}) if self.parent_run_id else None,
            metadata=metadata,
            limit=self.limit,
            offset=self.offset,
        )

    @property
    def is_of_heads(self) -> bool:
        """Whether the port can be asked all of it."""
        is_plain = not self.pipeline_id and self.is_background is None and self.since is None
        return is_plain and self.order == "created_at" and is_json(dict(self.metadata))


async def known_runs(store: Verbs, query: KnownRunQuery) -> list[KnownRun]:
    """Return what a list shows, from the verbs of the port."""
    saved = by_run(await _saved(store, None))
    if not saved and query.is_of_heads:
        return [of_head(head) for head in await store.query_runs(query.of_heads())]
    driven = [of_head(head) for head in await store.query_runs(RunQuery())]
    heads = {run.run_id for run in driven}
    by_hand = [of_entries(entries) for run_id, entries in saved.items() if run_id not in heads]
    return _select([*driven, *by_hand], query)


async def known_run(store: Verbs, run_id: str) -> KnownRun | None:
    """Return one run; ``None`` if nobody has driven or saved it."""
    for head in await store.query_runs(RunQuery(run_id=run_id)):
        return of_head(head)
    saved = await _saved(store, run_id)
    return of_entries(saved) if saved else None


async def _saved(store: Verbs, run_id: str | None) -> list[Entry]:
    """Return what makes runs known that nobody has driven, one of them or all."""
    return [entry for kind in SAVED_KINDS for entry in await store.read_entries(EntryQuery(kind=kind, run_id=run_id))]


def _select(runs: Iterable[KnownRun], query: KnownRunQuery) -> list[KnownRun]:
    """Return what a list shows of ``runs``: filtered, ordered, then cut to one page."""
    found = sorted(
        (run for run in runs if _is_asked_for(run, query)),
        key=lambda run: (*newest_first(getattr(run, query.order)), run.run_id),
    )
    return page(found, query.limit, query.offset)


def of_head(head: RunSummary) -> KnownRun:
    """Return a run that a runtime has driven."""
    has_ended = head.status in TERMINAL
    return KnownRun(
        run_id=head.run_id,
        pipeline_id=head.pipeline_id,
        pipeline_name=head.pipeline_name,
        pipeline_version=head.pipeline_version,
        current_step_index=head.current_step_index,
        status=head.status,
        created_at=head.created_at,
        updated_at=head.updated_at,
        total_steps=head.current_step_index,
        error_message=head.error_message,
        execution_time_ms=(head.updated_at - head.created_at) / _MILLISECOND if has_ended else None,
        memory_usage_mb=None,
        metadata=head.metadata,
        is_background_task=head.is_background,
        parent_run_id=head.parent_run_id,
        task_id=head.run_id if head.is_background else None,
        background_error=head.error_message if head.is_background else None,
        total_cost=float(head.usage.cost),
        usage=usage_dict(head.usage),
        waiting_for=list(map(asdict, head.waiting_for)),
        version=head.last_seq,
    )


def usage_dict(usage: Usage) -> dict[str, Any]:
    """Return what was consumed, as lists show it."""
    return {"tokens": usage.tokens, "cost": usage.cost, "token_counts": dict(usage.token_counts)}


def of_entries(entries: Sequence[Entry]) -> KnownRun:
    """Return a run that callers have saved: as its state says, then its end, then its start."""
    kept = {entry_id(entry): entry for entry in entries}
    state, end, start = kept.get(("state", "")), kept.get(("run", RUN_END)), kept.get(("run", RUN_START))
    told = [entry for entry in (state, end, start) if entry is not None] or sorted(entries, key=entry_id)[:1]
    bodies = [decode_plain(entry.body, at=entry.kind) for entry in told]

    def get(name: str, default: Any = None) -> Any:
        return next((body[name] for body in bodies if body.get(name) is not None), default)

    created_at = (state or start or told[0]).created_at
    updated_at = told[0].updated_at
    status = check_status(get("status", "completed" if state is None and end is not None else "running"))
    took = (updated_at - created_at) / _MILLISECOND if status in TERMINAL else None
    return KnownRun(
        run_id=told[0].run_id,
        pipeline_id=get("pipeline_id", "unknown"),
        pipeline_name=get("pipeline_name", "unknown"),
        pipeline_version=get("pipeline_version", "latest"),
        current_step_index=get("current_step_index", 0),
        status=status,
        created_at=created_at,
        updated_at=updated_at,
        total_steps=get("total_steps", 0),
        error_message=get("error_message"),
        execution_time_ms=get("execution_time_ms", took),
        memory_usage_mb=get("memory_usage_mb"),
        metadata=get("metadata", {}),
        is_background_task=bool(get("is_background_task", False)),
        parent_run_id=get("parent_run_id"),
        task_id=get("task_id"),
        background_error=get("background_error"),
        total_cost=float(get("total_cost", 0.0)),
        usage=get("usage", usage_dict(NO_USAGE)),
        waiting_for=get("waiting_for", []),
        version=get("version", 0),
    )


def _is_asked_for(run: KnownRun, query: KnownRunQuery) -> bool:
    return (
        query.status in (None, "", run.status)
        and query.pipeline_id in (None, "", run.pipeline_id)
        and query.pipeline_name in (None, "", run.pipeline_name)
        and query.parent_run_id in (None, "", run.parent_run_id)
        and query.is_background in (None, run.is_background_task)
        and (query.since is None or run.updated_at >= query.since)
        and contains(run.metadata, query.metadata)
    )
