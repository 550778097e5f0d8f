"""Runs on the terminal, while they go on."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from operator import attrgetter
from typing import Final

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text
from typing_extensions import override

from flujo_async._codec.exceptions import describe_error
from flujo_async._log.awaited import told_waits
from flujo_async._log.views import Commit
from flujo_async._model import facts
from flujo_async.abc.instrument import AttemptIdentity, Instrument, RunIdentity, name_of

_MOST_STEPS: Final = 3
"""So many steps that are executed are named; the others are counted."""


@dataclass(slots=True)
class _Row:
    """The line of one run.

    Attributes:
        line: its place on the screen.
        done: how many steps have completed, as far as this process has seen.
        running: the attempts under way: what each is called, by its key.
        last: how the run came to rest, if it did.
    """

    line: TaskID
    done: int = 0
    running: dict[str, str] = field(default_factory=dict[str, str])
    last: str = ""

    @property
    def steps(self) -> str:
        """What the run is at."""
        names = list(self.running.values())
        more = f" and {len(names) - _MOST_STEPS} more" if len(names) > _MOST_STEPS else ""
        return ", ".join(names[:_MOST_STEPS]) + more


class ProgressInstrument(Instrument):
    """Shows a line for each run that is driven: the steps that are executed, how many are done, and how long it takes.

    The lines go away when their runs rest or leave memory; a run that rests leaves one that says how. Where the output
    is no terminal, nothing is written.

    Args:
        console: where to write; by default the standard error.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._is_quiet = not self._console.is_terminal
        self._guard = threading.Lock()
        self._rows: dict[tuple[str, datetime], _Row] = {}
        self._progress: Progress | None = None

    @override
    @contextmanager
    def driving(self, run: RunIdentity) -> Generator[None]:
        if self._is_quiet:
            yield
            return
        self._begin(run)
        try:
            yield
        finally:
            self._end(run)

    @override
    @contextmanager
    def attempt(self, run: RunIdentity, attempt: AttemptIdentity) -> Generator[None]:
        row = self._rows.get(name_of(run))
        if row is None:
            yield
            return
        again = f" (attempt {attempt.number})" if attempt.number > 1 else ""
        row.running[attempt.key] = attempt.name + again
        self._show(row)
        try:
            yield
        finally:
            row.running.pop(attempt.key, None)
            self._show(row)

    @override
    def committed(self, run: RunIdentity, commits: Sequence[Commit]) -> None:
        row = self._rows.get(name_of(run))
        if row is None:
            return
        for commit in commits:
            row.done += isinstance(commit.fact, facts.StepCompleted)
            row.last = _last_words(commit.fact) or row.last
        self._show(row)

    def _begin(self, run: RunIdentity) -> None:
        with self._guard:
            if self._progress is None:
                self._progress = _progress(self._console)
                self._progress.start()
            text = f"{run.pipeline_name} {run.run_id}"
            line = self._progress.add_task(text, total=None, done=0, steps="")
            self._rows[name_of(run)] = _Row(line)

    def _end(self, run: RunIdentity) -> None:
        with self._guard:
            row, progress = self._rows.pop(name_of(run)), self._progress
            assert progress is not None
            if not self._rows:
                self._progress = None
                progress.stop()
            else:
                progress.remove_task(row.line)
            if row.last:
                steps = "1 step" if row.done == 1 else f"{row.done} steps"
                self._console.print(Text(f"{run.pipeline_name} {run.run_id}: {row.last}, {steps}"), soft_wrap=True)

    def _show(self, row: _Row) -> None:
        progress = self._progress
        if progress is not None:
            progress.update(row.line, done=row.done, steps=row.steps)


def _progress(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        TextColumn("{task.fields[done]} done", markup=False),
        TimeElapsedColumn(),
        TextColumn("{task.fields[steps]}", markup=False),
        console=console,
        transient=True,
    )


def _last_words(fact: facts.Fact) -> str | None:
    match fact:
        case facts.RunCompleted():
            return "completed"
        case facts.RunCancelled():
            return "cancelled"
        case facts.RunFailed():
            return f"failed: {describe_error(fact.error)}"
        case facts.RunPaused():
            return f"paused, and waits for {', '.join(told_waits(fact, attrgetter('name'))) or 'nothing'}"
        case _:
            return None
