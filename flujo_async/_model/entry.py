"""Entries: what callers keep of a run by hand, beside its log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, TypeAlias

from flujo_async._model.page import check_page
from flujo_async._model.tree import JsonObject

EntryKind: TypeAlias = Literal["state", "run", "step", "span", "evaluation"]
"""What an entry tells: the state of a run, its start or end, a step, a span of its trace, or how well it did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Something that a caller keeps of a run; the run need not be one that a runtime has driven.

    Attributes:
        run_id: the run.
        kind: what it tells.
        key: which one of its kind it is within the run; ``""`` where there is only one.
        body: what it says, as an encoded tree.
        created_at: when it was first kept, or what the caller gave for that.
        updated_at: when it was kept last.
    """

    run_id: str
    kind: EntryKind
    key: str
    body: JsonObject
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryQuery:
    """Which entries are asked for; ``None`` means any.

    Attributes:
        kind: only entries of this kind.
        run_id: only entries of this run.
        limit: at most so many, after all filters; ``None`` is no limit.
        offset: leave out so many at the front.

    Raises:
        InvalidArgument: a negative number.
    """

    kind: EntryKind | None = None
    run_id: str | None = None
    limit: int | None = None
    offset: int = 0

    def __post_init__(self) -> None:
        check_page(self.limit, self.offset)


EntryId: TypeAlias = tuple[EntryKind, str]
"""Names an entry among those of its run: its kind and its key."""


def entry_id(entry: Entry) -> EntryId:
    """Return what names an entry among those of its run."""
    return entry.kind, entry.key


def by_run(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """Return entries by the runs that they are of."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.run_id, []).append(entry)
    return found


def put(known: Mapping[EntryId, Entry], entries: Iterable[Entry], instead_of: EntryKind | None) -> dict[EntryId, Entry]:
    """Return the entries of one run after ``entries`` were put beside those ``known``, or instead of one kind."""
    after = {name: entry for name, entry in known.items() if entry.kind != instead_of}
    for entry in entries:
        before = known.get(entry_id(entry))
        after[entry_id(entry)] = entry if before is None else replace(entry, created_at=before.created_at)
    return after
