"""Entries over three methods that keep JSON documents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any

from flujo_async._codec.heads import decode_entry, encode_entry
from flujo_async._model.entry import Entry, EntryId, EntryKind, EntryQuery, by_run, entry_id, put
from flujo_async._model.ids import MAX_RUN_ID_LENGTH
from flujo_async._model.selection import select_entries
from flujo_async.abc.document import Medium, State, pure

ENTRIES_ID = "flujo-async.entries"
"""The document under this id lists the runs that have entries; no run's id may begin with it."""


class DocumentEntries:
    """Keeps the entries of each run in one more document, and the ids of these runs in ``ENTRIES_ID``.

    What goes to several runs at once is in the list first, and counts from then on. All of this runs in turn.
    """

    def __init__(self, medium: Medium) -> None:
        self._medium = medium

    async def put(self, entries: Sequence[Entry], instead_of: EntryKind | None) -> None:
        """As ``StateBackend.put_entries``."""
        if not entries:
            return
        index = await self._settled()
        after: dict[str, list[State]] = {}
        for run_id, more in by_run(entries).items():
            known = await self._of(run_id, index) if run_id in index["run_ids"] else {}
            after[run_id] = [pure(encode_entry(entry)) for entry in put(known, more, instead_of).values()]
        run_ids = list(dict.fromkeys([*index["run_ids"], *after]))
        pending = after if len(after) > 1 else {}
        if pending or run_ids != index["run_ids"]:
            await self._medium.save(ENTRIES_ID, {"run_ids": run_ids, "pending": pending})
        if pending:
            await self._settled()
        else:
            await self._write(after)

    async def read(self, query: EntryQuery) -> list[Entry]:
        """As ``StateBackend.read_entries``."""
        index = await self._index()
        runs = index["run_ids"] if query.run_id is None else {query.run_id} & set(index["run_ids"])
        kept = [entry for run_id in runs for entry in (await self._of(run_id, index)).values()]
        return select_entries(kept, query)

    async def remove(self, run_id: str) -> None:
        """Remove the entries of a run."""
        index = await self._settled()
        if run_id not in index["run_ids"]:
            return
        await self._medium.delete(_id_of(run_id))
        left = [other for other in index["run_ids"] if other != run_id]
        if left:
            await self._medium.save(ENTRIES_ID, {**index, "run_ids": left})
        else:
            await self._medium.delete(ENTRIES_ID)

    async def _settled(self) -> State:
        """Return the list when nothing is in it that belongs to the runs."""
        index = await self._index()
        if not index["pending"]:
            return index
        await self._write(index["pending"])
        settled: State = {**index, "pending": {}}
        await self._medium.save(ENTRIES_ID, settled)
        return settled

    async def _index(self) -> State:
        return await self._medium.load(ENTRIES_ID) or {"run_ids": [], "pending": {}}

    async def _of(self, run_id: str, index: State) -> dict[EntryId, Entry]:
        trees: Iterable[Any] | None = index["pending"].get(run_id)
        if trees is None:
            state = await self._medium.load(_id_of(run_id))
            trees = [] if state is None else state["entries"]
        return {entry_id(entry): entry for entry in map(decode_entry, pure({"entries": trees})["entries"])}

    async def _write(self, trees_by_run: Mapping[str, list[State]]) -> None:
        for run_id, trees in trees_by_run.items():
            await self._medium.save(_id_of(run_id), {"run_id": run_id, "entries": trees})


def _id_of(run_id: str) -> str:
    """Return the id of the document that has the entries of a run; no longer than a run's may be."""
    name = f"{ENTRIES_ID}.{run_id}"
    return name if len(name) <= MAX_RUN_ID_LENGTH else f"{ENTRIES_ID}~{sha256(run_id.encode()).hexdigest()}"
