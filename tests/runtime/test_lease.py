"""Leases while a run is driven: renewed off the loop, lost, stolen (G3)."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from typing_extensions import override

from flujo_async import Flujo, sleep, step
from flujo_async._model.lease import ClaimQuery, Lease
from flujo_async._model.stored import RunUpdate
from flujo_async.abc import Capabilities, StateBackend
from flujo_async.backends.memory import InMemoryBackend
from flujo_async.errors import BackendError, InvalidArgument, RunFailed, StaleLease
from flujo_async.testing import VirtualClock
from tests.runtime.crashes import gone_to_sleep
from tests.runtime.pretend import ANOTHER_HOST, Wrapped, until
from tests.runtime.stores import Store, on_disk


async def steal(backend: StateBackend, run_id: str) -> Lease:
    """Claim a run whose owner is alive, as a host would that takes it for dead."""
    stored = await backend.load(run_id)
    assert stored is not None
    assert stored.summary.lease is not None
    query = ClaimQuery(run_id=run_id, dead_owners=frozenset({stored.summary.lease.owner}))
    [lease] = await backend.claim(ANOTHER_HOST, now=datetime.now(UTC), ttl=timedelta(hours=1), query=query)
    return lease


class Thieved:
    """A pipeline that is robbed of its lease in its first step, the first time."""

    def __init__(self, backend: StateBackend, *, waits: bool) -> None:
        self.fate: list[str] = []
        self.stolen: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()

        @step
        async def first(n: int) -> int:
            if self.stolen.done():
                self.fate.append("again")
                return n
            stealing = asyncio.create_task(steal(backend, "r"))
            stealing.add_done_callback(lambda task: self.stolen.set_result(task.result()))
            try:
                await asyncio.shield(stealing)  # the loss may be noticed before the thief hears of its success
                if waits:
                    await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.fate.append("cancelled")
                raise
            self.fate.append("returned")
            return n

        @step
        async def second(n: int) -> int:
            self.fate.append("second")
            return n + 1

        self.pipeline = first >> second


@on_disk
@pytest.mark.parametrize("waits", [False, True], ids=["at the commit", "at the renewal"])
async def test_a_run_whose_lease_was_stolen_stops(store: Store, waits: bool) -> None:
    """At its next commit, or when the lease cannot be renewed; it attaches, and takes over when it is free."""
    backend = store.open()
    thieved = Thieved(backend, waits=waits)
    flujo = Flujo(thieved.pipeline, state_backend=backend, lease_ttl=timedelta(milliseconds=60 if waits else 60_000))
    driving = asyncio.create_task(flujo.run(1, run_id="r"))
    lease = await thieved.stolen
    stored = await backend.load("r")
    assert stored is not None
    await until(lambda: bool(thieved.fate))
    assert thieved.fate == ["cancelled" if waits else "returned"]
    assert len(stored.records) == 1, "what it did is not in the log"
    assert not driving.done()
    await backend.release(lease)
    assert (await driving).output == 2
    assert thieved.fate[1:] == ["again", "second"]
    assert driving.cancelling() == 0


class Overtaken(Wrapped):
    """A store whose user is held up behind its first commit, until its lease has run out and somebody has the run."""

    def __init__(self, inner: StateBackend, clock: VirtualClock) -> None:
        super().__init__(inner)
        self.capabilities = Capabilities(multi_process=True)  # type: ignore[misc]
        self.taken: list[Lease] = []
        self._clock = clock

    async def append(self, lease: Lease, *args: Any, **more: Any) -> int:
        last_seq = await super().append(lease, *args, **more)
        if not self.taken:
            self._clock.advance(120)
            query = ClaimQuery(run_id=lease.run_id)
            ttl = timedelta(hours=1)
            self.taken = await self.inner.claim(ANOTHER_HOST, now=self._clock.now(), ttl=ttl, query=query)
        return last_seq


async def test_a_run_that_was_taken_between_two_steps_does_not_begin_the_next() -> None:
    """As after a long stop of the process: it looks first, and then waits for who has the run now."""
    executed: list[str] = []

    @step
    async def first(n: int) -> int:
        executed.append("first")
        return n

    @step
    async def second(n: int) -> int:
        executed.append("second")
        return n + 1

    clock = VirtualClock()
    backend = Overtaken(InMemoryBackend(), clock)
    driving = asyncio.create_task(Flujo(first >> second, state_backend=backend, clock=clock).run(1, run_id="r"))
    await until(lambda: bool(backend.taken))
    for _ in range(50):
        await asyncio.sleep(0)
    assert executed == ["first"]
    assert not driving.done()
    await backend.release(backend.taken[0])
    assert (await driving).output == 2
    assert executed == ["first", "second"]


class HeldUp(Overtaken):
    """A store whose user is held up before a commit, once that is wanted, until somebody else has the run."""

    is_wanted = False

    async def append(self, lease: Lease, *args: Any, **more: Any) -> int:
        if self.is_wanted:
            self.is_wanted = False
            self._clock.advance(120)
            query = ClaimQuery(run_id=lease.run_id, statuses=frozenset({"running", "failed"}))
            now, ttl = self._clock.now(), timedelta(seconds=1)
            self.taken = await self.inner.claim(ANOTHER_HOST, now=now, ttl=ttl, query=query)
            await self.inner.release(self.taken[0])
        return await self.inner.append(lease, *args, **more)


async def test_a_pause_that_somebody_has_taken_the_run_from_is_heard_by_them() -> None:
    """As after a long stop of the process that pauses."""

    @step
    async def first(n: int) -> int:
        return n

    clock = VirtualClock()
    backend = HeldUp(InMemoryBackend(), clock)
    async with Flujo(first >> sleep(timedelta(hours=1)), state_backend=backend, clock=clock) as flujo:
        handle = await flujo.start(1, run_id="r")
        await gone_to_sleep(flujo, "r")
        backend.is_wanted = True
        await flujo.pause("r")
        assert backend.taken
        clock.advance(3600)
        assert (await handle.result()).status == "paused"


async def test_a_redrive_that_somebody_has_taken_the_run_from_is_done_all_the_same() -> None:
    """Whoever took it has let it go as it was."""
    attempts = list[int]()

    @step
    async def first(n: int) -> int:
        attempts.append(n)
        if len(attempts) == 1:
            raise ValueError("not now")
        return n

    clock = VirtualClock()
    backend = HeldUp(InMemoryBackend(), clock)
    flujo = Flujo(first, state_backend=backend, clock=clock)
    with pytest.raises(RunFailed):
        await flujo.run(1, run_id="r")
    backend.is_wanted = True
    assert (await flujo.redrive("r")).output == 1
    assert backend.taken
    assert attempts == [1, 1]


class Disowning(Wrapped):
    """A store that says of the first lease of each run, as often as it is asked, that it is lost."""

    def __init__(self, inner: StateBackend) -> None:
        super().__init__(inner)
        self.capabilities = Capabilities(multi_process=True)  # type: ignore[misc]
        self.asked = 0

    async def renew(self, leases: Sequence[Lease], **when: Any) -> list[Lease]:
        self.asked += 1
        return [lease for lease in leases if lease.token > 1]


async def test_a_run_that_hears_twice_that_its_lease_is_lost_was_not_interrupted_by_its_caller() -> None:
    """A step may take its time to clean up, and the lease is renewed in vain meanwhile."""
    backend, fate = Disowning(InMemoryBackend()), list[str]()

    @step
    async def tidy(n: int) -> int:
        if fate:
            return n + 1
        try:
            async with asyncio.timeout(20):
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            asked = backend.asked
            await until(lambda: backend.asked >= asked + 2)
            fate.append("tidy")
            raise
        return n

    flujo = Flujo(tidy, state_backend=backend, lease_ttl=timedelta(milliseconds=300), clock=VirtualClock())
    assert (await flujo.run(1, run_id="r")).output == 2
    assert fate == ["tidy"]


@on_disk
async def test_a_handle_waits_for_whoever_has_the_run_now(store: Store) -> None:
    """A run in the background whose lease was stolen is no error of its observers."""
    backend = store.open()
    thieved = Thieved(backend, waits=False)
    async with Flujo(thieved.pipeline, state_backend=backend) as flujo:
        handle = await flujo.start(1, run_id="r")
        await backend.release(await thieved.stolen)
        await until(lambda: thieved.fate[:1] == ["returned"])
        waiting = asyncio.create_task(handle.result())
        assert (await Flujo(thieved.pipeline, state_backend=store.open()).run(run_id="r")).output == 2
        assert (await waiting).output == 2


class Counting(Wrapped):
    """A store that counts how often leases were renewed."""

    renewals = 0

    async def renew(self, leases: Sequence[Lease], **when: Any) -> list[Lease]:
        renewed = await super().renew(leases, **when)
        self.renewals += 1
        return renewed


@on_disk
async def test_a_blocked_loop_does_not_lose_its_runs(store: Store) -> None:
    """A step that hogs the loop for several times the life of a lease, which is renewed from elsewhere.

    A rival that would take the run does not get it.
    """
    backend, rival, clock = Counting(store.open()), store.open(), VirtualClock()
    stolen = list[Lease]()

    def claim() -> None:
        query = ClaimQuery(run_id="r")
        stolen.extend(asyncio.run(rival.claim(ANOTHER_HOST, now=clock.now(), ttl=timedelta(hours=1), query=query)))

    @step
    async def hog(n: int) -> int:
        for _ in range(5):
            clock.advance(ttl / 2)
            goal = backend.renewals + 2  # one may be under way that began before
            while backend.renewals < goal:
                pass
        thread = threading.Thread(target=claim)
        thread.start()
        while thread.is_alive():
            pass
        return n

    @step
    async def look(n: int) -> bool:
        stored = await backend.load("r")
        assert stored is not None
        assert stored.summary.lease is not None
        return stored.summary.lease.expires_at > clock.now()

    ttl = timedelta(milliseconds=60)  # by the clock; how often it is renewed is real time
    flujo = Flujo(hog >> look, state_backend=backend, lease_ttl=ttl, clock=clock)
    assert (await flujo.run(1, run_id="r")).output is True
    assert stolen == []
    [summary] = await flujo.list_runs()
    assert summary.attempts == 1


class Shared(Wrapped):
    """A store in memory that says that it is shared, so that leases are renewed; ``renew`` does as it is told."""

    def __init__(self, inner: StateBackend) -> None:
        super().__init__(inner)
        self.capabilities = Capabilities(durable=False, multi_process=True)  # type: ignore[misc]
        self.is_renewing = threading.Event()
        self.may_renew = threading.Event()
        self.answer: Callable[[Sequence[Lease]], list[Lease]] = lambda leases: []
        self.answered = list[str]()

    async def renew(self, leases: Sequence[Lease], **when: Any) -> list[Lease]:
        self.is_renewing.set()
        await until(self.may_renew.is_set)  # in the keeper's own thread, and a loop of its own
        self.answered.extend(lease.run_id for lease in leases)
        return self.answer(leases)


def keepers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "flujo-leases"]


def kept(backend: StateBackend, is_over: Callable[[], bool], clock: VirtualClock | None = None) -> Flujo[int, int]:
    """Return a runtime of a step that waits until a moment of the keeper's.

    By its clock leases last until that is moved, however long a machine stands still; how often they are renewed is
    real time.
    """

    @step
    async def wait(n: int) -> int:
        await until(is_over)
        return n

    return Flujo(wait, state_backend=backend, lease_ttl=timedelta(seconds=1), clock=clock or VirtualClock())


@pytest.mark.parametrize("fails", [False, True], ids=["lost", "error"])
def test_a_renewal_that_answers_after_the_loop_is_gone_harms_nobody(fails: bool) -> None:
    """The keeper's thread ends in silence, and the next run on another loop has a keeper again."""
    before = set(keepers())
    backend = Shared(InMemoryBackend())

    def answer(leases: Sequence[Lease]) -> list[Lease]:
        if fails:
            raise RuntimeError("a bug in the store")
        return []

    backend.answer = answer
    flujo = kept(backend, backend.is_renewing.is_set)
    assert asyncio.run(flujo.run(1, run_id="r")).output == 1
    backend.may_renew.set()
    for thread in set(keepers()) - before:
        thread.join()
    backend.is_renewing.clear()
    backend.answer = list
    assert asyncio.run(flujo.run(2, run_id="s")).output == 2, "its lease is renewed"


