"""The fold of a log: facts become the state of a run."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flujo_async._codec.facts import decode_fact
from flujo_async._codec.values import Codec
from flujo_async._log.chain import GENESIS, next_hash
from flujo_async._log.fold import Fold, fold_log
from flujo_async._log.inputs import input_of
from flujo_async._log.views import commit_of, workflow_state
from flujo_async._model.facts import (
    AttemptFailed,
    BlockCompleted,
    ChoiceMade,
    EventEmitted,
    Fact,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunMigrated,
    RunPaused,
    RunResumed,
    RunStarted,
    StepCompleted,
    StepFailed,
)
from flujo_async._model.state import StepStatus, Waiting
from flujo_async._model.stored import Record
from flujo_async.errors import IntegrityError
from tests.log.made import all_of, logs, records, seal

T0 = datetime(2026, 1, 1, tzinfo=UTC)
STARTED = RunStarted(
    at=T0,
    run_id="r",
    pipeline_name="p",
    pipeline_version="1",
    fingerprint="f",
    input=5,
    context={"n": 1},
    metadata={"who": "Ada"},
)
ERROR: Any = {"type": "builtins:ValueError", "message": "bad"}


def completed(key: str, output: Any = None, *, second: int = 1, **fields: Any) -> StepCompleted:
    name = key.rpartition("/")[2]
    at = T0 + timedelta(seconds=second)
    return StepCompleted(at=at, key=key, name=name, started_at=T0, attempts=1, output=output, **fields)


def fold(*log: Fact) -> Fold:
    return fold_log("r", records([STARTED, *log]))


@given(logs, st.data())
def test_a_prefix_and_the_rest_are_the_whole(log: list[Fact], data: st.DataObject) -> None:
    """A cached fold goes on where it was: nothing depends on how a log was read."""
    sealed = records(log)
    cut = data.draw(st.integers(1, len(log)))
    continued = fold_log("r", sealed[:cut])
    for record in sealed[cut:]:
        continued.apply(decode_fact(record.body), record)
    assert all_of(continued) == all_of(fold_log("r", sealed))
    assert continued.update() == fold_log("r", sealed).update()


@given(logs)
def test_folding_changes_no_fact(log: list[Fact]) -> None:
    """The contexts of the fold are its own."""
    before = [repr(fact) for fact in log]
    sealed = records(log)
    folded = Fold(log[0])  # type: ignore[arg-type]
    for fact, record in zip(log, sealed, strict=True):
        folded.apply(fact, record)
    assert [repr(fact) for fact in log] == before
    assert (folded.seq, folded.hash) == (len(log), sealed[-1].hash)
    assert folded.prev_hash == (sealed[-2].hash if len(log) > 1 else GENESIS)


@pytest.mark.parametrize(
    ("log", "index"),
    [
        ([], 0),
        ([completed("a")], 1),
        ([completed("a"), completed("b")], 2),
        ([completed("parallel/a"), completed("parallel/b")], 0),
        ([completed("parallel/a"), BlockCompleted(at=T0, key="parallel")], 1),
        ([BlockCompleted(at=T0, key="loop/0/parallel", patch={"n": ["set", 2]})], 0),
        ([completed("loop/0/a"), ChoiceMade(at=T0, key="loop/0", choice=True), BlockCompleted(at=T0, key="loop")], 1),
        ([StepFailed(at=T0, key="a", name="a", started_at=T0, attempts=1, error=ERROR)], 0),
        ([AttemptFailed(at=T0, key="a", name="a", attempt=1, error=ERROR, retry_at=T0), completed("a")], 1),
        ([EventEmitted(at=T0, key="a", name="a", data=1), completed("a"), RunResumed(at=T0, owner="o")], 1),
    ],
)
def test_the_index_counts_top_level_elements_that_are_done(log: list[Fact], index: int) -> None:
    """A combinator counts once, when all of it is done; what is inside does not count."""
    folded = fold(*log)
    assert (folded.current_step_index, folded.update().current_step_index) == (index, index)


@pytest.mark.parametrize(
    ("fact", "status"),
    [
        (RunCompleted(at=T0, output=1), "completed"),
        (RunFailed(at=T0, error=ERROR), "failed"),
        (RunCancelled(at=T0, reason="why"), "cancelled"),
        (RunPaused(at=T0, waiting_for=(Waiting(kind="pause", name="x", since=T0),)), "paused"),
        (RunResumed(at=T0, owner="o"), "running"),
    ],
)
def test_the_last_word_is_the_status(fact: Fact, status: str) -> None:
    """And goes into the head."""
    folded = fold(completed("a"), fact)
    assert (folded.status, folded.update().change.status) == (status, status)
    assert (folded.finished_at is not None) == (status in ("completed", "failed", "cancelled"))


def test_a_resumed_run_waits_for_nothing() -> None:
    """Its waits are gone from the head."""
    waiting = Waiting(kind="signal", name="x", since=T0)
    paused = RunPaused(at=T0, waiting_for=(waiting,))
    assert fold(paused).update().change.waiting_for == (waiting,)
    assert fold(paused, RunResumed(at=T0, owner="o")).update().change.waiting_for == ()


def test_what_branches_change_is_changed_when_their_block_is_done() -> None:
    """Their own contexts matter to who executes them only."""
    branch_change = completed("parallel/a", scope="parallel/a", patch={"n": ["set", 2]})
    assert fold(branch_change).context.tree == {"n": 1}
    merged = fold(branch_change, BlockCompleted(at=T0, key="parallel", patch={"n": ["set", 3], "m": ["set", 1]}))
    assert merged.context.tree == {"n": 3, "m": 1}


def test_a_migration_changes_definition_and_context() -> None:
    """From then on."""
    folded = fold(
        completed("a", patch={"n": ["set", 2]}),
        RunMigrated(at=T0, pipeline_version="2", fingerprint="g", patch={"n": ["set", 9]}),
    )
    assert (folded.pipeline_version, folded.fingerprint, folded.context.tree) == ("2", "g", {"n": 9})
    assert folded.update().change.pipeline_version == "2"


@pytest.mark.parametrize(
    ("fields", "value"),
    [
        ({"source": ""}, 5),
        ({"source": "a"}, [10, 20]),
        ({"source": "a[1]"}, 20),
        ({"source": None, "input": "inline"}, "inline"),
        ({"source": None, "input": None}, None),
    ],
)
def test_an_input_is_found_where_it_came_from(fields: dict[str, Any], value: Any) -> None:
    """The run's input, an output, an item of one, or itself."""
    folded = fold(completed("a", [10, 20]), completed("b", **fields))
    assert input_of(folded, folded.outcomes["b"]) == value


