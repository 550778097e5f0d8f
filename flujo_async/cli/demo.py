"""``flujo-async demo``: a survey of real files, which no crash can make forget what it has done."""

from __future__ import annotations

import asyncio
import sysconfig
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

import anyio.to_thread
import typer

from flujo_async._model.summary import RunSummary
from flujo_async._runtime.flujo import Flujo
from flujo_async.cli.demo_progress import Follower
from flujo_async.cli.demo_report import print_report, print_report_json
from flujo_async.cli.exit_code import ExitCode
from flujo_async.cli.options import Db
from flujo_async.cli.screen import duration, say
from flujo_async.cli.store import DEFAULT_DB, Store, find_summary, is_interrupted, store_at
from flujo_async.cli.survey import MAX_RANKED, NAME, VERSION, Notes, Report, python_files, survey
from flujo_async.errors import InvalidArgument, RunConflict, VersionMismatch

Surveyor: TypeAlias = Flujo[str, Report]


@dataclass(frozen=True, slots=True)
class Order:
    """What to survey, and how."""

    store: Store
    run_id: str
    root: Path
    is_fresh: bool
    crash_after: int | None

    def check_can_start(self) -> None:
        """Check that a new run would have a store and something to survey, so that a slip leaves nothing behind.

        Raises:
            InvalidArgument: it would not.
        """
        self.store.check_creatable()
        if not any(True for _ in python_files(self.root)):
            raise InvalidArgument(f"there are no Python files in {self.root}; --path names another directory")


@dataclass(frozen=True, slots=True)
class Done:
    """A survey at its end: its report, the steps that were taken from the log or executed, and how long it took."""

    report: Report
    recorded: int
    executed: int
    seconds: float


def demo(
    path: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The directory to survey, by default Python's standard library."),
    ] = None,
    db: Db = DEFAULT_DB,
    run_id: Annotated[str, typer.Option(metavar="ID", help="The run to start or to take up.")] = "demo",
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete the run first and start anew.")] = False,
    crash_after: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Kill this process with SIGKILL after N commits."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, max=MAX_RANKED, metavar="N", help="How many places each table has.")] = 10,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Survey Python source files with a durable pipeline. It lists, reads, parses and measures them, and reports.

    Every step's result is committed before the next one starts. However the process ends, the same command goes on
    where it stopped, and ends with the same report. Of a run that is complete it shows the report again.
    """
    root = path or Path(sysconfig.get_path("stdlib"))
    order = Order(store_at(db), run_id, root.absolute(), fresh, crash_after)
    if fresh or not order.store.exists():
        order.check_can_start()
    try:
        # What the parser thinks of other people's code is not for the reader of this report.
        with warnings.catch_warnings(action="ignore", category=SyntaxWarning):
            done = asyncio.run(_carry_out(_surveyor(order), order))
    except KeyboardInterrupt:
        say("interrupted; every step so far is kept, and the same command goes on from there")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    (print_report_json if json else print_report)(done.report, top)
    say(f"{done.recorded:,} steps taken from the log, {done.executed:,} executed now, {duration(done.seconds)}")


def _surveyor(order: Order) -> Surveyor:
    return Flujo(
        survey, pipeline_name=NAME, pipeline_version=VERSION, state_backend=order.store.url, context_type=Notes
    )


async def _carry_out(flujo: Surveyor, order: Order) -> Done:
    async with flujo:
        if order.is_fresh:
            await flujo.delete(order.run_id)
        try:
            return await _survey(flujo, order)
        except (RunConflict, VersionMismatch) as error:
            raise type(error)(
                f"run {order.run_id!r} in {order.store.name} is another survey, or an older demo's; "
                f"--run-id starts one beside it, --fresh replaces it",
                run_id=order.run_id,
            ) from error


async def _survey(flujo: Surveyor, order: Order) -> Done:
    """Drive the run to its end, however much of it is done already."""
    started = time.perf_counter()
    summary = await find_summary(flujo.state_backend, order.run_id)
    if summary is None:
        await anyio.to_thread.run_sync(order.check_can_start)
    known = summary.last_seq if summary else 0
    with Follower(known, order.crash_after, _opening(summary)) as follower:
        async for event in flujo.stream(str(order.root), run_id=order.run_id):
            follower.see(event)
    result = await flujo.run(run_id=order.run_id)  # executes nothing: the run is complete
    return Done(result.output, follower.recorded, follower.executed, time.perf_counter() - started)


def _opening(summary: RunSummary | None) -> str:
    """Return what there is to say of a run that exists already."""
    if summary is None:
        return ""
    if is_interrupted(summary):
        return f"run {summary.run_id!r} was interrupted: going on after {summary.last_seq:,} commits"
    match summary.status:
        case "completed":
            return f"run {summary.run_id!r} is complete: this is its report; --fresh starts anew"
        case "failed" | "cancelled":
            return f"run {summary.run_id!r} is {summary.status}; --fresh starts anew"
        case _:
            return f"run {summary.run_id!r} is {summary.status} elsewhere: following it"
