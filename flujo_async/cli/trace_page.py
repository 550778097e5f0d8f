"""The spans of a run as a tree, each with a bar on the time axis of the run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, cast

from rich.cells import cell_len
from rich.text import Text

from flujo_async._log.keys import is_compensation
from flujo_async._log.spans import Span
from flujo_async.cli.screen import brief, cut, duration, plain, print_text, screen, usage_text

_SHOWN: Final = 10
"""How many spans below one are shown if they are many: the first ones, and the first of those that did not complete."""

_EVENTS_SHOWN: Final = 5
_DEEPEST: Final = 12
_PIPE_BAR: Final = 40
_FEWEST: Final = 10
"""A narrow terminal has at least so many columns of names, and of bars."""

_STATUS: Final = 9
_TIME: Final = 7
_GAP: Final = "  "
_STYLES: Final = {"failed": "red", "running": "yellow", "completed": "green"}
_OTHER_STYLE: Final = "dim"
_TOLD_ELSEWHERE: Final = frozenset(
    {"kind", "key", "run_id", "child_run_id", "pipeline_version", "attempt", "attempts", "error", "tokens", "cost"}
)
_WAITING: Final = frozenset({"wait", "sleep"})


def attributes_of(node: Span) -> Mapping[str, Any]:
    """Return the attributes of a span; none if somebody has saved something else for them."""
    found = node["attributes"]
    return cast("Mapping[str, Any]", found) if isinstance(found, Mapping) else {}


@dataclass(frozen=True, slots=True)
class _Row:
    """A span, or a word about those that are left out, and the lines of the tree before it and before its notes."""

    branch: str
    beside: str
    node: Span | None
    name: str

    @property
    def label(self) -> str:
        return f"{self.branch}{self.name}"


@dataclass(frozen=True, slots=True)
class _Axis:
    """The time of a run, and how many columns it has."""

    start: float
    end: float
    width: int

    def bar(self, node: Span) -> str:
        """Return when a span was, as columns."""
        first = self._column(node["start_time"])
        last = self._column(self.end if node["end_time"] is None else node["end_time"])
        mark = "░" if attributes_of(node).get("kind") in _WAITING else "█"
        return " " * first + mark * max(last - first, 1)

    def _column(self, at: float) -> int:
        share = (at - self.start) / max(self.end - self.start, 1e-9)
        return min(int(share * self.width), self.width - 1) if share < 1 else self.width

    def header(self) -> str:
        """Return the beginning and the end of the axis."""
        return f"0{duration(self.end - self.start):>{self.width - 1}}"


def print_trace(roots: Sequence[Span], now: float, *, everything: bool) -> None:
    """Print spans as trees.

    Args:
        roots: the trees.
        now: until when what is running has been going on.
        everything: leaves out no span and no event.
    """
    rows = list(_rows(roots, everything=everything))
    names, bars = _widths(rows)
    shown = [row.node for row in rows if row.node is not None]
    start = min(node["start_time"] for node in shown)
    end = max(now if node["end_time"] is None else node["end_time"] for node in shown)
    axis = _Axis(start, max(end, start), bars)
    header = f"{'Span':<{names}}{_GAP}{'Status':<{_STATUS}}{_GAP}{'Time':>{_TIME}}{_GAP}{axis.header()}"
    print_text(Text(header, style="bold"))
    for row in rows:
        _print_row(row, names, axis)
        if row.node is not None:
            for note, style in _notes(row.node, start, everything=everything):
                print_text(Text.assemble((row.beside, "dim"), (brief(note), style)))


def _widths(rows: Sequence[_Row]) -> tuple[int, int]:
    """Return how many columns names have, and how many bars."""
    longest = max(cell_len(row.label) for row in rows)
    out = screen()
    if not out.is_terminal:
        return longest, _PIPE_BAR
    room = out.width - _STATUS - _TIME - 3 * len(_GAP)
    names = max(min(longest, room * 3 // 5), _FEWEST)
    return names, max(room - names, _FEWEST)


def _print_row(row: _Row, names: int, axis: _Axis) -> None:
    label = cut(row.name, max(names - len(row.branch), 1))
    padding = " " * max(names - len(row.branch) - cell_len(label), 0)
    node = row.node
    if node is None:
        print_text(Text.assemble((row.branch, "dim"), (row.name, "dim")))
        return
    style = _STYLES.get(str(node["status"]), _OTHER_STYLE)
    end = axis.end if node["end_time"] is None else node["end_time"]
    took = f"{duration(end - node['start_time']):>{_TIME}}"
    status = f"{cut(plain(str(node['status'])), _STATUS):<{_STATUS}}"
    print_text(
        Text.assemble(
            (row.branch, "dim"), label, padding, _GAP, (status, style), _GAP, took, _GAP, (axis.bar(node), style)
        )
    )


def _rows(roots: Sequence[Span], *, everything: bool) -> Iterator[_Row]:
    """Yield a row for each span, each above those below it; not recursive, since a trace may be as deep as it likes."""
    waiting = [_Row("", "", node, plain(node["name"])) for node in reversed(roots)]
    while waiting:
        row = waiting.pop()
        if row.node is None:
            yield row
            continue
        children, left_out = _chosen(row.node["children"], everything=everything)
        below = _below(row)
        yield _Row(row.branch, f"{below}{'│ ' if children else '  '}", row.node, row.name)
        if left_out:
            waiting.append(_Row(f"{below}└─ ", "", None, f"{left_out:,} more; --all shows them"))
        names = Counter(each["name"] for each in row.node["children"])
        for place, child in enumerate(reversed(children)):
            is_last = place == 0 and not left_out
            name = _key_below(child, row.node) if names[child["name"]] > 1 else child["name"]
            waiting.append(_Row(f"{below}{'└─ ' if is_last else '├─ '}", "", child, plain(name)))


def _key_below(node: Span, parent: Span) -> str:
    """Return what tells a span from those beside it that have the same name: what its key adds to the parent's."""
    own, outer = (str(attributes_of(each).get("key", "")) for each in (node, parent))
    return own.removeprefix(f"{outer}/") if own not in ("", outer) else node["name"]


