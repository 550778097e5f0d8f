"""Plain functions off the event loop.

In daemon threads, one for each call: the threads of executors, asyncio's and anyio's hold up the end of the process
until the function returns, and a step that was given up may never return.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from flujo_async.abc.event_loop import tell

T = TypeVar("T")


async def run_in_thread(work: Callable[[], T], abandoned: Callable[[], None]) -> T:
    """Return what ``work`` returns in a thread, with the caller's context variables.

    A caller that is cancelled gives the thread up: it runs to its end, and nobody hears of it.

    Args:
        work: what to call.
        abandoned: called when the thread is given up.
    """
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    context = contextvars.copy_context()

    def call() -> None:
        give(answer, *_attempt(partial(context.run, work)))

    threading.Thread(target=call, name="flujo-step", daemon=True).start()
    try:
        outcome: T = await answer
    except asyncio.CancelledError:
        if answer.cancelled():  # else it came of the work itself
            abandoned()
        raise
    return outcome


def _attempt(work: Callable[[], T]) -> tuple[T, None] | tuple[None, BaseException]:
    try:
        return work(), None
    except StopIteration as error:  # which no future takes
        return None, RuntimeError(f"the function raised {error!r}")
    except BaseException as error:  # handed to the caller, whatever it is
        return None, error


def give(answer: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    """Give an answer, or an error, to a coroutine that waits for it, from any thread."""
    tell(answer.get_loop(), _settle, answer, result, error)


def _settle(answer: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if answer.done():
        return
    if error is None:
        answer.set_result(result)
    else:
        answer.set_exception(error)
