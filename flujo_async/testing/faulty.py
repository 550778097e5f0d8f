"""A store that goes wrong where a test wants it to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar

import anyio
from typing_extensions import override

from flujo_async._model.entry import Entry, EntryKind, EntryQuery
from flujo_async._model.lease import ANY_RUN, ClaimQuery, Lease
from flujo_async._model.report import SchemaVersion, StoreReport
from flujo_async._model.state import Waiting
from flujo_async._model.stored import Blob, NewRun, Record, RunQuery, RunUpdate, Signal, Snapshot, StoredRun
from flujo_async._model.summary import RunSummary
from flujo_async.abc.backend import Capabilities, StateBackend
from flujo_async.abc.clock import Clock
from flujo_async.abc.event_loop import tell
from flujo_async.errors import BackendError
from flujo_async.testing.faults import WRITES, Act, Call, Fault, How, Latch, delaying, duplicate, failing, for_ever

T = TypeVar("T")


class FaultyBackend(StateBackend):
    """Passes every call on to another store, except for those that a test has something happen to.

    ```python
    faulty = FaultyBackend(InMemoryBackend())
    faulty.fail("append", nth=3, how="after", error=OSError(28, "No space left on device"))
    ```

    Calls are counted from when a fault is asked for: ``nth=1`` is the next one; several numbers choose several calls,
    and ``None`` all of them. A verb may also be a collection of verbs, whose calls are counted together.
    ``how`` is ``"before"`` the call takes effect, or ``"after"``: then it is stored, and nobody gets to know.

    Everything may be called from any thread and event loop. Nothing here waits for real time.

    Attributes:
        inner: the store behind it.
        capabilities: those of the store behind it.
        clock: that of the store behind it.
        calls: all calls so far, in the order in which they began.
        is_dead: whether the process that uses this store counts as dead.
    """

    WRITES: ClassVar[frozenset[str]] = WRITES

    def __init__(self, inner: StateBackend) -> None:
        self.inner = inner
        self.capabilities: Capabilities = inner.capabilities  # type: ignore[misc] # pyright: ignore[reportIncompatibleVariableOverride] -- those of one object
        self.clock: Clock = inner.clock
        self.calls: list[Call] = []
        self.is_dead: bool = False
        self._faults: list[Fault] = []
        self._guard = threading.Lock()
        self._under_way = 0
        self._death = Latch()
        self._waiting: dict[anyio.CancelScope, asyncio.AbstractEventLoop] = {}

    # ------------------------------------------------------------------------------------------- what goes wrong

    def fail(
        self,
        verb: str | Collection[str],
        *,
        nth: int | Collection[int] | None = 1,
        how: How = "before",
        error: BaseException | type[BaseException] | None = None,
    ) -> Fault:
        """Make calls fail.

        Args:
            verb: which verb, or several.
            nth: which calls, from now on; 1 is the next.
            how: ``"before"``: nothing is written; ``"after"``: all is, and the answer is lost; ``"middle"``: of the
                leases of one ``renew`` or ``claim`` the first half.
            error: what is raised; by default a ``BackendError``.

        Raises:
            InvalidArgument: there is no such verb, or the verb has no middle.
        """
        return self._add(verb, nth, how, failing(error, lambda: None))

    def crash(
        self,
        verb: str | Collection[str],
        *,
        nth: int | Collection[int] | None = 1,
        how: How = "before",
        error: BaseException | type[BaseException] | None = None,
    ) -> Fault:
        """Let the process die in a call: it fails as with ``fail``, and so does every call from there on.

        What is behind this store can be used by others: another ``FaultyBackend``, or the ``inner`` one itself.
        """
        return self._add(verb, nth, how, failing(error, self.die))

    def delay(
        self,
        verb: str | Collection[str],
        *,
        nth: int | Collection[int] | None = 1,
        how: How = "before",
        until: Callable[[], Awaitable[object]] | None = None,
    ) -> Fault:
        """Hold calls up before or after they take effect.

        Args:
            verb: which verb, or several.
            nth: which calls, from now on; 1 is the next.
            how: ``"before"`` they take effect, or ``"after"``.
            until: what is awaited meanwhile, such as ``event.wait``, or ``lambda: clock.sleep(60)`` with a
                ``VirtualClock``; by default until ``release`` of the fault is called.
        """
        return self._add(verb, nth, how, delaying(until, self._hold))

    def hang(self, verb: str | Collection[str], *, nth: int | Collection[int] | None = 1, how: How = "before") -> Fault:
        """Let calls never return, unless they are cancelled or the process dies.

        Nothing lets them go on, neither ``release`` nor ``withdraw``: for calls that go on later, there is ``delay``.
        """
        return self._add(verb, nth, how, delaying(for_ever, self._hold))

    def duplicate(self, verb: str | Collection[str], *, nth: int | Collection[int] | None = 1) -> Fault:
        """Deliver calls twice, as over a network that has lost the first answer. The second answer is given."""
        return self._add(verb, nth, "before", duplicate)

    def die(self) -> None:
        """Let the process that uses this store be dead: every call fails from here on."""
        with self._guard:
            self.is_dead = True
            waiting = list(self._waiting.items())
        self._death.open()
        for scope, loop in waiting:
            tell(loop, self._end_waiting, scope)

    async def died(self) -> None:
        """Return when the process is dead."""
        await self._death.wait()

    # ------------------------------------------------------------------------------------------ what has happened

    @property
    def plan(self) -> list[Fault]:
        """The faults that can still happen."""
        return [fault for fault in self._faults if not fault.is_over]

    @property
    def writes(self) -> list[Call]:
        """The calls so far of ``WRITES``, the verbs that change what is stored (``renew`` is not among them)."""
        return [call for call in self.calls if call.verb in WRITES]

    @property
    def under_way(self) -> int:
        """How many calls have not returned yet; who waits for work is not counted."""
        return self._under_way

    def _add(self, verb: str | Collection[str], nth: int | Collection[int] | None, how: How, act: Act) -> Fault:
        fault = Fault(frozenset({verb} if isinstance(verb, str) else verb), nth, how, act)
        with self._guard:
            self._faults.append(fault)
        return fault

    # --------------------------------------------------------------------------------------------------- the calls

    async def _call(
        self, verb: str, deliver: Callable[[bool], Awaitable[T]], *run_ids: str | None, records: Sequence[Record] = ()
    ) -> T:
        self._check_alive()
        with self._guard:
            call = Call(len(self.calls) + 1, verb, tuple(each for each in run_ids if each is not None), tuple(records))
            self.calls.append(call)
            chosen = [fault for fault in self._faults if fault.counts(verb)]
            self._under_way += 1
        try:
            answer = await (chosen[0].happen(call, deliver) if chosen else deliver(False))
            self._check_alive()  # a dead process hears no answers
        except BaseException as error:
            call.error = error
            raise
        finally:
            with self._guard:
                self._under_way -= 1
        return answer

    def _check_alive(self) -> None:
        if self.is_dead:
            raise BackendError("the process that uses this store is dead")

    async def _hold(self, wait: Callable[[], Awaitable[object]]) -> None:
        """Wait, until the process dies at the latest.

        Raises:
            BackendError: it is dead.
        """
        with anyio.CancelScope() as scope:
            with self._guard:
                self._waiting[scope] = asyncio.get_running_loop()
            try:
                self._check_alive()
                await wait()
            finally:
                with self._guard:
                    del self._waiting[scope]
        self._check_alive()

    def _end_waiting(self, scope: anyio.CancelScope) -> None:
        if scope in self._waiting:
            scope.cancel()

    @override
    async def create_run(self, run: NewRun, *, owner: str | None = None, ttl: timedelta = timedelta(0)) -> Lease | None:
        return await self._call(
            "create_run",
            lambda is_half: self.inner.create_run(run, owner=owner, ttl=ttl),
            run.summary.run_id,
            records=run.records,
        )

    @override
    async def load(self, run_id: str, *, until: int | None = None, from_snapshot: bool = False) -> StoredRun | None:
        return await self._call(
            "load", lambda is_half: self.inner.load(run_id, until=until, from_snapshot=from_snapshot), run_id
        )

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
        return await self._call(
            "append",
            lambda is_half: self.inner.append(lease, records, expected_seq=expected_seq, update=update, blobs=blobs),
            lease.run_id,
            records=records,
        )

    @override
    async def claim(self, owner: str, *, now: datetime, ttl: timedelta, query: ClaimQuery = ANY_RUN) -> list[Lease]:
        return await self._call(
            "claim",
            lambda is_half: self.inner.claim(owner, now=now, ttl=ttl, query=_half_of(query) if is_half else query),
            query.run_id,
        )

    @override
    async def next_due(self, query: ClaimQuery) -> datetime | None:
        return await self._call("next_due", lambda is_half: self.inner.next_due(query), query.run_id)

    @override
    async def renew(self, leases: Sequence[Lease], *, now: datetime, ttl: timedelta) -> list[Lease]:
        return await self._call(
            "renew",
            lambda is_half: self.inner.renew(leases[: len(leases) // 2] if is_half else leases, now=now, ttl=ttl),
            *(lease.run_id for lease in leases),
        )

    @override
    async def release(
        self,
        lease: Lease,
        *,
        wake_at: datetime | None = None,
        signals_read: int | None = None,
        waiting_for: Sequence[Waiting] | None = None,
    ) -> None:
        return await self._call(
            "release",
            lambda is_half: self.inner.release(
                lease, wake_at=wake_at, signals_read=signals_read, waiting_for=waiting_for
            ),
            lease.run_id,
        )

    @override
    async def post(self, signal: Signal) -> Signal:
        return await self._call("post", lambda is_half: self.inner.post(signal), signal.run_id)

    @override
    async def read_signals(self, known: Mapping[str, int]) -> list[Signal]:
        return await self._call("read_signals", lambda is_half: self.inner.read_signals(known), *known)

    @override
    async def query_runs(self, query: RunQuery) -> list[RunSummary]:
        return await self._call("query_runs", lambda is_half: self.inner.query_runs(query), query.run_id)

    @override
    async def read_events(self, run_id: str, *, after: int = 0, limit: int | None = None) -> list[Record]:
        return await self._call(
            "read_events", lambda is_half: self.inner.read_events(run_id, after=after, limit=limit), run_id
        )

    @override
    async def read_blobs(self, run_id: str, digests: Collection[str]) -> dict[str, bytes]:
        return await self._call("read_blobs", lambda is_half: self.inner.read_blobs(run_id, digests), run_id)

    @override
    async def put_snapshot(self, lease: Lease, snapshot: Snapshot) -> None:
        return await self._call("put_snapshot", lambda is_half: self.inner.put_snapshot(lease, snapshot), lease.run_id)

    @override
    async def delete_run(self, run_id: str) -> None:
        return await self._call("delete_run", lambda is_half: self.inner.delete_run(run_id), run_id)

    @override
    async def put_entries(self, entries: Sequence[Entry], *, instead_of: EntryKind | None = None) -> None:
        return await self._call(
            "put_entries",
            lambda is_half: self.inner.put_entries(entries, instead_of=instead_of),
            *dict.fromkeys(entry.run_id for entry in entries),
        )

    @override
    async def read_entries(self, query: EntryQuery) -> list[Entry]:
        return await self._call("read_entries", lambda is_half: self.inner.read_entries(query), query.run_id)

    @override
    async def set_system_state(self, key: str, value: Mapping[str, Any]) -> None:
        return await self._call("set_system_state", lambda is_half: self.inner.set_system_state(key, value))

    @override
    async def get_system_state(self, key: str) -> dict[str, Any] | None:
        return await self._call("get_system_state", lambda is_half: self.inner.get_system_state(key))

    @override
    async def schema_version(self) -> SchemaVersion | None:
        return await self._call("schema_version", lambda is_half: self.inner.schema_version())

    @override
    async def upgrade(self) -> None:
        return await self._call("upgrade", lambda is_half: self.inner.upgrade())

    @override
    async def report(self, *, is_quick: bool = False) -> StoreReport:
        return await self._call("report", lambda is_half: self.inner.report(is_quick=is_quick))

    @override
    async def backup(self, target: Path) -> None:
        return await self._call("backup", lambda is_half: self.inner.backup(target))

    @override
    async def compact(self) -> None:
        return await self._call("compact", lambda is_half: self.inner.compact())

    @override
    async def wait_for_work(self, run_id: str | None = None, *, timeout: float) -> None:
        await self._hold(lambda: self.inner.wait_for_work(run_id, timeout=timeout))

    @override
    async def shutdown(self) -> None:
        await self.inner.shutdown()

    @override
    async def __aenter__(self) -> Self:
        await self.inner.__aenter__()
        return self

    @override
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.inner.__aexit__(exc_type, exc, tb)


def _half_of(query: ClaimQuery) -> ClaimQuery:
    return replace(query, limit=query.limit // 2)
