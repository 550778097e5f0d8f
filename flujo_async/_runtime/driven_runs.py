"""The runs that are driven in this process: who tells them that something was posted, and who may not wait for them."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from typing import Any, Final, Protocol, cast

from flujo_async.errors import InvalidArgument


class Receiver(Protocol):
    """Somebody who drives a run."""

    def look(self) -> None:
        """Something was posted to the run; called in any thread."""
        ...


_GUARD: Final = threading.Lock()
_RECEIVERS: Final[defaultdict[str, list[Receiving]]] = defaultdict(list)
"""The runs that are driven in this process; different stores may have runs of one name."""


class Receiving:
    """The block in which a receiver is told; one for each run, so it is quicker than a generator would be.

    Attributes:
        receiver: who is told.
        store: of what store the run is.
        task: what the block is in.
    """

    __slots__ = ("_run_id", "receiver", "store", "task")

    def __init__(self, run_id: str, receiver: Receiver, store: object) -> None:
        self._run_id = run_id
        self.receiver: Receiver = receiver
        self.store: object = store

    def __enter__(self) -> None:
        self.task: Any = asyncio.current_task()
        with _GUARD:
            _RECEIVERS[self._run_id].append(self)

    def __exit__(self, *_: object) -> None:
        with _GUARD:
            receivers = _RECEIVERS[self._run_id]
            receivers.remove(self)
            if not receivers:
                del _RECEIVERS[self._run_id]


def nudge(run_id: str) -> None:
    """Tell whoever drives a run of this name to look at what was posted."""
    for receiving in _receiving(run_id):
        receiving.receiver.look()


def check_may_wait(run_id: str, store: object) -> None:
    """Check that a run does not wait for the task that is about to wait for it.

    Of tasks that the run has made, such as the branches of a ``parallel``, this cannot be told.

    Raises:
        InvalidArgument: it does.
    """
    here = asyncio.current_task()
    for awaited in [receiving.task for receiving in _receiving(run_id) if receiving.store is store]:
        while isinstance(awaited, asyncio.Task):
            if awaited is here:
                raise InvalidArgument(f"run {run_id!r} would wait for itself: it waits for the code that asks for it")
            awaited = getattr(cast("object", awaited), "_fut_waiter", None)


def _receiving(run_id: str) -> list[Receiving]:
    with _GUARD:
        return list(_RECEIVERS.get(run_id, ()))
