"""``flujo-async runs``: runs that move from store to store."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from flujo_async.backends.file_lock import write_file
from flujo_async.backends.unfinished import unfinished
from flujo_async.cli.given import STDIN
from flujo_async.cli.options import FlujoName, Json, MaybeDb, RunId
from flujo_async.cli.run_page import print_standing, run_as_json
from flujo_async.cli.runtime import Runtime, as_typed, perform, place_at
from flujo_async.cli.screen import print_json, print_line, size
from flujo_async.cli.store import Found, find_run, head_of
from flujo_async.errors import InvalidArgument

app: typer.Typer = typer.Typer()


@app.command("export")
def export_run(
    run_id: RunId,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to; by default the standard output.")
    ] = None,
    db: MaybeDb = None,
    flujo: FlujoName = None,
    json: Json = False,
) -> None:
    """Write one run into a file that `runs import` reads. All that there is to it, checked, as lines of JSON.

    What a fork shares with its source is in its file; child runs have files of their own.
    """
    if json and output is None:
        raise InvalidArgument("--json tells what was written to --output FILE; the run itself is JSON anyway")
    data = perform(place_at(flujo, db), lambda flujo: _export(flujo, run_id))
    if output is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    _write(output, data)
    if json:
        print_json({"run_id": run_id, "file": str(output), "bytes": len(data)})
    else:
        print_line(f"wrote run {run_id!r} to {output}, {size(len(data))}")


@app.command("import")
def import_run(
    file: Annotated[str, typer.Argument(metavar="FILE", help="What `runs export` wrote; - is the standard input.")],
    run_id: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Names the run, as a fork; by default it has its own name."),
    ] = None,
    db: MaybeDb = None,
    flujo: FlujoName = None,
    json: Json = False,
) -> None:
    """Read a run from a file into a store, which is created if need be. Executes nothing.

    The run stands where it stood: `runs resume` goes on with one that was running. A file that is not whole, or was
    changed, is refused, and so is a run that is there already.
    """
    place, data = place_at(flujo, db, may_create=True), _read(file)
    found = perform(place, lambda flujo: _import(flujo, data, run_id))
    if json:
        print_json(run_as_json(found))
    else:
        print_standing(found, as_typed(place))


async def _export(flujo: Runtime, run_id: str) -> bytes:
    await head_of(flujo.state_backend, run_id)
    return await flujo.export_run(run_id)


async def _import(flujo: Runtime, data: bytes, run_id: str | None) -> Found:
    handle = await flujo.import_run(data, run_id)
    return await find_run(flujo.state_backend, handle.run_id)


def _read(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == STDIN else Path(file).read_bytes()
    except OSError as error:
        raise InvalidArgument(f"FILE cannot be read: {error}") from error


def _write(path: Path, data: bytes) -> None:
    """Write a file: all of it, or it stays as it was."""
    try:
        with unfinished(path) as part:
            write_file(part, data)
            part.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
