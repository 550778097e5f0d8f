"""``recover``: runs whose owner is gone are taken up."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from flujo_async import Flujo, InMemoryBackend, Worker, child, sleep, step, wait_for
from flujo_async._model.stored import RunQuery
from flujo_async.abc import StateBackend
from flujo_async.errors import BackendError
from flujo_async.testing import FaultyBackend, VirtualClock
from tests.runtime.crashes import gone_to_sleep, others, ticks
from tests.runtime.executed import EXECUTED, note
from tests.runtime.pretend import Wall, dying
from tests.runtime.stores import Store

HOUR = timedelta(hours=1)


@step
async def second(value: Any) -> Any:
    EXECUTED.append(f"second {value}")
    return value


@step
async def broken(value: Any) -> Any:
    raise ValueError("broken")


PIPELINE = note >> second


async def orphans(backend: StateBackend, number: int, definition: Any = PIPELINE, **options: Any) -> list[str]:
    """Leave runs behind that died with their process, after their first commit."""
    names = [f"r{i:02}" for i in range(number)]
    for name in names:
        faulty = dying(backend, "append", 2)
        with pytest.raises(BackendError):
            await Flujo(definition, state_backend=faulty, **options).run(name, run_id=name)
    EXECUTED.clear()
    return names


async def test_it_drives_every_orphan_once(store: Store) -> None:
    """Each goes on after its last commit; the ids tell which."""
    names = await orphans(store.open(), 25)
    flujo = Flujo(PIPELINE, state_backend=store.open())
    assert sorted(await flujo.recover()) == names
    assert sorted(EXECUTED) == [f"second {name}" for name in names]
    assert {summary.status for summary in await flujo.list_runs()} == {"completed"}
    assert await flujo.recover() == []
    await flujo.aclose()
    assert others() == set()


async def test_one_that_is_deleted_when_it_is_taken_up_is_no_trouble(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever deletes a run need not read of an error that somebody else had with it."""
    [name] = await orphans(store.open(), 1)
    backend, other = FaultyBackend(store.open()), Flujo(PIPELINE, state_backend=store.open())
    caplog.clear()
    backend.delay("claim", how="after", until=lambda: other.delete(name))
    flujo = Flujo(PIPELINE, state_backend=backend)
    await flujo.recover()
    assert await flujo.list_runs() == []
    assert (EXECUTED, caplog.records) == ([], [])
    await flujo.aclose()


async def test_what_is_alive_or_rests_is_left_alone(backend: StateBackend) -> None:
    """Runs that execute, wait, or have ended; and those in a queue."""
    go_on, reached = asyncio.Event(), asyncio.Event()

    @step
    async def stuck(value: Any) -> Any:
        reached.set()
        await go_on.wait()
        return value

    busy = Flujo(stuck, state_backend=backend)
    task = asyncio.ensure_future(busy.run(1, run_id="busy"))
    await reached.wait()
    paused = Flujo(wait_for("go"), state_backend=backend)
    await paused.run(1, run_id="paused")
    await paused.run(1, run_id="by hand")
    await paused.pause("by hand")
    await Flujo(note, state_backend=backend).run(1, run_id="done")
    await Flujo(note, state_backend=backend).dispatch(1, run_id="queued")
    for flujo in (busy, paused, Flujo(note, state_backend=backend)):
        assert await flujo.recover() == []
    go_on.set()
    await task


async def test_runs_that_fail_are_recovered_as_well(backend: StateBackend) -> None:
    """Their failure is their own business."""
    names = ["r1", "r2"]
    for name in names:
        faulty = dying(backend, "append", 2)
        with pytest.raises(BackendError):
            await Flujo(note >> broken, state_backend=faulty).run(name, run_id=name)
    flujo = Flujo(note >> broken, state_backend=backend)
    assert sorted(await flujo.recover()) == names
    assert {letter.run_id for letter in await flujo.list_dead_letters()} == set(names)


async def test_a_run_of_another_definition_is_not_touched(backend: StateBackend) -> None:
    """It waits for a runtime that knows it, and does not keep the others waiting."""
    other = await orphans(backend, 2, note >> note)
    faulty = dying(backend, "append", 2)
    with pytest.raises(BackendError):
        await Flujo(PIPELINE, state_backend=faulty).run("mine", run_id="mine")
    flujo = Flujo(PIPELINE, state_backend=backend)
    assert await flujo.recover() == ["mine"]
    assert {(await flujo.handle(run_id).status()) for run_id in other} == {"running"}


async def test_a_run_of_another_structure_is_not_touched(backend: StateBackend) -> None:
    """Though it has the same name."""
    await orphans(backend, 1, note >> second, pipeline_name="p", pipeline_version="1")
    changed = Flujo(note >> note, pipeline_name="p", pipeline_version="1", state_backend=backend)
    async with asyncio.timeout(20):
        assert await changed.recover() == []
    assert EXECUTED == []
    flujo = Flujo(note >> second, pipeline_name="p", pipeline_version="1", state_backend=backend)
    assert (await flujo.run(run_id="r00")).output == "r00"


