"""The options and arguments that commands share."""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias, get_args

import typer

from flujo_async._model.state import RunStatus
from flujo_async.cli.completion import complete_run
from flujo_async.cli.store import DB_VARIABLE
from flujo_async.errors import InvalidArgument

STATUSES: Final = "|".join(get_args(RunStatus))

_DB: Final = typer.Option(
    "--db",
    envvar=DB_VARIABLE,
    metavar="PATH|URL",
    help="Where runs are kept: a SQLite file, a directory of the file backend, or a URL.",
)
Db: TypeAlias = Annotated[str, _DB]
MaybeDb: TypeAlias = Annotated[str | None, _DB]

FlujoName: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--flujo",
        metavar="MODULE:ATTRIBUTE",
        help="The Flujo that has the runs, or a function that returns it; by default the one in pyproject.toml.",
    ),
]


def _refuse_db(ctx: typer.Context, db: str | None) -> str | None:
    if db is not None and not ctx.resilient_parsing:  # on TAB it tells where the runs are
        raise InvalidArgument(
            "--db: a store alone does not know what this command executes; --flujo MODULE:ATTRIBUTE names the Flujo "
            "that does, and that has its store"
        )
    return db


NoDb: TypeAlias = Annotated[str | None, typer.Option("--db", hidden=True, callback=_refuse_db)]
"""For commands that execute steps: what to say to who has looked at the run with ``--db`` before."""

RunId: TypeAlias = Annotated[str, typer.Argument(metavar="RUN_ID", help="The run.", autocompletion=complete_run)]
Limit: TypeAlias = Annotated[int, typer.Option(min=1, metavar="N", help="At most so many.")]
DryRun: TypeAlias = Annotated[bool, typer.Option("--dry-run", help="Delete nothing, and show what would be.")]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]
