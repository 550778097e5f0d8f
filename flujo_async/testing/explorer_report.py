"""What an exploration of crashes has found, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal

from flujo_async._model.state import RunStatus
from flujo_async.testing.faults import Call

_MISSING: Final = object()
_MOST_TOLD: Final = 10


@dataclass(frozen=True, slots=True)
class Crash:
    """Where a process dies.

    Attributes:
        nth: at which of its writes, from 1.
        how: ``"before"`` that is durable, or ``"after"``.
    """

    nth: int
    how: Literal["before", "after"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run leaves behind that no crash may change.

    Attributes:
        status: how it rests; ``None`` if there is no run.
        output: what it returned.
        error: type and text of what failed it.
        context: its fields.
        waiting_for: kind and name of all that it waits for.
    """

    status: RunStatus | None
    output: Any = None
    error: str | None = None
    context: Mapping[str, Any] = field(default_factory=dict[str, Any])
    waiting_for: tuple[str, ...] = ()

    def differences(self, expected: Outcome) -> Iterator[str]:
        """Yield where another outcome was expected, in words."""
        for each in fields(self):
            found, wanted = getattr(self, each.name), getattr(expected, each.name)
            if each.name == "context":
                yield from _differing_fields(found, wanted)
            elif not _is_same(found, wanted):
                yield f"{each.name}: {found!r} instead of {wanted!r}"


@dataclass(slots=True)
class Life:
    """What one process did before it died, or the run came to rest.

    Attributes:
        writes: the calls that change what is stored, in order.
        executed: how often it began to execute each step, by run and key.
        has_crashed: whether it died.
        repeated: the steps that it executed though their outcome was stored before.
        trouble: what went wrong otherwise.
    """

    writes: list[Call] = field(default_factory=list[Call])
    executed: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    has_crashed: bool = False
    repeated: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    trouble: Exception | None = None


@dataclass(slots=True)
class World:
    """One run, its crashes, and how it ended.

    Attributes:
        number: names it; 0 was not disturbed.
        crashes: where each life but the last was to end.
        lives: what the processes did, one after the other.
        outcome: what the run left.
        differences: what is wrong, in words.
    """

    number: int
    crashes: tuple[Crash, ...] = ()
    lives: list[Life] = field(default_factory=list[Life])
    outcome: Outcome = field(default_factory=lambda: Outcome(None))
    differences: list[str] = field(default_factory=list[str])

    @property
    def executed(self) -> Counter[tuple[str, str]]:
        """How often each step was begun in all lives together, by run and key."""
        return sum((life.executed for life in self.lives), Counter[tuple[str, str]]())

    @property
    def is_as_planned(self) -> bool:
        """Whether every crash came to pass; a run may have got to its end before."""
        return sum(life.has_crashed for life in self.lives) == len(self.crashes)

    def __str__(self) -> str:
        lines = [_told(crash, life) for crash, life in zip(self.crashes, self.lives, strict=False) if life.has_crashed]
        return "\n".join([*lines, *(f"  {difference}" for difference in self.differences)])


@dataclass(frozen=True, slots=True)
class CrashReport:
    """What was explored.

    Attributes:
        reference: the run that nothing disturbed.
        worlds: how many worlds with crashes were explored.
        skipped: how many more there are that ``max_worlds`` left out.
        failures: the worlds that ended otherwise.
    """

    reference: World
    worlds: int
    skipped: int
    failures: tuple[World, ...]

    @property
    def writes(self) -> int:
        """How many writes the undisturbed run made."""
        return len(self.reference.lives[-1].writes)

    @property
    def steps(self) -> int:
        """How many steps the undisturbed run executed."""
        return len(self.reference.executed)

    def __str__(self) -> str:
        skipped = f" ({self.skipped} more were left out)" if self.skipped else ""
        head = f"{self.worlds} worlds explored{skipped}: {self.writes} writes, {self.steps} steps"
        if not self.failures:
            return f"{head}; all end as if nothing had happened"
        listed = (f"{number}. {world}" for number, world in enumerate(self.failures[:_MOST_TOLD], 1))
        more = len(self.failures) - _MOST_TOLD
        rest = [f"… and {more} more"] if more > 0 else []
        return "\n\n".join([f"{head}; {len(self.failures)} do not end as the undisturbed run", *listed, *rest])


def step_name(run_id: str, key: str, own: str) -> str:
    """Return a step as a reader knows it."""
    return f"step {key!r}" if run_id == own else f"step {key!r} of run {run_id!r}"


def _told(crash: Crash, life: Life) -> str:
    side = "before it was stored" if crash.how == "before" else "after it was stored, before anybody knew"
    return f"The process died at its write {crash.nth}, {side} ({life.writes[crash.nth - 1]}). Taken up again:"


def _differing_fields(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    for name in dict.fromkeys([*wanted, *found]):
        one, other = found.get(name, _MISSING), wanted.get(name, _MISSING)
        if not _is_same(one, other):
            yield f"context.{name}: {_shown(one)} instead of {_shown(other)}"


def _shown(value: Any) -> str:
    return "nothing" if value is _MISSING else repr(value)


def _is_same(one: Any, other: Any) -> bool:
    return bool(one == other) or repr(one) == repr(other)  # nan is not equal to itself
