"""What is special about the SQLite store: the file, its writer and its readers, and other processes."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import re
import shutil
import signal as signals
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from flujo_async._model import transition
from flujo_async._model.lease import ClaimQuery, DefinitionKey, Lease
from flujo_async._model.state import RESTING, RUN_STATUSES, RunStatus
from flujo_async._model.stored import RunQuery, Signal
from flujo_async.backends import sqlite as verbs
from flujo_async.backends import sqlite_rows as rows
from flujo_async.backends import sqlite_work as work
from flujo_async.backends.changes import Changes
from flujo_async.backends.sql import queries
from flujo_async.backends.sqlite import SQLiteBackend
from flujo_async.backends.sqlite_file import SQLiteFile
from flujo_async.backends.sqlite_watch import Watch
from flujo_async.errors import (
    BackendError,
    IntegrityError,
    InvalidArgument,
    RunExists,
    RunNotFound,
    SchemaTooNew,
    SequenceConflict,
    SerializationError,
    StaleLease,
)
from flujo_async.testing.samples import (
    LOG,
    T0,
    TTL,
    append,
    claim,
    create,
    listed,
    load,
    new_run,
    sealed,
    signal,
    update,
)

ROOT = Path(__file__).parents[2]
PRELUDE = """
import asyncio, os, sys
from flujo_async._model.lease import ClaimQuery
from flujo_async._model.stored import RunQuery
from flujo_async.backends.sqlite import SQLiteBackend
from flujo_async.testing.samples import *
path = sys.argv[1]
"""


@contextmanager
def processes(count: int, script: str, *arguments: object) -> Iterator[list[subprocess.Popen[str]]]:
    """Run ``script`` after ``PRELUDE`` in real processes; its last argument is the number of the process."""
    command = [sys.executable, "-c", PRELUDE + script, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    started = [
        subprocess.Popen([*command, str(i)], stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment)
        for i in range(count)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def outputs(count: int, script: str, *arguments: object) -> list[str]:
    """Return what the processes print, which start at the same moment and end well."""
    with processes(count, "print(flush=True); input()" + script, *arguments) as started:
        for process in started:
            assert process.stdout is not None
            process.stdout.readline()
        for process in started:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        ends = [(*process.communicate(timeout=50), process.returncode) for process in started]
    assert [(errors, code) for _, errors, code in ends] == [("", 0)] * count
    return [output for output, _, _ in ends]


def files(directory: Path) -> list[Path]:
    return sorted(directory.iterdir())


def content(path: Path) -> bytes:
    return path.read_bytes()


def wal_size(path: Path) -> int:
    return Path(f"{path}-wal").stat().st_size


# ----------------------------------------------------------------------------------------------------------- the writer


async def append_many(backend: SQLiteBackend, lease: Lease, first: int, last: int) -> None:
    for seq in range(first, last + 1):
        record = sealed([b"{}"])[0]
        await backend.append(
            lease, [type(record)(seq, record.body, record.hash)], expected_seq=seq - 1, update=update()
        )


async def test_concurrent_appends_share_transactions(backend: SQLiteBackend, path: Path) -> None:
    leases = [await create(backend, new_run(f"run{i}")) for i in range(100)]
    empty = wal_size(path)
    for lease in leases:
        await append(backend, lease)
    alone = wal_size(path) - empty
    await asyncio.gather(*(append(backend, lease, after=2) for lease in leases))
    together = wal_size(path) - empty - alone
    assert together < alone / 3


async def test_each_caller_gets_its_own_refusal(backend: SQLiteBackend) -> None:
    good, behind = await create(backend, new_run("good")), await create(backend, new_run("behind"))
    stale = await create(backend, new_run("stale"))
    await claim(backend, now=T0 + TTL, run_id="stale")
    results = await asyncio.gather(
        append(backend, stale),
        append(backend, good),
        append(backend, behind, after=2),
        backend.create_run(new_run("good")),
        backend.post(signal(run_id="nobody")),
        backend.post(signal(run_id="good")),
        backend.create_run(new_run("new", error_message="\ud800")),
        backend.create_run(new_run("newer", priority=2**70)),
        backend.create_run(new_run("newest")),
        return_exceptions=True,
    )
    kinds = [result if result is None or isinstance(result, int) else type(result) for result in results]
    refused = [SerializationError, BackendError]
    refusals = [StaleLease, 2, SequenceConflict, RunExists, RunNotFound, Signal, *refused, None]
    assert kinds == refusals
    heads = {summary.run_id: summary.last_seq for summary in await backend.query_runs(RunQuery())}
    assert heads == {"good": 2, "behind": 1, "stale": 1, "newest": 1}


async def test_a_bad_record_takes_its_whole_append_with_it(backend: SQLiteBackend) -> None:
    lease = await create(backend)
    with pytest.raises(BackendError):
        await backend.append(lease, [LOG[1], LOG[1]], expected_seq=1, update=update("completed"))
    assert (await load(backend)).summary.last_seq == 1
    assert await append(backend, lease) == 2


@pytest.mark.parametrize("status", sorted(RESTING))
async def test_an_append_that_rests_gives_up_the_lease_even_if_the_status_stays(
    backend: SQLiteBackend, status: RunStatus
) -> None:
    lease = await create(backend, new_run(status=status))
    await append(backend, lease, status=status)
    assert (await load(backend)).summary.lease is None


async def test_text_comes_back_whatever_is_in_it(backend: SQLiteBackend) -> None:
    await backend.create_run(new_run(error_message="a\0b\u2028\U0001f600", pipeline_name="'\"\\"))
    summary = (await load(backend)).summary
    assert (summary.error_message, summary.pipeline_name) == ("a\0b\u2028\U0001f600", "'\"\\")


async def test_cancelled_verbs_leave_the_store_usable(path: Path) -> None:
    backend, dice = SQLiteBackend(path), random.Random(7)
    leases = [await create(backend, new_run(f"run{i}")) for i in range(60)]
    for lease in leases:
        verb = backend.load(lease.run_id) if dice.random() < 0.5 else append(backend, lease)
        call: asyncio.Task[Any] = asyncio.create_task(verb)
        for _ in range(dice.randrange(40)):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
    for lease in leases:
        seq = (await load(backend, lease.run_id)).summary.last_seq
        assert await append(backend, lease, after=seq) == seq + 1
    await backend.shutdown()
    del backend
    gc.collect()  # a connection that was lost would warn, and warnings are errors


async def test_a_loop_that_ends_meanwhile_is_no_trouble(backend: SQLiteBackend) -> None:
    await create(backend)

    async def leave() -> None:
        calls = [asyncio.create_task(verb) for verb in (backend.load("run"), backend.wait_for_work(timeout=99))]
        await asyncio.sleep(0)
        for call in calls:
            call.cancel()

    for _ in range(10):
        await asyncio.to_thread(asyncio.run, leave())
    assert (await load(backend)).summary.last_seq == 1


# ------------------------------------------------------------------------------------------------------------- the file


async def test_nothing_is_on_disk_before_the_first_write_nor_beside_it_after_shutdown(tmp_path: Path) -> None:
    path = tmp_path / "odd name?#%41 é.db"
    backend = SQLiteBackend(str(path))
    assert files(tmp_path) == []
    await backend.shutdown()
    assert files(tmp_path) == []
    assert await backend.load("run") is None
    assert await backend.query_runs(RunQuery()) == []
    assert files(tmp_path) == []  # looking at a store does not create it
    await create(backend)
    assert await backend.load("run") is not None
    await backend.shutdown()
    assert files(tmp_path) == [path]


async def test_shutdown_ends_the_threads(path: Path) -> None:
    before = set(threading.enumerate())
    backend = SQLiteBackend(path)
    await asyncio.gather(create(backend), *(backend.load("run") for _ in range(9)))
    ours = set(threading.enumerate()) - before
    assert 2 <= len(ours) <= 5
    assert all(thread.daemon for thread in ours)
    await backend.shutdown()
    for thread in ours:
        await asyncio.to_thread(thread.join, 20)
    assert not any(thread.is_alive() for thread in ours)


async def test_a_shutdown_is_in_nobodys_way(path: Path) -> None:
    """Whoever reads or writes meanwhile opens the file anew, while the others close it."""
    backend = SQLiteBackend(path)
    for turn in range(40):
        await asyncio.gather(
            create(backend, new_run(f"a{turn}")),
            backend.shutdown(),
            create(backend, new_run(f"b{turn}")),
            backend.load(f"a{turn}"),
            backend.get_system_state("key"),
        )
    assert len(await backend.query_runs(RunQuery())) == 80
    await backend.shutdown()


def test_a_forked_child_is_told_that_it_cannot_go_on_with_what_its_parent_has_open(path: Path) -> None:
    """It has none of the threads that would answer. Its parent notices nothing, and what was closed goes on in both."""
    script = """
