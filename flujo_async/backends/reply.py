"""Answers that coroutines wait for and another thread gives."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

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


class _Giving:
    """The answers that wait in one event loop, in the order in which they came."""

    def __init__(self, answers: Iterable[Answer]) -> None:
        self.waiting: deque[Answer] = deque(answers)
        self.portions = Portions()


_GIVING: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, _Giving]] = WeakKeyDictionary()
"""The event loops in which answers wait; each is looked up in its own thread only."""


def send(answers: Iterable[Answer]) -> None:
    """Give answers from any thread, with one wake-up for each event loop."""
    by_loop: defaultdict[asyncio.AbstractEventLoop, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_loop[answer[0].get_loop()].append(answer)
    for loop, theirs in by_loop.items():
        with suppress(RuntimeError):  # that loop was closed in between: nobody waits there any more
            loop.call_soon_threadsafe(_give, loop, theirs)


def _give(loop: asyncio.AbstractEventLoop, answers: Sequence[Answer]) -> None:
    """Give answers after all that wait in this loop."""
    if (giving := _GIVING.get(loop)) is not None:
        giving.waiting.extend(answers)
        return
    giving = _GIVING[loop] = _Giving(answers)
    _turn(loop, giving)


def _turn(loop: asyncio.AbstractEventLoop, giving: _Giving) -> None:
    """Give some answers now and the others in later turns of the loop, which sees to other things in between."""
    try:
        for _ in range(min(giving.portions.next(time.perf_counter()), len(giving.waiting))):
            reply, (result, error) = giving.waiting.popleft()
            if reply.done():  # whoever was cancelled does not get it
                continue
            if error is None:
                reply.set_result(result)
            else:
                reply.set_exception(error)
    finally:
        if giving.waiting:
            loop.call_soon(_turn, loop, giving)
        else:
            del _GIVING[loop]
