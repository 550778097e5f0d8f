"""Work that a cancellation may not cut short."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import anyio

from flujo_async.abc.pending import Pending

T = TypeVar("T")


async def finish(work: Coroutine[Any, Any, T]) -> T:
    """Return the result of ``work``, which runs to its end even if the caller is cancelled meanwhile.

    A cancellation is not lost: it is raised when the work is done, and goes before a failure of the work.
    """
    task = asyncio.ensure_future(work)
    try:
        await settle(task)
    except asyncio.CancelledError:
        if not task.cancelled():
            task.exception()  # nobody is there to hear of it, and asyncio need not say so
        raise
    return task.result()


async def settle(task: asyncio.Future[Any]) -> None:
    """Return when ``task`` is done, however it ended; a cancellation of the caller is raised after that."""
    cancelled: asyncio.CancelledError | None = None
    # anyio repeats a cancellation until it is obeyed, hence its own shield; asyncio's comes through that.
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is not None:
        raise cancelled


async def carried_out(write: Pending[T]) -> T:
    """Return the outcome of a write that has begun; whoever is cancelled meanwhile hears of that when it is done.

    Awaiting ``write`` itself does the same, but anyio would repeat its cancellation at each turn of the loop until
    then, and the shield against that costs something: it is put up only when a cancellation has come.
    """
    if not write.done():
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        write.add_done_callback(lambda _: None if woken.done() else woken.set_result(None))
        try:
            await woken
        except asyncio.CancelledError:
            await settle(write)
            raise
    return write.result()


async def acquire(begin: Callable[[], Pending[T]], undo: Callable[[T], Coroutine[Any, Any, None]]) -> T:
    """Return what is acquired; a caller that is cancelled meanwhile leaves nothing acquired behind.

    Args:
        begin: begins what comes to its end even if the caller is cancelled.
        undo: gives back what was acquired, if nobody is there to take it.
    """
    anyio.get_cancelled_exc_class()  # loads what ``settle`` needs while there is still a file left to open
    pending = begin()
    try:
        return await carried_out(pending)
    except asyncio.CancelledError:
        if pending.exception() is None:
            await finish(undo(pending.result()))
        raise
