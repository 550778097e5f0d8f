"""How text gets to a terminal, or into a pipe."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, cast

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

_UNFOLDED: Final = 1000
"""The width of a pipe: whoever searches the lines needs them whole."""

GAP: Final = 2
"""So many blanks are between the columns of a table."""

_LONGEST: Final = 200
_SHARE_OF_NAMES: Final = 3
"""The name of a run takes at most this part of the width of a terminal."""

_OLD_RUNS_SHOWN: Final = 50


def screen(*, stderr: bool = False) -> Console:
    """Return the console for results, or the one for everything else."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else _UNFOLDED
    return Console(stderr=stderr, width=width, markup=False, highlight=False, emoji=False)


def say(text: str) -> None:
    """Print one line on stderr: an error, or a word about what goes on."""
    sys.stdout.flush()  # where both streams end in one place, this comes after what was printed before
    screen(stderr=True).print(plain(text), soft_wrap=True)


def say_if_more(found: Sequence[object], limit: int) -> None:
    """Say that there is more than the first ``limit``, which are shown, if so."""
    if len(found) > limit:
        say(f"there are more than {limit:,}; --limit shows them")


def columns(*names: str, numbers: Sequence[str] = (), whole: Sequence[str] = ()) -> Table:
    """Return a table without frames: columns of words, then columns of numbers, under their headers.

    Args:
        names: columns of words.
        numbers: columns of numbers.
        whole: those among ``names`` that a narrow terminal does not fold.
    """
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False)
    for name in names:
        table.add_column(name, overflow="fold", no_wrap=name in whole)  # not cut: somebody may want to copy it
    for number in numbers:
        table.add_column(number, justify="right", no_wrap=True)
    return table


