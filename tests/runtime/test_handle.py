"""Runs seen from outside: handles, states, histories, events, streams, listings."""

import asyncio
import traceback
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flujo_async import (
    Event,
    Flujo,
    InMemoryBackend,
    RunContext,
    StepContext,
    as_step,
    graph,
    map_each,
    parallel,
    step,
    wait_for,
    workflow,
)
from flujo_async._log.chain import GENESIS
from flujo_async.abc import StateBackend
from flujo_async.errors import (
    DefinitionError,
    InvalidArgument,
    RunCancelled,
    RunFailed,
    RunNotFound,
    SerializationError,
)
from flujo_async.testing import FaultyBackend, VirtualClock
from tests.runtime.stores import Store


class Gate:
    """A pipeline of three steps, the second of which waits; each emits an event."""

    def __init__(self) -> None:
        self.is_reached, self.go_on = asyncio.Event(), asyncio.Event()
        self.executed: list[str] = []

        @step
        async def first(n: int, ctx: StepContext) -> int:
            self.executed.append("first")
            ctx.emit({"progress": 1})
            ctx.emit("twice")
            ctx.state["first"] = n
            return n + 1

        @step
        async def second(n: int) -> int:
            self.executed.append("second")
            self.is_reached.set()
            await self.go_on.wait()
            return n + 1

        @step
        async def third(n: int, ctx: StepContext) -> int:
            self.executed.append("third")
            ctx.emit("done")
            ctx.state["third"] = n
            return n + 1

        self.pipeline = first >> second >> third


@pytest.fixture
def gate() -> Gate:
    return Gate()


KINDS = ["RunStarted", "EventEmitted", "EventEmitted", "StepCompleted", "StepCompleted"]
LATER_KINDS = ["EventEmitted", "StepCompleted", "RunCompleted"]


class TestStart:
    """``start`` and its handle."""

    async def test_a_started_run_is_durable_and_goes_on_in_the_background(self, store: Store, gate: Gate) -> None:
        """When ``start`` returns, another object on the same store sees it."""
        async with Flujo(gate.pipeline, state_backend=store.open()) as flujo:
            handle = await flujo.start(1, run_id="r", metadata={"who": "Ada"})
            elsewhere = Flujo(gate.pipeline, state_backend=store.open())
            assert (await elsewhere.state("r")).metadata == {"who": "Ada"}
            assert await handle.status() == "running"
            gate.go_on.set()
            result = await handle.result()
            assert (result.output, await handle.status()) == (4, "completed")
            assert (await elsewhere.handle("r").result()).output == 4
        assert gate.executed == ["first", "second", "third"]

    async def test_a_result_can_be_waited_for_with_a_limit(self, backend: StateBackend, gate: Gate) -> None:
        """The waiting ends, the run goes on."""
        async with Flujo(gate.pipeline, state_backend=backend) as flujo:
            handle = await flujo.start(1)
            for limit in (0.01, timedelta(milliseconds=10)):
                with pytest.raises(TimeoutError, match=f"run '{handle.run_id}' does not rest yet; it goes on"):
                    await handle.result(timeout=limit)
            waiting = asyncio.create_task(handle.result())
            await gate.is_reached.wait()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            gate.go_on.set()
            assert (await handle.result(timeout=20)).output == 4

    async def test_started_twice_it_runs_once(self, backend: StateBackend, gate: Gate) -> None:
        """Both handles get the result."""
        async with Flujo(gate.pipeline, state_backend=backend) as flujo:
            handles = [await flujo.start(1, run_id="r"), await flujo.start(run_id="r"), flujo.handle("r")]
            gate.go_on.set()
            assert [(await handle.result()).output for handle in handles] == [4] * 3
        assert gate.executed == ["first", "second", "third"]

    async def test_a_failure_in_the_background_is_raised_by_the_result(self, backend: StateBackend) -> None:
        """And by nobody else: nothing is logged as never retrieved."""

        @step
        async def broken(n: int) -> int:
            raise ValueError("broken")

        flujo = Flujo(broken, state_backend=backend)
        handle = await flujo.start(1)
        with pytest.raises(RunFailed) as caught:
            await handle.result()
        assert str(caught.value.__cause__) == "broken"

    async def test_a_handle_may_be_had_before_its_run(self, backend: StateBackend, gate: Gate) -> None:
        """Reading it says that there is none."""
        flujo = Flujo(gate.pipeline, state_backend=backend)
        handle = flujo.handle("r")
        for call in (handle.status(), handle.result(), handle.state(), handle.history(), handle.steps()):
            with pytest.raises(RunNotFound):
                await call
        gate.go_on.set()
        await flujo.run(1, run_id="r")
        assert await handle.status() == "completed"

    async def test_an_abandoned_handle_does_not_abandon_the_run(self, gate: Gate) -> None:
        """Nobody holds the runtime or the handle: the run ends all the same."""
        backend = Flujo(gate.pipeline).state_backend
        await Flujo(gate.pipeline, state_backend=backend).start(1, run_id="r")
        await gate.is_reached.wait()
        gate.go_on.set()
        async with asyncio.timeout(20):
            assert (await Flujo(gate.pipeline, state_backend=backend).handle("r").result()).output == 4


