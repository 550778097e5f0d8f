"""The contract of a store: signals, and what they wake."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from flujo_async._model.state import RUN_STATUSES, RunStatus, Waiting
from flujo_async._model.stored import Signal
from flujo_async.abc.backend import StateBackend
from flujo_async.errors import RunExists, RunNotFound
from flujo_async.testing.samples import (
    LOG,
    PAUSED,
    SECOND,
    T0,
    TTL,
    append,
    claim,
    claimed_ids,
    create,
    fork,
    head,
    load,
    new_run,
    signal,
    snapshot,
)


class SignalContract:
    """Posting, reading, and news: signals that a run's last owner has not read."""

    # -------------------------------------------------------------------------------------------------------- post

    async def test_signals_come_back_in_the_order_of_posting(self, backend: StateBackend) -> None:
        """Neither their ids nor their moments decide."""
        await backend.create_run(new_run())
        posted = [
            replace(signal(name, payload={"n": [1, None, "\u00e9"]}), at=T0 - SECOND, sent_by=name)
            for name in ("z", "a")
        ]
        posted.append(replace(signal("m"), name="other"))
        for each in posted:
            await backend.post(each)
        assert (await load(backend)).signals == tuple(posted)

    async def test_the_same_signal_twice_is_one_signal(self, backend: StateBackend) -> None:
        """The first posting counts, whatever the second one says."""
        await backend.create_run(new_run())
        assert await backend.post(signal(payload=1)) == signal(payload=1)
        assert await backend.post(signal("s2")) == signal("s2")
        assert await backend.post(signal(payload=2)) == signal(payload=1)
        assert (await load(backend)).signals == (signal(payload=1), signal("s2"))

    async def test_simultaneous_postings_of_one_signal_are_one(self, backend: StateBackend) -> None:
        """A client that retries too eagerly does no harm."""
        await backend.create_run(new_run())
        kept = await asyncio.gather(*(backend.post(signal(f"s{i % 2}", payload=i)) for i in range(8)))
        signals = {each.signal_id: each for each in (await load(backend)).signals}
        assert kept == [signals[f"s{i % 2}"] for i in range(8)]

    async def test_two_runs_may_get_a_signal_of_one_id(self, backend: StateBackend) -> None:
        """A signal id names a posting to one run."""
        for run_id in ("run", "other"):
            await backend.create_run(new_run(run_id))
            await backend.post(signal(run_id=run_id))
        assert (await load(backend)).signals == (signal(),)
        assert (await load(backend, "other")).signals == (signal(run_id="other"),)

    @pytest.mark.parametrize("signals_read", [0, 1, 2])
    async def test_a_run_may_be_created_with_signals(self, backend: StateBackend, signals_read: int) -> None:
        """They are there with it, counted, as if they had been posted; one of them is not posted again."""
        posted = (signal("z", payload=1), signal("a"))
        await backend.create_run(new_run(status="paused", posted=posted, signals_read=signals_read))
        run = await load(backend)
        assert (run.signals, run.summary.signals, run.summary.signals_read) == (posted, 2, signals_read)
        assert await backend.read_signals({"run": 0}) == list(posted)
        assert await claimed_ids(backend, statuses=PAUSED) == (["run"] if signals_read < 2 else [])
        assert await backend.post(signal("a", payload=2)) == signal("a")
        await backend.post(signal("s"))
        run = await load(backend)
        assert (run.signals, run.summary.signals) == ((*posted, signal("s")), 3)

    async def test_runs_created_at_once_have_their_own_signals(self, backend: StateBackend) -> None:
        """And those that have none get none."""
        posted = {f"r{i}": tuple(signal(f"s{n}", run_id=f"r{i}") for n in range(i % 3)) for i in range(9)}
        runs = [new_run(run_id, posted=signals) for run_id, signals in posted.items()]
        await asyncio.gather(*map(backend.create_run, runs))
        assert {run_id: (await load(backend, run_id)).signals for run_id in posted} == posted

    async def test_a_fork_may_be_created_with_signals(self, backend: StateBackend) -> None:
        """They come beside what it shares, and before what is appended."""
        lease = await create(backend)
        await append(backend, lease, count=2)
        forked, log = fork(LOG[:2], posted=[signal(run_id="fork")])
        await backend.create_run(forked)
        run = await load(backend, "fork")
        assert (run.records, run.signals) == (log, (signal(run_id="fork"),))
        assert await backend.read_signals({"fork": 0}) == [signal(run_id="fork")]

    async def test_what_a_snapshot_stands_for_takes_no_signals_away(self, backend: StateBackend) -> None:
        """Those that the run was created with stand before it."""
        lease = await create(backend, new_run(posted=[signal()]))
        await append(backend, lease, count=2)
        await backend.put_snapshot(lease, snapshot(2))
        run = await backend.load("run", from_snapshot=True)
        assert run is not None
        assert (run.snapshot, run.records, run.signals) == (snapshot(2), LOG[2:3], (signal(),))

    async def test_a_run_that_exists_gets_no_signals_by_being_created(self, backend: StateBackend) -> None:
        """All of a run that is refused is."""
        await backend.create_run(new_run())
        with pytest.raises(RunExists):
            await backend.create_run(new_run(posted=[signal()]))
        assert (await load(backend)).signals == ()

    async def test_a_signal_to_nobody_is_refused(self, backend: StateBackend) -> None:
        """The caller learns that there is no such run."""
        with pytest.raises(RunNotFound):
            await backend.post(signal())
        assert await backend.load("run") is None

    @pytest.mark.parametrize("status", sorted(RUN_STATUSES))
    async def test_a_signal_needs_no_lease_and_is_counted(self, backend: StateBackend, status: RunStatus) -> None:
        """Whoever has the run, and wherever it stands, an answer can be left for it; nothing else changes."""
        await backend.create_run(new_run(status=status), owner="w1", ttl=TTL)
        before = await head(backend)
        await backend.post(signal())
        assert await head(backend) == replace(before, signals=1)
        await backend.post(signal("s2"))
        assert await head(backend) == replace(before, signals=2)

    async def test_the_same_signal_again_is_not_counted(self, backend: StateBackend) -> None:
        """Else a client that retries would wake a run for nothing."""
        await backend.create_run(new_run())
        await backend.post(signal())
        await asyncio.gather(*(backend.post(signal(f"s{i % 2}")) for i in range(6)))
        assert (await head(backend)).signals == 2

    async def test_a_signal_does_not_disturb_the_log(self, backend: StateBackend) -> None:
        """The owner's next append is not in conflict with it."""
        lease = await create(backend)
        await backend.post(signal())
        assert await append(backend, lease) == 2
        run = await load(backend)
        assert (run.records, run.signals) == (LOG[:2], (signal(),))

    # ------------------------------------------------------------------------------------------------ read_signals

    async def test_the_signals_of_several_runs_are_read_at_once(self, backend: StateBackend) -> None:
        """Those of each run in the order of posting; of other runs, and of runs that do not exist, none."""
        for run_id in ("run", "other", "silent", "foreign"):
            await backend.create_run(new_run(run_id))
        posted = [signal(name, run_id, payload={"n": run_id}) for name in "zab" for run_id in ("run", "other")]
        for each in [*posted, signal(run_id="foreign")]:
            await backend.post(each)
        found = await backend.read_signals({"other": 0, "run": 0, "silent": 0, "nobody": 0})
        assert len(found) == 6
        for run_id in ("run", "other"):
            assert _of(run_id, found) == _of(run_id, posted)

    async def test_reading_signals_of_no_run_reads_none(self, backend: StateBackend) -> None:
        """An empty call is a valid call."""
        assert await backend.read_signals({}) == []
        await backend.create_run(new_run())
        await backend.post(signal())
        assert await backend.read_signals({}) == []

    async def test_known_signals_are_left_out(self, backend: StateBackend) -> None:
        """Of each run its own first ones, whether it was created with them or they were posted since."""
        posted = {run_id: [signal(name, run_id) for name in "zabk"] for run_id in ("run", "é'\"other")}
        for run_id, signals in posted.items():
            await backend.create_run(new_run(run_id, posted=signals[:2]))
        for late in (2, 3):
            for signals in posted.values():
                await backend.post(signals[late])
                await backend.post(signals[0])
            for known in range(late + 1):
                found = await backend.read_signals(dict.fromkeys(posted, known))
                assert {run_id: _of(run_id, found) for run_id in posted} == {
                    run_id: signals[known : late + 1] for run_id, signals in posted.items()
                }
        first, second = posted
        found = await backend.read_signals({first: 3, second: 1})
        assert (_of(first, found), _of(second, found)) == (posted[first][3:], posted[second][1:])
        assert await backend.read_signals({first: 4, second: 10**6}) == []

    async def test_signals_after_known_ones_are_found_beside_a_log_that_grows(self, backend: StateBackend) -> None:
        """What is appended in between counts for nothing."""
        lease = await create(backend)
        for number in range(4):
            await backend.post(signal(f"s{number}"))
            await append(backend, lease, after=number + 1)
            assert await backend.read_signals({"run": number}) == [signal(f"s{number}")]
            assert await backend.read_signals({"run": number + 1}) == []

    # -------------------------------------------------------------------------------------------------------- news

    async def test_a_signal_wakes_a_paused_run(self, backend: StateBackend) -> None:
        """Without one it is left in peace."""
        await backend.create_run(new_run(status="paused"))
        assert await claimed_ids(backend, statuses=PAUSED) == []
        await backend.post(signal())
        assert await claimed_ids(backend, statuses=PAUSED) == ["run"]

    async def test_a_signal_wakes_a_sleeping_run_before_its_time(self, backend: StateBackend) -> None:
        """However far away ``wake_at`` is, for a running run and a paused one."""
        for status in ("running", "paused"):
            await backend.create_run(new_run(status, status=status, wake_at=T0 + TTL))
        assert await claimed_ids(backend, statuses=RUN_STATUSES) == []
        for run_id in ("running", "paused"):
            await backend.post(signal(run_id=run_id))
        assert sorted(await claimed_ids(backend, statuses=RUN_STATUSES)) == ["paused", "running"]

    async def test_a_signal_that_was_read_wakes_nobody(self, backend: StateBackend) -> None:
        """Neither does the same one posted again; the next one does."""
        lease = await create(backend)
        await backend.post(signal())
        await append(backend, lease, status="paused", signals_read=1)
        await backend.post(signal())
        assert await claimed_ids(backend, statuses=PAUSED) == []
        await backend.post(signal("s2"))
        assert await claimed_ids(backend, statuses=PAUSED) == ["run"]

    async def test_a_signal_between_reading_and_pausing_wakes_the_run(self, backend: StateBackend) -> None:
        """What counts is what was posted at the instant of the append, not what its author knew."""
        lease = await create(backend)
        await backend.post(signal())
        await backend.post(signal("s2"))
        await append(backend, lease, status="paused", signals_read=1, wake_at=T0 + 9 * TTL)
        summary = await head(backend)
        assert (summary.signals, summary.signals_read, summary.wake_at) == (2, 1, T0 + 9 * TTL)
        assert await claimed_ids(backend, now=T0 + SECOND, statuses=PAUSED) == ["run"]

    @pytest.mark.parametrize("waiting_for", [None, (Waiting(kind="signal", name="approval", since=T0),)])
    async def test_a_signal_between_reading_and_releasing_wakes_the_run(
        self, backend: StateBackend, waiting_for: tuple[Waiting, ...] | None
    ) -> None:
        """A release that has not read it puts no run to sleep."""
        lease = await create(backend)
        await backend.post(signal())
        await backend.release(lease, wake_at=T0 + 9 * TTL, signals_read=0, waiting_for=waiting_for)
        assert await claimed_ids(backend, statuses=RUN_STATUSES) == ["run"]

    async def test_a_release_that_has_read_all_signals_lets_the_run_sleep(self, backend: StateBackend) -> None:
        """Until its time, or until the next signal."""
        lease = await create(backend)
        await backend.post(signal())
        await backend.release(lease, wake_at=T0 + TTL, signals_read=1)
        assert (await head(backend)).signals_read == 1
        assert await claimed_ids(backend, now=T0 + TTL - timedelta(microseconds=1)) == []
        await backend.post(signal("s2"))
        assert await claimed_ids(backend) == ["run"]

    async def test_a_release_that_says_nothing_of_signals_leaves_them_as_they_were(self, backend: StateBackend) -> None:
        """``None`` neither reads them nor makes them news again."""
        lease = await create(backend)
        await backend.post(signal())
        await append(backend, lease, signals_read=1)
        await backend.release(lease, wake_at=T0 + TTL)
        assert (await head(backend)).signals_read == 1
        assert await claimed_ids(backend) == []

    async def test_a_claim_reads_no_signals(self, backend: StateBackend) -> None:
        """Whoever claims and dies before it has read them leaves the run to be claimed for them again."""
        await backend.create_run(new_run(status="paused"))
        await backend.post(signal())
        assert await claim(backend, statuses=PAUSED, run_id=None) is not None
        assert (await head(backend)).signals_read == 0
        assert await claim(backend, statuses=PAUSED, run_id=None) is None
        assert await claim(backend, now=T0 + TTL, statuses=PAUSED, run_id=None) is not None


def _of(run_id: str, signals: list[Signal]) -> list[Signal]:
    return [signal for signal in signals if signal.run_id == run_id]
