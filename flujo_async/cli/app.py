"""The commands put together, and what becomes of their errors."""

from __future__ import annotations

import sys
from importlib.metadata import version
from io import TextIOWrapper
from typing import Annotated, Final

import typer

from flujo_async.cli import (
    dead_letters,
    demo,
    doctor,
    evaluations,
    runs,
    runs_control,
    runs_spans,
    runs_transfer,
    state,
    upkeep,
    worker,
)
from flujo_async.cli.audit import audit
from flujo_async.cli.cleanup import cleanup
from flujo_async.cli.exit_code import ExitCode
from flujo_async.cli.screen import print_line, say
from flujo_async.cli.tail import tail
from flujo_async.errors import FlujoError, InvalidArgument, InvalidSignal, RunConflict, RunNotFound, VersionMismatch

PROGRAM: Final = "flujo-async"

_CALLERS_FAULT: Final = (InvalidArgument, InvalidSignal, RunConflict, RunNotFound, VersionMismatch)

app: typer.Typer = typer.Typer(
    name=PROGRAM,
    help="Durable workflows inside your own asyncio process.",
    no_args_is_help=True,
    rich_markup_mode=None,  # an error is a line, not a frame, and help is as readable in a pipe as on a screen
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.demo)
runs.app.add_typer(runs_control.app)  # without a name: one group, four modules
runs.app.add_typer(runs_spans.app)
runs.app.add_typer(runs_transfer.app)
app.add_typer(runs.app, name="runs")
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(evaluations.app, name="evaluations")
app.add_typer(state.app, name="state")
app.command("worker")(worker.work)
app.command("tail")(tail)
app.command("audit")(audit)
app.command("verify")(upkeep.verify)
app.command("doctor")(doctor.doctor)
app.command("migrate")(doctor.migrate)
app.command("backup")(upkeep.backup)
app.command("compact")(upkeep.compact)
app.command("cleanup")(cleanup)


def _tell_version(*, is_asked: bool) -> None:
    if is_asked:
        print_line(f"{PROGRAM} {version('flujo-async')}")
        raise typer.Exit


@app.callback()
def _with_options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_tell_version, is_eager=True, help="Tell the version."),
    ] = False,
) -> None:
    pass


def run(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code: see ``ExitCode``.

    Args:
        arguments: what follows the name of the program; by default that of this process.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a question mark stands for what a terminal has no sign for
    try:
        app(args=arguments, prog_name=PROGRAM)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else ExitCode.FINE
    except KeyboardInterrupt:  # before or after the command itself
        return ExitCode.INTERRUPTED
    except (FlujoError, OSError) as error:
        for line in (f"{PROGRAM}: {error}", *getattr(error, "__notes__", ())):
            say(line)
        return ExitCode.USAGE if isinstance(error, _CALLERS_FAULT) else ExitCode.FAILED
    return ExitCode.FINE
