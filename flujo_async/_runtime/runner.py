"""Runs of one runtime: started, taken up, attached to, and driven until they rest."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

import anyio

from flujo_async._log.chain import GENESIS, seal, verify
from flujo_async._log.fold import Fold
from flujo_async._model.facts import Fact, RunResumed
from flujo_async._model.ids import check_run_id
from flujo_async._model.lease import ClaimQuery, Lease
from flujo_async._model.result import RunResult
from flujo_async._model.state import RESTING
from flujo_async._model.stored import NewRun
from flujo_async._model.summary import RunSummary
from flujo_async._runtime.drive import Drive
from flujo_async._runtime.execution import Execution
from flujo_async._runtime.journal import Journal
from flujo_async._runtime.lease_keeper import LeaseKeeper
from flujo_async._runtime.owner import Owner
from flujo_async._runtime.program import Catalogue, Program
from flujo_async._runtime.reader import Reader
from flujo_async._runtime.request import Request
from flujo_async.abc.backend import StateBackend
from flujo_async.abc.clock import Clock
from flujo_async.abc.shield import acquire, finish, settle
from flujo_async.errors import RunCancelled, RunExists, RunFailed, RunNotFound, StaleLease, VersionMismatch

_log: Final = logging.getLogger("flujo_async")
_THREADS: Final = 32
"""How many steps of one runtime may use threads at the same time."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A run that this runtime has the lease of, ready to be driven.

    Attributes:
        first: facts that go into its next commit.
    """

    lease: Lease
    fold: Fold
    program: Program
    first: tuple[Fact, ...] = ()


class Runner:
    """Does what a ``Flujo`` is asked to do."""

    def __init__(self, backend: StateBackend, catalogue: Catalogue, clock: Clock, lease_ttl: timedelta) -> None:
        self.reader: Reader = Reader(backend, catalogue)
        self._backend = backend
        self._catalogue = catalogue
        self._clock = clock
        self._ttl = lease_ttl
        self._keeper = LeaseKeeper(backend, clock, lease_ttl)
        self._threads: anyio.CapacityLimiter | None = None
        self._background: dict[asyncio.Task[None], str] = {}

    async def complete(self, request: Request, exists: Callable[[], None] = lambda: None) -> RunResult[Any]:
        """Start a run or take it up, and return when it rests, whoever drives it.

        Args:
            request: what is asked for.
            exists: called as soon as the run is in the store.

        Raises:
            RunFailed: it failed.
            RunCancelled: it was cancelled.
        """
        find = self._prepare
        while True:
            with Owner.at_work() as owner, suppress(StaleLease):  # whoever has it now is attached to
                found = await find(request, str(owner))
                exists()
                if isinstance(found, Fold):
                    return self._outcome(found)
                if found is not None:
                    return await self._drive(found)
            find = self._find_again
            await self._until_free(request.run_id)

    async def launch(self, request: Request) -> asyncio.Task[None]:
        """Do as ``complete`` in the background; the run is in the store when this returns.

        Returns:
            The task, which ends when the run rests, with the exception of a store that failed.
        """
        exists = asyncio.Event()
        task = asyncio.create_task(self._complete_quietly(request, exists), name=f"flujo run {request.run_id}")
        for former in self._tasks_of(request.run_id):
            if former.done():
                del self._background[former]
        self._background[task] = request.run_id
        task.add_done_callback(self._is_done)
        task.add_done_callback(lambda _: exists.set())
        try:
            await exists.wait()
        except asyncio.CancelledError:
            await self.interrupt(task)
            raise
        if task.done():
            self._background.pop(task, None)
            task.result()
        return task

    async def interrupt(self, task: asyncio.Task[None]) -> None:
        """End what ``launch`` began; a run that it drove can be resumed."""
        task.cancel()
        await settle(task)

    async def result(self, run_id: str) -> RunResult[Any]:
        """Wait until a run rests, and return what it left. Drives nothing.

        Raises:
            RunNotFound: there is no such run.
            RunFailed: it failed.
            RunCancelled: it was cancelled.
            BackendError: it was driven in the background here, and the store failed.
        """
        for task in self._tasks_of(run_id):
            await asyncio.wait({task})
            if not task.cancelled():  # an interruption of the run is none of who waits for it
                task.result()
        if await self.reader.watch(run_id, lambda head: head.status in RESTING) is None:
            raise RunNotFound(f"there is no run {run_id!r}", run_id=run_id)
        return self._outcome(await self.reader.get(run_id))

    async def aclose(self) -> None:
        """Interrupt the runs in the background; they can be resumed."""
        tasks = list(self._background)
        for task in tasks:
            task.cancel()
        for task in tasks:
            await settle(task)
        self._background.clear()

    async def _complete_quietly(self, request: Request, exists: asyncio.Event) -> None:
        """Complete a run whose outcome is read from the store."""
        try:
            with suppress(RunFailed, RunCancelled):
                await self.complete(request, exists.set)
        except Exception as error:  # told, and raised to whoever waits for the task
            if exists.is_set():  # else it reaches the caller of launch()
                _log.error("run %r could not go on: %r", request.run_id, error)
            raise

    def _tasks_of(self, run_id: str) -> list[asyncio.Task[None]]:
        return [task for task, theirs in self._background.items() if theirs == run_id]

    def _is_done(self, task: asyncio.Task[None]) -> None:
        # One that failed is kept for whoever asks for the result.
        if task.cancelled() or task.exception() is None:
            self._background.pop(task, None)

    async def _prepare(self, request: Request, owner: str) -> Ready | Fold | None:
        """Create the run that is asked for, or claim it if it exists and goes on.

        Returns:
            What to drive; or the state of a run at rest; or ``None`` if somebody else has the run.

        Raises:
            RunConflict: the run exists with another input or context.
            VersionMismatch: the run was recorded by another definition.
        """
        check_run_id(request.run_id)
        if request.input is not ... and (created := await self._create(request, owner)):
            return created
        fold = await self.reader.find(request.run_id)
        return await (self._create(request, owner) if fold is None else self._take_up(request, owner, fold))

    async def _find_again(self, request: Request, owner: str) -> Ready | Fold | None:
        """Claim a run that existed a moment ago; one that was deleted is not created again."""
        return await self._take_up(request, owner, await self.reader.get(request.run_id))

    async def _create(self, request: Request, owner: str) -> Ready | None:
        program = self._catalogue.current
        started = program.begin(request, self._clock.now())
        records = seal([started], after=0, prev_hash=GENESIS)
        fold = Fold(started)
        fold.apply(started, records[0])
        summary = RunSummary(
            run_id=request.run_id,
            pipeline_name=started.pipeline_name,
            pipeline_version=started.pipeline_version,
            status=fold.status,
            created_at=started.at,
            updated_at=started.at,
            last_seq=fold.seq,
            metadata=started.metadata,
        )
        new = NewRun(summary, tuple(records))
        with suppress(RunExists):
            lease = await acquire(self._backend.create_run(new, owner=owner, ttl=self._ttl), self._give_back)
            return None if lease is None else Ready(lease, fold, program)
        return None

    async def _take_up(self, request: Request, owner: str, fold: Fold) -> Ready | Fold | None:
        self._catalogue.reading(fold).check_same_request(request, fold)
        if fold.status in RESTING:
            return fold
        try:
            self._catalogue.running(fold)  # refused before it is claimed: a claim counts as an attempt
        except VersionMismatch:
            if await self._goes_on_elsewhere(request.run_id):
                return None  # nothing would execute here, so the definition does not matter
            raise
        lease = await acquire(self._claim(request.run_id, owner), self._give_back)
        if lease is None:
            return None
        try:
            return await self._ready(lease, fold)
        except BaseException:
            await finish(self._give_back(lease))
            raise

    async def _ready(self, lease: Lease, fold: Fold) -> Ready:
        """Return a claimed run, brought up to what was committed before the claim."""
        tail = await self._backend.read_events(fold.run_id, after=fold.seq)
        verify(fold.run_id, tail, after=fold.seq, prev_hash=fold.hash)
        fold.extend(tail)
        program = self._catalogue.running(fold)
        now = self._clock.now()
        resumed = RunResumed(at=now, owner=lease.owner)
        migrated = self._catalogue.migration(program, fold, now)
        return Ready(lease, fold, program, (resumed,) if migrated is None else (resumed, migrated))

    async def _claim(self, run_id: str, owner: str) -> Lease | None:
        query = ClaimQuery(run_id=run_id)
        leases = await self._backend.claim(owner, now=self._clock.now(), ttl=self._ttl, query=query)
        if leases:
            return leases[0]
        summary = await self.reader.summary(run_id)
        if summary is None or summary.lease is None or not self._is_dead(summary.lease):
            return None
        query = replace(query, dead_owners=frozenset({summary.lease.owner}))
        leases = await self._backend.claim(owner, now=self._clock.now(), ttl=self._ttl, query=query)
        return leases[0] if leases else None

    async def _give_back(self, lease: Lease | None) -> None:
        if lease is not None:
            await self._backend.release(lease)

    async def _drive(self, ready: Ready) -> RunResult[Any]:
        journal = Journal(self._backend, ready.lease, ready.fold)
        self._threads = self._threads or anyio.CapacityLimiter(_THREADS)
        execution = Execution(
            run_id=ready.fold.run_id,
            journal=journal,
            codec=ready.program.codec,
            contexts=ready.program.contexts,
            clock=self._clock,
            threads=self._threads,
        )
        drive = Drive(execution, ready.lease, self._backend, self._keeper)
        fold = await drive.run(ready.program.definition.pipeline, ready.first)
        return self._outcome(fold, drive.error)

    def _outcome(self, fold: Fold, error: Exception | None = None) -> RunResult[Any]:
        result = self._catalogue.reading(fold).result(fold, error)
        if fold.status == "failed":
            raise RunFailed(f"run {fold.run_id!r} failed: {fold.error_message}", result=result) from result.error
        if fold.status == "cancelled":
            raise RunCancelled(f"run {fold.run_id!r} was cancelled: {fold.reason}", result=result)
        return result

    async def _until_free(self, run_id: str) -> None:
        """Return when a run rests or waits for an executor, or is gone."""
        await self.reader.watch(run_id, lambda head: not self._is_held(head.lease))

    async def _goes_on_elsewhere(self, run_id: str) -> bool:
        """Return whether a run needs nobody to drive it."""
        summary = await self.reader.summary(run_id)
        return summary is None or summary.status in RESTING or self._is_held(summary.lease)

    def _is_held(self, lease: Lease | None) -> bool:
        return lease is not None and lease.expires_at > self._clock.now() and not self._is_dead(lease)

    def _is_dead(self, lease: Lease) -> bool:
        owner = Owner.parse(lease.owner)
        if owner is None:
            return False
        is_elsewhere = not self._backend.capabilities.multi_process and not owner.is_here()
        return is_elsewhere or owner.is_dead()
