"""Noticing that a database was taken away from under those who have it open."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from flujo_async.errors import BackendError


class Place:
    """Where the files of an open database stand.

    A file that others remove, or put another in the place of, is written as before, and nobody finds what is in it. So
    what was committed is told to callers only if the files were still there afterwards: whoever replaces them later
    takes away what could be seen.

    Args:
        database: the database, which is open; of its write-ahead log as well, which goes with the last connection.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        self._files = (_File(str(database)), _File(str(log_of(database))))

    def check(self) -> None:
        """Raise unless the files are where they were.

        Raises:
            BackendError: somebody has removed or replaced one of them.
        """
        for file in self._files:
            if not file.is_kept():
                raise BackendError(self._what_to_do(file.path, "removed" if _mark(file.path) is None else "replaced"))

    def is_kept(self) -> bool:
        """Tell whether the files are where they were."""
        return all(file.is_kept() for file in self._files)

    def close(self) -> None:
        """Close what was opened for looking; looking goes on, and takes longer."""
        for file in self._files:
            file.close()

    def _what_to_do(self, path: str, happened: str) -> str:
        name = self._database.name
        return (
            f"{path} was {happened} while it was open, and nobody would find what is written to it now: stop all "
            f"processes that use {self._database}; then put back what was there, or remove {name}-wal and {name}-shm, "
            f"which belong to that, and start again"
        )


def log_of(database: Path) -> Path:
    """Return where the write-ahead log of a database is: beside the file itself, where a symbolic link leads to it."""
    return Path(f"{os.path.realpath(database)}-wal")


class _File:
    """A file, and whether it is still what its path leads to.

    Linux tells the name that an open file has now, and mostly that answers the question. To ask for what ``stat`` tells
    is dear: Linux keeps the times of a file more exactly once somebody has asked for them, and a commit to a
    write-ahead log that was looked at so would have to write its inode as well, a third block beside two.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._mark = _mark(path)
        self._fd = _open_to_name(path)
        self._link = f"/proc/self/fd/{self._fd}"

    def is_kept(self) -> bool:
        try:
            if os.readlink(self._link) == self.path:
                return True
        except OSError:  # it was not opened, or there is no such directory
            pass
        return _mark(self.path) == self._mark  # a symbolic link leads to another name

    def close(self) -> None:
        fd, self._fd, self._link = self._fd, None, ""
        if fd is not None:
            os.close(fd)


def _mark(path: str) -> tuple[int, int] | None:
    """Return what tells a file from all others while it is open; ``None`` if there is none."""
    try:
        found = os.stat(path)
    except OSError:  # a directory that is gone, or may not be entered, hides it as well
        return None
    return found.st_dev, found.st_ino


def _open_to_name(path: str) -> int | None:
    """Open a file for its name alone, which takes no right to it and leaves SQLite's locks; ``None`` if it cannot."""
    if sys.platform != "linux":
        return None
    with suppress(OSError):  # a file system without shared memory has no write-ahead log; too many files may be open
        return os.open(path, os.O_PATH)
    return None