async def test_a_runtime_that_is_closed_asks_nothing_of_its_store_any_more() -> None:
    """Whoever closes the store then would find it opened again, and a file that was removed made anew."""
    backend = Shared(InMemoryBackend())
    flujo = kept(backend, backend.is_renewing.is_set)
    async with asyncio.timeout(20):
        assert (await flujo.run(1, run_id="r")).output == 1
        closing = asyncio.create_task(flujo.aclose())
        for _ in range(50):
            await asyncio.sleep(0)
        assert not closing.done()
        backend.may_renew.set()
        await closing
        assert backend.answered == ["r"]
        await flujo.aclose()


async def test_a_store_that_does_not_answer_keeps_nobody_from_closing(caplog: pytest.LogCaptureFixture) -> None:
    """For longer than a lease lasts; that is told."""
    before, backend, clock = set(keepers()), Shared(InMemoryBackend()), VirtualClock()
    flujo = kept(backend, backend.is_renewing.is_set, clock)
    async with asyncio.timeout(20):
        assert (await flujo.run(1, run_id="r")).output == 1
        closing = asyncio.create_task(flujo.aclose())
        await until(lambda: clock.sleepers > 0)
        clock.advance(1)
        await closing
    assert "does not answer" in caplog.text
    assert backend.answered == []
    backend.may_renew.set()
    await until(lambda: not set(keepers()) - before)


