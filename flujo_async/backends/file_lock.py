"""What operating systems do differently: locks on files, and files that appear and go."""

from __future__ import annotations

import os
import sys
from pathlib import Path

BINARY = getattr(os, "O_BINARY", 0)

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


def make_directory(path: Path) -> None:
    """Make a directory durably, and before it those above it, unless it is there."""
    if not path.is_dir():
        make_directory(path.parent)
        path.mkdir(exist_ok=True)
        sync_directory(path.parent)
