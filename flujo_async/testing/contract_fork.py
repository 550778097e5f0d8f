"""The contract of a store: logs that go on from another's."""

from __future__ import annotations

import pytest

from flujo_async._model.lease import Lease
from flujo_async._model.stored import Prefix, RunQuery
from flujo_async.abc.backend import StateBackend
from flujo_async.errors import RunExists, RunNotFound, SequenceConflict, StaleLease
from flujo_async.testing.samples import (
    LOG,
    T0,
    TTL,
    append,
    create,
    fork,
    head,
    listed,
    load,
    new_run,
    sealed,
    signal,
    snapshot,
    update,
)


class ForkContract:
    """Creating forks, reading across the seam, going on apart, deleting one of those that share."""

    async def test_a_fork_begins_as_its_source_does(self, backend: StateBackend) -> None:
        """Up to where it was forked; then its own records follow, and the source stays as it was."""
        await backend.create_run(new_run(records=LOG[:4]))
        run, log = fork(LOG[:2])
        assert await backend.create_run(run) is None
        assert (await load(backend, "fork")).records == log
        assert await head(backend, "fork") == run.summary
        assert (await load(backend)).records == LOG[:4]

    async def test_a_fork_may_be_leased_as_any_run(self, backend: StateBackend) -> None:
        """Its lease is of its own: that of the source does not write it."""
        source = await create(backend)
        run, log = fork(LOG[:1])
        lease = await create(backend, run, owner="w2")
        assert lease == Lease("fork", 1, "w2", T0 + TTL)
        more = sealed([b"{}"], after=log)
        with pytest.raises(StaleLease):
            await backend.append(Lease("fork", 1, "w1", source.expires_at), more, expected_seq=2, update=update())
        assert await backend.append(lease, more, expected_seq=2, update=update()) == 3

    async def test_a_fork_and_its_source_go_on_apart(self, backend: StateBackend) -> None:
        """What one appends the other does not see, though both have the same ``seq``."""
        source = await create(backend, new_run(records=LOG[:3]))
        run, log = fork(LOG[:3])
        lease = await create(backend, run)
        await append(backend, source, after=3, count=3)
        more = sealed([b"1", b"2"], after=log)
        await backend.append(lease, more, expected_seq=4, update=update(current_step_index=9))
        assert (await load(backend)).records == LOG[:6]
        assert (await load(backend, "fork")).records == log + more
        assert (await head(backend)).current_step_index == 0

    async def test_a_fork_is_read_in_parts(self, backend: StateBackend) -> None:
        """Before, at and behind the seam, as if it were one log."""
        await backend.create_run(new_run(records=LOG[:5]))
        run, log = fork(LOG[:3], count=3)
        await backend.create_run(run)
        for first in range(8):
            upto = await backend.load("fork", until=first)
            assert upto is not None
            assert upto.records == log[:first]
            assert await backend.read_events("fork", after=first) == list(log[first:])
            for limit in range(8):
                page = await backend.read_events("fork", after=first, limit=limit)
                assert page == list(log[first : first + limit])

    @pytest.mark.parametrize("at", [1, 2, 3, 4])
    async def test_a_fork_may_be_forked(self, backend: StateBackend, at: int) -> None:
        """In what it shares, at the seam, or in what is its own."""
        await backend.create_run(new_run(records=LOG[:4]))
        run, log = fork(LOG[:2], count=3)
        await backend.create_run(run)
        again, longer = fork(log[:at], "again", of="fork", count=2)
        await backend.create_run(again)
        assert (await load(backend, "again")).records == longer
        assert await backend.read_events("again", after=1, limit=3) == list(longer[1:4])
        assert (await load(backend, "fork")).records == log

    async def test_a_fork_shares_records_and_nothing_else(self, backend: StateBackend) -> None:
        """Not the signals, nor the snapshot."""
        source = await create(backend, new_run(records=LOG[:3]))
        await backend.post(signal())
        await backend.put_snapshot(source, snapshot(2))
        run, log = fork(LOG[:3])
        await backend.create_run(run)
        found = await backend.load("fork", from_snapshot=True)
        assert found is not None
        assert (found.records, found.signals, found.snapshot) == (log, (), None)
        assert found.summary.signals == 0

    # ---------------------------------------------------------------------------------------------------- refusals

    @pytest.mark.parametrize("source", ["nobody", "fork"])
    async def test_a_fork_of_what_does_not_exist_is_refused(self, backend: StateBackend, source: str) -> None:
        """Nothing is written; nor can a run be a fork of itself."""
        await create(backend)
        with pytest.raises(RunNotFound):
            await backend.create_run(fork(LOG[:1], of=source)[0])
        assert await listed(backend) == ["run"]
        assert await backend.load("fork") is None

    async def test_a_fork_of_what_has_not_happened_is_refused(self, backend: StateBackend) -> None:
        """The log of the source is shorter; for a fork, what it shares counts."""
        await backend.create_run(new_run(records=LOG[:2]))
        with pytest.raises(SequenceConflict):
            await backend.create_run(fork(LOG[:3])[0])
        run, log = fork(LOG[:2])
        await backend.create_run(run)
        with pytest.raises(SequenceConflict):
            await backend.create_run(fork((*log, LOG[3]), "again", of="fork")[0])
        assert await listed(backend) == ["fork", "run"]

    async def test_a_fork_of_what_was_created_anew_is_refused(self, backend: StateBackend) -> None:
        """Whoever forks has looked at the run that had the name before: the fork would continue another past."""
        await backend.create_run(new_run(records=sealed([b"another", b"past"])))
        with pytest.raises(SequenceConflict):
            await backend.create_run(fork(LOG[:2])[0])
        assert await listed(backend) == ["run"]
        assert await backend.load("fork") is None

    async def test_a_fork_under_a_taken_id_is_refused(self, backend: StateBackend) -> None:
        """Whatever it is a fork of."""
        await create(backend)
        await create(backend, new_run("fork"))
        before = await load(backend, "fork")
        for source in ("run", "fork", "nobody"):
            with pytest.raises(RunExists):
                await backend.create_run(fork(LOG[:1], of=source)[0])
        with pytest.raises(RunExists):
            await backend.create_run(fork(LOG[:30])[0])
        assert await load(backend, "fork") == before

    # ---------------------------------------------------------------------------------------------------- deleting

    async def test_a_fork_outlives_its_source(self, backend: StateBackend) -> None:
        """It loads, goes on and can be forked; the source is gone, and cannot be forked any more."""
        await backend.create_run(new_run(records=LOG[:5]))
        run, log = fork(LOG[:3])
        lease = await create(backend, run)
        await backend.delete_run("run")
        assert await backend.load("run") is None
        assert await backend.read_events("run") == []
        assert await listed(backend) == ["fork"]
        assert (await load(backend, "fork")).records == log
        with pytest.raises(RunNotFound):
            await backend.create_run(fork(LOG[:1], "again")[0])
        more = sealed([b"{}"], after=log)
        await backend.append(lease, more, expected_seq=4, update=update())
        again, longer = fork(log[:2], "again", of="fork")
        await backend.create_run(again)
        assert (await load(backend, "again")).records == longer
        assert (await load(backend, "fork")).records == log + more

    async def test_the_name_of_a_deleted_source_can_be_used_anew(self, backend: StateBackend) -> None:
        """The new run has nothing to do with the forks of the one before."""
        await backend.create_run(new_run(records=LOG[:3]))
        run, log = fork(LOG[:3])
        await backend.create_run(run)
        await backend.delete_run("run")
        lease = await create(backend)
        assert (await load(backend)).records == LOG[:1]
        other = sealed([b"other"], after=LOG[:1])
        await backend.append(lease, other, expected_seq=1, update=update())
        assert (await load(backend)).records == LOG[:1] + other
        assert (await load(backend, "fork")).records == log
        await backend.delete_run("run")
        assert (await load(backend, "fork")).records == log

    @pytest.mark.parametrize(
        "deleted",
        [("run", "fork"), ("fork", "run"), ("fork", "sibling"), ("sibling", "run", "fork"), ("again",)],
        ids="-".join,
    )
    async def test_those_that_are_left_lose_nothing(self, backend: StateBackend, deleted: tuple[str, ...]) -> None:
        """Whoever of the family goes, in whatever order."""
        await backend.create_run(new_run(records=LOG[:5]))
        run, log = fork(LOG[:3], count=3)
        sibling, sibling_log = fork(LOG[:4], "sibling")
        again, again_log = fork(log[:5], "again", of="fork")
        for each in (run, sibling, again):
            await backend.create_run(each)
        left = {"run": LOG[:5], "fork": log, "sibling": sibling_log, "again": again_log}
        for run_id in deleted:
            await backend.delete_run(run_id)
            del left[run_id]
            assert {each: (await load(backend, each)).records for each in await listed(backend)} == left

    async def test_when_all_who_share_are_gone_their_names_are_free(self, backend: StateBackend) -> None:
        """Nothing of the old logs shows in new runs, forks among them."""
        await backend.create_run(new_run(records=LOG[:3]))
        await backend.create_run(fork(LOG[:3])[0])
        for run_id in ("run", "fork"):
            await backend.delete_run(run_id)
        first = sealed([b"new"])
        await backend.create_run(new_run(records=first))
        run, log = fork(first)
        await backend.create_run(run)
        assert (await load(backend)).records == first
        assert (await load(backend, "fork")).records == log

    async def test_a_fork_survives_a_restart(self, backend: StateBackend, second: StateBackend) -> None:
        """And so does what it shares with a run that was deleted."""
        await backend.create_run(new_run(records=LOG[:5]))
        run, log = fork(LOG[:3])
        again, longer = fork(log, "again", of="fork")
        await backend.create_run(run)
        await backend.create_run(again)
        await backend.delete_run("run")
        await backend.delete_run("fork")
        assert (await load(second, "again")).records == longer
        assert await second.query_runs(RunQuery()) == await backend.query_runs(RunQuery())

    async def test_a_prefix_names_a_run_not_a_fork_of_it(self, backend: StateBackend) -> None:
        """A run whose source was deleted, and made anew with another past, keeps the past it was created with."""
        await backend.create_run(new_run(records=LOG[:2]))
        run, log = fork(LOG[:2])
        await backend.create_run(run)
        await backend.delete_run("run")
        past = sealed([b"other", b"past"])
        await backend.create_run(new_run(records=past))
        second, second_log = fork(past, "second")
        assert second.prefix == Prefix("run", 2, past[-1].hash)
        await backend.create_run(second)
        assert (await load(backend, "fork")).records == log
        assert (await load(backend, "second")).records == second_log