def _below(row: _Row) -> str:
    """Return what stands before the branches below a row."""
    before = row.branch.replace("├─ ", "│  ").replace("└─ ", "   ")
    return before if len(before) < 3 * _DEEPEST else f"…{before[4:]}"


def _chosen(children: Sequence[Span], *, everything: bool) -> tuple[list[Span], int]:
    """Return those of many spans that are shown, and how many are not."""
    if everything or len(children) <= 2 * _SHOWN:
        return list(children), 0
    trouble = [child for child in children[_SHOWN:] if child["status"] != "completed"]
    shown = [*children[:_SHOWN], *trouble[:_SHOWN]]
    return shown, len(children) - len(shown)


def _notes(node: Span, start: float, *, everything: bool) -> Iterator[tuple[str, str]]:
    """Yield what else is to be said of a span, a line each, with its style."""
    attributes = attributes_of(node)
    attempts = attributes.get("attempts", 1)
    told = ["compensation" if is_compensation(str(attributes.get("key", ""))) else ""]
    told.append(f"run {attributes['child_run_id']}" if "child_run_id" in attributes else "")
    told.append(f"{attempts} attempts" if attempts != 1 else "")
    told.append(usage_text(_number(attributes.get("tokens")), _number(attributes.get("cost"))))
    told += [f"{name}={value}" for name, value in attributes.items() if name not in _TOLD_ELSEWHERE]
    if line := ", ".join(part for part in told if part):
        yield line, "dim"
    is_told_below = any(attributes_of(child).get("kind") == "attempt" for child in node["children"])
    if attributes.get("error") and not is_told_below:
        yield str(attributes["error"]), "red"
    told_events = cast("Sequence[object]", node["events"] or ())
    events = [cast("Mapping[str, Any]", event) for event in told_events if isinstance(event, Mapping)]
    shown = events if everything else events[:_EVENTS_SHOWN]
    for event in shown:
        yield _event(event, start), "cyan"
    if len(shown) < len(events):
        yield f"{len(events) - len(shown):,} more events; --all shows them", "dim"


def _number(value: Any) -> Any:
    return value if isinstance(value, int | float | Decimal) else 0  # what was saved by hand is whatever it is


def _event(event: Mapping[str, Any], start: float) -> str:
    at = event.get("time")
    since = f"{duration(at - start)}: " if isinstance(at, int | float) else ""
    data = event.get("data")
    return f"{since}{event.get('name', '')}{'' if data is None else f' {data!r}'}"
