"""Somebody who watches the runs that are driven in a context, and throws their dice: for tests."""

from __future__ import annotations

import random
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Final, Protocol

_NOBODY: Final = nullcontext()


class Witness(Protocol):
    """Watches runs."""

    def executing(self, run_id: str, key: str) -> AbstractContextManager[None]:
        """Return what is entered while the function of a step is executed."""
        ...

    def dice(self, run_id: str, key: str) -> random.Random:
        """Return what a run draws from under a key."""
        ...


WITNESS: Final[ContextVar[Witness | None]] = ContextVar("flujo_async_witness", default=None)


def executing(run_id: str, key: str) -> AbstractContextManager[None]:
    """Return what is entered around one call of the function of a step."""
    witness = WITNESS.get()
    return _NOBODY if witness is None else witness.executing(run_id, key)


def dice(run_id: str, key: str) -> random.Random | None:
    """Return what a run draws from under a key; ``None`` is true chance."""
    witness = WITNESS.get()
    return None if witness is None else witness.dice(run_id, key)


_ALWAYS_REPLAYING: Final[list[object]] = []


@contextmanager
def always_replaying() -> Generator[None]:
    """Let all runs of the process be driven as with ``always_replay`` while the block runs."""
    token = object()
    _ALWAYS_REPLAYING.append(token)
    try:
        yield
    finally:
        _ALWAYS_REPLAYING.remove(token)


def is_always_replaying() -> bool:
    """Return whether somebody wants all runs to be replayed."""
    return bool(_ALWAYS_REPLAYING)
