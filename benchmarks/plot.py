"""The figures as one picture."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot

from benchmarks.harness import Cell

BARS = (
    ("W1", "us_per_step", "W1: one run, µs per durable step"),
    ("W2", "us_per_step", "W2: 100 runs in flight, µs per durable step"),
    ("W4", "us_per_step", "W4: in memory, µs per step"),
    ("W5", "resume_ms", "W5: resume until the next step starts, ms"),
    ("W6 import", "import_ms", "W6: import, ms"),
    ("W7 load", "lag_p99_ms", "W7: event loop lag under load, p99, ms"),
)
LINES = (
    ("us_per_step", 1.0, "W3: growing context, µs per step"),
    ("written_per_step", 1024.0, "W3: growing context, KB written per step"),
)
GREY = "#444444"
COLOURS = {
    "ours": "#1b6ca8",
    "burr": "#e07b39",
    "langgraph": "#3a9d5d",
    "dbos": "#b5495b",
    "pydantic_graph": "#8e6bbf",
    "llama_index": "#c2a83e",
    "temporal": "#5fb3b3",
    "flujo": "#d081a9",
}


def draw(cells: Sequence[Cell], about: dict[str, Any], path: Path) -> None:
    """Write the picture of what was measured."""
    mpl.use("Agg")
    figure, axes = pyplot.subplots(4, 2, figsize=(15, 20))
    places = iter(axes.flat)
    for name, key, title in BARS[:2]:
        _bars(next(places), _largest(cells, name), key, title)
    for key, per, title in LINES:
        _lines(next(places), [cell for cell in cells if cell.question.name == "W3"], (key, per), title)
    for name, key, title in BARS[2:]:
        _bars(next(places), _largest(cells, name), key, title)
    figure.suptitle(f"flujo_async and others: {about['machine']}; less is better, scales are logarithmic")
    figure.tight_layout(rect=(0, 0, 1, 0.985))
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def _largest(cells: Sequence[Cell], name: str) -> list[Cell]:
    """Return each entry's cell of the largest size that it was measured at."""
    by_entry = {cell.entry: cell for cell in cells if cell.question.name == name and cell.rounds}
    return list(by_entry.values())


def _bars(axes: Any, cells: Sequence[Cell], key: str, title: str) -> None:
    axes.set_title(title, loc="left", fontweight="bold")
    rows = [(cell, statistics.median(cell.values(key)), cell.values(key)) for cell in cells if cell.values(key)]
    if not rows:
        axes.set_axis_off()
        return
    usual = max(cell.size for cell, _, _ in rows)
    names = [cell.entry.label + (f" ({cell.size:,})" if cell.size != usual else "") for cell, _, _ in rows]
    middles = [middle for _, middle, _ in rows]
    spread = [
        [middle - min(values) for _, middle, values in rows],
        [max(values) - middle for _, middle, values in rows],
    ]
    colours = [COLOURS.get(cell.entry.system, GREY) for cell, _, _ in rows]
    axes.barh(names, middles, color=colours, xerr=spread, error_kw={"ecolor": "#999999", "elinewidth": 1})
    axes.set_xscale("log")
    axes.set_xlim(min(middles) / 3, max(max(values) for _, _, values in rows) * 4)
    for place, (_, middle, values) in enumerate(rows):
        axes.text(
            max(values) * 1.08, place, f"{middle:,.0f}" if middle >= 100 else f"{middle:.3g}", va="center", fontsize=9
        )
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)


def _lines(axes: Any, cells: Sequence[Cell], figure: tuple[str, float], title: str) -> None:
    key, per = figure
    axes.set_title(title, loc="left", fontweight="bold")
    for entry in dict.fromkeys(cell.entry for cell in cells if cell.rounds):
        points = [(c.size, statistics.median(c.values(key)) / per) for c in cells if c.entry == entry and c.rounds]
        dashes = "--" if entry.variant.startswith("workflow") else "-"
        axes.plot(
            *zip(*points, strict=True), marker="o", ls=dashes, color=COLOURS.get(entry.system, GREY), label=entry.label
        )
    if not axes.lines:
        axes.set_axis_off()
        return
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("steps")
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8)
