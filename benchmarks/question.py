"""What a question consists of: who takes part, at which sizes, which figures count, and what they should be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.roster import Entry

OURS = Entry("ours", "pipeline full")
OURS_NORMAL = Entry("ours", "pipeline normal")
LIMIT = Entry("limit", "full")
LIMIT_NORMAL = Entry("limit", "normal")


@dataclass(frozen=True, slots=True)
class Column:
    """A figure, as a column of the table: its heading, and by what its unit divides it."""

    key: str
    heading: str
    per: float = 1
    digits: int = 1


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure should be, by itself or as a multiple of another cell's.

    Args:
        text: what is promised.
        key: which figure.
        cell: whose, at which size.
        base: by whose it is divided, round by round.
        at_most: the bound, from above; or else ``at_least``.
    """

    text: str
    key: str
    cell: tuple[Entry, int]
    base: tuple[Entry, int] | None = None
    at_most: float | None = None
    at_least: float | None = None


def no_targets(_sizes: Sequence[int]) -> list[Target]:
    """Return nothing: a question that only informs."""
    return []


@dataclass(frozen=True, slots=True)
class Question:
    """One table.

    Args:
        name: its short name, such as ``W1``.
        title: what is asked.
        workload: which of ``benchmarks.cell.WORKLOADS``, or ``imports``.
        unit: what a size counts.
        sizes: how large, in a full run.
        quick_sizes: how large, in a quick one.
        entries: who takes part.
        columns: which figures count; the first one is the one that the plot shows.
        targets: what they should be, given the sizes.
        most_rounds: how often each cell is measured at most, where one takes minutes.
        counted_size: how large is the extra run in which commits and fsyncs are counted, if there is one; there is
            none where all sizes are smaller.
    """

    name: str
    title: str
    workload: str
    unit: str
    sizes: tuple[int, ...]
    quick_sizes: tuple[int, ...]
    entries: tuple[Entry, ...]
    columns: tuple[Column, ...]
    targets: Callable[[Sequence[int]], list[Target]] = field(default=no_targets)
    most_rounds: int = 100
    counted_size: int | None = None


TIME = Column("us_per_step", "µs/step", digits=0)
WRITTEN = Column("written_per_step", "KB written/step", per=1024)
STORED = Column("stored_per_step", "KB stored/step", per=1024)
COMMITS = Column("commits_per_step", "commits/step", digits=2)
SYNCS = Column("syncs_per_step", "fsyncs/step", digits=2)
RESIDENT = Column("resident_bytes", "RSS, MB", per=2**20, digits=0)
