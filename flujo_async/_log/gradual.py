"""What takes as long as a log is, in parts: whoever shares its thread with others turns to them in between."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Final, TypeAlias, TypeVar

from flujo_async._log.chain import GENESIS, verify
from flujo_async._log.fold import Fold, fold_log
from flujo_async._model.stored import Record

T = TypeVar("T")

Gradual: TypeAlias = Generator[None, None, T]
"""Work that stops for a moment after each part, and returns its result in the end."""

_AT_ONCE: Final = 32
"""So many facts are read in about a quarter of a millisecond."""


def each_of(items: Sequence[T], work: Callable[[Sequence[T]], Any]) -> Gradual[None]:
    """Do ``work`` on all items in their order, some at a time."""
    for start in range(0, len(items), _AT_ONCE):
        if start:
            yield
        work(items[start : start + _AT_ONCE])


def verify_gradually(
    run_id: str, records: Sequence[Record], *, after: int = 0, prev_hash: str = GENESIS
) -> Gradual[None]:
    """Check that records continue a log; see ``verify``."""

    def check(some: Sequence[Record]) -> None:
        nonlocal after, prev_hash
        verify(run_id, some, after=after, prev_hash=prev_hash)
        after, prev_hash = some[-1].seq, some[-1].hash

    yield from each_of(records, check)


def fold_gradually(run_id: str, records: Sequence[Record]) -> Gradual[Fold]:
    """Return the state at the end of a log; see ``fold_log``."""
    fold = fold_log(run_id, records[:_AT_ONCE])
    yield from each_of(records[_AT_ONCE:], fold.extend)
    return fold
