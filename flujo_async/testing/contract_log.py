"""The contract of a store: what is written, and what comes back."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from flujo_async._model.lease import Lease
from flujo_async._model.state import RunStatus, Waiting
from flujo_async._model.stored import StoredRun
from flujo_async._model.usage import Usage
from flujo_async.abc.backend import StateBackend
from flujo_async.errors import RunExists, SequenceConflict, StaleLease
from flujo_async.testing.samples import (
    LOG,
    SECOND,
    T0,
    TTL,
    append,
    claim,
    create,
    head,
    listed,
    load,
    new_run,
    sealed,
    update,
)


class LogContract:
    """Creating, loading, appending."""

    # ------------------------------------------------------------------------------------------------ create, load

    async def test_a_created_run_comes_back(self, backend: StateBackend) -> None:
        """What was created is what is loaded."""
        await backend.create_run(new_run(records=LOG[:2]))
        assert await backend.load("run") == StoredRun(new_run(records=LOG[:2]).summary, LOG[:2], ())

    async def test_a_created_run_keeps_every_field_of_its_head(self, backend: StateBackend) -> None:
        """Nothing of a head is dropped, rounded or renamed."""
        since = Waiting(kind="signal", name="w", since=T0, prompt="?", schema={"type": "object"}, deadline=T0 + TTL)
        run = new_run(
            status="paused",
            pipeline_version="v\u00b2",
            updated_at=T0 + timedelta(microseconds=1),
            current_step_index=7,
            metadata={"team": {"name": "\u00e9", "size": 3}, "tags": ["a", 1, 1.5, True, None], "": {}},
            error_message="no\nway",
            waiting_for=[since, Waiting(kind="decision", name="charge", since=T0)],
            parent_run_id="parent",
            queue="mail",
            priority=-3,
            wake_at=T0 + TTL,
            pipeline_id="f1",
            is_background=True,
            usage=Usage(7, Decimal("0.10"), {"input": 3, "output": 4}),
        )
        await backend.create_run(run)
        assert await head(backend) == run.summary

    async def test_a_created_run_has_no_signals(self, backend: StateBackend) -> None:
        """Whatever its maker says: the store counts what was posted to this run."""
        await backend.create_run(new_run(signals=3, signals_read=1))
        summary = await head(backend)
        assert (summary.signals, summary.signals_read) == (0, 0)

    async def test_moments_are_aware_and_in_utc(self, backend: StateBackend) -> None:
        """A moment given in another zone is the same moment."""
        zone = T0.astimezone(datetime.now().astimezone().tzinfo).tzinfo
        await backend.create_run(new_run(created_at=T0.astimezone(zone)))
        created_at = (await head(backend)).created_at
        assert (created_at, created_at.utcoffset()) == (T0, timedelta(0))

    async def test_a_run_created_for_an_owner_is_leased(self, backend: StateBackend) -> None:
        """The first lease has token 1 and counts as the first attempt."""
        lease = await backend.create_run(new_run(), owner="w1", ttl=TTL)
        assert lease == Lease("run", 1, "w1", T0 + TTL)
        summary = await head(backend)
        assert (summary.lease, summary.attempts) == (lease, 1)

    async def test_a_run_created_for_nobody_is_free(self, backend: StateBackend) -> None:
        """Without an owner there is no lease and no attempt, and anybody may claim."""
        assert await backend.create_run(new_run()) is None
        summary = await head(backend)
        assert (summary.lease, summary.attempts) == (None, 0)
        lease = await claim(backend)
        assert lease is not None
        assert lease.token == 1

    async def test_a_taken_run_id_is_refused(self, backend: StateBackend) -> None:
        """The run that was there first stays as it was."""
        await create(backend)
        before = await load(backend)
        with pytest.raises(RunExists):
            await backend.create_run(new_run(records=LOG[:3], pipeline_name="other"), owner="w2", ttl=TTL)
        assert await load(backend) == before

    async def test_of_simultaneous_creators_one_wins(self, backend: StateBackend) -> None:
        """However many create a run at once, it is created once."""
        calls = [backend.create_run(new_run(), owner=f"w{i}", ttl=TTL) for i in range(8)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(result, RunExists) for result in results) == 7
        assert (await head(backend)).lease in results

    async def test_an_unknown_run_loads_as_none(self, backend: StateBackend) -> None:
        """Looking for a run does not make one."""
        assert await backend.load("nobody") is None
        assert await listed(backend) == []

    @pytest.mark.parametrize("until", [0, 1, 2, 3, 99, 2**70])
    async def test_load_until_leaves_out_later_records(self, backend: StateBackend, until: int) -> None:
        """The log is cut; the head is the present one."""
        await backend.create_run(new_run(records=LOG[:3]))
        run = await backend.load("run", until=until)
        assert run is not None
        assert (run.records, run.summary.last_seq) == (LOG[: min(until, 3)], 3)

    async def test_events_far_behind_the_end_are_none(self, backend: StateBackend) -> None:
        """However large the numbers are."""
        await backend.create_run(new_run(records=LOG[:3]))
        assert await backend.read_events("run", after=2**70) == []
        assert await backend.read_events("run", after=1, limit=2**70) == list(LOG[1:3])

    @pytest.mark.parametrize(
        "body",
        [
            b'{"kind":"x","v":"' + b"m" * 1_000_000 + b'"}',
            '{"kind":"x","v":"\u00e9\u4e16\U0001f600\u2028"}'.encode(),
            rb'{"kind":"x","v":"\n\u0001\\\"\/ \u00e9 \ud83d\ude00"}',
            b'{ "spaces" : [ 1 , 2 ] ,  "kind":"x" }',
            b'{"b":1,"a":2,"a":3}',
            b'{"float":[1.0,1e22,1E5,-0.0,0.1,5e-324],"int":123456789012345678901234567890}',
            b"[" * 190 + b"]" * 190,
            b'"text"',
            b"null",
            b'""',
        ],
        ids=lambda body: body[:24].decode("utf-8", "replace"),
    )
    async def test_bodies_come_back_byte_for_byte(self, backend: StateBackend, body: bytes) -> None:
        """A hash is over bytes: a store that tidies up JSON breaks the chain."""
        first = sealed([body])
        lease = await create(backend, new_run(records=first))
        second = sealed([body], after=first)
        await backend.append(lease, second, expected_seq=1, update=update())
        assert (await load(backend)).records == first + second
        assert await backend.read_events("run") == [*first, *second]

    # ------------------------------------------------------------------------------------------------------ append

    async def test_an_append_grows_the_log_and_returns_its_end(self, backend: StateBackend) -> None:
        """Records come back in order."""
        lease = await create(backend)
        assert await append(backend, lease, after=1, count=1) == 2
        assert await append(backend, lease, after=2, count=3) == 5
        assert (await load(backend)).records == LOG[:5]
        assert (await head(backend)).last_seq == 5

    async def test_an_append_updates_the_head(self, backend: StateBackend) -> None:
        """All fields of the update show in the head."""
        lease = await create(backend)
        wait = Waiting(kind="pause", name="p", since=T0, prompt="go on?")
        fields: dict[str, Any] = {
            "updated_at": T0 + TTL,
            "current_step_index": 4,
            "pipeline_version": "2.0.0",
            "error_message": "oh",
            "wake_at": T0 + 2 * TTL,
            "signals_read": 3,
            "metadata": {"b": {"c": [1, None]}},
            "pipeline_id": "f2",
            "usage": Usage(1, Decimal("1e-7")),
        }
        await append(backend, lease, status="paused", waiting_for=(wait,), **fields)
        before = new_run().summary
        expected = replace(before, status="paused", last_seq=2, attempts=1, waiting_for=[wait], **fields)
        assert await head(backend) == expected

    async def test_an_update_clears_what_it_leaves_out(self, backend: StateBackend) -> None:
        """``None`` means none, except for what an update says of it that it stays."""
        wait = Waiting(kind="pause", name="p", since=T0)
        run = new_run(error_message="oh", waiting_for=[wait], current_step_index=3, wake_at=T0, metadata={"a": 1})
        lease = await create(backend, run)
        usage = Usage(2)
        goes: list[dict[str, Any]] = [{"wake_at": T0 + TTL}]
        stays: list[dict[str, Any]] = [{"signals_read": 2}, {"pipeline_id": "f1"}, {"usage": usage}]
        for number, one in enumerate(goes + stays):  # by themselves: a store may take a shorter way for small changes
            await append(backend, lease, after=1 + 2 * number, **one)
            await append(backend, lease, after=2 + 2 * number)
        summary = await head(backend)
        assert (summary.error_message, summary.waiting_for, summary.current_step_index) == (None, [], 0)
        assert summary.wake_at is None
        assert (summary.pipeline_version, summary.metadata, summary.signals_read) == ("1.0.0", {"a": 1}, 2)
        assert (summary.pipeline_id, summary.usage) == ("f1", usage)

    @pytest.mark.parametrize(
        ("field", "value", "none"),
        [
            ("error_message", "oh", None),
            ("waiting_for", [Waiting(kind="pause", name="p", since=T0)], []),
            ("wake_at", T0, None),
        ],
        ids=["error_message", "waiting_for", "wake_at"],
    )
    async def test_an_update_clears_each_field_by_itself(
        self, backend: StateBackend, field: str, value: Any, none: Any
    ) -> None:
        """A store may leave a head alone in which nothing changes: this is a change, of a run alone or among others."""
        leases = [await create(backend, new_run(f"run{i}", **{field: value})) for i in range(3)]
        await append(backend, leases[0])
        await asyncio.gather(*(append(backend, lease) for lease in leases[1:]))
        assert [getattr(await head(backend, f"run{i}"), field) for i in range(3)] == [none] * 3

    async def test_an_update_replaces_the_metadata(self, backend: StateBackend) -> None:
        """All of them, and listings find the run by the new ones only; an empty object is one too."""
        lease = await create(backend, new_run(metadata={"a": 1, "b": 2}))
        metadata: dict[str, Any] = {"a": {"deep": ["\u00e9"]}}
        await append(backend, lease, metadata=metadata)
        metadata["a"]["deep"].append("later")
        assert (await head(backend)).metadata == {"a": {"deep": ["\u00e9"]}}
        assert await listed(backend, metadata={"b": 2}) == []
        assert await listed(backend, metadata={"a": {}}) == ["run"]
        await append(backend, lease, after=2, metadata={})
        assert (await head(backend)).metadata == {}

    async def test_an_update_leaves_the_rest_of_the_head_alone(self, backend: StateBackend) -> None:
        """An append does not touch what only creation and claims decide."""
        run = new_run(metadata={"a": [1]}, parent_run_id="p", queue="q", priority=2, is_background=True)
        lease = await create(backend, run)
        await append(backend, lease)
        expected = replace(run.summary, last_seq=2, updated_at=T0 + SECOND, attempts=1, lease=lease)
        assert await head(backend) == expected

    @pytest.mark.parametrize("status", ["running", "completed"])
    @pytest.mark.parametrize("expected_seq", [0, 2, 7])
    async def test_a_log_that_moved_on_refuses_the_append(
        self, backend: StateBackend, expected_seq: int, status: RunStatus
    ) -> None:
        """A refused append leaves nothing behind: no record, no head."""
        lease = await create(backend)
        before = await load(backend)
        with pytest.raises(SequenceConflict):
            await append(backend, lease, after=expected_seq, count=2, status=status)
        assert await load(backend) == before

    async def test_of_simultaneous_appends_one_wins(self, backend: StateBackend) -> None:
        """Two that saw the same end of the log cannot both continue it."""
        lease = await create(backend)
        calls = [append(backend, lease, current_step_index=i) for i in range(8)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert sorted(map(repr, map(type, results))) == sorted(map(repr, [int] + [SequenceConflict] * 7))
        run = await load(backend)
        assert (run.records, run.summary.current_step_index) == (LOG[:2], results.index(2))

    async def test_simultaneous_appends_to_many_runs_all_arrive(self, backend: StateBackend) -> None:
        """Runs do not get into each other's way."""
        leases = [await create(backend, new_run(f"run{i}")) for i in range(10)]
        await asyncio.gather(*(append(backend, lease, count=i + 1) for i, lease in enumerate(leases)))
        for i in range(10):
            assert (await load(backend, f"run{i}")).records == LOG[: i + 2]

    async def test_a_lost_lease_can_no_longer_write(self, backend: StateBackend) -> None:
        """However late a worker wakes up, its old token is refused."""
        old = await create(backend)
        new = await claim(backend, now=T0 + TTL)
        assert new is not None
        before = await load(backend)
        with pytest.raises(StaleLease):
            await append(backend, old, count=2, status="failed")
        assert await load(backend) == before
        assert await append(backend, new) == 2

    async def test_an_owners_older_lease_can_no_longer_write(self, backend: StateBackend) -> None:
        """The token decides: whoever claimed the run again must not go on where it was before."""
        old = await create(backend, owner="w1")
        new = await claim(backend, "w1", now=T0 + TTL)
        assert new is not None
        with pytest.raises(StaleLease):
            await append(backend, old)
        assert await backend.renew([old], now=T0 + TTL, ttl=TTL) == []
        await backend.release(old)
        assert (await head(backend)).lease == new

    async def test_a_lost_lease_is_told_before_a_moved_log(self, backend: StateBackend) -> None:
        """Whoever lost the run has to stop, not to load it again."""
        old = await create(backend)
        new = await claim(backend, now=T0 + TTL)
        assert new is not None
        await append(backend, new)
        with pytest.raises(StaleLease):
            await append(backend, old)

    async def test_a_released_lease_can_no_longer_write(self, backend: StateBackend) -> None:
        """What was given up is gone, even if nobody has taken it yet."""
        lease = await create(backend)
        await backend.release(lease)
        with pytest.raises(StaleLease):
            await append(backend, lease)

    async def test_a_deleted_run_can_no_longer_be_written(self, backend: StateBackend) -> None:
        """The owner of a deleted run learns of it, and does not bring the run back."""
        lease = await create(backend)
        await backend.delete_run("run")
        with pytest.raises(StaleLease):
            await append(backend, lease)
        assert await backend.load("run") is None

    async def test_a_recreated_run_refuses_the_owner_of_the_one_before(self, backend: StateBackend) -> None:
        """A run that took the name of a deleted one is another run."""
        old = await create(backend, owner="w1")
        await backend.delete_run("run")
        await create(backend, owner="w2")
        with pytest.raises(StaleLease):
            await append(backend, old)
        assert await backend.renew([old], now=T0, ttl=TTL) == []

    async def test_an_expired_lease_that_nobody_took_still_writes(self, backend: StateBackend) -> None:
        """Expiry allows a claim; it does not by itself end a run's owner."""
        lease = await create(backend)
        late = T0 + 10 * TTL
        assert await append(backend, lease, updated_at=late) == 2

    @pytest.mark.parametrize("status", ["paused", "completed", "failed", "cancelled"])
    async def test_a_resting_run_gives_up_its_lease(self, backend: StateBackend, status: RunStatus) -> None:
        """The lease goes in the same write that brings the run to rest."""
        lease = await create(backend)
        await append(backend, lease, status=status)
        assert (await head(backend)).lease is None
        with pytest.raises(StaleLease):
            await append(backend, lease, after=2)

    @pytest.mark.parametrize("status", ["paused", "completed", "failed", "cancelled"])
    async def test_a_run_claimed_at_rest_that_stays_there_gives_up_its_lease(
        self, backend: StateBackend, status: RunStatus
    ) -> None:
        """It is the status after the append that counts, not a change of it: no lease lingers on a run at rest."""
        await backend.create_run(new_run(status=status))
        lease = await claim(backend, statuses=frozenset({status}))
        assert lease is not None
        await append(backend, lease, status=status)
        assert (await head(backend)).lease is None

    @pytest.mark.parametrize("status", ["pending", "running"])
    async def test_a_run_that_goes_on_keeps_its_lease(self, backend: StateBackend, status: RunStatus) -> None:
        """Only rest frees the lease."""
        lease = await create(backend)
        await append(backend, lease, status=status)
        assert (await head(backend)).lease == lease
