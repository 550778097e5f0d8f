"""Entries in files: what is on disk, and what a crash, a failing disk or another process leaves."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flujo_async._model.entry import Entry, EntryQuery
from flujo_async.backends import file_lock
from flujo_async.backends.file import FileBackend
from flujo_async.backends.file_entries import ENTRIES, EntryFile
from flujo_async.errors import BackendError, SchemaTooNew
from flujo_async.testing.samples import SECOND, T0, create, entry, kept


@pytest.fixture
def backend(tmp_path: Path) -> FileBackend:
    return FileBackend(tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / ENTRIES


def content(file: Path) -> bytes:
    """Return what is in the file; nothing where there is none."""
    return file.read_bytes() if file.exists() else b""


def write(file: Path, data: bytes) -> None:
    file.write_bytes(data)


async def test_an_entry_is_a_line_that_jq_reads(backend: FileBackend, file: Path) -> None:
    await backend.put_entries([entry(body={"a": 1})])
    header, line = map(json.loads, content(file).splitlines())
    assert header["format"] == 1
    moment = "2026-03-29T01:30:00.123456+00:00"
    of_run = {"run_id": "run", "kind": "state", "key": ""}
    assert line["entry"] == {**of_run, "body": {"a": 1}, "created_at": moment, "updated_at": moment}


async def test_a_store_without_entries_has_no_file_for_them(backend: FileBackend, file: Path) -> None:
    """It is made with the first and goes with the last."""
    await create(backend)
    await backend.delete_run("run")
    assert content(file) == b""
    await backend.put_entries([entry(), entry(key="k")])
    assert content(file)
    await backend.delete_run("run")
    assert content(file) == b""
    assert await kept(backend) == []


@pytest.mark.parametrize("kept_bytes", [1, 40, -1])
async def test_the_rest_of_an_unfinished_write_is_dropped(
    backend: FileBackend, file: Path, kept_bytes: int, caplog: pytest.LogCaptureFixture
) -> None:
    """However much of its lines had come: two entries that were put together are both there, or neither."""
    await backend.put_entries([entry()])
    whole = content(file)
    await backend.put_entries([entry("a"), entry("b")])
    write(file, content(file)[: len(whole) + kept_bytes if kept_bytes > 0 else -1])
    other = FileBackend(file.parent)
    assert await kept(other) == [entry()]
    with caplog.at_level(logging.WARNING, "flujo_async"):
        await other.put_entries([entry("c")])
    assert "unfinished write" in caplog.text
    assert await kept(backend) == await kept(FileBackend(file.parent)) == [entry("c"), entry()]


async def test_what_another_object_has_cut_off_and_written_anew_is_seen(backend: FileBackend, file: Path) -> None:
    """One that remembers where things stood does not trust that in another file of the same name."""
    await backend.put_entries([entry("a"), entry("b")])
    assert len(await kept(backend)) == 2
    other = FileBackend(file.parent)
    await other.delete_run("a")
    await other.compact()
    await other.put_entries([entry("c", body={"long": "x" * 1000})])
    assert [found.run_id for found in await kept(backend)] == ["b", "c"]


async def test_a_write_that_fails_leaves_nothing(
    backend: FileBackend, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await backend.put_entries([entry()])
    before = content(file)

    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(BackendError, match="Input/output"):
            await backend.put_entries([entry("a"), entry("b")])
    assert content(file) == before
    await backend.put_entries([entry("c")])
    assert await kept(backend) == [entry("c"), entry()]


async def test_a_write_makes_the_one_before_durable_again(
    backend: FileBackend, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever made it may have died when its sync failed, and the system then forgets that it was to be written."""
    await backend.put_entries([entry(body={"n": 1})])
    written: list[bytes] = []
    real = os.write

    def write(fd: int, data: Any) -> int:
        written.append(bytes(data))
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    await FileBackend(file.parent).put_entries([entry("other")])
    assert b'{"n":1}' in b"".join(written)


async def test_a_file_that_is_mostly_out_of_date_is_written_anew(backend: FileBackend, file: Path) -> None:
    """Without being asked, from a megabyte on."""
    body: dict[str, Any] = {"long": "x" * 300_000}
    for n in range(8):
        await backend.put_entries([entry(body={**body, "n": n}, updated_at=T0 + n * SECOND)])
    assert len(content(file)) < 1_300_000
    assert (await kept(backend))[0].body == {**body, "n": 7}


