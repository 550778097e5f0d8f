"""What instruments hear of a run, and that they cannot disturb it."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import pytest
from typing_extensions import override

from flujo_async import Flujo, InMemoryBackend, Retry, StepContext, child, errors, parallel, step, wait_for, workflow
from flujo_async._log.views import Commit
from flujo_async.abc import AttemptIdentity, Instrument, RunIdentity
from flujo_async.testing import FaultyBackend, VirtualClock
from tests.telemetry.recorder import IN, Recorder


@step
async def where(_: Any) -> str:
    await asyncio.sleep(0)  # others have their turn, with variables of their own
    return IN.get()


@step(name="in_thread")
def where_in_thread(_: Any) -> str:
    return IN.get()


@step(retry=Retry(max_attempts=2, base=0))
async def flaky(value: int, ctx: StepContext) -> int:
    if ctx.attempt == 1:
        raise ValueError("the first time")
    return value + 1


async def test_an_instrument_hears_of_every_fact_of_a_run() -> None:
    recorder = Recorder()
    flujo = Flujo(flaky, state_backend=InMemoryBackend(), instruments=[recorder])
    await flujo.run(1, run_id="r", metadata={"of": "me"})
    assert recorder.facts() == [(commit.seq, commit.fact.kind) for commit in await flujo.history("r")]
    assert recorder.facts() == [(1, "RunStarted"), (2, "AttemptFailed"), (3, "StepCompleted"), (4, "RunCompleted")]
    run = recorder.runs[-1]
    assert (run.run_id, run.pipeline_name, run.parent_run_id) == ("r", "flaky", None)
    assert run.began_at == run.started_at == (await flujo.list_runs())[0].created_at


async def test_what_was_not_written_is_not_told() -> None:
    """And what was told is not told again when the run is resumed."""
    faulty, recorder = FaultyBackend(InMemoryBackend()), Recorder()
    faulty.fail("append", nth=2)
    with pytest.raises(errors.BackendError):
        await Flujo(where >> where, state_backend=faulty, instruments=[recorder]).run(1, run_id="r")
    assert recorder.facts() == [(1, "RunStarted"), (2, "StepCompleted")]
    again = Recorder()
    flujo = Flujo(where >> where, state_backend=faulty, instruments=[again])
    await flujo.run(run_id="r")
    assert recorder.facts() + again.facts() == [(c.seq, c.fact.kind) for c in await flujo.history("r")]
    assert again.facts()[0] == (3, "RunResumed")


async def test_a_write_is_told_of_before_anybody_goes_on() -> None:
    """Also where the store takes its time, as all do that are not in memory."""
    faulty, recorder = FaultyBackend(InMemoryBackend()), Recorder()
    seen: list[int] = []

    @step
    async def look(_: Any) -> int:
        seen.append(len(recorder.facts()))
        return 1

    await Flujo(look >> look >> look, state_backend=faulty, instruments=[recorder]).run(1)
    assert seen == [1, 2, 3]


async def test_lowered_durability_is_told_when_it_is_durable() -> None:
    recorder = Recorder()
    flujo = Flujo(where >> where, instruments=[recorder], durability="exit")
    await flujo.run(1, run_id="r")
    assert recorder.of("attempt")[-1] == ("where@2", "ends")
    order = [entry for entry in recorder.heard if entry[0] == "fact" or entry[2] == "ends"]
    assert [entry[0] for entry in order] == ["fact", "attempt", "attempt", *["fact"] * 3, "driving"]


async def test_an_attempt_is_entered_where_the_step_runs() -> None:
    """In the task of the step, or its thread; parallel ones do not see one another."""
    recorder = Recorder()
    pipeline = parallel(where, where_in_thread) >> where
    flujo = Flujo(pipeline, instruments=[recorder])
    result = await flujo.run(1, run_id="r")
    outputs = {record.key: record.output for record in result.steps}
    assert len(outputs) == 3
    assert outputs == {key: f"{key} 1" for key in outputs}
    assert IN.get() == "nothing"


async def test_concurrent_calls_of_a_workflow_have_each_its_own() -> None:
    @workflow
    async def many(count: int) -> list[str]:
        inside = [IN.get()]
        return inside + list(await asyncio.gather(*(where(number) for number in range(count)))) + [IN.get()]

    output = (await Flujo(many, instruments=[Recorder()]).run(20, run_id="r")).output
    assert output[0] == output[-1] == "run r"
    assert len(set(output[1:-1])) == 20
    assert all(text.endswith(" 1") for text in output[1:-1])


async def test_an_attempt_is_left_with_what_ended_it() -> None:
    @step(timeout=60)
    async def endless(_: int) -> None:
        await asyncio.Event().wait()

    @step(deadline=60)
    async def late(_: int) -> None:
        await asyncio.Event().wait()

    for definition, error in ((endless, "TimeoutError("), (late, "TimeoutError(")):
        recorder, clock = Recorder(), VirtualClock()
        run = asyncio.create_task(Flujo(definition, instruments=[recorder], clock=clock).run(1))
        await clock.until_asleep()
        clock.advance(60)
        with pytest.raises(errors.RunFailed):
            await run
        assert recorder.of("attempt")[-1][1].startswith(error)
    recorder = Recorder()
    await Flujo(flaky, instruments=[recorder]).run(1)
    assert [entry[1] for entry in recorder.of("attempt")] == [
        "begins",
        "ValueError('the first time')",
        "begins",
        "ends",
    ]


async def test_an_interruption_leaves_the_attempt_and_the_drive() -> None:
    recorder, is_inside = Recorder(), asyncio.Event()

    @step
    async def stop(_: int) -> None:
        is_inside.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(Flujo(stop, instruments=[recorder]).run(1, run_id="r"))
    await is_inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert recorder.of("attempt") == [("stop", "begins"), ("stop", "CancelledError()")]
    assert recorder.of("driving") == [("r", "begins"), ("r", "CancelledError()")]


async def test_what_a_run_carries_along_comes_back_in_every_process() -> None:
    """Of two instruments, the later one's word counts."""
    backend = InMemoryBackend()
    first = Recorder({"trace": "1", "mine": "first"})
    flujo = Flujo(wait_for("answer"), state_backend=backend, instruments=[first, Recorder({"trace": "2"})])
    await flujo.run(1, run_id="r")
    elsewhere = Recorder({"trace": "3"})
    flujo = Flujo(wait_for("answer"), state_backend=backend, instruments=[elsewhere])
    await flujo.signal("r", "answer", 1)
    await flujo.run(run_id="r")
    assert {str(run.carrier) for run in elsewhere.runs} == {str({"trace": "2", "mine": "first"})}
    assert elsewhere.of("carrier") == []  # asked for when a run is created, and then no more
    started: Any = (await flujo.history("r"))[0].fact
    assert started.carrier == {"trace": "2", "mine": "first"}