from flujo_async.errors import BackendError
backend = SQLiteBackend(path)
def in_child(main):
    child = os.fork()
    if not child:
        try:
            asyncio.run(main())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
async def used():
    await create(backend, new_run("another"))
    print(len(await backend.query_runs(RunQuery())), flush=True)
async def refused():
    for verb in (used(), backend.load("run"), backend.compact(), backend.get_workflow_stats()):
        try:
            await verb
        except BackendError as error:
            print("forked while the store was open" in str(error), flush=True)
    await backend.shutdown()
async def closed():
    print(len(await backend.query_runs(RunQuery())), flush=True)
    await backend.shutdown()
asyncio.run(create(backend))
asyncio.run(backend.load("run"))
in_child(refused)
asyncio.run(closed())
in_child(used)
"""
    with processes(1, script, path) as [process]:
        output, _ = process.communicate(timeout=50)  # later versions of Python warn of forks
        assert (output, process.returncode) == ("True\n" * 4 + "1\n2\n", 0)


async def test_reads_that_come_one_by_one_share_a_connection(path: Path) -> None:
    """Others are opened when all are busy."""
    before = set(threading.enumerate())
    async with SQLiteBackend(path) as backend:
        await create(backend)
        for _ in range(5):
            await backend.load("run")
        assert _readers(before) == 1
        await asyncio.gather(*(backend.load("run") for _ in range(20)))
        assert _readers(before) == 3
        await backend.load("run")
        assert _readers(before) == 3


def _readers(before: set[threading.Thread]) -> int:
    return sum("connection_worker" in thread.name for thread in set(threading.enumerate()) - before)


def test_a_path_stays_what_it_was_when_the_working_directory_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    backend = SQLiteBackend("runs.db")
    monkeypatch.chdir(ROOT)
    assert backend.path == tmp_path / "runs.db"


@pytest.mark.parametrize("path", ["", ":memory:", "runs\0.db", "sqlite:///runs.db"])
def test_what_is_no_file_is_refused(path: str) -> None:
    with pytest.raises(InvalidArgument):
        SQLiteBackend(path)


async def test_synchronous_is_full_or_normal(path: Path) -> None:
    with pytest.raises(InvalidArgument):
        SQLiteBackend(path, synchronous="off")  # type: ignore[arg-type]
    async with SQLiteBackend(path, synchronous="normal") as backend:
        lease = await create(backend)
        assert await append(backend, lease) == 2


async def test_the_log_can_be_read_with_the_shell(backend: SQLiteBackend, path: Path) -> None:
    await create(backend)
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute("SELECT run_id, seq, json_extract(body, '$.kind') FROM facts JOIN runs ON runs.id = log")
        assert rows.fetchall() == [("run", 1, "Test")]


async def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    async with SQLiteBackend(path) as backend:
        await create(backend)
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    before = content(path)
    async with SQLiteBackend(path) as backend:
        for verb in (backend.load("run"), backend.create_run(new_run("other"))):
            with pytest.raises(SchemaTooNew, match=r"version 99.*upgrade"):
                await verb
    assert content(path) == before


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
async def test_another_applications_database_is_refused_and_left_alone(path: Path, journal_mode: str) -> None:
    with closing(sqlite3.connect(path)) as theirs:
        theirs.execute(f"PRAGMA journal_mode = {journal_mode}")
        theirs.execute("CREATE TABLE notes (text)")
        before = content(path)
        async with SQLiteBackend(path) as backend:
            with pytest.raises(BackendError, match="another application"):
                await create(backend)
            with pytest.raises(BackendError, match="another application"):
                await backend.load("run")
        assert content(path) == before


@pytest.fixture
def diary(path: Path) -> bytes:
    path.write_bytes(b"Dear diary, " * 1000)
    return path.read_bytes()


@pytest.mark.parametrize("ours", [True, False])
async def test_what_a_crash_left_half_written_is_undone(path: Path, ours: bool) -> None:
    async with SQLiteBackend(path) as backend:
        await backend.create_run(new_run(metadata={"text": "x" * 100_000}))
    crashed = path.with_name("crashed.db")
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = DELETE")
        if not ours:
            db.execute("PRAGMA application_id = 7")
        db.execute("PRAGMA cache_size = 1")
        db.execute("BEGIN IMMEDIATE")
        db.execute("UPDATE runs SET metadata = replace(metadata, 'x', 'y')")
        for suffix in ("", "-journal"):
            shutil.copy(f"{path}{suffix}", f"{crashed}{suffix}")
        db.execute("ROLLBACK")
    assert b"yyyy" in content(crashed)
    async with SQLiteBackend(crashed) as backend:
        with nullcontext() if ours else pytest.raises(BackendError, match="another application"):
            assert (await load(backend)).summary.metadata == {"text": "x" * 100_000}


async def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path, diary: bytes) -> None:
    async with SQLiteBackend(path) as backend:
        with pytest.raises(BackendError, match="not a database") as caught:
            await create(backend)
    assert isinstance(caught.value.__cause__, sqlite3.DatabaseError)
    assert content(path) == diary


async def test_a_missing_directory_is_told(tmp_path: Path) -> None:
    async with SQLiteBackend(tmp_path / "missing" / "runs.db") as backend:
        with pytest.raises(BackendError, match="directory has to exist") as caught:
            await create(backend)
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
    assert files(tmp_path) == []


async def test_a_directory_is_no_store(tmp_path: Path) -> None:
    async with SQLiteBackend(tmp_path) as backend:
        with pytest.raises(BackendError, match="is a directory"):
            await backend.load("run")
    assert files(tmp_path) == []


def test_a_failing_disk_is_told_and_the_writer_goes_on_when_it_is_well_again(path: Path) -> None:
    script = """
