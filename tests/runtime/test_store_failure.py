"""A store that fails (G4): the caller hears of it, nothing is reported as done, the run can be resumed."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from flujo_async import Flujo, StepContext, Worker, map_each, parallel, step
from flujo_async.abc import StateBackend
from flujo_async.abc.pace import Pace
from flujo_async.errors import BackendError, RunNotFound
from tests.runtime.pretend import dying, failing
from tests.runtime.stores import Store, mostly_in_memory


def counted(executed: list[str]) -> Any:
    """Return a pipeline of seven commits: three steps, two branches, the end."""

    def named(name: str) -> Any:
        async def call(value: Any, ctx: StepContext) -> str:
            executed.append(name)
            ctx.state[name] = True
            return name

        return step(name=name)(call)

    return named("a") >> parallel(named("b"), named("c")) >> named("d")


@mostly_in_memory
@pytest.mark.parametrize("for_good", [False, True])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("nth", [1, 2, 3])
async def test_a_failed_write_reaches_the_caller_and_the_run_can_be_resumed(
    store: Store, nth: int, after: bool, for_good: bool
) -> None:
    """Whichever commit it is, whether it took effect, and whether the store comes back."""
    executed: list[str] = []
    faulty = (dying if for_good else failing)(store.open(), "append", nth, after=after)
    flujo = Flujo(counted(executed), state_backend=faulty)
    with Pace.here().timeless(), pytest.raises(BackendError, match=r"full|dead") as caught:  # both branches in a commit
        await flujo.run("x", run_id="r")
    assert isinstance(caught.value.__cause__, OSError) or for_good
    healthy = Flujo(counted(executed), state_backend=store.open())
    assert (await healthy.handle("r").status() == "completed") == (after and nth == 3)
    result = await healthy.run("x", run_id="r")
    assert (result.output, result.context) == ("d", dict.fromkeys("abcd", True))
    assert (await healthy.state("r")).current_step_index == 3
    assert len(executed) <= 4 + 2, "what was running at the failure ran again, and nothing else"


async def test_the_runtime_that_saw_the_failure_can_resume_too(store: Store) -> None:
    """Its own lease does not stand in its way."""
    executed: list[str] = []
    faulty = failing(store.open(), "append")
    flujo = Flujo(counted(executed), state_backend=faulty)
    with pytest.raises(BackendError):
        await flujo.run("x", run_id="r")
    assert (await flujo.run(run_id="r")).output == "d"
    assert executed == ["a", "a", "b", "c", "d"]


@pytest.mark.parametrize("callers", [1, 2, 3])
async def test_a_lease_that_could_not_be_released_is_nobodys(store: Store, callers: int) -> None:
    """The store failed when the run let go: whoever comes next, alone or together, takes it up."""
    executed: list[str] = []
    faulty = failing(store.open(), "append", 2)
    flujo = Flujo(counted(executed), state_backend=faulty, lease_ttl=timedelta(hours=1))
    with faulty.fail("release", nth=None), pytest.raises(BackendError):
        await flujo.run("x", run_id="r")
    [summary] = await flujo.list_runs()
    assert summary.lease is not None
    async with asyncio.timeout(20):
        results = await asyncio.gather(*(flujo.run(run_id="r") for _ in range(callers)))
    assert [result.output for result in results] == ["d"] * callers
    assert executed.count("d") == 1


@pytest.mark.parametrize("verb", ["create_run", "load", "claim", "read_events", "read_signals"])
async def test_every_other_verb_that_fails_is_heard_of(backend: StateBackend, verb: str) -> None:
    """As a ``BackendError``; the next call works."""
    executed: list[str] = []
    if verb != "create_run":
        healthy = Flujo(counted([]), state_backend=failing(backend, "append", 2))
        with pytest.raises(BackendError):
            await healthy.run("x", run_id="r")
    flujo = Flujo(counted(executed), state_backend=failing(backend, verb))
    with pytest.raises(BackendError):
        await flujo.run("x", run_id="r")
    assert executed == []
    assert (await flujo.run("x", run_id="r")).output == "d"


async def test_a_run_that_could_not_be_created_does_not_exist(backend: StateBackend) -> None:
    """``start`` raises, and there is nothing to wait for."""
    flujo = Flujo(counted([]), state_backend=failing(backend, "create_run"))
    with pytest.raises(BackendError):
        await flujo.start("x", run_id="r")
    with pytest.raises(RunNotFound):
        await flujo.handle("r").result()


async def test_a_failure_in_the_background_reaches_who_waits_for_the_result(backend: StateBackend) -> None:
    """``handle.result()`` raises it instead of waiting for ever; a stream does too."""
    go_on = asyncio.Event()

    @step
    async def wait(value: str) -> str:
        await go_on.wait()
        return value

    flujo = Flujo(wait, state_backend=failing(backend, "append"))
    handle = await flujo.start("x", run_id="r")
    waiting = asyncio.create_task(handle.result())
    await handle.status()
    go_on.set()
    with pytest.raises(BackendError):
        await waiting
    assert (await flujo.run(run_id="r")).output == "x"

    flujo = Flujo(wait, state_backend=failing(backend, "append"))
    with pytest.raises(BackendError):
        async for _ in flujo.stream("x", run_id="s"):
            pass


async def test_a_failure_in_the_background_is_over_when_the_run_has_gone_on(backend: StateBackend) -> None:
    """Whoever resumed it."""

    @step
    async def double(n: int) -> int:
        return 2 * n

    flujo = Flujo(double, state_backend=failing(backend, "append"))
    handle = await flujo.start(1, run_id="r")
    with pytest.raises(BackendError):
        await handle.result()
    assert (await Flujo(double, state_backend=backend).resume("r")).output == 2
    assert (await handle.result()).output == 2


async def test_a_failed_write_stops_everything_in_the_run() -> None:
    """Siblings are cancelled; no step begins over a journal that is broken."""
    executed: list[int] = []
    cancelled: list[int] = []

    @step
    async def work(n: int) -> int:
        executed.append(n)
        if n == 0:
            return n
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(n)
            raise
        return n

    flujo = Flujo(map_each(work, on_error="ignore", max_concurrency=2), state_backend=_failing_memory())
    with pytest.raises(BackendError):
        await flujo.run([0, 1, 2, 3], run_id="r")
    assert (executed, cancelled) == ([0, 1], [1])
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


def _failing_memory() -> StateBackend:
    return failing(Flujo(step(_nothing)).state_backend, "append")


async def _nothing(value: Any) -> Any:
    return value


@mostly_in_memory
async def test_what_a_failed_claim_has_taken_all_the_same_is_driven(store: Store) -> None:
    """Its lease names a worker that is alive: nobody else would take the run before it expires."""
    executed: list[str] = []
    faulty = failing(store.open(), "claim", after=True)
    flujo = Flujo(counted(executed), state_backend=faulty, lease_ttl=timedelta(hours=1))
    for run_id in ("r", "s"):
        await flujo.dispatch("x", run_id=run_id)
    async with Worker(flujo), asyncio.timeout(20):
        results = await asyncio.gather(*(flujo.handle(run_id).result() for run_id in ("r", "s")))
    assert [result.output for result in results] == ["d", "d"]
    assert sorted(executed) == sorted("abcd" * 2)
    assert [summary.attempts for summary in await flujo.list_runs()] == [1, 1]
