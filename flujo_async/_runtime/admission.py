"""How many runs are driven at the same time."""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from itertools import count
from typing import Final

from flujo_async._model.policy import is_count
from flujo_async.errors import InvalidArgument

_UNLIMITED: Final = nullcontext()


class Admission:
    """Lets in so many at a time: those of higher priority first, then first come, first served."""

    def __init__(self, limit: int | None) -> None:
        """Begin empty.

        Args:
            limit: how many; ``None`` is no limit.

        Raises:
            InvalidArgument: it is below 1.
        """
        if limit is not None and not is_count(limit):
            raise InvalidArgument(f"max_concurrency is at least 1, or None, not {limit!r}")
        self._limit = limit
        self._inside = 0
        self._queue: list[tuple[int, int, str, asyncio.Future[None]]] = []
        self._arrivals = count()
        self._welcome: Counter[str] = Counter()

    @property
    def is_full(self) -> bool:
        """Whether somebody who comes now has to wait."""
        return self._limit is not None and self._inside >= self._limit

    def slot(self, run_id: str, priority: int = 0) -> AbstractAsyncContextManager[None]:
        """Wait for a place for a run, and have it while the block runs."""
        return _UNLIMITED if self._limit is None else self._slot(run_id, priority)

    @contextmanager
    def letting_in(self, run_id: str) -> Generator[None]:
        """Let those in who wait for a place for a run, or come for one meanwhile, though there is none."""
        self._welcome[run_id] += 1
        for *_, theirs, place in self._queue:
            if theirs == run_id and not place.done():
                place.set_result(None)
                self._inside += 1
        try:
            yield
        finally:
            self._welcome -= Counter({run_id: 1})

    @asynccontextmanager
    async def _slot(self, run_id: str, priority: int) -> AsyncGenerator[None]:
        await self._enter(run_id, priority)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, run_id: str, priority: int) -> None:
        if not self.is_full or run_id in self._welcome:
            self._inside += 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._queue, (-priority, next(self._arrivals), run_id, place))
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():  # the place came at the same instant: hand it on
                self._leave()
            raise

    def _leave(self) -> None:
        self._inside -= 1
        while self._queue and not self.is_full:
            *_, place = heapq.heappop(self._queue)
            if not place.done():
                place.set_result(None)
                self._inside += 1
