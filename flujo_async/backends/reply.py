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
"""After so long a turn is over, however few have gone on: what they do may be to encode megabytes."""

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


_GIVING: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, deque[Answer]]] = WeakKeyDictionary()
"""The answers that wait in each event loop, in the order in which they came; looked up in its own thread only."""


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
    if (waiting := _GIVING.get(loop)) is not None:
        waiting.extend(answers)
        return
    waiting = _GIVING[loop] = deque(answers)
    _turn(loop, waiting)


def _turn(loop: asyncio.AbstractEventLoop, waiting: deque[Answer]) -> None:
    """Give some answers now and the others in later turns of the loop, which sees to other things in between."""
    until = time.perf_counter() + _TURN_SECONDS
    try:
        for _ in range(min(MOST_A_TURN, len(waiting))):
            reply, (result, error) = waiting.popleft()
            if reply.done():  # whoever was cancelled does not get it
                continue
            if error is None:
                reply.set_result(result)
            else:
                reply.set_exception(error)
            if time.perf_counter() >= until:  # who waited for what is ``Pending`` has gone on by now
                break
    finally:
        if waiting:
            loop.call_soon(_turn, loop, waiting)
        else:
            del _GIVING[loop]
