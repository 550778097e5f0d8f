"""``run(run_id=R)`` when R exists: the whole table of the design."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flujo_async import Flujo, PipelineRegistry, StepContext, Waiting, WorkflowState, parallel, step
from flujo_async._model.facts import RunCancelled as CancelledFact
from flujo_async._model.facts import RunPaused
from flujo_async._model.lease import ClaimQuery
from flujo_async._runtime.owner import Owner
from flujo_async.abc import StateBackend
from flujo_async.errors import (
    FlujoError,
    InvalidArgument,
    RunCancelled,
    RunConflict,
    RunFailed,
    RunNotFound,
    SerializationError,
    VersionMismatch,
)
from flujo_async.testing import FaultyBackend, VirtualClock
from tests.runtime.children import Child
from tests.runtime.pretend import ANOTHER_HOST, Wrapped, append_fact, until
from tests.runtime.stores import Store, on_disk


class Work:
    """A pipeline of three steps whose second one stops at a gate, and a record of what was executed."""

    def __init__(self) -> None:
        self.executed: list[str] = []
        self.is_reached = asyncio.Event()
        self.may_go_on = asyncio.Event()

        @step
        async def fetch(n: int) -> int:
            self.executed.append("fetch")
            return n + 1

        @step
        async def wait(n: int) -> int:
            self.executed.append("wait")
            self.is_reached.set()
            await self.may_go_on.wait()
            return n * 10

        @step
        async def save(n: int, ctx: StepContext) -> str:
            self.executed.append("save")
            ctx.state["saved"] = n
            return f"saved {n}"

        self.pipeline = fetch >> wait >> save

    async def interrupt(self, flujo: Flujo[Any, Any], *args: Any, **kwargs: Any) -> None:
        task = asyncio.create_task(flujo.run(*args, **kwargs))
        await self.is_reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        self.is_reached.clear()
        self.executed.clear()


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
async def children(store: Store) -> AsyncIterator[list[Child]]:
    started: list[Child] = []
    yield started
    for child in started:
        await child.end()


class TestCompleted:
    """The recorded result, nothing executes, any number of times."""

    async def test_the_recorded_result_comes_back(self, store: Store, work: Work) -> None:
        """In the same runtime and in another one, with the input and without."""
        work.may_go_on.set()
        first = await Flujo(work.pipeline, state_backend=store.open()).run(1, run_id="r")
        assert work.executed == ["fetch", "wait", "save"]
        flujo = Flujo(work.pipeline, state_backend=store.open())
        for arguments in [(1,), ()]:
            again = await flujo.run(*arguments, run_id="r")
            assert again == first
        assert work.executed == ["fetch", "wait", "save"]
        assert len(await flujo.history("r")) == first.steps.__len__() + 2

    async def test_another_definition_may_read_it(self, backend: StateBackend, work: Work) -> None:
        """The definition is compared only when something would execute."""
        work.may_go_on.set()
        await Flujo(work.pipeline, state_backend=backend).run(1, run_id="r")
        other = Flujo(step(name="other")(_identity), state_backend=backend)
        assert (await other.run(run_id="r")).output == "saved 20"


class TestInterrupted:
    """A released, expired or dead owner's lease: resumes after the last commit."""

    @pytest.mark.parametrize("given", [(1,), ()])
    async def test_it_goes_on_after_the_last_commit(self, store: Store, work: Work, given: tuple[int, ...]) -> None:
        """With the input, or without repeating it."""
        await work.interrupt(Flujo(work.pipeline, state_backend=store.open()), 1, run_id="r")
        work.may_go_on.set()
        result = await Flujo(work.pipeline, state_backend=store.open()).run(*given, run_id="r")
        assert (result.output, result.context) == ("saved 20", {"saved": 20})
        assert work.executed == ["wait", "save"]

    async def test_it_goes_on_by_resume(self, store: Store, work: Work) -> None:
        """``resume`` is ``run`` for a run that exists."""
        await work.interrupt(Flujo(work.pipeline, state_backend=store.open()), 1, run_id="r")
        work.may_go_on.set()
        assert (await Flujo(work.pipeline, state_backend=store.open()).resume("r")).output == "saved 20"

    async def test_it_goes_on_by_start(self, store: Store, work: Work) -> None:
        """In the background."""
        await work.interrupt(Flujo(work.pipeline, state_backend=store.open()), 1, run_id="r")
        work.may_go_on.set()
        async with Flujo(work.pipeline, state_backend=store.open()) as flujo:
            handle = await flujo.start(run_id="r")
            assert (await handle.result()).output == "saved 20"

    async def test_it_may_be_interrupted_many_times(self, store: Store, work: Work) -> None:
        """The log tells of each resumption."""
        for _ in range(4):
            await work.interrupt(Flujo(work.pipeline, state_backend=store.open()), 1, run_id="r")
        work.may_go_on.set()
        flujo = Flujo(work.pipeline, state_backend=store.open())
        assert (await flujo.run(run_id="r")).output == "saved 20"
        assert work.executed == ["wait", "save"]
        [summary] = await flujo.list_runs()
        assert (summary.attempts, summary.status, summary.lease) == (5, "completed", None)

    @on_disk
    async def test_a_killed_owner_is_dead_at_once(self, store: Store, children: list[Child]) -> None:
        """Its process is gone, so nobody waits for the lease to expire."""
        child = await Child.start("drive", store.url, "r")
        children.append(child)
        await child.says("in the second step")
        await child.kill()
        async with asyncio.timeout(20):
            result = await Flujo(_remote(), state_backend=store.open(), lease_ttl=timedelta(hours=1)).run(run_id="r")
        assert result.output == [1, "a", "b"]
        assert child.executed() == ["a", "b"], "the child executed a and began b; b ran again here"

    async def test_it_is_read_once_and_claimed_once(self, store: Store, work: Work) -> None:
        """Also from an owner that is dead; then only what came between the two is read."""
        await work.interrupt(Flujo(work.pipeline, state_backend=store.open()), 1, run_id="r")
        backend = FaultyBackend(store.open())
        with Owner.at_work() as dead:
            now, hour = datetime.now(UTC), timedelta(hours=1)
            assert await backend.inner.claim(str(dead), now=now, ttl=hour, query=ClaimQuery(run_id="r"))
        work.may_go_on.set()
        assert (await Flujo(work.pipeline, state_backend=backend).resume("r")).output == "saved 20"
        verbs = [call.verb for call in backend.calls]
        first, late = verbs[:4], verbs[4 : verbs.index("append")]
        assert first == ["load", "claim", "read_events", "read_signals"]
        assert set(late) <= {"read_signals"}, "after a second they are read once more"

    async def test_one_that_was_paused_and_is_resumed_elsewhere_is_attached_to(self, store: Store) -> None:
        """Its head says that it is paused until its next commit."""
        begun, may_go_on = asyncio.Event(), asyncio.Event()

        @step
        async def double(n: int) -> int:
            begun.set()
            await may_go_on.wait()
            return 2 * n

        backend = FaultyBackend(store.open())
        here, elsewhere = Flujo(double, state_backend=store.open()), Flujo(double, state_backend=backend)
        await here.dispatch(1, run_id="r")
        await here.pause("r")
        assert (await here.run(run_id="r")).status == "paused"
        resumed = asyncio.create_task(here.resume("r"))
        await begun.wait()
        with backend.delay("query_runs") as waiting:
            attached = asyncio.create_task(elsewhere.run(run_id="r"))
            is_waiting = asyncio.create_task(waiting.reached())
            await asyncio.wait({attached, is_waiting}, return_when=asyncio.FIRST_COMPLETED)
            may_go_on.set()
            assert (await resumed).output == 2
        assert (await attached).output == 2
        await is_waiting

    async def test_a_lease_of_another_host_has_to_expire(self, store: Store, work: Work) -> None:
        """Nothing can be known of its owner; by the clock, not by sleeping."""
        if store.kind == "memory":
            pytest.skip("a store in memory has no other hosts")
        clock, backend = VirtualClock(), store.open()
        await work.interrupt(Flujo(work.pipeline, state_backend=backend, clock=clock), 1, run_id="r")
        work.may_go_on.set()
        query = ClaimQuery(run_id="r")
        assert await backend.claim(ANOTHER_HOST, now=clock.now(), ttl=timedelta(seconds=60), query=query)
        flujo = Flujo(work.pipeline, state_backend=backend, clock=clock)
        clock.advance(59)
        attached = asyncio.create_task(flujo.run(run_id="r"))
        await _looked_at(backend, clock)
        assert (work.executed, attached.done()) == ([], False)
        clock.advance(1)
        assert (await attached).output == "saved 20"
        assert work.executed == ["wait", "save"]

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
    async def test_a_runtime_that_was_forgotten_is_dead(self, work: Work) -> None:
        """A runtime whose event loop was closed under it no longer counts as alive."""
        backend = Flujo(work.pipeline).state_backend

        async def abandon() -> None:
            await Flujo(work.pipeline, state_backend=backend).start(1, run_id="r")

        def in_a_loop_of_its_own() -> None:
            loop = asyncio.new_event_loop()
            loop.run_until_complete(abandon())
            left.extend(asyncio.all_tasks(loop))
            loop.close()

        left: list[asyncio.Task[Any]] = []
        await asyncio.to_thread(in_a_loop_of_its_own)
        other = Work()
        other.may_go_on.set()
        assert (await Flujo(other.pipeline, state_backend=backend).run(run_id="r")).output == "saved 20"
        for task in left:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        left.clear()
        del task
        gc.collect()  # what Python has to say about the abandoned coroutine, it says here


