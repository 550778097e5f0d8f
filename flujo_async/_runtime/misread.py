"""A recorded value that cannot be read back."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from flujo_async.errors import DeserializationError, SerializationError


class Misread(Exception):
    """What the run has recorded does not fit the classes that are here.

    The log is right, and the code is not what it was: so this fails nothing. Like a failure of the store it ends the
    drive, past all that would make a failure of it: attempts, branches, and the code of a workflow. Instead of it
    ``DeserializationError`` leaves the drive.

    Attributes:
        error: what is wrong, and where.
    """

    def __init__(self, error: SerializationError) -> None:
        super().__init__(str(error))
        self.error = error

    def of(self, run_id: str) -> DeserializationError:
        """Return it as whoever drives the run is told of it."""
        what = f"{self.error.reason}; run {run_id!r} is paused, resume it where the classes fit what is recorded"
        error = DeserializationError(what, run_id=run_id, path=self.error.path)
        error.__cause__ = self.error.__cause__
        return error


@contextmanager
def reading() -> Generator[None]:
    """Raise ``Misread`` where what a run has recorded cannot be read back."""
    try:
        yield
    except SerializationError as error:
        raise Misread(error) from error
