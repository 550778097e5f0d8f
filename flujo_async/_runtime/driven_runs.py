"""The runs that are driven in this process: who tells them that something was posted, and who may not wait for them."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, Protocol

from flujo_async._runtime.tasks import awaited_by
from flujo_async.errors import InvalidArgument


class Receiver(Protocol):
    """Somebody who drives a run."""

    def look(self) -> None:
        """Something was posted to the run; called in any thread."""
        ...


_GUARD: Final = threading.Lock()
_RECEIVERS: Final[defaultdict[str, list[Receiving]]] = defaultdict(list)
"""The runs that are driven in this process; different stores may have runs of one name."""

_IS_WITHIN: Final[ContextVar[bool]] = ContextVar("flujo_async_is_within", default=False)
"""Whether what goes on was begun within a run: others need not ask whether a run waits for them."""

_AWAITED: Final[dict[asyncio.Task[Any], tuple[str, object]]] = {}
"""The run that a task waits for, with its store."""


class Receiving:
    """The block in which a receiver is told; one for each run, so it is quicker than a generator would be.

    Attributes:
        receiver: who is told.
        store: of what store the run is.
        task: what the block is in.
    """

    __slots__ = ("_run_id", "_was_within", "receiver", "store", "task")

    def __init__(self, run_id: str, receiver: Receiver, store: object) -> None:
        self._run_id = run_id
        self.receiver: Receiver = receiver
        self.store: object = store

    def __enter__(self) -> None:
        self.task: Any = asyncio.current_task()
        self._was_within: bool = _IS_WITHIN.get()
        _IS_WITHIN.set(True)
        with _GUARD:
            _RECEIVERS[self._run_id].append(self)

    def __exit__(self, *_: object) -> None:
        _IS_WITHIN.set(self._was_within)  # a token could not be taken back where the loop is gone
        with _GUARD:
            receivers = _RECEIVERS[self._run_id]
            receivers.remove(self)
            if not receivers:
                del _RECEIVERS[self._run_id]


def nudge(run_id: str) -> None:
    """Tell whoever drives a run of this name to look at what was posted."""
    for receiving in _receiving(run_id):
        receiving.receiver.look()


@contextmanager
def waiting_for(run_id: str, store: object) -> Generator[None]:
    """The block in which a task waits until a run rests.

    Raises:
        InvalidArgument: the run waits for that task, as one that awaits itself does, or two that await each other.
    """
    here = asyncio.current_task()
    if here is None:
        yield
        return
    if _IS_WITHIN.get() and here in _tasks_of(run_id, store):
        raise InvalidArgument(f"run {run_id!r} would wait for itself: it waits for the code that asks for it")
    _AWAITED[here] = run_id, store
    try:
        yield
    finally:
        del _AWAITED[here]


def _tasks_of(run_id: str, store: object) -> set[asyncio.Task[Any]]:
    """Return the tasks that a run is driven in or waits for, and those that it waits for by way of other runs."""
    found, todo = set[asyncio.Task[Any]](), _driving(run_id, store)
    while todo:
        task = todo.pop()
        if task in found:
            continue
        found.add(task)
        todo += awaited_by(task)
        if task in _AWAITED:
            todo += _driving(*_AWAITED[task])
    return found


def _driving(run_id: str, store: object) -> list[asyncio.Task[Any]]:
    """Return the tasks in which a run is driven."""
    tasks = [receiving.task for receiving in _receiving(run_id) if receiving.store is store]
    return [task for task in tasks if isinstance(task, asyncio.Task)]


def _receiving(run_id: str) -> list[Receiving]:
    with _GUARD:
        return list(_RECEIVERS.get(run_id, ()))