async def _looked_at(backend: StateBackend, clock: VirtualClock) -> None:
    """Give whoever waits the time to look several times."""
    for _ in range(3):
        await backend.wait_for_work("r", timeout=0.1)
        assert await backend.claim("nobody", now=clock.now(), ttl=timedelta(1), query=ClaimQuery(run_id="r")) == []


class Asking(Wrapped):
    """A store that knows whether somebody has asked for a run, and waits for news since."""

    is_waiting = False
    _has_asked = False

    async def through(self, verb: str, call: Callable[[], Any]) -> Any:
        self._has_asked |= verb == "claim"
        return await super().through(verb, call)

    async def wait_for_work(self, run_id: str | None = None, *, timeout: float) -> None:
        self.is_waiting = self._has_asked
        await super().wait_for_work(run_id, timeout=timeout)


class TestAttached:
    """Alive elsewhere: waits for that run's result; never a second executor."""

    async def test_in_the_same_runtime(self, backend: StateBackend, work: Work) -> None:
        """Two calls, one execution."""
        flujo = Flujo(work.pipeline, state_backend=backend)
        await self._two_calls(flujo, flujo, work)

    async def test_in_another_runtime_of_this_process(self, store: Store, work: Work) -> None:
        """Over one store."""
        one = Flujo(work.pipeline, state_backend=store.open())
        other = Flujo(work.pipeline, state_backend=store.open())
        await self._two_calls(one, other, work)

    async def test_it_has_asked_for_the_run_in_vain(self, store: Store, work: Work) -> None:
        """The owner is alive, and goes on alone."""
        one, asking = Flujo(work.pipeline, state_backend=store.open()), Asking(store.open())
        driving = asyncio.create_task(one.run(1, run_id="r"))
        await work.is_reached.wait()
        attached = asyncio.create_task(Flujo(work.pipeline, state_backend=asking).run(run_id="r"))
        await until(lambda: asking.is_waiting or work.executed != ["fetch", "wait"])
        work.may_go_on.set()
        assert (await driving).output == (await attached).output == "saved 20"
        assert work.executed == ["fetch", "wait", "save"]

    async def _two_calls(self, one: Flujo[Any, Any], other: Flujo[Any, Any], work: Work) -> None:
        driving = asyncio.create_task(one.run(1, run_id="r"))
        await work.is_reached.wait()
        attached = [asyncio.create_task(other.run(*given, run_id="r")) for given in [(1,), (), (1,)]]
        await other.handle("r").status()
        work.may_go_on.set()
        results = await asyncio.gather(driving, *attached)
        assert {result.output for result in results} == {"saved 20"}
        assert work.executed == ["fetch", "wait", "save"]

    async def test_both_at_the_same_instant(self, store: Store, work: Work) -> None:
        """Neither was first: one creates the run, the other attaches."""
        work.may_go_on.set()
        runtimes = [Flujo(work.pipeline, state_backend=store.open()) for _ in range(3)]
        results = await asyncio.gather(*(flujo.run(1, run_id="r") for flujo in runtimes * 2))
        assert {result.output for result in results} == {"saved 20"}
        assert work.executed == ["fetch", "wait", "save"]

    async def test_a_failure_reaches_everybody(self, backend: StateBackend) -> None:
        """The attached call raises what the driving one raises."""
        is_reached, go_on = asyncio.Event(), asyncio.Event()

        @step
        async def broken(n: int) -> int:
            is_reached.set()
            await go_on.wait()
            raise ValueError("broken")

        flujo = Flujo(broken, state_backend=backend)
        calls = [asyncio.create_task(flujo.run(1, run_id="r")) for _ in range(3)]
        await is_reached.wait()
        go_on.set()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [(type(error), str(error.__cause__)) for error in results] == [(RunFailed, "broken")] * 3  # type: ignore[union-attr]

    async def test_the_attached_takes_over_from_the_cancelled(self, store: Store, work: Work) -> None:
        """When the driving call is cancelled, the run goes on with the other, after the last commit."""
        one = Flujo(work.pipeline, state_backend=store.open())
        other = Flujo(work.pipeline, state_backend=store.open())
        driving = asyncio.create_task(one.run(1, run_id="r"))
        await work.is_reached.wait()
        work.is_reached.clear()
        attached = [asyncio.create_task(flujo.run(1, run_id="r")) for flujo in (one, other)]
        await other.handle("r").status()
        driving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await driving
        await work.is_reached.wait()
        work.may_go_on.set()
        results = await asyncio.gather(*attached)
        assert [result.output for result in results] == ["saved 20"] * 2
        assert work.executed == ["fetch", "wait", "wait", "save"]

    async def test_cancelling_the_attached_only_stops_its_waiting(self, store: Store, work: Work) -> None:
        """The run goes on undisturbed."""
        one = Flujo(work.pipeline, state_backend=store.open())
        other = Flujo(work.pipeline, state_backend=store.open())
        driving = asyncio.create_task(one.run(1, run_id="r"))
        await work.is_reached.wait()
        for flujo in (one, other):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(flujo.run(1, run_id="r"), 0.02)
        work.may_go_on.set()
        assert (await driving).output == "saved 20"
        assert work.executed == ["fetch", "wait", "save"]

    async def test_another_definition_may_wait_for_it(self, backend: StateBackend, work: Work) -> None:
        """Nothing would execute here, so the definition does not matter."""
        driving = asyncio.create_task(Flujo(work.pipeline, state_backend=backend).run(1, run_id="r"))
        await work.is_reached.wait()
        other = Flujo(step(name="other")(_identity), state_backend=backend)
        attached = asyncio.create_task(other.run(run_id="r"))
        await other.handle("r").status()
        work.may_go_on.set()
        assert (await attached).output == (await driving).output

    @on_disk
    async def test_in_another_process(self, store: Store, children: list[Child]) -> None:
        """A real one: its result arrives here, and nothing is executed here."""
        child = await Child.start("drive", store.url, "r")
        children.append(child)
        await child.says("in the second step")
        attached = asyncio.create_task(Flujo(_remote(), state_backend=store.open()).run(run_id="r"))
        await Flujo(_remote(), state_backend=store.open()).handle("r").status()
        await child.tell("go on")
        assert (await attached).output == [1, "a", "b"]
        assert await child.end() == 0
        assert child.executed() == ["a", "b"]


