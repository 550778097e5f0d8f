"""Heads, leases, waits, signals, records, entries and system states as plain JSON; moments are ISO-8601 text in UTC."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from math import isfinite
from typing import Any, TypeAlias, cast, get_args

from flujo_async._codec.tree import dumps, loads
from flujo_async._model.entry import Entry, EntryKind
from flujo_async._model.ids import check_run_id
from flujo_async._model.lease import Lease
from flujo_async._model.quick import changed
from flujo_async._model.state import RUN_STATUSES, RunStatus, Waiting
from flujo_async._model.stored import Record, RunUpdate, Signal
from flujo_async._model.summary import RunSummary
from flujo_async._model.text import is_unicode
from flujo_async._model.usage import NO_USAGE, Usage
from flujo_async.errors import InvalidArgument, SerializationError

Tree: TypeAlias = dict[str, Any]
"""A JSON object, as ``orjson`` reads and writes it."""

_ENTRY_KINDS: frozenset[EntryKind] = frozenset(get_args(EntryKind))
_WAITING_KINDS = frozenset({"signal", "decision", "pause", "definition"})


def encode_moment(moment: datetime, path: str = "") -> str:
    """Return a moment as text of constant width, so that texts sort as moments do.

    Raises:
        SerializationError: the moment is naive.
    """
    return in_utc(moment, path).isoformat(timespec="microseconds")


def in_utc(moment: datetime, path: str = "") -> datetime:
    """Return a moment in UTC.

    Raises:
        SerializationError: the moment is naive.
    """
    if moment.tzinfo is UTC:  # the usual case
        return moment
    if moment.tzinfo is None:
        raise SerializationError("a stored moment needs a time zone", path=path)
    return moment.astimezone(UTC)


def decode_moment(text: Any, path: str = "") -> datetime:
    """Return the moment that ``encode_moment`` wrote."""
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError) as error:
        raise SerializationError(f"{text!r} is not a moment", path=path) from error
    if moment.tzinfo is UTC:  # the usual case
        return moment
    if moment.tzinfo is None:
        raise SerializationError(f"{text!r} lacks its time zone", path=path)
    return moment.astimezone(UTC)


def encode_lease(lease: Lease) -> Tree:
    """Return a lease as a JSON object."""
    return {
        "run_id": lease.run_id,
        "token": lease.token,
        "owner": lease.owner,
        "expires_at": encode_moment(lease.expires_at, "lease.expires_at"),
    }


def decode_lease(tree: Any) -> Lease:
    """Return the lease that ``encode_lease`` wrote."""
    fields = _Fields.of(tree, "lease")
    return Lease(
        run_id=fields.text("run_id"),
        token=fields.number("token"),
        owner=fields.text("owner"),
        expires_at=fields.moment("expires_at"),
    )


def encode_waiting(waiting: Iterable[Waiting]) -> list[Tree]:
    """Return waits as a JSON array."""
    return [
        {
            "kind": wait.kind,
            "name": wait.name,
            "since": encode_moment(wait.since, "waiting_for.since"),
            "prompt": wait.prompt,
            "schema": wait.schema,
            "deadline": _encode_optional(wait.deadline, "waiting_for.deadline"),
            "run_id": wait.run_id,
        }
        for wait in waiting
    ]


def decode_waiting(tree: Any) -> list[Waiting]:
    """Return the waits that ``encode_waiting`` wrote."""
    if not _is_list(tree):
        raise SerializationError("expected a list of waits", path="waiting_for")
    return [_decode_wait(item, f"waiting_for[{i}]") for i, item in enumerate(tree)]


def encode_signal(signal: Signal) -> Tree:
    """Return a signal as a JSON object."""
    return {
        "run_id": signal.run_id,
        "signal_id": signal.signal_id,
        "name": signal.name,
        "payload": signal.payload,
        "at": encode_moment(signal.at, "signal.at"),
        "sent_by": signal.sent_by,
    }


def decode_signal(tree: Any) -> Signal:
    """Return the signal that ``encode_signal`` wrote."""
    fields = _Fields.of(tree, "signal")
    return Signal(
        run_id=fields.text("run_id"),
        signal_id=fields.text("signal_id"),
        name=fields.text("name"),
        payload=fields.get("payload"),
        at=fields.moment("at"),
        sent_by=fields.optional_text("sent_by"),
    )


def encode_summary(summary: RunSummary) -> Tree:
    """Return the head of a run as a JSON object, with a key for every field."""
    return {
        "run_id": summary.run_id,
        "pipeline_name": summary.pipeline_name,
        "pipeline_version": summary.pipeline_version,
        "status": summary.status,
        "created_at": encode_moment(summary.created_at, "created_at"),
        "updated_at": encode_moment(summary.updated_at, "updated_at"),
        "last_seq": summary.last_seq,
        "current_step_index": summary.current_step_index,
        "metadata": dict(summary.metadata),
        "error_message": summary.error_message,
        "waiting_for": encode_waiting(summary.waiting_for),
        "attempts": summary.attempts,
        "parent_run_id": summary.parent_run_id,
        "queue": summary.queue,
        "priority": summary.priority,
        "wake_at": _encode_optional(summary.wake_at, "wake_at"),
        "signals": summary.signals,
        "signals_read": summary.signals_read,
        "lease": None if summary.lease is None else encode_lease(summary.lease),
        "pipeline_id": summary.pipeline_id,
        "is_background": summary.is_background,
        "usage": encode_usage(summary.usage),
    }


def decode_summary(tree: Any) -> RunSummary:
    """Return the head that ``encode_summary`` wrote; keys that it does not know are left alone.

    Raises:
        SerializationError: a field is missing or has another type.
    """
    fields = _Fields.of(tree, "")
    return RunSummary(
        run_id=fields.text("run_id"),
        pipeline_name=fields.text("pipeline_name"),
        pipeline_version=fields.text("pipeline_version"),
        status=cast("RunStatus", fields.one_of("status", RUN_STATUSES)),
        created_at=fields.moment("created_at"),
        updated_at=fields.moment("updated_at"),
        last_seq=fields.number("last_seq"),
        current_step_index=fields.number("current_step_index"),
        metadata=fields.mapping("metadata"),
        error_message=fields.optional_text("error_message"),
        waiting_for=decode_waiting(fields.get("waiting_for")),
        attempts=fields.number("attempts"),
        parent_run_id=fields.optional_text("parent_run_id"),
        queue=fields.optional_text("queue"),
        priority=fields.number("priority"),
        wake_at=fields.optional_moment("wake_at"),
        signals=fields.number("signals"),
        signals_read=fields.number("signals_read"),
        lease=None if fields.get("lease") is None else decode_lease(fields.get("lease")),
        pipeline_id=fields.text("pipeline_id"),
        is_background=fields.flag("is_background"),
        usage=decode_usage(fields.get("usage")),
    )


def encode_usage(usage: Usage) -> Tree:
    """Return what was consumed as a JSON object; empty where nothing was."""
    if not usage:
        return {}
    return {"tokens": usage.tokens, "cost": str(usage.cost), "token_counts": dict(usage.token_counts)}


def decode_usage(tree: Any) -> Usage:
    """Return what ``encode_usage`` wrote."""
    if tree == {}:
        return NO_USAGE
    fields = _Fields.of(tree, "usage")
    cost = decode_cost(fields.get("cost"), "usage.cost")
    return Usage(fields.number("tokens"), cost, fields.mapping("token_counts"))


def decode_cost(text: Any, path: str = "cost") -> Decimal:
    """Return the exact number that a text tells.

    Raises:
        SerializationError: it tells none, or none that is finite.
    """
    try:
        cost = Decimal(text)
    except (InvalidOperation, TypeError, ValueError) as error:
        raise SerializationError(f"{text!r} is not a number", path=path) from error
    if not isinstance(text, str) or not cost.is_finite():
        raise SerializationError(f"{text!r} is not a number", path=path)
    return cost


def dump_summary(summary: RunSummary) -> bytes:
    """Return the head of a run as one line of JSON.

    Raises:
        SerializationError: its metadata, or the schema of a wait, are not plain JSON.
    """
    return dumps(encode_summary(summary))


def load_summary(data: bytes) -> RunSummary:
    """Return the head that ``dump_summary`` wrote."""
    return decode_summary(loads(data))


def own_update(update: RunUpdate) -> RunUpdate:
    """Return an update that shares no metadata with its maker.

    Raises:
        SerializationError: its metadata are not plain JSON.
    """
    if (metadata := update.change.metadata) is None:
        return update
    return changed(update, change=changed(update.change, metadata=load_object(dump_object(metadata))))


def dump_object(value: Mapping[str, Any]) -> bytes:
    """Return a JSON object as bytes.

    Raises:
        SerializationError: it holds something that is not plain JSON.
    """
    return dumps(dict(value))


def dump_state(value: Mapping[str, Any]) -> bytes:
    """Return system state as bytes.

    Raises:
        SerializationError: it holds something that is not plain JSON.
    """
    data = dump_object(value)
    if b"null" in data and not _is_finite(value):  # orjson writes numbers that are not finite as null
        raise SerializationError("JSON has no NaN and no infinity")
    return data


def load_object(data: bytes) -> dict[str, Any]:
    """Return the JSON object that ``dump_object`` wrote, as a new one."""
    return cast("dict[str, Any]", loads(data))


def check_key(key: str) -> str:
    """Return ``key`` if something can be kept under it.

    Raises:
        InvalidArgument: it is not a string, is empty, or holds NUL or a lone surrogate.
    """
    if not isinstance(key, str):  # pyright: ignore[reportUnnecessaryIsInstance] -- users without a type checker
        raise InvalidArgument(f"a key is a string, not {type(key).__name__}")
    if not key:
        raise InvalidArgument("a key may not be empty")
    if "\0" in key or not is_unicode(key):
        raise InvalidArgument(f"a key may not hold NUL or a lone surrogate: {key!r}")
    return key


def encode_record(record: Record) -> Tree:
    """Return a record as a JSON object, its body as text, so that it comes back byte for byte."""
    return {"seq": record.seq, "hash": record.hash, "body": _body_text(record)}


def decode_record(tree: Any) -> Record:
    """Return the record that ``encode_record`` wrote."""
    fields = _Fields.of(tree, "record")
    return Record(fields.number("seq"), fields.text("body").encode(), fields.text("hash"))


def encode_entry(entry: Entry) -> Tree:
    """Return an entry as a JSON object."""
    return {
        "run_id": entry.run_id,
        "kind": entry.kind,
        "key": entry.key,
        "body": dict(entry.body),
        "created_at": encode_moment(entry.created_at, "created_at"),
        "updated_at": encode_moment(entry.updated_at, "updated_at"),
    }


def decode_entry(tree: Any) -> Entry:
    """Return the entry that ``encode_entry`` wrote."""
    fields = _Fields.of(tree, "entry")
    return Entry(
        run_id=fields.text("run_id"),
        kind=cast("EntryKind", fields.one_of("kind", _ENTRY_KINDS)),
        key=fields.text("key"),
        body=fields.mapping("body"),
        created_at=fields.moment("created_at"),
        updated_at=fields.moment("updated_at"),
    )


def own_entry(entry: Entry) -> Entry:
    """Return an entry that shares nothing with its maker, and that every store can keep.

    Raises:
        InvalidArgument: its ``run_id`` or its key cannot name anything.
        SerializationError: its body is not plain JSON, or a moment is naive.
    """
    check_run_id(entry.run_id)
    if entry.key:
        check_key(entry.key)
    return decode_entry(load_object(dump_object(encode_entry(entry))))


def _decode_wait(tree: Any, path: str) -> Waiting:
    fields = _Fields.of(tree, path)
    return Waiting(
        kind=fields.one_of("kind", _WAITING_KINDS),
        name=fields.text("name"),
        since=fields.moment("since"),
        prompt=fields.optional_text("prompt"),
        schema=None if fields.get("schema") is None else fields.mapping("schema"),
        deadline=fields.optional_moment("deadline"),
        run_id=fields.optional_text("run_id"),
    )


def _is_finite(tree: Any) -> bool:
    if isinstance(tree, Mapping):
        return all(map(_is_finite, cast("Mapping[str, Any]", tree).values()))
    if isinstance(tree, list | tuple):
        return all(map(_is_finite, cast("Sequence[Any]", tree)))
    return not isinstance(tree, float) or isfinite(tree)


def _is_list(tree: Any) -> bool:
    return isinstance(tree, list)


def _encode_optional(moment: datetime | None, path: str) -> str | None:
    return None if moment is None else encode_moment(moment, path)


def _body_text(record: Record) -> str:
    try:
        return record.body.decode()
    except UnicodeDecodeError as error:
        raise SerializationError("a body is UTF-8", path=f"records[{record.seq}]") from error


@dataclass(frozen=True, slots=True)
class _Fields:
    """Reads the fields of a JSON object and says where one is wrong."""

    tree: Mapping[str, Any]
    path: str

    @classmethod
    def of(cls, tree: Any, path: str) -> _Fields:
        if not isinstance(tree, Mapping):
            raise SerializationError(f"expected an object, found {type(tree).__name__}", path=path)
        return cls(cast("Mapping[str, Any]", tree), path)

    def get(self, key: str) -> Any:
        try:
            return self.tree[key]
        except KeyError as error:
            raise SerializationError("missing", path=self._at(key)) from error

    def text(self, key: str) -> str:
        return cast("str", self._typed(key, str))

    def optional_text(self, key: str) -> str | None:
        return None if self.get(key) is None else self.text(key)

    def number(self, key: str) -> int:
        if isinstance(self.get(key), bool):
            raise SerializationError("expected int, found bool", path=self._at(key))
        return cast("int", self._typed(key, int))

    def flag(self, key: str) -> bool:
        return cast("bool", self._typed(key, bool))

    def mapping(self, key: str) -> dict[str, Any]:
        return cast("dict[str, Any]", self._typed(key, dict))

    def moment(self, key: str) -> datetime:
        return decode_moment(self.get(key), self._at(key))

    def optional_moment(self, key: str) -> datetime | None:
        return None if self.get(key) is None else self.moment(key)

    def one_of(self, key: str, choices: frozenset[Any]) -> Any:
        value = self.text(key)
        if value not in choices:
            raise SerializationError(f"{value!r} is none of {sorted(choices)}", path=self._at(key))
        return value

    def _typed(self, key: str, kind: type) -> Any:
        value = self.get(key)
        if not isinstance(value, kind):
            raise SerializationError(f"expected {kind.__name__}, found {type(value).__name__}", path=self._at(key))
        return value

    def _at(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key
