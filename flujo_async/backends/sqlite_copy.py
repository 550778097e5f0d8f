"""Copying a database that is in use."""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import closing
from pathlib import Path

from flujo_async.abc.pace import Outcome
from flujo_async.backends.reply import reply, send, stopped
from flujo_async.backends.sqlite_file import SQLiteFile
from flujo_async.backends.unfinished import unfinished
from flujo_async.errors import BackendError, InvalidArgument

_STEPS_BETWEEN_LOOKS = 10_000  # of SQLite's machine: some milliseconds


async def back_up(file: SQLiteFile, target: Path) -> None:
    """Write what is in ``file`` at this instant to ``target``, in a daemon thread; others go on writing meanwhile.

    Raises:
        InvalidArgument: something is there already.
        BackendError: it failed, and nothing is left behind.
    """
    copy = _Copy(file, target)
    done = reply()
    try:
        threading.Thread(target=copy.make, args=(done,), name="flujo-backup", daemon=True).start()
    except RuntimeError as error:  # there are too many threads
        raise file.explain(error) from error
    await stopped(done, copy.stop)


class _Copy:
    def __init__(self, file: SQLiteFile, target: Path) -> None:
        self._file = file
        self._target = target.absolute()
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Give up soon; called from another thread."""
        self._stopped.set()

    def make(self, done: asyncio.Future[None]) -> None:
        outcome: Outcome = None, None
        try:
            self._refuse_to_replace()
            with unfinished(self._target) as part:
                self._write(part)
                self._publish(part)
        except InvalidArgument as refusal:
            outcome = None, refusal
        except Exception as error:  # handed on to the caller
            failure = BackendError(f"the copy to {self._target} failed, and nothing of it is left: {error}")
            failure.__cause__ = error
            outcome = None, failure
        send([(done, outcome)])

    def _refuse_to_replace(self) -> None:
        if os.path.lexists(self._target):
            raise InvalidArgument(f"{self._target} exists; a copy replaces nothing, choose another name")

    def _write(self, part: Path) -> None:
        with closing(self._file.connect("ro")) as db:
            db.set_progress_handler(self._stopped.is_set, _STEPS_BETWEEN_LOOKS)
            db.execute("VACUUM INTO ?", (str(part),))

    def _publish(self, part: Path) -> None:
        _sync(part)
        self._refuse_to_replace()
        if not self._stopped.is_set():
            part.rename(self._target)
            _sync(self._target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
