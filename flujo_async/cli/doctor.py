"""``flujo-async migrate`` and ``doctor``: whether a store is of today, sound, and without runs that need somebody."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Final, TypeAlias, get_args

import typer
from rich.table import Table
from rich.text import Text

from flujo_async._model.report import SchemaVersion, StorePart, StoreReport, VerifyReport
from flujo_async._model.state import RunStatus
from flujo_async._model.stored import RunQuery
from flujo_async._model.summary import RunSummary
from flujo_async._runtime.flujo import runner_of
from flujo_async.abc.backend import StateBackend
from flujo_async.cli.exit_code import ExitCode
from flujo_async.cli.finding import Finding, about_hashes, about_runs, about_schema, about_store, about_versions
from flujo_async.cli.options import FlujoName, Json, MaybeDb
from flujo_async.cli.runtime import Runtime, name_of, perform, place_at
from flujo_async.cli.screen import GAP, columns, plain, print_json, print_line, put, size
from flujo_async.cli.store import Store

_NAMED: Final = 3
_STYLES: Final = {"fine": "", "note": "yellow", "problem": "bold red"}
_LOOKED_AT: Final = tuple(status for status in get_args(RunStatus) if status not in ("completed", "cancelled"))

Check: TypeAlias = Annotated[
    bool, typer.Option("--check", help="Only tell. The exit code is 1 if it is to be upgraded.")
]
Quick: TypeAlias = Annotated[bool, typer.Option("--quick", help="Leave out what reads all that is stored.")]


@dataclass(frozen=True, slots=True)
class Examination:
    """What was found.

    Attributes:
        ok: whether there is no problem.
        store: what the store tells of itself.
        verified: what a check of all hashes has found, if there was one.
        findings: all that was found, what is fine included.
    """

    ok: bool
    store: StoreReport
    verified: VerifyReport | None
    findings: list[Finding]


def migrate(check: Check = False, db: MaybeDb = None, flujo: FlujoName = None, json: Json = False) -> None:
    """Bring a store to the schema of this version. Tells from which to which.

    Whatever opens an older store does the same; this command does nothing else. All of it is done or nothing, even if
    the process is killed, and who else uses the store waits meanwhile.
    """
    place = place_at(flujo, db)
    before, after = perform(place, lambda flujo: _migrate(flujo.state_backend, is_check=check))
    if json:
        print_json({"before": before.stored, "after": after.stored, "newest": after.newest} if before and after else {})
    else:
        print_line(f"{name_of(place)}: {_upgraded(before, after)}")
    if after is not None and after.is_old:
        raise typer.Exit(ExitCode.FAILED)


def doctor(quick: Quick = False, db: MaybeDb = None, flujo: FlujoName = None, json: Json = False) -> None:
    """Examine a store, and change nothing. Looks at the file, every hash, and runs that nobody drives, wait or failed.

    Each finding says what to do. The exit code is 1 if there is a problem, a note is none; and
    2 if there is no store.
    """
    place = place_at(flujo, db)
    if isinstance(place, Store):
        place.check_holds_runs()
    found = perform(place, lambda flujo: _examine(flujo, is_quick=quick))
    if json:
        print_json(found)
    else:
        _print(found, name_of(place))
    if not found.ok:
        raise typer.Exit(ExitCode.FAILED)


async def _migrate(backend: StateBackend, *, is_check: bool) -> tuple[SchemaVersion | None, SchemaVersion | None]:
    before = await backend.schema_version()
    if not is_check:
        await backend.upgrade()
    return before, await backend.schema_version()


def _upgraded(before: SchemaVersion | None, after: SchemaVersion | None) -> str:
    if before is None or after is None:
        return "there has been only one version of such a store, nothing to do"
    if after.is_old:
        return f"schema version {after.stored}; this flujo_async has {after.newest}, `migrate` brings it there"
    if before.stored < after.stored:
        return f"brought from schema version {before.stored} to {after.stored}"
    return f"schema version {after.stored}, the newest: nothing to do"


async def _examine(flujo: Runtime, *, is_quick: bool) -> Examination:
    backend = flujo.state_backend
    report, verified = await backend.report(is_quick=is_quick), None
    findings = [*about_schema(report.schema), *about_store(report)]
    if _is_ok(findings):  # else there is no reading the runs, or not without upgrading them
        if not is_quick:
            verified = await flujo.verify()
            findings += about_hashes(verified)
        heads = {status: [head async for head in _in_status(backend, status)] for status in _LOOKED_AT}
        findings += about_runs(heads, datetime.now(UTC))
        findings += about_versions(heads, runner_of(flujo).catalogue.claim_query(), datetime.now(UTC))
    return Examination(_is_ok(findings), report, verified, findings)


def _in_status(backend: StateBackend, status: RunStatus) -> AsyncIterator[RunSummary]:
    return backend.every_run(RunQuery(status=status))


def _is_ok(findings: Iterable[Finding]) -> bool:
    return all(finding.level != "problem" for finding in findings)


def _print(found: Examination, name: str) -> None:
    total = "" if found.store.size is None else f", {size(found.store.size)} on the disk"
    print_line(f"{name}{total}")
    print_line("")
    table = Table.grid(padding=(0, GAP, 0, 0), pad_edge=False)
    for column in ("level", "about"):
        table.add_column(column, no_wrap=True)
    table.add_column("text", overflow="fold")
    for finding in found.findings:
        table.add_row(Text(finding.level, _STYLES[finding.level]), finding.about, "\n".join(_lines(finding)))
    put(table)
    if parts := [part for part in found.store.parts if part.count]:
        print_line("")
        _print_parts(parts)


def _lines(finding: Finding) -> Iterator[str]:
    yield finding.text
    if finding.run_ids:
        more = len(finding.run_ids) - _NAMED
        named = ", ".join(map(plain, finding.run_ids[:_NAMED]))
        yield f"{named} and {more:,} more" if more > 0 else named
    if finding.advice:
        yield f"→ {finding.advice}"


def _print_parts(parts: Sequence[StorePart]) -> None:
    is_measured = any(part.size is not None for part in parts)
    table = columns("In it", numbers=("Count", "Size") if is_measured else ("Count",))
    for part in parts:
        sizes = [size(part.size or 0)] if is_measured else []
        table.add_row(plain(part.name), f"{part.count:,}", *sizes)
    put(table)
