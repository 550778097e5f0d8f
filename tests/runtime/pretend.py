"""Stores, owners and clocks that behave as a test wants: fakes behind the port, nothing is patched."""

import asyncio
import inspect
import sys
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from typing_extensions import override

from flujo_async import Step, step
from flujo_async._model.entry import Entry, EntryKind, EntryQuery
from flujo_async._model.facts import Fact
from flujo_async._model.lease import ClaimQuery, Lease
from flujo_async._model.state import RunStatus, Waiting
from flujo_async._model.stored import Blob, HeadChange, NewRun, Record, RunQuery, RunUpdate, Signal, Snapshot, StoredRun
from flujo_async._model.summary import RunSummary
from flujo_async.abc.backend import Capabilities, StateBackend
from flujo_async.errors import BackendError
from flujo_async.testing import FaultyBackend, VirtualClock
from flujo_async.testing.faults import Fault
from tests.log.made import seal

ANOTHER_HOST = "another-host:4711:12345:runtime"
_ANY_RUN = ClaimQuery()


class Wall(VirtualClock):
    """A clock that may be set.

    Attributes:
        wrong: how far it is ahead, or behind.
    """

    wrong = timedelta(0)

    @override
    def now(self) -> datetime:
        return super().now() + self.wrong


class Wrapped(StateBackend):
    """A store in front of another one; every verb goes through ``through``."""

    def __init__(self, inner: StateBackend) -> None:
        self.inner = inner
        self.capabilities: Capabilities = inner.capabilities  # type: ignore[misc]

    async def through(self, verb: str, call: Callable[[], Any]) -> Any:
        """Do what a verb does; subclasses look or change here."""
        result = call()
        return await result if inspect.isawaitable(result) else result

    @override
    async def create_run(self, run: NewRun, *, owner: str | None = None, ttl: timedelta = timedelta(0)) -> Lease | None:
        return await self.through("create_run", lambda: self.inner.create_run(run, owner=owner, ttl=ttl))

    @override
    async def load(self, run_id: str, *, until: int | None = None, from_snapshot: bool = False) -> StoredRun | None:
        return await self.through("load", lambda: self.inner.load(run_id, until=until, from_snapshot=from_snapshot))

    @override
    async def append(
        self,
        lease: Lease,
        records: Sequence[Record],
        *,
        expected_seq: int,
        update: RunUpdate,
        blobs: Sequence[Blob] = (),
    ) -> int:
        return await self.through(
            "append", lambda: self.inner.append(lease, records, expected_seq=expected_seq, update=update, blobs=blobs)
        )

    @override
    async def claim(self, owner: str, *, now: datetime, ttl: timedelta, query: ClaimQuery = _ANY_RUN) -> list[Lease]:
        return await self.through("claim", lambda: self.inner.claim(owner, now=now, ttl=ttl, query=query))

    @override
    async def renew(self, leases: Sequence[Lease], *, now: datetime, ttl: timedelta) -> list[Lease]:
        return await self.through("renew", lambda: self.inner.renew(leases, now=now, ttl=ttl))

    @override
    async def next_due(self, query: ClaimQuery) -> datetime | None:
        return await self.through("next_due", lambda: self.inner.next_due(query))

    @override
    async def release(
        self,
        lease: Lease,
        *,
        wake_at: datetime | None = None,
        signals_read: int | None = None,
        waiting_for: Sequence[Waiting] | None = None,
    ) -> None:
        await self.through(
            "release",
            lambda: self.inner.release(lease, wake_at=wake_at, signals_read=signals_read, waiting_for=waiting_for),
        )

    @override
    async def post(self, signal: Signal) -> Signal:
        return await self.through("post", lambda: self.inner.post(signal))

    @override
    async def read_signals(self, known: Mapping[str, int]) -> list[Signal]:
        return await self.through("read_signals", lambda: self.inner.read_signals(known))

    @override
    async def query_runs(self, query: RunQuery) -> list[RunSummary]:
        return await self.through("query_runs", lambda: self.inner.query_runs(query))

    @override
    async def read_events(self, run_id: str, *, after: int = 0, limit: int | None = None) -> list[Record]:
        return await self.through("read_events", lambda: self.inner.read_events(run_id, after=after, limit=limit))

    @override
    async def read_blobs(self, run_id: str, digests: Collection[str]) -> dict[str, bytes]:
        return await self.through("read_blobs", lambda: self.inner.read_blobs(run_id, digests))

    @override
    async def put_snapshot(self, lease: Lease, snapshot: Snapshot) -> None:
        await self.through("put_snapshot", lambda: self.inner.put_snapshot(lease, snapshot))

    @override
    async def delete_run(self, run_id: str) -> None:
        await self.through("delete_run", lambda: self.inner.delete_run(run_id))

    @override
    async def put_entries(self, entries: Sequence[Entry], *, instead_of: EntryKind | None = None) -> None:
        await self.through("put_entries", lambda: self.inner.put_entries(entries, instead_of=instead_of))

    @override
    async def read_entries(self, query: EntryQuery) -> list[Entry]:
        return await self.through("read_entries", lambda: self.inner.read_entries(query))

    @override
    async def set_system_state(self, key: str, value: Mapping[str, Any]) -> None:
        await self.through("set_system_state", lambda: self.inner.set_system_state(key, value))

    @override
    async def get_system_state(self, key: str) -> dict[str, Any] | None:
        return await self.through("get_system_state", lambda: self.inner.get_system_state(key))

    @override
    async def wait_for_work(self, run_id: str | None = None, *, timeout: float) -> None:
        await self.inner.wait_for_work(run_id, timeout=timeout)


