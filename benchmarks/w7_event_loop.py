"""W7: how late is the event loop under load, and how many threads are there?"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.question import LIMIT, OURS, Column, Question, Target
from benchmarks.roster import Entry
from benchmarks.single import main

P99, MORE = "lag_p99_ms", "threads_more"
COLUMNS = (
    Column(P99, "lag p99, ms"),
    Column("lag_p50_ms", "p50, ms"),
    Column("lag_max_ms", "max, ms"),
    Column("threads_max", "threads", digits=0),
    Column(MORE, "of these come while it works", digits=0),
)
PEERS = (
    Entry("burr", "default"),
    Entry("langgraph", "full"),
    Entry("dbos", "default"),
    Entry("llama_index", "default"),
)


def targets(sizes: Sequence[int]) -> list[Target]:
    """Return the targets."""
    at = (OURS, sizes[-1])
    return [
        Target("lag, p99, ms", P99, at, at_most=5),
        Target("threads that come while it works", MORE, at, at_most=0),
    ]


QUESTIONS = (
    Question(
        name="W7 load",
        title="The event loop during W2",
        workload="lag",
        unit="runs",
        sizes=(1000,),
        quick_sizes=(200,),
        entries=(OURS, Entry("ours", "workflow full"), LIMIT, *PEERS),
        columns=COLUMNS,
        targets=targets,
    ),
    Question(
        name="W7 large",
        title="The event loop while runs in flight pass 2 MB from step to step (5 steps each)",
        workload="lag_of_large_values",
        unit="runs",
        sizes=(20,),
        quick_sizes=(5,),
        entries=(OURS, LIMIT, *PEERS),
        columns=COLUMNS,
        targets=targets,
    ),
)

if __name__ == "__main__":
    main(QUESTIONS)
