"""Which part of a long answer is asked for."""

from __future__ import annotations

from typing import Any, Final, TypeVar

from flujo_async.errors import InvalidArgument

T = TypeVar("T")

_LARGEST: Final = 2**63 - 1


def page(items: list[T], limit: int | None, offset: int) -> list[T]:
    """Return ``limit`` items (``None`` is no limit) at most, without the first ``offset``."""
    return items[offset : None if limit is None else offset + limit]


def check_page(limit: Any, offset: Any) -> None:
    """Check that ``limit`` (``None`` is no limit) and ``offset`` are numbers that every store can count to.

    Raises:
        InvalidArgument: one is no whole number from 0 to 2**63 - 1.
    """
    check_whole("limit", 0 if limit is None else limit)
    check_whole("offset", offset)


def check_whole(name: str, number: Any) -> None:
    """Check that something is a number that every store can count to.

    Raises:
        InvalidArgument: it is no whole number from 0 to 2**63 - 1.
    """
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= _LARGEST:
        raise InvalidArgument(f"{name} is a whole number from 0 on, not {number!r}")
