"""A write on its way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from typing_extensions import override

P = ParamSpec("P")
T = TypeVar("T")


class Pending(asyncio.Future[T]):
    """The outcome of a write that has begun, and that nobody can call back.

    Whoever awaits it and is cancelled waits until the write is done; the cancellation is raised then.
    Made as ``pending: Pending[int] = Pending()``: ``Pending[int]()`` takes three times as long.

    Attributes:
        task: what writes, where it is a task: the event loop holds none by itself.
    """

    task: asyncio.Future[T] | None = None

    @override
    def cancel(self, msg: Any = None) -> bool:
        return False


def done(write: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Pending[T]:
    """Return the outcome of a write that is made here and now."""
    pending: Pending[T] = Pending()
    try:
        pending.set_result(write(*args, **kwargs))
    except Exception as error:  # handed to who waits
        pending.set_exception(error)
    return pending


def begin(write: Coroutine[Any, Any, T]) -> Pending[T]:
    """Begin a write in a task of its own."""
    pending: Pending[T] = Pending()
    pending.task = asyncio.ensure_future(write)
    pending.task.add_done_callback(lambda done: _hand_on(done, pending))
    return pending


def _hand_on(task: asyncio.Future[T], pending: Pending[T]) -> None:
    if task.cancelled():
        pending.set_exception(asyncio.CancelledError("the write was cancelled by its store"))
    elif (error := task.exception()) is not None:
        pending.set_exception(error)
    else:
        pending.set_result(task.result())
