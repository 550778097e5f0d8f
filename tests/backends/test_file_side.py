"""What ``FileBackend`` keeps beside the logs: blobs, logs that forks share, snapshots."""

from __future__ import annotations

import asyncio
import os
import signal as signals
from collections.abc import Callable
from pathlib import Path

import pytest

from flujo_async._model.lease import Lease
from flujo_async._model.stored import Prefix, StoredRun
from flujo_async.backends.file import FileBackend
from flujo_async.errors import BackendError, IntegrityError, RunExists, RunNotFound, StaleLease
from flujo_async.testing.samples import (
    LOG,
    append,
    blob,
    blobs_of,
    create,
    fork,
    listed,
    load,
    new_run,
    signal,
    snapshot,
)
from tests.backends.file_programs import script, side

A, B, C = blob("a"), blob("b"), blob("c")


def links(directory: Path, digest: str) -> int:
    return (directory / "blobs" / f"{digest}.json").stat().st_nlink


def left(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


# ------------------------------------------------------------------------------------------------------------ blobs


async def test_equal_blobs_are_one_file(tmp_path: Path) -> None:
    """That of the first run; each further one has a link, and the last that goes takes the file away."""
    backend = FileBackend(tmp_path)
    lease = await create(backend, new_run("one", blobs=[A]))
    await append(backend, lease, blobs=[B])
    await create(FileBackend(tmp_path), new_run("two", blobs=[A]))
    assert (links(tmp_path, A.digest), links(tmp_path, B.digest)) == (3, 2)
    assert (side(tmp_path, "two") / f"{A.digest}.json").read_bytes() == A.data
    await backend.delete_run("one")
    assert links(tmp_path, A.digest) == 2
    assert not (tmp_path / "blobs" / f"{B.digest}.json").exists()
    await backend.delete_run("two")
    assert left(tmp_path) == ["blobs"]


async def test_a_run_without_blobs_has_its_log_and_nothing_else(tmp_path: Path) -> None:
    backend = FileBackend(tmp_path)
    await append(backend, await create(backend))
    assert left(tmp_path) == ["run.jsonl"]


@pytest.mark.parametrize("digest", ["../run", "..", "", "A" * 64, "x" * 500])
async def test_a_digest_is_not_taken_for_a_path(tmp_path: Path, digest: str) -> None:
    backend = FileBackend(tmp_path)
    await create(backend, new_run(blobs=[A]))
    assert await backend.read_blobs("run", [digest, A.digest]) == {A.digest: A.data}


def refuse(*_: object) -> None:
    raise OSError("no hard links here")


async def test_without_hard_links_each_run_has_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", refuse)
    backend = FileBackend(tmp_path)
    await create(backend, new_run("run", records=LOG[:2], blobs=[A]))
    await create(backend, new_run("two", blobs=[A]))
    run, log = fork(LOG[:2])
    await create(backend, run)
    for run_id in ("run", "two"):
        assert await blobs_of(backend, run_id, [A]) == {A}
        await backend.delete_run(run_id)
    assert (await load(backend, "fork")).records == log
    assert await blobs_of(backend, "fork", [A]) == {A}
    await backend.delete_run("fork")
    await backend.compact()
    assert left(tmp_path) == ["blobs"]


async def test_a_blob_with_as_many_links_as_a_file_may_have_is_stored_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And found by the next run."""
    backend, link = FileBackend(tmp_path), os.link
    await create(backend, new_run("one", blobs=[A]))
    full = os.stat(tmp_path / "blobs" / f"{A.digest}.json").st_ino

    def limited(source: Path, target: Path) -> None:
        if os.stat(source).st_ino == full:
            raise OSError("too many links")
        link(source, target)

    monkeypatch.setattr(os, "link", limited)
    for run_id in ("two", "three"):
        await create(backend, new_run(run_id, blobs=[A]))
    assert links(tmp_path, A.digest) == 3
    for run_id in ("one", "two", "three"):
        assert await blobs_of(backend, run_id, [A]) == {A}


async def test_runs_that_come_and_go_at_once_never_lack_a_blob(tmp_path: Path) -> None:
    """One process creates runs, another deletes and compacts: the blob that all share is there for each."""
    body = """
    async def work(name):
        for turn in range(12):
            lease = await create(backend, new_run(name, blobs=[blob("a")]))
            await append(backend, lease, blobs=[blob(str(turn))])
            assert len(await blobs_of(backend, name, [blob("a"), blob(str(turn))])) == 2
            await backend.delete_run(name)
            if turn % 5 == 0:
                await backend.compact()

    async def both():
        await asyncio.gather(work(f"one{os.getpid()}"), work(f"two{os.getpid()}"))
    asyncio.run(both())
    """
    processes = [script(body, tmp_path) for _ in range(2)]
    for process in processes:
        await asyncio.to_thread(process.communicate, timeout=50)
    assert [process.returncode for process in processes] == [0, 0]
    await FileBackend(tmp_path).compact()
    assert left(tmp_path) == ["blobs"]


@pytest.mark.parametrize("acknowledged", [1, 8])
def test_no_blob_of_what_was_acknowledged_is_lost_by_a_kill(tmp_path: Path, acknowledged: int) -> None:
    """Wherever the process is when it is killed: no log lacks a blob, and what is of no use can be removed."""
    body = """
    async def work():
        for turn in range(10_000):
            name = f"run{turn % 3}"
            await backend.delete_run(name)
            lease = await create(backend, new_run(name, blobs=[blob("a"), blob(str(turn))]))
            await append(backend, lease, blobs=[blob("b")])
            print(name, turn, flush=True)
    asyncio.run(work())
    """
    process = script(body, tmp_path)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(acknowledged)]
    process.send_signal(signals.SIGKILL)
    lines += process.stdout.read().splitlines()
    process.communicate()
    asyncio.run(check_after_kill(FileBackend(tmp_path), dict(line.split() for line in lines[-2:] if " " in line)))
    assert left(tmp_path) == ["blobs"]


async def check_after_kill(backend: FileBackend, acknowledged: dict[str, str]) -> None:
    for run_id in await listed(backend):
        count = (await load(backend, run_id)).summary.last_seq
        assert await blobs_of(backend, run_id, [A, B][:count]) == {A, B} - ({B} if count < 2 else set())
    [*_, (run_id, turn)] = acknowledged.items()
    assert await blobs_of(backend, run_id, [blob(turn)]) == {blob(turn)}
    await backend.compact()
    for run_id in await listed(backend):
        await backend.delete_run(run_id)


# ------------------------------------------------------------------------------------------------------------ forks


async def test_a_fork_shares_the_file_of_its_source(tmp_path: Path) -> None:
    """Its own log tells which one it is; deleting the source leaves the file to the fork."""
    backend = FileBackend(tmp_path)
    source = await create(backend, new_run(metadata={"big": "x" * 10_000}))
    await append(backend, source, count=10)
    run, log = fork(LOG[:5])
    await create(backend, run)
    [shared] = side(tmp_path, "fork").iterdir()
    assert shared.samefile(tmp_path / "run.jsonl")
    assert shared.stem.encode() in (tmp_path / "fork.jsonl").read_bytes()
    assert (tmp_path / "fork.jsonl").stat().st_size < 2000
    await backend.delete_run("run")
    assert (await load(FileBackend(tmp_path), "fork")).records == log
    assert await listed(FileBackend(tmp_path)) == ["fork"]
    await backend.delete_run("fork")
    assert left(tmp_path) == []


async def test_what_is_its_sources_own_does_not_touch_a_fork(tmp_path: Path) -> None:
    """Signals; and later whole lines, half ones, and the repair of these."""
    backend = FileBackend(tmp_path)
    source = await create(backend)
    await backend.post(signal("before"))
    await append(backend, source, count=2)
    run, log = fork(LOG[:2])
    await create(backend, run)
    await append(backend, source, after=3)
    await backend.post(signal("after"))
    with (tmp_path / "run.jsonl").open("ab") as file:
        file.write(b'{"records":[{"seq":5')
    found = await load(FileBackend(tmp_path), "fork")
    assert (found.records, found.signals) == (log, ())
    assert await append(backend, source, after=4) == 5
    assert (await load(FileBackend(tmp_path), "fork")).records == log


async def test_a_fork_that_lost_what_it_shares_says_so(tmp_path: Path) -> None:
    backend = FileBackend(tmp_path)
    await create(backend)
    await create(backend, fork(LOG[:1])[0])
    for path in side(tmp_path, "fork").iterdir():
        path.unlink()
    with pytest.raises(IntegrityError, match="gone") as caught:
        await backend.load("fork")
    assert (caught.value.run_id, caught.value.seq) == ("fork", 1)


async def test_a_fork_whose_shared_log_has_lost_its_end_says_so(tmp_path: Path) -> None:
    backend = FileBackend(tmp_path)
    await create(backend, new_run(records=LOG[:2]))
    await create(backend, fork(LOG[:2])[0])
    [shared] = side(tmp_path, "fork").iterdir()
    os.truncate(shared, shared.stat().st_size - 1)
    with pytest.raises(IntegrityError, match="gone") as caught:
        await FileBackend(tmp_path).load("fork")
    assert (caught.value.run_id, caught.value.seq) == ("fork", 1)


async def test_forks_in_both_directions_do_not_wait_for_each_other(tmp_path: Path) -> None:
    backend = FileBackend(tmp_path)
    for run_id in ("one", "two"):
        await create(backend, new_run(run_id))
    forks = [fork(LOG[:1], "one", of="two")[0], fork(LOG[:1], "two", of="one")[0]]
    async with asyncio.timeout(20):
        results = await asyncio.gather(*map(backend.create_run, forks * 50), return_exceptions=True)
    assert {type(result) for result in results} == {RunExists}


async def test_a_fork_of_itself_is_refused(tmp_path: Path) -> None:
    backend = FileBackend(tmp_path)
    run = new_run(prefix=Prefix("run", 1, LOG[0].hash))
    with pytest.raises(RunNotFound):
        await backend.create_run(run)
    await create(backend)
    with pytest.raises(RunExists):
        await backend.create_run(run)
    assert left(tmp_path) == ["run.jsonl"]


async def test_a_refused_fork_leaves_no_file(tmp_path: Path) -> None:
    backend = FileBackend(tmp_path)
    with pytest.raises(RunNotFound):
        await backend.create_run(fork(LOG[:1])[0])
    assert left(tmp_path) == []


async def test_a_deleted_log_that_a_fork_keeps_is_not_written_any_more(tmp_path: Path) -> None:
    """Another object has the file open, and the file is still there: but not under its name."""
    backend, other = FileBackend(tmp_path), FileBackend(tmp_path)
    lease = await create(backend)
    await append(backend, lease)
    await load(other)
    await create(backend, fork(LOG[:2])[0])
    await backend.delete_run("run")
    with pytest.raises(StaleLease):
        await append(other, lease, after=2)
    assert await other.load("run") is None
    await create(backend)
    assert (await load(other)).records == LOG[:1]


# -------------------------------------------------------------------------------------------------------- snapshots


async def prepared(backend: FileBackend, *, seq: int = 4) -> Lease:
    lease = await create(backend)
    await backend.post(signal("s1"))
    for after in range(1, 6):
        await append(backend, lease, after=after)
    await backend.put_snapshot(lease, snapshot(seq))
    await backend.post(signal("s2"))
    return lease


async def from_snapshot(backend: FileBackend) -> StoredRun:
    run = await backend.load("run", from_snapshot=True)
    assert run is not None
    return run


def cut(data: bytes) -> bytes:
    return data[:-1]


def flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def empty(_: bytes) -> bytes:
    return b""


def zeros(data: bytes) -> bytes:
    return bytes(len(data))


@pytest.mark.parametrize("spoil", [cut, flip, empty, zeros])
async def test_a_broken_snapshot_is_as_good_as_none(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    lease = await prepared(backend := FileBackend(tmp_path))
    path = side(tmp_path) / "snapshot"
    path.write_bytes(spoil(path.read_bytes()))
    assert await from_snapshot(backend) == await load(backend)
    await backend.put_snapshot(lease, snapshot(5))
    assert (await from_snapshot(backend)).snapshot == snapshot(5)


@pytest.mark.parametrize("seq", [4, 6])
async def test_what_a_snapshot_stands_for_is_not_read(tmp_path: Path, seq: int) -> None:
    """The proof: it was spoilt. Signals are found all the same, before and behind."""
    await prepared(FileBackend(tmp_path), seq=seq)
    path = tmp_path / "run.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"n":3', b'"n":*'))
    found = await from_snapshot(FileBackend(tmp_path))
    assert (found.snapshot, found.records) == (snapshot(seq), LOG[seq:6])
    assert [posted.signal_id for posted in found.signals] == ["s1", "s2"]
    with pytest.raises(IntegrityError):
        await FileBackend(tmp_path).load("run")


async def test_a_snapshot_by_an_object_that_wrote_nothing_is_good_too(tmp_path: Path) -> None:
    lease = await prepared(FileBackend(tmp_path))
    await FileBackend(tmp_path).put_snapshot(lease, snapshot(3))
    found = await from_snapshot(FileBackend(tmp_path))
    assert (found.snapshot, found.records) == (snapshot(3), LOG[3:6])


async def test_a_snapshot_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    lease = await prepared(backend := FileBackend(tmp_path))
    path = side(tmp_path)
    (path / ".new").mkdir()
    with pytest.raises(BackendError):
        await backend.put_snapshot(lease, snapshot(5))
    assert (await from_snapshot(backend)).snapshot == snapshot(4)