async def test_a_child_is_created_inside_its_parent() -> None:
    recorder = Recorder()
    await Flujo(child(where, name="inner"), instruments=[recorder]).run(1, run_id="r")
    assert recorder.of("carrier") == [("r", "nothing"), ("r/inner", "run r")]
    assert next(run.parent_run_id for run in recorder.runs if run.run_id == "r/inner") == "r"
    assert IN.get() == "nothing"


async def test_a_run_that_nobody_drives_is_told_of_as_well() -> None:
    recorder = Recorder()
    flujo = Flujo(where, instruments=[recorder])
    await flujo.dispatch(1, run_id="r")
    await flujo.pause("r")
    handle = await flujo.fork("r", new_run_id="f")
    assert next(entry[1:] for entry in recorder.heard if entry[0] == "fact") == ("r", 1, "RunStarted")
    assert recorder.heard[-1] == ("fact", "f", (await handle.history())[-1].seq, "RunForked")
    assert recorder.of("driving") == []


async def test_a_run_that_is_tried_again_says_so() -> None:
    recorder, fails = Recorder(), [True, True, False]

    @step
    async def weak(_: int) -> int:
        if fails.pop(0):
            raise ValueError("no")
        return 1

    flujo = Flujo(weak, instruments=[recorder])
    with pytest.raises(errors.RunFailed):
        await flujo.run(1, run_id="r")
    with pytest.raises(errors.RunFailed):
        await flujo.redrive("r")
    await flujo.redrive("r")
    assert len({run.started_at for run in recorder.runs}) == 1
    assert len({run.began_at for run in recorder.runs}) == 3
    assert len(recorder.facts()) == len(await flujo.history("r")) == len(dict(recorder.facts()))


