"""One at a time, in whatever event loop of whatever thread."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Coroutine
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from flujo_async.abc.shield import finish

T = TypeVar("T")


class Turn:
    """Lets one coroutine work at a time, first come first served, over several event loops in several threads.

    (An ``asyncio.Lock`` belongs to one event loop, and a ``threading.Lock`` would block the loop.)
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()  # never held across an await
        self._taken = False
        self._queue: deque[Future[None]] = deque()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for the turn and run ``work`` to its end, even when the caller is cancelled meanwhile.

        A caller who is cancelled while it waits gives up its place, and ``work`` never starts. One who is
        cancelled later gets its ``CancelledError`` when ``work`` has ended.
        """
        try:
            await self._acquire()
        except BaseException:
            work.close()
            raise
        return await finish(self._release_after(work))

    @asynccontextmanager
    async def taken(self) -> AsyncGenerator[None]:
        """Have the turn while the block runs; who is cancelled in it hands it on at once."""
        await self._acquire()
        try:
            yield
        finally:
            self._release()

    async def _release_after(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return await work
        finally:
            self._release()

    async def _acquire(self) -> None:
        ticket = self._draw()
        if ticket is None:
            return
        try:
            await asyncio.wrap_future(ticket)
        except asyncio.CancelledError:
            if not ticket.cancel():  # the turn came at the same instant: hand it on
                self._release()
            raise

    def _draw(self) -> Future[None] | None:
        with self._guard:
            if not self._taken:
                self._taken = True
                return None
            ticket: Future[None] = Future()
            self._queue.append(ticket)
            return ticket

    def _release(self) -> None:
        ticket = self._next()
        if ticket:
            ticket.set_result(None)

    def _next(self) -> Future[None] | None:
        with self._guard:
            while self._queue:
                ticket = self._queue.popleft()
                if ticket.set_running_or_notify_cancel():
                    return ticket
            self._taken = False
            return None