class Fails(Wrapped):
    """A store in which one verb of the keeper's fails: at once the first time, and then as late as it is told to."""

    def __init__(self, verb: str) -> None:
        super().__init__(InMemoryBackend())
        self.capabilities = Capabilities(durable=False, multi_process=True)  # type: ignore[misc]
        self.asked = 0
        self.may_fail = threading.Event()
        self.late = list[str]()
        self._verb = verb

    @override
    async def through(self, verb: str, call: Callable[[], Any]) -> Any:
        if threading.current_thread() in keepers() and self.may_fail.is_set():
            self.late.append(verb)
        if verb != self._verb or threading.current_thread() not in keepers():
            return await super().through(verb, call)
        self.asked += 1
        if self.asked > 1:
            await until(self.may_fail.is_set)
        raise BackendError("it was closed")


@pytest.mark.parametrize("verb", ["renew", "read_signals"])
def test_a_store_that_fails_is_told_of_as_long_as_a_run_needs_it(verb: str, caplog: pytest.LogCaptureFixture) -> None:
    """Not when the keeper is answered after the last run is over: by then it may have been closed, and be gone.

    It is not asked again either, which would open it.
    """
    before, backend = set(keepers()), Fails(verb)
    flujo = kept(backend, lambda: backend.asked == 2)
    assert asyncio.run(flujo.run(1)).output == 1
    backend.may_fail.set()
    for thread in set(keepers()) - before:
        thread.join()
    [record] = caplog.records
    assert "it was closed" in record.getMessage()
    assert backend.late == []


