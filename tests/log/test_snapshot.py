"""Snapshots: the state of a log, kept so that loading need not begin at the first fact."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flujo_async._codec.facts import pack_fact
from flujo_async._log.chain import next_hash
from flujo_async._log.fold import Fold, fold_log
from flujo_async._log.large import with_values
from flujo_async._log.snapshot import FORMAT, blobs_of, copied, fold_from, snapshot_of, weight
from flujo_async._model.facts import (
    AttemptFailed,
    EventEmitted,
    Fact,
    HeartbeatRecorded,
    RunForked,
    RunRedriven,
    RunStarted,
    StepCompleted,
    StepFailed,
    ValueDrawn,
)
from flujo_async._model.stored import Snapshot
from flujo_async.errors import SerializationError
from tests.log.made import all_of, logs, records

T0 = datetime(2026, 1, 1, tzinfo=UTC)
STARTED = RunStarted(at=T0, run_id="r", pipeline_name="p", pipeline_version="1", fingerprint="f", input=1)
ERROR: Any = {"type": "builtins:ValueError", "message": "bad"}


def completed(key: str, output: Any = None, **fields: Any) -> StepCompleted:
    return StepCompleted(at=T0, key=key, name=key, started_at=T0, attempts=1, output=output, **fields)


def fold(*log: Fact) -> Fold:
    return fold_log("r", with_values("r", records([STARTED, *log]), blobs(*log)))


def blobs(*log: Fact) -> dict[str, bytes]:
    return {blob.digest: blob.data for fact in log for blob in pack_fact(fact)[1]}


@given(logs, st.data())
def test_a_snapshot_and_the_rest_are_the_whole(log: list[Fact], data: st.DataObject) -> None:
    """Wherever it was taken, and of whatever."""
    sealed = records(log)
    cut = data.draw(st.integers(1, len(log)))
    before = fold_log("r", sealed[:cut])
    continued = fold_from(snapshot_of(before), before.run_id)
    assert all_of(continued) == all_of(before)
    continued.extend(sealed[cut:])
    assert all_of(continued) == all_of(fold_log("r", sealed))
    assert continued.update() == fold_log("r", sealed).update()


@given(logs)
def test_a_snapshot_of_a_snapshot_is_the_same(log: list[Fact]) -> None:
    """Byte for byte: so two of them can be compared."""
    made = snapshot_of(whole := fold_log("r", records(log)))
    assert snapshot_of(fold_from(made, whole.run_id)) == made


@given(logs, st.data())
def test_a_copy_stays_as_it_is(log: list[Fact], data: st.DataObject) -> None:
    """While the state goes on."""
    sealed = records(log)
    cut = data.draw(st.integers(1, len(log)))
    going_on = fold_log("r", sealed[:cut])
    taken = copied(going_on)
    going_on.extend(sealed[cut:])
    before = fold_log("r", sealed[:cut])
    assert all_of(taken) == all_of(before)
    assert snapshot_of(taken) == snapshot_of(before)
    assert all_of(going_on) == all_of(fold_log("r", sealed))


def noise(number: int, key: str = "a") -> list[Fact]:
    error: Any = {**ERROR, "message": "m" * 100}
    events: list[Fact] = [EventEmitted(at=T0, key=key, name="e", data=number) for _ in range(number)]
    failed = AttemptFailed(at=T0, key=key, name=key, attempt=1, error=error, retry_at=T0)
    beats = [HeartbeatRecorded(at=T0, key=key, name=key, attempt=1, details=i) for i in range(number)]
    return [failed, *beats, *events]


def test_what_no_longer_counts_is_left_out() -> None:
    """Events, heartbeats and failed attempts of a step that has ended: it is as long as without them."""
    loud = snapshot_of(fold(*noise(300), completed("a", 1), *noise(300, "b"), completed("b")))
    quiet = snapshot_of(fold(completed("a", 1), completed("b")))
    assert len(loud.body) < len(quiet.body) + 20
    assert weight(fold_from(loud, "r")) == weight(fold_from(quiet, "r"))


def test_what_an_unfinished_step_goes_on_from_is_kept() -> None:
    """The last heartbeat, and the attempt that failed."""
    found = fold_from(snapshot_of(fold(*noise(3))), "r")
    assert found.heartbeats == {"a": 2}
    assert found.failed_attempts["a"].error["message"] == "m" * 100


def test_a_redrive_folds_changes_again() -> None:
    """Also those that stand before the snapshot."""
    change = {"x": ["set", 1]}, {"x": ["set", 2]}
    before = [completed("a", patch=change[0]), completed("b", patch=change[1])]
    failed = StepFailed(at=T0, key="c", name="c", started_at=T0, attempts=1, error=ERROR)
    again = RunRedriven(at=T0, dropped=("b", "c"))
    whole = fold(*before, failed, again)
    found = fold_from(snapshot_of(fold(*before, failed)), "r")
    found.extend(records([STARTED, *before, failed, again])[4:])
    assert all_of(found) == all_of(whole)
    assert found.context.tree == {"x": 1}


LARGE = "m" * 40_000


def test_large_values_stay_where_they_are() -> None:
    """Outputs, also the last one, values and whole fields of a context."""
    log: list[Fact] = [
        completed("a", LARGE, patch={"text": ["set", LARGE]}),
        completed("b", {"text": LARGE, "n": 1}),
        ValueDrawn(at=T0, key="$v", value="v" * 40_000),
    ]
    whole = fold(*log)
    made = snapshot_of(whole)
    assert len(made.body) < 4_000
    assert blobs_of(made) == blobs(*log).keys()
    assert all_of(fold_from(made, "r", blobs(*log))) == all_of(whole)


def test_fields_of_any_name_are_no_blobs() -> None:
    """A context may have one that is called as a tag is."""
    log = [completed("a", LARGE, patch={"$": ["set", "blob"], "v": ["set", "x"]})]
    made = snapshot_of(fold(*log))
    assert all_of(fold_from(made, "r", blobs(*log))) == all_of(fold(*log))


def test_a_large_field_that_no_fact_has_as_a_whole_is_in_the_snapshot() -> None:
    """The store is given no blobs with it."""
    log = [completed("a", patch={"text": ["set", "m" * 20_000]}), completed("b", patch={"text": ["add", "m" * 20_000]})]
    whole = fold(*log)
    made = snapshot_of(whole)
    assert blobs_of(made) == set()
    assert all_of(fold_from(made, "r")) == all_of(whole)


@pytest.mark.parametrize("data", [{}, {"0" * 64: b'"another"'}])
def test_one_whose_blobs_are_missing_or_damaged_is_refused(data: dict[str, bytes]) -> None:
    made = snapshot_of(fold(completed("a", LARGE)))
    with pytest.raises(SerializationError):
        fold_from(made, "r", data)


def sealed(made: Snapshot, line: bytes) -> Snapshot:
    return replace(made, body=next_hash(made.hash, line).encode() + b"\n" + line)


MADE = snapshot_of(fold(completed("a", 1)))
LINE = MADE.body.partition(b"\n")[2]


@pytest.mark.parametrize(
    "broken",
    [
        replace(MADE, body=b""),
        replace(MADE, body=b"{}"),
        replace(MADE, body=MADE.body[:-1]),
        replace(MADE, body=MADE.body.replace(b'"p"', b'"q"')),
        replace(MADE, hash="0" * 64),
        sealed(replace(MADE, seq=1), LINE),
        sealed(replace(MADE, hash="0" * 64), LINE),
        sealed(MADE, b"["),
        sealed(MADE, b"[]"),
        sealed(MADE, b'{"format":%d}' % FORMAT),
        sealed(MADE, LINE.replace(b'"format":%d' % FORMAT, b'"format":%d' % (FORMAT + 1))),
        sealed(MADE, LINE.replace(b'"outcomes":[0]', b'"outcomes":[7]')),
        sealed(MADE, LINE.replace(b'"RunStarted"', b'"RunEnded"')),
        sealed(MADE, LINE.replace(b'"timers":{}', b'"timers":[]')),
    ],
)
def test_one_that_is_broken_is_refused(broken: Snapshot) -> None:
    """Cut off, changed, moved to another place of the log, or of another version."""
    assert broken != MADE
    with pytest.raises(SerializationError):
        fold_from(broken, "r")


def test_one_of_another_run_is_refused() -> None:
    with pytest.raises(SerializationError):
        fold_from(MADE, "another")


def test_a_fork_has_its_own_name() -> None:
    whole = fold(completed("a"), RunForked(at=T0 + timedelta(1), run_id="fork", source_run_id="r"))
    assert all_of(fold_from(snapshot_of(whole), "fork")) == all_of(whole)
