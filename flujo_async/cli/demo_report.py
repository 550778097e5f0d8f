"""The report of a survey, on paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from flujo_async.cli.screen import columns, plain, print_json, put, screen
from flujo_async.cli.survey import Ranked, Report, Skipped


def print_report(report: Report, top: int) -> None:
    """Print a report with the first ``top`` of each ranking.

    What is printed depends on the report only: not on how long the survey took, or how often it was interrupted.
    """
    out = screen()
    out.print(f"Survey of {plain(report.root)}", style="bold", soft_wrap=True)
    out.print(f"{report.files:,} files, {report.lines:,} lines, ", end="")
    out.print(f"{report.functions:,} functions, {report.classes:,} classes")
    _print_largest(out, report, top)
    _print_ranking(out, "Most imported packages", "files", report.imported[:top])
    _print_ranking(out, "Longest functions, one a file", "lines", report.longest[:top])
    if report.skipped:
        _print_skipped(out, report.skipped)


def print_report_json(report: Report, top: int) -> None:
    """Print a report as JSON, with the first ``top`` of each ranking."""
    shown = {name: getattr(report, name)[:top] for name in ("largest", "imported", "longest")}
    print_json(replace(report, **shown))


def _print_largest(out: Console, report: Report, top: int) -> None:
    table = columns("Largest modules", numbers=("lines", "functions", "classes"))
    for module in report.largest[:top]:
        table.add_row(plain(module.path), f"{module.lines:,}", f"{module.functions:,}", f"{module.classes:,}")
    out.print()
    put(table)


def _print_ranking(out: Console, title: str, unit: str, ranking: Sequence[Ranked]) -> None:
    table = columns(title, numbers=(unit,))
    for ranked in ranking:
        table.add_row(plain(ranked.name), f"{ranked.count:,}")
    out.print()
    put(table)


def _print_skipped(out: Console, skipped: Sequence[Skipped]) -> None:
    files = "1 file" if len(skipped) == 1 else f"{len(skipped):,} files"
    out.print(f"\n{files} could not be read or parsed", style="bold")
    for each in skipped:
        out.print(f"{plain(each.path)}: {plain(each.reason)}", soft_wrap=True)
