"""Runs, records and signals to test stores with, and short ways to say what a test does to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from flujo_async._log.chain import GENESIS, next_hash, seal
from flujo_async._model.entry import Entry, EntryKind, EntryQuery
from flujo_async._model.facts import Fact
from flujo_async._model.lease import ClaimQuery, Lease
from flujo_async._model.state import RunStatus, Waiting
from flujo_async._model.stored import (
    GOES_ON,
    Blob,
    HeadChange,
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
from flujo_async.abc.backend import StateBackend

T0 = datetime(2026, 3, 29, 1, 30, 0, 123456, tzinfo=UTC)
SECOND = timedelta(seconds=1)
TTL = timedelta(seconds=30)
PAUSED: frozenset[RunStatus] = frozenset({"paused"})
WAIT = Waiting(kind="signal", name="approval", since=T0, prompt="?", schema={"type": "object"}, deadline=T0 + TTL)

ODD_IDS = (
    "a",
    "A",
    ".",
    "..",
    "a/b",
    "a\\b",
    "a%2fb",
    "con",
    "a b",
    " ",
    "~",
    "-rf",
    "*",
    "'; DROP TABLE runs; --",
    "line\nbreak",
    "\u00e9",
    "e\u0301",
    "\U0001f600",
    "x.jsonl",
    "x.json",
    "x" * 512,
    "x" * 511 + "y",
    "X" * 512,
    "\U0001f600" * 512,
)
"""Run ids that are one and the same, or none at all, to a store that is careless with them."""


def sealed(bodies: Sequence[bytes], *, after: Sequence[Record] = ()) -> tuple[Record, ...]:
    """Return bodies as records that continue the log ``after``."""
    prev_hash = after[-1].hash if after else GENESIS
    records: list[Record] = []
    for seq, body in enumerate(bodies, len(after) + 1):
        prev_hash = next_hash(prev_hash, body)
        records.append(Record(seq, body, prev_hash))
    return tuple(records)


LOG = sealed([b'{"kind":"Test","n":%d}' % n for n in range(1, 33)])
"""A log to take records from: ``LOG[:1]`` is what ``new_run`` starts with."""


def new_run(
    run_id: str = "run",
    *,
    records: Sequence[Record] = LOG[:1],
    blobs: Sequence[Blob] = (),
    prefix: Prefix | None = None,
    posted: Sequence[Signal] = (),
    **head: Any,
) -> NewRun:
    """Return a run to create, ``running`` since ``T0``."""
    fields: dict[str, Any] = {
        "pipeline_name": "hello",
        "pipeline_version": "1.0.0",
        "status": "running",
        "created_at": T0,
        "updated_at": T0,
        "last_seq": records[-1].seq,
    }
    return NewRun(RunSummary(run_id=run_id, **fields | head), tuple(records), tuple(blobs), prefix, tuple(posted))


def fork(
    past: Sequence[Record], run_id: str = "fork", *, of: str = "run", count: int = 1, **fields: Any
) -> tuple[NewRun, tuple[Record, ...]]:
    """Return a run to create that shares ``past``, the beginning of the log of ``of``; and the log that it then has.

    Its records are its own: those of another fork, or of ``LOG``, differ.
    """
    own = sealed([b'{"kind":"Test","fork":"%s","n":%d}' % (run_id.encode(), n) for n in range(count)], after=past)
    return new_run(run_id, records=own, prefix=Prefix(of, len(past), past[-1].hash), **fields), (*past, *own)


def blob(text: str) -> Blob:
    """Return a blob that holds ``text``."""
    data = b'"%s"' % text.encode()
    return Blob(sha256(data).hexdigest(), data)


def snapshot(seq: int, body: bytes = b"{}") -> Snapshot:
    """Return a snapshot of a run whose log begins as ``LOG`` does."""
    return Snapshot(seq, LOG[seq - 1].hash, body)


def update(
    status: RunStatus = "running", *, updated_at: datetime = T0 + SECOND, current_step_index: int = 0, **fields: Any
) -> RunUpdate:
    """Return what an append makes of the head."""
    change = HeadChange(status=status, **fields)
    change = GOES_ON if change == GOES_ON else change
    return RunUpdate(updated_at=updated_at, current_step_index=current_step_index, change=change)


def signal(signal_id: str = "s1", run_id: str = "run", payload: Any = None) -> Signal:
    """Return an answer to the wait ``approval``."""
    return Signal(run_id=run_id, signal_id=signal_id, name="approval", payload=payload, at=T0)


def entry(
    run_id: str = "run",
    kind: EntryKind = "state",
    key: str = "",
    *,
    body: dict[str, Any] | None = None,
    created_at: datetime = T0,
    updated_at: datetime = T0,
) -> Entry:
    """Return something to keep of a run."""
    return Entry(run_id=run_id, kind=kind, key=key, body=body or {}, created_at=created_at, updated_at=updated_at)


async def kept(backend: StateBackend, **query: Any) -> list[Entry]:
    """Return the entries that a query finds."""
    return await backend.read_entries(EntryQuery(**query))


async def save_state(backend: StateBackend, run_id: str, state: dict[str, Any]) -> None:
    """Save a state, also where ``save_state`` is the author's own."""
    await StateBackend.save_state(backend, run_id, state)