class Broken(Instrument):
    """Raises wherever it is asked; its managers raise when they are left."""

    def __init__(self, *, leaves: bool = False) -> None:
        self.leaves = leaves

    @override
    def carrier(self, run: RunIdentity) -> dict[str, str]:
        return {"lone": "\ud800"} if self.leaves else 1 / 0  # type: ignore[return-value]

    @override
    def committed(self, run: RunIdentity, commits: Sequence[Commit]) -> None:
        raise KeyError("committed")

    @override
    def driving(self, run: RunIdentity) -> AbstractContextManager[object] | None:
        return self._manager()

    @override
    def attempt(self, run: RunIdentity, attempt: AttemptIdentity) -> AbstractContextManager[object] | None:
        return self._manager()

    def _manager(self) -> AbstractContextManager[object]:
        if not self.leaves:
            raise OSError("not entered")
        return BreaksWhenLeft()


class BreaksWhenLeft:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        raise OSError("left")


class Swallow(Instrument):
    """Its managers say that there is no exception."""

    @override
    def attempt(self, run: RunIdentity, attempt: AttemptIdentity) -> AbstractContextManager[object] | None:
        return AllIsWell()


class AllIsWell:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> bool:
        return True


@pytest.mark.parametrize("leaves", [False, True])
async def test_an_instrument_that_raises_breaks_nothing(leaves: bool, caplog: pytest.LogCaptureFixture) -> None:
    """It is told once, with the traceback, and the others hear of everything."""
    before, after = Recorder(), Recorder()
    flujo = Flujo(flaky >> flaky, instruments=[before, Broken(leaves=leaves), after])
    with caplog.at_level(logging.ERROR, "flujo_async"):
        assert (await flujo.run(1, run_id="r")).output == 3
        await flujo.run(1)
    assert before.heard == after.heard
    assert len(before.facts()) == 6 * 2
    told = [record.getMessage().partition(" failed in ")[2].partition(";")[0] for record in caplog.records]
    assert sorted(told) == ["attempt()", "carrier()", "committed()", "driving()"]
    assert all(record.exc_info is not None and record.exc_info[2] is not None for record in caplog.records)


async def test_an_instrument_cannot_swallow_what_a_step_raises() -> None:
    @step
    async def fails(_: int) -> None:
        raise ValueError("no")

    with pytest.raises(errors.RunFailed) as caught:
        await Flujo(fails, instruments=[Swallow()]).run(1)
    assert isinstance(caught.value.__cause__, ValueError)


async def test_what_is_no_instrument_is_refused() -> None:
    with pytest.raises(errors.InvalidArgument, match="derived from Instrument, not 'log'"):
        Flujo(where, instruments=["log"])  # type: ignore[list-item]
    with pytest.raises(errors.InvalidArgument, match=r"instruments= is a list of them, not .*Swallow.* alone"):
        Flujo(where, instruments=Swallow())  # type: ignore[arg-type]


async def test_waiting_for_a_turn_is_not_part_of_an_attempt() -> None:
    """An attempt begins when it may."""
    from flujo_async import Limit

    recorder, is_inside, may_go = Recorder(), asyncio.Event(), asyncio.Event()

    @step(limit="one")
    async def hold(_: int) -> None:
        is_inside.set()
        await may_go.wait()

    flujo = Flujo(hold, instruments=[recorder], limits={"one": Limit(concurrency=1)}, lease_ttl=timedelta(seconds=60))
    async with asyncio.TaskGroup() as group:
        group.create_task(flujo.run(1))
        await is_inside.wait()
        second = group.create_task(flujo.run(2))
        for _ in range(20):
            await asyncio.sleep(0)
        assert recorder.of("attempt") == [("hold", "begins")]
        may_go.set()
        await second
    assert [entry[1] for entry in recorder.of("attempt")] == ["begins", "ends"] * 2
