"""Cancelling is asyncio's (G5): it interrupts the run, arrives, and leaves nothing behind."""

import asyncio
import selectors
import threading
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from flujo_async import (
    Flujo,
    InMemoryBackend,
    Retry,
    RunResult,
    StepContext,
    as_step,
    branch,
    graph,
    loop,
    map_each,
    parallel,
    step,
    wait_for,
)
from flujo_async.abc import StateBackend
from flujo_async.errors import FlujoError, InvalidArgument, RunCancelled, RunFailed, RunNotFound
from flujo_async.testing import VirtualClock
from tests.runtime.crashes import others
from tests.runtime.pretend import gated_store
from tests.runtime.stores import Store


@step
async def one(n: int) -> int:
    await asyncio.sleep(0)
    return n + 1


@step
async def two(n: int, ctx: StepContext) -> int:
    ctx.state["two"] = n
    await asyncio.sleep(0)
    return n * 2


@step(retry=Retry(max_attempts=2, base=0))
async def flaky(n: int, ctx: StepContext) -> int:
    if ctx.attempt == 1:
        raise ValueError
    return n


IN_A_STEP: ContextVar[asyncio.Event | None] = ContextVar("IN_A_STEP", default=None)


@step
async def pair(values: Any) -> list[int]:
    if is_in_a_step := IN_A_STEP.get():
        is_in_a_step.set()
        await asyncio.sleep(0)
    return sorted(values.values())


PIPELINE = (
    as_step(one >> two, name="head")
    >> parallel(one, flaky)
    >> pair
    >> map_each(branch(lambda n: n % 2 == 0, {True: one, False: loop(one, until=lambda n: n > 6, max_iterations=9)}))
)


async def reference() -> tuple[Any, Any]:
    """Return what an uninterrupted run ends with."""
    result = await Flujo(PIPELINE).run(1)
    return result.output, result.context


async def test_cancelled_at_every_tick_a_run_can_be_resumed() -> None:
    """Wherever the cancellation falls: it is raised, the lease is free, no task is left, the run ends alike."""
    expected = await reference()
    ticks = 0
    while True:
        flujo = Flujo(PIPELINE)
        task = asyncio.create_task(flujo.run(1, run_id="r"))
        for _ in range(ticks):
            await asyncio.sleep(0)
        if task.done():
            break
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert others() == set()
        for summary in await flujo.list_runs():
            assert summary.lease is None
            assert summary.status in ("running", "completed")
        result = await flujo.run(1, run_id="r")
        assert (result.output, result.context) == expected
        assert others() == set()
        ticks += 1
    assert ticks > 20


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("verb", "nth"), [("create_run", 1), ("append", 1), ("append", 3), ("append", 6)])
async def test_cancelled_while_the_store_is_busy(store: Store, verb: str, nth: int, after: bool) -> None:
    """In the middle of ``create_run`` and of a commit: the write ends, then the cancellation arrives."""
    expected = await reference()
    gated, gate = gated_store(store.open(), verb, nth=nth, after=after)
    task = asyncio.create_task(Flujo(PIPELINE, state_backend=gated).run(1, run_id="r"))
    await gate.reached()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done(), "the write is still under way"
    gate.release()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert others() == set()
    flujo = Flujo(PIPELINE, state_backend=store.open())
    [summary] = await flujo.list_runs()
    assert (summary.status, summary.lease) == ("running", None)
    result = await flujo.run(1, run_id="r")
    assert (result.output, result.context) == expected


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("verb", ["claim", "read_events", "release"])
async def test_cancelled_while_a_run_is_taken_up(store: Store, verb: str, after: bool) -> None:
    """A claim that comes too late is given back."""
    expected = await reference()
    gated, gate = gated_store(store.open(), "append", nth=2)
    task = asyncio.create_task(Flujo(PIPELINE, state_backend=gated).run(1, run_id="r"))
    await gate.reached()
    task.cancel()
    gate.release()
    await asyncio.wait({task})

    gated, gate = gated_store(store.open(), verb, after=after)
    is_in_a_step = asyncio.Event()
    IN_A_STEP.set(is_in_a_step)
    task = asyncio.create_task(Flujo(PIPELINE, state_backend=gated).run(1, run_id="r"))
    if verb == "release":
        await is_in_a_step.wait()
        task.cancel()
    await gate.reached()
    task.cancel()
    await asyncio.sleep(0)
    gate.release()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await _lease(gated, "r") is None
    assert others() == set()
    result = await Flujo(PIPELINE, state_backend=store.open()).run(1, run_id="r")
    assert (result.output, result.context) == expected


