"""Limits on how long something may take, by a clock."""

from __future__ import annotations

import asyncio
from contextvars import Context
from types import TracebackType

from flujo_async.abc.clock import Clock


class TimeLimit:
    """Cancels what runs inside it when its time is over, and then raises ``TimeoutError``.

    As ``asyncio.timeout`` does, but by a ``Clock``: a test that holds the clock decides when a step times out.

    Attributes:
        is_over: whether the time ran out.
    """

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._scope = asyncio.timeout(None)
        self._timer: asyncio.Task[None] | None = None
        self.is_over: bool = False

    async def __aenter__(self) -> None:
        await self._scope.__aenter__()
        # Not in the caller's context: whoever counts the tasks that the code of a run makes must not see it.
        self._timer = asyncio.get_running_loop().create_task(self._run_out(), context=Context())

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._timer is not None
        self._timer.cancel()
        await self._scope.__aexit__(exc_type, exc, tb)

    async def _run_out(self) -> None:
        await self._clock.sleep(self._seconds)
        self.is_over = True
        self._scope.reschedule(asyncio.get_running_loop().time())
