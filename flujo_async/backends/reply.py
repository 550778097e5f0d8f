"""Answers that coroutines wait for and another thread gives."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from flujo_async.abc.event_loop import tell
from flujo_async.abc.pace import Answer, Pace

T = TypeVar("T")


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


def send(answers: Iterable[Answer]) -> None:
    """Give answers from any thread, with one wake-up for each event loop."""
    by_loop: defaultdict[asyncio.AbstractEventLoop, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_loop[answer[0].get_loop()].append(answer)
    for loop, theirs in by_loop.items():
        tell(loop, _give, theirs)


def _give(answers: Iterable[Answer]) -> None:
    Pace.here().give(answers)
