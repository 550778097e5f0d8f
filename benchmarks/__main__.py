"""Asks every question of every system, and writes a table, a picture and the data.

nox -s bench -- [--quick] [--only W1,W3] [--peers langgraph,burr] [--rounds 3] [--out DIR] [--envs DIR]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks import (
    harness,
    plot,
    report,
    w1_one_run,
    w2_many_runs,
    w3_growth,
    w4_in_memory,
    w5_resume,
    w6_footprint,
    w7_event_loop,
    w8_kinds,
)
from benchmarks.question import Question
from benchmarks.roster import DEFAULT_ENVIRONMENTS, PEERS

MODULES = (w1_one_run, w2_many_runs, w3_growth, w4_in_memory, w5_resume, w6_footprint, w7_event_loop, w8_kinds)
QUESTIONS: tuple[Question, ...] = tuple(question for module in MODULES for question in module.QUESTIONS)


def arguments() -> argparse.Namespace:
    """Return what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, one round: minutes, and rough figures")
    parser.add_argument("--only", help="questions, comma-separated: W1,W3")
    parser.add_argument("--peers", help=f"some of {','.join(PEERS)}; '' is none")
    parser.add_argument("--rounds", type=int, help="3, or 1 of a quick run")
    parser.add_argument("--timeout", type=float, help="seconds for one cell: 600, or 30 of a quick run")
    parser.add_argument("--out", type=Path, default=Path(".nox/bench"), help="where the results go")
    parser.add_argument("--envs", type=Path, default=DEFAULT_ENVIRONMENTS, help="where the peers' environments are")
    return parser.parse_args()


def main() -> None:
    """Measure and write."""
    options = arguments()
    settings = harness.Settings(
        environments=options.envs,
        rounds=options.rounds or (1 if options.quick else 3),
        quick=options.quick,
        timeout=options.timeout or (30 if options.quick else 600),
        peers=None if options.peers is None else frozenset(options.peers.split(",")),
    )
    about, cells, began = report.environment(settings), list[harness.Cell](), time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    for question in _asked(options.only):
        found = harness.cells_of(question, settings)
        harness.measure(found, settings)
        cells += found
        print("\n".join(report.tables(found)), end="\n\n", flush=True)
        (options.out / "results.json").write_text(report.as_data(about, cells))
        (options.out / "results.md").write_text(report.as_pages(about, cells))
    plot.draw(cells, about, options.out / "results.png")
    print(f"{options.out}/results.md, .json and .png, after {time.monotonic() - began:.0f} s")


def _asked(only: str | None) -> list[Question]:
    if only is None:
        return list(QUESTIONS)
    names = {name.upper() for name in only.split(",")}
    return [question for question in QUESTIONS if question.name.split()[0] in names]


if __name__ == "__main__":
    main()
