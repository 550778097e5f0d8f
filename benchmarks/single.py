"""One question by itself: ``python -m benchmarks.w1_one_run [--size 200] [--peers burr] [--rounds 3]``."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.roster import DEFAULT_ENVIRONMENTS

if TYPE_CHECKING:
    from benchmarks.question import Question


def main(questions: Iterable[Question]) -> None:
    """Measure the questions of one module and print their tables."""
    from benchmarks import harness, report  # noqa: PLC0415 -- they know all questions, this one included

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, action="append", help="instead of the usual sizes; may be repeated")
    parser.add_argument("--peers", help="only these, comma-separated; '' is none")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--timeout", type=float, default=600, help="seconds for one cell")
    parser.add_argument("--envs", type=Path, default=DEFAULT_ENVIRONMENTS)
    options = parser.parse_args()
    peers = None if options.peers is None else frozenset(options.peers.split(","))
    settings = harness.Settings(options.envs, options.rounds, False, options.timeout, peers)
    for question in questions:
        asked = replace(question, sizes=tuple(sorted(options.size))) if options.size else question
        cells = harness.cells_of(asked, settings)
        harness.measure(cells, settings)
        print("\n".join(report.tables(cells)), flush=True)
