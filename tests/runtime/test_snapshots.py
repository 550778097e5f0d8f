"""A run whose log is full of what no longer counts is taken up from a snapshot (G13)."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from typing_extensions import override

from flujo_async import Flujo, RunContext, StateBackend, StepContext, step, workflow
from flujo_async._log.chain import GENESIS, seal
from flujo_async._log.fold import Fold, fold_log
from flujo_async._log.snapshot import fold_from, snapshot_of
from flujo_async._model.facts import EventEmitted, RunCompleted, RunStarted
from flujo_async._model.lease import ClaimQuery
from flujo_async._model.stored import NewRun, Snapshot, StoredRun
from flujo_async._model.summary import RunSummary
from flujo_async._runtime.journal import Journal
from flujo_async._runtime.snapshots import LEAST, Snapshots
from flujo_async.abc.pace import Pace
from flujo_async.backends.memory import InMemoryBackend
from flujo_async.errors import BackendError, IntegrityError, RunFailed, StaleLease
from flujo_async.testing import FaultyBackend
from tests.runtime.crashes import others, ticks
from tests.runtime.pretend import Wrapped
from tests.runtime.stores import Store

STEPS, EVENTS = 20, 250
OUTPUT = sum(range(STEPS))
T0 = datetime(2026, 1, 1, tzinfo=UTC)
T_LATER = datetime(2400, 1, 1, tzinfo=UTC)


class Watched(Wrapped):
    """A store that counts the records it is asked for, and tells of snapshots.

    Attributes:
        records: how many records were read.
        puts: how many snapshots were kept.
        change: what it makes of each snapshot that is asked for.
    """

    def __init__(self, inner: StateBackend, change: Callable[[Snapshot], Snapshot] = lambda kept: kept) -> None:
        super().__init__(inner)
        self.records = self.puts = 0
        self.change = change
        self._news = asyncio.Condition()

    @override
    async def through(self, verb: str, call: Callable[[], Any]) -> Any:
        result = await super().through(verb, call)
        if verb == "put_snapshot":
            async with self._news:
                self.puts += 1
                self._news.notify_all()
        if isinstance(result, StoredRun):
            self.records += len(result.records)
            return replace(result, snapshot=result.snapshot and self.change(result.snapshot))
        if verb == "read_events":
            self.records += len(result)
        return result

    async def kept(self, number: int) -> None:
        """Return when so many snapshots were kept."""
        async with self._news:
            await self._news.wait_for(lambda: self.puts >= number)


class Agent:
    """Steps that emit events, and do each thing once."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.until: Callable[[int], Any] = lambda _: asyncio.sleep(0)

    def pipeline(self) -> Any:
        @step
        async def think(n: int, ctx: StepContext) -> int:
            await self.until(n)
            for number in range(EVENTS):
                ctx.emit({"n": number})
            self.done.append(n)
            return n

        @workflow
        async def agent(steps: int, ctx: RunContext) -> int:
            return sum([await think(n) for n in range(steps)])

        return agent

    def flujo(self, backend: StateBackend) -> Flujo[int, int]:
        return Flujo(self.pipeline(), pipeline_name="agent", state_backend=backend)

    async def die(self, backend: StateBackend) -> None:
        """Leave run ``r`` at its last step, after its second snapshot was kept."""
        watched = Watched(backend)
        dying = FaultyBackend(watched)

        async def until(n: int) -> None:
            await watched.kept(n // 8)
            if n == STEPS - 1:
                dying.die()

        self.until = until
        with pytest.raises(BackendError):
            await self.flujo(dying).run(STEPS, run_id="r")
        self.until = lambda _: asyncio.sleep(0)


async def stored(backend: StateBackend, run_id: str = "r") -> tuple[RunSummary, Snapshot]:
    run = await backend.load(run_id, from_snapshot=True)
    assert run is not None
    assert run.snapshot is not None
    return run.summary, run.snapshot


async def test_a_resumed_run_reads_what_counts(store: Store) -> None:
    """Not five thousand events; and nothing is done twice."""
    agent = Agent()
    await agent.die(store.open())
    head, snapshot = await stored(store.open())
    assert snapshot.seq > 2 * LEAST
    watched = Watched(store.open())
    result = await agent.flujo(watched).run(run_id="r")
    assert (result.output, agent.done) == (OUTPUT, [*range(STEPS), STEPS - 1])  # the last one had not been committed
    assert watched.records == head.last_seq - snapshot.seq + 1  # the last one is looked at again when it is claimed
    flujo = agent.flujo(store.open())
    await flujo.run(STEPS, run_id="uninterrupted")
    of_both = [await flujo.steps(run_id) for run_id in ("r", "uninterrupted")]
    assert len({tuple((step.key, step.output, step.status) for step in steps) for steps in of_both}) == 1
    assert (await flujo.verify()).ok


@pytest.mark.crash
@pytest.mark.parametrize("how", ["before", "after"])
async def test_a_process_that_dies_over_a_snapshot_loses_nothing(store: Store, how: Any) -> None:
    agent = Agent()
    dying = FaultyBackend(store.open())
    dying.crash("put_snapshot", how=how)

    async def until(n: int) -> None:
        if n == 8:
            await dying.died()

    agent.until = until
    with pytest.raises(BackendError):
        await agent.flujo(dying).run(STEPS, run_id="r")
    agent.until = lambda _: asyncio.sleep(0)
    assert (await agent.flujo(store.open()).run(run_id="r")).output == OUTPUT
    assert set(agent.done) == set(range(STEPS))
    assert len(agent.done) <= STEPS + 1  # but for the one that was under way
    assert (await agent.flujo(store.open()).verify()).ok


async def test_a_store_that_keeps_no_snapshots_disturbs_nobody() -> None:
    agent = Agent()
    faulty = FaultyBackend(InMemoryBackend())
    failing = faulty.fail("put_snapshot", nth=None, error=OSError(28, "No space left on device"))
    assert (await agent.flujo(faulty).run(STEPS, run_id="r")).output == OUTPUT
    assert failing.has_happened
    assert agent.done == [*range(STEPS)]


def lie(kept: Snapshot) -> Snapshot:
    """Return a snapshot by which the fourth step has returned something else, sealed as if it were right."""
    fold = fold_from(kept, "r")
    key = fold.order[3]
    before: Any = fold.outcomes[key]
    done = replace(before, output=1_000)
    fold.changes[fold.changes.index(before)] = done
    fold.outcomes[key] = done
    return snapshot_of(fold)


async def test_a_snapshot_that_lies_is_found_by_a_check() -> None:
    """It is what a resume goes by."""
    inner = InMemoryBackend()
    agent = Agent()
    await agent.die(inner)
    _, snapshot = await stored(inner)
    flujo = agent.flujo(Watched(inner, lie))
    [broken] = (await flujo.verify("r")).broken
    assert (broken.run_id, broken.seq) == ("r", snapshot.seq)
    assert "the snapshot" in broken.reason
    assert (await flujo.run(run_id="r")).output == OUTPUT - 3 + 1_000  # why a check compares


@pytest.mark.parametrize(
    "change",
    [
        lambda kept: replace(kept, body=b"garbage"),
        lambda kept: replace(kept, body=kept.body.replace(b'"agent"', b'"Agent"')),
        lambda kept: replace(kept, seq=kept.seq - 1),
        lambda kept: replace(kept, hash="0" * 64),
    ],
)
async def test_a_snapshot_that_is_broken_is_none(change: Callable[[Snapshot], Snapshot]) -> None:
    """The whole log is read instead."""
    inner = InMemoryBackend()
    agent = Agent()
    await agent.die(inner)
    head, _ = await stored(inner)
    watched = Watched(inner, change)
    flujo = agent.flujo(watched)
    assert (await flujo.verify("r")).ok
    watched.records = 0
    assert (await flujo.run(run_id="r")).output == OUTPUT
    assert watched.records > head.last_seq
    assert len(agent.done) == STEPS + 1


def of_another_chain(kept: Snapshot) -> Snapshot:
    fold = fold_from(kept, "r")
    fold.hash = "0" * 64
    return snapshot_of(fold)


@pytest.mark.parametrize("is_at_the_end", [False, True])
async def test_a_snapshot_of_another_log_is_none(is_at_the_end: bool) -> None:
    """What follows does not continue it; or nothing follows, and the last record has another hash."""
    inner = InMemoryBackend()
    agent = Agent()
    await agent.die(inner)
    head, _ = await stored(inner)
    if is_at_the_end:
        await renewed(inner)
    watched = Watched(inner, of_another_chain)
    assert (await agent.flujo(watched).run(run_id="r")).output == OUTPUT
    assert watched.records > head.last_seq
    assert not (await agent.flujo(watched).verify()).ok
    watched.change = lambda kept: kept
    assert (await agent.flujo(watched).verify()).ok


async def renewed(backend: StateBackend) -> None:
    """Put a snapshot of all that there is of run ``r``."""
    run = await backend.load("r")
    assert run is not None
    [lease] = await backend.claim("somebody", now=T_LATER, ttl=timedelta(seconds=1), query=ClaimQuery(run_id="r"))
    await backend.put_snapshot(lease, snapshot_of(fold_log("r", run.records)))
    await backend.release(lease)


async def test_nothing_follows_a_snapshot_and_the_run_goes_on() -> None:
    """One record is read, to see that it is the same log, and again when it is claimed."""
    inner = InMemoryBackend()
    agent = Agent()
    await agent.die(inner)
    await renewed(inner)
    watched = Watched(inner)
    assert (await agent.flujo(watched).run(run_id="r")).output == OUTPUT
    assert watched.records == 2


@pytest.mark.parametrize("is_cut_off", [False, True])
async def test_a_broken_log_behind_a_snapshot_is_named(is_cut_off: bool) -> None:
    """Whatever stands there is verified before anything executes."""
    inner = InMemoryBackend()
    agent = Agent()
    await agent.die(inner)
    before = len(agent.done)

    class Broken(Wrapped):
        @override
        async def through(self, verb: str, call: Callable[[], Any]) -> Any:
            result = await super().through(verb, call)
            if isinstance(result, StoredRun):
                *others, last = result.records
                spoilt = [] if is_cut_off else [replace(last, body=last.body + b" ")]
                return replace(result, records=(*others, *spoilt))
            return result

    with pytest.raises(IntegrityError):
        await agent.flujo(Broken(inner)).run(run_id="r")
    assert len(agent.done) == before


async def test_a_run_without_noise_has_no_snapshot() -> None:
    """Its log is its state."""

    @step
    async def count(n: int) -> int:
        return n + 1

    @workflow
    async def counting(n: int) -> int:
        for _ in range(LEAST + 300):
            n = await count(n)
        return n

    watched = Watched(InMemoryBackend())
    assert (await Flujo(counting, state_backend=watched).run(0, run_id="r")).output == LEAST + 300
    assert watched.puts == 0


class DamagedAtItsBeginning(Wrapped):
    """A store whose logs are broken at the second fact."""

    @override
    async def through(self, verb: str, call: Callable[[], Any]) -> Any:
        result = await super().through(verb, call)
        if isinstance(result, StoredRun) and result.snapshot is None:
            first, second, *rest = result.records
            return replace(result, records=(first, replace(second, body=second.body + b" "), *rest))
        return result


async def test_a_run_that_is_tried_again_has_all_of_its_past() -> None:
    """Redrive, fork and earlier states do not depend on the snapshot."""
    backend = InMemoryBackend()
    agent = Agent()
    watched = Watched(backend)

    async def until(n: int) -> None:
        await watched.kept(n // 8)
        if n == STEPS - 1:
            raise ValueError("bad")

    agent.until = until
    with pytest.raises(RunFailed):
        await agent.flujo(watched).run(STEPS, run_id="r")
    await stored(backend)
    agent.until = lambda _: asyncio.sleep(0)
    damaged = agent.flujo(DamagedAtItsBeginning(backend))
    for look_back in (damaged.redrive, damaged.state, damaged.history, damaged.fork):
        with pytest.raises(IntegrityError):
            await look_back("r")
    assert (await stored(backend))[0].attempts == 1  # refused before the run is claimed
    flujo = agent.flujo(backend)
    assert (await flujo.redrive("r")).output == OUTPUT
    assert agent.done == [*range(STEPS)]
    assert (await flujo.state("r", at=EVENTS + 2)).current_step_index == 1
    await flujo.fork("r", at=EVENTS + 2, new_run_id="fork")
    assert (await flujo.run(run_id="fork")).output == OUTPUT
    assert agent.done == [*range(STEPS), *range(1, STEPS)]
    assert (await flujo.verify()).ok


async def test_nothing_is_left_when_the_run_has_ended() -> None:
    """It waits for a snapshot that is on its way."""
    faulty = FaultyBackend(InMemoryBackend())
    held = faulty.delay("put_snapshot")
    agent = Agent()

    async def until(n: int) -> None:
        if n == 8:
            await held.reached()

    agent.until = until
    running = asyncio.create_task(agent.flujo(faulty).run(STEPS, run_id="r"))
    await held.reached()
    while (await faulty.inner.load("r")).summary.status != "completed":  # type: ignore[union-attr]
        await asyncio.sleep(0)
    await ticks()
    assert not running.done()
    held.release()
    assert (await running).output == OUTPUT
    assert faulty.under_way == 0
    assert others() == set()


class Noise:
    """A run by itself, of nothing but events."""

    def __init__(self, context: Any = None) -> None:
        self.store = FaultyBackend(InMemoryBackend())
        self.context = context or {}

    async def __aenter__(self) -> "Noise":
        started = RunStarted(
            at=T0, run_id="r", pipeline_name="p", pipeline_version="1", fingerprint="", input=1, context=self.context
        )
        head = RunSummary(
            run_id="r", pipeline_name="p", pipeline_version="1", status="running", created_at=T0, updated_at=T0
        )
        record, blobs = seal(started, after=0, prev_hash=GENESIS)
        new = NewRun(replace(head, last_seq=1), (record,), tuple(blobs))
        lease = await self.store.create_run(new, owner="o", ttl=timedelta(days=1))
        assert lease is not None
        fold = Fold(started)
        fold.apply(started, record)
        self.journal = Journal(self.store, lease, fold, Pace())
        self.snapshots = Snapshots(self.store, lease, self.journal, 1)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.journal.settle()
        await self.snapshots.settle()

    async def make(self, number: int) -> None:
        for _ in range(number):
            self.journal.note(EventEmitted(at=T0, key="a", name="a", data="m" * 20))
        await self.journal.commit()

    @property
    def puts(self) -> int:
        return sum(call.verb == "put_snapshot" for call in self.store.calls)


async def test_the_first_is_made_when_it_saves_enough() -> None:
    async with Noise() as noise:
        await noise.make(LEAST - 1)
        assert noise.snapshots.is_settled
        await noise.make(1)
        assert not noise.snapshots.is_settled
        await noise.snapshots.settle()
        await noise.make(LEAST - 1)
        assert noise.snapshots.is_settled
        await noise.make(1)
        await noise.snapshots.settle()
        assert noise.puts == 2
        assert (await stored(noise.store))[1].seq == 2 * LEAST + 1


async def test_all_together_take_no_more_than_the_log() -> None:
    """A large context is not written again and again for the sake of some events."""
    async with Noise({f"x{i}": "m" * 20_000 for i in range(30)}) as noise:
        before = 0
        for _ in range(10):
            await noise.make(LEAST)
            await noise.snapshots.settle()
            before += LEAST
        log = sum(len(record.body) for record in (await noise.store.read_events("r", after=1)))
        size = len((await stored(noise.store))[1].body)
        assert size > 600_000
        assert 1 <= noise.puts <= 1 + log // size


async def test_it_is_of_the_facts_up_to_one_commit() -> None:
    """Though the run goes on before it is made."""
    async with Noise() as noise:
        await noise.make(LEAST)
        await noise.make(10)
        await noise.snapshots.settle()
        run = await noise.store.load("r")
        assert run is not None
        assert (await stored(noise.store))[1] == snapshot_of(fold_log("r", run.records[: LEAST + 1]))


async def test_none_is_put_when_the_run_has_come_to_rest() -> None:
    """The store has taken the lease back."""
    async with Noise() as noise:
        for _ in range(LEAST):
            noise.journal.note(EventEmitted(at=T0, key="a", name="a", data=1))
        await noise.journal.commit(RunCompleted(at=T0, output=1))
        await noise.snapshots.settle()
        assert noise.puts == 0


async def test_none_is_put_once_the_lease_is_lost() -> None:
    async with Noise() as noise:
        noise.store.fail("append", nth=2, error=StaleLease("somebody else has it"))
        await noise.make(10)
        with pytest.raises(StaleLease):
            await noise.make(LEAST)
        await noise.snapshots.settle()
        assert noise.puts == 0
    async with Noise() as noise:
        noise.snapshots.stop()
        await noise.make(LEAST)
        await noise.snapshots.settle()
        assert noise.puts == 0
