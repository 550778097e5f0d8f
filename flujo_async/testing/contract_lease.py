"""The contract of a store: who may write."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from flujo_async._model.lease import ClaimQuery, DefinitionKey, Lease
from flujo_async._model.state import RUN_STATUSES, RunStatus, Waiting
from flujo_async._model.stored import RunQuery
from flujo_async.abc.backend import StateBackend
from flujo_async.testing.samples import (
    PAUSED,
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
)


class LeaseContract:
    """Claiming, renewing, releasing."""

    # ------------------------------------------------------------------------------------------------------- claim

    async def test_a_claim_takes_the_run_and_counts_an_attempt(self, backend: StateBackend) -> None:
        """The lease is for the asker, until ``now + ttl``."""
        await backend.create_run(new_run())
        lease = await claim(backend, "w2", now=T0 + SECOND)
        assert lease == Lease("run", 1, "w2", T0 + SECOND + TTL)
        summary = await head(backend)
        assert (summary.lease, summary.attempts, summary.updated_at) == (lease, 1, T0)

    async def test_tokens_grow_with_every_claim(self, backend: StateBackend) -> None:
        """No two owners ever have the same token, whatever happened to the leases before."""
        lease: Lease | None = await create(backend)
        for turn in range(2, 6):
            assert lease is not None
            if turn % 2:
                await backend.release(lease)
            lease = await claim(backend, now=T0 + turn * TTL)
            assert lease is not None
            assert (lease.token, (await head(backend)).attempts) == (turn, turn)

    async def test_tokens_grow_over_a_rest(self, backend: StateBackend) -> None:
        """A run that rested and was woken does not start again with token 1."""
        lease = await create(backend)
        await append(backend, lease, status="paused")
        again = await claim(backend, statuses=PAUSED)
        assert again is not None
        assert again.token == 2

    async def test_a_finished_run_that_goes_on_is_claimed_as_any_other(self, backend: StateBackend) -> None:
        """Whoever tries it again may die, and then it is found without its name."""
        await append(backend, await create(backend), status="failed")
        again = await claim(backend, statuses=frozenset({"failed"}))
        assert again is not None
        await append(backend, again, after=2, status="running")
        assert await claimed_ids(backend) == []
        assert await claimed_ids(backend, now=T0 + TTL) == ["run"]

    @pytest.mark.parametrize("run_id", ["run", None])
    async def test_a_leased_run_cannot_be_claimed_before_the_lease_expires(
        self, backend: StateBackend, run_id: str | None
    ) -> None:
        """At ``expires_at`` it can, a microsecond before it cannot."""
        await create(backend)
        assert await claim(backend, run_id=run_id, now=T0 + TTL - timedelta(microseconds=1)) is None
        assert await claim(backend, run_id=run_id, now=T0 + TTL) is not None

    async def test_the_owner_itself_cannot_claim_twice(self, backend: StateBackend) -> None:
        """A lease is a lease, also towards its holder."""
        await create(backend, owner="w1")
        assert await claim(backend, "w1") is None

    async def test_a_dead_owners_run_can_be_claimed_at_once(self, backend: StateBackend) -> None:
        """A restart does not wait for leases of the process before."""
        await create(backend, owner="w1")
        assert await claim(backend, dead_owners=frozenset({"w0"})) is None
        lease = await claim(backend, dead_owners=frozenset({"w0", "w1"}))
        assert lease is not None
        assert lease.token == 2

    async def test_a_claim_by_id_takes_no_other_run(self, backend: StateBackend) -> None:
        """If the one cannot be had, none is."""
        await backend.create_run(new_run("other"))
        await create(backend)
        assert await claim(backend) is None
        assert await claim(backend, run_id="nobody") is None
        assert (await head(backend, "other")).lease is None

    @pytest.mark.parametrize("status", sorted(RUN_STATUSES))
    async def test_finished_and_paused_runs_are_not_claimed_unasked(
        self, backend: StateBackend, status: RunStatus
    ) -> None:
        """By default a claim takes what can go on by itself, and nothing else, by id or not, with news or not."""
        await backend.create_run(new_run(status=status))
        await backend.post(signal())
        can_go_on = status in ("pending", "running")
        assert bool(await claimed_ids(backend)) == can_go_on
        await backend.create_run(new_run("by-id", status=status))
        assert bool(await claim(backend, run_id="by-id")) == can_go_on

    @pytest.mark.parametrize("status", sorted(RUN_STATUSES))
    async def test_a_claim_takes_the_statuses_it_asks_for(self, backend: StateBackend, status: RunStatus) -> None:
        """A redrive claims failed runs, a worker pending ones."""
        for each in sorted(RUN_STATUSES):
            await backend.create_run(new_run(each, status=each, wake_at=T0 if each == "paused" else None))
        assert await claimed_ids(backend, statuses=frozenset({status})) == [status]

    async def test_a_claim_takes_the_queues_it_asks_for(self, backend: StateBackend) -> None:
        """A run without a queue belongs to none of them, unless ``""`` is asked for."""
        for run_id, queue in {"a": "mail", "b": "bulk", "c": None, "d": "", "e": "mail"}.items():
            await backend.create_run(new_run(run_id, queue=queue))
        assert await claimed_ids(backend, queues=frozenset()) == []
        assert await claimed_ids(backend, queues=frozenset({"mail", "none"}), limit=1) == ["a"]
        assert await claimed_ids(backend, queues=frozenset({"", "mail"})) == ["c", "d", "e"]
        assert await claimed_ids(backend, queues=None) == ["b"]
        assert (await head(backend, "c")).queue is None
        assert (await head(backend, "d")).queue == ""

    async def test_a_claim_takes_the_definitions_it_asks_for(self, backend: StateBackend) -> None:
        """By name, version and fingerprint; who does not know the others leaves them to those who do, by id as well."""
        for run_id, key in {"a": "x1f", "b": "x2f", "c": "x1g", "d": "y1f"}.items():
            name, version, fingerprint = tuple(key)
            await backend.create_run(
                new_run(run_id, pipeline_name=name, pipeline_version=version, pipeline_id=fingerprint)
            )
        assert await claimed_ids(backend, definitions=frozenset()) == []
        assert await claimed_ids(backend, definitions=_definitions("x2g", "y2f", "z1f")) == []
        assert await claim(backend, run_id="a", definitions=_definitions("x2f")) is None
        assert await claimed_ids(backend, definitions=_definitions("x1f", "z1f")) == ["a"]
        assert await claimed_ids(backend, definitions=_definitions("x1g", "y1f"), pipeline_names=frozenset("y")) == [
            "d"
        ]
        assert await claimed_ids(backend, definitions=_definitions("x1g"), queues=frozenset({""})) == ["c"]
        assert await claimed_ids(backend, definitions=None) == ["b"]

    async def test_a_run_that_was_taken_over_is_claimed_by_who_knows_its_new_definition(
        self, backend: StateBackend
    ) -> None:
        """It goes on with what its log was last brought to."""
        before, after = _definitions("x1f"), _definitions("x2g")
        run = new_run(pipeline_name="x", pipeline_version="1", pipeline_id="f")
        lease = await create(backend, run)
        await append(backend, lease, pipeline_version="2", pipeline_id="g")
        await backend.release(lease)
        assert await backend.next_due(ClaimQuery(definitions=before)) is None
        assert await backend.next_due(ClaimQuery(definitions=after)) is not None
        assert await claimed_ids(backend, definitions=before) == []
        assert await claimed_ids(backend, definitions=after) == ["run"]

    async def test_a_claim_takes_the_names_it_asks_for(self, backend: StateBackend) -> None:
        """Of all versions."""
        for run_id, name in {"a": "x", "b": "y", "c": "X", "d": "y"}.items():
            await backend.create_run(new_run(run_id, pipeline_name=name))
        assert await claimed_ids(backend, pipeline_names=frozenset()) == []
        assert await claim(backend, run_id="a", pipeline_names=frozenset({"y"})) is None
        assert await claimed_ids(backend, pipeline_names=frozenset({"x", "none"})) == ["a"]
        assert await claimed_ids(backend, pipeline_names=frozenset({"y"}), queues=frozenset({""}), limit=1) == ["b"]
        assert await claimed_ids(backend, pipeline_names=None) == ["c", "d"]

    @pytest.mark.parametrize("way", ["ready", "woken", "signalled", "expired", "dead"])
    async def test_each_run_that_is_claimed_has_to_match(self, backend: StateBackend, way: str) -> None:
        """By whatever way it became free."""
        fields: dict[str, Any] = {"queue": "q", "wake_at": T0 if way == "woken" else None}
        fields |= {"pipeline_name": "x", "pipeline_version": "2", "pipeline_id": "g"}
        await backend.create_run(new_run(**fields), owner="w1" if way in ("expired", "dead") else None, ttl=TTL)
        if way == "signalled":
            await backend.post(signal())
        asked: dict[str, Any] = {"now": T0 + TTL if way == "expired" else T0}
        asked |= {"dead_owners": frozenset({"w1"})} if way == "dead" else {}
        assert await claimed_ids(backend, queues=frozenset({"", "p"}), **asked) == []
        assert await claimed_ids(backend, pipeline_names=frozenset({"y"}), **asked) == []
        assert await claimed_ids(backend, queues=frozenset({"q"}), pipeline_names=frozenset({"y"}), **asked) == []
        assert await claimed_ids(backend, definitions=_definitions("x1f"), **asked) == []
        assert await claimed_ids(backend, statuses=frozenset({"pending", "paused"}), **asked) == []
        assert await claimed_ids(backend, queues=frozenset({"q"}), definitions=_definitions("x2g"), **asked) == ["run"]

    async def test_higher_priority_goes_first_then_the_older_run(self, backend: StateBackend) -> None:
        """Ties of both are broken by the run id."""
        heads: dict[str, dict[str, Any]] = {
            "late": {"created_at": T0 + SECOND},
            "b": {},
            "a": {},
            "low": {"priority": -1, "created_at": T0 - SECOND},
            "high": {"priority": 5, "created_at": T0 + 2 * SECOND, "wake_at": T0},
            "woken": {"priority": -2, "created_at": T0 - SECOND, "wake_at": T0},
        }
        for run_id, fields in heads.items():
            await backend.create_run(new_run(run_id, **fields))
        now = T0 + TTL
        assert await claimed_ids(backend, now=now, limit=2) == ["high", "a"]
        assert await claimed_ids(backend, now=now, limit=1) == ["b"]
        assert await claimed_ids(backend, now=now, limit=100) == ["late", "low", "woken"]

    async def test_a_claim_takes_no_more_than_its_limit(self, backend: StateBackend) -> None:
        """By default that is one."""
        for i in range(5):
            await backend.create_run(new_run(f"run{i}"))
        assert len(await backend.claim("w", now=T0, ttl=TTL)) == 1
        assert len(await claimed_ids(backend, limit=3)) == 3
        assert len(await claimed_ids(backend, limit=3)) == 1

    async def test_simultaneous_claimants_get_each_run_once(self, backend: StateBackend) -> None:
        """Whatever they ask for at once, no run is given to two of them, and none is forgotten."""
        for i in range(12):
            await backend.create_run(new_run(f"run{i:02}"))
        query = ClaimQuery(limit=2)
        calls = [backend.claim(f"w{i}", now=T0, ttl=TTL, query=query) for i in range(10)]
        leases = [lease for taken in await asyncio.gather(*calls) for lease in taken]
        # Some may come away with less, having been overtaken; who asks again gets the rest.
        rest = await backend.claim("w", now=T0, ttl=TTL, query=ClaimQuery(limit=100))
        assert sorted(lease.run_id for lease in [*leases, *rest]) == [f"run{i:02}" for i in range(12)]
        for lease in [*leases, *rest]:
            assert (await head(backend, lease.run_id)).lease == lease

    # ---------------------------------------------------------------------------------------------- renew, release

    async def test_a_renewed_lease_lasts_longer(self, backend: StateBackend) -> None:
        """Renewing changes when it ends, and neither the token nor the count of attempts."""
        lease = await create(backend)
        renewed = replace(lease, expires_at=T0 + SECOND + TTL)
        assert await backend.renew([lease], now=T0 + SECOND, ttl=TTL) == [renewed]
        summary = await head(backend)
        assert (summary.lease, summary.attempts) == (renewed, 1)
        assert await claim(backend, now=T0 + TTL) is None
        assert await append(backend, lease) == 2

    async def test_a_lost_lease_is_not_renewed(self, backend: StateBackend) -> None:
        """The others in the call are, and the new owner keeps what it has."""
        lost = await create(backend, new_run("lost"))
        kept = await create(backend, new_run("kept"))
        gone = await create(backend, new_run("gone"))
        await backend.delete_run("gone")
        now = T0 + TTL
        new = await claim(backend, run_id="lost", now=now)
        answer = await backend.renew([lost, gone, kept], now=now, ttl=2 * TTL)
        assert answer == [replace(kept, expires_at=now + 2 * TTL)]
        assert (await head(backend, "lost")).lease == new

    async def test_an_expired_lease_that_nobody_took_is_renewed(self, backend: StateBackend) -> None:
        """A process that was stopped for a while goes on if it was not missed."""
        lease = await create(backend)
        assert len(await backend.renew([lease], now=T0 + 5 * TTL, ttl=TTL)) == 1

    async def test_a_released_or_rested_lease_is_not_renewed(self, backend: StateBackend) -> None:
        """There is nothing left to renew, and no lease comes into being."""
        released = await create(backend, new_run("released"))
        rested = await create(backend, new_run("rested"))
        await backend.release(released)
        await append(backend, rested, status="completed")
        assert await backend.renew([released, rested], now=T0, ttl=TTL) == []
        assert [summary.lease for summary in await backend.query_runs(RunQuery())] == [None, None]

    async def test_renewing_nothing_renews_nothing(self, backend: StateBackend) -> None:
        """An empty call is a valid call."""
        assert await backend.renew([], now=T0, ttl=TTL) == []

    async def test_a_released_run_can_be_claimed_at_once(self, backend: StateBackend) -> None:
        """Without ``wake_at`` it is due."""
        await backend.release(await create(backend))
        summary = await head(backend)
        assert (summary.lease, summary.wake_at, summary.attempts) == (None, None, 1)
        assert await claimed_ids(backend) == ["run"]

    async def test_a_run_released_until_later_sleeps(self, backend: StateBackend) -> None:
        """It holds no lease, and is due at ``wake_at``."""
        await backend.release(await create(backend), wake_at=T0 + SECOND)
        summary = await head(backend)
        assert (summary.lease, summary.wake_at, summary.status) == (None, T0 + SECOND, "running")
        assert await claimed_ids(backend) == []
        assert await claimed_ids(backend, now=T0 + SECOND) == ["run"]

    async def test_a_run_released_to_wait_is_paused(self, backend: StateBackend) -> None:
        """What it waits for goes into the head only: the log does not grow, and ``updated_at`` stays."""
        lease = await create(backend)
        before = await load(backend)
        await backend.release(lease, waiting_for=[WAIT])
        expected = replace(before.summary, status="paused", waiting_for=[WAIT], lease=None)
        assert await load(backend) == replace(before, summary=expected)
        assert await listed(backend, status="paused") == ["run"]
        assert await claimed_ids(backend, statuses=RUN_STATUSES, now=T0 + 9 * TTL) == []

    @pytest.mark.parametrize("waiting_for", [None, [WAIT]], ids=["to go on", "to wait"])
    async def test_a_released_run_is_as_far_as_its_last_append(
        self, backend: StateBackend, waiting_for: list[Waiting] | None
    ) -> None:
        """A head that is made up from the log while a run is leased tells the same afterwards."""
        lease = await create(backend)
        await append(backend, lease, count=2, updated_at=T0 + 3 * SECOND, current_step_index=2)
        await backend.release(lease, waiting_for=waiting_for)
        summary = await head(backend)
        assert (summary.last_seq, summary.updated_at, summary.current_step_index) == (3, T0 + 3 * SECOND, 2)

    async def test_a_run_released_to_wait_wakes_at_its_time(self, backend: StateBackend) -> None:
        """A wait for nothing in particular is one as well."""
        await backend.release(await create(backend), wake_at=T0 + TTL, waiting_for=())
        summary = await head(backend)
        assert (summary.status, summary.waiting_for, summary.wake_at) == ("paused", [], T0 + TTL)
        assert await claimed_ids(backend, statuses=PAUSED) == []
        assert await claimed_ids(backend, statuses=PAUSED, now=T0 + TTL) == ["run"]

    async def test_a_release_without_waits_leaves_them_as_they_were(self, backend: StateBackend) -> None:
        """And the status."""
        await backend.create_run(new_run(status="paused", waiting_for=[WAIT]))
        lease = await claim(backend, statuses=PAUSED)
        assert lease is not None
        await backend.release(lease)
        summary = await head(backend)
        assert (summary.status, summary.waiting_for) == ("paused", [WAIT])

    @pytest.mark.parametrize("waiting_for", [None, [WAIT]], ids=["to go on", "to wait"])
    async def test_releasing_a_lost_lease_changes_nothing(
        self, backend: StateBackend, waiting_for: list[Waiting] | None
    ) -> None:
        """A late worker cannot take the run from its new owner."""
        old = await create(backend)
        new = await claim(backend, now=T0 + TTL)
        before = await head(backend)
        await backend.release(old, wake_at=T0 + 9 * TTL, signals_read=3, waiting_for=waiting_for)
        assert await head(backend) == before
        assert before.lease == new

    async def test_releasing_twice_or_after_deletion_changes_nothing(self, backend: StateBackend) -> None:
        """A second release does not move the time to wake up, and a release makes no run."""
        lease = await create(backend)
        await backend.release(lease)
        await backend.release(lease, wake_at=T0 + TTL)
        assert (await head(backend)).wake_at is None
        await backend.delete_run("run")
        await backend.release(lease)
        assert await backend.load("run") is None


def _definitions(*keys: str) -> frozenset[DefinitionKey]:
    return frozenset(DefinitionKey(*key) for key in keys)