def _remote() -> Any:
    from tests.runtime import child

    return child.pipeline()


class TestPaused:
    """Returns the paused result; nothing advances, however often it is called."""

    async def test_the_paused_result_comes_back(self, store: Store, work: Work) -> None:
        """With what it waits for."""
        backend = store.open()
        await work.interrupt(Flujo(work.pipeline, state_backend=backend), 1, run_id="r")
        now = datetime.now(UTC)
        waiting = Waiting(kind="signal", name="approval", since=now, prompt="Really?")
        await append_fact(backend, "r", RunPaused(at=now, waiting_for=(waiting,)), "paused", waiting_for=(waiting,))
        flujo = Flujo(work.pipeline, state_backend=store.open())
        for call in (flujo.run(1, run_id="r"), flujo.run(run_id="r"), flujo.resume("r"), flujo.handle("r").result()):
            result = await call
            assert (result.status, result.output, result.finished_at) == ("paused", None, None)
            assert result.waiting_for == [waiting]
        handle = await flujo.start(run_id="r")
        assert (await handle.result()).status == "paused"
        assert work.executed == []
        [summary] = await flujo.list_runs(status="paused")
        assert (summary.waiting_for, summary.lease) == ([waiting], None)
        with pytest.raises(RunConflict):
            await flujo.run(2, run_id="r")


