"""How the changes that parallel branches made to one field of the context become one value.

A field of the context names its reducer in its annotation: ``found: Annotated[list[str], append] = []``. A
reducer is called ``reducer(base, ours, theirs)``: the value before the branches, the value merged so far, and
the value of the next branch that changed the field, in declared order. Any function of that shape will do. A field that
is not there, as a ``TypedDict`` may have it, is ``None``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

Reducer: TypeAlias = Callable[[Any, Any, Any], Any]
"""``reducer(base, ours, theirs) -> merged``."""


def append(base: Any, ours: Any, theirs: Any) -> Any:
    """Put what each branch appended to a list, tuple or string one after the other.

    Examples:
        >>> append([1], [1, 2], [1, 3])
        [1, 2, 3]
    """
    return ours + (theirs if base is None else theirs[len(base) :])


def add(base: Any, ours: Any, theirs: Any) -> Any:
    """Add up what each branch added to a number; the base counts once.

    Examples:
        >>> add(10, 11, 12)
        13
    """
    return ours + (theirs if base is None else theirs - base)


def keep_first(base: Any, ours: Any, theirs: Any) -> Any:
    """Keep the value of the first branch that changed the field, in declared order."""
    return ours


def keep_last(base: Any, ours: Any, theirs: Any) -> Any:
    """Keep the value of the last branch that changed the field, in declared order."""
    return theirs
