"""The contract of a store: what it keeps beside records, blobs and snapshots."""

from __future__ import annotations

import pytest

from flujo_async._model.stored import Blob, Snapshot
from flujo_async.abc.backend import StateBackend
from flujo_async.errors import SequenceConflict, StaleLease
from flujo_async.testing.samples import (
    LOG,
    T0,
    TTL,
    append,
    blob,
    blobs_of,
    claim,
    create,
    fork,
    load,
    new_run,
    sealed,
    snapshot,
    update,
)

A, B, C = blob("a"), blob("b"), blob("c")


class BlobContract:
    """Large values, kept once; snapshots, which save reading the beginning of a log."""

    # ------------------------------------------------------------------------------------------------------- blobs

    async def test_blobs_come_back(self, backend: StateBackend) -> None:
        """Those that a run was created with, and those that were appended; what nobody gave it is left out."""
        lease = await create(backend, new_run(blobs=[A]))
        await append(backend, lease, blobs=[B])
        assert await blobs_of(backend, "run", [A, B, C]) == {A, B}
        assert await blobs_of(backend, "run", [B]) == {B}
        assert await blobs_of(backend, "run", []) == set()
        assert await blobs_of(backend, "nobody", [A]) == set()

    @pytest.mark.parametrize(
        "data", [b'"' + b"m" * 2_000_000 + b'"', '"\u00e9\u4e16\U0001f600\u2028"'.encode(), rb'{ "a" : "\u00e9\n" }']
    )
    async def test_blobs_come_back_byte_for_byte(self, backend: StateBackend, data: bytes) -> None:
        """A digest is over bytes."""
        large = Blob("d" * 64, data)
        await create(backend, new_run(blobs=[large]))
        assert await backend.read_blobs("run", [large.digest]) == {large.digest: data}

    async def test_blobs_do_not_show_in_the_log(self, backend: StateBackend) -> None:
        """Nor in the head."""
        lease = await create(backend, new_run(blobs=[A]))
        before = await load(backend)
        assert before.records == LOG[:1]
        await append(backend, lease, blobs=[B])
        assert (await load(backend)).records == LOG[:2]

    async def test_a_blob_may_be_given_again(self, backend: StateBackend) -> None:
        """Twice at once, or later: it is the same."""
        lease = await create(backend, new_run(blobs=[A, A]))
        await append(backend, lease, blobs=[B, A, B])
        await append(backend, lease, after=2, blobs=[B])
        assert await blobs_of(backend, "run", [A, B, C]) == {A, B}

    async def test_a_blob_that_is_given_again_is_there_since_the_first_time(self, backend: StateBackend) -> None:
        """A new owner does not know what the one before has given; forks from between have it."""
        lease = await create(backend, new_run(blobs=[A]))
        await append(backend, lease)
        await append(backend, lease, after=2, blobs=[A])
        await backend.create_run(fork(LOG[:2])[0])
        await backend.delete_run("run")
        assert await blobs_of(backend, "fork", [A]) == {A}

    async def test_a_refused_append_leaves_no_blobs(self, backend: StateBackend) -> None:
        """They go down with the records, or not at all."""
        old = await create(backend)
        with pytest.raises(SequenceConflict):
            await append(backend, old, after=3, blobs=[A])
        new = await claim(backend, now=T0 + TTL)
        assert new is not None
        with pytest.raises(StaleLease):
            await append(backend, old, blobs=[A])
        assert await blobs_of(backend, "run", [A]) == set()

    async def test_equal_blobs_of_two_runs_do_not_depend_on_each_other(self, backend: StateBackend) -> None:
        """A run that is deleted takes away only what no other run was given."""
        await create(backend, new_run("one", blobs=[A, B]))
        await create(backend, new_run("two", blobs=[A, C]))
        assert await blobs_of(backend, "two", [A, B, C]) == {A, C}
        await backend.delete_run("one")
        assert await blobs_of(backend, "two", [A, B, C]) == {A, C}
        assert await blobs_of(backend, "one", [A, B, C]) == set()
        await create(backend, new_run("one", blobs=[B]))
        assert await blobs_of(backend, "one", [A, B, C]) == {B}

    async def test_a_recreated_run_has_none_of_the_blobs_before(self, backend: StateBackend) -> None:
        """It is another run."""
        await create(backend, new_run(blobs=[A]))
        await backend.delete_run("run")
        await create(backend)
        assert await blobs_of(backend, "run", [A]) == set()

    async def test_a_fork_has_the_blobs_of_what_it_shares(self, backend: StateBackend) -> None:
        """A fork of a fork too; and what a fork was given is its own."""
        source = await create(backend, new_run(blobs=[A]))
        await append(backend, source, blobs=[B])
        run, log = fork(LOG[:2], blobs=[C])
        await backend.create_run(run)
        again, _ = fork(log, "again", of="fork")
        await backend.create_run(again)
        for run_id in ("fork", "again"):
            assert await blobs_of(backend, run_id, [A, B, C]) == {A, B, C}
        assert await blobs_of(backend, "run", [A, B, C]) == {A, B}

    async def test_blobs_stay_as_long_as_a_fork_shares_the_log_they_were_given_to(self, backend: StateBackend) -> None:
        """Deleting the source, and those between, takes nothing away."""
        await create(backend, new_run(records=LOG[:2], blobs=[A, B]))
        run, log = fork(LOG[:2], blobs=[C])
        await backend.create_run(run)
        again, _ = fork(log, "again", of="fork")
        await backend.create_run(again)
        for run_id in ("run", "fork"):
            await backend.delete_run(run_id)
            assert await blobs_of(backend, run_id, [A, B, C]) == set()
            assert await blobs_of(backend, "again", [A, B, C]) == {A, B, C}
        await backend.delete_run("again")
        await create(backend)
        assert await blobs_of(backend, "run", [A, B, C]) == set()

    async def test_a_fork_inside_an_append_has_its_blobs(self, backend: StateBackend) -> None:
        """Which of the records names which blob only the caller knows, so the first of them counts."""
        source = await create(backend)
        await append(backend, source, count=3, blobs=[A])
        await backend.create_run(fork(LOG[:2])[0])
        await backend.delete_run("run")
        assert await blobs_of(backend, "fork", [A]) == {A}

    async def test_a_run_may_be_given_what_its_source_was_given_later(self, backend: StateBackend) -> None:
        """Two that share a past, and later come to the same value: either may be deleted."""
        source = await create(backend)
        run, log = fork(LOG[:1])
        lease = await create(backend, run)
        await append(backend, source, blobs=[A])
        more = sealed([b"{}"], after=log)
        await backend.append(lease, more, expected_seq=2, update=update(), blobs=[A])
        await backend.delete_run("run")
        assert await blobs_of(backend, "fork", [A]) == {A}

    async def test_blobs_survive_a_restart(self, backend: StateBackend, second: StateBackend) -> None:
        """As records do; and another object may give and delete them."""
        lease = await create(backend, new_run(blobs=[A]))
        await append(backend, lease, blobs=[B])
        await create(backend, new_run("other", blobs=[A, C]))
        assert await blobs_of(second, "run", [A, B, C]) == {A, B}
        await second.delete_run("run")
        assert await blobs_of(second, "other", [A, B, C]) == {A, C}

    # --------------------------------------------------------------------------------------------------- snapshots

    async def test_a_snapshot_stands_for_the_records_up_to_it(self, backend: StateBackend) -> None:
        """Whoever asks for it gets those behind it only; whoever does not gets all, as before."""
        lease = await create(backend, new_run(records=LOG[:3]))
        before = await load(backend)
        taken = snapshot(2, b"\x00\xff\x80 opaque")
        await backend.put_snapshot(lease, taken)
        assert await load(backend) == before
        found = await backend.load("run", from_snapshot=True)
        assert found is not None
        assert (found.snapshot, found.records, found.summary) == (taken, LOG[2:3], before.summary)
        await append(backend, lease, after=3)
        found = await backend.load("run", from_snapshot=True)
        assert found is not None
        assert (found.snapshot, found.records) == (taken, LOG[2:4])

    async def test_without_a_snapshot_all_records_are_loaded(self, backend: StateBackend) -> None:
        """To ask for it is no mistake."""
        await backend.create_run(new_run(records=LOG[:3]))
        assert await backend.load("run", from_snapshot=True) == await load(backend)
        assert await backend.load("nobody", from_snapshot=True) is None

    @pytest.mark.parametrize("until", range(6))
    async def test_a_snapshot_beyond_the_end_that_is_asked_for_is_left_out(
        self, backend: StateBackend, until: int
    ) -> None:
        """The past is then read from its beginning."""
        lease = await create(backend, new_run(records=LOG[:5]))
        taken = snapshot(3)
        await backend.put_snapshot(lease, taken)
        found = await backend.load("run", until=until, from_snapshot=True)
        assert found is not None
        expected = (None, LOG[:until]) if until < 3 else (taken, LOG[3:until])
        assert (found.snapshot, found.records) == expected

    async def test_a_run_has_one_snapshot(self, backend: StateBackend) -> None:
        """The last one put, whatever it is of."""
        lease = await create(backend, new_run(records=LOG[:5]))
        for seq in (2, 4, 3):
            taken = snapshot(seq, b"%d" % seq)
            await backend.put_snapshot(lease, taken)
            found = await backend.load("run", from_snapshot=True)
            assert found is not None
            assert (found.snapshot, found.records) == (taken, LOG[seq:5])

    async def test_a_snapshot_by_whoever_lost_the_run_is_not_kept(self, backend: StateBackend) -> None:
        """Nor one of a run that does not exist; nobody is told, since nothing is lost."""
        lost = await create(backend, new_run(records=LOG[:3]))
        assert await claim(backend, now=T0 + TTL)
        await backend.put_snapshot(lost, snapshot(2))
        released = await create(backend, new_run("released", records=LOG[:3]))
        await backend.release(released)
        await backend.put_snapshot(released, snapshot(2))
        deleted = await create(backend, new_run("deleted"))
        await backend.delete_run("deleted")
        await backend.put_snapshot(deleted, snapshot(1))
        for run_id in ("run", "released"):
            assert await backend.load(run_id, from_snapshot=True) == await load(backend, run_id)
        assert await backend.load("deleted", from_snapshot=True) is None

    @pytest.mark.parametrize("seq", [-1, 0, 4, 99])
    async def test_a_snapshot_of_what_is_not_in_the_log_is_not_kept(self, backend: StateBackend, seq: int) -> None:
        """The one before stays."""
        lease = await create(backend, new_run(records=LOG[:3]))
        await backend.put_snapshot(lease, snapshot(2))
        await backend.put_snapshot(lease, Snapshot(seq, "h", b"{}"))
        found = await backend.load("run", from_snapshot=True)
        assert found is not None
        assert found.snapshot == snapshot(2)

    async def test_a_snapshot_goes_with_its_run(self, backend: StateBackend) -> None:
        """A run that takes the name has none."""
        lease = await create(backend, new_run(records=LOG[:3]))
        await backend.put_snapshot(lease, snapshot(2))
        await backend.delete_run("run")
        await create(backend, new_run(records=LOG[:3]))
        found = await backend.load("run", from_snapshot=True)
        assert found is not None
        assert (found.snapshot, found.records) == (None, LOG[:3])

    @pytest.mark.parametrize("seq", range(1, 7))
    async def test_a_fork_has_a_snapshot_of_its_own(self, backend: StateBackend, seq: int) -> None:
        """Of what it shares, or of what is its own; the source may be gone."""
        await backend.create_run(new_run(records=LOG[:5]))
        run, log = fork(LOG[:3], count=3)
        lease = await create(backend, run)
        await backend.put_snapshot(lease, Snapshot(seq, log[seq - 1].hash, b"{}"))
        await backend.delete_run("run")
        found = await backend.load("fork", from_snapshot=True)
        assert found is not None
        assert found.snapshot == Snapshot(seq, log[seq - 1].hash, b"{}")
        assert found.records == log[seq:]

    async def test_a_snapshot_survives_a_restart(self, backend: StateBackend, second: StateBackend) -> None:
        """And may be replaced by another object."""
        lease = await create(backend, new_run(records=LOG[:3]))
        await backend.put_snapshot(lease, snapshot(2))
        assert await second.load("run", from_snapshot=True) == await backend.load("run", from_snapshot=True)
        if backend.capabilities.multi_process:
            await second.put_snapshot(lease, snapshot(3))
            found = await backend.load("run", from_snapshot=True)
            assert found is not None
            assert (found.snapshot, found.records) == (snapshot(3), ())
