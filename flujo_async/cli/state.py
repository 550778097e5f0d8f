"""``flujo-async state``: the JSON objects that a store keeps beside its runs."""

from __future__ import annotations

import sys
from typing import Annotated, Any, TypeAlias, cast

import typer

from flujo_async.cli.given import STDIN, parsed
from flujo_async.cli.options import FlujoName, Json, MaybeDb
from flujo_async.cli.runtime import name_of, perform, place_at
from flujo_async.cli.screen import print_json, say
from flujo_async.errors import InvalidArgument

app: typer.Typer = typer.Typer(help="Read and write what a store keeps beside its runs.", no_args_is_help=True)


Key: TypeAlias = Annotated[str, typer.Argument(metavar="KEY", help="What it is kept under.")]


@app.command("get")
def get_state(key: Key, db: MaybeDb = None, flujo: FlujoName = None, json: Json = False) -> None:
    """Print what is kept under a key. That is a JSON object, with --json or without."""
    place = place_at(flujo, db)
    value = perform(place, lambda flujo: flujo.state_backend.get_system_state(key))
    if value is None:
        raise InvalidArgument(f"{name_of(place)} keeps nothing under {key!r}")
    print_json(value)


@app.command("set")
def set_state(
    key: Key,
    value: Annotated[str, typer.Argument(metavar="JSON", help="A JSON object; - is the standard input.")],
    db: MaybeDb = None,
    flujo: FlujoName = None,
    json: Json = False,
) -> None:
    """Keep a JSON object under a key, in place of what was there."""
    place, kept = place_at(flujo, db), _object(sys.stdin.read() if value == STDIN else value)
    perform(place, lambda flujo: flujo.state_backend.set_system_state(key, kept))
    if json:
        print_json(kept)
    else:
        say(f"{name_of(place)} keeps it under {key!r}")


def _object(text: str) -> dict[str, Any]:
    value = parsed(text, "JSON")
    if not isinstance(value, dict):
        raise InvalidArgument(f"JSON {text}: that is to be an object, such as '{{\"is_open\": true}}'")
    return cast("dict[str, Any]", value)
