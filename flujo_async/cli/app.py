"""The commands put together, and what becomes of their errors."""

from __future__ import annotations

from typing import Final

import typer

from flujo_async.cli import dead_letters, demo, doctor, runs, runs_control, runs_transfer, upkeep, worker
from flujo_async.cli.screen import say
from flujo_async.errors import FlujoError, InvalidArgument, InvalidSignal, RunConflict, RunNotFound, VersionMismatch

PROGRAM: Final = "flujo-async"

_FAILED, _USAGE = 1, 2
_CALLERS_FAULT: Final = (InvalidArgument, InvalidSignal, RunConflict, RunNotFound, VersionMismatch)

app: typer.Typer = typer.Typer(
    name=PROGRAM,
    help="Durable workflows inside your own asyncio process.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # an error is a line, not a frame, and help is as readable in a pipe as on a screen
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.demo)
runs.app.add_typer(runs_control.app)  # without a name: one group, three modules
runs.app.add_typer(runs_transfer.app)
app.add_typer(runs.app, name="runs")
app.add_typer(dead_letters.app, name="dead-letters")
app.command("worker")(worker.work)
app.command("verify")(upkeep.verify)
app.command("doctor")(doctor.doctor)
app.command("migrate")(doctor.migrate)
app.command("backup")(upkeep.backup)
app.command("compact")(upkeep.compact)


def run(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code: 0 fine, 1 the run or the store failed, 2 usage, 130 interrupted.

    Args:
        arguments: what follows the name of the program; by default that of this process.
    """
    try:
        app(args=arguments, prog_name=PROGRAM)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 0
    except (FlujoError, OSError) as error:
        say(f"{PROGRAM}: {error}")
        return _USAGE if isinstance(error, _CALLERS_FAULT) else _FAILED
    return 0