async def _lease(backend: StateBackend, run_id: str) -> Any:
    stored = await backend.load(run_id)
    assert stored is not None
    return stored.summary.lease


class Stuck:
    """A pipeline whose step waits, and tells what became of it."""

    def __init__(self) -> None:
        self.is_reached = asyncio.Event()
        self.go_on = asyncio.Event()
        self.fate: list[str] = []
        self.then: Callable[[], object] = bool

        @step
        async def wait(n: int) -> int:
            self.is_reached.set()
            self.then()
            try:
                await self.go_on.wait()
            except asyncio.CancelledError:
                self.fate.append("cancelled")
                raise
            self.fate.append("done")
            return n

        self.step = wait


async def test_the_lease_is_free_at_once(store: Store) -> None:
    """When the cancellation arrives at the caller, another process may have the run already."""
    stuck, backend = Stuck(), store.open()
    task = asyncio.create_task(Flujo(stuck.step, state_backend=backend).run(1, run_id="r"))
    await stuck.is_reached.wait()
    assert await _lease(backend, "r") is not None
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (stuck.fate, await _lease(backend, "r")) == (["cancelled"], None)


async def test_limits_of_the_callers_own_work(store: Store) -> None:
    """``asyncio.timeout``, ``wait_for`` and anyio's scopes end as they always do."""
    stuck = Stuck()
    flujo = Flujo(map_each(stuck.step), state_backend=store.open())
    with pytest.raises(TimeoutError):  # noqa: PT012 -- a limit that ends when the step is reached
        async with asyncio.timeout(None) as limit:
            stuck.then = lambda: limit.expired() or limit.reschedule(0)
            await flujo.run([1, 2], run_id="r")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(flujo.run(run_id="r"), 0.01)
    with anyio.move_on_after(0.01) as scope:
        await flujo.run(run_id="r")
    assert scope.cancelled_caught
    assert set(stuck.fate) == {"cancelled"}
    assert others() == set()
    stuck.go_on.set()
    assert (await flujo.run([1, 2], run_id="r")).output == [1, 2]


async def test_a_failing_neighbour_in_a_task_group_interrupts_the_run() -> None:
    """The group raises its neighbour's error, and the run can be resumed."""
    stuck = Stuck()
    flujo = Flujo(stuck.step)

    async def fail() -> None:
        await stuck.is_reached.wait()
        raise LookupError

    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 -- a group is two statements
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(flujo.run(1, run_id="r"))
            tasks.create_task(fail())
    assert [type(error) for error in caught.value.exceptions] == [LookupError]
    stuck.go_on.set()
    assert (await flujo.run(run_id="r")).output == 1


async def test_a_failing_run_in_a_task_group_is_its_error() -> None:
    """``RunFailed`` arrives in the group like any exception."""

    @step
    async def broken(n: int) -> int:
        raise ValueError(n)

    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(Flujo(broken).run(1))
    assert [type(error) for error in caught.value.exceptions] == [RunFailed]


async def test_a_step_may_clean_up_when_it_is_cancelled() -> None:
    """Its ``finally`` runs to its end before the cancellation arrives."""
    is_reached, cleaned = asyncio.Event(), list[str]()

    @step
    async def tidy(n: int) -> int:
        try:
            is_reached.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            cleaned.append("clean")
        return n

    task = asyncio.create_task(Flujo(parallel(tidy)).run(1))
    await is_reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned == ["clean"]


async def test_cancelled_while_it_waits_for_a_retry() -> None:
    """The wait is interrupted, not the count."""
    clock = VirtualClock()

    @step(retry=Retry(max_attempts=3, base=100, jitter=0))
    async def broken(n: int) -> int:
        raise ValueError

    flujo = Flujo(broken, clock=clock)
    task = asyncio.create_task(flujo.run(1, run_id="r"))
    await clock.until_asleep()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert clock.sleepers == 0
    assert others() == set()


async def cleaning_up(flujo: Flujo[Any, Any]) -> asyncio.Task[RunResult[Any]]:
    """Return a task that was cancelled, and drives a run before it ends."""

    async def work() -> RunResult[Any]:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return await flujo.run(1, run_id="r")
        raise AssertionError("nobody ends this wait")

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    return task


@pytest.mark.parametrize("body", [one, parallel(one)])
async def test_a_run_may_pause_in_a_task_that_was_cancelled_before(body: Any) -> None:
    """As one does that cleans up; the cancellation is none of the run's."""
    result = await (await cleaning_up(Flujo(body >> wait_for("approval"))))
    assert result.status == "paused"


