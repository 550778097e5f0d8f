"""Definitions as data: what is drawn, what a pipeline is built from, and what the oracle reads.

Values are whole numbers. A name occurs once in a definition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

HOUR = 3600.0
SIGNALS = {"w1": 5, "w2": 8}
"""What waits are answered with."""
UNDOING = 1000
"""What a compensation adds to the total."""


@dataclass(frozen=True)
class Do:
    """A step: it returns what it is given, and ``adds`` more.

    Attributes:
        reads: whether what it returns depends on the total as well.
        notes: what it changes in the context: the total, and its name among those seen.
        fails_on: it fails if this divides what it is given; 0 is never.
        backoff: its first attempt fails, and the second one comes so many seconds later; ``None`` if there is one.
        turns: for how many turns of the event loop it runs.
        instead: its fallback.
        undo: how it is undone; ``"flaky"`` works the second time.
    """

    name: str
    adds: int = 1
    reads: bool = False
    notes: Literal["all", "total", "nothing"] = "all"
    fails_on: int = 0
    backoff: float | None = None
    turns: int = 0
    effect: Literal["idempotent", "once"] = "idempotent"
    durability: Literal["sync", "async", "exit"] | None = None
    instead: Do | None = None
    undo: Literal["plain", "flaky"] | None = None


@dataclass(frozen=True)
class Sleep:
    """It passes on what it is given."""


@dataclass(frozen=True)
class Wait:
    """A wait for one of ``SIGNALS``, or for another, which is never sent, until it is too late."""

    name: str
    default: int = 0


@dataclass(frozen=True)
class Row:
    """One after the other."""

    parts: tuple[Term, ...]


@dataclass(frozen=True)
class Inline:
    """A row that counts as one step."""

    name: str
    body: Row


@dataclass(frozen=True)
class Child:
    """A row that is a run of its own."""

    name: str
    body: Row


@dataclass(frozen=True)
class Parallel:
    """Some rows for the same input; the sum of what they return."""

    name: str
    members: tuple[Inline, ...]
    on_error: Literal["cancel", "finish", "ignore"]
    max_concurrency: int | None


@dataclass(frozen=True)
class Each:
    """A row for so many numbers, from the input on; the sum of what they return."""

    name: str
    body: Row
    items: int
    on_error: Literal["cancel", "finish", "ignore"]
    max_concurrency: int | None


@dataclass(frozen=True)
class Fork:
    """One row for even numbers, and one for the others."""

    even: Row
    odd: Row


@dataclass(frozen=True)
class Loop:
    """A row again and again, until the goal is reached: by the number, or by the total as well."""

    body: Row
    goal: int
    by_total: bool
    turns: int


@dataclass(frozen=True)
class Need:
    """That a node needs an earlier one; it is left out if that returns an odd number, but only even ones are wanted."""

    node: int
    only_even: bool


@dataclass(frozen=True)
class Node:
    """One step of a graph, given the sum of what it needs; without any needs, the input.

    Attributes:
        spare: a step that fails; its group with the first need, which no condition guards, makes up for it.
    """

    step: Do
    needs: tuple[Need, ...]
    spare: Do | None = None


@dataclass(frozen=True)
class Graph:
    """Nodes; the sum of what those return that nobody needs."""

    name: str
    nodes: tuple[Node, ...]
    on_error: Literal["cancel", "finish"]


@dataclass(frozen=True)
class Coded:
    """A coroutine that does a row in Python; only there may a row have what is below."""

    name: str
    body: Row


@dataclass(frozen=True)
class Beside:
    """Some rows at the same time, in one context, for the same input; the sum of what they return.

    Attributes:
        how: by which means of asyncio: ``"gather"`` and ``"tasks"`` take 100 for a row that fails, ``"group"``, which
            cancels the others, and ``"raise"``, which leaves them alone, come to 50 then.
        limit: how many of the rows go on at a time.
    """

    rows: tuple[Row, ...]
    how: Literal["gather", "tasks", "group", "raise"]
    limit: int


@dataclass(frozen=True)
class Attempt:
    """A row, and if it fails another one, with the next number."""

    body: Row
    instead: Row


@dataclass(frozen=True)
class Note:
    """The coroutine itself adds to the total, among other things that are recorded."""

    adds: int


Term: TypeAlias = (
    Do | Sleep | Wait | Inline | Child | Parallel | Each | Fork | Loop | Graph | Coded | Beside | Attempt | Note
)
