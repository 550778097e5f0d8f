"""What a run waits for while it is paused; each pause tells what is new since the last one."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, TypeAlias

from flujo_async._codec.heads import decode_waiting, encode_waiting
from flujo_async._model.facts import RunPaused
from flujo_async._model.state import Waiting

Asked: TypeAlias = tuple[Waiting, str | None]
"""What is waited for, and the child of the run through which it is; a child may wait for one of its own."""


@dataclass(slots=True)
class Awaited:
    """What a run waits for, or waited for when it was paused last.

    Attributes:
        is_paused: whether it was paused, and not taken up since.
        aside: what its head says that it waits for, where no fact does.
        asked: what it waited for when it was paused last, by number.
        count: how much it has waited for so far.
        signals: how many signals of the run had been looked at when it was paused last.
    """

    is_paused: bool = False
    aside: tuple[Waiting, ...] | None = None
    asked: dict[int, Asked] = field(default_factory=dict[int, Asked])
    count: int = 0
    signals: int = 0

    @property
    def now(self) -> tuple[Waiting, ...]:
        """What it waits for: pauses, which all else waits for, and then the rest in the order of the log."""
        if self.aside is not None:
            return self.aside
        return self._waits() if self.is_paused else ()

    def wake_at(self, deadline: datetime | None) -> datetime | None:
        """Return when the run goes on without an answer, if it is paused and ever does; ``deadline`` is its own."""
        waits = self._waits() if self.is_paused else ()
        if not waits or any(waiting.kind == "pause" and waiting.run_id is None for waiting in waits):
            return None
        moments = [deadline, *(waiting.deadline for waiting in waits)]
        return min((moment for moment in moments if moment is not None), default=None)

    def children(self) -> dict[str, list[Waiting]]:
        """Return what each child waited for, by its ``run_id``."""
        found = defaultdict[str, list[Waiting]](list)
        for waiting, child in self.asked.values():
            if child is not None:
                found[child].append(waiting)
        return found

    def paused(self, at: datetime, asked: Iterable[Asked], signals: int) -> RunPaused:
        """Return the fact that the run is paused again.

        Args:
            at: now.
            asked: what it waits for.
            signals: how many signals of the run were looked at.
        """
        known = defaultdict[str, deque[int]](deque)
        for number, each in self.asked.items():
            known[repr(each)].append(number)
        new: list[Asked] = []
        kept = set[int]()
        for each in asked:
            if numbers := known[repr(each)]:
                kept.add(numbers.popleft())
            else:
                new.append(each)
        return RunPaused(
            at=at,
            waiting_for=tuple(waiting for waiting, _ in new),
            through=() if all(waiting.run_id == child for waiting, child in new) else tuple(child for _, child in new),
            gone=tuple(number for number in self.asked if number not in kept),
            kept=len(kept),
            signals=signals,
        )

    def take_in(self, fact: RunPaused) -> None:
        """Rest again."""
        self.is_paused, self.aside = True, None
        for number in fact.gone:
            self.asked.pop(number, None)
        children = fact.through or tuple(waiting.run_id for waiting in fact.waiting_for)
        for number, each in enumerate(zip(fact.waiting_for, children, strict=False), self.count):
            self.asked[number] = each
        self.count += len(fact.waiting_for)
        self.signals = fact.signals

    def end(self) -> None:
        """Rest no more."""
        self.is_paused, self.aside = False, None

    def forget(self) -> None:
        """Begin anew: the next pause does not go on from the last one."""
        self.end()
        self.asked, self.signals = {}, 0

    def copy(self) -> Awaited:
        """Return the same, whatever comes."""
        return replace(self, asked=self.asked.copy())

    def encode(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "is_paused": self.is_paused,
            "numbers": list(self.asked),
            "waiting_for": encode_waiting(waiting for waiting, _ in self.asked.values()),
            "through": [child for _, child in self.asked.values()],
            "count": self.count,
            "signals": self.signals,
        }

    @classmethod
    def decode(cls, tree: dict[str, Any]) -> Awaited:
        """Return what ``encode`` wrote."""
        awaited = cls()
        asked = zip(decode_waiting(tree["waiting_for"]), tree["through"], strict=True)
        awaited.asked = dict(zip(tree["numbers"], asked, strict=True))
        awaited.is_paused, awaited.count, awaited.signals = tree["is_paused"], tree["count"], tree["signals"]
        return awaited

    def _waits(self) -> tuple[Waiting, ...]:
        waits = (waiting for waiting, _ in self.asked.values())
        return tuple(sorted(waits, key=lambda waiting: waiting.kind != "pause"))


def told_waits(fact: RunPaused, tell: Callable[[Waiting], str]) -> list[str]:
    """Return in words what a run waits for that is paused: what is new, and how much it waited for before."""
    return [*map(tell, fact.waiting_for), *([f"{fact.kept} as before"] if fact.kept else ())]
