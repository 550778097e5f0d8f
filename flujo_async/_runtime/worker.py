"""Workers: they take runs from queues."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Self

from flujo_async._model.lease import ClaimQuery
from flujo_async._model.policy import is_count
from flujo_async._runtime.flujo import Flujo, runner_of
from flujo_async._runtime.request import checked_seconds
from flujo_async._runtime.scheduler import Scheduler
from flujo_async.abc.shield import settle
from flujo_async.errors import InvalidArgument


class Worker:
    """Takes dispatched runs from queues and drives them, many at the same time.

    ``await worker.run()`` works until SIGTERM or SIGINT comes; ``async with worker:`` works while the block runs. It
    takes the runs of every definition that its runtime knows, and leaves others, of other versions as well, to other
    workers. Several workers, in several processes, share a store.

    Args:
        flujo: the runtime.
        queues: the names of the queues.
        concurrency: how many runs are driven at the same time.
        drain_timeout: how long runs may go on when the worker is asked to stop, a ``timedelta`` or seconds; then
            they are interrupted, and another worker resumes them.

    Raises:
        InvalidArgument: no queues, or a value out of range.
    """

    def __init__(
        self,
        flujo: Flujo[Any, Any],
        queues: Iterable[str] = ("default",),
        concurrency: int = 100,
        *,
        drain_timeout: timedelta | float = 30,
    ) -> None:
        if isinstance(queues, str):
            queues = (queues,)
        self._queues = frozenset(queues)
        if not self._queues or "" in self._queues:
            raise InvalidArgument("a worker has queues, each with a name that is not empty")
        if not is_count(concurrency):
            raise InvalidArgument(f"concurrency is at least 1, not {concurrency!r}")
        self._runner = runner_of(flujo)
        drain_seconds = checked_seconds(drain_timeout, "drain_timeout")
        if drain_seconds is None:
            raise InvalidArgument("drain_timeout is a timedelta or seconds, not None")
        self._drain_seconds = drain_seconds
        self._scheduler = Scheduler(self._runner, self._ask, is_lasting=True, concurrency=concurrency)
        self._task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Work until SIGTERM or SIGINT comes, then drain; a second one interrupts what is driven still.

        In other threads than the main one, until cancelled.
        """
        self._runner.bound_loop.check()
        stop = asyncio.Event()
        with _on_signals(stop):
            async with self:
                stopping, working = asyncio.create_task(stop.wait()), self._task
                assert working is not None
                try:
                    await asyncio.wait({stopping, working}, return_when=asyncio.FIRST_COMPLETED)
                    if working.done():
                        working.result()  # it does not end by itself, unless something is wrong
                finally:
                    stopping.cancel()
                    await settle(stopping)
                stop.clear()  # signals up to here are one: some supervisors tell a process, and then its group
                hurrying = asyncio.create_task(self._interrupt_when(stop))
                try:
                    await self.drain()
                finally:
                    hurrying.cancel()
                    await settle(hurrying)

    async def _interrupt_when(self, stop: asyncio.Event) -> None:
        await stop.wait()
        await self._scheduler.interrupt()

    async def drain(self) -> None:
        """Take no more runs, and return when those that are driven rest or the time for that is over."""
        await self._scheduler.drain(self._drain_seconds)
        if self._task is not None:
            await settle(self._task)

    async def _ask(self) -> list[ClaimQuery]:
        return [
            replace(
                self._runner.catalogue.claim_query(),
                statuses=frozenset({"pending", "running", "paused"}),
                queues=self._queues,
                dead_owners=await self._runner.dead_owners(),
            )
        ]

    async def __aenter__(self) -> Self:
        self._task = self._scheduler.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        try:
            if exc_type is None:
                await self.drain()
        finally:
            if self._task is not None:
                self._task.cancel()
                await settle(self._task)


_STOPS: Final[dict[asyncio.Event, asyncio.AbstractEventLoop]] = {}
"""What SIGTERM and SIGINT set, each in its event loop: several workers may listen."""

_BEFORE: Final[dict[signal.Signals, Any]] = {}
"""The handlers that were there before the first of them listened."""


@contextmanager
def _on_signals(stop: asyncio.Event) -> Generator[None]:
    """Set ``stop`` on SIGTERM and SIGINT; the handlers that were there come back when nobody listens any more."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if not _STOPS:
        # Not by the loop, which would forget the handlers that the host has given it.
        _BEFORE.update({number: signal.signal(number, _stop) for number in (signal.SIGTERM, signal.SIGINT)})
    _STOPS[stop] = asyncio.get_running_loop()
    try:
        yield
    finally:
        del _STOPS[stop]
        while _BEFORE and not _STOPS:
            signal.signal(*_BEFORE.popitem())


def _stop(*_: object) -> None:
    for stop, loop in _STOPS.items():
        loop.call_soon_threadsafe(stop.set)
