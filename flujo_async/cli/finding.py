"""What an examination of a store finds, each with what to do about it; from what was read before, and the time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, TypeAlias, TypeVar

from flujo_async._model.lease import ClaimQuery, DefinitionKey
from flujo_async._model.report import SchemaVersion, StoreReport, VerifyReport
from flujo_async._model.selection import is_of
from flujo_async._model.state import TERMINAL, RunStatus
from flujo_async._model.summary import RunSummary
from flujo_async.cli.screen import duration, plain, runs_text, size
from flujo_async.cli.store import is_driven, is_orphan

T = TypeVar("T")
K = TypeVar("K")

Level: TypeAlias = Literal["fine", "note", "problem"]

_MUCH: Final = 2**20
_LONG_LOG: Final = 64 * 2**20
_OVERDUE_SECONDS: Final = 3600

_BACKUP: Final = "stop what writes to it, and restore a backup; `runs export` may save single runs"
_RECOVER: Final = "`runs resume RUN_ID`; Flujo(recover=True) takes up all"
_WAITS: Final = {
    "signal": ("the signal", "`runs signal RUN_ID NAME --payload JSON` answers"),
    "decision": ("a decision on the step", "`runs redrive RUN_ID --decision retry` or `skip` decides"),
    "pause": ("somebody:", "`runs resume RUN_ID` goes on"),
    "definition": ("the definition", "bring back the code it was recorded with, or give the Flujo a migrate="),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that an examination has found.

    Attributes:
        level: a ``problem`` is what somebody has to do something about; a ``note`` is worth knowing.
        about: what was looked at, in a word or two.
        text: what there is.
        advice: what to do; empty if that is nothing.
        run_ids: the runs that it is about.
    """

    level: Level
    about: str
    text: str
    advice: str = ""
    run_ids: tuple[str, ...] = ()


def about_schema(schema: SchemaVersion | None) -> Iterator[Finding]:
    """Tell whether a store is of today."""
    if schema is None:
        return
    if schema.is_old:
        text = f"version {schema.stored}; this flujo_async has {schema.newest}. The runs were not looked at"
        yield Finding("problem", "schema", text, "make a backup, then `migrate`")
    elif schema.stored:
        yield Finding("fine", "schema", f"version {schema.stored}, the newest")


