"""Hook of the site: `::: flujo-async runs list` becomes how that command is called and what options it has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from flujo_async.cli.app import PROGRAM, app

_PLACE = re.compile(rf"^::: ({PROGRAM}(?: [\w-]+)*)$", re.MULTILINE)
_IN_BRACKETS = re.compile(r"  \[(.*)\]$")
_RANGE = re.compile(r"^(?:(\S+)<=x<=(\S+)|x>=(\S+))$")
_WIDE = 200  # columns: a line of usage is not folded


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the commands where the page asks for them."""
    return _PLACE.sub(lambda match: shown(match[1]), markdown)


def commands() -> dict[str, Any]:
    """Return every command by what one types to call it."""
    return dict(_below(get_command(app), PROGRAM))


def _below(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    if not hasattr(group, "commands"):
        yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from _below(command, f"{path} {name}")


def shown(path: str) -> str:
    """Return the usage of a command and the table of its options, as `--help` tells them.

    Raises:
        KeyError: there is no such command.
    """
    command = commands()[path]
    context = command.make_context(path, [], resilient_parsing=True, terminal_width=_WIDE)
    usage = command.get_usage(context).removeprefix("Usage: ").translate({ord("{"): None, ord("}"): None})
    options = [item for item in command.params if item.param_type_name == "option" and not item.hidden]
    records = [item.get_help_record(context) for item in options]
    rows = [f"| `{names}` | {_cell(_sentence(told))} |" for names, told in records]  # code may have the bars of a table
    return "\n".join([f"```text\n{usage}\n```", "", "| option | means |", "|---|---|", *rows])


def _sentence(told: str) -> str:
    """Return what an option means; what stands in brackets behind it, such as its default, in words too."""
    return _IN_BRACKETS.sub(lambda match: f" *({', '.join(map(_in_words, match[1].split('; ')))})*", told)


def _in_words(remark: str) -> str:
    name, _, value = remark.partition(": ")
    if name in ("default", "env var"):
        return f"{name.replace('env var', 'environment variable')} `{value}`"
    return _RANGE.sub(lambda match: f"{match[1]} to {match[2]}" if match[1] else f"{match[3]} or more", remark)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
