"""Noticing that a database was taken away from under those who have it open."""

from __future__ import annotations

import os
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
        paths = (str(database), str(log_of(database)))
        # A file system that has no shared memory gets no write-ahead log.
        self._marks = [(path, mark) for path in paths if (mark := _mark(path))]

    def check(self) -> None:
        """Raise unless the files are where they were.

        Raises:
            BackendError: somebody has removed or replaced one of them.
        """
        for path, mark in self._marks:
            found = _mark(path)
            if found != mark:
                raise BackendError(self._what_to_do(path, "replaced" if found else "removed"))

    def is_kept(self) -> bool:
        """Tell whether the files are where they were."""
        return all(_mark(path) == mark for path, mark in self._marks)

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
