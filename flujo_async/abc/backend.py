"""The port of a store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import anyio

from flujo_async._log.audit_log import newest_first, own_events
from flujo_async._model.audit import AuditEvent, AuditQuery
from flujo_async._model.entry import Entry, EntryKind, EntryQuery
from flujo_async._model.lease import ANY_RUN, ClaimQuery, Lease
from flujo_async._model.page import page
from flujo_async._model.report import SchemaVersion, StoreReport
from flujo_async._model.state import Waiting
from flujo_async._model.stored import Blob, NewRun, Record, RunQuery, RunUpdate, Signal, Snapshot, StoredRun
from flujo_async._model.summary import RunSummary
from flujo_async.abc.clock import Clock, SystemClock
from flujo_async.abc.documents import DocumentRuns
from flujo_async.abc.pace import Pace, begin
from flujo_async.abc.pending import Pending
from flujo_async.abc.state_api import StateApi
from flujo_async.errors import BackendError

VERBS = frozenset(
    {
        "create_run",
        "load",
        "append",
        "claim",
        "next_due",
        "renew",
        "release",
        "post",
        "read_signals",
        "query_runs",
        "read_events",
        "read_blobs",
        "put_snapshot",
        "delete_run",
        "put_entries",
        "read_entries",
        "set_system_state",
        "get_system_state",
    }
)
"""What a store implements, if it is not made of three methods."""

_THREE_METHODS = frozenset({"save_state", "load_state", "delete_state"})
_ALL = VERBS | _THREE_METHODS
_POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do beyond the contract.

    Attributes:
        durable: what a verb has acknowledged survives the end of the process.
        multi_process: several processes may use one store at the same time. Where it is false, an owner in
            another process counts as dead, and leases are not renewed.
    """

    durable: bool = True
    multi_process: bool = True


