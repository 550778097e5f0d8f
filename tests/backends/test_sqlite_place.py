"""A database that is removed or replaced while it is open: no commit to it is acknowledged, and no stranger touched."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import anyio
import pytest

from flujo_async._model.lease import ClaimQuery
from flujo_async._model.stored import RunQuery
from flujo_async._model.summary import RunSummary
from flujo_async.abc import StateBackend
from flujo_async.backends.changes import Changes
from flujo_async.backends.sqlite import SQLiteBackend
from flujo_async.backends.sqlite_file import SQLiteFile
from flujo_async.backends.sqlite_watch import Watch
from flujo_async.errors import BackendError
from flujo_async.testing.samples import T0, TTL, append, create, load, new_run, signal, snapshot

Take = Callable[[Path], object]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path / "store" / "runs.db"


async def another(path: Path) -> Path:
    """Return another database, which has the run ``theirs``."""
    other = path.parent.with_name("other.db")
    async with SQLiteBackend(other) as backend:
        await create(backend, new_run("theirs"))
    return other


def content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def move(path: Path, to: Path) -> None:
    path.rename(to)


def removed(path: Path) -> object:
    return path.unlink()


def log_removed(path: Path) -> object:
    return Path(f"{path}-wal").unlink()


def directory_removed(path: Path) -> object:
    return path.parent.rename(path.parent.with_name("elsewhere"))


@pytest.mark.parametrize("take", [removed, log_removed, directory_removed])
async def test_a_commit_to_what_was_removed_is_not_acknowledged(backend: SQLiteBackend, path: Path, take: Take) -> None:
    lease = await create(backend)
    take(path)
    gone = f"{path}-wal" if take is log_removed else str(path)
    for _ in range(2):  # it is not made anew either
        with pytest.raises(BackendError, match=f"^{gone} was removed while it was open.* stop all processes") as failed:
            await append(backend, lease)
        assert isinstance(failed.value.__cause__, BackendError)
    assert content(Path(gone)) is None


async def test_a_commit_to_what_was_replaced_is_not_acknowledged(backend: SQLiteBackend, path: Path) -> None:
    """Whatever the verb, and as often as it is tried; what stands there now is left alone."""
    lease = await create(backend)
    other = await another(path)
    theirs = content(other)
    move(other, path)
    verbs = [
        lambda: append(backend, lease),
        lambda: create(backend, new_run("new")),
        lambda: backend.claim("w", now=T0, ttl=TTL, query=ClaimQuery(run_id="run")),
        lambda: backend.renew([lease], now=T0, ttl=TTL),
        lambda: backend.release(lease),
        lambda: backend.post(signal()),
        lambda: backend.put_snapshot(lease, snapshot(1)),
        lambda: backend.delete_run("run"),
        lambda: backend.set_system_state("key", {}),
        lambda: backend.backup(path.with_name("copy.db")),
        backend.compact,
        backend.upgrade,
    ]
    for verb in verbs:
        with pytest.raises(BackendError, match=f"^{path} was replaced .* remove runs.db-wal and runs.db-shm"):
            await verb()
    await backend.shutdown()
    assert content(path) == theirs


async def test_a_link_that_leads_elsewhere_is_noticed(path: Path) -> None:
    async with SQLiteBackend(path) as direct:
        lease = await create(direct)
    link = path.with_name("link.db")
    link.symlink_to(path)
    async with SQLiteBackend(link) as backend:
        assert await append(backend, lease) == 2
        other = await another(path)
        link.unlink()
        link.symlink_to(other)
        with pytest.raises(BackendError, match=f"^{link} was replaced"):
            await append(backend, lease, after=2)


async def test_another_store_of_the_process_that_is_closed_takes_no_lock_along(
    backend: SQLiteBackend, path: Path
) -> None:
    """Who closes a file gives up all locks of the process on it; others remove the log, which is nobody's to them."""
    lease = await create(backend)
    async with SQLiteBackend(path) as other:
        assert await append(other, lease) == 2
    script = (
        f"import sqlite3; db = sqlite3.connect({str(path)!r}); db.execute('DELETE FROM system_states'); db.commit()"
    )
    await anyio.run_process([sys.executable, "-c", script])
    assert await append(backend, lease, after=2) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists what a process has open")
async def test_what_is_closed_has_nothing_open(path: Path) -> None:
    def of_store() -> list[str]:
        names = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        return [os.readlink(name) for name in names if os.path.lexists(name) and str(path) in os.readlink(name)]

    async with SQLiteBackend(path) as backend:
        await create(backend)
        assert of_store()
    assert not of_store()


@pytest.mark.parametrize("take", [removed, log_removed])
async def test_others_of_the_process_learn_of_it(backend: SQLiteBackend, path: Path, take: Take) -> None:
    """Each has a connection of its own, and each looks."""
    lease = await create(backend)
    other = SQLiteBackend(path)
    assert await append(other, lease) == 2
    take(path)
    for store in (backend, other):
        with pytest.raises(BackendError, match="was removed while it was open"):
            await append(store, lease, after=2)
    await other.shutdown()


async def test_a_connection_that_is_opened_later_does_not_read_what_was_put_in_the_place(
    backend: SQLiteBackend, path: Path
) -> None:
    await create(backend)
    assert len(await runs(backend)) == 1
    move(await another(path), path)
    refused = list[BaseException]()
    while not refused:  # another connection is opened when two reads meet; the one that was there reads what was there
        outcomes = await asyncio.gather(*(runs(backend) for _ in range(20)), return_exceptions=True)
        refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert all("was replaced while it was open" in str(error) for error in refused)
        read = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        assert all([run.run_id for run in seen] == ["run"] for seen in read)


async def test_what_was_put_back_is_gone_on_with(backend: SQLiteBackend, path: Path) -> None:
    lease = await create(backend)
    away = path.with_name("away.db")
    move(path, away)
    with pytest.raises(BackendError, match="was removed"):
        await append(backend, lease)
    move(away, path)
    # It may have been written, as after any write that failed; the fence tells who asks.
    seq = (await load(backend)).summary.last_seq
    assert await append(backend, lease, after=seq) == seq + 1
    async with SQLiteBackend(path) as again:
        assert (await load(again)).summary.last_seq == seq + 1


async def test_what_is_closed_may_be_replaced(backend: SQLiteBackend, path: Path) -> None:
    await create(backend)
    await backend.shutdown()
    move(await another(path), path)
    assert [run.run_id for run in await runs(backend)] == ["theirs"]
    await create(backend, new_run("new"))
    assert {run.run_id for run in await runs(backend)} == {"theirs", "new"}


async def test_what_was_removed_while_it_was_closed_is_made_anew(backend: SQLiteBackend, path: Path) -> None:
    await create(backend)
    await backend.shutdown()
    removed(path)
    await create(backend, new_run("new"))
    assert [run.run_id for run in await runs(backend)] == ["new"]


def test_nobody_checkpoints_what_was_put_in_the_place(path: Path) -> None:
    """Between two transactions either: the log beside it belongs to the database that was there before."""
    file = SQLiteFile(path, synchronous="full", busy_timeout=timedelta(seconds=1), watch=Watch(Changes()))
    opened = file.open(create=True)
    other = asyncio.run(another(path))
    theirs = other.read_bytes()
    other.replace(path)
    with closing(opened), pytest.raises(sqlite3.Error):
        opened.tend(is_asked_to=True)
    assert path.read_bytes() == theirs


async def runs(backend: StateBackend) -> list[RunSummary]:
    return await backend.query_runs(RunQuery())
