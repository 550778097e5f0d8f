"""All verbs of the port over three methods that keep JSON documents."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from flujo_async._codec import heads
from flujo_async._model import selection, transition
from flujo_async._model.entry import Entry, EntryKind, EntryQuery
from flujo_async._model.ids import check_run_id
from flujo_async._model.lease import ClaimQuery, Lease
from flujo_async._model.state import Waiting
from flujo_async._model.stored import (
    Blob,
    NewRun,
    Prefix,
    Record,
    RunQuery,
    RunUpdate,
    Signal,
    Snapshot,
    StoredRun,
)
from flujo_async._model.summary import RunSummary
from flujo_async.abc.document import Medium, State, ThreeMethods, pure
from flujo_async.abc.document_entries import ENTRIES_ID, DocumentEntries
from flujo_async.abc.turn import Turn
from flujo_async.errors import (
    BackendError,
    InvalidArgument,
    RunExists,
    SerializationError,
)

P = ParamSpec("P")
T = TypeVar("T")

INDEX_ID = "flujo-async.index"
"""The document under this id lists the ids of all runs; no run may have it."""

SYSTEM_ID = "flujo-async.system"
"""The document under this id holds the system state of all keys; no run may have it."""

_RESERVED = frozenset({INDEX_ID, SYSTEM_ID})


def _in_turn(
    verb: Callable[Concatenate[DocumentRuns, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[DocumentRuns, P], Coroutine[Any, Any, T]]:
    """Let a verb run when it is its turn, and to its end."""

    @wraps(verb)
    async def run(self: DocumentRuns, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.turn.run(verb(self, *args, **kwargs))

    return run


class DocumentRuns:
    """Keeps each run as one document: its head, the records of its log, its blobs and the signals posted to it.

    The keys of the head are those of ``WorkflowState`` where both have them, so that a person who looks at a
    saved state understands it. The body of a record is text, so that it survives a store that orders keys or
    rewrites numbers (``sort_keys``, JSONB); so are blobs and snapshots. A fork is a copy: documents share
    nothing, neither blobs nor records. One more document, ``INDEX_ID``, lists the ids of all runs; it is
    gone when the last run is. Another, ``SYSTEM_ID``, holds the system state, once there is some. Entries are in
    documents of their own.

    What holds: the three methods are called one at a time, whatever the event loops and threads of the
    callers, so they need no locks of their own; a call that has begun is carried to its end. What does not:
    two processes, or two instances, on one store would overwrite each other's changes. An append costs as
    much as loading and saving the whole run, listing as much as loading all of them.

    Attributes:
        turn: what lets one verb run at a time.
    """

    def __init__(self, store: ThreeMethods) -> None:
        self.turn: Turn = Turn()
        self._medium = Medium(store)
        self._entries = DocumentEntries(self._medium)

    @_in_turn
    async def create_run(self, run: NewRun, *, owner: str | None, ttl: timedelta) -> Lease | None:
        """As in ``StateBackend``; refuses the reserved ids."""
        run_id = check_run_id(run.summary.run_id)
        if _is_reserved(run_id):
            raise InvalidArgument(f"{run_id!r} is reserved by backends that implement the three methods")
        if await self._read(run_id):
            raise RunExists(f"run {run_id!r} exists")
        document = _Document.new(transition.created(run, owner, ttl), run.signals)
        if run.prefix:
            document = document.continuing(await self._read(run.prefix.run_id), run.prefix)
        # The index first: it may name a run that is not there, but a run that it lacks would be lost.
        run_ids = await self._run_ids()
        if run_id not in run_ids:
            await self._write_index([*run_ids, run_id])
        await self._write(document.with_records(run.records, run.blobs))
        return document.summary.lease

    @_in_turn
    async def load(self, run_id: str, *, until: int | None, from_snapshot: bool) -> StoredRun | None:
        """As in ``StateBackend``."""
        document = await self._read(run_id)
        return None if document is None else document.stored(until, from_snapshot)

    @_in_turn
    async def append(
        self,
        lease: Lease,
        records: Sequence[Record],
        *,
        expected_seq: int,
        update: RunUpdate,
        blobs: Sequence[Blob],
    ) -> int:
        """As in ``StateBackend``."""
        document, last_seq = await self._read(lease.run_id), expected_seq + len(records)
        if document is None:
            raise transition.lost(lease)
        transition.check_append(document.summary, lease, expected_seq)
        grown = document.with_records(records, blobs)
        await self._write(grown.with_head(transition.advanced(document.summary, last_seq, update)))
        return last_seq

    @_in_turn
    async def claim(self, owner: str, *, now: datetime, ttl: timedelta, query: ClaimQuery) -> list[Lease]:
        """As in ``StateBackend``."""
        documents = {document.summary.run_id: document for document in await self._documents(query.run_id)}
        leases: list[Lease] = []
        for summary in selection.choose((each.summary for each in documents.values()), query, now):
            claimed, lease = transition.claimed(summary, owner, now, ttl)
            await self._write(documents[summary.run_id].with_head(claimed))
            leases.append(lease)
        return leases

    @_in_turn
    async def renew(self, leases: Sequence[Lease], *, now: datetime, ttl: timedelta) -> list[Lease]:
        """As in ``StateBackend``."""
        renewed: list[Lease] = []
        for lease in leases:
            if document := await self._held(lease):
                summary, longer = transition.renewed(document.summary, lease, now + ttl)
                await self._write(document.with_head(summary))
                renewed.append(longer)
        return renewed

    @_in_turn
    async def next_due(self, query: ClaimQuery) -> datetime | None:
        """As in ``StateBackend``."""
        documents = await self._documents(query.run_id)
        return selection.next_due((document.summary for document in documents), query)

    @_in_turn
    async def release(
        self,
        lease: Lease,
        *,
        wake_at: datetime | None,
        signals_read: int | None,
        waiting_for: Sequence[Waiting] | None,
    ) -> None:
        """As in ``StateBackend``."""
        if document := await self._held(lease):
            head = transition.released(document.summary, wake_at, signals_read, waiting_for)
            await self._write(document.with_head(head))

    @_in_turn
    async def post(self, signal: Signal) -> Signal:
        """As in ``StateBackend``."""
        document = await self._read(signal.run_id)
        if document is None:
            raise transition.missing(signal.run_id)
        if (kept := document.signal(signal.signal_id)) is not None:
            return kept
        await self._write(document.with_signal(signal))
        return signal

    @_in_turn
    async def read_signals(self, known: Mapping[str, int]) -> list[Signal]:
        """As in ``StateBackend``."""
        documents = await self._read_all(known)
        return [signal for document in documents for signal in document.signals(known[document.summary.run_id])]

    @_in_turn
    async def query_runs(self, query: RunQuery) -> list[RunSummary]:
        """As in ``StateBackend``."""
        documents = await self._documents(query.run_id)
        return selection.select((document.summary for document in documents), query)

    @_in_turn
    async def read_events(self, run_id: str, *, after: int, limit: int | None) -> list[Record]:
        """As in ``StateBackend``."""
        document = await self._read(run_id)
        end = None if limit is None else after + limit
        return list(document.records(after, end)) if document else []

    @_in_turn
    async def read_blobs(self, run_id: str, digests: Collection[str]) -> dict[str, bytes]:
        """As in ``StateBackend``."""
        document = await self._read(run_id)
        return document.blobs(digests) if document else {}

    @_in_turn
    async def put_snapshot(self, lease: Lease, snapshot: Snapshot) -> None:
        """As in ``StateBackend``."""
        document = await self._held(lease)
        if document and 1 <= snapshot.seq <= document.summary.last_seq:
            await self._write(document.with_snapshot(snapshot))

    @_in_turn
    async def delete_run(self, run_id: str) -> None:
        """As in ``StateBackend``."""
        if _is_reserved(check_run_id(run_id)):
            return
        await self._entries.remove(run_id)
        await self._medium.delete(run_id)
        run_ids = await self._run_ids()
        if run_id in run_ids:
            await self._write_index([other for other in run_ids if other != run_id])

    @_in_turn
    async def put_entries(self, entries: Sequence[Entry], *, instead_of: EntryKind | None) -> None:
        """As in ``StateBackend``."""
        await self._entries.put(list(map(heads.own_entry, entries)), instead_of)

    @_in_turn
    async def read_entries(self, query: EntryQuery) -> list[Entry]:
        """As in ``StateBackend``."""
        return await self._entries.read(query)

    @_in_turn
    async def set_system_state(self, key: str, value: Mapping[str, Any]) -> None:
        """As in ``StateBackend``."""
        states = {**await self._system_states(), heads.check_key(key): heads.load_object(heads.dump_state(value))}
        await self._medium.save(SYSTEM_ID, {"states": states})

    @_in_turn
    async def get_system_state(self, key: str) -> State | None:
        """As in ``StateBackend``."""
        value = (await self._system_states()).get(heads.check_key(key))
        return None if value is None else pure(value)

    async def _documents(self, run_id: str | None) -> list[_Document]:
        return await self._read_all([run_id] if run_id else await self._run_ids())

    async def _read_all(self, run_ids: Iterable[str]) -> list[_Document]:
        found = [await self._read(run_id) for run_id in run_ids]
        return [document for document in found if document]

    async def _held(self, lease: Lease) -> _Document | None:
        """Return the run of a lease, unless somebody else has it, or it is gone."""
        document = await self._read(lease.run_id)
        return document if document and transition.is_held(document.summary, lease) else None

    async def _read(self, run_id: str) -> _Document | None:
        if not _may_exist(run_id):
            return None
        state = await self._medium.load(run_id)
        return None if state is None else _Document.of(run_id, state)

    async def _write(self, document: _Document) -> None:
        await self._medium.save(document.summary.run_id, document.state)

    async def _run_ids(self) -> list[str]:
        state = await self._medium.load(INDEX_ID)
        return [] if state is None else list(state["run_ids"])

    async def _write_index(self, run_ids: list[str]) -> None:
        if run_ids:
            await self._medium.save(INDEX_ID, {"run_ids": run_ids})
        else:
            await self._medium.delete(INDEX_ID)

    async def _system_states(self) -> dict[str, State]:
        state = await self._medium.load(SYSTEM_ID)
        return {} if state is None else dict(state["states"])


@dataclass(frozen=True, slots=True)
class _Document:
    """One run, as it is saved (``state``) and with its head read. Never changed in place: stores may share it."""

    summary: RunSummary
    state: State

    @classmethod
    def new(cls, summary: RunSummary, signals: Sequence[Signal]) -> _Document:
        posted = [pure(heads.encode_signal(signal)) for signal in signals]
        state: State = {"records": [], "posted": posted, "blobs": {}, "snapshot": None}
        return cls(summary, state).with_head(summary)

    @classmethod
    def of(cls, run_id: str, state: State) -> _Document:
        summary = heads.decode_summary(state)
        kinds: dict[str, Any] = {"records": list, "posted": list, "blobs": dict, "snapshot": (dict, type(None))}
        if summary.run_id != run_id or not all(isinstance(state.get(key, ""), kind) for key, kind in kinds.items()):
            raise BackendError(f"what load_state({run_id!r}) returned is not the whole state of this run")
        return cls(summary, state)

    def continuing(self, source: _Document | None, prefix: Prefix) -> _Document:
        """Return this run with the records of another one, and the blobs that came with them."""
        if source is None:
            raise transition.missing(prefix.run_id)
        records = source.state["records"][: prefix.last_seq]
        transition.check_prefix(prefix, source.summary.last_seq, records[-1]["hash"])
        blobs = {digest: blob for digest, blob in source.state["blobs"].items() if blob["seq"] <= prefix.last_seq}
        return _Document(self.summary, {**self.state, "records": records, "blobs": blobs})

    def with_head(self, summary: RunSummary) -> _Document:
        return _Document(summary, {**self.state, **pure(heads.encode_summary(summary))})

    def with_records(self, records: Sequence[Record], blobs: Iterable[Blob]) -> _Document:
        """Return the run with more records; the first one says since when it has the blobs."""
        grown = [*self.state["records"], *map(heads.encode_record, records)]
        given = {blob.digest: {"seq": records[0].seq, "data": _text(blob)} for blob in blobs}
        return _Document(self.summary, {**self.state, "records": grown, "blobs": {**given, **self.state["blobs"]}})

    def with_snapshot(self, snapshot: Snapshot) -> _Document:
        """Return the run with a snapshot."""
        tree = {"seq": snapshot.seq, "hash": snapshot.hash, "body": b64encode(snapshot.body).decode()}
        return _Document(self.summary, {**self.state, "snapshot": tree})

    def with_signal(self, signal: Signal) -> _Document:
        """Return the run with one more signal."""
        grown = [*self.state["posted"], pure(heads.encode_signal(signal))]
        return _Document(self.summary, {**self.state, "posted": grown}).with_head(transition.signalled(self.summary))

    def stored(self, until: int | None, from_snapshot: bool) -> StoredRun:
        snapshot = self.snapshot() if from_snapshot else None
        if snapshot and until is not None and snapshot.seq > until:
            snapshot = None
        records = self.records(snapshot.seq if snapshot else 0, until)
        return StoredRun(self.summary, records, tuple(self.signals()), snapshot)

    def records(self, start: int = 0, end: int | None = None) -> tuple[Record, ...]:
        return tuple(map(heads.decode_record, self.state["records"][start:end]))

    def snapshot(self) -> Snapshot | None:
        tree = self.state["snapshot"]
        return tree and Snapshot(tree["seq"], tree["hash"], b64decode(tree["body"]))

    def blobs(self, digests: Iterable[str]) -> dict[str, bytes]:
        known = self.state["blobs"]
        return {digest: known[digest]["data"].encode() for digest in digests if digest in known}

    def signals(self, known: int = 0) -> Iterable[Signal]:
        return map(heads.decode_signal, self.state["posted"][known:])

    def signal(self, signal_id: str) -> Signal | None:
        posted = (tree for tree in self.state["posted"] if tree["signal_id"] == signal_id)
        return next(map(heads.decode_signal, posted), None)


def _is_reserved(run_id: str) -> bool:
    return run_id in _RESERVED or run_id.startswith(ENTRIES_ID)


def _may_exist(run_id: str) -> bool:
    try:
        return not _is_reserved(check_run_id(run_id))
    except InvalidArgument:
        return False


def _text(blob: Blob) -> str:
    try:
        return blob.data.decode()
    except UnicodeDecodeError as error:
        raise SerializationError("a blob is UTF-8", path=f"blobs[{blob.digest}]") from error