def about_store(report: StoreReport) -> Iterator[Finding]:
    """Tell what the store's own check has found, and whether there is space to win."""
    for damage in report.damages:
        yield Finding("problem", "store", plain(damage), _BACKUP)
    if not report.damages:
        yield Finding("fine", "store", "its own check finds nothing wrong")
    if report.free > max(_MUCH, (report.size or 0) // 4):
        yield Finding("note", "space", f"{size(report.free)} are left over from what was deleted", "`compact`")
    if report.unsettled > _LONG_LOG:
        text = f"the write-ahead log has {size(report.unsettled)}: somebody has been reading for long, or hangs"
        yield Finding("note", "space", text, "end that process, then `compact`")


def about_hashes(verified: VerifyReport) -> Iterator[Finding]:
    """Tell whether the runs are as they were written."""
    if verified.ok:
        text = f"{verified.facts:,} facts of {runs_text(verified.runs)} are as they were written"
        yield Finding("fine", "hashes", text)
        return
    run_ids = tuple(broken.run_id for broken in verified.broken)
    text = f"{runs_text(len(run_ids))} of {verified.runs:,} not as they were written"
    yield Finding("problem", "hashes", text, "`verify` names the fact of each; take them from a backup", run_ids)


def about_runs(heads: Mapping[RunStatus, Sequence[RunSummary]], now: datetime) -> Iterator[Finding]:
    """Tell which runs need somebody.

    Args:
        heads: the runs that have not completed, by status.
        now: the time.
    """
    yield from _about_running(heads["running"], now)
    yield from _about_pending(heads["pending"], now)
    yield from _about_paused(heads["paused"], now)
    if failed := heads["failed"]:
        text = f"{runs_text(len(failed))} failed, {_since((head.updated_at for head in failed), now)}"
        advice = "`dead-letters list` tells why; `runs redrive RUN_ID`"
        yield Finding("note", "dead letters", text, advice, _ids(failed))


def about_versions(
    heads: Mapping[RunStatus, Sequence[RunSummary]], query: ClaimQuery, now: datetime
) -> Iterator[Finding]:
    """Tell which runs are of definitions that are known by name, but not in the version that fits.

    Args:
        heads: the runs that have not completed, by status.
        query: asks for the runs that can go on here.
        now: the time.
    """
    known = query.definitions or frozenset[DefinitionKey]()
    names = {definition.pipeline_name for definition in known}
    versions = {(definition.pipeline_name, definition.pipeline_version) for definition in known}
    going_on = (head for status, found in heads.items() if status not in TERMINAL for head in found)
    strangers = [head for head in going_on if head.pipeline_name in names and not is_of(head, query)]
    for (name, version), found in _grouped(strangers, lambda head: (head.pipeline_name, head.pipeline_version)):
        why = "has another structure" if (name, version) in versions else "is not known"
        since = _since((head.updated_at for head in found), now)
        text = f"{runs_text(len(found))} of {plain(name)} {plain(version)}, which {why} here, {since}"
        advice = "register that version as well, give the Flujo a migrate=, or run a worker that knows it"
        yield Finding("note", "versions", text, advice, _ids(found))


def _about_running(running: Sequence[RunSummary], now: datetime) -> Iterator[Finding]:
    orphans = list(filter(is_orphan, running))
    for queue, heads in _grouped(orphans, lambda head: head.queue or ""):
        text = f"{runs_text(len(heads))} {_of(queue)}that nobody drives, {_since((h.updated_at for h in heads), now)}"
        advice = f"`worker --queue {plain(queue)}` takes them up" if queue else _RECOVER
        yield Finding("problem", "orphans", text, advice, _ids(heads))
    if running and not orphans:
        text = f"{runs_text(len(running))} running: {sum(map(is_driven, running)):,} driven now, the others asleep"
        yield Finding("fine", "orphans", text)


def _about_pending(pending: Sequence[RunSummary], now: datetime) -> Iterator[Finding]:
    overdue = [head for head in pending if (now - _due(head)).total_seconds() > _OVERDUE_SECONDS]
    for queue, heads in _grouped(overdue, lambda head: head.queue or ""):
        text = f"{runs_text(len(heads))} {_of(queue)}not begun, {_since(map(_due, heads), now)}"
        advice = f"`worker --queue {plain(queue)}` takes them" if queue else _RECOVER
        yield Finding("note", "queues", text, advice, _ids(heads))


def _about_paused(paused: Sequence[RunSummary], now: datetime) -> Iterator[Finding]:
    waits = [(wait, head) for head in paused for wait in head.waiting_for]
    for (kind, name), found in _grouped(waits, lambda each: (each[0].kind, each[0].name)):
        what, advice = _WAITS[kind]
        heads = tuple(dict.fromkeys(head.run_id for _, head in found))
        text = f"{runs_text(len(heads))} waiting for {what} {plain(name)}, {_since((w.since for w, _ in found), now)}"
        yield Finding("note", "waits", text, advice, heads)


def _due(head: RunSummary) -> datetime:
    return head.wake_at or head.updated_at


def _grouped(items: Iterable[T], key: Callable[[T], K]) -> Iterator[tuple[K, list[T]]]:
    groups: dict[K, list[T]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    yield from groups.items()


def _since(moments: Iterable[datetime], now: datetime) -> str:
    found = sorted(moments)
    oldest = duration((now - found[0]).total_seconds())
    return f"for {oldest}" if len(found) == 1 else f"the first for {oldest}"


def _of(queue: str) -> str:
    return f"of queue {plain(queue)} " if queue else ""


def _ids(heads: Iterable[RunSummary]) -> tuple[str, ...]:
    return tuple(head.run_id for head in heads)