class StateBackend(StateApi):
    """Where runs live: for each run a log of records, a head, a lease and the signals posted to it.

    A run's log only grows, by ``append``. Every verb is atomic: it takes effect as a whole and for good
    before it returns, or not at all, however the process ends. ``now`` is always an argument: a verb
    never reads a clock. Verbs may be awaited concurrently and from several event loops in several threads
    (leases are renewed from a thread of their own). A cancelled verb leaves the store usable; its write may
    or may not have happened.

    A subclass implements all the verbs, or only ``save_state(run_id, state)``, ``load_state(run_id)`` and
    ``delete_state(run_id)`` over plain JSON dictionaries. The verbs are then derived from these three, for
    one process at a time. The state API is derived from the verbs; in a class with the three methods these three names
    are the author's own, and mean the medium.

    A backend works entered (``async with``) or not, can be shared between runtimes and entered again.

    Every verb raises ``BackendError``, with the driver's error as its ``__cause__``, when the store fails.

    Attributes:
        capabilities: what it can do.
        clock: what time it is, for the state API; tests give it a ``VirtualClock``.
    """

    capabilities: ClassVar[Capabilities] = Capabilities()
    clock: Clock = SystemClock()
    _has_three_methods: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = frozenset(name for name in _ALL if getattr(cls, name) is not getattr(StateBackend, name))
        if own >= VERBS:
            return
        if not own >= _THREE_METHODS:
            missing = ", ".join(sorted(VERBS - own))
            raise TypeError(
                f"{cls.__name__} is no backend yet: it lacks {missing}; "
                f"implement these, or save_state, load_state and delete_state"
            )
        cls._has_three_methods = True
        if "capabilities" not in vars(cls):
            cls.capabilities = Capabilities(multi_process=False)

    async def create_run(self, run: NewRun, *, owner: str | None = None, ttl: timedelta = timedelta(0)) -> Lease | None:
        """Create a run with its head and its first records, and lease it to ``owner`` if one is given.

        Args:
            run: ``run.summary.created_at`` is the present moment; ``run.summary.last_seq`` is the ``seq`` of the last
                record. A log that continues that of another run shares it by reference: nothing is copied, and
                deleting the other run takes nothing away from this one. Signals and a snapshot of the other run are
                not shared. ``run.signals`` count as posted to it, in the same write.
            owner: who gets the lease, with token 1 and ``summary.attempts`` 1; ``None`` leaves the run to be
                claimed.
            ttl: how long the lease lasts.

        Raises:
            RunExists: the ``run_id`` is taken; nothing was written. Goes before the two below where both are true.
            RunNotFound: there is no run ``run.prefix.run_id``; nothing was written.
            SequenceConflict: the log of that run ends before ``run.prefix.last_seq``, or that record has another hash,
                since the run was deleted and created anew; nothing was written.
        """
        return await self._documents().create_run(run, owner=owner, ttl=ttl)

    def begin_create(
        self, run: NewRun, *, owner: str | None = None, ttl: timedelta = timedelta(0)
    ) -> Pending[Lease | None]:
        """Begin what ``create_run`` does; the outcome is there when the run is durable.

        Only called in an event loop. A store that has no use for a task of its own may override this as well.
        """
        return begin(self.create_run(run, owner=owner, ttl=ttl))

    async def load(self, run_id: str, *, until: int | None = None, from_snapshot: bool = False) -> StoredRun | None:
        """Return all that is stored of a run, read at one instant; ``None`` if there is no such run.

        The bodies come back byte for byte. The number of queries does not grow with the log.

        Args:
            run_id: the run.
            until: leave out the records after this ``seq``; the head is that of the whole log.
            from_snapshot: leave out the records that the run's snapshot stands for, unless it goes beyond ``until``.
        """
        return await self._documents().load(run_id, until=until, from_snapshot=from_snapshot)

    async def append(
        self,
        lease: Lease,
        records: Sequence[Record],
        *,
        expected_seq: int,
        update: RunUpdate,
        blobs: Sequence[Blob] = (),
    ) -> int:
        """Append records to a run's log and update its head, all or nothing; return the new last ``seq``.

        An ``update`` to a resting status (``paused`` or terminal) also gives up the lease, in the same write.

        Args:
            lease: proof of ownership; its token is compared *inside* the write. A lease that has expired but
                that nobody else has claimed still counts.
            records: one or more, ``seq`` from ``expected_seq + 1``.
            expected_seq: the last ``seq`` that the caller has seen; compared inside the write.
            update: the head after these records; what is ``None`` in its ``change`` becomes ``None``, except for what
                ``HeadChange`` says that it leaves.
            blobs: what the records name and no earlier record of this log does; one that the store has already, for
                this run or another, is not stored again. It stays as long as a log that was given it, or a fork that
                shares the first of these records.

        Raises:
            StaleLease: somebody else has claimed the run since, or it was released or deleted: stop at once.
                Goes before ``SequenceConflict`` where both are true.
            SequenceConflict: the log moved on: load again, then decide again.
        """
        return await self._documents().append(lease, records, expected_seq=expected_seq, update=update, blobs=blobs)

    def begin_append(
        self,
        lease: Lease,
        records: Sequence[Record],
        *,
        expected_seq: int,
        update: RunUpdate,
        blobs: Sequence[Blob] = (),
    ) -> Pending[int]:
        """Begin what ``append`` does; the outcome is there when the records are durable.

        Only called in an event loop. A store that has no use for a task of its own may override this as well.
        """
        return begin(self.append(lease, records, expected_seq=expected_seq, update=update, blobs=blobs))

    async def claim(self, owner: str, *, now: datetime, ttl: timedelta, query: ClaimQuery = ANY_RUN) -> list[Lease]:
        """Lease runs to ``owner`` and return the leases; each run goes to one claimant.

        A run can be claimed if it is in one of ``query.statuses``, and its lease is free: it has none, or
        it has expired (``expires_at <= now``), or it belongs to one of ``query.dead_owners``.

        A run asked for by ``run_id`` can be claimed at any time. Of the others, those with a ``wake_at`` wait until it
        has come, unless they have unread signals (``signals > signals_read``); a paused run can be claimed only
        once one of the two is true. Higher priority goes first, then the older run (``created_at``, then
        ``run_id``).

        A claim counts an attempt in the head, whose number is also the lease's token, and leaves ``wake_at`` as it
        is: whoever claims and dies has not woken the run. A run that was deleted and created again starts anew, so
        leases are compared by token and owner.
        """
        return await self._documents().claim(owner, now=now, ttl=ttl, query=query)

    async def next_due(self, query: ClaimQuery) -> datetime | None:
        """Return the moment from which a claim for ``query`` finds a run; ``None`` if none is in sight.

        That is the earliest, over the runs that match ``query``, of the later of the run's ``wake_at`` and its lease's
        ``expires_at``. A run that need not wait for its ``wake_at`` counts with its ``updated_at`` instead: because it
        has none, or has unread signals, or is asked for by ``run_id``.
        """
        return await self._documents().next_due(query)

    async def renew(self, leases: Sequence[Lease], *, now: datetime, ttl: timedelta) -> list[Lease]:
        """Let leases last until ``now + ttl`` and return them renewed.

        A lease whose token is no longer the run's is left out of the answer: it is lost.
        """
        return await self._documents().renew(leases, now=now, ttl=ttl)

    async def release(
        self,
        lease: Lease,
        *,
        wake_at: datetime | None = None,
        signals_read: int | None = None,
        waiting_for: Sequence[Waiting] | None = None,
    ) -> None:
        """Give up a lease, so that the run can be claimed at once, or from ``wake_at`` on.

        A lease that is no longer the run's is left alone: the run belongs to somebody else.

        Args:
            lease: what to give up.
            wake_at: when the run wants to be claimed next, unless a signal comes before.
            signals_read: how many of its signals the owner has read; ``None`` leaves what the head has. Compared
                with what was posted at this instant, so that no signal slips through between reading and sleeping.
            waiting_for: what the run waits for, if it is to be ``paused`` without a fact in its log.
        """
        await self._documents().release(lease, wake_at=wake_at, signals_read=signals_read, waiting_for=waiting_for)

    async def post(self, signal: Signal) -> Signal:
        """Keep a signal for its run; it comes back from ``load`` in the order of posting.

        The head counts it. Posting the same ``signal_id`` to the same run again changes nothing.

        Returns:
            The signal that the run has under this id: this one, or the one that was posted first.

        Raises:
            RunNotFound: there is no such run.
        """
        return await self._documents().post(signal)

    async def read_signals(self, known: Mapping[str, int]) -> list[Signal]:
        """Return the signals of some runs, those of one run in the order of posting.

        Args:
            known: the runs, and how many signals of each the caller has, which are left out. However many these are,
                reading the others takes no longer.
        """
        return await self._documents().read_signals(known)

    async def query_runs(self, query: RunQuery) -> list[RunSummary]:
        """Return the heads of the runs that match, newest ``created_at`` first, ties by ascending ``run_id``.

        Filters apply before ``offset`` and ``limit``.
        """
        return await self._documents().query_runs(query)

    async def every_run(self, query: RunQuery) -> AsyncIterator[RunSummary]:
        """Yield the heads of all runs that match, in the order of listings; ``limit`` and ``offset`` do not count.

        A run that comes or goes meanwhile makes it neither miss another nor yield one twice. It asks for all at once,
        which suits a store that looks at all its runs for any question; one with an index reads some at a time.
        """
        pace = Pace.here()
        for head in await self.query_runs(replace(query, limit=None, offset=0)):
            if pace.is_over:
                await pace.turn()
            yield head

    async def read_events(self, run_id: str, *, after: int = 0, limit: int | None = None) -> list[Record]:
        """Return the records of a run with ``seq`` above ``after``, in order; empty if there is no such run."""
        return await self._documents().read_events(run_id, after=after, limit=limit)

    async def read_audit(self, query: AuditQuery) -> list[AuditEvent]:
        """Return the lines of the audit log that match, the newest first, ties by ascending ``run_id``.

        They are made of the logs, and go with them. What a fork shares is told of its source only. A store whose runs
        are many does not read all their logs for that.
        """
        ids = [head.run_id for head in await self.query_runs(RunQuery(run_id=query.run_id))]
        events: list[AuditEvent] = []
        for run_id in ids:
            events += own_events(run_id, await self.read_events(run_id))
        asked = newest_first(event for event in events if query.asks_for(event))
        return page(asked, query.limit, query.offset)

    async def read_blobs(self, run_id: str, digests: Collection[str]) -> dict[str, bytes]:
        """Return the data of the blobs that the log of a run was given, shared prefix included, by digest.

        What this log was not given is left out, even if another run has it. Whether a fork sees what its source was
        given after the shared prefix is left open. Empty if there is no such run.
        """
        return await self._documents().read_blobs(run_id, digests)

    async def put_snapshot(self, lease: Lease, snapshot: Snapshot) -> None:
        """Keep the snapshot of a run, in place of the one before; it goes with the run, and a fork begins without one.

        Nothing happens if the lease is no longer the run's, or the log has no such ``seq``: a snapshot only saves time.
        """
        await self._documents().put_snapshot(lease, snapshot)

    async def delete_run(self, run_id: str) -> None:
        """Remove a run with all that belongs to it, entries included. What does not exist is no error.

        What forks share of its log stays for them, and goes with the last of them; so do blobs.
        Whoever holds its lease learns of it by ``StaleLease``.

        Raises:
            InvalidArgument: no run can have this id.
        """
        await self._documents().delete_run(run_id)

    async def put_entries(self, entries: Sequence[Entry], *, instead_of: EntryKind | None = None) -> None:
        """Keep entries beside the runs, all of them or none.

        An entry of the same ``run_id``, ``kind`` and ``key`` is replaced; its ``created_at`` stays. The runs need not
        exist. No log, head or lease changes.

        Args:
            entries: what to keep; of several with the same three the last one counts.
            instead_of: all other entries of this kind that the runs of ``entries`` have go, in the same write.

        Raises:
            SerializationError: a body holds something that is not plain JSON.
        """
        await self._documents().put_entries(entries, instead_of=instead_of)

    async def read_entries(self, query: EntryQuery) -> list[Entry]:
        """Return the entries that match, newest ``created_at`` first, ties by ascending ``run_id``, ``kind``, ``key``.

        Filters apply before ``offset`` and ``limit``. The bodies are copies of the caller's own.
        """
        return await self._documents().read_entries(query)

    async def set_system_state(self, key: str, value: Mapping[str, Any]) -> None:
        """Keep a JSON object under a key, beside the runs; replaces what was there.

        Raises:
            InvalidArgument: the key is empty, or holds NUL or a lone surrogate.
            SerializationError: the value holds something that is not plain JSON.
        """
        await self._documents().set_system_state(key, value)

    async def get_system_state(self, key: str) -> dict[str, Any] | None:
        """Return what is kept under a key, as a copy of the caller's own; ``None`` if nothing is.

        Raises:
            InvalidArgument: as in ``set_system_state``.
        """
        return await self._documents().get_system_state(key)

    async def wait_for_work(self, run_id: str | None = None, *, timeout: float) -> None:
        """Return soon after something in the store may have changed, after ``timeout`` seconds at the latest.

        A hint, not a promise: it may return early for nothing, or miss a change. Callers look again.

        Args:
            run_id: the run that the caller is interested in; ``None`` is any.
            timeout: seconds of real time.
        """
        await anyio.sleep(min(timeout, _POLL_SECONDS))

    async def backup(self, target: Path) -> None:
        """Write a copy of the store, all that was acknowledged before, while others use it.

        The copy is complete once it is there: it appears under its name in one step, durably.

        Args:
            target: where to; nothing is there yet. What is written is a store of the same kind.

        Raises:
            InvalidArgument: something is there already.
            BackendError: this kind of store cannot be copied, or the copy failed; nothing is left behind.
        """
        raise BackendError(f"{type(self).__name__} has no backup of its own: export its runs one by one")

    async def compact(self) -> None:
        """Give back the space of what was deleted; may take long, and can be interrupted at any time."""

    async def schema_version(self) -> SchemaVersion | None:
        """Return the version of what is stored, and change nothing; ``None`` if there has been only one.

        Raises:
            SchemaTooNew: a newer version of this package has written it.
        """
        return None

    async def upgrade(self) -> None:
        """Bring what is stored to the newest version, whole or not at all, while nobody else can write.

        Every verb that opens a store does the same: this one does nothing else. Nothing happens where nothing is stored
        yet, or where all is as it should be.

        Raises:
            SchemaTooNew: a newer version of this package has written it.
        """

    async def report(self, *, is_quick: bool = False) -> StoreReport:
        """Return how large the store is and whether it is sound, and change nothing; logs are not looked into.

        Args:
            is_quick: leave out what reads all that is stored.
        """
        return StoreReport(schema=await self.schema_version())

    async def shutdown(self) -> None:
        """Give back threads, files and connections. May be called again; the next verb opens them anew."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.shutdown()

    def _documents(self) -> DocumentRuns:
        # Made on first use, since a three-method class need not call super().__init__().
        runs = self.__dict__.get("_document_runs")
        if runs is None:
            assert self._has_three_methods
            runs = self.__dict__["_document_runs"] = DocumentRuns(self)
        return runs
