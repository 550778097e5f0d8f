"""A write on its way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, Generic, ParamSpec, TypeVar

from flujo_async.abc.shield import finish, settle

P = ParamSpec("P")
T = TypeVar("T")


class Pending(Generic[T]):
    """The outcome of a write that has begun, and that nobody can call back.

    Whoever awaits it and is cancelled waits until the write is done; the cancellation is raised then. It belongs to the
    event loop that it is made in. A future of asyncio would let the loop turn before it tells those who asked for that,
    and again before who awaits it goes on, and do so at every commit; here they are told, and go on, at once.

    Made as ``pending: Pending[int] = Pending()``: ``Pending[int]()`` takes three times as long.

    Attributes:
        task: what writes, where it is a task: the event loop holds none by itself.
    """

    __slots__ = ("_calls", "_error", "_is_done", "_loop", "_result", "_sleepers", "task")

    def __init__(self) -> None:
        self.task: asyncio.Future[T] | None = None
        self._loop = asyncio.get_running_loop()
        self._is_done = False
        self._result: T | None = None
        self._error: BaseException | None = None
        self._calls: list[Callable[[Pending[T]], object]] = []
        self._sleepers: list[_Sleeper] = []

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop that it belongs to."""
        return self._loop

    def done(self) -> bool:
        """Return whether the write is over."""
        return self._is_done

    def exception(self) -> BaseException | None:
        """Return why the write has failed, if it has."""
        return self._error

    def result(self) -> T:
        """Return what a write that is over returned, or raise why it failed."""
        if self._error is not None:
            raise self._error
        result: Any = self._result  # what ``cast`` would say takes a call, at each write
        return result  # type: ignore[no-any-return]

    def set_result(self, result: T) -> None:
        """The write is done."""
        self._result, self._is_done = result, True
        if self._calls or self._sleepers:
            self._tell()

    def set_exception(self, error: BaseException) -> None:
        """The write has failed."""
        self._error, self._is_done = error, True
        if self._calls or self._sleepers:
            self._tell()

    def when_done(self, call: Callable[[Pending[T]], object]) -> None:
        """Have ``call``, which raises nothing, called when the write is over: before anybody who awaits it goes on."""
        if self._is_done:
            call(self)
        else:
            self._calls.append(call)

    async def over(self) -> None:
        """Return when the write is over, however it ended; a cancellation of the caller is raised after that."""
        if not self._is_done:
            over: asyncio.Future[None] = self._loop.create_future()
            self.when_done(lambda _: over.set_result(None))
            await settle(over)

    def __await__(self) -> Generator[Any, None, T]:
        if not self._is_done:
            sleeper = _Sleeper(self._loop)
            self._sleepers.append(sleeper)
            try:
                yield sleeper
            except asyncio.CancelledError:
                yield from self.over().__await__()
                raise
        return self.result()

    def _tell(self) -> None:
        calls, self._calls = self._calls, []
        for call in calls:
            call(self)
        for sleeper in self._sleepers:
            sleeper.wake()


class _Sleeper:
    """What a task that awaits a write waits on.

    To the task it is a future: ``asyncio.Task`` asks for no more than this of what is awaited. But it wakes the task
    there and then, where a future would have the event loop do that in its next turn.
    """

    __slots__ = ("_asyncio_future_blocking", "_cancellation", "_context", "_is_woken", "_loop", "_wake")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._asyncio_future_blocking = True  # how a task tells that it is awaited
        self._loop = loop
        self._cancellation: asyncio.CancelledError | None = None
        self._is_woken = False

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def add_done_callback(self, wake: Callable[[_Sleeper], object], *, context: Context) -> None:
        self._wake, self._context = wake, context

    def cancel(self, msg: object = None) -> bool:
        if self._is_woken:  # the task goes on in the next turn, and is cancelled then
            return False
        if self._cancellation is None:
            self._cancellation = asyncio.CancelledError() if msg is None else asyncio.CancelledError(msg)
            self._loop.call_soon(self._wake, self, context=self._context)
        return True

    def result(self) -> None:
        if self._cancellation is not None:
            raise self._cancellation

    def wake(self) -> None:
        """Let the task go on, unless it does so already because it was cancelled."""
        if self._cancellation is not None:
            return
        if asyncio.current_task() is None:
            self._context.run(self._wake, self)
        else:  # one task cannot run inside another
            self._is_woken = True
            self._loop.call_soon(self._wake, self, context=self._context)


def done(write: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Pending[T]:
    """Return the outcome of a write that is made here and now."""
    pending: Pending[T] = Pending()
    try:
        pending.set_result(write(*args, **kwargs))
    except Exception as error:  # handed to who waits
        pending.set_exception(error)
    return pending


async def acquire(pending: Pending[T], undo: Callable[[T], Coroutine[Any, Any, None]]) -> T:
    """Return what is being acquired; a caller that is cancelled meanwhile leaves nothing acquired behind.

    Args:
        pending: what comes to its end even if the caller is cancelled.
        undo: gives back what was acquired, if nobody is there to take it.
    """
    try:
        return await pending
    except asyncio.CancelledError:
        if pending.exception() is None:
            await finish(undo(pending.result()))
        raise
