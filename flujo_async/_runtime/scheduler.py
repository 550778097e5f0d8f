"""Taking up runs that are due."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final, Protocol, TypeAlias

from flujo_async._model.lease import ClaimQuery, Lease
from flujo_async._model.stored import RunQuery
from flujo_async._runtime.bound_loop import BoundLoop
from flujo_async._runtime.lease_keeper import give_back
from flujo_async._runtime.owner import Owner
from flujo_async._runtime.strangers import Strangers
from flujo_async.abc.backend import StateBackend
from flujo_async.abc.clock import Clock
from flujo_async.abc.pace import begin
from flujo_async.abc.pending import acquire
from flujo_async.abc.shield import finish, settle
from flujo_async.errors import (
    BackendError,
    DeserializationError,
    FlujoError,
    IntegrityError,
    NonDeterminismError,
    RunCancelled,
    RunFailed,
    StaleLease,
    VersionMismatch,
)

_log: Final = logging.getLogger("flujo_async")
_AT_ONCE: Final = 100
"""So many runs are driven at the same time by one scheduler, unless it is told otherwise."""

_MANY: Final = 25
"""So many runs are worth a look into a large store."""

_LOOK_AGAIN_SECONDS: Final = 1.0
_PAUSE_SECONDS: Final = 0.05

_PATIENCE: Final = timedelta(seconds=30)
"""After this time a run is looked at again that could not be driven here."""

_PATIENCE_WITH_STORE: Final = timedelta(seconds=1)
"""The same where it was the store that failed."""


Queries: TypeAlias = Callable[[], Awaitable[list[ClaimQuery]]]
"""Tells which runs to claim."""


class Driver(Protocol):
    """What drives the runs that a scheduler takes up."""

    backend: StateBackend
    clock: Clock
    ttl: timedelta
    bound_loop: BoundLoop
    max_concurrency: int | None

    async def drive_claimed(self, lease: Lease) -> None:
        """Drive a run that was claimed, once; the lease is given back."""
        ...

    async def put_off(self, run_id: str, until: datetime) -> None:
        """Let a run that cannot be driven here wait until a moment."""
        ...


class Scheduler:
    """Claims runs that are due, a batch at a time, and drives them.

    It lives in one task. Unless it is to last, it ends when no run is in sight that will be due.
    """

    def __init__(self, driver: Driver, queries: Queries, *, is_lasting: bool, concurrency: int = _AT_ONCE) -> None:
        """Prepare to take up runs.

        Args:
            driver: what drives them.
            queries: which ones, in the order of preference.
            is_lasting: whether to go on when none is in sight.
            concurrency: how many to drive at the same time.
        """
        self._driver = driver
        self._queries = queries
        self._is_lasting = is_lasting
        # What would only wait for its turn here is left to other processes.
        self._concurrency = min(concurrency, driver.max_concurrency or concurrency)
        self._task: asyncio.Task[None] | None = None
        self._is_draining = False
        self._kicked = asyncio.Event()
        self._alarm: datetime | None = None
        self._overdue: datetime | None = None
        self._may_look_at = 0.0
        self._driving: dict[asyncio.Task[object], Lease] = {}
        self._left: list[Lease] = []
        self._is_to_look_for_own = False
        self.strangers: Strangers = Strangers(driver.backend, driver.clock)

    def kick(self) -> None:
        """Look for runs that are due; some may have become so."""
        self._driver.bound_loop.check()
        self._kicked.set()
        if self._task is None or self._task.done():
            self.start()

    def expect(self, moment: datetime | None) -> None:
        """Look for runs that are due at ``moment``; it is known already that none has become so now."""
        if self._alarm is None or moment is None or moment < self._alarm:
            self.kick()

    def start(self) -> asyncio.Task[None]:
        """Begin to take up runs; the task ends when that does."""
        self._driver.bound_loop.check()
        self._is_draining = False
        self._task = asyncio.create_task(self.run(), name="flujo scheduler")
        return self._task

    async def aclose(self) -> None:
        """Stop, and interrupt the runs that are driven; they can be resumed."""
        if self._task is not None:
            self._task.cancel()
            await settle(self._task)

    async def run(self) -> None:
        """Take up runs until none is in sight, or for ever."""
        with self._driver.bound_loop.at_work(), Owner.at_work() as owner:
            try:
                await self._run(str(owner))
            finally:
                await self.interrupt()

    async def drain(self, timeout: float) -> None:
        """Take up no more runs; return when the last one that is driven rests, or is interrupted after ``timeout``."""
        self._is_draining = True
        if self._driving:
            await asyncio.wait(self._driving, timeout=timeout)
        await self.interrupt()
        self._kicked.set()

    async def interrupt(self) -> None:
        """Interrupt the runs that are driven."""
        if self._driving:  # else the task ends in this turn: whoever kicks it later has to find that it is over
            await finish(self._interrupt(dict(self._driving)))

    async def _interrupt(self, driving: Mapping[asyncio.Task[Any], Lease]) -> None:
        unbegun = [lease for task, lease in driving.items() if _is_unbegun(task)]  # nobody else gives these back
        for task in driving:
            task.cancel()
        for task in driving:
            await settle(task)
        await self.let_go(unbegun)

    async def _run(self, owner: str) -> None:
        is_to_go_on = True
        while (is_to_go_on or self._kicked.is_set()) and not self._is_draining:
            self._kicked.clear()
            news = asyncio.create_task(self._driver.backend.wait_for_work(timeout=_LOOK_AGAIN_SECONDS))
            try:
                # From here on it listens, so that nothing is missed while we look.
                await asyncio.sleep(max(0.0, self._may_look_at - time.monotonic()))
                is_to_go_on = await self._turn(owner, news)
            finally:
                news.cancel()
                await settle(news)
        while self._driving:  # those who asked for an end wait for them, or interrupt them
            await asyncio.wait(self._driving)

    async def _turn(self, owner: str, news: asyncio.Task[None]) -> bool:
        """Take up what is due, or wait for that; return whether there may be more."""
        began = time.monotonic()
        leases = await self._claim(owner)
        if self._is_draining:
            await finish(self.let_go(leases))
            return False
        if leases:
            self._begin(leases)
            is_busy = len(self._driving) > self._concurrency // 2
            if is_busy and len(leases) < _MANY:  # else the look has paid off
                self._looked(began)
            return True
        moment = await self._next_due()
        self._looked(began)
        if moment is None and not self._driving and not self._is_lasting:
            return False
        await self._wait(moment, news)
        if news.done():  # a busy store has them all the time
            await self._rest()
        return True

    def _looked(self, began: float) -> None:
        """Take a rest in proportion to how long it took to look: a large store is not looked at all the time."""
        now = time.monotonic()
        self._may_look_at = now + min(now - began, _PAUSE_SECONDS)

    async def _rest(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_PAUSE_SECONDS):
                await self._kicked.wait()

    def _begin(self, leases: Iterable[Lease]) -> None:
        for lease in leases:
            task: asyncio.Task[object] = asyncio.create_task(self.drive(lease), name=f"flujo run {lease.run_id}")
            self._driving[task] = lease
            task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[object]) -> None:
        self._driving.pop(task, None)
        self._kicked.set()

    async def _claim(self, owner: str) -> list[Lease]:
        leases: list[Lease] = []
        try:
            await self._let_go_of_left()
            leases += await self._find_own(owner)
            queries = await self._queries()
            if self._is_lasting:
                await self.strangers.glance(queries)
            for query in queries:
                free = min(self._concurrency - len(self._driving), _AT_ONCE) - len(leases)
                if free <= 0:
                    break
                leases += await self.claim(owner, replace(query, limit=free))
        except Exception as error:  # the store may be back the next time
            self._is_to_look_for_own = True
            _log.warning("runs could not be claimed: %r", error)
        except BaseException:
            await finish(self.let_go(leases))
            raise
        return leases

    async def claim(self, owner: str, query: ClaimQuery) -> list[Lease]:
        """Claim runs; a caller that is cancelled meanwhile leaves no lease behind."""
        driver = self._driver
        claim = driver.backend.claim(Owner.for_claim(owner), now=driver.clock.now(), ttl=driver.ttl, query=query)
        return await acquire(begin(claim), self.let_go)

    async def _find_own(self, owner: str) -> list[Lease]:
        """Return the leases that a claim has taken which failed all the same: their owner lives, and nobody drives."""
        if not self._is_to_look_for_own:
            return []
        leased = await self._driver.backend.query_runs(RunQuery(is_leased=True))
        leases = [head.lease for head in leased if head.lease is not None]
        self._is_to_look_for_own = False
        driven = {(lease.run_id, lease.owner) for lease in self._driving.values()}
        own = [lease for lease in leases if Owner.of_claim(lease.owner) == owner]
        return [lease for lease in own if (lease.run_id, lease.owner) not in driven]

    async def drive_all(self, leases: Sequence[Lease]) -> list[str]:
        """Drive claimed runs, and return the ids of those that fit."""
        driving = {asyncio.create_task(self.drive(lease), name=f"flujo run {lease.run_id}"): lease for lease in leases}
        try:
            await asyncio.wait(driving)
        except asyncio.CancelledError:
            await finish(self._interrupt(driving))
            raise
        return [lease.run_id for task, lease in driving.items() if task.result()]

    async def drive(self, lease: Lease) -> bool:
        """Drive a claimed run, if it fits; whatever goes wrong with it is none of the others' business."""
        try:
            with suppress(StaleLease, RunFailed, RunCancelled):
                await self._driver.drive_claimed(lease)
        except (
            DeserializationError,
            NonDeterminismError,
        ) as error:
            # Until somebody comes with the code that fits.
            _log.warning("run %r is paused: %s", lease.run_id, error)
        except VersionMismatch as error:  # of a child: nobody has asked for a run that does not fit itself
            _log.warning("run %r waits for the definition of run %r: %s", lease.run_id, error.run_id, error)
            await finish(self._put_off(lease, _PATIENCE))
            return False
        except (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a step may raise anything
            _log.error("run %r could not go on: %r", lease.run_id, error)
            is_of_the_run = isinstance(error, IntegrityError) or not isinstance(error, BackendError)
            await finish(self._put_off(lease, _PATIENCE if is_of_the_run else _PATIENCE_WITH_STORE))
        return True

    async def _put_off(self, lease: Lease, patience: timedelta) -> None:
        """Let a run wait that could not be driven, or at least let it go, as soon as the store is there again."""
        try:
            await self._driver.put_off(lease.run_id, self._driver.clock.now() + patience)
            await give_back(self._driver.backend, lease)  # unless that has been done
        except FlujoError:
            self._left.append(lease)

    async def _let_go_of_left(self) -> None:
        while self._left:
            await give_back(self._driver.backend, self._left[-1])
            self._left.pop()

    async def let_go(self, leases: Iterable[Lease]) -> None:
        """Give leases back that nobody drives."""
        for lease in leases:
            with suppress(FlujoError):  # it expires, or ends with its owner
                await give_back(self._driver.backend, lease)

    async def _next_due(self) -> datetime | None:
        """Return when a run will be due, if one is in sight; soon if the store does not tell."""
        try:
            queries = await self._queries()
            moments = [await self._driver.backend.next_due(query) for query in queries]
            if not (self._is_lasting or self._driving or any(moments)):
                await self.strangers.glance(queries, is_last=True)
        except Exception as error:  # the store may be back the next time
            _log.warning("no telling which runs are due: %r", error)
            return self._driver.clock.now() + timedelta(seconds=_LOOK_AGAIN_SECONDS)
        return min((moment for moment in moments if moment is not None), default=None)

    async def _wait(self, moment: datetime | None, news: asyncio.Task[None]) -> None:
        """Return when there may be something to do, at ``moment`` at the latest."""
        tasks: list[asyncio.Task[object]] = [asyncio.create_task(self._kicked.wait())]
        if moment is not None and len(self._driving) < self._concurrency:
            tasks.append(asyncio.create_task(self._until(moment)))
            self._alarm = moment
        try:
            await asyncio.wait({*tasks, news}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._alarm = None
            for task in tasks:
                task.cancel()
            for task in tasks:
                await settle(task)

    async def _until(self, moment: datetime) -> None:
        clock, is_again, self._overdue = self._driver.clock, moment == self._overdue, moment
        if moment > clock.now():
            await clock.sleep((moment - clock.now()).total_seconds())
        elif is_again:  # it did not come just now, while we looked: others are about to take what is due
            await asyncio.sleep(_PAUSE_SECONDS)


def _is_unbegun(task: asyncio.Task[Any]) -> bool:
    coroutine: Any = task.get_coro()
    return inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED
