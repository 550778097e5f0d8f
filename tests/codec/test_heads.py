"""Heads, signals and records as JSON: equal when they come back, and refused when they are malformed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import orjson
import pytest

from flujo_async._codec import heads
from flujo_async._model.lease import Lease
from flujo_async._model.state import Waiting
from flujo_async._model.stored import HeadChange, Record, RunUpdate, Signal
from flujo_async._model.summary import RunSummary
from flujo_async._model.usage import Usage
from flujo_async.errors import SerializationError

AT = datetime(2026, 3, 29, 1, 30, 0, 5, tzinfo=UTC)
WAIT = Waiting(kind="signal", name="approval", since=AT, prompt="?", schema={"type": "object"}, deadline=AT)
SUMMARY = RunSummary(
    run_id="run",
    pipeline_name="hello",
    pipeline_version="1",
    status="paused",
    created_at=AT,
    updated_at=AT,
    last_seq=3,
    metadata={"a": {"b": [1, None]}},
    waiting_for=[WAIT, Waiting(kind="pause", name="", since=AT)],
    wake_at=AT,
    signals=3,
    signals_read=2,
    lease=Lease("run", 2, "w1", AT),
    pipeline_id="f1",
    is_background=True,
    usage=Usage(980, Decimal("0.12"), {"input": 900, "output": 80}),
)
SIGNAL = Signal("run", "s1", "approval", {"ok": True}, AT, "alice")


def test_everything_comes_back_equal() -> None:
    assert heads.load_summary(heads.dump_summary(SUMMARY)) == SUMMARY
    assert heads.decode_signal(orjson.loads(orjson.dumps(heads.encode_signal(SIGNAL)))) == SIGNAL
    record = Record(1, '{"é":1}'.encode(), "h")
    assert heads.decode_record(heads.encode_record(record)) == record


def test_moments_are_written_in_utc_and_sort_as_text() -> None:
    zone = timezone(timedelta(hours=-3))
    moments = [AT.replace(microsecond=n).astimezone(zone) for n in (0, 1, 999_999)]
    texts = [heads.encode_moment(moment) for moment in moments]
    assert texts[0] == "2026-03-29T01:30:00.000000+00:00"
    assert texts == sorted(texts)
    assert [heads.decode_moment(text) for text in texts] == moments


def test_a_naive_moment_is_refused_by_name() -> None:
    with pytest.raises(SerializationError, match="created_at"):
        heads.encode_summary(replace(SUMMARY, created_at=AT.replace(tzinfo=None)))


def test_metadata_that_are_not_json_are_refused() -> None:
    with pytest.raises(SerializationError):
        heads.dump_summary(replace(SUMMARY, metadata={"a": object()}))


def test_an_update_of_ones_own_shares_no_metadata() -> None:
    metadata: dict[str, Any] = {"a": {"b": [1]}}
    update = RunUpdate(updated_at=AT, change=HeadChange(status="running", metadata=metadata))
    own = heads.own_update(update)
    assert own == update
    metadata["a"]["b"].append(2)
    assert own.change.metadata == {"a": {"b": [1]}}
    without = RunUpdate(updated_at=AT)
    assert heads.own_update(without) is without


def test_unknown_keys_are_left_alone() -> None:
    assert heads.decode_summary({**heads.encode_summary(SUMMARY), "later": 1}) == SUMMARY


@pytest.mark.parametrize("key", sorted(heads.encode_summary(SUMMARY)))
@pytest.mark.parametrize("value", [..., 3.5, object()])
def test_a_missing_or_wrong_field_is_named(key: str, value: Any) -> None:
    tree = heads.encode_summary(SUMMARY)
    if value is ...:
        del tree[key]
    else:
        tree[key] = value
    with pytest.raises(SerializationError) as caught:
        heads.decode_summary(tree)
    assert caught.value.path == key


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("status", "stopped"),
        ("last_seq", True),
        ("signals", None),
        ("created_at", "yesterday"),
        ("created_at", "2026-03-29T01:30:00"),
        ("waiting_for", [{}]),
        ("lease", {"token": 1}),
    ],
)
def test_a_value_that_cannot_be_is_refused(key: str, value: Any) -> None:
    with pytest.raises(SerializationError, match=key):
        heads.decode_summary({**heads.encode_summary(SUMMARY), key: value})


@pytest.mark.parametrize("tree", [None, [], "x", 1])
def test_what_is_no_object_is_refused(tree: Any) -> None:
    for decode in (heads.decode_summary, heads.decode_signal, heads.decode_lease, heads.decode_record):
        with pytest.raises(SerializationError):
            decode(tree)
