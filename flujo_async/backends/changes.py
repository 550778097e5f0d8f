"""Telling waiting coroutines that something in a store has changed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress

from flujo_async.abc.event_loop import tell


class Changes:
    """Wakes whoever waits for changes, in any event loop of any thread.

    A change that nobody waits for is forgotten: this is a hint, and waiters look at the store again.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiters: dict[str | None, set[Waiter]] = {}

    def announce(self, run_id: str) -> None:
        """Wake those who wait for a change of ``run_id``, or of any run. May be called from any thread."""
        if not self._waiters:  # the usual case, and a read of a dict needs no lock
            return
        with self._guard:
            concerned = [*self._waiters.get(run_id, ()), *self._waiters.get(None, ())]
        for waiter in concerned:
            waiter.wake()

    async def wait(self, run_id: str | None = None, *, timeout: float) -> None:
        """Return when ``run_id`` changes (``None``: any run), or after ``timeout`` seconds."""
        with self.listening(run_id) as waiter:
            await waiter.sleep(timeout)

    @contextmanager
    def listening(self, run_id: str | None) -> Generator[Waiter]:
        """Yield what a change of ``run_id`` (``None``: of any run) wakes from here on."""
        waiter = Waiter()
        with self._guard:
            self._waiters.setdefault(run_id, set()).add(waiter)
        try:
            yield waiter
        finally:
            with self._guard:
                self._waiters[run_id].discard(waiter)
                if not self._waiters[run_id]:
                    del self._waiters[run_id]


class Waiter:
    """One coroutine that waits, and the event loop that it waits in."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def wake(self) -> None:
        """End its sleep, or let the next one end at once. May be called from any thread."""
        tell(self._loop, self._event.set)

    async def sleep(self, timeout: float) -> None:
        """Return when it was woken, or after ``timeout`` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._event.wait()
