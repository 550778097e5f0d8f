"""Follows a run that is driven elsewhere: line by line, or as a page that changes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from functools import partial
from itertools import accumulate
from typing import Any, Final

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text
from typing_extensions import override

from flujo_async._codec.exceptions import describe_error
from flujo_async._codec.facts import encode_fact
from flujo_async._log.chain import GENESIS, verify
from flujo_async._log.fold import Fold, fold_log
from flujo_async._log.views import Commit, commit_of
from flujo_async._model.facts import StepCompleted, StepFailed
from flujo_async._model.selection import has_news
from flujo_async._model.state import RESTING, TERMINAL
from flujo_async._model.summary import RunSummary
from flujo_async._runtime.flujo import runner_of
from flujo_async.abc.logs import read_values
from flujo_async.abc.shield import settle
from flujo_async.cli.fact_line import describe, open_retries, open_timers, open_waits, tell
from flujo_async.cli.run_page import standing, summary_as_json
from flujo_async.cli.runtime import Runtime, resume_command
from flujo_async.cli.screen import (
    brief,
    clock,
    columns,
    cut,
    cut_inside,
    duration,
    plain,
    print_json_line,
    print_line,
    say,
    screen,
    usage_text,
)
from flujo_async.cli.store import find_summary, head_of, is_driven, is_interrupted
from flujo_async.errors import RunNotFound

_AT_ONCE: Final = 500
_TICK_SECONDS: Final = 0.5
_FEWEST_STEPS: Final = 5
_SHORTEST_NAME: Final = 26
_SHORTEST_ERROR: Final = 20
_MOST_RETRIES: Final = 4
_FRAME: Final = 6
"""How many lines of a page are neither for steps nor for what the run waits for."""

_BESIDE_NAMES: Final = 32
"""How many columns of a page are beside the names of steps."""


class Viewer:
    """Shows a run while it goes on. Derive from it, and override what there is to show."""

    def open(self) -> AbstractContextManager[object]:
        """Begin to show something, until the block ends."""
        return nullcontext()

    def see(self, commit: Commit) -> None:
        """Take in a fact."""

    def draw(self, head: RunSummary, fold: Fold) -> None:
        """Show how the run stands."""

    def end(self, head: RunSummary, fold: Fold) -> None:
        """Show how the run rests."""


async def watch(flujo: Runtime, run_id: str, viewer: Viewer, flujo_option: str, *, after: int) -> RunSummary:
    """Show a run until it rests; return its head.

    Args:
        flujo: its runtime.
        run_id: the run.
        viewer: what shows it.
        flujo_option: how the command that executes it finds its ``Flujo``; see ``as_typed``.
        after: leave out the facts up to this one.

    Raises:
        RunNotFound: there is no such run, or it was deleted meanwhile.
    """
    head = await head_of(flujo.state_backend, run_id)
    if is_interrupted(head):
        say(f"nobody drives run {run_id!r}: {resume_command(run_id, flujo_option)} would")
    elif head.status == "paused" and has_news(head) and not is_driven(head):
        say(
            f"run {run_id!r} has its answer: {resume_command(run_id, flujo_option)} goes on with it, if no runtime does"
        )
    following = _Following(flujo, run_id, viewer, after)
    with viewer.open():
        ticking = asyncio.create_task(following.tick())
        try:
            head = await following.follow(head)
        finally:
            ticking.cancel()
            await settle(ticking)
        viewer.end(head, following.fold)
    return head


def commit_as_json(commit: Commit) -> dict[str, Any]:
    """Return a fact as JSON: its number, its hash, and what stands in the log."""
    fact: dict[str, Any] = json.loads(encode_fact(commit.fact))
    return {"seq": commit.seq, "hash": commit.hash, **fact}


def has_terminal() -> bool:
    """Return whether there is a terminal to draw on."""
    return sys.stdout.isatty() and screen().is_terminal and not screen().is_dumb_terminal


class _Following:
    """A run as it grows."""

    def __init__(self, flujo: Runtime, run_id: str, viewer: Viewer, after: int) -> None:
        self._backend = flujo.state_backend
        self._reader = runner_of(flujo).reader
        self._run_id = run_id
        self._viewer = viewer
        self._after = after
        self._fold: Fold | None = None

    @property
    def fold(self) -> Fold:
        assert self._fold is not None  # a run has facts as soon as it exists
        return self._fold

    async def follow(self, head: RunSummary) -> RunSummary:
        """Read what is committed until the run rests."""
        while True:
            while await self._read():
                pass
            rests = head.status in RESTING and head.last_seq == self.fold.seq
            if rests and (head.status in TERMINAL or not await self._reader.goes_on(head)):
                return head
            found = await self._reader.watch(self._run_id, partial(_has_news, self.fold.seq))
            if found is None:
                raise RunNotFound(f"run {self._run_id!r} was deleted", run_id=self._run_id)
            head = found

    async def tick(self) -> None:
        """Draw over and over: times change, even if nothing happens."""
        while (head := await find_summary(self._backend, self._run_id)) is not None:
            if self._fold is not None:
                self._viewer.draw(head, self._fold)
            await asyncio.sleep(_TICK_SECONDS)

    async def _read(self) -> bool:
        fold = self._fold
        seq, seal = (0, GENESIS) if fold is None else (fold.seq, fold.hash)
        found = await self._backend.read_events(self._run_id, after=seq, limit=_AT_ONCE)
        verify(self._run_id, found, after=seq, prev_hash=seal)
        records = await read_values(self._backend, self._run_id, found)
        if fold is None:
            self._fold = fold_log(self._run_id, records)
        else:
            fold.extend(records)
        for record in records:
            if record.seq > self._after:
                self._viewer.see(commit_of(record))
        return bool(records)


def _has_news(seq: int, head: RunSummary) -> bool:
    return head.last_seq > seq or head.status in RESTING


class LinePrinter(Viewer):
    """Prints a line for each fact, and one for the end.

    Args:
        json: whether the lines are JSON, then of all facts.
    """

    def __init__(self, *, json: bool) -> None:
        self._is_json = json

    @override
    def see(self, commit: Commit) -> None:
        if self._is_json:
            print_json_line(commit_as_json(commit))
        elif (text := tell(commit.fact)) is not None:
            print_line(f"{clock(commit.at)}  {text}")

    @override
    def end(self, head: RunSummary, fold: Fold) -> None:
        if self._is_json:
            print_json_line({"kind": "Rested", "run": summary_as_json(head)})
        else:
            print_line(_ending(head))


class LivePage(Viewer):
    """A page on a terminal: the head of the run, its last steps, and what it waits for."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or screen()
        self._live = Live(console=self._console, auto_refresh=False, vertical_overflow="crop")

    @override
    def open(self) -> AbstractContextManager[object]:
        return self._live

    @override
    def draw(self, head: RunSummary, fold: Fold) -> None:
        self._live.update(Group(*self._page(head, fold), "", _dim("Ctrl-C stops watching, not the run")), refresh=True)

    @override
    def end(self, head: RunSummary, fold: Fold) -> None:
        self._live.update(Group(*self._page(head, fold)), refresh=True)

    def _page(self, head: RunSummary, fold: Fold) -> Iterator[RenderableType]:
        now = datetime.now(UTC)
        until = now if head.status not in RESTING else head.updated_at
        took = duration((until - head.created_at).total_seconds())
        consumed = usage_text(head.usage.tokens, head.usage.cost)
        about = [plain(head.pipeline_name), standing(head), took, *([consumed] if consumed else [])]
        yield Text.assemble((plain(head.run_id), "bold"), "  ", "  ".join(about))
        width, height = self._console.size
        ends = list(_open_ends(head, fold, now, width))
        yield from _steps(fold, width, height - _FRAME - sum(len(end.wrap(self._console, width)) for end in ends))
        yield from ends