class TestFailed:
    """Raises the recorded failure."""

    async def test_the_recorded_failure_is_raised_again(self, store: Store) -> None:
        """Nothing is tried again; the result on it has the steps and the context."""
        tries: list[int] = []

        @step
        async def note(n: int, ctx: StepContext) -> int:
            ctx.state["noted"] = n
            return n

        @step
        async def broken(n: int) -> int:
            tries.append(n)
            raise LookupError("no such thing", n)

        pipeline = note >> broken
        for given in [(1,), (1,), ()]:
            flujo = Flujo(pipeline, state_backend=store.open())
            with pytest.raises(RunFailed) as caught:
                await flujo.run(*given, run_id="r")
            assert isinstance(caught.value.__cause__, LookupError)
            assert caught.value.__cause__.args == ("no such thing", 1)
            result = caught.value.result
            assert (result.run_id, result.status, result.context) == ("r", "failed", {"noted": 1})
            assert [record.status.value for record in result.steps] == ["SUCCEEDED", "FAILED"]
            assert caught.value.run_id == "r"
        assert tries == [1]
        with pytest.raises(RunFailed):
            await flujo.handle("r").result()
        with pytest.raises(RunFailed):
            await flujo.resume("r")

    async def test_a_failure_whose_message_is_not_unicode_is_recorded(self, store: Store) -> None:
        """As that of a file whose name is not: what lists show of it is escaped."""
        tries: list[str] = []

        @step
        async def broken(name: str) -> None:
            tries.append(name)
            raise LookupError(f"nothing in {name}")

        for _ in range(2):
            flujo = Flujo(broken, state_backend=store.open())
            with pytest.raises(RunFailed) as caught:
                await flujo.run("b\udcffd.txt", run_id="r")
            assert str(caught.value.__cause__) == "nothing in b\udcffd.txt"
        [summary] = await flujo.list_runs()
        assert summary.status == "failed"
        assert (summary.error_message or "").encode() == rb"LookupError: nothing in b\udcffd.txt"
        assert tries == ["b\udcffd.txt"]


