"""What the SQLite store keeps and gives back: deleting, copies, compacting."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from flujo_async.backends.changes import Changes
from flujo_async.backends.sqlite import SQLiteBackend
from flujo_async.backends.sqlite_copy import copy, publish
from flujo_async.backends.sqlite_file import SQLiteFile
from flujo_async.backends.sqlite_watch import Watch
from flujo_async.errors import BackendError, InvalidArgument
from flujo_async.testing.samples import LOG, append, blob, blobs_of, create, fork, load, new_run, signal, snapshot


def size(path: Path) -> int:
    return path.stat().st_size


def files(directory: Path) -> list[Path]:
    return sorted(directory.iterdir())


# ------------------------------------------------------------------------------------------------------------ deleting


def kept(path: Path) -> dict[str, int]:
    """Return how many rows the tables have that have any."""
    tables = ["logs", "runs", "facts", "blobs", "blobs_of_logs", "snapshots", "signals"]
    with closing(sqlite3.connect(path)) as db:
        counts = {table: db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}
    return {table: count for table, count in counts.items() if count}


async def test_of_a_deleted_run_only_what_forks_share_is_left(backend: SQLiteBackend, path: Path) -> None:
    lease = await create(backend, new_run(blobs=[blob("a")]))
    await append(backend, lease, count=2, blobs=[blob("b")])
    await append(backend, lease, after=3, count=2, blobs=[blob("c")])
    await backend.put_snapshot(lease, snapshot(2))
    await backend.post(signal())
    run, log = fork(LOG[:3], blobs=[blob("d")])
    await backend.create_run(run)
    again, _ = fork(log[:2], "again", of="fork")
    await backend.create_run(again)
    assert kept(path)["facts"] == 5 + 1 + 1
    assert await blobs_of(backend, "fork", map(blob, "abcd")) == set(map(blob, "abd"))
    await backend.delete_run("run")
    assert kept(path) == {"logs": 3, "runs": 2, "facts": 3 + 1 + 1, "blobs": 3, "blobs_of_logs": 3}
    await backend.delete_run("fork")  # whose log nobody shares: the other fork is one of the first log
    assert kept(path) == {"logs": 2, "runs": 1, "facts": 2 + 1, "blobs": 2, "blobs_of_logs": 2}
    await backend.delete_run("again")
    assert kept(path) == {}


async def test_equal_blobs_are_stored_once(backend: SQLiteBackend, path: Path) -> None:
    for i in range(3):
        lease = await create(backend, new_run(f"run{i}", blobs=[blob("a")]))
        await append(backend, lease, blobs=[blob("a"), blob("b")])
    assert (kept(path)["blobs"], kept(path)["blobs_of_logs"]) == (2, 6)
    for i in range(3):
        assert kept(path)["blobs"] == 2
        await backend.delete_run(f"run{i}")
    assert kept(path) == {}


# ------------------------------------------------------------------------------------------------- copies, compacting


async def test_a_copy_needs_no_write_lock(backend: SQLiteBackend, path: Path) -> None:
    await create(backend)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        await backend.backup(path.with_name("copy.db"))
    async with SQLiteBackend(path.with_name("copy.db")) as copy:
        assert await load(copy) == await load(backend)


async def test_of_a_copy_that_was_cancelled_nothing_is_left(path: Path) -> None:
    async with SQLiteBackend(path) as backend:
        for i in range(20):
            await backend.create_run(new_run(f"run{i}", blobs=[blob(f"{i}" * 100_000)]))
        for patience in range(10):
            copying = asyncio.create_task(backend.backup(path.with_name("copy.db")))
            for _ in range(patience):
                await asyncio.sleep(0)
            copying.cancel()
            await asyncio.wait([copying])
            while any(thread.name == "flujo-backup" for thread in threading.enumerate()):
                await asyncio.sleep(0.001)  # its thread has answered, and is about to end
            if path.with_name("copy.db") in files(path.parent):  # on a busy machine it may be complete by then
                path.with_name("copy.db").unlink()
            else:
                assert copying.cancelled()
    assert files(path.parent) == [path]


def test_a_copy_that_is_stopped_does_not_go_on(path: Path) -> None:
    file = SQLiteFile(path, synchronous="normal", busy_timeout=timedelta(seconds=1), watch=Watch(Changes()))
    opened = file.open(create=True)
    opened.connection.execute("BEGIN")
    opened.connection.executemany("INSERT INTO system_states VALUES (?, '{}')", [(str(i),) for i in range(20_000)])
    opened.connection.execute("COMMIT")

    with pytest.raises(BackendError, match="interrupted"):
        copy(file, path.with_name("copy.db"), lambda: True)
    opened.close()
    assert files(path.parent) == [path]


def test_a_copy_does_not_replace_what_came_meanwhile(path: Path) -> None:
    target, part = path.with_name("copy.db"), path.with_name("part")
    for each in (target, part):
        each.write_text(each.name)
    with pytest.raises(InvalidArgument):
        publish(part, target, bool)
    assert target.read_text() == "copy.db"


async def test_the_log_counts_also_where_a_link_leads_to_the_file(backend: SQLiteBackend, path: Path) -> None:
    await create(backend)
    link = path.with_name("link.db")
    link.symlink_to(path)
    found = await SQLiteBackend(link).report()
    assert found.unsettled == size(path.with_name("runs.db-wal")) > 0
    assert found == await backend.report()


async def test_a_store_that_is_not_there_is_not_copied(backend: SQLiteBackend, path: Path) -> None:
    with pytest.raises(BackendError, match="does not exist"):
        await backend.backup(path.with_name("copy.db"))
    await backend.compact()
    assert files(path.parent) == []


async def test_a_compacted_file_is_smaller_at_once(backend: SQLiteBackend, path: Path) -> None:
    await backend.create_run(new_run("big", blobs=[blob("x" * 1_000_000)]))
    await backend.shutdown()
    assert size(path) > 1_000_000
    await backend.delete_run("big")
    await backend.compact()
    assert size(path) < 500_000


async def test_compacting_makes_the_file_smaller_while_others_write(backend: SQLiteBackend, path: Path) -> None:
    for i in range(40):
        await backend.create_run(new_run(f"run{i}", blobs=[blob(f"{i}" * 100_000)]))
    lease = await create(backend)
    async with SQLiteBackend(path) as elsewhere:
        for i in range(40):
            await elsewhere.delete_run(f"run{i}")
        compacting = asyncio.create_task(backend.compact())
        for seq in range(1, 20):
            await append(elsewhere, lease, after=seq)
        await compacting
        await backend.compact()
        assert size(path) < 500_000
        assert (await load(elsewhere)).records == LOG[:20]
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
