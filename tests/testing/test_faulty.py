"""A store that goes wrong where a test wants it to, and nowhere else."""

import asyncio
import threading
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any

import pytest

from flujo_async import Flujo, InMemoryBackend, step
from flujo_async._model.lease import ClaimQuery
from flujo_async.abc import StateBackend
from flujo_async.errors import BackendError, InvalidArgument, RunExists, SequenceConflict, StaleLease
from flujo_async.testing import BackendContract, FaultyBackend, VirtualClock
from flujo_async.testing.samples import T0, TTL, append, claim, create, load, new_run


class TestFaultyBackendWithoutFaults(BackendContract):
    """With nothing planned it is the store behind it."""

    @pytest.fixture
    def backend(self) -> FaultyBackend:
        return FaultyBackend(InMemoryBackend())


@pytest.fixture
def inner() -> StateBackend:
    return InMemoryBackend()


@pytest.fixture
def faulty(inner: StateBackend) -> FaultyBackend:
    return FaultyBackend(inner)


async def last_seq(backend: StateBackend) -> int:
    return (await load(backend)).summary.last_seq


async def begun(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    task = asyncio.create_task(work)
    for _ in range(5):
        await asyncio.sleep(0)
    return task


@pytest.mark.parametrize(("how", "written"), [("before", 0), ("after", 1)])
async def test_a_write_fails_before_or_after_it_is_written(
    faulty: FaultyBackend, inner: StateBackend, how: Any, written: int
) -> None:
    """In both cases the caller learns nothing but that."""
    lease = await create(faulty)
    before = await last_seq(inner)
    fault = faulty.fail("append", nth=2, how=how)
    lease = await _appended(faulty, lease)
    with pytest.raises(BackendError, match="append of 'run'"):
        await append(faulty, lease, after=before + 1)
    assert await last_seq(inner) == before + 1 + written
    assert fault.has_happened
    assert faulty.plan == []


async def _appended(faulty: FaultyBackend, lease: Any) -> Any:
    await append(faulty, lease)
    return lease


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), asyncio.CancelledError, ValueError("odd")])
async def test_a_write_fails_with_any_error(faulty: FaultyBackend, error: Any) -> None:
    """What a store should never raise comes through as it is."""
    faulty.fail("create_run", error=error)
    with pytest.raises(error if isinstance(error, type) else type(error)):
        await create(faulty)
    assert await create(faulty) is not None


async def test_one_half_of_the_leases_is_renewed_and_the_answer_is_an_error(faulty: FaultyBackend) -> None:
    """In the middle of a call over several items."""
    leases = [await create(faulty, new_run(f"r{number}")) for number in range(4)]
    faulty.fail("renew", how="middle")
    with pytest.raises(BackendError):
        await faulty.renew(leases, now=T0, ttl=9 * TTL)
    expires = [(await load(faulty, lease.run_id)).summary.lease.expires_at for lease in leases]  # type: ignore[union-attr]
    assert expires == [T0 + 9 * TTL] * 2 + [T0 + TTL] * 2


async def test_one_half_of_what_a_claim_asks_for_is_claimed(faulty: FaultyBackend) -> None:
    for number in range(4):
        await faulty.create_run(new_run(f"r{number}"))
    faulty.fail("claim", how="middle")
    with pytest.raises(BackendError):
        await faulty.claim("w1", now=T0, ttl=TTL, query=ClaimQuery(limit=4))
    left = await faulty.claim("w2", now=T0, ttl=TTL, query=ClaimQuery(limit=4))
    assert [lease.run_id for lease in left] == ["r2", "r3"]


async def test_of_several_concurrent_calls_the_chosen_ones_fail(faulty: FaultyBackend) -> None:
    """The others of the group take effect."""
    faulty.fail("create_run", nth=(1, 3))
    results = await asyncio.gather(*(create(faulty, new_run(f"r{n}")) for n in range(4)), return_exceptions=True)
    assert [isinstance(result, BackendError) for result in results] == [True, False, True, False]


@pytest.mark.parametrize("how", ["before", "after"])
async def test_a_call_is_held_up_until_the_test_lets_it_go(
    faulty: FaultyBackend, inner: StateBackend, how: Any
) -> None:
    fault = faulty.delay("create_run", how=how)
    task = await begun(create(faulty))
    await fault.reached()
    assert not task.done()
    assert (await inner.load("run") is not None) == (how == "after")
    assert faulty.under_way == 1
    fault.release()
    await task
    assert faulty.under_way == 0


async def test_a_call_is_held_up_until_a_moment_of_virtual_time(faulty: FaultyBackend) -> None:
    clock = VirtualClock()
    faulty.delay("create_run", until=lambda: clock.sleep(60))
    task = await begun(create(faulty))
    await clock.until_asleep()
    assert clock.next_wake_at == clock.now() + timedelta(seconds=60)
    assert not task.done()
    clock.advance(60)
    await task
    assert clock.next_wake_at is None


