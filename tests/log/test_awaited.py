"""What a run waits for: each pause tells what is new since the last one."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from flujo_async._codec.facts import encode_fact
from flujo_async._log.awaited import Asked, Awaited, told_waits
from flujo_async._log.fold import Fold, fold_log
from flujo_async._log.snapshot import fold_from, snapshot_of
from flujo_async._model.facts import Fact, RunForked, RunMigrated, RunPaused, RunRedriven, RunResumed, RunStarted
from flujo_async._model.state import Waiting
from tests.log.made import all_of, records

T0 = datetime(2026, 1, 1, tzinfo=UTC)
STARTED = RunStarted(at=T0, run_id="r", pipeline_name="p", pipeline_version="1", fingerprint="f", input=1)
RESUMED = RunResumed(at=T0, owner="o")


def answer(name: str, run_id: str | None = None, **fields: object) -> Waiting:
    return Waiting(kind="signal", name=name, since=T0, run_id=run_id, **fields)  # type: ignore[arg-type]


asked: st.SearchStrategy[Asked] = st.tuples(
    st.builds(
        Waiting,
        kind=st.sampled_from(["signal", "decision"]),
        name=st.sampled_from("ab"),
        since=st.sampled_from([T0, T0 + timedelta(hours=1)]),
        schema=st.sampled_from([None, {"type": "integer"}, {"type": "string"}]),
        run_id=st.sampled_from([None, "child", "grandchild"]),
    ),
    st.sampled_from([None, "child"]),
)


def fold(*log: Fact) -> Fold:
    return fold_log("r", records([STARTED, *log]))


@given(st.lists(st.lists(asked, max_size=4), max_size=6))
def test_whatever_is_waited_for_is_known_after_each_pause(pauses: list[list[Asked]]) -> None:
    """Each of them, as often as it is waited for, and through which child; in the log and in a snapshot."""
    log: list[Fact] = [STARTED]
    for number, asked in enumerate(pauses):
        now = fold_log("r", records(log))
        log += [RESUMED, now.awaited.paused(T0, asked, number)]
        for found in (fold_log("r", records(log)), fold_from(snapshot_of(fold_log("r", records(log))), "r")):
            assert sorted(map(repr, found.awaited.asked.values())) == sorted(map(repr, asked))
            assert sorted(map(repr, found.waiting_for)) == sorted(repr(waiting) for waiting, _ in asked)
            assert found.awaited.signals == number
            assert found.update().change.waiting_for == found.waiting_for
        assert all_of(found) == all_of(fold_log("r", records(log)))


def test_a_pause_tells_what_is_new_and_what_is_gone() -> None:
    """Of what stays it tells only how much that is."""
    waits = [(answer(f"{number}"), None) for number in range(50)]
    first = Awaited().paused(T0, waits, 0)
    awaited = fold(first).awaited
    second = awaited.paused(T0, [*waits[:7], *waits[8:], (answer("new"), None)], 1)
    assert (second.gone, second.kept, second.waiting_for, second.signals) == ((7,), 49, (answer("new"),), 1)
    assert len(encode_fact(second)) < 300
    awaited.take_in(second)
    assert awaited.paused(T0, waits[8:], 2).gone == (*range(7), 50)


def test_a_pause_is_told_first() -> None:
    """It keeps all else from going on, wherever it stands in the log."""
    paused = Waiting(kind="pause", name="pause", since=T0)
    deadline = T0 + timedelta(hours=1)
    waits = [(answer("a", deadline=deadline), None), (answer("b", "child"), "child")]
    found = fold(Awaited().paused(T0, waits, 0))
    assert found.wake_at == deadline
    log = [Awaited().paused(T0, waits, 0), found.awaited.paused(T0, [*waits, (paused, None)], 0)]
    assert [waiting.name for waiting in fold(*log).waiting_for] == ["pause", "a", "b"]
    assert fold(*log).wake_at is None
    assert fold(*log, RESUMED).waiting_for == ()
    assert fold(*log, RESUMED).awaited.children() == {"child": [answer("b", "child")]}


def test_after_a_fork_a_redrive_or_a_migration_a_pause_tells_all() -> None:
    """Nothing that was seen of children before counts any more."""
    first = Awaited().paused(T0, [(answer("a", "child"), "child")], 3)
    forked = RunForked(at=T0, run_id="f", source_run_id="r")
    migrated = RunMigrated(at=T0, pipeline_version="2", fingerprint="g")
    for fact in (forked, RunRedriven(at=T0), migrated):
        found = fold(first, fact)
        assert (found.awaited.children(), found.awaited.signals, found.waiting_for) == ({}, 0, ())
        again = found.awaited.paused(T0, [(answer("a", "child"), "child")], 0)
        assert again == RunPaused(at=T0, waiting_for=(answer("a", "child"),))
        assert fold(first, fact, again).waiting_for == (answer("a", "child"),)


def test_a_pause_tells_in_words_what_is_new_and_how_much_is_not() -> None:
    """What was told before is counted, since a pause does not repeat it."""
    first = fold().awaited.paused(T0, [(answer("a"), None), (answer("b"), None)], 0)
    again = fold(first, RESUMED).awaited.paused(T0, [(answer("b"), None), (answer("c"), None)], 0)
    nothing = fold(first, RESUMED).awaited.paused(T0, [], 0)
    assert [told_waits(fact, lambda waiting: waiting.name) for fact in (first, again, nothing)] == [
        ["a", "b"],
        ["c", "1 as before"],
        [],
    ]