class TestCancelled:
    """Raises ``RunCancelled``."""

    async def test_a_cancelled_run_stays_cancelled(self, store: Store, work: Work) -> None:
        """The error has the reason and the result."""
        backend = store.open()
        await work.interrupt(Flujo(work.pipeline, state_backend=backend), 1, run_id="r")
        await append_fact(backend, "r", CancelledFact(at=datetime.now(UTC), reason="not needed"), "cancelled")
        flujo = Flujo(work.pipeline, state_backend=store.open())
        for _ in range(2):
            with pytest.raises(RunCancelled, match="not needed") as caught:
                await flujo.run(1, run_id="r")
            assert caught.value.result.status == "cancelled"
        assert work.executed == []


class TestConflict:
    """Another input or context than recorded: ``RunConflict``, whatever the status."""

    @pytest.mark.parametrize("status", ["completed", "interrupted", "alive"])
    async def test_another_input_is_a_conflict(self, backend: StateBackend, work: Work, status: str) -> None:
        """Nothing executes, and the run is as it was."""
        flujo = Flujo(work.pipeline, state_backend=backend)
        driving = None
        match status:
            case "completed":
                work.may_go_on.set()
                await flujo.run(1, run_id="r")
            case "interrupted":
                await work.interrupt(flujo, 1, run_id="r")
            case _:
                driving = asyncio.create_task(flujo.run(1, run_id="r"))
                await work.is_reached.wait()
        executed, history = list(work.executed), await flujo.history("r")
        others: list[Any] = [2, 1.0, True, "1", None]
        for other in others:
            with pytest.raises(RunConflict, match="another input"):
                await flujo.run(other, run_id="r")
            with pytest.raises(RunConflict):
                await flujo.start(other, run_id="r")
        assert (work.executed, await flujo.history("r")) == (executed, history)
        work.may_go_on.set()
        assert (await flujo.run(1, run_id="r")).output == "saved 20"
        if driving:
            await driving

    async def test_another_context_is_a_conflict(self, backend: StateBackend, work: Work) -> None:
        """The same one is none, nor is leaving it out."""
        work.may_go_on.set()
        flujo = Flujo(work.pipeline, state_backend=backend)
        await flujo.run(1, run_id="r", context={"a": 1, "b": 2})
        with pytest.raises(RunConflict, match="another context"):
            await flujo.run(1, run_id="r", context={"a": 2, "b": 2})
        with pytest.raises(RunConflict):
            await flujo.run(run_id="r", context={})
        for context in ({"b": 2, "a": 1}, None):
            assert (await flujo.run(1, run_id="r", context=context)).output == "saved 20"

    async def test_an_equal_input_is_none(self, backend: StateBackend) -> None:
        """The order of keys and of set members does not count."""
        flujo = Flujo(step(_identity), state_backend=backend)
        await flujo.run({"a": {"x", "y", "z"}, "b": 1}, run_id="r")
        assert (await flujo.run({"b": 1, "a": {"z", "y", "x"}}, run_id="r")).status == "completed"