def log_of(*facts: Fact) -> tuple[Record, ...]:
    """Return facts as a log."""
    records: list[Record] = []
    for fact in facts:
        records.append(seal(fact, after=len(records), prev_hash=records[-1].hash if records else GENESIS)[0])
    return tuple(records)


async def create(backend: StateBackend, run: NewRun | None = None, *, owner: str = "w1") -> Lease:
    """Create a run that ``owner`` has leased."""
    lease = await backend.create_run(run or new_run(), owner=owner, ttl=TTL)
    assert lease is not None
    return lease


async def claim(
    backend: StateBackend, owner: str = "w2", *, now: datetime = T0, run_id: str | None = "run", **query: Any
) -> Lease | None:
    """Claim one run, if it can be had."""
    leases = await backend.claim(owner, now=now, ttl=TTL, query=ClaimQuery(run_id=run_id, **query))
    assert len(leases) <= 1
    return leases[0] if leases else None


async def claimed_ids(backend: StateBackend, *, now: datetime = T0, limit: int = 100, **query: Any) -> list[str]:
    """Claim what is due and return the run ids, in the order of the claims."""
    leases = await backend.claim("w", now=now, ttl=TTL, query=ClaimQuery(limit=limit, **query))
    return [lease.run_id for lease in leases]


async def next_due(backend: StateBackend, **query: Any) -> datetime | None:
    """Return when the next claim is due; if that is still to come, claims agree to the microsecond."""
    asked = ClaimQuery(**query)
    moment = await backend.next_due(asked)
    if moment is not None and moment > T0:
        assert await backend.claim("w", now=moment - timedelta(microseconds=1), ttl=TTL, query=asked) == []
        assert len(await backend.claim("w", now=moment, ttl=TTL, query=asked)) == 1
    return moment


async def append(
    backend: StateBackend, lease: Lease, *, after: int = 1, count: int = 1, blobs: Sequence[Blob] = (), **fields: Any
) -> int:
    """Append the next ``count`` records of ``LOG``."""
    records = LOG[after : after + count]
    return await backend.append(lease, records, expected_seq=after, update=update(**fields), blobs=blobs)


async def load(backend: StateBackend, run_id: str = "run") -> StoredRun:
    """Load a run that exists."""
    run = await backend.load(run_id)
    assert run is not None
    return run


async def head(backend: StateBackend, run_id: str = "run") -> RunSummary:
    """Return the head of a run that exists; loading and listing tell the same."""
    run = await load(backend, run_id)
    assert await backend.query_runs(RunQuery(run_id=run_id)) == [run.summary]
    return run.summary


async def listed(backend: StateBackend, **query: Any) -> list[str]:
    """Return the ids that a listing shows."""
    return [summary.run_id for summary in await backend.query_runs(RunQuery(**query))]


async def blobs_of(backend: StateBackend, run_id: str, blobs: Iterable[Blob]) -> set[Blob]:
    """Return those of the blobs that a run has, as the store keeps them."""
    found = await backend.read_blobs(run_id, [blob.digest for blob in blobs])
    return {Blob(digest, data) for digest, data in found.items()}
