"""Work that a cancellation may not cut short."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, TypeVar

import anyio

T = TypeVar("T")

_ANYIO: Final = "anyio._backends._asyncio"


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
    with _shield():
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is not None:
        raise cancelled


def _shield() -> AbstractContextManager[object]:
    """Return a shield against anyio, which repeats a cancellation until it is obeyed; asyncio's comes through it.

    Whoever can cancel by anyio has entered a scope of it, which loads what it is made of. Where that is not loaded
    there is nothing to be shielded from, and a run that resumes need not wait for the import.
    """
    return anyio.CancelScope(shield=True) if _ANYIO in sys.modules else nullcontext()
