"""W2: how long does a step take when a hundred runs are in flight, and durable steps can share their commits?"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.question import (
    COMMITS,
    LIMIT,
    LIMIT_NORMAL,
    OURS,
    OURS_NORMAL,
    STORED,
    SYNCS,
    TIME,
    WRITTEN,
    Question,
    Target,
)
from benchmarks.roster import Entry
from benchmarks.single import main

BURR = Entry("burr", "default")
SLOW = {
    "LangGraph": Entry("langgraph", "full"),
    "DBOS": Entry("dbos", "default"),
    "llama-index": Entry("llama_index", "default"),
    "Temporal": Entry("temporal", "server"),
    "flujo": Entry("flujo", "default"),
}


def targets(sizes: Sequence[int]) -> list[Target]:
    """Return the targets for the largest size."""
    size = sizes[-1]
    ours = (OURS, size)
    return [
        Target("FULL: bare writer", TIME.key, ours, (LIMIT, size), at_most=2.5),
        Target("FULL: faster than Burr", TIME.key, (BURR, size), ours, at_least=5),
        *(
            Target(f"FULL: faster than {name}", TIME.key, (slow, size), ours, at_least=40)
            for name, slow in SLOW.items()
        ),
    ]


QUESTIONS = (
    Question(
        name="W2",
        title="Many runs of 5 steps, 100 in flight",
        workload="many_runs",
        unit="runs",
        sizes=(1000,),
        quick_sizes=(60,),
        entries=(
            OURS,
            LIMIT,
            OURS_NORMAL,
            LIMIT_NORMAL,
            Entry("ours", "workflow full"),
            BURR,
            Entry("burr", "wal full"),
            Entry("langgraph", "full"),
            Entry("langgraph", "normal"),
            Entry("dbos", "default"),
            Entry("dbos", "wal full"),
            Entry("pydantic_graph", "file"),
            Entry("llama_index", "default"),
            Entry("llama_index", "single connection"),
            Entry("temporal", "server"),
            Entry("flujo", "default"),
        ),
        columns=(TIME, COMMITS, SYNCS, WRITTEN, STORED),
        targets=targets,
        counted_size=200,
    ),
)

if __name__ == "__main__":
    main(QUESTIONS)
