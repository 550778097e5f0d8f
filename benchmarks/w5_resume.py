"""W5: a process died; how long after a resume does the next step start?"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.question import LIMIT, OURS, Column, Question, Target
from benchmarks.roster import Entry
from benchmarks.single import main

WORKFLOW = Entry("ours", "workflow full")
WAIT = Column("resume_ms", "ms")
KINDS = (("pipeline", OURS), ("workflow", WORKFLOW))
BOUNDS = {1000: 10, 10_000: 80}
THERE = 1000, 2.4
"""So many steps, and what they take the bare writer on the machine that the bounds were set on, in ms."""


def targets(sizes: Sequence[int]) -> list[Target]:
    """Return the targets for those sizes that have one: as they were set, and as ratios, which hold on any machine."""
    found = [
        Target(f"{kind} of {size:,} steps, ms", WAIT.key, (entry, size), at_most=BOUNDS[size])
        for size in sizes
        if size in BOUNDS
        for kind, entry in KINDS
    ]
    size, there = THERE
    if size in sizes:
        ratio = round(BOUNDS[size] / there, 1)
        found += [
            Target(f"{kind} of {size:,} steps: bare writer", WAIT.key, (entry, size), (LIMIT, size), at_most=ratio)
            for kind, entry in KINDS
        ]
    return found


QUESTIONS = (
    Question(
        name="W5",
        title="Resume of a run whose process died: until the next step starts",
        workload="resumption",
        unit="steps",
        sizes=(1000, 10_000),
        quick_sizes=(1000,),
        entries=(
            OURS,
            WORKFLOW,
            LIMIT,
            Entry("burr", "default"),
            Entry("langgraph", "full"),
            Entry("dbos", "default"),
            Entry("pydantic_graph", "file", most=100),
            Entry("llama_index", "default", most=1000),
        ),
        columns=(WAIT,),
        targets=targets,
    ),
)

if __name__ == "__main__":
    main(QUESTIONS)
