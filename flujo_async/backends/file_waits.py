"""What a run waits for, in the heads of its log: each line tells what is new since the line that told it before.

A head has the whole list, or an object: ``line`` is the byte where that earlier line begins, ``gone`` has the places of
what was left out of its list, and ``new`` is what came behind the rest. The whole list is told again when as much was
told since as it has: so all lines together are as long as what was ever waited for, and who reads a head goes back over
no more lines than the list has items.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

Waits: TypeAlias = list[dict[str, Any]]
"""What is waited for, encoded."""

Told: TypeAlias = Any
"""What a head has of that: the list, or what is new."""


@dataclass(frozen=True, slots=True)
class Last:
    """The last line that told something new.

    Attributes:
        line: where it begins.
        waits: what was waited for then.
        since: how much was told since the last whole list.
    """

    line: int
    waits: Waits
    since: int = 0

    def tell(self, waits: Waits, line: int) -> tuple[Told, Last]:
        """Return what a new line tells, and the last one that told something new.

        Args:
            waits: what is waited for: something.
            line: where the new line begins.
        """
        if waits == self.waits:
            return {"line": self.line}, self
        kept, gone = 0, list[int]()
        for place, wait in enumerate(self.waits):
            if kept < len(waits) and wait == waits[kept]:
                kept += 1
            else:
                gone.append(place)
        news = {"line": self.line, "gone": gone, "new": waits[kept:]}
        since = self.since + _length(news)
        return (news, Last(line, waits, since)) if since <= len(waits) else (waits, Last(line, waits))


NEVER = Last(-1, [])
"""Nothing was told yet."""


def told_in(line: int, told: Told, at: Callable[[int], Told], known: Last) -> Last:
    """Return the last line that told something new.

    Args:
        line: where the line begins that told ``told``.
        told: what that tells.
        at: returns what the line tells that begins at a place.
        known: an earlier one, if it is known.

    Raises:
        KeyError, TypeError: a line is not one of ours.
    """
    news: list[tuple[int, Any]] = []
    while line != known.line and not isinstance(told, list):
        if not 0 <= told["line"] < line:
            raise KeyError(told["line"])
        if "gone" in told:
            news.append((line, told))
        line, told = told["line"], at(told["line"])
    last = known if line == known.line else Last(line, cast("Waits", told))
    for line, each in reversed(news):
        gone = set(each["gone"])
        waits = [wait for place, wait in enumerate(last.waits) if place not in gone] + each["new"]
        last = Last(line, waits, last.since + _length(each))
    return last


def _length(news: dict[str, Any]) -> int:
    return 1 + len(news["gone"]) + len(news["new"])
