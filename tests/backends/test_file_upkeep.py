"""Copying a directory of runs while others write it, and removing what deleted runs and crashes have left."""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path

import pytest

from flujo_async.backends.file import FileBackend
from flujo_async.errors import BackendError
from flujo_async.testing.samples import (
    LOG,
    T0,
    TTL,
    append,
    blob,
    blobs_of,
    create,
    fork,
    listed,
    load,
    new_run,
    snapshot,
)
from tests.backends.file_programs import script, side

A, B = blob("a"), blob("b")


def left(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


# ----------------------------------------------------------------------------------------------------------- copies


async def test_a_copy_made_while_a_process_writes_is_whole(tmp_path: Path) -> None:
    """Each run has the records and the blobs of one moment, and what was acknowledged before."""
    body = """
    async def work(run_id):
        lease = await create(backend, new_run(run_id, blobs=[blob("1")]))
        for seq in range(1, 1000):
            record = sealed([b"{}"] * (seq + 1))[seq:]
            await backend.append(lease, record, expected_seq=seq, update=update(), blobs=[blob(str(seq + 1))])
            print(run_id, seq + 1, flush=True)

    async def all():
        await asyncio.gather(*map(work, "ab"))
    asyncio.run(all())
    """
    process = script(body, tmp_path / "runs")
    assert process.stdout is not None
    acknowledged = {"a": 0, "b": 0}
    while min(acknowledged.values()) < 20:
        run_id, seq = (await asyncio.to_thread(process.stdout.readline)).split()
        acknowledged[run_id] = int(seq)
    await FileBackend(tmp_path / "runs").backup(tmp_path / "copy")
    process.kill()
    await asyncio.to_thread(process.communicate)
    copy = FileBackend(tmp_path / "copy")
    for run_id in "ab":
        last = (await load(copy, run_id)).summary.last_seq
        assert last >= acknowledged[run_id]
        blobs = {blob(str(n)) for n in range(1, last + 1)}
        assert await blobs_of(copy, run_id, blobs) == blobs


async def test_a_copy_stores_once_what_the_store_does(tmp_path: Path) -> None:
    """Blobs, and the logs that forks share: of a run that is there, and of one that was deleted."""
    backend = FileBackend(tmp_path / "runs")
    for run_id in ("run", "gone"):
        await create(backend, new_run(run_id, records=LOG[:5], blobs=[A]))
        for n in (1, 2, 3):
            await create(backend, fork(LOG[:n], f"{run_id}{n}", of=run_id, created_at=T0 + TTL)[0])
    await backend.delete_run("gone")
    await backend.backup(tmp_path / "copy")
    for directory in (tmp_path / "runs", tmp_path / "copy"):
        assert (directory / "blobs" / f"{A.digest}.json").stat().st_nlink == 8
        assert (directory / "run.jsonl").stat().st_nlink == 4
        assert {path.stat().st_nlink for path in side(directory, "gone1").glob("*.jsonl")} == {3}
    assert left(tmp_path / "copy") == left(tmp_path / "runs")
    for path in (tmp_path / "copy").rglob("*.json*"):
        assert not path.samefile(tmp_path / "runs" / path.relative_to(tmp_path / "copy"))


async def test_a_copy_leaves_out_what_is_unfinished(tmp_path: Path) -> None:
    """The half of a line, a creation that never was, and files that belong to nobody."""
    backend = FileBackend(tmp_path / "runs")
    await create(backend, new_run(blobs=[A]))
    await backend.set_system_state("key", {"a": 1})
    expected = left(tmp_path / "runs")
    expected.remove("system/.lock")
    with (tmp_path / "runs" / "run.jsonl").open("ab") as file:
        file.write(b'{"records":[{"seq":2')
    for name in ("empty.jsonl", "system/.new", "note", "blobs/old.json"):
        (tmp_path / "runs" / name).write_text("")
    (side(tmp_path / "runs") / ".new").write_text("half")
    (tmp_path / "runs" / "gone.jsonl.00.files").mkdir()
    await backend.backup(tmp_path / "copy")
    assert left(tmp_path / "copy") == expected
    assert (tmp_path / "copy" / "run.jsonl").read_bytes().endswith(b"}\n")


async def test_a_broken_log_is_copied_as_it_is(tmp_path: Path) -> None:
    """With all that it may have, so that somebody can mend it."""
    backend = FileBackend(tmp_path / "runs")
    await create(backend, new_run(records=LOG[:3]))
    await create(backend, fork(LOG[:2], blobs=[A])[0])
    (tmp_path / "runs" / "fork.jsonl").write_text("rubbish\n")
    await FileBackend(tmp_path / "runs").backup(tmp_path / "copy")
    assert (tmp_path / "copy" / "fork.jsonl").read_text() == "rubbish\n"
    assert left(tmp_path / "copy") == left(tmp_path / "runs")


async def test_a_directory_that_is_not_there_yet_has_an_empty_copy(tmp_path: Path) -> None:
    await FileBackend(tmp_path / "runs").backup(tmp_path / "copy")
    assert left(tmp_path) == ["copy"]


def test_a_copy_for_which_the_disk_is_too_small_leaves_nothing(tmp_path: Path) -> None:
    """It is told, and the store goes on."""
    body = """
    import resource
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    async def work():
        lease = await create(backend, new_run(metadata={"big": "x" * 10_000}))
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
        try:
            await backend.backup(Path(sys.argv[1]) / ".." / "copy")
        except BackendError as error:
            assert isinstance(error.__cause__, OSError)
            print("told")
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert await append(backend, lease) == 2
    asyncio.run(work())
    """
    (tmp_path / "runs").mkdir()
    out, _ = script(body, tmp_path / "runs").communicate(timeout=50)
    assert out == "told\n"
    assert left(tmp_path) == ["runs", "runs/run.jsonl"]


# ------------------------------------------------------------------------------------------------------- compacting


async def test_compacting_removes_what_crashes_have_left(tmp_path: Path) -> None:
    """And nothing else: neither what a run has, nor what is not the store's."""
    backend = FileBackend(tmp_path)
    lease = await create(backend, new_run(records=LOG[:3], blobs=[A]))
    await backend.put_snapshot(lease, snapshot(2))
    await create(backend, fork(LOG[:2], blobs=[B])[0])
    await backend.set_system_state("key", {"a": 1})
    (tmp_path / "note.txt").write_text("mine")
    before = left(tmp_path)
    (tmp_path / "gone.jsonl.00.files").mkdir()
    (tmp_path / "run.jsonl.00.files").mkdir()
    for name in ("empty.jsonl", "system/.new", "blobs/unused.json", "gone.jsonl.00.files/x.json"):
        (tmp_path / name).write_text("")
    (tmp_path / "torn.jsonl").write_text('{"format":1')
    for name in (".new", "unnamed.json", "unnamed.jsonl"):
        (side_of(tmp_path, lease.run_id) / name).write_text("")
    await FileBackend(tmp_path).compact()
    assert left(tmp_path) == before
    assert await blobs_of(backend, "fork", [A, B]) == {A, B}
    assert await append(backend, lease, after=3) == 4


def side_of(directory: Path, run_id: str) -> Path:
    return next(path for path in directory.glob(f"{run_id}.jsonl.*.files") if path.name.split(".")[-2] != "00")


async def test_a_deletion_that_ends_half_way_leaves_no_run(tmp_path: Path) -> None:
    """What is left is not listed, nor taken for a part of the next run of that name; compacting removes it."""
    backend = FileBackend(tmp_path)
    lease = await create(backend, new_run(records=LOG[:3], blobs=[A]))
    await backend.put_snapshot(lease, snapshot(2))
    (tmp_path / "run.jsonl").unlink()
    assert await listed(FileBackend(tmp_path)) == []
    await create(FileBackend(tmp_path), new_run(blobs=[B]))
    again = FileBackend(tmp_path)
    assert await blobs_of(again, "run", [A, B]) == {B}
    assert await again.load("run", from_snapshot=True) == await load(again)
    await again.compact()
    side(tmp_path)
    await again.delete_run("run")
    assert left(tmp_path) == ["blobs"]


async def test_compacting_leaves_a_broken_run_to_people(tmp_path: Path) -> None:
    backend = FileBackend(tmp_path)
    await create(backend, new_run(blobs=[A]))
    (tmp_path / "run.jsonl").write_text("rubbish\n")
    before = left(tmp_path)
    await FileBackend(tmp_path).compact()
    assert left(tmp_path) == before
    await FileBackend(tmp_path).delete_run("run")
    assert left(tmp_path) == ["blobs"]


async def test_compacting_does_not_wait_for_a_run_that_is_in_use(tmp_path: Path) -> None:
    await create(FileBackend(tmp_path), new_run(blobs=[A]))
    (tmp_path / "blobs" / "unused.json").write_text("")
    with (tmp_path / "run.jsonl").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        async with asyncio.timeout(20):
            await FileBackend(tmp_path).compact()
    assert os.listdir(tmp_path / "blobs") == [f"{A.digest}.json"]


async def test_a_failed_append_leaves_blobs_for_compacting(tmp_path: Path) -> None:
    """They went down before the line that names them, which did not fit."""
    body = """
    import resource
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    async def work():
        lease = await create(backend)
        resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(sys.argv[1] + "/run.jsonl") + 10, hard))
        try:
            await append(backend, lease, blobs=[blob("a")])
        except BackendError:
            print("told")
    asyncio.run(work())
    """
    out, _ = await asyncio.to_thread(script(body, tmp_path).communicate, timeout=50)
    assert out == "told\n"
    backend = FileBackend(tmp_path)
    assert side(tmp_path).joinpath(f"{A.digest}.json").exists()
    await backend.compact()
    assert await blobs_of(backend, "run", [A]) == set()
    assert os.listdir(tmp_path / "blobs") == []


async def test_a_backup_into_the_store_itself_is_no_run(tmp_path: Path) -> None:
    backend = FileBackend(tmp_path)
    await create(backend)
    await backend.backup(tmp_path / "copy")
    await backend.compact()
    assert await listed(backend) == ["run"]
    assert await listed(FileBackend(tmp_path / "copy")) == ["run"]
    with pytest.raises(BackendError):
        await backend.backup(tmp_path / "missing" / "copy")
