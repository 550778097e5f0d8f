"""Answers that coroutines wait for and another thread gives."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol, TypeAlias, TypeVar

T = TypeVar("T")

MOST_A_TURN: Final = 16
"""So many callers at most go on in one turn of their event loop. More did not make the commits that they come back with
any cheaper."""

_TURN_SECONDS: Final = 0.001

Outcome: TypeAlias = tuple[Any, Exception | None]
"""What became of a request: its result, or the exception that its caller gets."""


class Reply(Protocol):
    """What waits for an outcome in the event loop of who asked: a future, or what is ``Pending``."""

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return that event loop."""
        ...

    def done(self) -> bool:
        """Return whether nobody waits any more."""
        ...

    def set_result(self, result: Any, /) -> None:
        """Give the result."""
        ...

    def set_exception(self, error: Exception, /) -> None:
        """Give the exception."""
        ...


Answer: TypeAlias = tuple[Reply, Outcome]
"""Who waits, and what for."""


def reply() -> asyncio.Future[Any]:
    """Return what the coroutine that runs waits for, and another thread gives by ``send``."""
    return asyncio.get_running_loop().create_future()


async def stopped(reply: asyncio.Future[T], stop: Callable[[], None]) -> T:
    """Wait for an answer; whoever is cancelled calls ``stop`` and waits on, so that nothing goes on behind it."""
    try:
        return await asyncio.shield(reply)
    except asyncio.CancelledError:
        stop()
        await asyncio.wait([reply])
        raise


def send(answers: Iterable[Answer]) -> None:
    """Give answers from any thread, with one wake-up for each event loop."""
    by_loop: defaultdict[asyncio.AbstractEventLoop, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_loop[answer[0].get_loop()].append(answer)
    for loop, theirs in by_loop.items():
        with suppress(RuntimeError):  # that loop was closed in between: nobody waits there any more
            loop.call_soon_threadsafe(_settle, loop, theirs, 0, Portions())


class Portions:
    """How many callers go on in each turn of an event loop: as many as do what they do in about a millisecond.

    That may be a step of a tenth of a millisecond, or one that encodes megabytes; what it is shows in the time that the
    turn before has taken.
    """

    def __init__(self) -> None:
        self._count = 1
        self._since: float | None = None

    def next(self, now: float) -> int:
        """Return how many go on in the turn that begins ``now``, in seconds."""
        if self._since is not None:
            is_quick = now - self._since < _TURN_SECONDS
            self._count = min(2 * self._count, MOST_A_TURN) if is_quick else max(self._count // 2, 1)
        self._since = now
        return self._count


def _settle(loop: asyncio.AbstractEventLoop, answers: Sequence[Answer], first: int, portions: Portions) -> None:
    """Give some answers now and the others in later turns of the loop, which sees to other things in between."""
    following = first + portions.next(time.perf_counter())
    for reply, (result, error) in answers[first:following]:
        if reply.done():  # whoever was cancelled does not get it
            continue
        if error is None:
            reply.set_result(result)
        else:
            reply.set_exception(error)
    if following < len(answers):
        loop.call_soon(_settle, loop, answers, following, portions)
