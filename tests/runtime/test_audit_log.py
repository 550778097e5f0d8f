"""The audit log: what a person may be asked about later, over all runs."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flujo_async import Flujo, RunContext, StepContext, sleep, step, wait_for, workflow
from flujo_async.abc import StateBackend
from flujo_async.backends.sqlite import SQLiteBackend
from flujo_async.errors import BackendError, InvalidArgument, RunFailed
from flujo_async.testing import FaultyBackend, VirtualClock
from tests.runtime.crashes import gone_to_sleep
from tests.runtime.stores import Store


@step
async def undo(value: Any, ctx: StepContext) -> None: ...


@step(compensate=undo)
async def pay(value: str) -> str:
    return value


@step
async def fail(value: Any) -> str:
    raise ValueError("no")


def told(events: list[Any]) -> list[tuple[str, str]]:
    return [(event.run_id, event.event) for event in reversed(events)]


async def test_the_usual_course_of_a_run_is_not_in_it(backend: StateBackend) -> None:
    runner = Flujo(pay, state_backend=backend)
    await runner.run("a")
    assert await runner.audit_log() == []


async def test_it_tells_who_answered_and_when(store: Store) -> None:
    """The moment of the answer is that of the posting."""
    clock = VirtualClock()
    runner = Flujo(wait_for("approval") >> pay, state_backend=store.open(), clock=clock)
    await runner.run("a", run_id="r")
    posted_at = clock.now()
    await runner.signal("r", "approval", "yes", by="alice")
    await runner.run(run_id="r")
    events = await runner.audit_log("r")
    told_of = [event for _, event in told(events) if event != "workflow.resumed"]  # whoever was the first to look
    assert told_of == ["workflow.paused", "signal.received"]
    answer = events[0]
    assert (answer.step, answer.by) == ("approval", "alice")
    assert answer.details == {"name": "approval", "signal_id": "approval#1", "sent_at": posted_at.isoformat()}
    await runner.aclose()


@pytest.mark.parametrize("by", [5, "a\ud800", object()])
async def test_who_answers_is_a_text(store: Store, by: Any) -> None:
    """Anything else is refused before it stands beside the log, where it would keep the run from going on."""
    runner = Flujo(wait_for("approval"), state_backend=store.open())
    await runner.run("a", run_id="r")
    with pytest.raises(InvalidArgument, match="by="):
        await runner.signal("r", "approval", "no", by=by)
    await runner.signal("r", "approval", "yes", by="alice")
    assert (await runner.run(run_id="r")).output == "yes"


async def test_compensations_and_dead_letters_are_in_it(backend: StateBackend) -> None:
    """A run that fails is told with its error, and what was undone before."""
    runner = Flujo(pay >> fail, state_backend=backend)
    with pytest.raises(RunFailed):
        await runner.run("a", run_id="r")
    events = await runner.audit_log()
    assert [event.event for event in reversed(events)] == [
        "compensation.started",
        "compensation.completed",
        "workflow.dead_lettered",
    ]
    assert events[0].details == {"error": "ValueError: no"}
    assert events[1].step == "pay/compensate"
    with pytest.raises(RunFailed):
        await runner.redrive("r")
    assert "workflow.redriven" in {event.event for event in await runner.audit_log()}


async def test_it_tells_what_was_recovered_from_what_was_resumed(store: Store) -> None:
    """Somebody asked for one run; the other was found without an owner."""
    for run_id in ("asked", "found"):
        faulty = FaultyBackend(store.open())
        faulty.fail("append", nth=1)
        with pytest.raises(BackendError):
            await Flujo(pay, state_backend=faulty).run("a", run_id=run_id)
    runner = Flujo(pay, state_backend=store.open())
    await runner.run(run_id="asked")
    assert await runner.recover() == ["found"]
    events = {event.run_id: event for event in await runner.audit_log()}
    assert events["asked"].event == "workflow.resumed"
    assert events["found"].event == "workflow.recovered"
    assert events["found"].by


async def test_runs_that_wake_or_come_from_a_queue_are_not_in_it(backend: StateBackend) -> None:
    """That is how they are meant to go on."""
    runner = Flujo(wait_for("a", timeout=0.01, default=1) >> pay, state_backend=backend)
    handle = await runner.start("x", run_id="r")
    async with asyncio.timeout(20):
        while await handle.status() != "completed":
            await asyncio.sleep(0.01)
    assert {event.event for event in await runner.audit_log()} <= {"workflow.paused", "signal.missed"}
    await runner.aclose()


async def test_a_fork_tells_its_own_part(store: Store) -> None:
    """What it shares is told of its source, and goes with that."""
    runner = Flujo(pay >> fail, state_backend=store.open())
    with pytest.raises(RunFailed):
        await runner.run("a", run_id="r")
    await runner.fork("r", at=3, new_run_id="f")  # pay has completed, and fail has failed
    assert told(await runner.audit_log("f")) == [("f", "workflow.forked")]
    await runner.delete("r")
    assert told(await runner.audit_log()) == [("f", "workflow.forked")]
    copy = await runner.import_run(await runner.export_run("f"), "g")
    assert told(await runner.audit_log("g")) == [("g", "workflow.forked")]
    await runner.delete("f")
    moved = await runner.export_run("g")
    await runner.delete("g")
    await runner.import_run(moved)
    assert told(await runner.audit_log()) == [(copy.run_id, "workflow.forked")]


async def test_filters_go_before_the_page(store: Store) -> None:
    """By event, by moment, by run; the newest first, and the same on every store."""
    clock = VirtualClock()
    runner = Flujo(fail, state_backend=store.open(), clock=clock)
    for number in range(5):
        with pytest.raises(RunFailed):
            await runner.run(number, run_id=f"r{number}")
        clock.advance(60)
    begin = clock.now() - timedelta(minutes=5)
    assert [event.run_id for event in await runner.audit_log()] == ["r4", "r3", "r2", "r1", "r0"]
    page = await runner.audit_log(since=begin + timedelta(minutes=1), until=begin + timedelta(minutes=4), limit=2)
    assert [event.run_id for event in page] == ["r3", "r2"]
    assert [event.run_id for event in await runner.audit_log(limit=2, offset=3)] == ["r1", "r0"]
    assert await runner.audit_log(events=["signal.received"]) == []
    assert len(await runner.audit_log(events=["workflow.dead_lettered"], limit=None)) == 5
    assert await runner.audit_log("nobody") == []


async def test_a_malformed_question_is_refused() -> None:
    runner = Flujo(pay)
    with pytest.raises(InvalidArgument, match=r"workflow\.eaten.*workflow\.recovered"):
        await runner.audit_log(events=["workflow.eaten"])
    question: dict[str, Any]
    for question in ({"since": datetime(2026, 1, 1)}, {"until": "2026-01-01"}, {"since": 5}):
        with pytest.raises(InvalidArgument, match="time zone"):
            await runner.audit_log(**question)
    with pytest.raises(InvalidArgument, match="a collection"):
        await runner.audit_log(events="workflow.recovered")
    with pytest.raises(InvalidArgument):
        await runner.audit_log(limit=-1)


async def test_sqlite_asks_an_index(tmp_path: Any) -> None:
    """The answer of the query is that of reading all logs."""
    async with SQLiteBackend(tmp_path / "runs.db") as backend:
        runner = Flujo(pay >> fail, state_backend=backend)
        for number in range(3):
            with pytest.raises(RunFailed):
                await runner.run(str(number))
        from flujo_async.abc import AuditQuery

        now = datetime.now(UTC)
        for query in (AuditQuery(), AuditQuery(limit=4, offset=1), AuditQuery(until=now, events=frozenset({"x"}))):
            assert await backend.read_audit(query) == await StateBackend.read_audit(backend, query)


async def test_a_run_that_is_awaited_through_its_sleep_leaves_no_line(backend: StateBackend) -> None:
    """It leaves memory and is taken up by who waits for it: nobody has asked for that."""
    clock = VirtualClock()
    flujo = Flujo(sleep(3600) >> pay, state_backend=backend, clock=clock)
    running = asyncio.create_task(flujo.run("a", run_id="r"))
    await gone_to_sleep(flujo)
    clock.advance(3600)
    assert (await running).status == "completed"
    history = await Flujo(pay, state_backend=backend).history("r")
    assert "RunResumed" in {commit.fact.kind for commit in history}
    assert await Flujo(pay, state_backend=backend).audit_log() == []


async def test_an_early_answer_that_does_not_fit_is_told_with_who_sent_it(backend: StateBackend) -> None:
    """It was posted before anybody knew what the run would ask for."""

    @workflow(name="w", version="1")
    async def ask(value: str, ctx: RunContext) -> int:
        return await ctx.wait_for("approval", schema=int)

    runner = Flujo(ask, state_backend=backend)
    await runner.dispatch("a", run_id="r")
    await runner.signal("r", "approval", "perhaps", by="eve")
    assert (await runner.run(run_id="r")).status == "paused"
    (refused,) = await runner.audit_log(events=["signal.refused"])
    assert (refused.by, refused.details["name"]) == ("eve", "approval")
    await runner.aclose()