async def test_a_run_that_ends_while_its_lease_is_renewed_has_ended() -> None:
    """A renewal finds the lease gone since the run rests: that is no loss."""
    backend = Shared(InMemoryBackend())
    backend.answer = lambda leases: []

    @step
    async def last(n: int) -> int:
        await until(backend.is_renewing.is_set)
        backend.may_renew.set()
        return n

    flujo = Flujo(last, state_backend=backend, lease_ttl=timedelta(seconds=1), clock=VirtualClock())
    async with asyncio.timeout(20):
        result = await flujo.run(1, run_id="r")
    assert (result.output, result.status) == (1, "completed")


@pytest.mark.parametrize("ttl", [timedelta(0), timedelta(seconds=-1), timedelta.max, 30])
def test_a_time_to_live_that_is_none_is_refused(ttl: Any) -> None:
    with pytest.raises(InvalidArgument, match="lease_ttl is a timedelta longer than zero"):
        Flujo(step(_nothing), lease_ttl=ttl)


async def _nothing(n: int) -> int:
    return n


async def test_a_stale_owner_cannot_write(store: Store) -> None:
    """However late it wakes up."""
    backend = store.open()
    is_reached, go_on = asyncio.Event(), asyncio.Event()

    @step
    async def wait(n: int) -> int:
        is_reached.set()
        await go_on.wait()
        return n

    flujo = Flujo(wait, state_backend=backend)
    driving = asyncio.create_task(flujo.run(1, run_id="r"))
    await is_reached.wait()
    stored = await backend.load("r")
    assert stored is not None
    old = stored.summary.lease
    assert old is not None
    new = await steal(backend, "r")
    assert new.token == old.token + 1
    update = RunUpdate(updated_at=datetime.now(UTC))
    with pytest.raises(StaleLease):
        await backend.append(old, stored.records, expected_seq=1, update=update)
    driving.cancel()
    await asyncio.wait({driving})
    after = await backend.load("r")
    assert after is not None
    assert after.summary.lease == new, "letting go does not take the lease from its new owner"
