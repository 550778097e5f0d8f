"""Telling a run that is driven in this process that something was posted to it."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import Final, Protocol


class Receiver(Protocol):
    """Somebody who drives a run."""

    def look(self) -> None:
        """Something was posted to the run; called in any thread."""
        ...


_GUARD: Final = threading.Lock()
_RECEIVERS: Final[defaultdict[str, list[Receiver]]] = defaultdict(list)
"""The runs that are driven in this process; different stores may have runs of one name."""


class Receiving:
    """The block in which a receiver is told; one for each run, so it is quicker than a generator would be."""

    __slots__ = ("_receiver", "_run_id")

    def __init__(self, run_id: str, receiver: Receiver) -> None:
        self._run_id = run_id
        self._receiver = receiver

    def __enter__(self) -> None:
        with _GUARD:
            _RECEIVERS[self._run_id].append(self._receiver)

    def __exit__(self, *_: object) -> None:
        with _GUARD:
            receivers = _RECEIVERS[self._run_id]
            receivers.remove(self._receiver)
            if not receivers:
                del _RECEIVERS[self._run_id]


def nudge(run_id: str) -> None:
    """Tell whoever drives a run of this name to look at what was posted."""
    with _GUARD:
        receivers = list(_RECEIVERS.get(run_id, ()))
    for receiver in receivers:
        receiver.look()