class TestTimeTravel:
    """States, histories, steps."""

    async def test_every_seq_can_be_read_back(self, store: Store, gate: Gate) -> None:
        """Version, index, context and last output as they were."""
        gate.go_on.set()
        flujo = Flujo(gate.pipeline, state_backend=store.open())
        await flujo.run(1, run_id="r")
        history = await flujo.history("r")
        assert [commit.fact.kind for commit in history] == KINDS + LATER_KINDS
        states = [await flujo.state("r", at=commit.seq) for commit in history]
        assert [state.version for state in states] == list(range(1, 9))
        assert [state.current_step_index for state in states] == [0, 0, 0, 1, 2, 2, 3, 3]
        assert [state.last_step_output for state in states] == [None, None, None, 2, 3, 3, 4, 4]
        assert [state.status for state in states] == ["running"] * 7 + ["completed"]
        assert [len(state.pipeline_context) for state in states] == [0, 0, 0, 1, 1, 1, 2, 2]
        assert [state.hash for state in states] == [commit.hash for commit in history]
        assert [state.prev_hash for state in states] == [GENESIS, *(state.hash for state in states[:-1])]
        assert await flujo.handle("r").state(at=4) == states[3]
        assert await flujo.state("r") == states[-1]
        for beyond in (0, 9, -1):
            with pytest.raises(InvalidArgument):
                await flujo.state("r", at=beyond)

    async def test_steps_tell_what_happened(self, backend: StateBackend) -> None:
        """Key, input, output and times by the clock."""
        clock = VirtualClock()

        @step
        async def slow(n: int) -> int:
            await clock.sleep(5)
            return n * 2

        flujo = Flujo(map_each(slow), state_backend=backend, clock=clock)
        handle = await flujo.start([3], run_id="r")
        await clock.until_asleep()
        clock.advance(5)
        result = await handle.result()
        [record] = await flujo.steps("r")
        assert record == result.steps[0]
        assert (record.key, record.input, record.output, record.duration) == ("map_each/0/slow", 3, 6, 5.0)
        assert (result.finished_at or result.started_at) - result.started_at == timedelta(seconds=5)

    async def test_inputs_are_found_where_they_came_from(self, backend: StateBackend) -> None:
        """Inputs are stored once; the records show them all the same, in any nesting."""

        @step
        async def rows(n: int) -> list[list[int]]:
            return [[n, n + 1], [], [n + 2]]

        @step
        async def add_one(n: int) -> int:
            return n + 1

        @step
        async def flat(rows: list[list[int]]) -> list[int]:
            return [item for row in rows for item in row]

        pipeline = rows >> map_each(map_each(add_one)) >> flat >> parallel(map_each(add_one), flat_sum)
        flujo = Flujo(pipeline, state_backend=backend)
        await flujo.run(1, run_id="r")
        inputs = {record.key: record.input for record in await flujo.steps("r")}
        assert inputs == {
            "rows": 1,
            "map_each/0/map_each/0/add_one": 1,
            "map_each/0/map_each/1/add_one": 2,
            "map_each/2/map_each/0/add_one": 3,
            "flat": [[2, 3], [], [4]],
            "parallel/map_each/0/add_one": 2,
            "parallel/map_each/1/add_one": 3,
            "parallel/map_each/2/add_one": 4,
            "parallel/flat_sum": [2, 3, 4],
        }


@step
async def flat_sum(items: list[int]) -> int:
    return sum(items)


