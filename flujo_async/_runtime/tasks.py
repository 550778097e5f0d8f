"""What tasks wait for, as far as asyncio lets on."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterable
from types import FrameType
from typing import Any, Final, cast

_WAITING_ROOMS: Final = frozenset({asyncio.locks.__file__, asyncio.queues.__file__})


def awaited_by(task: asyncio.Task[Any]) -> list[asyncio.Task[Any]]:
    """Return the tasks that have to end before a task goes on, however it waits for them: for all in a group, say."""
    waiter = getattr(task, "_fut_waiter", None)
    awaited: Iterable[Any] = [waiter, *getattr(waiter, "_children", ())]  # of ``gather``
    frame = _innermost(task)
    group = None if frame is None else frame.f_locals.get("self")
    if isinstance(group, asyncio.TaskGroup):
        awaited = list(getattr(cast("object", group), "_tasks", ()))
    return [each for each in awaited if isinstance(each, asyncio.Task)]


def waits_for_others(task: asyncio.Task[Any]) -> bool:
    """Return whether what a task awaits in the end is a task, or one of asyncio's primitives for synchronisation."""
    if isinstance(getattr(task, "_fut_waiter", None), asyncio.Task):
        return True
    frame = _innermost(task)
    return frame is not None and frame.f_code.co_filename in _WAITING_ROOMS


def _innermost(task: asyncio.Task[Any]) -> FrameType | None:
    """Return where a task that waits stands."""
    coroutine: Any = task.get_coro()
    while inspect.iscoroutine(inner := getattr(coroutine, "cr_await", None)):
        coroutine = inner
    return getattr(coroutine, "cr_frame", None)
