"""Reaching an event loop from other threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


def tell(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *args: Any) -> None:
    """Have an event loop call something soon, from any thread; one that is closed has nobody left who waits for it."""
    try:
        loop.call_soon_threadsafe(call, *args)
    except RuntimeError:  # it was closed in between
        return


def wake(waiting: asyncio.Future[None]) -> None:
    """Let who awaits a future go on soon, from any thread; it may be cancelled meanwhile."""
    tell(waiting.get_loop(), _answer, waiting)


def _answer(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
