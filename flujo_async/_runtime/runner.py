"""Runs of one runtime: started, taken up, attached to, and driven until they rest."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, TypeAlias

from flujo_async._log.delta import same
from flujo_async._log.fold import Fold
from flujo_async._model.lease import ClaimQuery, Lease
from flujo_async._model.policy import Durability, Retention
from flujo_async._model.result import RunResult
from flujo_async._model.state import RESTING, TERMINAL
from flujo_async._model.stored import RunQuery, Signal
from flujo_async._model.text import is_text
from flujo_async._model.transition import is_held, lost, missing
from flujo_async._model.tree import Json
from flujo_async._plan.nodes import Child
from flujo_async._runtime.admission import Admission
from flujo_async._runtime.bound_loop import BoundLoop
from flujo_async._runtime.drive import Drive
from flujo_async._runtime.drive_setup import DriveSetup, Ready
from flujo_async._runtime.driven_runs import nudge, waiting_for
from flujo_async._runtime.execution import ChildCall, Ended, Execution, Value
from flujo_async._runtime.inbox import number_of
from flujo_async._runtime.lease_keeper import LeaseKeeper
from flujo_async._runtime.misread import reading
from flujo_async._runtime.owner import Owner
from flujo_async._runtime.program import Catalogue, failure_of
from flujo_async._runtime.reader import Reader, Seen
from flujo_async._runtime.request import Request
from flujo_async._runtime.retention import Sweeper
from flujo_async._runtime.scheduler import Scheduler
from flujo_async._runtime.services import Services
from flujo_async._runtime.taking import Taking, cause_of
from flujo_async._runtime.waits import CANCEL, CHILD_RESTED, PARENT, Park, code_wait
from flujo_async.abc.backend import StateBackend
from flujo_async.abc.clock import Clock
from flujo_async.abc.shield import finish, settle
from flujo_async.errors import (
    DeserializationError,
    InvalidArgument,
    NonDeterminismError,
    RunCancelled,
    RunConflict,
    RunFailed,
    RunNotFound,
    StaleLease,
)

_log: Final = logging.getLogger("flujo_async")
_A_SECOND: Final = timedelta(seconds=1)
_FOR_EVER: Final = timedelta(days=100 * 365)

Find: TypeAlias = Callable[[Request, str], Awaitable[Ready | Fold | None]]


class Runner:
    """Does what a ``Flujo`` is asked to do."""

    def __init__(  # noqa: PLR0913 -- keyword-only options of a runtime
        self,
        backend: StateBackend,
        catalogue: Catalogue,
        clock: Clock,
        *,
        lease_ttl: timedelta,
        services: Services,
        max_concurrency: int | None,
        is_recovering: bool,
        durability: Durability = "sync",
        always_replay: bool = False,
        retention: Retention | None = None,
    ) -> None:
        self.backend = backend
        self.catalogue = catalogue
        self.clock = clock
        self.bound_loop: BoundLoop = BoundLoop()
        self.reader: Reader = Reader(backend, catalogue, clock)
        keeper = LeaseKeeper(backend, clock, lease_ttl)
        if not backend.capabilities.multi_process:
            lease_ttl = max(lease_ttl, _FOR_EVER)  # all owners are in this process, and known to be alive or not
        self.taking: Taking = Taking(backend, catalogue, clock, lease_ttl, self.reader, services.instruments)
        self.sweeper: Sweeper = Sweeper(backend, catalogue, clock, self.taking, retention)
        self.ttl = lease_ttl
        self.services = services
        self._setup = DriveSetup(backend, clock, keeper, services, durability, always_replay)
        self.max_concurrency: int | None = max_concurrency
        self._admission = Admission(max_concurrency)
        self._dead: frozenset[str] = frozenset()
        self._dead_until = clock.now()
        self._background: dict[str, set[asyncio.Task[None]]] = {}
        self.scheduler: Scheduler = Scheduler(
            self, self._orphans if is_recovering else self._due_runs, is_lasting=is_recovering
        )

    async def complete(self, request: Request, exists: Callable[[], None] = lambda: None) -> RunResult[Any]:
        """Start a run or take it up, and return when it rests, whoever drives it.

        Args:
            request: what is asked for.
            exists: called as soon as the run is in the store.

        Raises:
            RunFailed: it failed.
            RunCancelled: it was cancelled.
            InvalidArgument: it would wait for itself.
        """
        find = self.taking.prepare
        while True:
            rested = await self._once(request, find, exists)
            if isinstance(rested, RunResult):
                return rested
            find = self.taking.prepare_again
            # One that is urgent is about to be ended, and what waits for it with it.
            with nullcontext() if request.is_urgent else waiting_for(request.run_id, self.backend):
                await self.reader.watch(request.run_id, self.taking.is_free)

    async def advance(self, request: Request, exists: Callable[[], None] = lambda: None) -> None:
        """Do as ``complete``, and leave a run that leaves memory to the scheduler."""
        find = self.taking.prepare
        while (rested := await self._once(request, find, exists)) is None:
            head = await self.reader.summary(request.run_id)
            if head is None or self.taking.sleeps(head):
                break
            find = self.taking.prepare_again
            await self.reader.watch(request.run_id, self.taking.is_free)
        if isinstance(rested, Park):
            self.scheduler.expect(rested.wake_at)
        elif rested is None or rested.status == "paused":
            self.scheduler.kick()

    async def _once(self, request: Request, find: Find, exists: Callable[[], None]) -> RunResult[Any] | Park | None:
        """Start a run or take it up, and drive it once.

        Returns:
            What it left, or how it left memory; ``None`` if it is with somebody else, or sleeps.
        """
        place: AbstractAsyncContextManager[None] = nullcontext()
        if not request.is_urgent and not (self._admission.is_full and await self._has_no_use(request, find, exists)):
            place = self._admission.slot(request.run_id, request.priority)
        with self.bound_loop.at_work(), Owner.at_work() as owner, suppress(StaleLease):  # who has it is attached to
            async with place:
                found = await find(request, str(owner))
                exists()
                if isinstance(found, Fold):
                    return self.outcome(found, is_old=True)
                if found is not None:
                    return await self.drive(found)
        return None

    async def _has_no_use(self, request: Request, find: Find, exists: Callable[[], None]) -> bool:
        """Return whether a run rests, or somebody else drives it; it is in the store when this returns."""
        self.bound_loop.check()
        may_begin = find == self.taking.prepare and not request.is_known
        seen = await (self.taking.ensure(request) if may_begin else self.reader.see(request.run_id))
        exists()
        if seen is None:
            return False
        is_elsewhere = seen.summary.lease is not None and not self.taking.is_free(seen.summary)
        return is_elsewhere or not self.taking.goes_on(request, seen)

    async def recover(self) -> list[str]:
        """Drive every run whose owner is gone, once, and return their ids."""
        recovered: list[str] = []
        with self.bound_loop.at_work(), Owner.at_work() as owner:
            queries = [replace(query, limit=100) for query in await self._orphans()]
            for query in queries:
                while leases := await self.scheduler.claim(str(owner), query):
                    recovered += await self.scheduler.drive_all(leases)
            await self.scheduler.strangers.look(queries)
        self.scheduler.kick()
        return recovered

    async def launch(self, request: Request, *, is_followed: bool = False) -> asyncio.Task[None]:
        """Drive a run in the background; it is in the store when this returns.

        Args:
            request: what is asked for.
            is_followed: whether the task goes on until the run rests, or only until it leaves memory.

        Returns:
            The task; it ends with the exception of a store that failed.
        """
        self.bound_loop.check()
        exists = asyncio.Event()
        work = self._work_quietly(request, exists, is_followed=is_followed)
        task = asyncio.create_task(work, name=f"flujo run {request.run_id}")
        tasks = self._background.setdefault(request.run_id, set())
        tasks.difference_update([former for former in tasks if former.done()])
        tasks.add(task)
        task.add_done_callback(partial(self._is_done, request.run_id))
        task.add_done_callback(lambda _: exists.set())
        try:
            await exists.wait()
        except asyncio.CancelledError:
            await self.interrupt(task)
            raise
        if task.done():
            self._forget(request.run_id, task)
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
            InvalidArgument: it would wait for itself.
        """
        with waiting_for(run_id, self.backend):
            return await self._rested(run_id)

    async def _rested(self, run_id: str) -> RunResult[Any]:
        for task in list(self._background.get(run_id, ())):
            head = await self.reader.watch(run_id, lambda head: head.status in RESTING, task)
            has_gone_on = head is not None and head.status in RESTING  # whatever has become of the task
            if task.done() and not (task.cancelled() or has_gone_on):  # who interrupts it, only interrupts the run
                task.result()
        while True:
            if await self.reader.watch(run_id, lambda head: head.status in RESTING) is None:
                raise missing(run_id)
            seen = await self.reader.see(run_id)
            if seen.fold.status not in RESTING:
                continue  # somebody has just gone on with it
            if seen.fold.status in TERMINAL or not seen.is_due(self.clock.now()):
                return self.outcome(seen.fold)
            # It has its answer, and somebody is about to go on with it.
            last_seq = seen.summary.last_seq
            await self.reader.watch(run_id, lambda head: head.last_seq != last_seq)  # noqa: B023 -- awaited here

    async def drive(self, ready: Ready) -> RunResult[Any] | Park:
        """Drive a run that this runtime has the lease of; return what it left, or how it left memory."""
        drive = Drive(ready, self._setup, self)
        fold = await drive.run()
        if fold.status in TERMINAL:
            self.sweeper.kick()
        if drive.parked is not None and not drive.parked.is_paused:
            return drive.parked
        return self.outcome(fold, drive.error)

    def outcome(self, fold: Fold, error: Exception | None = None, *, is_old: bool = False) -> RunResult[Any]:
        """Return what a run at rest left; ``error`` is the live exception that failed it, if it is at hand.

        Raises:
            RunFailed: it failed.
            RunCancelled: it was cancelled.
        """
        result = self.catalogue.reading(fold).result(fold, error)
        if fold.status == "failed":
            raise failure_of(fold, result, is_old=is_old) from result.error
        if fold.status == "cancelled":
            raise RunCancelled(f"run {fold.run_id!r} was cancelled: {fold.reason}", result=result)
        return result

    def learn(self, node: Child) -> None:
        """Know the definition of a child from now on; see ``Children``."""
        self.catalogue.of_child(node)

    async def complete_child(self, call: ChildCall, run_id: str) -> Ended | Park:
        """Drive a child until it ends or leaves memory; see ``Children``."""
        program = self.catalogue.of_child(call.node)
        execution = call.execution
        with reading():
            given = program.codec.decode(call.value.tree, at=f"{run_id}.input")
        request = Request(run_id=run_id, input=given, parent_run_id=execution.run_id)
        while True:
            with Owner.at_work() as owner, suppress(StaleLease, RunNotFound):  # the latter: deleted in between
                found: Ready | Fold | None = await self.taking.create(request, str(owner), program)
                if found is None:
                    await self._ask_to_be_told(execution.run_id, run_id)
                    found = await self.taking.prepare_again(request, str(owner))
                rested = await self._rest_of_child(found, execution.run_id)
                if rested is not None:
                    return rested
            head = await self.reader.summary(run_id)
            if head is not None and not self.taking.is_free(head) and head.lease is None:
                return Park((), head.wake_at, is_paused=False)  # it sleeps
            # It may be here, and wait for the place that its parent has.
            with waiting_for(run_id, self.backend), self._admission.letting_in(run_id):
                await self.reader.watch(run_id, lambda head: head.lease is None or self.taking.is_free(head))
            await self._check_held(execution.held.lease)  # else the parent is being deleted with the child

    async def _check_held(self, lease: Lease) -> None:
        """Check that nobody has taken a run away, or deleted it.

        Raises:
            StaleLease: somebody has.
        """
        head = await self.reader.summary(lease.run_id)
        if head is None or not is_held(head, lease):
            raise lost(lease)

    async def _ask_to_be_told(self, parent_run_id: str, run_id: str) -> None:
        """Let a child tell a parent that has not started it; asked for before the parent looks at the child."""
        head = await self.reader.summary(run_id)
        if head is not None and head.parent_run_id != parent_run_id and head.status not in TERMINAL:
            now = self.clock.now()
            await self.backend.post(Signal(run_id, f"{PARENT}#{parent_run_id}", PARENT, parent_run_id, now))

    async def _rest_of_child(self, found: Ready | Fold | None, parent_run_id: str) -> Ended | Park | None:
        if found is None:
            return None
        fold, error = found, None
        if isinstance(found, Ready):
            drive = Drive(found, self._setup, self, driven_by=parent_run_id)
            try:
                fold, error = await drive.run(), drive.error
            except (DeserializationError, NonDeterminismError) as trouble:
                needed = code_wait(found.fold, trouble, self.clock.now())
                return Park(((replace(needed, run_id=found.fold.run_id), found.fold.run_id),), None, is_paused=True)
            if drive.parked is not None and not drive.parked.is_paused:
                return drive.parked
        assert isinstance(fold, Fold)
        self.outcome(fold, error)
        if fold.status == "paused":
            waiting = tuple(replace(item, run_id=item.run_id or fold.run_id) for item in fold.waiting_for)
            if fold.wake_at is None:  # it was paused, so that no deadline wakes it, nor the runs above
                waiting = tuple(replace(item, deadline=None) for item in waiting)
            return Park(tuple((each, fold.run_id) for each in waiting), fold.wake_at, is_paused=True)
        return Ended(fold.output, fold.usage)

    async def given(self, call: ChildCall, run_id: str) -> Value:
        """Return what a child was given; see ``Children``."""
        seen = await self.reader.look(run_id)
        if seen is None or seen.summary.parent_run_id != call.execution.run_id:
            return call.value
        given = seen.fold.started.input
        return call.value if same(given, call.value.tree) else Value(given)

    async def cancel(self, run_id: str, reason: str) -> None:
        """Cancel a run, and return when it has ended; see ``Flujo.cancel``."""
        self.bound_loop.check()
        if not is_text(reason):
            raise InvalidArgument(f"cancel(): reason is a text, not {reason!r}")
        seen = await self.reader.see(run_id)
        if seen.fold.status in TERMINAL:
            return
        await self.post_control(seen, CANCEL, reason)
        with self._admission.letting_in(run_id), suppress(RunCancelled, RunFailed):
            await self.complete(Request(run_id=run_id, is_urgent=True, is_known=True))

    async def post_control(self, seen: Seen, name: str, payload: Json) -> None:
        """Post one of the runtime's own signals to a run, and tell whoever drives it here."""
        run_id = seen.summary.run_id
        number = max((number_of(signal) for signal in seen.signals if signal.name == name), default=0) + 1
        await self.backend.post(Signal(run_id, f"{name}#{number}", name, payload, self.clock.now()))
        nudge(run_id)

    async def tell_parents(self, parents: Iterable[str], run_id: str) -> None:
        """Wake the runs above one that has news: the nearest may have to drive it."""
        for parent_run_id in parents:
            await self._tell_upwards(parent_run_id, run_id)

    async def _tell_upwards(self, parent_run_id: str | None, run_id: str) -> None:
        while parent_run_id is not None:
            now = self.clock.now()
            with suppress(RunNotFound):  # a parent may be deleted
                await self.backend.post(
                    Signal(parent_run_id, f"{CHILD_RESTED}#{uuid.uuid4().hex}", CHILD_RESTED, run_id, now)
                )
            nudge(parent_run_id)
            summary = await self.reader.summary(parent_run_id)
            run_id, parent_run_id = parent_run_id, None if summary is None else summary.parent_run_id
            self.scheduler.kick()

    async def cancel_children(self, execution: Execution, children: Iterable[str], reason: str) -> None:
        """Cancel all that runs below a run, leaves first; see ``Children``."""
        for child in children:
            head = await self.reader.summary(child)
            if head is not None and head.parent_run_id == execution.run_id and head.status not in TERMINAL:
                await self._check_held(execution.held.lease)  # a run is deleted before its children are
                with suppress(RunNotFound):  # deleted by itself
                    await self.cancel(child, reason)

    async def drive_claimed(self, lease: Lease) -> None:
        """Drive a run that was claimed, once; see ``Driver``."""
        async with AsyncExitStack() as stack:
            try:
                seen, now = await self.reader.look(lease.run_id), self.clock.now()
                if seen is None:  # it was deleted meanwhile
                    raise lost(lease)
                if seen.fold.status == "paused" and not seen.is_due(now):
                    await self._let_rest(lease, seen, now)
                    return
                is_late = self._admission.is_full
                await stack.enter_async_context(self._admission.slot(lease.run_id, seen.summary.priority))
                if is_late and not await self.backend.renew([lease], now=self.clock.now(), ttl=self.ttl):
                    raise StaleLease(f"run {lease.run_id!r}: somebody has claimed it before its turn came here")
            except BaseException:
                await finish(self.taking.give_back(lease))
                raise
            await self.drive(await self.taking.ready(lease, seen, cause=cause_of(seen.summary)))

    async def _let_rest(self, lease: Lease, seen: Seen, now: datetime) -> None:
        """Let go a paused run that has news, but none that it waits for, and that was not due ``now``."""
        moment = seen.fold.wake_at
        wake_at = None if moment is None or moment <= now else moment
        await self.backend.release(lease, wake_at=wake_at, signals_read=len(seen.signals))

    async def put_off(self, run_id: str, until: datetime) -> None:
        """Let a run that cannot be driven here wait until a moment; see ``Driver``."""
        with Owner.at_work() as owner:
            lease = await self.taking.claim(run_id, str(owner))  # before anybody takes it up once more
            if lease is not None:
                head = await self.reader.summary(run_id)
                signals_read = None if head is None else head.signals
                await self.backend.release(lease, wake_at=until, signals_read=signals_read)

    async def aclose(self) -> None:
        """Interrupt the runs in the background; they can be resumed."""
        await self.scheduler.aclose()
        tasks = [task for tasks in self._background.values() for task in tasks]
        for task in tasks:
            task.cancel()
        for task in tasks:
            await settle(task)
        self._background.clear()
        await self.sweeper.aclose()
        await self._setup.services.aclose()
        await self._setup.keeper.aclose()

    async def _due_runs(self) -> list[ClaimQuery]:
        """Ask for the runs that have left memory and want to go on."""
        return [
            replace(
                self.catalogue.claim_query(),
                statuses=frozenset({"running", "paused"}),
                queues=frozenset({""}),
                is_due=True,
                dead_owners=await self.dead_owners(),
            )
        ]

    async def _orphans(self) -> list[ClaimQuery]:
        """Ask for the runs that nobody drives, and should."""
        any_of_these = replace(self.catalogue.claim_query(), dead_owners=await self.dead_owners())
        running = replace(any_of_these, statuses=frozenset({"running", "paused"}))
        return [running, replace(running, statuses=frozenset({"pending"}), queues=frozenset({""}))]

    async def dead_owners(self) -> frozenset[str]:
        """Return the owners of leases that are known to have ended; looked up once a second at most."""
        now = self.clock.now()
        if now < self._dead_until <= now + _A_SECOND:  # further away it is only after the clock was set back
            return self._dead
        self._dead_until = now + _A_SECOND
        leased = await self.backend.query_runs(RunQuery(is_leased=True))
        leases = {head.lease.owner: head.lease for head in leased if head.lease is not None}
        self._dead = frozenset(owner for owner, lease in leases.items() if self.taking.is_dead(lease))
        return self._dead

    async def _work_quietly(self, request: Request, exists: asyncio.Event, *, is_followed: bool) -> None:
        """Drive a run whose outcome is read from the store."""
        try:
            with suppress(RunFailed, RunCancelled):
                await (self.complete if is_followed else self.advance)(request, exists.set)
        except (RunNotFound, RunConflict):
            if not exists.is_set():  # else it was deleted, and there may be another one of its name
                raise
        except Exception as error:  # told, and raised to whoever waits for the task
            if exists.is_set():  # else it reaches the caller of launch()
                _log.error("run %r could not go on: %r", request.run_id, error)
            raise

    def _is_done(self, run_id: str, task: asyncio.Task[None]) -> None:
        # One that failed is kept for whoever asks for the result.
        if task.cancelled() or task.exception() is None:
            self._forget(run_id, task)

    def _forget(self, run_id: str, task: asyncio.Task[None]) -> None:
        tasks = self._background.get(run_id, set())
        tasks.discard(task)
        if not tasks:
            self._background.pop(run_id, None)