import resource
from flujo_async.errors import BackendError
async def main():
    async with SQLiteBackend(path) as backend:
        lease = await create(backend)
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, hard))
        log = sealed([b'{"kind":"Test"}'] * 1000)
        seq = 1
        async def go_on():
            return await backend.append(lease, log[seq : seq + 1], expected_seq=seq, update=update())
        try:
            while True:
                seq = await go_on()
        except BackendError as error:
            assert (await load(backend)).summary.last_seq == seq, error
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert await go_on() == seq + 1
        print(seq + 1)
asyncio.run(main())
"""
    [output] = outputs(1, script, path)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM facts").fetchone() == (int(output),)


async def test_a_store_that_others_keep_locked_is_told_and_loses_nothing(path: Path) -> None:
    async with SQLiteBackend(path, busy_timeout=timedelta(milliseconds=50)) as backend:
        lease = await create(backend)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(BackendError, match="another process holds the database"):
                await append(backend, lease)
            assert (await load(backend)).summary.last_seq == 1  # readers do not mind
        assert await append(backend, lease) == 2


async def test_one_damaged_run_does_not_keep_others_from_being_claimed(backend: SQLiteBackend, path: Path) -> None:
    for i in range(3):
        await backend.create_run(new_run(f"run{i}"))
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE runs SET metadata = '{' WHERE run_id = 'run0'")
    leases = await backend.claim("w", now=T0, ttl=TTL, query=ClaimQuery(limit=9))
    assert [lease.run_id for lease in leases] == ["run0", "run1", "run2"]


@pytest.mark.parametrize("moment", [2**62, -(2**62)])
@pytest.mark.parametrize("column", ["created_at", "lease_owner = NULL, updated_at", "wake_at", "lease_expires_at"])
async def test_one_damaged_moment_keeps_nobody_from_the_other_runs(
    backend: SQLiteBackend, path: Path, column: str, moment: int
) -> None:
    """One bit is enough to make a moment that no calendar has. The run is listed, and can be deleted."""
    for i in range(3):
        await create(backend, new_run(f"run{i}"))
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(f"UPDATE runs SET wake_at = 0, {column} = {moment} WHERE run_id = 'run1'")
    heads = {head.run_id: head.error_message async for head in backend.every_run(RunQuery())}
    assert sorted(heads) == ["run0", "run1", "run2"] == sorted(await listed(backend))
    assert [run_id for run_id, error in heads.items() if error is not None] == ["run1"]
    assert f"damaged: no calendar goes as far as {moment}" in str(heads["run1"])
    assert await backend.next_due(ClaimQuery(dead_owners=frozenset({"w1"}))) is not None
    with pytest.raises(IntegrityError, match="run 'run1', seq 0: its head or a signal is damaged: no calendar"):
        await backend.load("run1")
    await backend.delete_run("run1")
    assert sorted(await listed(backend)) == ["run0", "run2"]


@pytest.mark.usefixtures("uncollected")
async def test_one_damaged_text_keeps_nobody_from_the_other_runs(path: Path) -> None:
    """One bit is enough to make bytes that are no text. The connection that stumbled over it is closed in the end."""
    async with SQLiteBackend(path) as backend:
        for i in range(3):
            await create(backend, new_run(f"run{i}"))
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("UPDATE runs SET pipeline_name = CAST(x'61ff62' AS TEXT) WHERE run_id = 'run1'")
        names = {head.run_id: head.pipeline_name async for head in backend.every_run(RunQuery())}
        assert names == {"run0": names["run2"], "run1": "a\N{REPLACEMENT CHARACTER}b", "run2": names["run2"]}
        assert sorted(await listed(backend)) == ["run0", "run1", "run2"]
        await backend.delete_run("run1")
    assert f"{path.name}-wal" not in os.listdir(path.parent)


async def test_checkpoints_keep_the_write_ahead_log_small(path: Path) -> None:
    async with SQLiteBackend(path, synchronous="normal") as backend:
        lease = await create(backend)
        await append_many(backend, lease, 2, 2500)
        grown = wal_size(path)
        await append_many(backend, lease, 2501, 7500)
        assert wal_size(path) <= grown  # begun anew several times
        assert len(content(path)) > 500_000
        assert len((await load(backend)).records) == 7500


def test_checkpoints_are_made_under_the_lock_of_writers_only(path: Path) -> None:
    file = SQLiteFile(path, synchronous="full", busy_timeout=timedelta(milliseconds=50), watch=Watch(Changes()))
    opened = file.open(create=True)
    opened.connection.execute(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) "
        "INSERT INTO system_states (key, value) SELECT i, '{}' FROM n"
    )
    before = len(content(path))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            opened.tend(is_asked_to=True)
        assert len(content(path)) == before
        other.execute("ROLLBACK")
        opened.tend(is_asked_to=True)
        assert len(content(path)) > before
    opened.close()


def test_the_log_is_made_longer_under_the_lock_of_writers_only(path: Path) -> None:
    file = SQLiteFile(path, synchronous="full", busy_timeout=timedelta(milliseconds=50), watch=Watch(Changes()))
    opened = file.open(create=True)
    opened.connection.execute("INSERT INTO system_states VALUES ('k', '{}')")
    before = wal_size(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            opened.tend(is_asked_to=True)
        assert wal_size(path) == before
        other.execute("ROLLBACK")
    opened.connection.execute("INSERT INTO system_states VALUES ('l', '{}')")
    opened.tend(is_asked_to=True)
    assert wal_size(path) > before + 2**20
    opened.close()


async def test_the_log_is_made_longer_by_who_writes_often_not_by_who_looks(path: Path) -> None:
    async with SQLiteBackend(path) as backend:
        lease = await create(backend)
        await append_many(backend, lease, 2, 5)
        assert wal_size(path) < 2**19
        await append_many(backend, lease, 6, 20)
        assert 2**20 < wal_size(path) < 2**21
        long = wal_size(path)
        await append_many(backend, lease, 21, 60)
        assert wal_size(path) == long  # the commits have found room
        async with SQLiteBackend(path) as elsewhere:
            await append_many(elsewhere, lease, 61, 65)
        assert len((await load(backend)).records) == 65
    async with SQLiteBackend(path) as backend:
        for _ in range(20):
            await load(backend)
        assert wal_size(path) == 0


async def test_a_log_that_was_made_longer_is_read_after_a_crash(path: Path) -> None:
    crashed = path.with_name("crashed.db")
    async with SQLiteBackend(path) as backend:
        lease = await create(backend)
        await append_many(backend, lease, 2, 30)
        for suffix in ("", "-wal"):
            await asyncio.to_thread(shutil.copy, f"{path}{suffix}", f"{crashed}{suffix}")
    async with SQLiteBackend(crashed) as backend:
        assert (await load(backend)).summary.last_seq == 30
        await append_many(backend, lease, 31, 200)
        assert len((await load(backend)).records) == 200


@pytest.mark.parametrize(("writes", "has_link"), [(False, False), (True, False), (True, True)])
def test_a_log_that_was_left_is_settled_before_anything_is_written(crashed: Path, writes: bool, has_link: bool) -> None:
    """Whoever only reads does not wait for that. The log is beside the file, also where a symbolic link leads to it."""
    before = content(crashed)
    link = crashed.with_name("link.db")
    link.symlink_to(crashed)
    file = _file(link if has_link else crashed)
    with closing(file.open(create=writes)) as opened:
        assert opened.connection.execute("SELECT count(*) FROM facts").fetchone() == (30,)
        assert (content(crashed) != before) == writes
        opened.tend(is_asked_to=False)
        settled = content(crashed)
        assert settled != before
        opened.tend(is_asked_to=False)
        assert content(crashed) == settled


def test_a_log_is_not_settled_while_others_write(crashed: Path) -> None:
    """Checkpoints are made under the lock of writers only."""
    file = _file(crashed)
    before = content(crashed)
    with closing(file.open(create=False)) as opened, closing(sqlite3.connect(crashed, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        opened.tend(is_asked_to=False)
        assert content(crashed) == before
        other.execute("ROLLBACK")


@pytest.mark.parametrize("others", ["do nothing", "read", "write"])
def test_a_log_that_cannot_begin_anew_is_written_again(crashed: Path, others: str) -> None:
    """It is in use while somebody reads or writes; then the first commit stands behind what may not be on the disk."""
    log = crashed.with_name(f"{crashed.name}-wal")
    written: list[bool] = []
    with closing(sqlite3.connect(crashed, isolation_level=None)) as other:
        if others != "do nothing":
            other.execute("BEGIN" if others == "read" else "BEGIN IMMEDIATE")
            other.execute("SELECT count(*) FROM facts").fetchall()
        with closing(_file(crashed).open(create=True)) as opened:
            if others == "write":
                other.execute("ROLLBACK")
            for count in range(3):
                if count:
                    opened.connection.execute("INSERT INTO system_states (key, value) VALUES (?, '{}')", (count,))
                os.utime(log, (0, 0))
                before = content(log)
                opened.check()
                assert content(log) == before
                written.append(log.stat().st_mtime > 0)
    # Nothing is to be made sure of before the first commit, nor later on.
    assert written == [False, others != "do nothing", False]


@pytest.fixture
def crashed(path: Path) -> Path:
    """The store of a process that has died: a run of thirty facts, all of it in the write-ahead log."""
    left = path.with_name("crashed.db")

    async def crash() -> None:
        async with SQLiteBackend(path) as backend:
            await append_many(backend, await create(backend), 2, 30)
            for suffix in ("", "-wal"):
                await asyncio.to_thread(shutil.copy, f"{path}{suffix}", f"{left}{suffix}")

    asyncio.run(crash())
    return left


def _file(path: Path) -> SQLiteFile:
    return SQLiteFile(path, synchronous="full", busy_timeout=timedelta(seconds=1), watch=Watch(Changes()))


async def test_large_records_are_checkpointed_sooner(path: Path) -> None:
    async with SQLiteBackend(path, synchronous="normal") as backend:
        lease = await create(backend)
        body = b'"' + b"x" * 1_000_000 + b'"'
        for seq in range(2, 62):
            record = type(LOG[0])(seq, body, "0" * 64)
            await backend.append(lease, [record], expected_seq=seq - 1, update=update())
        assert wal_size(path) < 16_000_000


# ------------------------------------------------------------------------------------------------------- query plans


INDEX_OF_CLAIM = {
    "claimable_run": "sqlite_autoindex_runs_1",
    "ready": "runs_ready",
    "ready_in_queue": "runs_ready_in_queue",
    "finished": "runs_status",
    "woken": "runs_asleep",
    "signalled": "runs_signalled",
    "expired": "runs_expiring",
    "left_by_dead_owners": "runs_leased",
}
DEFINITION = DefinitionKey("hello", "1.0.0", "f")
ASKED = rows.wanted(ClaimQuery(queues=frozenset({"q"}), definitions=frozenset({DEFINITION})))
OF_A_DEFINITION = "status=? AND pipeline_name=? AND pipeline_version=? AND pipeline_id=?"


@pytest.fixture
async def plans(path: Path) -> AsyncIterator[sqlite3.Connection]:
    async with SQLiteBackend(path) as backend:
        await create(backend)
    with closing(sqlite3.connect(path)) as db:
        db.create_function("json_contains", 2, lambda whole, part: True)
        yield db


def plan(db: sqlite3.Connection, sql: str, **values: Any) -> str:
    return "\n".join(row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", values))


@pytest.mark.parametrize(("name", "index"), INDEX_OF_CLAIM.items())
def test_claims_use_indexes(plans: sqlite3.Connection, name: str, index: str) -> None:
    more = {"status": "failed", "now": 0, "limit": 1}
    found = plan(plans, queries("sqlite.sql")[name], **ASKED, **more)
    assert re.search(rf"SEARCH runs USING (COVERING )?INDEX {index} \(", found)
    assert "SCAN runs" not in found


@pytest.mark.parametrize("name", ["ready", "ready_in_queue"])
def test_what_is_ready_is_found_in_the_order_of_claims(plans: sqlite3.Connection, name: str) -> None:
    """Of each definition only the first few are sorted with those of the others."""
    found = plan(plans, queries("sqlite.sql")[name], **ASKED, limit=1)
    in_queue = " AND queue_name=?" if name == "ready_in_queue" else ""
    assert f"INDEX {INDEX_OF_CLAIM[name]} ({OF_A_DEFINITION}{in_queue})" in found
    assert found.count("TEMP B-TREE") == 1


def test_every_way_to_be_claimable_is_checked_for_its_index() -> None:
    every = ClaimQuery(statuses=RUN_STATUSES, dead_owners=frozenset({"w"}))
    asked = [every, replace(every, queues=frozenset({"q"})), replace(every, run_id="run")]
    ways = {name for query in asked for name, _ in work._ways_to_be_claimable(query)}
    assert ways == INDEX_OF_CLAIM.keys()


def test_what_is_due_next_is_found_without_looking_at_all_runs(plans: sqlite3.Connection) -> None:
    """The first of an index is enough, except for what is signalled or leased, of which there are few."""
    found = plan(plans, queries("sqlite.sql")["next_due"], **ASKED)
    indexes = set(re.findall(r"SEARCH runs USING (?:COVERING )?INDEX (\w+)", found))
    assert indexes == {"runs_asleep", "runs_leased", "runs_ready_since", "runs_signalled", "runs_status"}
    assert f"runs_ready_since ({OF_A_DEFINITION})" in found
    assert f"runs_asleep ({OF_A_DEFINITION} AND wake_at>?)" in found
    assert "SCAN runs" not in found
    assert "TEMP B-TREE" not in found
    assert "SEARCH runs" in plan(plans, queries("sqlite.sql")["run_is_due"], **ASKED)


@pytest.mark.parametrize("name", ["ready", "ready_in_queue", "woken", "next_due"])
async def test_what_nobody_asks_for_costs_nothing(path: Path, name: str) -> None:
    """However many runs of definitions there are that are not known here: counted in instructions of SQLite."""

    async def instructions(more: int) -> int:
        async with SQLiteBackend(path) as backend:
            runs = [new_run(f"{more}:{n}:{at}", queue="q", wake_at=at) for n in range(more) for at in (None, T0)]
            await asyncio.gather(*map(backend.create_run, runs))
        steps: list[None] = []
        with closing(sqlite3.connect(path)) as db:
            db.set_progress_handler(lambda: steps.append(None), 1)
            assert not any(
                db.execute(queries("sqlite.sql")[name], {**ASKED, "now": rows.micros(T0), "limit": 9}).fetchone() or ()
            )
        return len(steps)

    few, many = await instructions(3), await instructions(300)
    assert many <= few + 50


@pytest.mark.parametrize("asked", [{}, {"status": "running"}, {"pipeline_name": "hello"}, {"metadata": {"a": 1}}])
def test_a_listing_of_leased_runs_looks_at_no_others(plans: sqlite3.Connection, asked: dict[str, Any]) -> None:
    """There are few of them, so it does not matter that they are sorted."""
    sql, values = verbs.runs_query(RunQuery(is_leased=True, **asked))
    assert "runs_leased" in plan(plans, sql, **values)


def test_signals_are_read_from_the_first_that_is_not_known(plans: sqlite3.Connection) -> None:
    found = plan(plans, queries("sqlite.sql")["signals"], known='[["run", 3]]')
    assert "SEARCH signals USING INDEX signals_in_order (run=? AND number>?)" in found
    assert "SEARCH runs USING" in found


@pytest.mark.parametrize("change", [{}, {"current_step_index": 3}])
def test_the_usual_append_is_two_statements(path: Path, change: dict[str, Any]) -> None:
    """A look at the run, whose row is not written, and the insertion of the record."""
    file = SQLiteFile(path, synchronous="full", busy_timeout=timedelta(seconds=1), watch=Watch(Changes()))
    opened = file.open(create=True)
    summary = transition.created(new_run(), "w", TTL)
    assert summary.lease is not None
    work.Create(rows.head(summary), new_run(), summary.lease)(opened.connection)
    statements: list[str] = []
    opened.connection.set_trace_callback(statements.append)
    work.Append(summary.lease, LOG[1:2], 1, update(**change), ())(opened.connection)
    opened.close()
    assert len(statements) == 2
    assert "UPDATE" not in "".join(statements)


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"run_id": "run"},
        {"pipeline_name": "hello"},
        {"parent_run_ids": frozenset({"parent"})},
        {"metadata": {"a": 1}},
        *({"status": status} for status in sorted(RUN_STATUSES)),
    ],
)
def test_listings_walk_an_index(plans: sqlite3.Connection, asked: dict[str, Any]) -> None:
    sql, values = verbs.runs_query(RunQuery(**asked))
    found = plan(plans, sql, **values)
    assert "INDEX" in found
    assert "TEMP B-TREE" not in found


@pytest.mark.parametrize("name", ["load", "events"])
def test_a_log_is_found_by_its_index(plans: sqlite3.Connection, name: str) -> None:
    """So are the logs that it shares, and nothing is sorted by SQLite."""
    found = plan(plans, queries("sqlite.sql")[name], run_id="run", upto=9, after=0, from_snapshot=True)
    assert "SEARCH facts USING INDEX facts_of_log (log=? AND seq>? AND seq<?)" in found
    assert "SEARCH logs USING INTEGER PRIMARY KEY" in found
    assert set(re.findall(r"SCAN (\w+)", found)) <= {"shared_logs", "CONSTANT"}
    assert "TEMP B-TREE" not in found


def test_blobs_are_found_by_their_digests(plans: sqlite3.Connection) -> None:
    found = plan(plans, queries("sqlite.sql")["blobs"], run_id="run", upto=9, digests="[]")
    assert "SEARCH blobs USING INDEX sqlite_autoindex_blobs_1 (digest=?)" in found
    assert "SEARCH given USING PRIMARY KEY (log=? AND blob=?)" in found
    assert set(re.findall(r"SCAN (\w+)", found)) <= {"shared_logs", "wanted"}


@pytest.mark.parametrize(
    "name",
    ["put_snapshot", "source", "give_blob", "delete_run", "who_needs_log", "cut_facts"],
)
def test_writes_use_indexes(plans: sqlite3.Connection, name: str) -> None:
    every = queries("sqlite.sql")[name]
    values = dict.fromkeys(re.findall(r":(\w+)", every), 1)
    found = plan(plans, every, **values)
    assert "SEARCH" in found
    assert set(re.findall(r"SCAN (\w+)", found)) <= {"sources", "CONSTANT"}


# --------------------------------------------------------------------------------------------------- other processes


async def test_a_waiter_hears_of_what_others_commit_to_its_run(backend: SQLiteBackend, path: Path) -> None:
    one, _ = await create(backend, new_run("one")), await create(backend, new_run("other"))
    woken = 0

    async def stand_by() -> None:
        nonlocal woken
        while True:
            await backend.wait_for_work("other", timeout=1000)
            woken += 1

    bystander = asyncio.create_task(stand_by())
    async with SQLiteBackend(path) as elsewhere:
        for seq in range(1, 21):
            waiter = asyncio.create_task(backend.wait_for_work("one", timeout=1000))
            await asyncio.sleep(0)  # from here on it listens
            await append(elsewhere, one, after=seq)
            async with asyncio.timeout(20):
                await waiter
        assert woken < 10  # at first, since it may have changed before anybody looked at it
        waiter = asyncio.create_task(backend.wait_for_work("other", timeout=1000))
        await asyncio.sleep(0)
        await elsewhere.delete_run("other")
        async with asyncio.timeout(20):
            await waiter
    bystander.cancel()


def test_processes_that_open_a_new_file_at_once_make_one_database(path: Path) -> None:
    script = """
