"""Asks every question of every system, and writes a table, a picture and the data.

nox -s bench -- [--quick] [--only W1,W3] [--peers langgraph,burr] [--rounds 3] [--out DIR] [--envs DIR] [--publish]

Questions that are not asked this time keep the figures that are in ``--out``.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Sequence
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

PLACE = Path(__file__).parent


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
    parser.add_argument("--publish", action="store_true", help="put tables and picture into benchmarks/ as well")
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
    began, asked = time.monotonic(), _asked(options.only)
    options.out.mkdir(parents=True, exist_ok=True)
    kept = report.load(options.out / "results.json", [question for question in QUESTIONS if question not in asked])
    cells: list[harness.Cell] = []
    for question in asked:
        found = harness.cells_of(question, settings)
        harness.measure(found, settings)
        cells += found
        print("\n".join(report.tables(found)), end="\n\n", flush=True)
        write(_in_order([*kept, *cells]), options.out, publish=options.publish)
    print(f"{options.out}/results.md, .json and .png, after {time.monotonic() - began:.0f} s")


def write(cells: Sequence[harness.Cell], out: Path, *, publish: bool) -> None:
    """Write all forms of what was measured."""
    about = report.environment()
    pages = report.as_pages(about, cells)
    (out / "results.json").write_text(report.as_data(about, cells))
    (out / "results.md").write_text(pages)
    plot.draw(cells, about, out / "results.png")
    if publish:
        report.publish(pages, PLACE / "README.md")
        shutil.copy(out / "results.png", PLACE)


def _in_order(cells: list[harness.Cell]) -> list[harness.Cell]:
    return sorted(cells, key=lambda cell: QUESTIONS.index(cell.question))


def _asked(only: str | None) -> list[Question]:
    if only is None:
        return list(QUESTIONS)
    names = {name.upper() for name in only.split(",")}
    return [question for question in QUESTIONS if question.name.split()[0] in names]


if __name__ == "__main__":
    main()