@pytest.mark.parametrize("nest", [partial(as_step, name="body"), parallel])
async def test_a_step_may_not_cancel_itself_in_a_task_that_was_cancelled_before(nest: Callable[..., Any]) -> None:
    @step
    async def confused(n: int) -> int:
        raise asyncio.CancelledError

    with pytest.raises(RunFailed, match="nobody had cancelled it"):
        await (await cleaning_up(Flujo(nest(confused))))


class Stop(BaseException):
    """Nothing that a step fails with."""


@pytest.mark.parametrize("error", [Stop, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("kind", ["step", "parallel", "nested", "map_each", "graph"])
async def test_what_is_no_failure_comes_out_as_it_is(kind: str, error: type[BaseException]) -> None:
    """Nothing is left behind, and the run can be resumed."""
    raised, others_begun = list[BaseException](), 0

    @step
    async def ends(n: int) -> int:
        if not raised:
            raised.append(error("enough"))
            raise raised[0]
        return n

    @step
    async def beside(n: int) -> int:
        nonlocal others_begun
        others_begun += 1
        if others_begun == 1:
            await asyncio.Event().wait()
        return n

    definitions: dict[str, Any] = {
        "step": ends,
        "parallel": parallel(beside, ends),
        "nested": parallel(beside, as_step(parallel(ends), name="inner")),
        "map_each": map_each(ends, max_concurrency=1),
        "graph": graph(beside, ends),
    }
    flujo = Flujo[Any, Any](definitions[kind])
    with pytest.raises(error) as caught:
        await flujo.run({"map_each": [1], "graph": {"n": 1}}.get(kind, 1), run_id="r")
    assert caught.value is raised[0]
    assert not others()
    assert await flujo.handle("r").status() == "running"
    assert (await flujo.run(run_id="r")).status == "completed"


async def test_a_run_may_be_cancelled_in_a_task_that_was_cancelled_before() -> None:
    """By its name that is ``RunCancelled``; by asyncio it is interrupted, once more."""
    stuck = Stuck()
    task = await cleaning_up(flujo := Flujo(stuck.step))
    await stuck.is_reached.wait()
    await flujo.cancel("r")
    with pytest.raises(RunCancelled):
        await task

    stuck.is_reached.clear()
    task = await cleaning_up(flujo := Flujo(stuck.step))
    await stuck.is_reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await flujo.handle("r").status() == "running"


async def test_closing_the_runtime_interrupts_what_runs_in_the_background(store: Store) -> None:
    """``aclose`` waits until the steps have stopped and the leases are free."""
    stuck, backend = Stuck(), store.open()
    begun: list[None] = []
    stuck.then = lambda: begun.append(None)
    async with Flujo(stuck.step, state_backend=backend) as flujo:
        handles = [await flujo.start(n, run_id=f"r{n}") for n in range(3)]
        while len(begun) < 3:
            await asyncio.sleep(0)
    assert stuck.fate == ["cancelled"] * 3
    for handle in handles:
        assert await handle.status() == "running"
        assert await _lease(backend, handle.run_id) is None
    assert others() == set()
    stuck.go_on.set()
    assert (await flujo.run(run_id="r1")).output == 1


async def test_closing_the_runtime_goes_on_though_it_is_cancelled(tmp_path: Path) -> None:
    """All that it has begun is over, and the store that it has opened itself is closed."""
    threads = set(threading.enumerate())
    begun, ended, may_end = list[int](), list[int](), asyncio.Event()

    @step
    async def slow_to_end(n: int) -> None:
        begun.append(n)
        try:
            await asyncio.Event().wait()
        finally:
            await may_end.wait()
            ended.append(n)

    flujo = Flujo(slow_to_end, state_backend=f"sqlite:///{tmp_path}/runs.db")
    handles = [await flujo.start(n) for n in range(3)]
    while len(begun) < 3:
        await asyncio.sleep(0)
    closing = asyncio.create_task(flujo.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert sorted(ended) == [0, 1, 2]
    assert others() == set()
    for thread in set(threading.enumerate()) - threads:
        await asyncio.to_thread(thread.join, 20)
        assert not thread.is_alive()
    async with Flujo(slow_to_end, state_backend=f"sqlite:///{tmp_path}/runs.db") as another:
        assert [(await another.state(handle.run_id)).status for handle in handles] == ["running"] * 3


async def test_who_waits_for_a_result_is_not_cancelled_by_an_interruption() -> None:
    """The run is interrupted, not its observers: they get the result of whoever takes it up."""
    stuck = Stuck()
    flujo = Flujo(stuck.step)
    handle = await flujo.start(1, run_id="r")
    waiting = asyncio.create_task(handle.result())
    await stuck.is_reached.wait()
    await flujo.aclose()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not waiting.done(), "nobody cancelled this one"
    stuck.go_on.set()
    await flujo.run(run_id="r")
    assert (await waiting).output == 1


class TestDelete:
    """Removing a run."""

    async def test_a_deleted_run_is_gone(self, store: Store) -> None:
        """With its state and history; a second time is no error; its name is free."""
        flujo = Flujo(one, state_backend=store.open())
        await flujo.run(1, run_id="r")
        for _ in range(2):
            await flujo.delete("r")
        assert await flujo.list_runs() == []
        for read in (flujo.state, flujo.history, flujo.steps, flujo.resume):
            with pytest.raises(RunNotFound):
                await read("r")
        for wait in (flujo.handle("r").status(), flujo.handle("r").result()):
            with pytest.raises(RunNotFound):
                await wait
        assert (await flujo.run(7, run_id="r")).output == 8

    async def test_deleting_a_run_that_is_driven_stops_it(self, store: Store) -> None:
        """At its next commit, for good: its steps do not run again from the start."""
        stuck, executed = Stuck(), list[int]()

        @step
        async def count(n: int) -> int:
            executed.append(n)
            return n

        flujo = Flujo(count >> stuck.step >> one, state_backend=store.open())
        driving = asyncio.create_task(flujo.run(1, run_id="r"))
        await stuck.is_reached.wait()
        other = Flujo(count >> stuck.step >> one, state_backend=store.open())
        attached = asyncio.create_task(other.run(run_id="r"))
        await flujo.handle("r").status()
        await Flujo(one, state_backend=store.open()).delete("r")
        stuck.go_on.set()
        with pytest.raises(RunNotFound):
            await driving
        with pytest.raises(FlujoError, match="there is no run"):
            await attached
        assert executed == [1]

    async def test_deleting_a_run_in_the_background_stops_it(self, backend: StateBackend) -> None:
        """Its handle says that there is no such run."""
        stuck = Stuck()
        async with Flujo(stuck.step >> one, state_backend=backend) as flujo:
            handle = await flujo.start(1, run_id="r")
            await stuck.is_reached.wait()
            await flujo.delete("r")
            stuck.go_on.set()
            with pytest.raises(RunNotFound):
                await handle.result()


class Resting(selectors.DefaultSelector):
    """What an event loop waits with: calls ``when_at_rest`` as soon as the loop has nothing to do but to wait."""

    when_at_rest: Callable[[], object] | None = None
    turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.when_at_rest is not None:
            self.turns += 1
            if timeout != 0 or self.turns > 1000:
                self.when_at_rest()
                self.when_at_rest = None
        return super().select(timeout)


@pytest.mark.parametrize("verb", ["create_run", "append"])
def test_the_loop_rests_while_a_cancelled_scope_waits_for_a_write(verb: str) -> None:
    """anyio repeats the cancellation at each turn of the loop until it is obeyed, and turns come at once then."""
    selector = Resting()

    async def scenario() -> None:
        gated, gate = gated_store(InMemoryBackend(), verb)
        loop = asyncio.get_running_loop()

        async def cancel_in_the_write() -> None:
            await gate.reached()
            scope.cancel()
            selector.when_at_rest = partial(loop.call_soon_threadsafe, gate.release)

        cancelling = asyncio.create_task(cancel_in_the_write())
        with anyio.CancelScope() as scope:
            await Flujo(PIPELINE, state_backend=gated).run(1, run_id="r")
        assert scope.cancelled_caught
        await cancelling

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        runner.run(scenario())
    assert 0 < selector.turns < 20


@pytest.mark.parametrize("reason", ["a\ud800", b"text", None])
async def test_a_reason_is_a_text(store: Store, reason: Any) -> None:
    """One that no store can write down would keep the run from its end, and from all else."""
    flujo = Flujo(wait_for("word"), state_backend=store.open())
    await flujo.run(1, run_id="r")
    with pytest.raises(InvalidArgument, match="reason is a text"):
        await flujo.cancel("r", reason)
    await flujo.signal("r", "word", 42)
    assert (await flujo.resume("r")).output == 42
