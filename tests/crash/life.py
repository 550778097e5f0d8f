"""The lives of real processes, each in a ``tests.crash.victim``."""

import asyncio
import signal
from typing import Any

from tests.crash.nest import fork

KILLED = -signal.SIGKILL


async def live(*arguments: Any, signs: int | None = None) -> tuple[int, int]:
    """Let a process live to its end, or kill it when it has given so many signs of life.

    The moment is counted in what the process has done, not in seconds: a slow machine changes nothing. It goes on while
    the signal is under way, so it is hit anywhere between two signs.

    Returns:
        Its id, and how it ended: by itself (0) or by ``KILLED``, never by an error.
    """
    process = await fork("tests.crash.victim", *arguments)
    if signs is not None and await _has_given(signs, process.stdout):
        process.kill()
    _, err = await process.communicate()
    assert process.returncode in (0, KILLED), err.decode()
    assert err == b"", err.decode()
    return process.pid, process.returncode


async def _has_given(signs: int, lines: asyncio.StreamReader) -> bool:
    """Return whether there are so many lines before the end."""
    for _ in range(signs):
        if not await lines.readline():
            return False
    return True
