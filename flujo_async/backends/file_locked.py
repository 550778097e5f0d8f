"""A file that is kept open, and locked for each use."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from flujo_async.backends import file_lock
from flujo_async.errors import BackendError


class LogIsBusy(TimeoutError):
    """Somebody else has had the lock of a log for longer than the caller wanted to wait."""


class LockedFile:
    """A file that one thread of one process at a time uses; a name that stays, while files under it come and go.

    Args:
        path: where the file is, once there is one.

    Attributes:
        fd: the open file; ``None`` if there is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd: int | None = None
        self._mutex = threading.Lock()
        self._is_stuck = False
        self._is_locked = False

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Give back the file descriptor, if there is one."""
        fd, self.fd = self.fd, None
        if fd is not None:
            os.close(fd)

    @contextmanager
    def locked(self, *, create: bool = False, patience: float | None = None) -> Generator[None]:
        """Keep everybody else, in this process and in others, away from the file.

        Args:
            create: make the file, if there is none.
            patience: how many seconds to wait for that, at most; ``None`` is for ever. Once that was in vain, it
                is not waited for again until somebody has had the lock.

        Raises:
            LogIsBusy: the file could not be had in that time.
        """
        if patience is not None and self._is_stuck:
            patience = 0
        if not self._mutex.acquire(timeout=-1 if patience is None else patience):
            raise LogIsBusy(f"{self.path} is in use")
        try:
            self._lock(create, patience)
            try:
                yield
            finally:
                self._unlock()
        finally:
            self._mutex.release()

    @contextmanager
    def unlocked(self) -> Generator[None]:
        """Look at the file while somebody else may write it."""
        try:
            self._open(create=False)
            yield
        finally:
            self.close()

    def check_there(self) -> None:
        """Raise if the file was removed or replaced since it was locked: nobody would find what was written to it.

        Raises:
            BackendError: it was, by somebody who did not lock it.
        """
        if not self._is_there(cast("int", self.fd)):
            raise BackendError(
                f"{self.path} was removed or replaced while it was written, and nobody would find that write; what "
                f"stands there now counts: stop all processes that use {self.path.parent} before files are moved there"
            )

    def _lock(self, create: bool, patience: float | None) -> None:
        while True:
            if self.fd is None and not self._open(create):
                return
            fd = cast("int", self.fd)
            if patience is None:
                file_lock.lock(fd)
            elif not file_lock.lock_within(fd, patience):
                self._is_stuck = True
                raise LogIsBusy(f"{self.path} is locked by another process")
            self._is_stuck = False
            self._is_locked = True
            if self._is_there(fd):
                return
            self._unlock()
            self.close()  # it was removed; a new one may have the name

    def _unlock(self) -> None:
        self._is_locked = False
        if self.fd is not None:
            file_lock.unlock(self.fd)

    def _open(self, create: bool) -> bool:
        flags = os.O_RDWR | file_lock.BINARY | (os.O_CREAT if create else 0)
        try:
            self.fd = os.open(self.path, flags, 0o666)
        except FileNotFoundError:
            if create:
                raise
            return False
        return True

    def _is_there(self, fd: int) -> bool:
        # Not the number of its links: what was removed here may have other names.
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(fd))
        except FileNotFoundError:
            return False


@contextmanager
def opened_once(path: Path, *, create: bool = False, patience: float | None = None) -> Generator[LockedFile]:
    """Lend a file, locked, and opened for this use alone: threads, and forked processes, would share a lock otherwise.

    Arguments, and what is raised, are those of ``LockedFile.locked``.
    """
    file = LockedFile(path)
    try:
        with file.locked(create=create, patience=patience):
            yield file
    finally:
        file.close()