async def test_a_held_call_of_another_event_loop_is_let_go(faulty: FaultyBackend) -> None:
    """Leases are renewed from a thread of its own."""
    fault = faulty.delay("create_run")
    thread = threading.Thread(target=lambda: asyncio.run(create(faulty)))
    thread.start()
    await fault.reached()
    fault.release()
    await asyncio.to_thread(thread.join)
    assert (await load(faulty)).summary.run_id == "run"


async def test_a_call_that_hangs_ends_when_it_is_cancelled(faulty: FaultyBackend) -> None:
    fault = faulty.hang("create_run")
    task = await begun(create(faulty))
    fault.withdraw()  # which lets no call go on that hangs
    await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await create(faulty) is not None


async def test_a_call_is_delivered_twice(faulty: FaultyBackend, inner: StateBackend) -> None:
    """The second answer is what a retrying client gets to see."""
    faulty.duplicate("create_run")
    with pytest.raises(RunExists):
        await create(faulty)
    lease = await claim(inner, now=T0 + TTL)
    assert lease is not None
    faulty.duplicate("append")
    with pytest.raises(SequenceConflict):
        await append(faulty, lease)


async def test_a_run_that_meets_a_duplicate_can_be_resumed(faulty: FaultyBackend, inner: StateBackend) -> None:
    @step
    async def double(n: int) -> int:
        return n * 2

    with faulty.duplicate("append"), pytest.raises(SequenceConflict):
        await Flujo(double >> double, state_backend=faulty).run(1, run_id="r")
    assert (await Flujo(double >> double, state_backend=inner).run(1, run_id="r")).output == 4


@pytest.mark.parametrize("how", ["before", "after"])
async def test_a_dead_process_reaches_nothing_any_more(faulty: FaultyBackend, inner: StateBackend, how: Any) -> None:
    """Every verb fails from there on; the store itself is as it was."""
    faulty.crash("create_run", how=how)
    with pytest.raises(BackendError):
        await create(faulty)
    await faulty.died()
    for call in (faulty.load("run"), faulty.wait_for_work(timeout=9), claim(faulty), faulty.get_system_state("k")):
        with pytest.raises(BackendError, match="dead"):
            await call
    assert (await inner.load("run") is None) == (how == "before")
    await faulty.shutdown()


async def test_a_process_that_dies_ends_what_waits(faulty: FaultyBackend) -> None:
    """Who waits for work, who is held up, and who hears an answer too late."""
    faulty.delay("load")
    held = await begun(faulty.load("run"))
    waiting = await begun(faulty.wait_for_work(timeout=60))
    late_answer = faulty.delay("query_runs", how="after")
    late = await begun(faulty.query_runs(_all_runs()))
    faulty.die()
    late_answer.release()
    for task in (held, waiting, late):
        with pytest.raises(BackendError, match="dead"):
            await task


def _all_runs() -> Any:
    from flujo_async._model.stored import RunQuery

    return RunQuery()


async def test_a_fault_lasts_as_long_as_its_block(faulty: FaultyBackend) -> None:
    with faulty.fail("create_run", nth=None) as fault:
        for number in range(3):
            with pytest.raises(BackendError):
                await create(faulty, new_run(f"r{number}"))
        assert faulty.plan == [fault]
    assert len(fault.calls) == 3
    assert faulty.plan == []
    assert await create(faulty) is not None


async def test_calls_are_on_record_with_what_they_add_to_a_log(faulty: FaultyBackend) -> None:
    """In order, reads too; ``writes`` are those that change something."""
    lease = await create(faulty)
    await load(faulty)
    await append(faulty, lease)
    with pytest.raises(StaleLease):
        await append(faulty, (await _stolen(faulty, lease)))
    assert [call.verb for call in faulty.calls[:3]] == ["create_run", "load", "append"]
    assert [call.number for call in faulty.calls] == list(range(1, len(faulty.calls) + 1))
    assert str(faulty.calls[0]).startswith("create_run of 'run': Test")
    assert isinstance(faulty.calls[-1].error, StaleLease)
    assert {call.verb for call in faulty.writes} <= FaultyBackend.WRITES


async def _stolen(faulty: FaultyBackend, lease: Any) -> Any:
    await claim(faulty, "w2", now=T0 + 2 * TTL)
    return lease


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"verb": "apend"}, "no verbs of a store"),
        ({"verb": "append", "nth": 0}, "the next one is 1"),
        ({"verb": "append", "nth": ()}, "the next one is 1"),
        ({"verb": "append", "how": "middle"}, "nth="),
    ],
)
def test_a_fault_that_cannot_be_is_refused(faulty: FaultyBackend, arguments: Any, told: str) -> None:
    with pytest.raises(InvalidArgument, match=told):
        faulty.fail(**arguments)
