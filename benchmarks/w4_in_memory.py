"""W4: what does a step cost without any store, that is: the runtime alone?"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.question import TIME, Column, Question, Target
from benchmarks.roster import Entry
from benchmarks.single import main

PIPELINE, WORKFLOW = Entry("ours", "pipeline memory"), Entry("ours", "workflow memory")
KINDS = (("pipeline", PIPELINE, 15), ("workflow", WORKFLOW, 20))
PEERS_THERE = {"Burr": (Entry("burr", "memory"), 44), "LangGraph": (Entry("langgraph", "memory"), 266)}
"""What these take on the machine that the bounds were set on, in µs."""


def targets(sizes: Sequence[int]) -> list[Target]:
    """Return the targets for the largest size: as they were set, and as ratios, which hold on any machine."""
    size = sizes[-1]
    return [Target(f"a {kind}'s step, µs", TIME.key, (ours, size), at_most=most) for kind, ours, most in KINDS] + [
        Target(
            f"a {kind}'s step: faster than {name}",
            TIME.key,
            (peer, size),
            (ours, size),
            at_least=round(there / most, 1),
        )
        for kind, ours, most in KINDS
        for name, (peer, there) in PEERS_THERE.items()
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
            *(peer for peer, _ in PEERS_THERE.values()),
            Entry("pydantic_graph", "memory"),
            Entry("llama_index", "memory"),
        ),
        columns=(Column("us_per_step", "µs/step"),),
        targets=targets,
    ),
)

if __name__ == "__main__":
    main(QUESTIONS)
