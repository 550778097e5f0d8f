"""What callers keep of a run by hand, as entries: checked before it is kept, and read back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from math import isfinite
from typing import Any, Final
from uuid import uuid4

from flujo_async._codec.plain import decode_plain, encode_plain
from flujo_async._log.spans import Span
from flujo_async._model.entry import Entry, EntryKind
from flujo_async._model.ids import check_run_id
from flujo_async._model.state import check_status
from flujo_async._model.tree import JsonObject
from flujo_async.errors import InvalidArgument

_MOMENTS: Final = ("created_at", "updated_at")
_NUMBERS: Final = ("total_cost", "execution_time_ms", "cost_usd", "cost", "duration_ms", "step_index", "total_steps")
_SPAN: Final[Mapping[str, Any]] = {"parent_span_id": None, "end_time": None, "attributes": {}, "events": []}


def kept(run_id: str, kind: EntryKind, data: Mapping[str, Any], now: datetime, *, key: str = "", at: str) -> Entry:
    """Return what to keep of a run.

    Args:
        run_id: the run.
        kind: what it tells.
        data: what it says; its ``created_at`` and ``updated_at`` are those of the entry, if it has some.
        now: when it is kept.
        key: which one of its kind.
        at: what the caller calls ``data``.

    Raises:
        InvalidArgument: the ``run_id`` cannot name a run, or a moment, a number, a status or metadata is none.
        SerializationError: something in it cannot be stored; its ``path`` tells what.
    """
    check_run_id(run_id)
    body = dict(data)
    for name in _MOMENTS:
        if body.get(name) is not None:
            body[name] = _moment_of(body[name], f"{at}.{name}")
    for name in _NUMBERS:
        if body.get(name) is not None:
            check_number(body[name], f"{at}.{name}")
    if kind in ("state", "run") and body.get("status") is not None:
        check_status(body["status"])
    tree = encode_plain(body, at=at)
    if kind in ("state", "run") and not isinstance(body.get("metadata") or {}, Mapping):
        _check_metadata(tree, at)
    return Entry(
        run_id=run_id,
        kind=kind,
        key=key,
        body=tree,
        created_at=body.get("created_at") or now,
        updated_at=body.get("updated_at") or now,
    )


def _check_metadata(tree: JsonObject, at: str) -> None:
    metadata = decode_plain(tree, at=at)["metadata"]  # a model is a mapping here
    if not isinstance(metadata, Mapping):
        raise InvalidArgument(f"{at}.metadata is a mapping, not {metadata!r}")


def saved_state(entry: Entry) -> dict[str, Any]:
    """Return a state as it was saved; ``created_at`` is that of the first time."""
    body = decode_plain(entry.body, at="state")
    return {**body, "created_at": entry.created_at} if "created_at" in body else body


def kept_step(data: Mapping[str, Any], now: datetime) -> Entry:
    """Return what to keep of a step.

    Raises:
        InvalidArgument: it has no ``run_id`` or no ``step_name``; and as ``kept``.
    """
    run_id, name = required(data, "run_id", "step_data"), required(data, "step_name", "step_data")
    if not isinstance(name, str):
        raise InvalidArgument(f"step_data.step_name is a text, not {name!r}")
    for number in ("token_counts", "tokens"):
        _check_tokens(data.get(number), f"step_data.{number}")
    key = data.get("step_run_id") or f"{data.get('step_index', 0)}:{name}"
    return kept(run_id, "step", data, now, key=str(key), at="step_data")


def _check_tokens(value: Any, at: str) -> None:
    counts: list[Any] = [*value.values()] if isinstance(value, Mapping) else [value or 0]  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] -- checked below
    if not all(isinstance(count, int) for count in counts):
        raise InvalidArgument(f"{at} is a whole number, or such numbers by kind, not {value!r}")


def _kept_span(run_id: str, span: Mapping[str, Any], now: datetime, *, at: str) -> Entry:
    span_id, name = required(span, "span_id", at), required(span, "name", at)
    body = {**_SPAN, **span, "span_id": str(span_id), "name": str(name)}
    if body["parent_span_id"] is not None:
        body["parent_span_id"] = str(body["parent_span_id"])
    body["start_time"] = _seconds_of(span.get("start_time", now), f"{at}.start_time")
    if body["end_time"] is not None:
        body["end_time"] = _seconds_of(body["end_time"], f"{at}.end_time")
    body["status"] = str(span.get("status") or ("running" if body["end_time"] is None else "completed"))
    return kept(run_id, "span", body, now, key=body["span_id"], at=at)


def kept_spans(run_id: str, spans: Iterable[Mapping[str, Any]], now: datetime, *, at: str) -> list[Entry]:
    """Return what to keep of spans.

    Raises:
        InvalidArgument: one has no ``span_id`` or no ``name``, or a time that is none, or two have one ``span_id``; and
            as ``kept``.
    """
    found: dict[str, Entry] = {}
    for place, span in enumerate(spans):
        entry = _kept_span(run_id, span, now, at=f"{at}[{place}]")
        if entry.key in found:
            raise InvalidArgument(f"{at}: two spans have the span_id {entry.key!r}")
        found[entry.key] = entry
    return list(found.values())


def saved_span(entry: Entry) -> Span:
    """Return a span as it was saved."""
    return decode_plain(entry.body, at="span")


def kept_evaluation(run_id: str, data: Mapping[str, Any], now: datetime) -> Entry:
    """Return what to keep of an evaluation.

    Raises:
        InvalidArgument: the score is no number; and as ``kept``.
    """
    check_number(data["score"], "score")
    return kept(run_id, "evaluation", data, now, key=uuid4().hex, at="evaluation")


def saved_evaluation(entry: Entry) -> dict[str, Any]:
    """Return an evaluation as lists show it."""
    return {"run_id": entry.run_id, **decode_plain(entry.body, at="evaluation"), "created_at": entry.created_at}


def required(data: Mapping[str, Any], name: str, at: str) -> Any:
    """Return what a caller has to give.

    Raises:
        InvalidArgument: it is missing, or empty.
    """
    value = data.get(name)
    if value in (None, ""):
        raise InvalidArgument(f"{at} has no {name!r}")
    return value


def _moment_of(value: Any, at: str) -> datetime:
    """Return a moment in UTC, of a ``datetime`` or a text in ISO 8601; one without a time zone is in UTC already."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError as error:
        raise InvalidArgument(f"{at} is no moment: {value!r}") from error
    if not isinstance(moment, datetime):
        raise InvalidArgument(f"{at} is a datetime, or a text in ISO 8601, not {value!r}")
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _seconds_of(value: Any, at: str) -> float:
    """Return seconds since 1970 in UTC, of such a number or a moment."""
    if isinstance(value, (datetime, str)):
        return _moment_of(value, at).timestamp()
    check_number(value, at)
    return float(value)


def check_number(value: Any, at: str, *, least: float | None = None) -> None:
    """Check that a value is a finite number.

    Raises:
        InvalidArgument: it is not, or is below ``least``.
    """
    try:
        is_number = not isinstance(value, (bool, str)) and isfinite(value)
    except (TypeError, ValueError, OverflowError):
        is_number = False
    if not is_number or (least is not None and float(value) < least):
        raise InvalidArgument(f"{at} is a number{'' if least is None else f' from {least:g} on'}, not {value!r}")
