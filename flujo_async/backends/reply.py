"""Answers that coroutines wait for and another thread gives."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeAlias, TypeVar, cast

T = TypeVar("T")

ANSWERS_A_TURN = 32
"""How many callers go on in one turn of their event loop: with a tenth of a millisecond of work each, the loop turns in
about 3 ms. Fewer would come back in smaller groups, and commits would cost more than the turns are worth."""

Outcome: TypeAlias = tuple[Any, Exception | None]
"""What became of a request: its result, or the exception that its caller gets."""


class Reply(Generic[T]):
    """The answer to one request, made by the coroutine that waits for it.

    Made as ``reply: Reply[int] = Reply()``: ``Reply[int]()`` takes three times as long, which every write would feel.
    """

    __slots__ = ("_future", "loop")

    def __init__(self, future: asyncio.Future[T] | None = None) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self._future: asyncio.Future[T] = self.loop.create_future() if future is None else future

    async def get(self) -> T:
        """Wait for the answer."""
        return await self._future

    async def get_stopped(self, stop: Callable[[], None]) -> T:
        """Wait for the answer; whoever is cancelled calls ``stop`` and waits on, so that nothing goes on behind it."""
        try:
            return await asyncio.shield(self._future)
        except asyncio.CancelledError:
            stop()
            await asyncio.wait([self._future])
            raise

    def settle(self, outcome: Outcome) -> None:
        """Give the answer; only in the thread of ``loop``. Whoever was cancelled does not get it."""
        result, error = outcome
        if self._future.done():
            return
        if error is None:
            self._future.set_result(cast("T", result))
        else:
            self._future.set_exception(error)


Answer: TypeAlias = tuple[Reply[Any], Outcome]


def send(answers: Iterable[Answer]) -> None:
    """Give answers from any thread, with one wake-up for each event loop."""
    by_loop: defaultdict[asyncio.AbstractEventLoop, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_loop[answer[0].loop].append(answer)
    for loop, theirs in by_loop.items():
        with suppress(RuntimeError):  # that loop was closed in between: nobody waits there any more
            loop.call_soon_threadsafe(_settle, loop, theirs, 0)


def _settle(loop: asyncio.AbstractEventLoop, answers: Sequence[Answer], first: int) -> None:
    """Give some answers now and the others in later turns of the loop, which sees to other things in between."""
    following = first + ANSWERS_A_TURN
    for reply, outcome in answers[first:following]:
        reply.settle(outcome)
    if following < len(answers):
        loop.call_soon(_settle, loop, answers, following)