class TestDefinition:
    """Definition changed: ``VersionMismatch`` before anything executes, unless registered or migrated."""

    async def test_a_changed_structure_is_a_mismatch(self, store: Store, work: Work) -> None:
        """The old definition still resumes it."""
        await work.interrupt(Flujo(work.pipeline, state_backend=store.open()), 1, run_id="r")
        changed = Flujo(work.pipeline >> step(_identity), state_backend=store.open())
        history = await changed.history("r")
        for call in (changed.run(1, run_id="r"), changed.resume("r"), changed.start(run_id="r")):
            with pytest.raises(VersionMismatch):
                await call
        assert work.executed == []
        assert await changed.history("r") == history
        work.may_go_on.set()
        result = await Flujo(work.pipeline, state_backend=store.open()).run(run_id="r")
        assert result.output == "saved 20"

    async def test_the_same_structure_fits_whatever_the_source_says(self, backend: StateBackend) -> None:
        """Names and order count, not source text."""
        is_reached = asyncio.Event()

        def make(text: str) -> Any:
            async def first(n: int) -> str:
                return text

            async def second(text: str) -> str:
                if text == "old" and not is_reached.is_set():
                    is_reached.set()
                    await asyncio.Event().wait()
                return text + text

            return step(first) >> step(second)

        task = asyncio.create_task(Flujo(make("old"), state_backend=backend).run(1, run_id="r"))
        await is_reached.wait()
        task.cancel()
        await asyncio.wait({task})
        assert (await Flujo(make("new"), state_backend=backend).run(run_id="r")).output == "oldold"

    async def test_a_registered_version_goes_on_as_it_began(self, store: Store, work: Work) -> None:
        """Though the runtime's own is a newer one."""
        registry = PipelineRegistry()
        registry.register(work.pipeline, "job", "1.0")
        old = Flujo(registry=registry, pipeline_name="job", state_backend=store.open())
        await work.interrupt(old, 1, run_id="r")

        registry.register(work.pipeline >> step(name="shout")(_shout), "job", "1.10")
        work.may_go_on.set()
        new = Flujo(registry=registry, pipeline_name="job", state_backend=store.open())
        assert (await new.run(run_id="r")).output == "saved 20"
        assert (await new.run(1, run_id="r2")).output == "SAVED 20"
        assert (await new.state("r")).pipeline_version == "1.0"
        assert (await new.state("r2")).pipeline_version == "1.10"

    async def test_an_unregistered_version_is_a_mismatch(self, backend: StateBackend, work: Work) -> None:
        """Also when the structure is the same: the author says that it is another one."""
        one = PipelineRegistry()
        one.register(work.pipeline, "job", "1.0")
        await work.interrupt(Flujo(registry=one, pipeline_name="job", state_backend=backend), 1, run_id="r")
        two = PipelineRegistry()
        two.register(work.pipeline, "job", "2.0")
        with pytest.raises(VersionMismatch, match=r"1\.0.*2\.0"):
            await Flujo(registry=two, pipeline_name="job", state_backend=backend).run(run_id="r")

    async def test_the_same_version_with_another_structure_is_a_mismatch(
        self, backend: StateBackend, work: Work
    ) -> None:
        """Somebody forgot to raise the version."""
        one = PipelineRegistry()
        one.register(work.pipeline, "job", "1.0")
        await work.interrupt(Flujo(registry=one, pipeline_name="job", state_backend=backend), 1, run_id="r")
        two = PipelineRegistry()
        two.register(work.pipeline >> step(_identity), "job", "1.0")
        with pytest.raises(VersionMismatch, match="raise its version"):
            await Flujo(registry=two, pipeline_name="job", state_backend=backend).run(run_id="r")

    async def test_without_a_version_it_is_told_that_the_structure_has_changed(
        self, backend: StateBackend, work: Work
    ) -> None:
        """Two fingerprints tell nobody anything."""
        await work.interrupt(Flujo(work.pipeline, pipeline_name="job", state_backend=backend), 1, run_id="r")
        other = Flujo(work.pipeline >> step(_identity), pipeline_name="job", state_backend=backend)
        with pytest.raises(VersionMismatch, match=r"whose steps or their order have changed since; register"):
            await other.run(run_id="r")

    async def test_a_migrated_run_goes_on_under_the_new_definition(self, store: Store, work: Work) -> None:
        """``migrate`` sees the state, and what it returns is in the context from then on."""
        old = Flujo(work.pipeline, pipeline_name="job", state_backend=store.open())
        await work.interrupt(old, 1, run_id="r", context={"kept": 1, "changed": 1})
        seen: list[WorkflowState] = []

        def migrate(state: WorkflowState) -> dict[str, Any]:
            seen.append(state)
            return {"changed": 2, "added": [state.current_step_index]}

        @step
        async def look(text: str, ctx: StepContext) -> dict[str, Any]:
            found = dict(ctx.state)
            ctx.state["looked"] = True
            return found

        work.may_go_on.set()
        new = Flujo(work.pipeline >> look, pipeline_name="job", state_backend=store.open(), migrate=migrate)
        result = await new.run(run_id="r")
        assert [state.current_step_index for state in seen] == [1]
        assert work.executed == ["wait", "save"]
        expected = {"kept": 1, "changed": 2, "added": [1], "saved": 20}
        assert result.output == expected, "what the steps see"
        assert result.context == expected | {"looked": True}, "what the run leaves"
        assert (await new.run(run_id="r")).context == result.context

    async def test_a_migrated_run_can_be_interrupted_again(self, store: Store, work: Work) -> None:
        """It is migrated once."""
        old = Flujo(work.pipeline, pipeline_name="job", state_backend=store.open())
        await work.interrupt(old, 1, run_id="r")
        calls: list[WorkflowState] = []

        def migrate(state: WorkflowState) -> None:
            calls.append(state)

        @step
        async def first_look(text: str) -> str:
            return text

        pipeline: Any = work.pipeline >> step(name="stop")(_Stop(work).once) >> first_look
        work.may_go_on.set()
        new = Flujo(pipeline, pipeline_name="job", state_backend=store.open(), migrate=migrate)
        task = asyncio.create_task(new.run(run_id="r"))
        await until(lambda: "stop" in work.executed)
        task.cancel()
        await asyncio.wait({task})
        assert (await new.run(run_id="r")).output == "saved 20"
        assert len(calls) == 1

    async def test_a_migration_that_does_not_fit_changes_nothing(self, backend: StateBackend, work: Work) -> None:
        """What it raises arrives here, and the old definition still resumes the run."""
        old = Flujo(work.pipeline, pipeline_name="job", state_backend=backend)
        await work.interrupt(old, 1, run_id="r")

        def migrate(state: WorkflowState) -> dict[str, Any]:
            raise ZeroDivisionError

        new = Flujo(work.pipeline >> step(_identity), pipeline_name="job", state_backend=backend, migrate=migrate)
        with pytest.raises(ZeroDivisionError):
            await new.run(run_id="r")
        work.may_go_on.set()
        assert (await old.run(run_id="r")).output == "saved 20"


