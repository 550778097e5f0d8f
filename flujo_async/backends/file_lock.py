"""What operating systems do differently: locks on files, and files that appear and go."""

from __future__ import annotations

import os
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path

from flujo_async.errors import BackendError

BINARY = getattr(os, "O_BINARY", 0)
_LONGEST_NAP = 0.02
_DURABLE: set[tuple[int, int]] = set()  # the directories of which this process knows that they outlast a power cut

if sys.platform == "win32":
    import msvcrt

    # Windows locks ranges of bytes and keeps everybody from reading them: so one far behind the end.
    _FAR = 1 << 40

    def lock(fd: int) -> None:
        """Wait until this process alone has the file."""
        while True:
            try:
                os.lseek(fd, _FAR, os.SEEK_SET)
                return msvcrt.locking(fd, msvcrt.LK_LOCK, 1)
            except OSError:  # it gives up after ten seconds: ask again
                continue

    def try_lock(fd: int) -> bool:
        """Take the lock if it is free, and tell whether it was."""
        try:
            os.lseek(fd, _FAR, os.SEEK_SET)
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def unlock(fd: int) -> None:
        """Let others have the file."""
        os.lseek(fd, _FAR, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)

    def sync_directory(path: Path) -> None:
        """Do nothing: Windows has no such thing."""

else:
    import fcntl

    def lock(fd: int) -> None:
        """Wait until this open file alone has the lock: a second one in the same process waits too."""
        fcntl.flock(fd, fcntl.LOCK_EX)

    def try_lock(fd: int) -> bool:
        """Take the lock if it is free, and tell whether it was."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(fd: int) -> None:
        """Let others have the file."""
        fcntl.flock(fd, fcntl.LOCK_UN)

    def sync_directory(path: Path) -> None:
        """Make durable which files there are in a directory."""
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def lock_within(fd: int, seconds: float) -> bool:
    """Wait for the lock as ``lock`` does, ``seconds`` at most; tell whether it was had."""
    deadline = time.monotonic() + seconds
    nap = 0.0005
    while not try_lock(fd):
        if time.monotonic() >= deadline:
            return False
        time.sleep(nap)
        nap = min(2 * nap, _LONGEST_NAP)
    return True


def write_file(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Write a file, and what is in it durably, if ``sync``; its name lasts when its directory has been synced.

    What could not be written whole is removed: on a full disk it would take the room that is left.
    """
    try:
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            if sync:
                os.fsync(file.fileno())
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file that does not change any more a second name.

    Where the file system has no hard links, or this file has as many as it may have, the second name is a copy.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except OSError:
        _copy_file(source, target)


def link_growing(source: Path, target: Path) -> None:
    """Give a file that others still add to, and may remove, a second name."""
    if os.name == "nt":  # to be removed there it is emptied first
        _copy_file(source, target)
    else:
        link_or_copy(source, target)


def _copy_file(source: Path, target: Path) -> None:
    """Copy what is in a file, durably."""
    shutil.copyfile(source, target)
    sync_file(target)


def sync_file(path: Path) -> None:
    """Make durable what is in a file."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def make_directory(path: Path) -> None:
    """Make a directory durably, and before it those above it, unless it is there.

    Whoever made one that is there may have died before it was durable, so each process sees to that once.
    """
    if not path.is_dir():
        make_directory(path.parent)
        try:
            path.mkdir(exist_ok=True)
        except FileExistsError as error:
            raise BackendError(f"{path}: this is a file, the file backend keeps runs in a directory") from error
        sync_directory(path.parent)
    elif _mark(path) not in _DURABLE:
        with suppress(PermissionError):  # it was made by somebody with other rights, who saw to it
            sync_directory(path.parent)
    _DURABLE.add(_mark(path))


def _mark(directory: Path) -> tuple[int, int]:
    found = directory.stat()
    return found.st_dev, found.st_ino
