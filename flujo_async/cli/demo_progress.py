"""Follows a survey: counts what is committed, and shows how far it is."""

from __future__ import annotations

import os
import signal
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from flujo_async._log.views import Event
from flujo_async.cli.screen import say, screen
from flujo_async.cli.survey import list_files, measure


class Follower:
    """Is told every event of a survey; a terminal has a progress bar from the first one until the exit.

    Args:
        known: the last ``seq`` of the log before this process took it up.
        crash_after: how many commits later the process kills itself, if it does.
        opening: what to say as soon as there is something to follow.

    Attributes:
        recorded: how many steps were taken from the log.
        executed: how many were executed since.
    """

    def __init__(self, known: int, crash_after: int | None, opening: str) -> None:
        self.recorded: int = 0
        self.executed: int = 0
        self._known = known
        self._crash_after = crash_after
        self._opening = opening
        self._progress = _progress()
        self._bar = self._progress.add_task("Surveying", total=None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._progress.stop()

    def see(self, event: Event) -> None:
        """Take in an event, which is durable."""
        self._begin()
        is_new = event.seq > self._known
        if event.kind == "StepCompleted":
            self.recorded += not is_new
            self.executed += is_new
            self._advance(event)
        if self._crash_after is not None and event.seq >= self._known + self._crash_after:
            self._crash()

    def _begin(self) -> None:
        if self._opening:
            say(self._opening)
            self._opening = ""
        self._progress.start()

    def _advance(self, event: Event) -> None:
        name = (event.step or "").rpartition("/")[2]
        if name == list_files.name:
            self._progress.update(self._bar, total=len(event.data))
        elif name == measure.name:
            self._progress.advance(self._bar)

    def _crash(self) -> None:
        self._progress.stop()  # a dead process would leave the bar, and no cursor
        say(f"killing this process after {self._crash_after:,} commits; the same command takes the run up")
        os.kill(os.getpid(), signal.SIGKILL)


def _progress() -> Progress:
    console = screen(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("files"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
