"""The event loop that a runtime is at work in: one at a time."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter

from flujo_async.errors import WrongEventLoop


class BoundLoop:
    """Where the runs of a runtime are driven.

    Its limits are counted, and its scheduler lives, in one event loop: whoever waited in another one would never be
    woken. A loop that stands still, or is closed, is in nobody's way: one after another may be used.
    """

    def __init__(self) -> None:
        """Begin in no event loop."""
        self._guard = threading.Lock()
        self._inside: Counter[asyncio.AbstractEventLoop] = Counter()

    def check(self) -> None:
        """Check that a runtime can work here, and is not at work in another event loop.

        Raises:
            WrongEventLoop: it cannot, or it is.
        """
        loop = _running_loop()
        with self._guard:
            self._check(loop)

    def at_work(self) -> _AtWork:
        """Be at work in the event loop that runs, until the block ends; errors as in ``check``."""
        return _AtWork(self)

    def enter(self) -> asyncio.AbstractEventLoop:
        """Begin to be at work; see ``at_work``."""
        loop = _running_loop()
        with self._guard:
            self._check(loop)
            self._inside[loop] += 1
        return loop

    def leave(self, loop: asyncio.AbstractEventLoop) -> None:
        """Be at work no more; see ``at_work``."""
        with self._guard:
            self._inside[loop] -= 1
            if not self._inside[loop]:
                del self._inside[loop]

    def _check(self, loop: asyncio.AbstractEventLoop) -> None:
        if any(other is not loop and other.is_running() for other in self._inside):
            raise WrongEventLoop(
                "this Flujo is at work in another event loop, and belongs to one at a time: make a Flujo for each "
                "event loop; they may share the backend"
            )


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise WrongEventLoop(
            "no event loop of asyncio runs here, and a Flujo works in no other: "
            "asyncio.run(main()), or anyio.run(main) without backend='trio'"
        ) from None


class _AtWork:
    """The block in which a runtime is at work: one for each run, so it is quicker than a generator would be."""

    __slots__ = ("_bound_loop", "_loop")

    def __init__(self, bound_loop: BoundLoop) -> None:
        self._bound_loop = bound_loop

    def __enter__(self) -> None:
        self._loop = self._bound_loop.enter()

    def __exit__(self, *_: object) -> None:
        self._bound_loop.leave(self._loop)
