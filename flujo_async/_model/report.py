"""What a check of a store found."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Broken:
    """A run that cannot be trusted, or not even be read.

    Attributes:
        run_id: the run; empty where not even that can be told.
        seq: the first fact that cannot be trusted; 0 if the run cannot be read at all.
        reason: what is wrong.
    """

    run_id: str
    seq: int
    reason: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a check of one run, or of all runs of a store, found.

    Attributes:
        ok: whether nothing is broken.
        runs: how many runs were checked.
        facts: how many facts they have.
        broken: the runs that are not as they were written, the first fault of each.
    """

    ok: bool
    runs: int
    facts: int
    broken: list[Broken] = field(default_factory=list[Broken])
