"""A disk that is full, really: a small file system of its own, and a limit on the size of files (G4).

A disk that is full at the n-th write is in ``test_failing_calls``.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.faults.stage import Performance, Stage, undisturbed
from tests.crash.faults.stores import ON_DISK

PAGE = 4096


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    disk = tmp_path / "small"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a file system of its own takes root: {mounted.stderr.decode().strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def fill(disk: Path, pages: int) -> Path:
    """Fill a disk up to a few pages; return the ballast."""
    ballast = disk / "ballast"
    free = os.statvfs(disk)
    with ballast.open("wb") as file:
        file.write(bytes((free.f_bavail * free.f_frsize // PAGE - pages) * PAGE))
    return ballast


def check_told(told: Performance, *causes: str) -> None:
    """Check that the caller got an error that names the cause, unless there was room for all."""
    assert told.has_ended != bool(told.failed)
    if told.failed:
        name, message, cause = told.failed
        assert name == "BackendError"
        assert any(each in f"{message} {cause}" for each in causes), (message, cause)


async def fill_and_resume(kind: str, directory: Path, disk: Path, pages: int) -> bool:
    """Leave so many pages free, then free the rest; return whether that was too little."""
    stage = Stage(kind, directory, disk=disk / "store")
    expected = await undisturbed(stage.scene, directory / "undisturbed")
    ballast = fill(disk, pages)
    told = await stage.perform()
    check_told(told, "No space left", "disk is full", "disk I/O error")
    ballast.unlink()
    await stage.resume_and_check(told, expected)
    for path in stage.files():
        path.unlink()
    return told.failed is not None


@pytest.mark.parametrize(("kind", "pages"), [("file", 1), pytest.param("sqlite", 40, marks=pytest.mark.crash)])
async def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_room(
    tmp_path: Path, small_disk: Path, kind: str, pages: int
) -> None:
    """At one moment; all of them are tried by ``-m crash``."""
    assert await fill_and_resume(kind, tmp_path, small_disk, pages)


@pytest.mark.crash
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ON_DISK)
async def test_a_disk_that_is_full_at_any_page_loses_nothing(tmp_path: Path, small_disk: Path, kind: str) -> None:
    pages = 0
    while await fill_and_resume(kind, tmp_path / str(pages), small_disk, pages):
        pages += 1
    assert pages >= 2
    print(f"{kind}: full at {pages} places")


async def limit_and_resume(kind: str, directory: Path, size: int) -> bool:
    """Let no file grow beyond a size; return whether that was too small."""
    stage = Stage(kind, directory)
    expected = await undisturbed(stage.scene, directory / "undisturbed")
    told = await stage.perform(largest_file=size)
    check_told(told, "File too large", "disk I/O error", "disk is full")
    await stage.resume_and_check(told, expected)
    return told.failed is not None


@pytest.mark.parametrize(("kind", "size"), [("file", 3000), pytest.param("sqlite", 170_000, marks=pytest.mark.crash)])
async def test_a_file_that_may_not_grow_is_told(tmp_path: Path, kind: str, size: int) -> None:
    assert await limit_and_resume(kind, tmp_path, size)


@pytest.mark.crash
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("kind", "stride"), [("file", 100), ("sqlite", 4120 * 2)])
async def test_a_file_that_may_not_grow_at_any_size_loses_nothing(tmp_path: Path, kind: str, stride: int) -> None:
    size = 0
    while await limit_and_resume(kind, tmp_path / str(size), size):
        size += stride
    assert size > stride * 10
