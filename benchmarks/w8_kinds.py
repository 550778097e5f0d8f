"""W8: pipeline, workflow or graph: what does the kind of a definition cost?"""

from __future__ import annotations

from benchmarks.question import TIME, WRITTEN, Column, Question
from benchmarks.roster import Entry
from benchmarks.single import main

KINDS = ("pipeline", "workflow", "graph")

QUESTIONS = (
    Question(
        name="W8 memory",
        title="The kinds of definitions, in memory",
        workload="one_run",
        unit="steps",
        sizes=(200, 1000),
        quick_sizes=(200,),
        entries=tuple(Entry("ours", f"{kind} memory") for kind in KINDS),
        columns=(Column("us_per_step", "µs/step"),),
    ),
    Question(
        name="W8 store",
        title="The kinds of definitions, on SQLite",
        workload="one_run",
        unit="steps",
        sizes=(200,),
        quick_sizes=(200,),
        entries=tuple(Entry("ours", f"{kind} full") for kind in KINDS),
        columns=(TIME, WRITTEN),
    ),
)

if __name__ == "__main__":
    main(QUESTIONS)
