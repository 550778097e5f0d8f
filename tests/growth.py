"""How much work something takes, counted in bytecodes: the same each time, whatever else the machine does."""

import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import flujo_async
from flujo_async.abc.pace import Pace

_PACKAGE = os.path.dirname(flujo_async.__file__) + os.sep


class Counted:
    """What was counted.

    Attributes:
        bytecodes: so many instructions of this package were executed in this thread.
    """

    def __init__(self) -> None:
        self.bytecodes = 0

    def trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "call":
            if not frame.f_code.co_filename.startswith(_PACKAGE):
                return None
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode":
            self.bytecodes += 1
        return self.trace


@contextmanager
def counting() -> Iterator[Counted]:
    """Count what is executed in the block, in functions that are entered in it."""
    counted, before = Counted(), sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # CPython 3.12 looks for one such frame when tracing begins
    sys.settrace(counted.trace)
    try:
        yield counted
    finally:
        sys.settrace(before)


async def growth(work: Callable[[int], Awaitable[Callable[[], Awaitable[object]]]], size: int) -> float:
    """Return how many times as much work it takes to do twice as much of something.

    Args:
        work: makes all ready for so much of it, and returns what does it.
        size: how much is little.
    """
    least: dict[int, int] = {}
    for turn, count in enumerate((size, 2 * size, size, 2 * size, size)):
        act = await work(count)
        with Pace.here().timeless(), counting() as found:
            await act()
        if turn:  # at first caches are cold, and CPython 3.13 does not see all of what it traces for the first time
            least[count] = min(least.get(count, found.bytecodes), found.bytecodes)
    return least[2 * size] / least[size]