@pytest.mark.parametrize("how", ["entered", "used"])
async def test_a_recovering_runtime_keeps_doing_it(store: Store, how: str) -> None:
    """As long as it is open; also for runs that lose their owner meanwhile."""
    first = await orphans(store.open(), 3)
    flujo = Flujo(PIPELINE, state_backend=store.open(), recover=True)
    if how == "entered":
        await flujo.__aenter__()
    else:
        await flujo.run("mine", run_id="mine")
    await _completed(flujo, first)
    for name in ("late1", "late2"):
        faulty = dying(store.open(), "append", 2)
        with pytest.raises(BackendError):
            await Flujo(PIPELINE, state_backend=faulty).run(name, run_id=name)
    await _completed(flujo, ["late1", "late2"])
    await flujo.aclose()
    assert others() == set()


async def _completed(flujo: Flujo[Any, Any], names: list[str]) -> None:
    async with asyncio.timeout(20):
        while {await flujo.handle(name).status() for name in names} != {"completed"}:
            await asyncio.sleep(0.01)


async def test_without_it_orphans_stay_where_they_are(backend: StateBackend) -> None:
    """A runtime takes up only what it is asked for."""
    await orphans(backend, 1)
    flujo = Flujo(PIPELINE, state_backend=backend)
    await (await flujo.start("mine")).result()
    await ticks(200)
    assert await flujo.handle("r00").status() == "running"
    await flujo.aclose()


async def test_one_that_falls_asleep_is_recovered(backend: StateBackend) -> None:
    """Until it leaves memory; the runtime wakes it as long as it is open."""
    clock = VirtualClock()

    definition = note >> sleep(HOUR) >> second
    faulty = dying(backend, "append", 2)
    with pytest.raises(BackendError):
        await Flujo(definition, state_backend=faulty, clock=clock).run("r", run_id="r")
    EXECUTED.clear()
    flujo = Flujo(definition, state_backend=backend, clock=clock)
    assert await flujo.recover() == ["r"]
    await gone_to_sleep(flujo)
    await clock.until_asleep()
    clock.advance(HOUR)
    assert (await flujo.handle("r").result()).output == "r"
    assert EXECUTED == ["second r"]
    await flujo.aclose()


async def test_children_of_orphans_are_recovered_with_them(backend: StateBackend) -> None:
    """Whoever is claimed first: each step runs once."""
    definition = note >> child(PIPELINE, name="inner") >> second
    faulty = dying(backend, "append", 4)
    with pytest.raises(BackendError):
        await Flujo(definition, state_backend=faulty).run("r", run_id="r")
    EXECUTED.clear()
    flujo = Flujo(definition, state_backend=backend)
    await flujo.recover()
    async with asyncio.timeout(20):
        assert (await flujo.handle("r").result()).output == "r"
    assert EXECUTED.count("second r") == 2
    await flujo.aclose()


async def test_a_clock_that_is_set_back_hides_no_dead_owner(backend: StateBackend) -> None:
    clock = Wall()
    flujo = Flujo(PIPELINE, state_backend=backend, clock=clock)
    assert await flujo.recover() == []
    clock.wrong = -HOUR
    names = await orphans(backend, 1, clock=clock)
    clock.advance(2)  # longer than what is known of owners counts
    assert await flujo.recover() == names
    await flujo.aclose()


@pytest.mark.parametrize("how", ["recover", "worker"])
async def test_cancelled_at_every_tick_it_leaves_no_lease_behind(how: str) -> None:
    """Neither of a run that it drives, nor of one that was claimed and is about to be driven."""

    async def take_up(flujo: Flujo[Any, Any]) -> None:
        if how == "recover":
            await flujo.recover()
            return
        async with Worker(flujo):
            await ticks()
            raise asyncio.CancelledError

    number, is_over = 0, False
    while not is_over:
        backend = InMemoryBackend()
        flujo = Flujo(PIPELINE, state_backend=backend)
        await flujo.run(1, run_id="source")
        for n in range(3):
            if how == "recover":
                await flujo.fork("source", at=1, new_run_id=f"r{n}")
            else:
                await flujo.dispatch(n, run_id=f"r{n}")
        task = asyncio.create_task(take_up(flujo))
        await ticks(number)
        is_over = task.done()
        task.cancel()
        await asyncio.wait({task})
        await flujo.aclose()
        assert await backend.query_runs(RunQuery(is_leased=True)) == []
        assert others() == set()
        number += 1
    assert number > 5


@pytest.mark.parametrize("how", ["recover", "worker"])
async def test_stopped_at_every_tick_it_loses_no_deadline(how: str) -> None:
    """A run whose wait is over, and that was taken up and given back, is taken up by the next one."""
    is_over, number = False, 0
    while not is_over:
        clock, backend = VirtualClock(), InMemoryBackend()
        waiting = wait_for("go", timeout=60, default=7)
        flujo = Flujo(waiting, state_backend=backend, clock=clock, recover=how == "recover")
        handle = await flujo.dispatch(1, run_id="r")
        assert (await flujo.run(run_id="r")).status == "paused"
        clock.advance(60)
        async with flujo if how == "recover" else Worker(flujo, drain_timeout=0):
            await ticks(number)
            is_over = await handle.status() == "completed"
        async with flujo if how == "recover" else Worker(flujo), asyncio.timeout(20):
            while await handle.status() != "completed":
                await ticks()
        await flujo.aclose()
        number += 1
    assert number > 5
