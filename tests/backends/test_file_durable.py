"""What ``FileBackend`` acknowledges lasts, though a process died before it had synced what that builds upon.

Everybody sees such a write, and a failure of power would take it away. Another object stands for the next process.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flujo_async.backends.file import FileBackend
from flujo_async.backends.file_entries import ENTRIES
from flujo_async.testing.samples import LOG, create, entry, fork, new_run

pytestmark = pytest.mark.skipif(os.name == "nt", reason="directories cannot be synced there")


class Syncs:
    """The files and directories that were synced, in order."""

    def __init__(self) -> None:
        self._seen: list[int] = []

    def note(self, fd: int) -> None:
        self._seen.append(os.fstat(fd).st_ino)

    def of(self, path: Path) -> list[int]:
        """Return at which places of the order a file was synced."""
        return [place for place, number in enumerate(self._seen) if number == path.stat().st_ino]

    def forget(self) -> None:
        self._seen.clear()


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> Syncs:
    found, real = Syncs(), os.fsync

    def fsync(fd: int) -> None:
        real(fd)
        found.note(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    return found


async def test_what_a_fork_shares_is_durable_before_the_fork_is(tmp_path: Path, syncs: Syncs) -> None:
    await create(FileBackend(tmp_path), new_run(records=LOG[:2]))
    syncs.forget()
    next_one = FileBackend(tmp_path)
    await create(next_one, fork(LOG[:2])[0])
    assert syncs.of(tmp_path / "run.jsonl") < syncs.of(tmp_path / "fork.jsonl")
    assert len(syncs.of(tmp_path / "run.jsonl")) == 1
    await create(next_one, fork(LOG[:2], "again")[0])
    assert len(syncs.of(tmp_path / "run.jsonl")) == 1, "it is known to be durable by now"


async def test_a_log_has_its_name_for_good_before_there_is_a_line_in_it(tmp_path: Path, syncs: Syncs) -> None:
    """So whoever finds a line, and adds one, need not ask."""
    await create(FileBackend(tmp_path))
    [first], [name] = syncs.of(tmp_path / "run.jsonl"), syncs.of(tmp_path)
    assert name < first


async def test_a_deletion_that_is_repeated_is_made_durable(tmp_path: Path, syncs: Syncs) -> None:
    await create(FileBackend(tmp_path))
    (tmp_path / "run.jsonl").unlink()
    syncs.forget()
    await FileBackend(tmp_path).delete_run("run")
    assert syncs.of(tmp_path)


async def test_entries_are_added_to_a_file_that_has_its_name_for_good(tmp_path: Path, syncs: Syncs) -> None:
    await FileBackend(tmp_path).put_entries([entry()])
    syncs.forget()
    next_one = FileBackend(tmp_path)
    await next_one.put_entries([entry("b")])
    assert len(syncs.of(tmp_path)) == 1
    await next_one.put_entries([entry("c")])
    assert len(syncs.of(tmp_path)) == 1, "it is known to be durable by now"


async def test_a_deletion_of_entries_that_is_repeated_is_made_durable(tmp_path: Path, syncs: Syncs) -> None:
    backend = FileBackend(tmp_path)
    await backend.put_entries([entry(), entry("b")])
    await backend.delete_run(entry().run_id)
    syncs.forget()
    next_one = FileBackend(tmp_path)
    await next_one.delete_run(entry().run_id)
    assert len(syncs.of(tmp_path / ENTRIES)) == 1
    await next_one.delete_run(entry().run_id)
    assert len(syncs.of(tmp_path / ENTRIES)) == 1, "it is known to be durable by now"
