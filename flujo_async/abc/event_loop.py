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