async def test_a_write_that_is_durable_succeeds_though_nothing_can_be_written_anew(
    backend: FileBackend, file: Path
) -> None:
    """Whoever asks for it by ``compact`` is told."""
    (file.parent / "entries.new").mkdir()
    body: dict[str, Any] = {"long": "x" * 300_000}
    for n in range(8):
        await backend.put_entries([entry(body={**body, "n": n}, updated_at=T0 + n * SECOND)])
    assert (await kept(FileBackend(file.parent)))[0].body == {**body, "n": 7}
    with pytest.raises(BackendError):
        await backend.compact()


async def test_compaction_removes_what_is_out_of_date(backend: FileBackend, file: Path) -> None:
    await backend.put_entries([entry(), entry("gone")])
    await backend.delete_run("gone")
    (file.parent / "entries.new").write_bytes(b"left by a crash")
    await backend.compact()
    assert b"gone" not in content(file)
    assert sorted(os.listdir(file.parent)) == [ENTRIES]


async def test_a_line_that_nobody_wrote_is_told(backend: FileBackend, file: Path) -> None:
    await backend.put_entries([entry()])
    size = len(content(file))
    write(file, content(file) + b'{"entry": 1}\n')
    with pytest.raises(BackendError, match=f"behind byte {size}"):
        await kept(FileBackend(file.parent))


async def test_a_file_of_a_newer_version_is_refused(backend: FileBackend, file: Path) -> None:
    write(file, b'{"format": 2}\n')
    with pytest.raises(SchemaTooNew):
        await kept(backend)


@pytest.mark.skipif(sys.platform == "win32", reason="locks by fcntl")
async def test_who_reads_does_not_wait_for_a_stopped_writer(backend: FileBackend, file: Path) -> None:
    """What is whole is there all the same; whoever writes waits."""
    await backend.put_entries([entry()])
    fd = os.open(file, os.O_RDWR)
    try:
        file_lock.lock(fd)
        assert await kept(backend) == [entry()]
    finally:
        os.close(fd)
    assert await kept(backend) == [entry()]


_WRITER = """
import asyncio, sys
from flujo_async.backends.file import FileBackend
from flujo_async.testing.samples import entry

async def main(directory, name):
    backend = FileBackend(directory)
    for n in range(40):
        await backend.put_entries([entry("shared", "step", f"{name} {n}"), entry(name, "step", str(n))])
        if n % 10 == 9:
            await backend.compact()
            await backend.put_entries([entry("gone", "step", name)])
            await backend.delete_run("gone")

asyncio.run(main(*sys.argv[1:]))
"""


async def test_processes_lose_none_of_each_others_entries(backend: FileBackend, tmp_path: Path) -> None:
    """They write, delete and compact at the same time."""
    names = ["a", "b", "c"]
    writers = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", _WRITER, str(tmp_path), name) for name in names
    ]
    assert [await writer.wait() for writer in writers] == [0, 0, 0]
    assert len(await kept(backend, run_id="shared")) == 120
    assert [len(await kept(backend, run_id=name)) for name in names] == [40, 40, 40]


class Taking(list[Entry]):
    """Entries that remove a file when they are looked at, which is in the middle of being kept."""

    def __init__(self, entries: list[Entry], file: Path) -> None:
        super().__init__(entries)
        self.file = file

    def __iter__(self) -> Iterator[Entry]:
        self.file.unlink(missing_ok=True)
        return super().__iter__()


def test_entries_whose_file_is_taken_away_while_it_is_written_are_not_acknowledged(tmp_path: Path, file: Path) -> None:
    entries = EntryFile(tmp_path)
    entries.put([entry("a")], None)
    with pytest.raises(BackendError, match=f"{file} was removed or replaced while it was written"):
        entries.put(Taking([entry("b")], file), None)
    assert entries.read(EntryQuery()) == []
    entries.put([entry("c")], None)
    assert [kept.run_id for kept in entries.read(EntryQuery())] == ["c"]