def name_cell(name: str) -> str:
    """Return the name of a run for a column beside longer ones: a terminal has its middle left out if it is long."""
    return cut_inside(plain(name), screen().width // _SHARE_OF_NAMES)


def put(table: Table) -> None:
    """Print a table on stdout, without the blanks that it would fill its lines with."""
    out = screen()
    with out.capture() as captured:
        out.print(table)
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def print_pairs(pairs: Iterable[tuple[str, str]], *, everything: bool) -> None:
    """Print names and what they stand for, a line each; unless it is to be ``everything``, long values are cut."""
    table = Table(box=None, show_header=False, padding=(0, GAP, 0, 0), pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in pairs:
        table.add_row(plain(name), plain(text) if everything else brief(text))
    put(table)


def plain(text: str) -> str:
    """Return text that is one line and cannot steer a terminal."""
    line = " ".join(text.splitlines())
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in line)


def cut(text: str, width: int) -> str:
    """Return text that takes at most so many columns of a terminal; an ellipsis is where its end is missing."""
    shown = Text(text)
    shown.truncate(width, overflow="ellipsis")
    return shown.plain


def cut_inside(text: str, width: int) -> str:
    """Return text that takes at most so many columns; what is missing is its middle: names differ at both ends.

    >>> cut_inside("0123456789abcdef", 9)
    '0123…cdef'
    """
    if cell_len(text) <= width:
        return text
    head, tail = cut(text, width // 2 + 1), cut(text[::-1], (width - 1) // 2 + 1)[::-1]
    return f"{head.removesuffix('…')}…{tail.removeprefix('…')}"


def brief(text: str) -> str:
    """Return text on one line that is not too long."""
    line = plain(text[: 2 * _LONGEST])
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"


def duration(seconds: float) -> str:
    """Return a length of time with its unit.

    >>> [duration(seconds) for seconds in (0.0123, 3.21, 75, 7300, 20_000, 500_000)]
    ['12 ms', '3.2 s', '75 s', '2.0 h', '5.6 h', '5.8 d']
    """
    for unit, length, limit in (("ms", 0.001, 1), ("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if seconds < limit:
            return _amount(max(seconds, 0) / length, unit)
    return _amount(seconds / 86_400, "d")


def _amount(number: float, unit: str) -> str:
    return f"{number:.1f} {unit}" if number < 10 and unit != "ms" else f"{number:.0f} {unit}"


def size(count: int) -> str:
    """Return a number of bytes with its unit.

    >>> [size(count) for count in (0, 999, 1500, 25_000_000)]
    ['0 B', '999 B', '1.5 kB', '25 MB']
    """
    for unit, length in (("GB", 10**9), ("MB", 10**6), ("kB", 1000)):
        if count >= length:
            return _amount(count / length, unit)
    return f"{count} B"


def runs_text(count: int) -> str:
    """Return how many runs there are.

    >>> runs_text(1), runs_text(2000)
    ('1 run', '2,000 runs')
    """
    return "1 run" if count == 1 else f"{count:,} runs"


def print_old_runs(runs: Sequence[tuple[str, str, str, datetime]], moment: str) -> None:
    """Print runs that are to be deleted: id, pipeline, status, and the moment by which they are old."""
    if not runs:
        return
    now = datetime.now(UTC)
    table = columns("Run", "Pipeline", "Status", numbers=(moment,), whole=("Status",))
    for run_id, pipeline, status, at in runs[:_OLD_RUNS_SHOWN]:
        table.add_row(plain(run_id), plain(pipeline), status, ago(at, now))
    put(table)
    if len(runs) > _OLD_RUNS_SHOWN:
        print_line(f"and {len(runs) - _OLD_RUNS_SHOWN:,} more")


def usage_text(tokens: Any, cost: Any, counts: Mapping[str, int] = MappingProxyType({})) -> str:
    """Return what was consumed; nothing if nothing was.

    >>> usage_text(1200, 0.25, {"input": 900, "output": 300})
    '1,200 tokens (input 900, output 300), cost 0.25'
    """
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in counts.items())
    parts = [f"{tokens:,} tokens{f' ({kinds})' if kinds else ''}"] if tokens else []
    return ", ".join([*parts, f"cost {cost:.6g}"] if cost else parts)


def ago(at: datetime, now: datetime) -> str:
    """Return how long ago a moment was."""
    return f"{duration((now - at).total_seconds())} ago"


def moment(at: datetime) -> str:
    """Return a moment in local time, to the second."""
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def clock(at: datetime) -> str:
    """Return a moment in local time: the time alone if it is today."""
    local = at.astimezone()
    return local.strftime("%H:%M:%S" if local.date() == datetime.now(UTC).astimezone().date() else "%Y-%m-%d %H:%M:%S")


def print_json(value: object) -> None:
    """Print a value as JSON on stdout."""
    sys.stdout.write(json.dumps(as_json(value), indent=2, allow_nan=False) + "\n")


def print_json_line(value: object) -> None:
    """Print a value as one line of JSON on stdout, at once: somebody reads along."""
    sys.stdout.write(json.dumps(as_json(value), allow_nan=False) + "\n")
    sys.stdout.flush()


def print_line(text: str) -> None:
    """Print one line on stdout, at once."""
    screen().print(plain(text), soft_wrap=True)
    sys.stdout.flush()


def print_text(text: Text) -> None:
    """Print one line on stdout, at once; a terminal has as much of it as is wide enough for."""
    out = screen()
    text.rstrip()
    if sys.stdout.isatty():
        text.truncate(out.width, overflow="ellipsis")
    out.print(text, soft_wrap=True)
    sys.stdout.flush()


def as_json(value: object) -> Any:
    """Return what JSON can say of a value: records become objects, sets arrays, and the rest its text."""
    match value:
        case None | bool() | str() | int():
            plain_value: Any = value
        case float() if math.isfinite(value):
            plain_value = value
        case datetime():
            plain_value = value.isoformat()
        case Mapping():
            entries = cast("Mapping[object, object]", value)
            plain_value = {str(key): as_json(item) for key, item in entries.items()}
        case list() | tuple() | Set():
            plain_value = [as_json(item) for item in cast("Iterable[object]", value)]
        case _ if is_dataclass(value):
            plain_value = {field.name: as_json(getattr(value, field.name)) for field in fields(value)}
        case _:
            plain_value = str(value)
    return plain_value
