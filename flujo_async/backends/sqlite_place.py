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

    Linux keeps the times of a file more exactly once somebody has asked for them, as ``stat`` does, and a commit to a
    write-ahead log that was looked at so writes the log's inode to the disk as well, each time: a third block beside
    two. So the log is asked for its name instead, through a descriptor that can do nothing else.

    Args:
        database: the database, which is open; of its write-ahead log as well, which goes with the last connection.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        self._path, self._log_path = str(database), str(log_of(database))
        self._log = _open_to_name(self._log_path)
        # A file system that has no shared memory gets no write-ahead log.
        self._marks = [(path, mark) for path in (self._path, self._log_path) if (mark := _mark(path))]

    def check(self) -> None:
        """Raise unless the files are where they were.

        Raises:
            BackendError: somebody has removed or replaced one of them.
        """
        for path, mark in self._marks:
            if not self._has_kept(path, mark):
                raise BackendError(self._what_to_do(path, "replaced" if _mark(path) else "removed"))

    def is_kept(self) -> bool:
        """Tell whether the files are where they were."""
        return all(self._has_kept(path, mark) for path, mark in self._marks)

    def close(self) -> None:
        """Close what was opened for looking; looking goes on, and takes longer."""
        log, self._log = self._log, None
        if log is not None:
            os.close(log)

    def _has_kept(self, path: str, mark: tuple[int, int]) -> bool:
        return (path == self._log_path and _name_of(self._log) == path) or _mark(path) == mark

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


def _mark(path: str) -> tuple[int, int] | None:
    """Return what tells a file from all others while it is open; ``None`` if there is none."""
    try:
        found = os.stat(path)
    except OSError:  # a directory that is gone, or may not be entered, hides it as well
        return None
    return found.st_dev, found.st_ino


def _open_to_name(path: str) -> int | None:
    """Open a file for nothing but its name, which neither needs a right to it nor touches SQLite's locks."""
    with suppress(OSError):
        if sys.platform == "linux":
            return os.open(path, os.O_PATH)
    return None


def _name_of(file: int | None) -> str | None:
    """Return where Linux says that an open file is now; ``None`` if it does not."""
    with suppress(OSError):  # no /proc
        return None if file is None else os.readlink(f"/proc/self/fd/{file}")
    return None
