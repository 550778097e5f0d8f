"""The contract of a store: copying it, and giving back space."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import anyio
import pytest
import pytest_asyncio

from flujo_async._model.stored import RunQuery
from flujo_async.abc.backend import StateBackend
from flujo_async.errors import BackendError, InvalidArgument
from flujo_async.testing.samples import (
    LOG,
    T0,
    append,
    blob,
    blobs_of,
    claim,
    create,
    fork,
    listed,
    load,
    new_run,
    signal,
    snapshot,
)

A, B = blob("a"), blob("b")


class UpkeepContract:
    """``backup`` and ``compact``, and what a store tells of itself."""

    def open_copy(self, target: Path) -> StateBackend | None:
        """Return the store that ``backup`` has written there; ``None`` if this kind of store cannot be copied."""
        return None

    @pytest.fixture
    def target(self, tmp_path: Path) -> Path:
        """Return where a copy goes, in a directory of its own."""
        directory = tmp_path / "copies"
        directory.mkdir()
        return directory / "copy"

    @pytest_asyncio.fixture
    async def copy(self, target: Path) -> Any:
        """Return the store that ``backup`` has written there, or will have."""
        copy = self.open_copy(target)
        if copy is None:
            pytest.skip("the store cannot be copied")
        yield copy
        await copy.shutdown()

    async def test_a_sound_store_says_so_and_is_of_today(self, backend: StateBackend) -> None:
        """Whether there is anything in it, and also when it has been upgraded, which changes nothing here."""
        await backend.upgrade()
        for _ in range(2):
            for is_quick in (False, True):
                report = await backend.report(is_quick=is_quick)
                assert report.damages == ()
                assert report.schema == await backend.schema_version()
                assert report.schema is None or not report.schema.is_old
            await backend.create_run(new_run(), owner="w1")
            before = await load(backend)
            await backend.upgrade()
            assert await load(backend) == before
            await backend.delete_run("run")

    async def test_a_store_is_copied_or_says_that_it_cannot_be(self, backend: StateBackend, target: Path) -> None:
        """No call passes without a copy."""
        await create(backend)
        if self.open_copy(target) is None:
            with pytest.raises(BackendError):
                await backend.backup(target)
            assert await _entries(target.parent) == []
        else:
            await backend.backup(target)
            assert await _entries(target.parent) == [target]

    async def test_a_copy_has_all_that_is_stored(self, backend: StateBackend, target: Path, copy: StateBackend) -> None:
        """Heads, logs, leases, signals, blobs, snapshots, system states, and what forks share with deleted runs."""
        lease = await create(backend, new_run(metadata={"a": 1}, blobs=[A]))
        await append(backend, lease, count=3, blobs=[B])
        await backend.put_snapshot(lease, snapshot(2))
        await backend.post(signal(payload={"ok": True}))
        await backend.create_run(fork(LOG[:3])[0])
        await backend.create_run(new_run("gone"))
        await backend.create_run(fork(LOG[:1], "orphan", of="gone")[0])
        await backend.delete_run("gone")
        await backend.set_system_state("key", {"a": 1})
        await backend.backup(target)
        assert await copy.query_runs(RunQuery()) == await backend.query_runs(RunQuery())
        for run_id in ("run", "fork", "orphan"):
            assert await copy.load(run_id) == await backend.load(run_id)
        assert await copy.load("run", from_snapshot=True) == await backend.load("run", from_snapshot=True)
        assert await blobs_of(copy, "fork", [A, B]) == {A, B}
        assert await copy.get_system_state("key") == {"a": 1}

    async def test_a_copy_is_a_store_of_its_own(self, backend: StateBackend, target: Path, copy: StateBackend) -> None:
        """What happens to one does not happen to the other."""
        lease = await create(backend)
        await backend.backup(target)
        await append(backend, lease)
        await append(copy, lease, count=2)
        await backend.delete_run("run")
        assert (await load(copy)).records == LOG[:3]
        assert await claim(copy, now=T0) is None

    async def test_a_copy_of_a_store_that_is_in_use_is_of_one_instant(
        self, backend: StateBackend, target: Path, copy: StateBackend
    ) -> None:
        """What was acknowledged before is in it, and each run is as it was at some moment."""
        leases = [await create(backend, new_run(f"run{i}")) for i in range(4)]
        go_on = True

        async def write() -> None:
            for seq in range(1, len(LOG) - 1):
                if not go_on:
                    return
                await asyncio.gather(*(append(backend, lease, after=seq) for lease in leases))

        writing = asyncio.create_task(write())
        await asyncio.sleep(0)
        await backend.backup(target)
        go_on = False
        await writing
        for lease in leases:
            run = await load(copy, lease.run_id)
            assert run.records == LOG[: run.summary.last_seq]

    async def test_a_copy_replaces_nothing(self, backend: StateBackend, target: Path, copy: StateBackend) -> None:
        """Neither another copy nor anything else."""
        await create(backend)
        await backend.backup(target)
        await create(backend, new_run("other"))
        with pytest.raises(InvalidArgument):
            await backend.backup(target)
        assert await listed(copy) == ["run"]
        note = target.with_name("note")
        await anyio.Path(note).write_text("keep me")
        with pytest.raises(InvalidArgument):
            await backend.backup(note)
        assert await anyio.Path(note).read_text() == "keep me"
        await copy.shutdown()
        assert await _entries(target.parent) == [target, note]

    async def test_a_copy_that_fails_leaves_nothing_behind(
        self, backend: StateBackend, target: Path, copy: StateBackend
    ) -> None:
        """Such as one into a directory that is not there; the store goes on."""
        lease = await create(backend)
        with pytest.raises(BackendError):
            await backend.backup(target.parent / "missing" / "copy")
        assert await _entries(target.parent) == []
        assert await append(backend, lease) == 2

    async def test_compacting_changes_nothing_that_is_stored(self, backend: StateBackend) -> None:
        """Nor does it mind an empty store, or to be called again."""
        await backend.compact()
        lease = await create(backend, new_run(blobs=[A]))
        await append(backend, lease, count=3, blobs=[B])
        await backend.create_run(fork(LOG[:3])[0])
        for i in range(5):
            await backend.create_run(new_run(f"run{i}", blobs=[blob(f"{i}" * 10_000)]))
        for i in range(5):
            await backend.delete_run(f"run{i}")
        before = [await load(backend), await load(backend, "fork")]
        await backend.compact()
        await backend.compact()
        assert [await load(backend), await load(backend, "fork")] == before
        assert await blobs_of(backend, "fork", [A, B]) == {A, B}
        assert await append(backend, lease, after=4) == 5

    async def test_compacting_stops_nobody(self, backend: StateBackend) -> None:
        """Others write and read meanwhile; whoever gives up waiting for it breaks nothing."""
        lease = await create(backend)
        for i in range(20):
            await backend.create_run(new_run(f"run{i}", blobs=[blob(f"{i}" * 10_000)]))
        for i in range(20):
            await backend.delete_run(f"run{i}")
        compacting = asyncio.create_task(backend.compact())
        for seq in range(1, 20):
            assert await append(backend, lease, after=seq) == seq + 1
        compacting.cancel()
        await asyncio.wait([compacting])
        assert (await load(backend)).records == LOG[:20]
        await backend.compact()
        assert (await load(backend)).records == LOG[:20]


async def _entries(directory: Path) -> list[Path]:
    return sorted([Path(entry) async for entry in anyio.Path(directory).iterdir()])