class TestOddNames:
    """Step names that look like parts of keys."""

    @pytest.mark.parametrize("name", ["%2F", "0", "a b", "é", "default", "*", "a >> b", "$"])
    async def test_a_name_may_look_like_anything(self, backend: StateBackend, name: str) -> None:
        """Inputs and outputs are still found."""

        async def plus(n: int) -> int:
            return n + 1

        named = step(name=name)(plus)
        pipeline = named >> step(plus) >> named >> parallel(named, step(plus)) >> step(_none) >> map_each(named)
        flujo = Flujo(pipeline, state_backend=backend)
        result = await flujo.run(1, run_id="r")
        assert result.output == []
        assert [(record.name, record.input) for record in result.steps[:3]] == [(name, 1), ("plus", 2), (name, 3)]
        assert [record.input for record in result.steps[3:5]] == [4, 4]
        assert (await flujo.run(run_id="r")).output == []

    @pytest.mark.parametrize("name", ["a[0]", "a]", "a@2", "a/b", ""])
    def test_a_name_that_could_be_taken_for_a_key_is_refused(self, name: str) -> None:
        """``a >> a >> a@2`` would return the result of another step."""
        with pytest.raises(DefinitionError):
            step(name=name)(_same)
        with pytest.raises(DefinitionError):
            as_step(flat_sum, name=name)


