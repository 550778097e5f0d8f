"""What can be done with a log that is past: differences, and what runs again."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flujo_async._codec.values import Codec
from flujo_async._log.fold import Fold, fold_log
from flujo_async._log.history import Change, changes, children_to_redrive, failed_last, to_drop
from flujo_async._model.facts import (
    ChildStarted,
    Fact,
    RollbackStarted,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunForked,
    RunRedriven,
    RunResumed,
    RunStarted,
    StateChanged,
    StepCancelled,
    StepCompleted,
    StepFailed,
    StepSkipped,
    TimerFired,
    TimerStarted,
)
from tests.log.made import logs, records

T0 = datetime(2026, 1, 1, tzinfo=UTC)
STARTED = RunStarted(
    at=T0, run_id="r", pipeline_name="p", pipeline_version="1", fingerprint="f", input=5, context={"n": 1, "l": [1, 2]}
)
ERROR: Any = {"type": "builtins:ValueError", "message": "bad"}


def done(key: str, output: Any = None, **fields: Any) -> StepCompleted:
    return StepCompleted(at=T0, key=key, name=key, started_at=T0, attempts=1, output=output, **fields)


def failed(key: str) -> StepFailed:
    return StepFailed(at=T0, key=key, name=key, started_at=T0, attempts=1, error=ERROR)


def ended(*keys: str) -> RunFailed:
    return RunFailed(at=T0, error=ERROR, keys=keys)


def fold(*log: Fact) -> Fold:
    return fold_log("r", records([STARTED, *log]))


# ----------------------------------------------------------------------------------------------------- differences


@pytest.mark.parametrize(
    ("patch", "expected"),
    [
        ({}, []),
        ({"n": ["set", 1]}, []),
        ({"n": ["set", 2]}, [("context.n", 1, 2)]),
        ({"n": ["set", True]}, [("context.n", 1, True)]),
        ({"n": ["drop"]}, [("context.n", 1, None, "removed")]),
        ({"m": ["set", {"a": 1}]}, [("context.m", None, {"a": 1}, "added")]),
        ({"l": ["set", [1, 3, 4]]}, [("context.l[1]", 2, 3), ("context.l[2]", None, 4, "added")]),
        ({"l": ["set", []]}, [("context.l[0]", 1, None, "removed"), ("context.l[1]", 2, None, "removed")]),
        ({"n": ["set", None]}, [("context.n", 1, None)]),
        ({"m": ["set", None]}, [("context.m", None, None, "added")]),
        ({"l": ["set", [1, 2, None]]}, [("context.l[2]", None, None, "added")]),
        ({"l": ["set", [None, None]]}, [("context.l[0]", 1, None), ("context.l[1]", 2, None)]),
        ({"l": ["set", {"$": "tuple", "v": [1, 2]}]}, [("context.l", [1, 2], (1, 2))]),
    ],
)
def test_a_change_of_the_context_is_told_as_deep_as_it_is(patch: Any, expected: list[Any]) -> None:
    """With values decoded."""
    found = changes(fold(), fold(StateChanged(at=T0, key="$state", patch=patch)), Codec())
    assert found == [Change(*each) for each in expected]


def test_steps_are_told_by_their_keys() -> None:
    """Those that failed with their error."""
    found = changes(fold(), fold(done("c"), done("parallel/a", 1), failed("b")), Codec())
    paths = {change.path: (change.after, change.kind) for change in found}
    assert paths == {
        "steps.c": (None, "added"),
        "steps.parallel/a": (1, "added"),
        "steps.b": ({"error": ERROR}, "added"),
        "current_step_index": (1, "changed"),
        "last_step_output": (1, "changed"),
    }


@given(logs)
def test_nothing_differs_from_itself(log: list[Fact]) -> None:
    """Whatever the log."""
    assert changes(fold_log("r", records(log)), fold_log("r", records(log)), _Plain()) == []


@given(logs, st.data())
def test_the_reverse_is_the_same_the_other_way_round(log: list[Fact], data: st.DataObject) -> None:
    """Path by path."""
    sealed = records(log)
    one = fold_log("r", sealed[: data.draw(st.integers(1, len(sealed)))])
    other = fold_log("r", sealed)
    there = [(each.path, repr(each.before), repr(each.after), each.kind) for each in changes(one, other, _Plain())]
    turned = {"added": "removed", "removed": "added", "changed": "changed"}
    back = [
        (each.path, repr(each.after), repr(each.before), turned[each.kind]) for each in changes(other, one, _Plain())
    ]
    assert sorted(there) == sorted(back)


class _Plain(Codec):
    """Leaves trees as they are: those that are made up here are not all values."""

    def decode(self, tree: Any, *, at: str = "value") -> Any:
        return tree


# -------------------------------------------------------------------------------------------------- what runs again


@pytest.mark.parametrize(
    ("log", "dropped"),
    [
        ([done("a"), failed("b"), ended("b")], ["b", "b/fallback"]),
        ([failed("a"), done("a/fallback"), failed("b"), ended("b")], ["b", "b/fallback"]),
        ([failed("a"), failed("a/fallback"), ended("a/fallback", "a")], ["a/fallback", "a/fallback/fallback", "a"]),
        ([failed("caught"), ended()], []),
        (
            [failed("graph/a"), StepCancelled(at=T0, key="graph/b", name="b"), ended("graph/a")],
            ["graph/a", "graph/a/fallback", "graph/b"],
        ),
        (
            [failed("graph/a"), StepSkipped(at=T0, key="graph/b", name="b"), ended("graph/a")],
            ["graph/a", "graph/a/fallback"],
        ),
        (
            [
                done("a"),
                done("b"),
                TimerStarted(at=T0, key="sleep", wake_at=T0),
                TimerFired(at=T0, key="sleep"),
                done("c"),
                failed("d"),
                RollbackStarted(at=T0, status="failed", error=ERROR, keys=("d",)),
                done("b/compensate"),
                ended("d"),
            ],
            ["d", "d/fallback", "b", "sleep", "c", "b/compensate"],
        ),
    ],
)
def test_what_failed_runs_again_and_what_came_after_what_was_undone(log: list[Fact], dropped: list[str]) -> None:
    """Everything else stays done; failures that were caught do not count."""
    folded = fold(*log)
    assert [key for key in to_drop(folded) if key in dropped] == dropped
    assert set(to_drop(folded)) - set(dropped) <= {f"{key}/fallback" for key in dropped}


def test_a_redriven_run_has_forgotten_what_runs_again() -> None:
    """With what it changed; the rest is as it was."""
    log: list[Fact] = [
        done("a", 1, patch={"n": ["set", 2]}),
        done("b", 2, patch={"n": ["set", 3], "m": ["set", 1]}),
        failed("c"),
        RollbackStarted(at=T0, status="failed", error=ERROR, keys=("c",)),
        done("b/compensate", patch={"m": ["drop"]}),
        ended("c"),
    ]
    before = fold(*log)
    after = fold(*log, RunRedriven(at=T0 + timedelta(seconds=1), dropped=to_drop(before)))
    assert (after.status, after.error, after.finished_at, after.rollback) == ("running", None, None, None)
    assert list(after.outcomes) == ["a"]
    assert after.order == ["a"]
    assert (after.failures, after.failed_keys) == ([], ())
    assert after.context.tree == {"n": 2, "l": [1, 2]}
    assert (after.current_step_index, after.last_step_output) == (1, 1)


def test_a_run_that_is_tried_again_or_forked_has_the_whole_time() -> None:
    """From that moment on."""
    minute, later = timedelta(minutes=1), T0 + timedelta(hours=1)
    started = RunStarted(
        at=T0, run_id="r", pipeline_name="p", pipeline_version="1", fingerprint="f", input=5, deadline=T0 + minute
    )
    forked = RunForked(at=later, run_id="f", source_run_id="r")
    for fact in (RunRedriven(at=later), forked):
        folded = fold_log("r", records([started, ended(), fact]))
        assert folded.deadline == later + minute
    assert fold_log("r", records([started])).deadline == T0 + minute
    assert fold(forked).deadline is None


def test_children_that_have_not_succeeded_are_tried_again_with_their_parent() -> None:
    """Those whose output is taken stay as they are."""
    children = [
        ChildStarted(at=T0, key=key, name=key, run_id=f"r/{key}") for key in ("done", "failed", "open", "caught")
    ]
    folded = fold(*children, done("done"), failed("caught"), failed("failed"), ended("failed"))
    assert children_to_redrive(folded) == ["failed", "open"]


def test_a_fork_shares_only_the_children_that_have_ended() -> None:
    """Of the others it starts its own; what it changes in the context comes last."""
    children = [ChildStarted(at=T0, key=key, name=key, run_id=f"r/{key}") for key in ("done", "open")]
    forked = RunForked(at=T0, run_id="f", source_run_id="r", patch={"n": ["set", 9]})
    folded = fold(*children, done("done", patch={"n": ["set", 2]}), RunCompleted(at=T0, output=1), forked)
    assert (folded.run_id, folded.status, folded.finished_at) == ("f", "pending", None)
    assert folded.children == {"done": "r/done"}
    assert folded.context.tree["n"] == 9


@pytest.mark.parametrize(
    ("log", "is_asleep"),
    [
        ([], False),
        ([done("a")], False),
        ([TimerStarted(at=T0, key="s", wake_at=T0 + timedelta(hours=1))], True),
        ([TimerStarted(at=T0, key="s", wake_at=T0)], False),
        ([TimerStarted(at=T0, key="s", wake_at=T0 + timedelta(hours=1)), TimerFired(at=T0, key="s")], False),
        ([ChildStarted(at=T0, key="c", name="c", run_id="c")], True),
        ([ChildStarted(at=T0, key="c", name="c", run_id="c"), done("c")], False),
    ],
)
def test_a_run_sleeps_for_a_timer_or_a_child(log: list[Fact], is_asleep: bool) -> None:
    """And for nothing else."""
    assert fold(*log).is_asleep(T0) is is_asleep


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ([], []),
        ([failed("a"), done("b")], []),
        ([failed("a"), TimerStarted(at=T0, key="b", wake_at=T0)], []),
        ([done("a"), failed("b")], ["b"]),
        ([failed("a"), done("b"), failed("c"), failed("d")], ["d", "c"]),
    ],
)
def test_a_cancelled_run_tries_again_what_had_just_failed(log: list[Fact], expected: list[str]) -> None:
    """Not what was made up for: something stands behind that. That the run was taken up counts for nothing."""
    resumed = fold(*log, RunResumed(at=T0, owner="o"))
    assert failed_last(fold(*log), range(0)) == expected
    assert failed_last(resumed, range(resumed.seq, resumed.seq + 1)) == expected
    cancelled = fold(*log, RunCancelled(at=T0, keys=tuple(expected)))
    assert set(expected) <= set(to_drop(cancelled))
