"""What the exit codes of all commands mean; the reference of the command line has the same table."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """How a command ends, for the shell that called it."""

    FINE = 0
    FAILED = 1
    """The run or the store failed, what was asked for did not happen, or nobody reads the output."""

    USAGE = 2
    """The call was wrong."""

    INTERRUPTED = 130
    """Ctrl-C, as shells say it."""

    TERMINATED = 143
    """A worker that was told to stop twice."""
