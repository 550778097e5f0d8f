"""Fields of records that take long to work out, and that not everybody reads."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

_ON_DEMAND: Final[type[Any]] = partial  # of any type: what a partial makes is unknown to pyright


class OnDemand:
    """Stands in front of the slot of a field. What is given as a ``partial`` is called when it is first read.

    For everything else it is a field as any other: it is compared, shown and copied by its value.
    """

    __slots__ = ("_slot",)

    def __init__(self, slot: Any) -> None:
        self._slot: Final = slot

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        if instance is None:
            return self
        value: Any = self._slot.__get__(instance)
        if type(value) is _ON_DEMAND:
            value = value()
            self._slot.__set__(instance, value)
        return value

    def __set__(self, instance: object, value: Any) -> None:
        self._slot.__set__(instance, value)
