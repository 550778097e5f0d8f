"""What people type for values: lengths of time, and JSON."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Any, Final, NoReturn

from flujo_async.errors import InvalidArgument

STDIN: Final = "-"
"""Stands for the standard input where a file or a value is asked for."""

_LENGTH: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
_MOST_SECONDS: Final = timedelta(days=700_000).total_seconds()
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def length(text: str, option: str) -> timedelta:
    """Return the length of time that an option is given.

    Raises:
        InvalidArgument: it is none, or not longer than zero, or longer than from any date.
    """
    found = _LENGTH.fullmatch(text.strip())
    if found and not float(found[1]):
        raise InvalidArgument(f"{option} {text}: that is to be longer than nothing, such as 1s")
    if found is None:
        raise InvalidArgument(f"{option} {text}: that is a number and a unit, such as 30d, 12h, 90m, 45s or 2w")
    seconds = float(found[1]) * _SECONDS[found[2]]
    if seconds > _MOST_SECONDS:
        raise InvalidArgument(f"{option} {text}: that is longer ago than any date")
    return timedelta(seconds=seconds)


def parsed(text: str, what: str) -> Any:
    """Return the value that JSON stands for.

    Raises:
        InvalidArgument: it is no JSON.
    """
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{what} is no JSON: {error}; a text has quotes of its own: '\"yes\"'") from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