def _steps(fold: Fold, width: int, room: int) -> Iterator[RenderableType]:
    """Yield as many of the last steps as there is room for, in lines: what the run waits for stands below them."""
    most, count = max(room, _FEWEST_STEPS), len(fold.outcomes) + len(fold.not_run)
    rows = [_step_row(outcome, width - _BESIDE_NAMES) for outcome in list(fold.outcomes.values())[-most:]]
    rows += [(plain(key), status.value.lower(), "", "") for key, (_, status) in list(fold.not_run.items())[-most:]]
    lines = accumulate(1 + row[0].count("\n") for row in reversed(rows))
    shown = max(sum(line <= room for line in lines), _FEWEST_STEPS)
    if count > shown:
        yield _dim(f"{count - shown:,} earlier steps")
    table = columns("Step", "Status", whole=("Status",), numbers=("Attempts", "Time"))
    for row in rows[-shown:]:
        table.add_row(*row)
    if rows:
        yield table


def _step_row(outcome: StepCompleted | StepFailed, width: int) -> tuple[str, ...]:
    key, took = cut_inside(plain(outcome.key), width), duration((outcome.at - outcome.started_at).total_seconds())
    if isinstance(outcome, StepCompleted):
        return key, "succeeded", str(outcome.attempts), took
    return f"{key}\n{cut(brief(describe_error(outcome.error)), width)}", "failed", str(outcome.attempts), took


def _open_ends(head: RunSummary, fold: Fold, now: datetime, width: int) -> Iterator[Text]:
    """Yield what the run waits for, a line each; retries take no more than one of the terminal's."""
    retries = list(open_retries(fold))
    for retry in retries[:_MOST_RETRIES]:
        left = duration((retry.retry_at - now).total_seconds())
        then = f"the next comes in {left}" if retry.retry_at > now else "the next is under way"
        key = cut_inside(plain(retry.key), max(width // 3, _SHORTEST_NAME))
        before, after = f"↻ {key}: attempt {retry.attempt} failed (", f"), {then}"
        room = max(width - cell_len(before + after), _SHORTEST_ERROR)
        error = cut(brief(describe_error(retry.error)), room)
        yield Text(f"{before}{error}{after}", style="yellow", no_wrap=True, overflow="ellipsis")
    if len(retries) > _MOST_RETRIES:
        yield Text(f"↻ {len(retries) - _MOST_RETRIES:,} more are tried again", style="yellow")
    for key, moment in open_timers(fold, now):
        yield Text(f"◷ {plain(key)}: sleeps, {duration((moment - now).total_seconds())} left", style="cyan")
    for waiting in head.waiting_for or open_waits(fold):
        yield Text(f"? waits for {plain(describe(waiting))}", style="bold")
    if head.error_message:
        yield Text(f"✗ {brief(head.error_message)}", style="red")


def _ending(head: RunSummary) -> str:
    waits = "; ".join(f"it waits for {describe(waiting)}" for waiting in head.waiting_for)
    return f"run {head.run_id!r} is {head.status}" + (f": {waits}" if waits else "")


def _dim(text: str) -> Text:
    return Text(text, style="dim")
