"""What a forked process does not take over."""

from __future__ import annotations

import os

from flujo_async.errors import BackendError


def check_process(process: int) -> None:
    """Raise unless this is the process that opened a database, whose number is ``process``.

    A forked child has the object, but not the threads that would answer; and SQLite must not be used in it on what
    its parent has open.

    Raises:
        BackendError: it is another one.
    """
    if process != os.getpid():
        raise BackendError(
            "this process was forked while the store was open, and a SQLite database cannot be used on both sides of a "
            "fork: call shutdown() before it, or start processes with the method 'spawn' or 'forkserver'"
        )