class TestEvents:
    """``events`` and ``stream``."""

    async def test_events_are_read_from_any_place(self, store: Store, gate: Gate) -> None:
        """In the order of ``seq``, with what was emitted."""
        gate.go_on.set()
        flujo = Flujo(gate.pipeline, state_backend=store.open())
        await flujo.run(1, run_id="r")
        events = [event async for event in flujo.handle("r").events()]
        assert [event.seq for event in events] == list(range(1, 9))
        assert [event.kind for event in events] == KINDS + LATER_KINDS
        assert [event.data for event in events] == [None, {"progress": 1}, "twice", 2, 3, "done", 4, 4]
        assert [event.step for event in events[1:4]] == ["first"] * 3
        assert [event async for event in flujo.handle("r").events(after=5)] == events[5:]
        assert [event async for event in flujo.handle("r").events(after=8, follow=True)] == []
        odd: Any
        for odd in (-1, 2**70, 1.5, "1"):
            with pytest.raises(InvalidArgument):
                await anext(flujo.handle("r").events(after=odd))

    async def test_an_event_is_what_it_was_when_it_was_emitted(self) -> None:
        """Whatever the step does with the object afterwards; what cannot be stored is refused there."""

        @step
        async def count(n: int, ctx: StepContext) -> int:
            progress = {"done": 0}
            for progress["done"] in range(n):
                ctx.emit(progress)
            with pytest.raises(SerializationError) as refused:
                ctx.emit([object()])
            assert refused.value.path == "count.event[0]"
            return n

        flujo = Flujo(count)
        await flujo.run(3, run_id="r")
        events = [event.data async for event in flujo.handle("r").events() if event.kind == "EventEmitted"]
        assert events == [{"done": 0}, {"done": 1}, {"done": 2}]

    async def test_a_follower_sees_all_until_the_run_rests(self, store: Store, gate: Gate) -> None:
        """From another object on the store; without ``follow`` it ends with what there is."""
        async with Flujo(gate.pipeline, state_backend=store.open()) as flujo:
            handle = await flujo.start(1, run_id="r")
            seen: list[Event] = []
            is_waiting = asyncio.Event()

            async def follow() -> None:
                async for event in Flujo(gate.pipeline, state_backend=store.open()).handle("r").events(follow=True):
                    seen.append(event)
                    if event.kind == "StepCompleted":
                        is_waiting.set()

            follower = asyncio.create_task(follow())
            await is_waiting.wait()
            await gate.is_reached.wait()
            assert [event.kind async for event in handle.events()] == KINDS[:4]
            gate.go_on.set()
            await follower
        assert [event.kind for event in seen] == KINDS + LATER_KINDS

    async def test_a_follower_waits_for_a_run_that_has_its_answer(self, store: Store) -> None:
        """Its head says that it is paused, until somebody goes on with it; and somebody is about to."""
        async with Flujo(wait_for("go", schema=int), state_backend=store.open()) as flujo:
            await flujo.run(run_id="r")
            paused = [event.kind async for event in flujo.handle("r").events(follow=True)]
            await flujo.signal("r", "go", 2)
            events = [event.kind async for event in flujo.handle("r").events(follow=True)]
        assert paused == ["RunStarted", "WaitStarted", "RunPaused"]
        assert events[-1] == "RunCompleted"

    async def test_a_follower_goes_on_with_a_run_that_goes_on_while_it_reads_its_last_events(self, gate: Gate) -> None:
        """That it rested when the follower last looked is an old story then."""
        faulty = FaultyBackend(InMemoryBackend())
        pipeline = wait_for("go", schema=int) >> gate.pipeline

        async def follow() -> list[str]:
            return [event.kind async for event in Flujo(pipeline, state_backend=faulty).handle("r").events(follow=True)]

        async with Flujo(pipeline, state_backend=faulty.inner) as flujo:
            await flujo.run(run_id="r")
            last = faulty.delay("read_events", nth=3)  # after what there is, and nothing more, and that it rests
            behind = faulty.delay("read_events", nth=4, how="after")
            follower = asyncio.create_task(follow())
            await last.reached()
            await flujo.signal("r", "go", 1)
            await gate.is_reached.wait()
            last.release()
            await behind.reached()  # it has read what there was meanwhile
            gate.go_on.set()
            behind.release()
            assert (await follower)[-1] == "RunCompleted"

    async def test_a_stream_drives_its_run(self, store: Store, gate: Gate) -> None:
        """And ends when it rests."""
        gate.go_on.set()
        flujo = Flujo(gate.pipeline, state_backend=store.open())
        events = [event async for event in flujo.stream(1, run_id="r")]
        assert [event.kind for event in events] == KINDS + LATER_KINDS
        assert (await flujo.run(run_id="r")).output == 4
        assert [event async for event in flujo.stream(run_id="r")] == events
        assert gate.executed == ["first", "second", "third"]

    @pytest.mark.parametrize("leave", ["break", "aclose", "cancel"])
    async def test_leaving_a_stream_interrupts_its_run(self, store: Store, gate: Gate, leave: str) -> None:
        """Reconnecting with ``after=`` goes on where it was, and misses and repeats nothing."""
        backend = store.open()
        flujo = Flujo(gate.pipeline, state_backend=backend)
        stream = flujo.stream(1, run_id="r")
        seen: list[Event] = []

        async def watch() -> None:
            async for event in stream:
                seen.append(event)
                if event.kind == "StepCompleted":
                    await gate.is_reached.wait()
                    if leave != "cancel":
                        break
                    reached.set()

        reached = asyncio.Event()
        watching = asyncio.create_task(watch())
        if leave == "cancel":
            await reached.wait()
            watching.cancel()
        await asyncio.wait({watching})
        await stream.aclose()  # type: ignore[attr-defined]
        stored = await backend.load("r")
        assert stored is not None
        assert (stored.summary.status, stored.summary.lease) == ("running", None)
        gate.go_on.set()
        seen += [event async for event in flujo.stream(run_id="r", after=seen[-1].seq)]
        assert [event.seq for event in seen] == list(range(1, len(seen) + 1))
        kinds = [event.kind for event in seen if event.kind != "RunResumed"]
        assert kinds == KINDS + LATER_KINDS
        assert gate.executed == ["first", "second", "second", "third"]

    async def test_a_stream_of_a_failing_run_raises_after_the_last_event(self, backend: StateBackend) -> None:
        """Now, and each time."""

        @step
        async def broken(n: int) -> int:
            raise ValueError("broken")

        flujo = Flujo(broken, state_backend=backend)
        for after in (0, 1, 3):
            kinds: list[str] = []
            with pytest.raises(RunFailed) as caught:
                await _collect(flujo.stream(1, run_id="r", after=after), kinds)
            assert kinds == ["RunStarted", "StepFailed", "RunFailed"][after:]
            assert str(caught.value.__cause__) == "broken"

    async def test_a_stream_of_a_run_driven_elsewhere_only_watches(self, backend: StateBackend, gate: Gate) -> None:
        """Leaving it does not interrupt that run."""
        flujo = Flujo(gate.pipeline, state_backend=backend)
        driving = asyncio.create_task(flujo.run(1, run_id="r"))
        await gate.is_reached.wait()
        stream = flujo.stream(1, run_id="r")
        async for event in stream:
            assert event.kind == "RunStarted"
            break
        await stream.aclose()  # type: ignore[attr-defined]
        gate.go_on.set()
        assert (await driving).output == 4
        assert gate.executed == ["first", "second", "third"]

    async def test_a_stream_goes_on_when_the_other_driver_is_cancelled(self, gate: Gate) -> None:
        """It asked for the run as ``run`` does, and takes it over as ``run`` does."""
        flujo = Flujo(gate.pipeline)
        driving = asyncio.create_task(flujo.run(1, run_id="r"))
        await gate.is_reached.wait()
        kinds: list[str] = []

        watching = asyncio.create_task(_collect(flujo.stream(1, run_id="r"), kinds))
        for _ in range(20):
            await asyncio.sleep(0)
        driving.cancel()
        await asyncio.wait({driving})
        gate.go_on.set()
        async with asyncio.timeout(20):
            await watching
        assert kinds[-1] == "RunCompleted"


