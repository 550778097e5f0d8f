"""The contract of a store: when a run may be claimed, and when the next one may be."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from flujo_async._model.lease import ClaimQuery, DefinitionKey
from flujo_async._model.state import RUN_STATUSES, TERMINAL, RunStatus
from flujo_async.abc.backend import StateBackend
from flujo_async.testing.samples import (
    PAUSED,
    SECOND,
    T0,
    TTL,
    append,
    claim,
    claimed_ids,
    create,
    head,
    new_run,
    next_due,
    signal,
)

_MICROSECOND = timedelta(microseconds=1)


class DueContract:
    """Sleeping, waking, and knowing when."""

    # ------------------------------------------------------------------------------------------------------- claim

    @pytest.mark.parametrize("status", ["pending", "running", "paused"])
    async def test_a_sleeping_run_is_claimed_when_it_is_due(self, backend: StateBackend, status: RunStatus) -> None:
        """At ``wake_at`` it is due, a microsecond before it is not."""
        await backend.create_run(new_run(status=status, wake_at=T0 + TTL))
        assert await claimed_ids(backend, statuses=RUN_STATUSES, now=T0 + TTL - _MICROSECOND) == []
        assert await claimed_ids(backend, statuses=RUN_STATUSES, now=T0 + TTL) == ["run"]

    async def test_a_paused_run_without_a_time_is_never_claimed_by_itself(self, backend: StateBackend) -> None:
        """It waits for a signal, and for nothing else."""
        await append(backend, await create(backend), status="paused")
        assert await claimed_ids(backend, statuses=RUN_STATUSES, now=T0 + 1000 * TTL) == []

    async def test_a_run_paused_until_later_is_claimed_then(self, backend: StateBackend) -> None:
        """An append that pauses says when."""
        await append(backend, await create(backend), status="paused", wake_at=T0 + TTL)
        assert await claimed_ids(backend, statuses=PAUSED, now=T0 + TTL - _MICROSECOND) == []
        assert await claimed_ids(backend, statuses=PAUSED, now=T0 + TTL) == ["run"]

    @pytest.mark.parametrize("status", ["running", "paused"])
    async def test_a_run_can_be_claimed_by_its_id_at_any_time(self, backend: StateBackend, status: RunStatus) -> None:
        """Asleep or paused, and even by a claim that wants what is due: whoever names it has a reason."""
        await backend.create_run(new_run(status=status, wake_at=T0 + TTL))
        await backend.create_run(new_run("no time", status=status))
        assert await claim(backend, statuses=frozenset({status})) is not None
        assert await claim(backend, run_id="no time", statuses=frozenset({status}), is_due=True) is not None

    async def test_a_claim_leaves_wake_at_as_it_is(self, backend: StateBackend) -> None:
        """Whoever claims and dies has not woken the run; the first append of its owner does."""
        await backend.create_run(new_run(wake_at=T0 + TTL))
        assert await claim(backend) is not None
        assert (await head(backend)).wake_at == T0 + TTL
        lease = await claim(backend, run_id=None, now=T0 + TTL)
        assert lease is not None
        assert (await head(backend)).wake_at == T0 + TTL
        await append(backend, lease)
        assert (await head(backend)).wake_at is None

    async def test_an_expired_lease_does_not_wake_a_sleeping_run(self, backend: StateBackend) -> None:
        """Both have to come: the end of the lease and the time to wake up; a dead owner's lease has ended."""
        await backend.create_run(new_run(wake_at=T0 + 2 * TTL))
        assert await claim(backend, "w1") is not None
        assert await claimed_ids(backend, now=T0 + TTL) == []
        assert await claimed_ids(backend, now=T0 + TTL, dead_owners=frozenset({"w1"})) == []
        assert await claimed_ids(backend, now=T0 + 2 * TTL) == ["run"]

    async def test_the_time_to_wake_up_does_not_end_a_lease(self, backend: StateBackend) -> None:
        """Nor does a signal: the run has an owner."""
        await backend.create_run(new_run(wake_at=T0 + SECOND))
        assert await claim(backend) is not None
        await backend.post(signal())
        assert await claimed_ids(backend, now=T0 + SECOND) == []
        assert await claimed_ids(backend, now=T0 + SECOND, dead_owners=frozenset({"w2"})) == ["run"]

    async def test_a_claim_for_what_is_due_takes_only_what_was_woken(self, backend: StateBackend) -> None:
        """A run that nothing has woken is left to others: it may have an owner that is about to begin."""
        await backend.create_run(new_run("ready"))
        await backend.create_run(new_run("slept", wake_at=T0 + SECOND))
        await backend.create_run(new_run("sleeps", wake_at=T0 + TTL))
        await backend.create_run(new_run("signalled"))
        await backend.post(signal(run_id="signalled"))
        assert await claimed_ids(backend, now=T0 + SECOND, is_due=True) == ["signalled", "slept"]
        assert await claimed_ids(backend, now=T0 + SECOND) == ["ready"]

    async def test_a_claim_for_what_is_due_takes_no_expired_lease_that_nothing_woke(
        self, backend: StateBackend
    ) -> None:
        """Not even of a dead owner."""
        await create(backend, owner="w1")
        assert await claimed_ids(backend, now=T0 + TTL, is_due=True, dead_owners=frozenset({"w1"})) == []
        await backend.post(signal())
        assert await claimed_ids(backend, now=T0 + TTL, is_due=True) == ["run"]

    async def test_a_paused_run_whose_owner_died_waits_on(self, backend: StateBackend) -> None:
        """Having been claimed by its id wakes it for that claim only; a signal wakes it when the lease ends."""
        await backend.create_run(new_run(status="paused"))
        assert await claim(backend, "w1", statuses=PAUSED) is not None
        dead_owners = frozenset({"w1"})
        assert await claimed_ids(backend, now=T0 + TTL, statuses=RUN_STATUSES) == []
        assert await claimed_ids(backend, statuses=RUN_STATUSES, dead_owners=dead_owners) == []
        assert await next_due(backend, statuses=RUN_STATUSES, dead_owners=dead_owners) is None
        await backend.post(signal())
        assert await next_due(backend, statuses=RUN_STATUSES) == T0 + TTL

    # ---------------------------------------------------------------------------------------------------- next_due

    async def test_nothing_is_due_where_nothing_is(self, backend: StateBackend) -> None:
        """Neither in an empty store nor for a run that does not exist."""
        assert await backend.next_due(ClaimQuery()) is None
        assert await next_due(backend) is None
        assert await next_due(backend, run_id="nobody") is None

    async def test_a_ready_run_is_due_since_it_was_updated(self, backend: StateBackend) -> None:
        """The one that waits longest counts."""
        for run_id, seconds in {"a": 5, "b": 2, "c": 7}.items():
            await backend.create_run(new_run(run_id, updated_at=T0 - seconds * SECOND))
        assert await next_due(backend) == T0 - 7 * SECOND

    @pytest.mark.parametrize("status", ["pending", "running", "paused"])
    async def test_a_sleeping_run_is_due_at_its_time(self, backend: StateBackend, status: RunStatus) -> None:
        """The first of them counts."""
        for seconds in (3, 1, 2):
            await backend.create_run(new_run(f"run{seconds}", status=status, wake_at=T0 + seconds * SECOND))
        assert await next_due(backend, statuses=frozenset({status})) == T0 + SECOND
        assert await next_due(backend, statuses=frozenset({status}), is_due=True) == T0 + 2 * SECOND

    @pytest.mark.parametrize(("status", "wake_at"), [("paused", None), ("paused", T0 + TTL), ("running", T0 + TTL)])
    async def test_a_run_with_news_is_due_now(
        self, backend: StateBackend, status: RunStatus, wake_at: datetime | None
    ) -> None:
        """Since ``updated_at``, whenever it wanted to wake up."""
        await backend.create_run(new_run(status=status, wake_at=wake_at))
        query = ClaimQuery(statuses=frozenset({status}), is_due=True)
        assert await backend.next_due(query) == wake_at
        await backend.post(signal())
        assert await backend.next_due(query) == T0
        assert await claimed_ids(backend, statuses=RUN_STATUSES, is_due=True) == ["run"]

    async def test_a_run_with_news_and_a_lease_is_due_when_that_ends(self, backend: StateBackend) -> None:
        """Somebody has it and may be reading."""
        await backend.create_run(new_run(wake_at=T0 + 9 * TTL))
        assert await claim(backend) is not None
        await backend.post(signal())
        assert await next_due(backend, is_due=True) == T0 + TTL

    async def test_a_paused_run_that_nothing_wakes_is_not_in_sight(self, backend: StateBackend) -> None:
        """Nor are a ready one and a leased one, for who asks what is due."""
        await backend.create_run(new_run(status="paused"))
        assert await next_due(backend, statuses=RUN_STATUSES) is None
        await backend.create_run(new_run("ready"))
        await create(backend, new_run("leased"))
        assert await next_due(backend, is_due=True) is None
        assert await next_due(backend) == T0

    async def test_a_leased_run_is_due_when_its_lease_ends(self, backend: StateBackend) -> None:
        """Renewed or not; a dead owner's lease has ended."""
        lease = await create(backend, owner="w1")
        assert await backend.next_due(ClaimQuery()) == T0 + TTL
        await backend.renew([lease], now=T0 + SECOND, ttl=TTL)
        assert await backend.next_due(ClaimQuery(dead_owners=frozenset({"w1"}))) == T0
        assert await next_due(backend) == T0 + SECOND + TTL

    @pytest.mark.parametrize("wake_at", [T0 + SECOND, T0 + 2 * TTL])
    async def test_a_leased_run_that_sleeps_is_due_at_the_later_of_both(
        self, backend: StateBackend, wake_at: datetime
    ) -> None:
        """Its owner has claimed it and not gone on yet."""
        await backend.create_run(new_run(wake_at=wake_at))
        assert await claim(backend, "w1") is not None
        assert await backend.next_due(ClaimQuery(dead_owners=frozenset({"w1"}))) == wake_at
        assert await next_due(backend) == max(wake_at, T0 + TTL)

    @pytest.mark.parametrize("wake_at", [None, T0 + 2 * TTL, T0 + 4 * TTL])
    async def test_a_run_whose_owner_dies_is_due_when_it_has_written_last(
        self, backend: StateBackend, wake_at: datetime | None
    ) -> None:
        """It has slept, and may sleep on; its status is the same."""
        await backend.create_run(new_run("other", wake_at=T0 + 9 * TTL))
        lease = await create(backend, new_run(wake_at=T0 + 3 * TTL))
        await append(backend, lease, wake_at=wake_at)
        assert await next_due(backend) == (wake_at or T0 + TTL)

    async def test_what_is_due_is_asked_of_the_runs_that_match(self, backend: StateBackend) -> None:
        """By status, queue, definition and id, as a claim is."""
        heads: dict[str, dict[str, Any]] = {
            "a": {"status": "pending", "queue": "q", "pipeline_name": "x"},
            "b": {"status": "running", "queue": "", "pipeline_name": "y", "pipeline_version": "2", "pipeline_id": "f"},
            "c": {"status": "paused", "queue": None, "pipeline_name": "z"},
        }
        for seconds, (run_id, fields) in enumerate(heads.items(), 1):
            await backend.create_run(new_run(run_id, **fields, wake_at=T0 + seconds * SECOND))
        asked: dict[ClaimQuery, int | None] = {
            ClaimQuery(statuses=frozenset({"running"})): 2,
            ClaimQuery(statuses=RUN_STATUSES, queues=frozenset({""})): 2,
            ClaimQuery(statuses=PAUSED, queues=frozenset({""})): 3,
            ClaimQuery(queues=frozenset({"q", "other"})): 1,
            ClaimQuery(statuses=RUN_STATUSES, pipeline_names=frozenset({"y", "z"})): 2,
            ClaimQuery(pipeline_names=frozenset({"z"})): None,
            ClaimQuery(definitions=frozenset({DefinitionKey("y", "2", "f"), DefinitionKey("x", "2", "f")})): 2,
            ClaimQuery(definitions=frozenset({DefinitionKey("y", "1", "f"), DefinitionKey("y", "2", "g")})): None,
            ClaimQuery(definitions=frozenset()): None,
            ClaimQuery(queues=frozenset()): None,
            ClaimQuery(statuses=frozenset()): None,
        }
        for query, expected in asked.items():
            assert await backend.next_due(query) == (expected and T0 + expected * SECOND), query

    async def test_a_run_asked_for_by_its_id_is_due_when_its_lease_ends(self, backend: StateBackend) -> None:
        """It need not wake up for that, so one that is free is due since ``updated_at``."""
        await backend.create_run(new_run(wake_at=T0 + TTL))
        assert await backend.next_due(ClaimQuery(run_id="run")) == T0
        assert await claim(backend) is not None
        assert await next_due(backend, run_id="run") == T0 + TTL

    @pytest.mark.parametrize("status", sorted(TERMINAL))
    async def test_a_finished_run_is_due_for_who_asks_for_it(self, backend: StateBackend, status: RunStatus) -> None:
        """And for nobody else."""
        await backend.create_run(new_run(status=status, updated_at=T0 - SECOND))
        assert await next_due(backend) is None
        assert await next_due(backend, statuses=frozenset({status})) == T0 - SECOND
