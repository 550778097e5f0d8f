"""Somebody who watches the runs that are driven in a context, and throws their dice: for tests."""

from __future__ import annotations

import random
from contextlib import AbstractContextManager, nullcontext
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
