"""How the runs of an event loop share its turns."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterable
from contextlib import contextmanager
from typing import Any, Final, Protocol, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

from flujo_async.abc.pending import Pending

T = TypeVar("T")

MOST_A_TURN: Final = 16
"""So many at most go on in one turn of their event loop. More did not make the commits that they come back with any
cheaper."""

_TURN_SECONDS: Final = 0.001
_TURNS_TO_WAKE: Final = 2
"""A timer or a socket calls back in the first, and the task that this wakes goes on in the second."""

Outcome: TypeAlias = tuple[Any, BaseException | None]
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

    def set_exception(self, error: Any, /) -> None:
        """Give the exception."""
        ...


Answer: TypeAlias = tuple[Reply, Outcome]
"""Who waits, and what for."""


def _stand_still() -> float:
    return 0.0


class Pace:
    """Lets an event loop turn: in each turn the runs in it go on for about a millisecond, and others have theirs.

    What a run does before it waits again may take a tenth of a millisecond, or it encodes megabytes; nobody knows
    before. So those who can go on wait in one queue, in the order in which they came, and go on one after the other
    until the turn is over. They are those whose answer has come, of a store for example, and those who are about to do
    something with nothing to wait for before it: they ask whether the turn ``is_over``, and if so wait for another.

    After a turn that took twice as long or more nobody goes on for two turns, so that a task that a timer or a socket
    is to wake waits for one of the long ones, and not for three.

    It belongs to one event loop, and is used in its thread only.
    """

    __slots__ = ("_clock", "_now", "_rests", "_timeless", "_until", "_waiting")

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        """Begin with nobody who waits; ``now`` tells the time in seconds."""
        self._clock = self._now = now
        self._timeless = 0
        self._until: float | None = None  # when the turn is over; known while `_go_on` or `_look` is to be called
        self._rests = 0
        self._waiting: deque[Answer] = deque()

    @classmethod
    def here(cls) -> Pace:
        """Return the pace of the event loop that runs."""
        loop = asyncio.get_running_loop()
        if (known := _PACES.get(loop)) is None:
            known = _PACES[loop] = cls()
        return known

    @contextmanager
    def timeless(self) -> Generator[None]:
        """Meanwhile a turn is over when so many have gone on, whatever time that took: those who race end alike."""
        self._timeless += 1
        self._now = _stand_still
        try:
            yield
        finally:
            self._timeless -= 1
            if not self._timeless:
                self._now = self._clock

    @property
    def is_over(self) -> bool:
        """Whether the runs have had their time in this turn of the event loop."""
        if self._until is not None:
            return self._now() >= self._until
        self._until = until = self._now() + _TURN_SECONDS  # it has only begun
        asyncio.get_running_loop().call_soon(self._look, until)
        return False

    async def turn(self) -> None:
        """Wait for a turn of the event loop that is not over, behind all who wait already."""
        place: Pending[None] = Pending()
        self._waiting.append((place, (None, None)))
        if self._until is None:
            self._until = self._now()
            asyncio.get_running_loop().call_soon(self._go_on)
        await place

    def give(self, answers: Iterable[Answer]) -> None:
        """Give answers, now and in later turns, after all who wait already."""
        self._waiting.extend(answers)
        if self._until is None:
            self._go_on()

    def _look(self, until: float) -> None:
        """See how long a turn took in which somebody has just gone on."""
        if self._now() >= until + _TURN_SECONDS:
            self._rests = _TURNS_TO_WAKE
        self._go_on()

    def _go_on(self) -> None:
        """Let some go on now, and the others in later turns; the loop sees to other things in between."""
        if self._rests:
            self._rests -= 1
            asyncio.get_running_loop().call_soon(self._go_on)
            return
        now = self._now()
        self._until = until = now + _TURN_SECONDS
        try:
            for _ in range(min(MOST_A_TURN, len(self._waiting))):
                reply, (result, error) = self._waiting.popleft()
                if reply.done():  # whoever was cancelled does not get it
                    continue
                if error is None:
                    reply.set_result(result)
                else:
                    reply.set_exception(error)
                if (now := self._now()) >= until:  # who waited for what is ``Pending`` has gone on by now
                    break
        finally:
            if now >= until + _TURN_SECONDS:
                self._rests = _TURNS_TO_WAKE
            if self._rests or self._waiting:
                asyncio.get_running_loop().call_soon(self._go_on)
            else:
                self._until = None


_PACES: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Pace]] = WeakKeyDictionary()
"""Those of all event loops; each is looked up in its own thread only."""


async def in_turns(work: Generator[None, None, T]) -> T:
    """Return what ``work`` returns; when it stops after a part, others have their turns."""
    pace = Pace.here()
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result
        if pace.is_over:
            await pace.turn()


def begin(write: Coroutine[Any, Any, T]) -> Pending[T]:
    """Begin a write in a task of its own; who awaits it goes on at the pace of the event loop."""
    pending: Pending[T] = Pending()
    pending.task = asyncio.ensure_future(write)
    pending.task.add_done_callback(lambda done: Pace.here().give([(pending, _outcome(done))]))
    return pending


def _outcome(task: asyncio.Future[Any]) -> Outcome:
    if task.cancelled():
        return None, asyncio.CancelledError("the write was cancelled by its store")
    if (error := task.exception()) is not None:
        return None, error
    return task.result(), None