async def main():
    backend = SQLiteBackend(path)
    await backend.create_run(new_run(sys.argv[2]))
    assert await backend.load(sys.argv[2])
asyncio.run(main())
"""
    outputs(6, script, path)
    with closing(sqlite3.connect(path)) as db:
        assert [row[0] for row in db.execute("SELECT run_id FROM runs ORDER BY 1")] == list("012345")
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_processes_that_claim_at_once_get_each_run_once(path: Path) -> None:
    async def prepare() -> None:
        async with SQLiteBackend(path) as backend:
            await asyncio.gather(*(backend.create_run(new_run(f"run{i}", status="pending")) for i in range(200)))

    script = """
async def main():
    async with SQLiteBackend(path) as backend:
        while leases := await backend.claim(sys.argv[2], now=T0, ttl=TTL, query=ClaimQuery(limit=3)):
            for lease in leases:
                await append(backend, lease)
                print(lease.run_id)
asyncio.run(main())
"""
    asyncio.run(prepare())
    claimed = [run_id for output in outputs(4, script, path) for run_id in output.split()]
    assert sorted(claimed) == sorted(f"run{i}" for i in range(200))


@pytest.mark.parametrize("synchronous", ["full", "normal"])
def test_a_killed_process_loses_nothing_that_was_acknowledged(path: Path, synchronous: str) -> None:
    script = """
