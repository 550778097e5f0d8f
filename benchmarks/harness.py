"""Measures cells: each in a process of its own, all of them once a round, in an order that turns from round to round.

A machine that is slow for a while is slow for everybody in that round, so ratios are taken round by round.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.meter import BEGIN, END, place_for_a_store
from benchmarks.question import Question
from benchmarks.roster import PEERS, Entry, python_of, why_not
from benchmarks.w6_footprint import IMPORTS

Figures = dict[str, float]

_SYNC = re.compile(r"\b(fsync|fdatasync)\(")
# SQLite takes one of these locks to write: the byte of the write-ahead log's writer, or that of a reserved database.
_WRITE_LOCK = re.compile(r"fcntl\(.*F_WRLCK.*l_start=(120|1073741825), l_len=1\b")


class CellFailed(Exception):
    """A cell has no figures; the message tells why."""


@dataclass
class Cell:
    """One entry at one size: what each round has measured, or why there is nothing, and when that was."""

    question: Question
    entry: Entry
    size: int
    rounds: list[Figures] = field(default_factory=list)
    counts: Figures = field(default_factory=dict)
    failure: str | None = None
    taken: str = ""

    def values(self, key: str) -> list[float]:
        """Return a figure, round by round."""
        return [figures[key] for figures in [*self.rounds, self.counts] if key in figures]


@dataclass(frozen=True, slots=True)
class Settings:
    """How to measure."""

    environments: Path
    rounds: int
    quick: bool
    timeout: float
    peers: frozenset[str] | None = None

    def sizes(self, question: Question) -> tuple[int, ...]:
        """Return how large a question is asked."""
        return question.quick_sizes if self.quick else question.sizes

    def takes(self, entry: Entry) -> bool:
        """Return whether an entry was asked for."""
        return self.peers is None or entry.system not in PEERS or entry.system in self.peers


def cells_of(question: Question, settings: Settings) -> list[Cell]:
    """Return the cells of a question; those that cannot be measured say so already."""
    entries = [entry for entry in question.entries if settings.takes(entry)]
    cells = [Cell(question, entry, size) for size in settings.sizes(question) for entry in entries]
    for cell in cells:
        cell.failure = why_not(cell.entry, settings.environments)
        if cell.entry.most is not None and cell.size > cell.entry.most:
            cell.failure = f"left out: takes too long (at most {cell.entry.most:,})"
    return cells


def measure(cells: list[Cell], settings: Settings) -> None:
    """Measure all cells of a question, and count what is to be counted."""
    question = cells[0].question
    taken = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, load {os.getloadavg()[0]:.1f} before"
    for number in range(min(settings.rounds, question.most_rounds)):
        for cell in _turned(cells, number):
            print(f"  {question.name}, round {number + 1}: {cell.entry.label}, {cell.size:,}", flush=True)
            _attempt(cell, settings)
    smallest = settings.sizes(question)[0]
    if question.counted_size and question.counted_size <= smallest and shutil.which("strace"):
        for cell in cells:
            if cell.size == smallest and not cell.failure:
                _count(cell, question.counted_size, settings)
    for cell in cells:
        cell.taken = f"{taken}, rounds: {max(len(cell.rounds) for cell in cells)}"


def _turned(cells: list[Cell], number: int) -> Iterator[Cell]:
    first = number * 5 % len(cells)
    return (cell for cell in [*cells[first:], *cells[:first]] if not cell.failure)


def _attempt(cell: Cell, settings: Settings) -> None:
    try:
        with place_for_a_store() as directory:
            figures = _figures(_output(_command(cell, settings, directory), settings.timeout))
        cell.rounds.append(_with_shares(figures))
    except CellFailed as error:
        cell.failure = str(error)


def _command(cell: Cell, settings: Settings, directory: Path) -> list[str]:
    python = [str(python_of(cell.entry, settings.environments).absolute()), "-W", "ignore", "-m"]
    if cell.question.workload == "imports":
        return [*python, "benchmarks.imports", *IMPORTS[cell.entry]]
    workload = ["--workload", cell.question.workload, "--size", str(cell.size), "--directory", str(directory)]
    return [*python, "benchmarks.cell", cell.entry.module, "--variant", cell.entry.variant, *workload]


def _output(command: list[str], timeout: float) -> str:
    """Return what a command prints; one that takes too long is ended, with all that it has started."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        raise CellFailed(f"not done after {timeout:.0f} s") from None
    finally:
        _end(process)
    if process.returncode != 0:
        lines = [line for line in errors.splitlines() if line.strip()]
        raise CellFailed(f"failed: {lines[-1][:200] if lines else process.returncode}")
    return output


def _end(process: subprocess.Popen[str]) -> None:
    """End a process and the servers that it may have left behind."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.communicate()


def _figures(output: str) -> Figures:
    figures: Figures = json.loads(output.splitlines()[-1])
    return figures


def _with_shares(figures: Figures) -> Figures:
    """Add what each step, or each run, has of a total."""
    shares = {
        "us_per_step": figures.get("seconds", 0) * 1e6,
        "written_per_step": figures.get("written_bytes"),
        "stored_per_step": figures.get("stored_bytes"),
    }
    if "seconds" in figures:
        figures |= {key: total / figures["steps"] for key, total in shares.items() if total is not None}
    if "runs" in figures:
        figures["resident_per_run"] = figures["resident_bytes"] / figures["runs"]
    return figures


def _count(cell: Cell, size: int, settings: Settings) -> None:
    """Run an entry once more, slowly, and count its fsyncs and the times that SQLite began to write."""
    with place_for_a_store() as directory:
        log, store = directory / "calls", directory / "store"
        store.mkdir()
        strace = [
            "strace",
            "-f",
            "-qq",
            "-e",
            "trace=fsync,fdatasync,fcntl,access,faccessat,faccessat2",
            "-o",
            str(log),
        ]
        command = _command(replace(cell, size=size), settings, store)
        try:
            steps = _figures(_output([*strace, *command], settings.timeout))["steps"]
        except CellFailed as error:
            print(f"  {cell.entry.label}: no counts: {error}", file=sys.stderr)
            return
        calls = list(_between(log, BEGIN, END))
    writes = sum(bool(_WRITE_LOCK.search(call)) for call in calls)
    cell.counts["syncs_per_step"] = sum(bool(_SYNC.search(call)) for call in calls) / steps
    if writes:
        cell.counts["commits_per_step"] = writes / steps


def _between(log: Path, begin: str, end: str) -> Iterator[str]:
    is_inside = False
    with log.open(errors="replace") as lines:
        for line in lines:
            if begin in line or end in line:
                is_inside = begin in line
            elif is_inside:
                yield line
