"""The contract of a store: many runs, several callers, beginning and end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, ClassVar

import anyio.to_thread
import pytest

from flujo_async._model.lease import ClaimQuery, Lease
from flujo_async._model.state import TERMINAL, RunStatus
from flujo_async._model.stored import NewRun, RunQuery, StoredRun
from flujo_async.abc.backend import StateBackend
from flujo_async.errors import InvalidArgument, StaleLease
from flujo_async.testing.samples import (
    LOG,
    ODD_IDS,
    SECOND,
    T0,
    TTL,
    WAIT,
    append,
    claim,
    claimed_ids,
    create,
    head,
    listed,
    load,
    new_run,
    signal,
    update,
)


class StoreContract:
    """Listing, deleting, isolation, threads, cancellation, waiting, opening and closing."""

    run_ids: ClassVar[Sequence[str]] = ODD_IDS
    """Ids that the store has to keep apart."""

    # ------------------------------------------------------------------------------------- query_runs, read_events

    async def test_listings_begin_with_the_newest_run(self, backend: StateBackend) -> None:
        """By ``created_at``, to the microsecond; ties by ascending run id."""
        moments = {"b": 0, "a": 0, "new": 2, "newer": 3, "old": -1_000_000}
        for run_id, microseconds in moments.items():
            await backend.create_run(new_run(run_id, created_at=T0 + timedelta(microseconds=microseconds)))
        assert await listed(backend) == ["newer", "new", "a", "b", "old"]

    async def test_listings_filter_by_each_field(self, backend: StateBackend) -> None:
        """All given filters have to hold; ``""`` and ``None`` mean any."""
        await backend.create_run(new_run("a", status="paused", pipeline_name="x", parent_run_id="p"))
        await backend.create_run(new_run("b", status="failed", pipeline_name="x"))
        await backend.create_run(new_run("c", status="failed", pipeline_name="y"))
        assert await listed(backend, run_id="b") == ["b"]
        assert await listed(backend, run_id="nobody") == []
        assert await listed(backend, status="failed") == ["b", "c"]
        assert await listed(backend, pipeline_name="x") == ["a", "b"]
        assert await listed(backend, parent_run_ids=frozenset({"p"})) == ["a"]
        assert await listed(backend, status="failed", pipeline_name="x") == ["b"]
        assert await listed(backend, run_id="a", status="failed") == []
        for nothing in ("", None):
            query = dict.fromkeys(("run_id", "status", "pipeline_name"), nothing)
            assert await listed(backend, **query) == ["a", "b", "c"]

    async def test_listings_show_the_children_of_several_runs(self, backend: StateBackend) -> None:
        """In one order, whose ever they are, cut to one page; of no run there are none, and no parent need be there."""
        for place, parent in enumerate(["p", "q", None, "p", "o", "q"]):
            status: RunStatus = "failed" if place else "paused"
            moment = T0 + place * SECOND
            await backend.create_run(new_run(str(place), status=status, parent_run_id=parent, created_at=moment))
        both = frozenset({"p", "q", "nobody"})
        assert await listed(backend, parent_run_ids=None) == ["5", "4", "3", "2", "1", "0"]
        assert await listed(backend, parent_run_ids=frozenset({"o", "q"})) == ["5", "4", "1"]
        assert await listed(backend, parent_run_ids=both) == ["5", "3", "1", "0"]
        assert await listed(backend, parent_run_ids=both, limit=2, offset=1) == ["3", "1"]
        assert await listed(backend, parent_run_ids=both, status="failed") == ["5", "3", "1"]
        assert await listed(backend, parent_run_ids=both, run_id="3") == ["3"]
        assert await listed(backend, parent_run_ids=both, run_id="4") == []
        assert await listed(backend, parent_run_ids=both, is_leased=True) == []
        await backend.claim("w", now=T0, ttl=TTL, query=ClaimQuery(run_id="5", statuses=TERMINAL))
        assert await listed(backend, parent_run_ids=both, is_leased=True) == ["5"]
        await backend.delete_run("3")
        assert await listed(backend, parent_run_ids=both) == ["5", "1", "0"]
        assert await listed(backend, parent_run_ids=frozenset()) == []

    async def test_listings_filter_by_whether_somebody_has_a_lease(self, backend: StateBackend) -> None:
        """Expired or not: who asks wants to know the owners."""
        for run_id in ("a", "b"):
            await create(backend, new_run(run_id, status="pending" if run_id == "b" else "running"))
        await backend.create_run(new_run("c"))
        await append(backend, await create(backend, new_run("d")), status="completed")
        await backend.release(await create(backend, new_run("e")))
        assert await listed(backend, is_leased=True) == ["a", "b"]
        assert await listed(backend, is_leased=False) == ["c", "d", "e"]
        assert await listed(backend, is_leased=None) == ["a", "b", "c", "d", "e"]
        assert await listed(backend, is_leased=True, limit=1, offset=1) == ["b"]
        assert await listed(backend, is_leased=True, status="running") == ["a"]
        assert await listed(backend, is_leased=True, run_id="c") == []
        assert await listed(backend, is_leased=False, run_id="c") == ["c"]

    async def test_listings_filter_by_a_part_of_the_metadata(self, backend: StateBackend) -> None:
        """Objects match if they contain what is asked for, at every depth; all else has to be equal."""
        await backend.create_run(new_run("a", metadata={"team": {"name": "x", "size": 3}, "tags": ["t"], "on": True}))
        await backend.create_run(new_run("b", metadata={"team": {"name": "x"}, "on": 1, "none": None}))
        await backend.create_run(new_run("c"))
        expected: list[tuple[dict[str, Any], list[str]]] = [
            ({}, ["a", "b", "c"]),
            ({"team": {}}, ["a", "b"]),
            ({"team": {"name": "x"}}, ["a", "b"]),
            ({"team": {"size": 3}}, ["a"]),
            ({"team": {"size": "3"}}, []),
            ({"team": "x"}, []),
            ({"tags": ["t"]}, ["a"]),
            ({"tags": []}, []),
            ({"tags": "t"}, []),
            ({"on": True}, ["a"]),
            ({"on": 1}, ["b"]),
            ({"none": None}, ["b"]),
            ({"name": "x"}, []),
            ({"team": {"name": "x"}, "tags": ["t"]}, ["a"]),
        ]
        for metadata, run_ids in expected:
            assert await listed(backend, metadata=metadata) == run_ids, metadata

    @pytest.mark.parametrize(
        "asked",
        [
            *({name: "\ud800"} for name in ("run_id", "pipeline_name")),
            {"parent_run_ids": frozenset({"a", "\ud800"})},
            *({"metadata": {"a": value}} for value in (T0, {1}, b"x", 2**70, float("nan"), "\ud800", {1: 2}, object())),
            *({"metadata": metadata} for metadata in ({"\ud800": 1}, {1: 1}, [1])),
        ],
    )
    async def test_listings_are_not_asked_for_what_no_run_has(self, backend: StateBackend, asked: Any) -> None:
        """Every store refuses it, and says so alike."""
        await backend.create_run(new_run("a", metadata={"a": None}))
        with pytest.raises(InvalidArgument):
            await listed(backend, **asked)

    async def test_listings_are_filtered_before_they_are_cut(self, backend: StateBackend) -> None:
        """``offset`` works without ``limit``; a page beyond the end is empty."""
        for i in range(6):
            await backend.create_run(new_run(f"run{i}", status="failed" if i % 2 else "paused"))
        assert await listed(backend, status="failed", limit=2) == ["run1", "run3"]
        assert await listed(backend, status="failed", offset=1) == ["run3", "run5"]
        assert await listed(backend, status="failed", offset=1, limit=1) == ["run3"]
        assert await listed(backend, limit=0) == []
        assert await listed(backend, offset=6) == []

    @pytest.mark.parametrize("gone", [range(0), range(100), range(90, 320), range(0, 420, 2)], ids=str)
    async def test_every_run_comes_once_while_others_come_and_go(self, backend: StateBackend, gone: range) -> None:
        """Behind the place where the reader is, at it, and before it; three each are of one age."""

        async def add(numbers: range) -> None:
            moments = {f"{number:04}": T0 + timedelta(microseconds=number // 3) for number in numbers}
            runs = [new_run(name, created_at=moment, status="paused") for name, moment in moments.items()]
            await asyncio.gather(*map(backend.create_run, runs))

        await add(range(420))
        seen: list[str] = []
        async for summary in backend.every_run(RunQuery(status="paused", limit=1, offset=1)):
            seen.append(summary.run_id)
            if len(seen) == 110:
                await asyncio.gather(*(backend.delete_run(f"{number:04}") for number in gone))
                await add(range(420, 640))
        assert len(seen) == len(set(seen))
        stayed = [f"{number:04}" for number in range(420) if number not in gone]
        assert [run_id for run_id in await listed(backend) if run_id in stayed] == [
            run_id for run_id in seen if run_id in stayed
        ]
        assert set(stayed) <= set(seen)
        assert [head async for head in backend.every_run(RunQuery(status="failed"))] == []

    async def test_listings_follow_every_change(self, backend: StateBackend) -> None:
        """A head that was listed before is not shown again after it has changed."""
        lease = await create(backend)
        assert await listed(backend, status="running") == ["run"]
        await append(backend, lease, status="completed")
        assert await listed(backend, status="running") == []
        assert await listed(backend, status="completed") == ["run"]

    async def test_events_are_read_from_where_the_reader_left_off(self, backend: StateBackend) -> None:
        """``after`` is exclusive; ``limit`` cuts."""
        await backend.create_run(new_run(records=LOG[:5]))
        assert await backend.read_events("run") == list(LOG[:5])
        assert await backend.read_events("run", after=3) == list(LOG[3:5])
        assert await backend.read_events("run", after=1, limit=2) == list(LOG[1:3])
        assert await backend.read_events("run", after=5) == []
        assert await backend.read_events("run", limit=0) == []
        assert await backend.read_events("nobody") == []

    async def test_a_growing_log_is_read_page_by_page(self, backend: StateBackend) -> None:
        """Whoever follows it gets each record once, however long ago the last page was."""
        lease = await create(backend)
        seen = await backend.read_events("run", limit=1)
        for after in range(1, 6):
            await append(backend, lease, after=after)
            if after % 2:
                seen += await backend.read_events("run", after=len(seen), limit=2)
        seen += await backend.read_events("run", after=len(seen))
        assert seen == list(LOG[:6])

    # ------------------------------------------------------------------------------------------------------ delete

    async def test_a_deleted_run_is_gone(self, backend: StateBackend) -> None:
        """Nothing of it shows anywhere, and the others stay."""
        await create(backend)
        await create(backend, new_run("other"))
        await backend.post(signal())
        await backend.delete_run("run")
        assert await backend.load("run") is None
        assert await backend.read_events("run") == []
        assert await listed(backend) == ["other"]
        assert await claimed_ids(backend, now=T0 + TTL) == ["other"]

    async def test_deleting_twice_changes_nothing(self, backend: StateBackend) -> None:
        """Nor does deleting what never was."""
        await create(backend)
        await backend.delete_run("run")
        await backend.delete_run("run")
        await backend.delete_run("nobody")
        assert await listed(backend) == []

    async def test_the_name_of_a_deleted_run_can_be_used_anew(self, backend: StateBackend) -> None:
        """The new run inherits nothing: no record, no signal, no token."""
        await append(backend, await create(backend), count=3)
        await backend.post(signal())
        await backend.delete_run("run")
        assert await create(backend) == Lease("run", 1, "w1", T0 + TTL)
        run = await load(backend)
        assert (run.records, run.signals, run.summary.attempts) == (LOG[:1], (), 1)

    # --------------------------------------------------------------------------------------------------- isolation

    async def test_odd_run_ids_are_kept_apart(self, backend: StateBackend) -> None:
        """An id is any text: no path, no pattern, no letter case gets in the way."""
        leases: list[Lease] = []
        for i, run_id in enumerate(self.run_ids):
            leases.append(await create(backend, new_run(run_id, metadata={"i": i})))
        for i, lease in enumerate(leases):
            await backend.append(lease, LOG[1:2], expected_seq=1, update=update(current_step_index=i))
            await backend.post(signal(run_id=lease.run_id, payload=i))
        assert await listed(backend) == sorted(self.run_ids)
        for i, run_id in enumerate(self.run_ids):
            run = await load(backend, run_id)
            assert (run.summary.run_id, run.summary.metadata, run.summary.current_step_index) == (run_id, {"i": i}, i)
            assert run.signals == (signal(run_id=run_id, payload=i),)
        for run_id in self.run_ids[1:]:
            await backend.delete_run(run_id)
        assert await listed(backend) == [self.run_ids[0]]

    async def test_what_a_caller_does_later_to_its_arguments_changes_nothing(self, backend: StateBackend) -> None:
        """A store keeps values, not references."""
        metadata = {"team": {"name": "x"}}
        records = list(LOG[:1])
        await backend.create_run(NewRun(new_run(metadata=metadata).summary, tuple(records)))
        metadata["team"]["name"] = "y"
        metadata["more"] = {}
        assert (await head(backend)).metadata == {"team": {"name": "x"}}

    # --------------------------------------------------------------------------- loops, threads, cancelling, waiting

    async def test_verbs_work_in_the_event_loops_of_other_threads(self, backend: StateBackend) -> None:
        """Leases are renewed from a thread of their own, while the first loop goes on."""
        lease = await create(backend)

        async def renew() -> list[Lease]:
            return await backend.renew([lease], now=T0 + SECOND, ttl=TTL)

        renewed, seq = await asyncio.gather(anyio.to_thread.run_sync(asyncio.run, renew()), append(backend, lease))
        assert (renewed, seq) == ([replace(lease, expires_at=T0 + SECOND + TTL)], 2)
        assert (await load(backend)).summary.lease == renewed[0]

    async def test_claimants_in_several_threads_get_each_run_once(self, backend: StateBackend) -> None:
        """Threads race for real, and still no run is given away twice."""
        for i in range(12):
            await backend.create_run(new_run(f"run{i:02}"))

        async def take(owner: str) -> list[str]:
            taken: list[str] = []
            while lease := await claim(backend, owner, run_id=None):
                taken.append(lease.run_id)
            return taken

        threads = [anyio.to_thread.run_sync(asyncio.run, take(f"w{i}")) for i in range(3)]
        taken = await asyncio.gather(*threads)
        assert sorted(run_id for run_ids in taken for run_id in run_ids) == [f"run{i:02}" for i in range(12)]

    async def test_a_cancelled_append_leaves_the_store_usable(self, backend: StateBackend) -> None:
        """Wherever the cancellation strikes, the append happened or did not, and the next one works."""
        lease = await create(backend)
        seq = 1
        for patience in range(12):
            task = asyncio.create_task(append(backend, lease, after=seq, count=2))
            for _ in range(patience):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            run = await _settled(backend)
            assert run.records == LOG[: run.summary.last_seq]
            assert run.summary.last_seq in (seq, seq + 2)
            seq = run.summary.last_seq
        assert await append(backend, lease, after=seq) == seq + 1

    async def test_cancelled_callers_do_not_hold_up_the_others(self, backend: StateBackend) -> None:
        """Of many callers at once some are cancelled; the rest are served."""
        leases = [await create(backend, new_run(f"run{i}")) for i in range(12)]
        tasks = [asyncio.create_task(append(backend, lease)) for lease in leases]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert results[1::2] == [2] * 6
        for result in results[::2]:
            assert result == 2 or isinstance(result, asyncio.CancelledError)

    async def test_waiting_ends_at_its_timeout(self, backend: StateBackend) -> None:
        """Without any change, a waiter comes back to look again."""
        async with asyncio.timeout(20):
            await backend.wait_for_work(timeout=0.01)
            await backend.wait_for_work("run", timeout=0)

    @pytest.mark.parametrize("run_id", [None, "run"])
    async def test_waiting_ends_with_a_change(self, backend: StateBackend, run_id: str | None) -> None:
        """A change wakes a waiter long before its timeout; if it is missed, one of the next does."""
        lease = await create(backend)
        waiter = asyncio.create_task(backend.wait_for_work(run_id, timeout=1000))
        for seq in range(1, 30):
            await append(backend, lease, after=seq)
            await asyncio.wait([waiter], timeout=0.05)
            if waiter.done():
                return
        waiter.cancel()
        pytest.fail("no change wakes the waiter")

    async def test_a_waiter_can_be_cancelled(self, backend: StateBackend) -> None:
        """Cancelling it raises ``CancelledError`` and leaves nothing behind."""
        waiter = asyncio.create_task(backend.wait_for_work(timeout=1000))
        await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        await create(backend)

    # ------------------------------------------------------------------------------------------------- open, close

    async def test_a_backend_can_be_entered_again(self, backend: StateBackend) -> None:
        """Entered, left, used without entering, entered: the runs of the store stay."""
        async with backend as entered:
            assert entered is backend
            lease = await create(backend)
        assert await append(backend, lease) == 2
        async with backend:
            assert await append(backend, lease, after=2) == 3
        await backend.shutdown()
        await backend.shutdown()
        assert (await load(backend)).records == LOG[:3]

    async def test_what_a_verb_acknowledged_survives_a_restart(
        self, backend: StateBackend, second: StateBackend
    ) -> None:
        """Head, log, lease, time to wake up and signals: another object finds all of it, without any closing."""
        lease = await create(backend, new_run(metadata={"a": 1}, queue="q", priority=3))
        await append(backend, lease, count=3, current_step_index=2)
        await backend.post(signal(payload={"ok": True}))
        await backend.renew([lease], now=T0 + SECOND, ttl=TTL)
        asleep = await create(backend, new_run("asleep"))
        await backend.release(asleep, wake_at=T0 + 9 * TTL)
        waiting = await create(backend, new_run("waiting"))
        await backend.post(signal(run_id="waiting"))
        await backend.release(waiting, signals_read=1, waiting_for=[WAIT])
        for run_id in ("run", "asleep", "waiting"):
            assert await second.load(run_id) == await backend.load(run_id)
        assert await second.query_runs(RunQuery()) == await backend.query_runs(RunQuery())
        assert await claim(second, now=T0 + TTL) is None
        assert await claim(second, now=T0 + SECOND + TTL) == Lease("run", 2, "w2", T0 + SECOND + 2 * TTL)

    async def test_two_objects_on_one_store_see_each_others_writes(
        self, backend: StateBackend, second: StateBackend
    ) -> None:
        """Nothing that one keeps in memory hides what the other has written."""
        if not backend.capabilities.multi_process:
            pytest.skip("the store is for one object at a time")
        first = await create(backend)
        assert await append(second, first) == 2
        assert await append(backend, first, after=2) == 3
        await second.renew([first], now=T0 + SECOND, ttl=TTL)
        assert await claim(backend, now=T0 + TTL) is None
        other = await claim(second, now=T0 + SECOND + TTL)
        assert other is not None
        with pytest.raises(StaleLease):
            await append(backend, first, after=3)
        await append(second, other, after=3, status="completed")
        assert await listed(backend, status="completed") == ["run"]
        await second.post(signal())
        await backend.post(signal())
        assert (await load(second)).signals == (signal(),)
        await second.delete_run("run")
        assert await listed(backend) == []
        assert await create(backend, owner="w3") == Lease("run", 1, "w3", T0 + TTL)
        assert (await load(second)).records == LOG[:1]

    async def test_a_signal_posted_at_two_objects_is_one(self, backend: StateBackend, second: StateBackend) -> None:
        """Whoever has looked for one before does not know which have come since."""
        if not backend.capabilities.multi_process:
            pytest.skip("the store is for one object at a time")
        await backend.create_run(new_run())
        await backend.post(signal("s1"))
        await second.post(signal("s2"))
        await backend.post(signal("s2"))
        assert (await load(backend)).signals == (signal("s1"), signal("s2"))
        assert (await head(second)).signals == 2

    async def test_claimants_at_two_objects_get_each_run_once(
        self, backend: StateBackend, second: StateBackend
    ) -> None:
        """What keeps claimants apart is in the store, not in the object."""
        if not backend.capabilities.multi_process:
            pytest.skip("the store is for one object at a time")
        for i in range(8):
            await backend.create_run(new_run(f"run{i}"))
        calls = [claimed_ids(store, limit=2) for store in (backend, second) * 4]
        taken = [run_id for run_ids in await asyncio.gather(*calls) for run_id in run_ids]
        rest = await claimed_ids(second)
        assert sorted(taken + rest) == [f"run{i}" for i in range(8)]


async def _settled(backend: StateBackend) -> StoredRun:
    """Load the run when a write that a cancelled caller left behind has ended: two looks alike in a row."""
    run = await load(backend)
    while True:
        await backend.wait_for_work(timeout=0.01)
        again = await load(backend)
        if again == run:
            return again
        run = again
