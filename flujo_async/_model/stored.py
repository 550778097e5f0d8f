"""What goes through the port: sealed records, the head of a run, signals and queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from flujo_async._model.audit import AuditMark
from flujo_async._model.page import check_page
from flujo_async._model.quick import quick
from flujo_async._model.state import RunStatus, Waiting, check_status
from flujo_async._model.summary import RunSummary
from flujo_async._model.text import is_unicode
from flujo_async._model.tree import Json, JsonObject, is_json
from flujo_async._model.usage import Usage
from flujo_async.errors import InvalidArgument


@quick
@dataclass(frozen=True, slots=True)
class Record:
    """One fact, sealed for storage.

    Attributes:
        seq: its position in the log, from 1, without gaps.
        body: the fact as one line of JSON; stores keep it byte for byte.
        hash: hex SHA-256 over the hash of the record before and this body.
        mark: whether it belongs into the audit log; only that of a record that is being written is known.
        values: the trees of the blobs that the body names, by digest, once they have been read; stores leave it alone.
    """

    seq: int
    body: bytes
    hash: str
    values: Mapping[str, Json] | None = field(default=None, compare=False, repr=False)
    mark: AuditMark | None = field(default=None, compare=False, repr=False)


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class HeadChange:
    """What few appends change in the head of the run, such as the last one.

    Attributes:
        status: where the run stands from now on.
        pipeline_version: the version it goes on under; ``None`` leaves it.
        error_message: why the run failed, in one line.
        waiting_for: what a paused run waits for.
        wake_at: when a paused run wants to be claimed even without a signal, if ever.
        signals_read: how many of its signals the owner has read; ``None`` leaves that.
        metadata: the metadata from now on; ``None`` leaves them.
        pipeline_id: the structure that it goes on with; ``None`` leaves it.
        usage: what was consumed so far; ``None`` leaves that.
    """

    status: RunStatus
    pipeline_version: str | None = None
    error_message: str | None = None
    waiting_for: tuple[Waiting, ...] = ()
    wake_at: datetime | None = None
    signals_read: int | None = None
    metadata: JsonObject | None = None
    pipeline_id: str | None = None
    usage: Usage | None = None


GOES_ON: Final = HeadChange(status="running")
"""The run goes on, and its head tells nothing new but when and how far: so it is at nearly every step."""


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class RunUpdate:
    """What an append makes of the head of the run; goes down in the same write as the records.

    Attributes:
        updated_at: when the last of the records happened.
        current_step_index: how many elements of the outermost sequence are done.
        change: what else; a store may pass over ``GOES_ON`` where the head says as much.
    """

    updated_at: datetime
    current_step_index: int = 0
    change: HeadChange = GOES_ON


@dataclass(frozen=True, slots=True)
class Blob:
    """A large value that the bodies of records name by its digest; a store keeps equal ones once.

    Attributes:
        digest: hex SHA-256 of ``data``.
        data: the encoded value, as JSON in UTF-8.
    """

    digest: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Prefix:
    """The records of another run's log, from 1 to ``last_seq`` (at least 1), which a fork shares.

    Attributes:
        run_id: the other run.
        last_seq: the last of the records.
        hash: the hash of that one, which tells the run from others that have had its name.
    """

    run_id: str
    last_seq: int
    hash: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a run at one point of its log, kept so that loading need not begin at the first record.

    Attributes:
        seq: the last record that is in it.
        hash: the hash of that record.
        body: the state; opaque to stores.
    """

    seq: int
    hash: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Signal:
    """An answer posted to a run from outside.

    Attributes:
        run_id: the run.
        signal_id: names this posting; the same id twice is one signal.
        name: which wait it answers.
        payload: the encoded answer.
        at: when it was posted.
        sent_by: who posted it, if that is known.
    """

    run_id: str
    signal_id: str
    name: str
    payload: Json
    at: datetime
    sent_by: str | None = None


@quick
@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to be created.

    Attributes:
        summary: its head; of its counts of signals, ``signals_read`` is kept.
        records: the first records of its log: ``seq`` from 1, or from where ``prefix`` ends.
        blobs: what these records name and no record of ``prefix`` does.
        prefix: the log that it continues, if it is a fork.
        signals: what was posted to it already, in the order of posting; no two have one ``signal_id``.
    """

    summary: RunSummary
    records: tuple[Record, ...]
    blobs: tuple[Blob, ...] = ()
    prefix: Prefix | None = None
    signals: tuple[Signal, ...] = ()


@dataclass(frozen=True, slots=True)
class StoredRun:
    """All that a store knows of a run, read at one instant.

    Attributes:
        summary: its head.
        records: its log, shared prefix included; without what is in ``snapshot``, if there is one.
        signals: what was posted to it, in the order of posting.
        snapshot: where ``records`` begin, if that is not at the beginning.
    """

    summary: RunSummary
    records: tuple[Record, ...]
    signals: tuple[Signal, ...] = ()
    snapshot: Snapshot | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunQuery:
    """Which runs a listing asks for; ``None`` and ``""`` mean any.

    Attributes:
        run_id: this run only.
        status: only runs in this status.
        pipeline_name: only runs of this definition.
        parent_run_ids: only children of one of these runs.
        is_leased: only runs that somebody has a lease of, expired or not; or only those without one.
        metadata: only runs whose metadata contain this, recursively.
        limit: at most so many, after all filters; ``None`` is no limit.
        offset: leave out so many at the front.

    Raises:
        InvalidArgument: an unknown status, a negative number, text that is not Unicode, or metadata that are no JSON.
    """

    run_id: str | None = None
    status: RunStatus | None = None
    pipeline_name: str | None = None
    parent_run_ids: frozenset[str] | None = None
    is_leased: bool | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])
    limit: int | None = None
    offset: int = 0

    def __post_init__(self) -> None:
        if self.status:
            check_status(self.status)
        for name in (self.run_id, self.pipeline_name, *(self.parent_run_ids or ())):
            if isinstance(name, str) and not is_unicode(name):
                raise InvalidArgument(f"no run has a name that is not Unicode: {name!r}")
        is_mapping = isinstance(self.metadata, Mapping)  # pyright: ignore[reportUnnecessaryIsInstance] -- untyped users
        if not is_mapping or not is_json(dict(self.metadata)):
            raise InvalidArgument(f"metadata to look for are plain JSON, as those of runs are, not {self.metadata!r}")
        check_page(self.limit, self.offset)