def failing(inner: StateBackend, verb: str, nth: int = 1, *, after: bool = False) -> FaultyBackend:
    """Return a store that fails at the n-th call of a verb, before or after it took effect."""
    faulty = FaultyBackend(inner)
    faulty.fail(verb, nth=nth, how="after" if after else "before", error=_disk_is_full())
    return faulty


def dying(inner: StateBackend, verb: str, nth: int = 1, *, after: bool = False) -> FaultyBackend:
    """Return a store that fails at the n-th call of a verb, and ever after, in all verbs."""
    faulty = FaultyBackend(inner)
    faulty.crash(verb, nth=nth, how="after" if after else "before", error=_disk_is_full())
    return faulty


def _disk_is_full() -> BackendError:
    error = BackendError("the disk is full")
    error.__cause__ = OSError(28, "No space left on device")
    return error


def gated_store(inner: StateBackend, verb: str, nth: int = 1, *, after: bool = False) -> tuple[FaultyBackend, Fault]:
    """Return a store that stops at the n-th call of a verb, and what tells that it did and lets it go on."""
    gated = FaultyBackend(inner)
    return gated, gated.delay(verb, nth=nth, how="after" if after else "before")


async def append_fact(backend: StateBackend, run_id: str, fact: Fact, status: RunStatus, **change: Any) -> None:
    """Put a fact at the end of a run's log through the port, as an owner on another host would."""
    [lease] = await backend.claim(ANOTHER_HOST, now=fact.at, ttl=timedelta(seconds=30), query=ClaimQuery(run_id=run_id))
    stored = await backend.load(run_id)
    assert stored is not None
    after = stored.summary.last_seq
    records = seal([fact], after=after, prev_hash=stored.records[-1].hash)
    update = RunUpdate(updated_at=fact.at, change=HeadChange(status=status, **change))
    await backend.append(lease, records, expected_seq=after, update=update)


async def until(is_so: Callable[[], bool]) -> None:
    """Return when something is so that no event tells of, because it happens in another thread or store."""
    while not is_so():
        await asyncio.sleep(0.001)


def failing_once(has_failed: asyncio.Event) -> Step[int, int]:
    """Return a step that fails when it is executed first, and sets ``has_failed`` then."""

    @step
    async def fail_once(n: int) -> int:
        if not has_failed.is_set():
            has_failed.set()
            raise ValueError("no")
        return n

    return fail_once


def cancel_this_task() -> None:
    """Cancel the task that runs, as code does that knows no better; it hears of that at its next await."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


@contextmanager
def eager_tasks() -> Generator[None]:
    """Let tasks begin at once where they are made, as a host may choose."""
    if sys.version_info < (3, 12):
        pytest.skip("eager tasks are new in 3.12")
    event_loop = asyncio.get_running_loop()
    event_loop.set_task_factory(asyncio.eager_task_factory)
    try:
        yield
    finally:
        event_loop.set_task_factory(None)
