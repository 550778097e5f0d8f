"""Cancelling, pausing and resuming runs from outside (G5)."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from typing_extensions import override

from flujo_async import Flujo, InMemoryBackend, RunContext, as_step, map_each, parallel, sleep, step, wait_for, workflow
from flujo_async._model.lease import ClaimQuery, Lease
from flujo_async._model.stored import Signal
from flujo_async.abc import StateBackend
from flujo_async.errors import InvalidArgument, RunCancelled, RunFailed, RunNotFound, VersionMismatch
from flujo_async.testing import FaultyBackend, VirtualClock
from tests.runtime.crashes import crashes, gone_to_sleep, others, ticks
from tests.runtime.pretend import Wrapped, gated_store, until
from tests.runtime.stores import Store, on_disk

HOUR = timedelta(hours=1)


class Listening(Wrapped):
    """A store that counts how often whoever drives a run has read its signals: at once, when told that some came.

    In another thread they are read every second, and it hears of them a moment later.
    """

    reads = 0

    @override
    async def through(self, verb: str, call: Callable[[], Any]) -> Any:
        result = await call()
        self.reads += verb == "read_signals" and threading.current_thread() is threading.main_thread()
        return result


async def pause(flujo: Flujo[Any, Any]) -> None:
    """Pause a run, and return when its driver has heard of it."""
    store = flujo.state_backend
    assert isinstance(store, Listening)
    before = store.reads
    await flujo.pause("r")
    await until(lambda: store.reads > before)


class Gate:
    """Three steps; the second one waits and tells what became of it."""

    def __init__(self) -> None:
        self.is_reached, self.go_on = asyncio.Event(), asyncio.Event()
        self.executed = list[str]()

        @step
        async def first(n: int) -> int:
            self.executed.append("first")
            return n + 1

        @step
        async def second(n: int) -> int:
            self.is_reached.set()
            try:
                await self.go_on.wait()
            except asyncio.CancelledError:
                self.executed.append("cancelled")
                raise
            self.executed.append("second")
            return n + 1

        @step
        async def third(n: int) -> int:
            self.executed.append("third")
            return n + 1

        @workflow
        async def flow(n: int) -> int:
            return await third(await second(await first(n)))

        @workflow
        async def in_tasks(n: int) -> int:
            async with asyncio.TaskGroup() as tasks:
                one, other = tasks.create_task(first(n)), tasks.create_task(second(n + 1))
            await one
            return await third(await other)

        self.definitions: dict[str, Any] = {
            "pipeline": first >> second >> third,
            "workflow": flow,
            "tasks": in_tasks,
            "map": map_each(first >> second >> third),
        }


@pytest.fixture
def gate() -> Gate:
    return Gate()


KINDS = pytest.mark.parametrize("kind", ["pipeline", "workflow", "tasks"])


async def _asks(n: int, ctx: RunContext) -> int:
    return int(await ctx.wait_for("go"))


class TestCancel:
    """``cancel``: the end of a run."""

    @KINDS
    async def test_it_arrives_in_the_step_that_executes(self, backend: StateBackend, gate: Gate, kind: str) -> None:
        """As ``CancelledError``; whoever waits gets ``RunCancelled`` with the reason."""
        flujo = Flujo(gate.definitions[kind], state_backend=backend)
        task = asyncio.ensure_future(flujo.run(1, run_id="r"))
        await gate.is_reached.wait()
        await flujo.cancel("r", "no need")
        with pytest.raises(RunCancelled, match="no need") as caught:
            await task
        assert caught.value.result.status == "cancelled"
        assert gate.executed == ["first", "cancelled"]
        [summary] = await flujo.list_runs(status="cancelled")
        assert summary.lease is None
        assert not task.cancelled()
        await flujo.aclose()
        assert others() == set()

    async def test_nobody_who_awaits_a_run_is_cancelled_himself(self, gate: Gate) -> None:
        """The task goes on with the error, and may be cancelled later as any other."""
        flujo = Flujo(gate.definitions["map"])

        async def wait() -> int:
            with pytest.raises(RunCancelled):
                await flujo.run([1, 2], run_id="r")
            task = asyncio.current_task()
            assert task is not None
            await asyncio.sleep(0)
            return task.cancelling()

        waiting = asyncio.ensure_future(wait())
        await gate.is_reached.wait()
        await flujo.cancel("r")
        assert await waiting == 0

    @pytest.mark.parametrize("state", ["paused", "sleeping", "pending", "queued", "orphaned", "paused by hand"])
    async def test_a_run_that_nobody_drives_is_cancelled_as_well(self, backend: StateBackend, state: str) -> None:
        """Whatever it was doing; no step of it executes."""
        executed = list[int]()
        clock = VirtualClock()

        @step
        async def note(n: int) -> int:
            executed.append(n)
            return n

        between = sleep(HOUR) if state == "sleeping" else wait_for("go")
        flujo = Flujo(note >> between >> note, state_backend=backend, clock=clock)
        match state:
            case "pending":
                await flujo.run(1, run_id="source")
                await flujo.fork("source", new_run_id="r")
            case "queued":
                await flujo.dispatch(1, run_id="r", delay=HOUR)
            case "orphaned":
                gated, gate = gated_store(backend, "append")
                task = asyncio.ensure_future(Flujo(note, pipeline_name="note >> wait_for.go >> note").run(1))
                await task
                other = Flujo(note >> between >> note, state_backend=gated, clock=clock)
                task = asyncio.ensure_future(other.run(1, run_id="r"))
                await gate.reached()
                task.cancel()
                gate.release()
                await asyncio.wait({task})
            case "sleeping":
                await flujo.start(1, run_id="r")
                await gone_to_sleep(flujo)
            case _:
                await flujo.run(1, run_id="r")
                if state == "paused by hand":
                    await flujo.pause("r")
        executed.clear()
        await flujo.cancel("r", "no need")
        with pytest.raises(RunCancelled, match="no need"):
            await flujo.run(run_id="r")
        assert executed == []
        assert await flujo.handle("r").status() == "cancelled"
        await flujo.aclose()

    @pytest.mark.parametrize("is_first", [True, False])
    async def test_a_child_that_the_code_has_named_is_cancelled_after_a_restart(
        self, store: Store, is_first: bool
    ) -> None:
        """A new runtime has not called it, and knows of it once it has walked through what is recorded."""

        @step
        async def begin(n: int) -> int:
            return n

        asking = [workflow(name="asking")(_asks)]  # where no look at the code of its parent finds it

        @workflow
        async def parent(n: int, ctx: RunContext) -> int:
            n = n if is_first else await begin(n)
            return int(await ctx.child(asking[0], n))

        before = Flujo(parent, state_backend=store.open())
        assert (await before.run(1, run_id="r")).status == "paused"
        await before.aclose()
        flujo = Flujo(parent, state_backend=store.open())
        await flujo.cancel("r", "no need")
        assert {head.status for head in await flujo.list_runs()} == {"cancelled"}
        await flujo.aclose()

    async def test_a_paused_run_of_an_unknown_definition_is_not_cancelled(self, backend: StateBackend) -> None:
        """That is told; nobody waits for somebody who does not come."""
        flujo = Flujo(wait_for("go"), pipeline_name="asking", state_backend=backend)
        await flujo.run(1, run_id="r")
        other = Flujo(sleep(1), pipeline_name="other", state_backend=backend)
        with pytest.raises(VersionMismatch):
            await other.cancel("r")
        with pytest.raises(RunCancelled):  # but it is on record
            await flujo.run(run_id="r")

    async def test_a_run_that_has_ended_stays_as_it_is(self, backend: StateBackend) -> None:
        """And nothing is written."""

        @step
        async def half(n: int) -> float:
            return 1 / n

        flujo = Flujo(half, state_backend=backend)
        await flujo.run(1, run_id="completed")
        with pytest.raises(RunFailed):
            await flujo.run(0, run_id="failed")
        for run_id in ("completed", "failed"):
            history = await flujo.history(run_id)
            await flujo.cancel(run_id)
            await flujo.handle(run_id).cancel("again")
            assert await flujo.history(run_id) == history
            assert await flujo.handle(run_id).status() == run_id
        with pytest.raises(RunNotFound):
            await flujo.cancel("unknown")

    async def test_twice_is_once(self, backend: StateBackend, gate: Gate) -> None:
        """The first reason that was accepted counts."""
        flujo = Flujo(gate.definitions["pipeline"], state_backend=backend)
        task = asyncio.ensure_future(flujo.run(1, run_id="r"))
        await gate.is_reached.wait()
        await asyncio.gather(*(flujo.cancel("r", reason) for reason in ("first", "second", "third")))
        await flujo.cancel("r", "late")
        with pytest.raises(RunCancelled, match=r"first|second|third"):
            await task

    async def test_a_run_that_comes_to_its_end_at_this_instant_completes(self, backend: StateBackend) -> None:
        """It is too late when its last commit is on the way; nobody is cancelled by mistake."""

        @step
        async def note(n: int) -> int:
            return n

        gated, gate = gated_store(backend, "append")
        flujo = Flujo(note, state_backend=gated)
        task = asyncio.ensure_future(flujo.run(1, run_id="r"))
        await gate.reached()
        cancelling = asyncio.ensure_future(flujo.cancel("r"))
        for _ in range(20):
            await asyncio.sleep(0.001)
        gate.release()
        assert (await task).output == 1
        await cancelling
        assert await flujo.handle("r").status() == "completed"

    async def test_at_every_tick(self) -> None:
        """It is either cancelled or completed, never anything else, and leaves nothing behind."""
        seen = set[str]()
        for number in range(1, 500):
            gate = Gate()
            gate.go_on.set()
            flujo = Flujo(gate.definitions["tasks"])
            task = asyncio.ensure_future(flujo.run(1, run_id="r"))
            await ticks(number)
            is_done = task.done()
            with_store = await flujo.list_runs()
            if with_store:
                await flujo.cancel("r")
                await asyncio.wait({task})
                assert not task.cancelled()
                assert isinstance(task.exception(), RunCancelled | None)
                seen.add(await flujo.handle("r").status())
            await asyncio.wait({task})
            await flujo.aclose()
            assert others() == set()
            if is_done:
                break
        assert seen == {"cancelled", "completed"}

    async def test_code_that_answers_a_cancellation_with_something_else(self, gate: Gate) -> None:
        """Is cancelled all the same."""
        second = gate.definitions["pipeline"].sequence[1]

        @workflow
        async def stubborn(n: int) -> int:
            try:
                await second(n)
            except asyncio.CancelledError:
                raise ValueError("mine") from None
            finally:
                await second(n)
            return n

        flujo = Flujo(stubborn)
        task = asyncio.ensure_future(flujo.run(1, run_id="r"))
        await gate.is_reached.wait()
        async with asyncio.timeout(20):
            await flujo.cancel("r")
        with pytest.raises(RunCancelled):
            await task

    @on_disk
    async def test_a_runtime_elsewhere_can_cancel(self, store: Store, gate: Gate) -> None:
        """Within a second or so; it returns when the run has ended."""
        flujo = Flujo(gate.definitions["pipeline"], state_backend=store.open())
        task = asyncio.ensure_future(flujo.run(1, run_id="r"))
        await gate.is_reached.wait()
        async with asyncio.timeout(20):
            await Flujo(gate.definitions["pipeline"], state_backend=store.open()).cancel("r")
        with pytest.raises(RunCancelled):
            await task

    async def test_killed_at_every_commit_it_is_cancelled_in_the_end(self, backend: StateBackend) -> None:
        """Once it was accepted, whoever comes next carries it out."""

        @step
        async def note(n: int) -> int:
            return n

        async def attempt(store: StateBackend, run_id: str) -> None:
            flujo = Flujo(note >> wait_for("go"), state_backend=store)
            await flujo.run(1, run_id=run_id)
            await flujo.cancel(run_id, "no need")

        async for run_id in crashes(backend, attempt):
            flujo = Flujo(note >> wait_for("go"), state_backend=backend)
            stored = await backend.load(run_id)
            assert stored is not None
            if stored.signals:
                with pytest.raises(RunCancelled, match="no need"):
                    await flujo.run(run_id=run_id)
            else:
                assert (await flujo.run(run_id=run_id)).status == "paused"


class TestPause:
    """``pause`` and ``resume``."""

    @KINDS
    async def test_a_run_pauses_before_its_next_step(self, backend: StateBackend, gate: Gate, kind: str) -> None:
        """The step that executes goes on to its end; ``resume`` goes on with the next one."""
        flujo = Flujo(gate.definitions[kind], state_backend=Listening(backend))
        task = asyncio.ensure_future(flujo.run(1, run_id="r"))
        await gate.is_reached.wait()
        await pause(flujo)
        gate.go_on.set()
        result = await task
        assert (result.status, [waiting.kind for waiting in result.waiting_for]) == ("paused", ["pause"])
        assert gate.executed == ["first", "second"]
        assert await flujo.run(run_id="r") == result
        assert gate.executed == ["first", "second"]
        assert (await flujo.resume("r")).output == 4
        assert gate.executed == ["first", "second", "third"]
        assert others() == set()

    async def test_a_resume_outweighs_the_pauses_that_were_asked_for_before(self, backend: StateBackend) -> None:
        """Also those that nobody has taken notice of yet."""
        flujo = Flujo(wait_for("go"), state_backend=backend)
        await flujo.run(1, run_id="r")
        await flujo.pause("r")
        await backend.post(Signal("r", "$pause#2", "$pause", None, (await flujo.state("r")).updated_at))
        await flujo.signal("r", "go", 2)
        assert (await flujo.resume("r")).output == 2
        await flujo.aclose()

    async def test_nobody_takes_up_a_run_that_is_about_to_be_paused(self) -> None:
        """Its signal would wake it, and then it runs when ``pause`` returns."""

        class Eager(InMemoryBackend):
            taken: list[Lease] | None = None

            @override
            async def post(self, signal: Signal) -> Signal:
                kept = await super().post(signal)
                query = ClaimQuery(run_id=signal.run_id)
                self.taken = await self.claim("another", now=clock.now(), ttl=HOUR, query=query)
                return kept

        clock, store = VirtualClock(), Eager()
        flujo = Flujo(sleep(HOUR), state_backend=store, clock=clock)
        await flujo.start(1, run_id="s")
        await gone_to_sleep(flujo, "s")
        await flujo.pause("s")
        assert store.taken == []
        assert await flujo.handle("s").status() == "paused"
        await flujo.aclose()

    async def test_a_run_that_nobody_drives_pauses_at_once(self, backend: StateBackend) -> None:
        """Asleep, or waiting; then neither the time nor an answer wakes it."""
        clock = VirtualClock()
        executed = list[Any]()

        @step
        async def note(value: Any) -> Any:
            executed.append(value)
            return value

        flujo = Flujo(sleep(HOUR) >> note, state_backend=backend, clock=clock)
        await flujo.start(1, run_id="s")
        await gone_to_sleep(flujo, "s")
        await flujo.pause("s")
        await flujo.pause("s")
        assert await flujo.handle("s").status() == "paused"
        clock.advance(HOUR)
        await ticks(100)
        assert (await flujo.run(run_id="s")).status == "paused"
        assert executed == []
        assert (await flujo.resume("s")).output == 1
        await flujo.aclose()

        waiting = Flujo(wait_for("go") >> note, state_backend=backend)
        await waiting.run(run_id="w")
        await waiting.pause("w")
        result = await waiting.run(run_id="w")
        assert [item.kind for item in result.waiting_for] == ["pause", "signal"]
        await waiting.signal("w", "go", 7)
        await ticks(100)
        assert (await waiting.run(run_id="w")).status == "paused"
        assert (await waiting.resume("w")).output == 7
        await waiting.aclose()

    async def test_resumed_without_an_answer_it_waits_again(self, backend: StateBackend) -> None:
        """For the answer only."""
        flujo = Flujo(wait_for("go"), state_backend=backend)
        await flujo.run(run_id="r")
        await flujo.pause("r")
        result = await flujo.resume("r")
        assert [item.kind for item in result.waiting_for] == ["signal"]

    async def test_branches_pause_one_by_one(self, backend: StateBackend, gate: Gate) -> None:
        """The run is paused when the last one has come to a step boundary."""
        flujo = Flujo(gate.definitions["map"], state_backend=Listening(backend))
        task = asyncio.ensure_future(flujo.run([1, 2, 3], run_id="r"))
        await gate.is_reached.wait()
        await pause(flujo)
        assert await flujo.handle("r").status() == "running"
        gate.go_on.set()
        assert (await task).status == "paused"
        assert gate.executed.count("second") == 3
        assert "third" not in gate.executed
        assert (await flujo.resume("r")).output == [4, 5, 6]

    async def test_a_run_that_has_no_step_left_completes(self, backend: StateBackend, gate: Gate) -> None:
        """There is no boundary any more."""
        flujo = Flujo(gate.definitions["pipeline"].sequence[1], state_backend=backend)
        task = asyncio.ensure_future(flujo.run(1, run_id="r"))
        await gate.is_reached.wait()
        await flujo.pause("r")
        gate.go_on.set()
        assert (await task).output == 2
        await flujo.pause("r")
        assert await flujo.handle("r").status() == "completed"

    async def test_a_pause_that_its_driver_did_not_see_is_not_lost(self, backend: StateBackend, gate: Gate) -> None:
        """It was interrupted at that instant: whoever takes the run up pauses it."""
        flujo = Flujo(gate.definitions["pipeline"], state_backend=backend)
        task = asyncio.ensure_future(flujo.run(1, run_id="r"))
        await gate.is_reached.wait()
        await flujo.pause("r")
        task.cancel()
        await asyncio.wait({task})
        result = await flujo.run(run_id="r")
        assert (result.status, gate.executed) == ("paused", ["first", "cancelled"])
        gate.go_on.set()
        assert (await flujo.resume("r")).output == 4

    @pytest.mark.parametrize("is_interrupted", [False, True])
    async def test_a_cancellation_outweighs_a_pause(
        self, backend: StateBackend, gate: Gate, is_interrupted: bool
    ) -> None:
        """Whether its driver has heard of the pause or not: what was done is undone, and the run has ended."""

        @step
        async def undo(n: int) -> None:
            gate.executed.append("undo")

        @step(compensate=undo)
        async def begin(n: int) -> int:
            return n

        flujo = Flujo(begin >> gate.definitions["pipeline"], state_backend=Listening(backend))
        task = asyncio.ensure_future(flujo.run(1, run_id="r"))
        await gate.is_reached.wait()
        if is_interrupted:
            await flujo.pause("r")
            task.cancel()
            await asyncio.wait({task})
        else:
            await pause(flujo)
        await flujo.cancel("r")
        assert await flujo.handle("r").status() == "cancelled"
        assert gate.executed == ["first", "cancelled", "undo"]
        await asyncio.wait({task})

    async def test_of_an_unknown_run(self) -> None:
        """There is nothing to pause or resume."""
        flujo = Flujo(sleep(1))
        for call in (flujo.pause("r"), flujo.resume("r")):
            with pytest.raises(RunNotFound):
                await call

    async def test_a_dispatched_run_may_be_paused(self, backend: StateBackend, gate: Gate) -> None:
        """Before anybody takes it."""
        gate.go_on.set()
        flujo = Flujo(gate.definitions["pipeline"], state_backend=backend)
        await flujo.dispatch(1, run_id="r")
        await flujo.pause("r")
        assert await flujo.handle("r").status() == "paused"
        assert gate.executed == []
        assert (await flujo.resume("r")).output == 4

    async def test_paused_twice_in_two_places(self, backend: StateBackend) -> None:
        """Each ``resume`` answers one pause."""
        gates = [Gate(), Gate()]
        pipeline = as_step(gates[0].definitions["pipeline"], name="one") >> gates[1].definitions["pipeline"]
        flujo = Flujo(pipeline, state_backend=Listening(backend))
        task = asyncio.ensure_future(flujo.run(1, run_id="r"))
        for gate in gates:
            await gate.is_reached.wait()
            await pause(flujo)
            gate.go_on.set()
            assert (await task).status == "paused"
            task = asyncio.ensure_future(flujo.resume("r"))
        assert (await task).output == 7


async def test_a_parallel_that_waits_and_sleeps_can_be_cancelled(backend: StateBackend) -> None:
    """All of it at once."""
    clock = VirtualClock()

    @workflow
    async def flow(n: int, ctx: RunContext) -> None:
        await asyncio.gather(ctx.sleep(HOUR), ctx.wait_for("go"), ctx.sleep(HOUR * 2))

    for definition in (flow, parallel(sleep(HOUR), wait_for("go"))):
        flujo = Flujo(definition, state_backend=backend, clock=clock)
        run_id = type(definition).__name__
        task = asyncio.ensure_future(flujo.run(1, run_id=run_id))
        await gone_to_sleep(flujo, run_id)
        await flujo.cancel(run_id, "no need")
        with pytest.raises(RunCancelled):
            await task
        await flujo.aclose()
    assert others() == set()


@pytest.mark.parametrize(("call", "verb"), [("cancel", "post"), ("redrive", "append")])
async def test_a_run_that_is_deleted_meanwhile_is_not_begun_anew(store: Store, call: str, verb: str) -> None:
    """Also where its definition needs no input: nobody has asked for another one."""

    @workflow
    async def waits(ctx: RunContext) -> Any:
        return await ctx.wait_for("go")

    backend = FaultyBackend(store.open())
    flujo, other = Flujo(waits, state_backend=backend), Flujo(waits, state_backend=store.open())
    await other.run(run_id="r")
    if call == "redrive":
        await other.cancel("r")
    backend.delay(verb, how="after", until=lambda: other.delete("r"))
    with pytest.raises(RunNotFound):
        await getattr(flujo, call)("r")
    assert await other.list_runs() == []
    await flujo.aclose()


async def test_redrive_needs_an_end(backend: StateBackend) -> None:
    """A run that is paused by hand is resumed, not redriven."""
    flujo = Flujo(wait_for("go"), state_backend=backend)
    await flujo.run(run_id="r")
    await flujo.pause("r")
    with pytest.raises(InvalidArgument):
        await flujo.redrive("r")


@pytest.mark.parametrize(("verb", "nth", "after"), [("claim", 1, True), ("load", 2, False), ("append", 1, False)])
@pytest.mark.parametrize("call", ["pause", "redrive"])
async def test_a_caller_that_is_cancelled_leaves_no_lease_behind(
    store: Store, call: str, verb: str, nth: int, after: bool
) -> None:
    """Wherever the store takes long: others may have the run at once, and the call can be repeated."""
    broken = True

    @step
    async def mended(value: Any) -> Any:
        if broken:
            raise ValueError
        return value

    definition = wait_for("go", timeout=3600) if call == "pause" else mended
    backend = store.open()
    flujo = Flujo(definition, state_backend=backend)
    with suppress(RunFailed):
        await flujo.run(1, run_id="r")
    [before] = await flujo.list_runs()
    broken = False

    gated, gate = gated_store(backend, verb, nth=nth, after=after)
    task = asyncio.create_task(getattr(Flujo(definition, state_backend=gated), call)("r"))
    await gate.reached()
    for _ in range(2):
        task.cancel()
        await ticks(3)
    gate.release()
    with pytest.raises(asyncio.CancelledError):
        await task
    [summary] = await flujo.list_runs()
    stored = await backend.load("r")
    assert stored is not None
    assert stored.summary.lease is None
    if (summary.status, summary.last_seq) == (before.status, before.last_seq):
        assert summary.wake_at == before.wake_at, "nothing else would wake it"
    assert others() == set()

    if call == "pause":
        await flujo.pause("r")
        assert "pause" in [waiting.kind for waiting in (await flujo.run(run_id="r")).waiting_for]
    elif summary.status == "failed":
        assert (await flujo.redrive("r")).output == 1
    else:
        assert (await flujo.run(run_id="r")).output == 1
    await flujo.aclose()