async def main():
    backend = SQLiteBackend(path, synchronous=sys.argv[2])
    lease = await create(backend)
    for seq in range(2, 10**9):
        await backend.append(lease, [type(LOG[0])(seq, b"{}", "h")], expected_seq=seq - 1, update=update())
        print(seq, flush=True)
asyncio.run(main())
"""
    with processes(1, script, path, synchronous) as [process]:
        assert process.stdout is not None
        acknowledged = [int(process.stdout.readline()) for _ in range(1500)]
        process.send_signal(signals.SIGKILL)
        acknowledged += map(int, process.stdout.read().split())

    async def records() -> list[int]:
        async with SQLiteBackend(path) as backend:
            return [record.seq for record in (await load(backend)).records]

    found = asyncio.run(records())
    assert found == list(range(1, len(found) + 1))
    assert len(found) - acknowledged[-1] in (0, 1)  # the last one may have been durable before it was printed
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("last_words", ["", "reading.cancel()", "os.chdir('/')", "raise SystemExit(0)"])
def test_a_process_ends_without_close(path: Path, last_words: str) -> None:
    script = f"""
backend = SQLiteBackend(path)
async def main():
    lease = await create(backend)
    await append(backend, lease)
    await asyncio.gather(*(backend.load("run") for _ in range(5)))
    waiting = asyncio.create_task(backend.wait_for_work(timeout=1000))
    writing = asyncio.create_task(append(backend, lease, after=2))
    reading = asyncio.create_task(backend.load("run"))
    await asyncio.sleep(0)
    {last_words}
asyncio.run(main())
"""
    with processes(1, script, path) as [process]:
        output, errors = process.communicate(timeout=50)
        assert (output, errors, process.returncode) == ("", "", 0)

    async def last_seq() -> int:
        async with SQLiteBackend(path) as backend:
            return (await load(backend)).summary.last_seq

    assert asyncio.run(last_seq()) >= 2
