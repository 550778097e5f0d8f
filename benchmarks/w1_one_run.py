"""W1: how long does a step of a single run take, when each is durable before the next one starts?"""

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

WORKFLOW = Entry("ours", "workflow full")
BURR, LANGGRAPH, DBOS = Entry("burr", "default"), Entry("langgraph", "full"), Entry("dbos", "default")


def targets(sizes: Sequence[int]) -> list[Target]:
    """Return the targets for each size."""
    found = []
    for size in sizes:
        ours, at = (OURS, size), f"{size:,} steps"
        found += [
            Target(f"FULL, {at}: bare writer", TIME.key, ours, (LIMIT, size), at_most=1.3),
            Target(f"NORMAL, {at}: bare writer", TIME.key, (OURS_NORMAL, size), (LIMIT_NORMAL, size), at_most=1.6),
            Target(f"FULL, {at}: faster than Burr", TIME.key, (BURR, size), ours, at_least=3),
            Target(f"FULL, {at}: faster than LangGraph", TIME.key, (LANGGRAPH, size), ours, at_least=3.5),
            Target(f"FULL, {at}: faster than DBOS", TIME.key, (DBOS, size), ours, at_least=7),
        ]
    return found


QUESTIONS = (
    Question(
        name="W1",
        title="One run, one step after the other",
        workload="one_run",
        unit="steps",
        sizes=(200, 2000),
        quick_sizes=(50,),
        entries=(
            OURS,
            LIMIT,
            OURS_NORMAL,
            LIMIT_NORMAL,
            WORKFLOW,
            BURR,
            Entry("burr", "wal full"),
            Entry("burr", "wal normal"),
            LANGGRAPH,
            Entry("langgraph", "normal"),
            DBOS,
            Entry("dbos", "wal full"),
            Entry("dbos", "wal normal"),
            Entry("pydantic_graph", "file", most=200),
            Entry("llama_index", "default"),
            Entry("llama_index", "single connection"),
            Entry("temporal", "server", most=200),
            Entry("flujo", "default", most=200),
        ),
        columns=(TIME, COMMITS, SYNCS, WRITTEN, STORED),
        targets=targets,
        counted_size=50,
    ),
)

if __name__ == "__main__":
    main(QUESTIONS)
