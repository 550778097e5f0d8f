"""What was measured, as tables and as data."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sqlite3
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.harness import Cell
from benchmarks.question import Column, Question, Target
from benchmarks.roster import ABSENT, PEERS, Entry

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
OWN = ("flujo-async", "aiosqlite", "anyio", "orjson", "pydantic")


def environment() -> dict[str, Any]:
    """Return on what, with what and how it was measured."""
    return {
        "machine": f"{_processor()}, {os.cpu_count()} cores, {_memory()} GB; {platform.system()} {platform.release()}; "
        f"{_file_system()}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "versions": {name: version(name) for name in OWN},
        "peers": {name: list(peer.requirements) for name, peer in PEERS.items()},
        "absent": ABSENT,
    }


def as_data(about: dict[str, Any], cells: Sequence[Cell]) -> str:
    """Return everything as JSON: each figure of each round."""
    rows = [
        {
            "question": cell.question.name,
            "entry": asdict(cell.entry),
            "size": cell.size,
            "rounds": cell.rounds,
            "counts": cell.counts,
            "failure": cell.failure,
            "taken": cell.taken,
        }
        for cell in cells
    ]
    return json.dumps({"about": about, "cells": rows}, indent=1) + "\n"


def load(path: Path, questions: Sequence[Question]) -> list[Cell]:
    """Return what an earlier run has measured of these questions."""
    if not path.exists():
        return []
    known = {question.name: question for question in questions}
    rows = [row for row in json.loads(path.read_text())["cells"] if row["question"] in known]
    return [Cell(**{**row, "question": known[row["question"]], "entry": Entry(**row["entry"])}) for row in rows]


def publish(pages: str, readme: Path) -> None:
    """Put the tables between the marks of a page."""
    before, _, rest = readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{BEGIN}\n{pages}\n{END}{after}")


def as_pages(about: dict[str, Any], cells: Sequence[Cell]) -> str:
    """Return tables, and the targets, as Markdown."""
    lines = [*_preamble(about)]
    for name in dict.fromkeys(cell.question.name for cell in cells):
        lines += [*tables([cell for cell in cells if cell.question.name == name]), ""]
    return "\n".join(lines)


def tables(cells: Sequence[Cell]) -> Iterator[str]:
    """Yield the lines of one question: its table, what is missing, its targets."""
    question = cells[0].question
    yield f"### {question.name}: {question.title}"
    yield ""
    yield f"{cells[0].taken}."
    yield ""
    yield f"| | {question.unit} | {' | '.join(column.heading for column in question.columns)} |"
    yield f"|---{'|---' * (len(question.columns) + 1)}|"
    for cell in cells:
        if cell.rounds:
            yield f"| {cell.entry.label} | {cell.size:,} | {' | '.join(_shown(cell, c) for c in question.columns)} |"
    for cell in cells:
        if cell.failure:
            yield ""
            yield f"{cell.entry.label}, {cell.size:,}: {cell.failure}."
    targets = question.targets(sorted({cell.size for cell in cells}))
    if targets:
        yield from _verdicts(targets, cells)


def _verdicts(targets: Sequence[Target], cells: Sequence[Cell]) -> Iterator[str]:
    yield ""
    yield "| target | measured | is to be | |"
    yield "|---|---|---|---|"
    for target in targets:
        value, verdict = judge(target, cells)
        bound = f"≤ {target.at_most:g}" if target.at_most is not None else f"≥ {target.at_least:g}"
        yield f"| {target.text} | {'–' if value is None else f'{value:.3g}'} | {bound} | {verdict} |"


def judge(target: Target, cells: Sequence[Cell]) -> tuple[float | None, str]:
    """Return a target's value and whether it holds."""
    values = _found(cells, target.cell, target.key)
    if target.base is not None:
        values = [value / base for value, base in zip(values, _found(cells, target.base, target.key), strict=False)]
    if not values:
        return None, "not measured"
    value = statistics.median(values)
    if target.at_most is not None:
        return value, "holds" if value <= target.at_most else "**does not hold**"
    return value, "holds" if value >= (target.at_least or 0) else "**does not hold**"


def _found(cells: Sequence[Cell], wanted: tuple[Entry, int], key: str) -> list[float]:
    for cell in cells:
        if (cell.entry.label, cell.size) == (wanted[0].label, wanted[1]):
            return cell.values(key)
    return []


def _shown(cell: Cell, column: Column) -> str:
    values = [value / column.per for value in cell.values(column.key)]
    if not values:
        return "–"
    middle, low, high = (
        f"{value:,.{column.digits}f}" for value in (statistics.median(values), min(values), max(values))
    )
    return middle if low == high else f"{middle} ({low}–{high})"


def _preamble(about: dict[str, Any]) -> Iterator[str]:
    yield f"{about['machine']}; CPython {about['python']}, SQLite {about['sqlite']}; "
    yield ", ".join(f"{name} {number}" for name, number in about["versions"].items()) + "."
    yield "Peers: " + ", ".join(pin.replace("==", " ") for pins in about["peers"].values() for pin in pins) + "."
    for name, reason in about["absent"].items():
        yield f"Not compared: {name}, {reason}."
    yield ""


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


def _file_system() -> str:
    """Return the file system of the working directory, where the stores are put."""
    found = shutil.which("findmnt")
    if found is None:
        return "file system unknown"
    command = [found, "--noheadings", "--output", "FSTYPE,SOURCE", "--target", "."]
    return " on ".join(subprocess.run(command, capture_output=True, text=True, check=False).stdout.split())