class TestListing:
    """``list_runs``."""

    async def test_filters_order_and_pages(self, store: Store) -> None:
        """Newest first; filters apply before pages."""
        clock = VirtualClock(datetime(2026, 1, 1, tzinfo=UTC))

        @step
        async def work(n: int) -> int:
            if n == 2:
                raise ValueError("two is broken")
            return n

        one = Flujo(work, pipeline_name="one", state_backend=store.open(), clock=clock)
        two = Flujo(work >> step(name="again")(_same), pipeline_name="two", state_backend=store.open(), clock=clock)
        for n in range(6):
            clock.advance(1)
            flujo: Flujo[Any, Any] = two if n % 2 else one
            metadata = {"n": n, "team": {"name": "a" if n < 3 else "b", "size": 3}}
            try:
                await flujo.run(n, run_id=f"r{n}", metadata=metadata)
            except RunFailed:
                assert n == 2

        async def ids(**query: Any) -> str:
            return "".join(summary.run_id[1:] for summary in await one.list_runs(**query))

        assert await ids() == "543210"
        assert await ids(status="completed") == "54310"
        assert await ids(status="failed") == "2"
        assert await ids(pipeline_name="two") == "531"
        assert await ids(metadata={"team": {"name": "a"}}) == "210"
        assert await ids(metadata={"team": {"name": "a"}}, status="completed", limit=1) == "1"
        assert await ids(limit=2) == "54"
        assert await ids(limit=2, offset=3) == "21"
        assert await ids(offset=4) == "10"
        assert await ids(limit=0) == ""
        assert await ids(limit=None, parent_run_id="nobody") == ""
        [failed] = await one.list_runs(status="failed")
        assert (failed.error_message, failed.current_step_index) == ("ValueError: two is broken", 0)
        assert failed.created_at == failed.updated_at == datetime(2026, 1, 1, 0, 0, 3, tzinfo=UTC)

    @pytest.mark.parametrize("query", [{"status": "sleeping"}, {"limit": -1}, {"offset": -1}])
    async def test_what_cannot_be_asked_is_refused(self, query: dict[str, Any]) -> None:
        """As a ``FlujoError`` that is a ``ValueError``."""
        with pytest.raises(InvalidArgument):
            await Flujo(flat_sum).list_runs(**query)


async def _collect(events: AsyncIterator[Event], kinds: list[str]) -> None:
    async for event in events:
        kinds.append(event.kind)  # noqa: PERF401 -- what was seen before an error counts


async def _none(value: Any) -> list[int]:
    return []


async def _same(value: Any) -> Any:
    return value


_same_step = step(name="same")(_same)