def test_the_state_of_a_run_shows_what_was_folded() -> None:
    """``WorkflowState``, with values decoded."""
    log = [
        STARTED,
        AttemptFailed(at=T0, key="b", name="b", attempt=2, error=ERROR, retry_at=T0),
        completed("a", {"$": "tuple", "v": [1]}, source="", second=7),
    ]
    sealed = records(log)
    state = workflow_state(fold_log("r", sealed), Codec())
    assert (state.run_id, state.pipeline_id, state.pipeline_name, state.pipeline_version) == ("r", "f", "p", "1")
    assert (state.current_step_index, state.last_step_output, state.pipeline_context) == (1, (1,), {"n": 1})
    assert (state.created_at, state.updated_at) == (T0, T0 + timedelta(seconds=7))
    assert (state.version, state.hash, state.prev_hash) == (3, sealed[2].hash, sealed[1].hash)
    assert [(record.key, record.status, record.attempts) for record in state.step_history] == [
        ("a", StepStatus.SUCCEEDED, 1),
        ("b", StepStatus.RUNNING, 2),
    ]
    assert state.metadata == {"who": "Ada"}
    assert [commit_of(record).step for record in sealed] == [None, "b", "a"]


@pytest.mark.parametrize(
    ("log", "seq"),
    [
        ([], 1),
        ([completed("a")], 1),
        ([RunResumed(at=T0, owner="o"), STARTED], 1),
    ],
)
def test_a_log_begins_with_its_start(log: list[Fact], seq: int) -> None:
    """Anything else is a broken log."""
    with pytest.raises(IntegrityError) as caught:
        fold_log("r", records(log))
    assert (caught.value.run_id, caught.value.seq) == ("r", seq)


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b"{}", b'{"kind":"Nonsense"}', b'{"kind":"RunResumed"}', b"\xff"]
)
def test_a_body_that_is_no_fact_is_a_broken_log(body: bytes) -> None:
    """Though its hash is right; the error names its ``seq``."""
    [first] = seal([STARTED], after=0, prev_hash=GENESIS)
    second = Record(2, body, next_hash(first.hash, body))
    with pytest.raises(IntegrityError) as caught:
        fold_log("r", [first, second])
    assert (caught.value.run_id, caught.value.seq) == ("r", 2)


@pytest.mark.parametrize("patch", [{"n": ["replace", 1]}, {"n": None}])
def test_a_malformed_patch_is_a_broken_log(patch: Any) -> None:
    """It may come from a newer version of this package, or from nowhere good."""
    with pytest.raises(IntegrityError):
        fold(completed("a", patch=patch))
