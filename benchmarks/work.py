"""What every step of every system does: as little as can be, so that what is measured is the system.

Only the standard library: this is imported in the environments of all peers.
"""

from __future__ import annotations

import os
import random
import string
import time
from typing import Any

KILOBYTES_100 = 100 * 1024

_stop_at: int | None = None
_reached_at: list[float] = []
_dies = False


def work(value: Any) -> Any:
    """Count one up; turn a text by one character, so that each result is another."""
    if _stop_at is not None and value == _stop_at:
        _stop()
    return value + 1 if isinstance(value, int) else value[1:] + value[:1]


def stop_before(value: int, *, dies: bool) -> None:
    """Die, or take the time, at the beginning of the step whose input is ``value``."""
    global _stop_at, _dies
    _stop_at, _dies = value, dies


def reached_at() -> float:
    """Return when the step began at which it was to stop, by ``time.perf_counter``."""
    return _reached_at[0]


def text(length: int) -> str:
    """Return a text that does not compress, the same each time."""
    return "".join(random.Random(1).choices(string.ascii_letters + string.digits, k=length))


def _stop() -> None:
    if _dies:
        os._exit(0)  # as kill -9 would: nothing is flushed, nothing is closed
    _reached_at.append(time.perf_counter())
