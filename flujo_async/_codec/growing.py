"""A list that knows whether it has only grown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

_MUTATORS: Final = (
    "__delitem__",
    "__imul__",
    "__setitem__",
    "clear",
    "insert",
    "pop",
    "remove",
    "reverse",
    "sort",
)
"""What changes a list otherwise than at its end."""


class GrowingList(list[Any]):
    """A list like any other, which also tells whether all that was done to it was to add items at its end."""

    __slots__ = ("has_only_grown",)

    def __init__(self, items: list[Any]) -> None:
        super().__init__(items)
        self.has_only_grown: bool = True

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)  # copies and pickles are plain lists


def _noticed(name: str) -> Callable[..., Any]:
    mutate = getattr(list, name)

    def method(self: GrowingList, *args: Any, **kwargs: Any) -> Any:
        self.has_only_grown = False
        return mutate(self, *args, **kwargs)

    method.__name__, method.__doc__ = name, mutate.__doc__
    return method


for _name in _MUTATORS:
    setattr(GrowingList, _name, _noticed(_name))