class TestWaitingForItself:
    """Code of a run that awaits the run, or one above it, would wait for ever."""

    def code(self, others: list[Flujo[Any, Any]]) -> Any:
        """Return a workflow that waits for run ``r`` in the first of the runtimes."""

        @step
        async def waits(how: str) -> Any:
            if how == "handle":
                return (await others[0].handle("r").result()).output
            return (await (others[0].resume("r") if how == "resume" else others[0].run(run_id="r"))).output

        @workflow
        async def code(how: str, ctx: RunContext) -> Any:
            if how == "itself":
                return await ctx.child(code, how, run_id="r")
            return await (ctx.child(waits, how) if how == "child" else waits(how))

        return code

    @pytest.mark.parametrize("kind", ["parallel", "nested", "map_each", "graph", "gather", "task group", "in a step"])
    async def test_is_told_of_what_runs_beside_others(self, store: Store, kind: str) -> None:
        """In tasks that the run waits for."""

        @step
        async def waits(n: Any, ctx: StepContext) -> Any:
            return (await flujo.run(run_id=ctx.run_id)).output

        @workflow
        async def gathers(n: int) -> list[Any]:
            return list(await asyncio.gather(waits(n), _same_step(n)))

        @workflow
        async def groups(n: int) -> None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(waits(n))

        @step
        async def waits_in_a_task(n: int, ctx: StepContext) -> list[Any]:
            return list(await asyncio.gather(flujo.run(run_id=ctx.run_id), flujo.resume(ctx.run_id)))

        definitions: dict[str, Any] = {
            "parallel": parallel(waits, _same_step),
            "nested": parallel(_same_step, as_step(map_each(waits), name="each")),
            "map_each": map_each(waits),
            "graph": graph(waits, _same_step),
            "gather": gathers,
            "task group": groups,
            "in a step": waits_in_a_task,
        }
        given = {"nested": [1, 2], "map_each": [1, 2], "graph": {"n": 1, "value": 1}}.get(kind, 1)
        flujo = Flujo[Any, Any](definitions[kind], state_backend=store.open())
        with pytest.raises(RunFailed) as caught:
            await flujo.run(given, run_id="r")
        assert "run 'r' would wait for itself" in "".join(traceback.format_exception(caught.value))

    async def test_is_told_of_runs_that_wait_for_each_other(self, store: Store) -> None:
        """The last one in the circle hears of it, and the others of that one's failure."""
        have_begun = asyncio.Barrier(3)

        @step
        async def waits(other: str) -> Any:
            await have_begun.wait()
            return (await flujo.handle(other).result()).output

        flujo = Flujo[Any, Any](parallel(waits, _same_step), state_backend=store.open())
        handles = [await flujo.start(other, run_id=run_id) for run_id, other in ("ab", "bc", "ca")]
        errors = await asyncio.gather(*(handle.result() for handle in handles), return_exceptions=True)
        assert all("would wait for itself" in str(error) for error in errors), errors

    @pytest.mark.parametrize("how", ["run", "resume", "handle", "child", "itself"])
    async def test_is_told(self, store: Store, how: str) -> None:
        """Whichever runtime of the same store it asks, and whoever drives the run."""
        backend = store.open()
        others: list[Flujo[Any, Any]] = []
        code = self.code(others)
        flujo = Flujo(code, state_backend=backend)
        for other in (flujo, Flujo(code, state_backend=backend)):
            others[:] = [other]
            with pytest.raises(RunFailed, match="run 'r' would wait for itself"):
                await flujo.run(how, run_id="r")
            await flujo.delete("r")
            with pytest.raises(RunFailed, match="run 'r' would wait for itself"):
                await (await flujo.start(how, run_id="r")).result()
            await flujo.delete("r")

    async def test_a_run_of_the_same_name_elsewhere_is_another(self, store: Store) -> None:
        elsewhere = Flujo(wait_for("answer"), state_backend=InMemoryBackend())
        await elsewhere.run(1, run_id="r")
        await elsewhere.signal("r", "answer", 42)
        flujo = Flujo(self.code([elsewhere]), state_backend=store.open())
        assert (await flujo.run("resume", run_id="r")).output == 42

    async def test_a_task_that_the_run_does_not_wait_for_may(self, store: Store) -> None:
        tasks: list[asyncio.Task[Any]] = []

        @step
        async def begins(n: int, ctx: StepContext) -> int:
            tasks.append(asyncio.create_task(flujo.handle(ctx.run_id).result()))
            await asyncio.sleep(0)
            return n

        flujo: Flujo[Any, Any] = Flujo(begins, state_backend=store.open())
        await flujo.run(1)
        assert (await tasks[0]).output == 1

    async def test_a_step_may_cancel_its_run(self, store: Store) -> None:
        @step
        async def gives_up(n: int, ctx: StepContext) -> None:
            await flujo.cancel(ctx.run_id, "enough")

        flujo: Flujo[Any, Any] = Flujo(gives_up, state_backend=store.open())
        with pytest.raises(RunCancelled, match="enough"):
            await flujo.run(1, run_id="r")
