"""Telling a run that is driven in this process that something was posted to it."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final, TypeAlias

Look: TypeAlias = Callable[[], object]

_GUARD: Final = threading.Lock()
_RECEIVERS: Final[defaultdict[str, list[Look]]] = defaultdict(list)
"""The runs that are driven in this process; different stores may have runs of one name."""


@contextmanager
def receiving(run_id: str, look: Look) -> Generator[None]:
    """Have ``look`` called while the block runs when something was posted, from any thread."""
    with _GUARD:
        _RECEIVERS[run_id].append(look)
    try:
        yield
    finally:
        with _GUARD:
            _RECEIVERS[run_id].remove(look)
            if not _RECEIVERS[run_id]:
                del _RECEIVERS[run_id]


def nudge(run_id: str) -> None:
    """Tell whoever drives a run of this name to look at what was posted."""
    with _GUARD:
        receivers = list(_RECEIVERS.get(run_id, ()))
    for look in receivers:
        look()
