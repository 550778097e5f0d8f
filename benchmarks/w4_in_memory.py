"""W4: what does a step cost without any store, that is: the runtime alone?"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.question import TIME, Column, Question, Target
from benchmarks.roster import Entry
from benchmarks.single import main

PIPELINE, WORKFLOW = Entry("ours", "pipeline memory"), Entry("ours", "workflow memory")


def targets(sizes: Sequence[int]) -> list[Target]:
    """Return the targets for the largest size."""
    return [
        Target("a pipeline's step, µs", TIME.key, (PIPELINE, sizes[-1]), at_most=15),
        Target("a workflow's step, µs", TIME.key, (WORKFLOW, sizes[-1]), at_most=20),
    ]


QUESTIONS = (
    Question(
        name="W4",
        title="In memory: one run, no store (flujo_async: its memory backend, which still encodes every fact)",
        workload="one_run",
        unit="steps",
        sizes=(1000,),
        quick_sizes=(1000,),
        entries=(
            PIPELINE,
            WORKFLOW,
            Entry("limit", "memory"),
            Entry("burr", "memory"),
            Entry("langgraph", "memory"),
            Entry("pydantic_graph", "memory"),
            Entry("llama_index", "memory"),
        ),
        columns=(Column("us_per_step", "µs/step"),),
        targets=targets,
    ),
)

if __name__ == "__main__":
    main(QUESTIONS)
