"""Copying a database that is in use."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from pathlib import Path

from flujo_async.backends.file_lock import sync_directory, sync_file
from flujo_async.backends.sqlite_file import SQLiteFile
from flujo_async.backends.sqlite_look import STEPS_BETWEEN_LOOKS, Stopped, off_the_loop
from flujo_async.backends.unfinished import check_free, unfinished
from flujo_async.errors import BackendError, InvalidArgument


async def back_up(file: SQLiteFile, target: Path) -> None:
    """Write what is in ``file`` at this instant to ``target``, in a daemon thread; others go on writing meanwhile.

    Raises:
        InvalidArgument: something is there already.
        BackendError: it failed, and nothing is left behind.
    """
    await off_the_loop(partial(copy, file, target), file, name="flujo-backup")


def copy(file: SQLiteFile, target: Path, stopped: Stopped) -> None:
    """Do what ``back_up`` does, in this thread; give up soon after somebody has stopped it."""
    target = target.absolute()
    try:
        check_free(target)
        with unfinished(target) as part:
            with closing(file.connect("ro")) as db:
                db.set_progress_handler(stopped, STEPS_BETWEEN_LOOKS)
                db.execute("VACUUM INTO ?", (str(part),))
            publish(part, target, stopped)
    except InvalidArgument:
        raise
    except Exception as error:  # handed on to the caller
        raise BackendError(f"the copy to {target} failed, and nothing of it is left: {error}") from error


def publish(part: Path, target: Path, stopped: Stopped) -> None:
    """Give a copy that is complete its name, durably."""
    sync_file(part)
    check_free(target)
    if not stopped():
        part.rename(target)
        sync_directory(target.parent)
