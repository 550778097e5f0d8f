"""W3: what does a step cost when the context is large and a list in it grows by one each step?"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.question import LIMIT, OURS, RESIDENT, STORED, TIME, WRITTEN, Question, Target
from benchmarks.roster import Entry
from benchmarks.single import main

EARLY, LATE = 400, 6400
BURR, LANGGRAPH = Entry("burr", "default"), Entry("langgraph", "full")


def targets(_sizes: Sequence[int]) -> list[Target]:
    """Return the targets, all of which are about a long run."""
    late, early = (OURS, LATE), (OURS, EARLY)
    return [
        Target("time per step at 6,400 steps: that at 400", TIME.key, late, early, at_most=1.1),
        Target("bytes written per step at 6,400 steps: those at 400", WRITTEN.key, late, early, at_most=1.1),
        Target("bytes stored per step at 6,400 steps: those at 400", STORED.key, late, early, at_most=1.1),
        Target("bytes written: LangGraph's are more", WRITTEN.key, (LANGGRAPH, LATE), late, at_least=30),
        Target("bytes written: Burr's are more", WRITTEN.key, (BURR, LATE), late, at_least=30),
        Target("bytes stored: LangGraph's are more", STORED.key, (LANGGRAPH, LATE), late, at_least=30),
        Target("bytes stored: Burr's are more", STORED.key, (BURR, LATE), late, at_least=30),
    ]


QUESTIONS = (
    Question(
        name="W3",
        title="Growth: 100 KB that stay, and a list that each step makes longer",
        workload="growth",
        unit="steps",
        sizes=(100, EARLY, 1600, LATE),
        quick_sizes=(50, 200),
        entries=(
            OURS,
            Entry("ours", "workflow full"),
            LIMIT,
            BURR,
            LANGGRAPH,
            Entry("dbos", "default"),
            Entry("pydantic_graph", "file", most=100),
            Entry("llama_index", "default", most=1600),
            Entry("temporal", "server", most=100),
            Entry("flujo", "default", most=100),
        ),
        columns=(TIME, WRITTEN, STORED, RESIDENT),
        targets=targets,
    ),
)

if __name__ == "__main__":
    main(QUESTIONS)
