"""What a forked process does not take over."""

from __future__ import annotations

import os

from flujo_async.errors import BackendError


class Opener:
    """The process that opened a store: the one in which this is made."""

    def __init__(self) -> None:
        """Note the process."""
        self._process = os.getpid()

    def is_here(self) -> bool:
        """Return whether this is that process, and no child that was forked since."""
        return self._process == os.getpid()

    def check(self) -> None:
        """Raise unless this is that process.

        A forked child has the object, but not the threads that would answer; and SQLite must not be used in it on what
        its parent has open.

        Raises:
            BackendError: it is another one.
        """
        if not self.is_here():
            raise BackendError(
                "this process was forked while the store was open, and a SQLite database cannot be used on both sides "
                "of a fork: call shutdown() before it, or start processes with the method 'spawn' or 'forkserver'"
            )