class _Stop:
    def __init__(self, work: Work) -> None:
        self._work = work

    async def once(self, text: str) -> str:
        if "stop" not in self._work.executed:
            self._work.executed.append("stop")
            await asyncio.Event().wait()
        return text


async def _identity(value: Any) -> Any:
    return value


async def _shout(text: str) -> str:
    return text.upper()


class TestMissing:
    """R does not exist."""

    async def test_a_run_without_an_input_needs_a_first_step_without_one(self, backend: StateBackend) -> None:
        """There is nothing to resume, and nothing to start with."""

        @step
        async def needs(n: int) -> int:
            return n

        @step
        async def needs_not(n: int | None) -> str:
            return repr(n)

        with pytest.raises(FlujoError, match="needs"):
            await Flujo(needs, state_backend=backend).run(run_id="r")
        with pytest.raises(RunNotFound):
            await Flujo(needs, state_backend=backend).resume("r")
        assert (await Flujo(needs_not, state_backend=backend).run(run_id="r")).output == "None"

    @pytest.mark.parametrize("run_id", ["", "x" * 513, "a\0b", "\ud800", 7])
    async def test_an_id_that_cannot_name_a_run_is_refused(self, run_id: Any) -> None:
        """By every call, as a ``FlujoError`` that is a ``ValueError``."""
        flujo = Flujo(step(_identity))
        for call in (
            flujo.run(1, run_id=run_id),
            flujo.start(1, run_id=run_id),
            flujo.resume(run_id),
            flujo.state(run_id),
            flujo.delete(run_id),
        ):
            with pytest.raises(InvalidArgument):
                await call
        assert issubclass(InvalidArgument, ValueError)

    async def test_what_cannot_be_stored_is_refused_before_the_run_exists(self, backend: StateBackend) -> None:
        """Input, context and metadata."""
        flujo = Flujo(step(_identity), state_backend=backend)
        unstorable: list[dict[str, Any]] = [
            {"input": object()},
            {"context": {"x": object()}},
            {"metadata": {"x": {1, 2}}},
        ]
        for arguments in unstorable:
            given: Any = arguments.pop("input", 1)
            with pytest.raises(SerializationError):
                await flujo.run(given, run_id="r", **arguments)
        assert await flujo.list_runs() == []

    async def test_a_run_gets_a_name_of_its_own(self) -> None:
        """A new one each time."""
        flujo = Flujo(parallel(step(_identity)))
        results = [await flujo.run(1) for _ in range(3)]
        assert len({result.run_id for result in results}) == 3


def test_paths_are_not_shared(tmp_path: Path) -> None:
    """Two stores of one test are two stores."""
    assert Store("file", tmp_path / "a").url != Store("file", tmp_path / "b").url
