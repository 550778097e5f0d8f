"""The SQL of the stores: migrations by number, and queries by name."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def migrations() -> list[list[str]]:
    """Return the statements of each migration, from version 1 on: ``migrations/0001_….sql`` and so on."""
    scripts = sorted((files(__name__) / "migrations").iterdir(), key=lambda script: script.name)
    return [list(_statements(script.read_text("utf-8"))) for script in scripts if script.name.endswith(".sql")]


def queries(file_name: str) -> dict[str, str]:
    """Return the queries of a file by name; ``{other}`` in one stands for the text of an earlier one."""
    found: dict[str, str] = {}
    _, *parts = _NAME.split((files(__name__) / file_name).read_text("utf-8"))
    for name, text in zip(parts[::2], parts[1::2], strict=True):
        found[name] = text.strip().removesuffix(";").format_map(found)
    return found


def _statements(script: str) -> Iterator[str]:
    """Cut a script where statements end, since ``executescript`` would commit what came before."""
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""
