"""One process in the life of a run: driven until the run rests or the process dies, while time passes."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from typing import Any, Final

from typing_extensions import override

from flujo_async._model.lease import ClaimQuery
from flujo_async._model.state import RunStatus
from flujo_async._model.stored import RunQuery
from flujo_async._runtime.owner import Owner
from flujo_async._runtime.witness import WITNESS, Witness
from flujo_async.abc.backend import StateBackend
from flujo_async.abc.shield import settle
from flujo_async.errors import RunCancelled, RunFailed
from flujo_async.testing.clock import VirtualClock
from flujo_async.testing.explorer_report import Crash, Life
from flujo_async.testing.faults import WRITES
from flujo_async.testing.faulty import FaultyBackend

_log: Final = logging.getLogger("flujo_async")
_QUIET_TURNS: Final = 30
"""For so many turns of the event loop nothing happens before time passes."""

_LOOK_AGAIN_SECONDS: Final = 0.001
_GOING_ON: Final[frozenset[RunStatus]] = frozenset({"running", "paused"})

LEASE_TTL: Final = timedelta(days=100 * 365)
"""Leases outlast all time that passes: whoever dies here is known to be dead. No sleep is as long."""


class Process(Witness):
    """A process that drives a run, and dies where it is told to.

    Attributes:
        backend: the store, as it sees it.
        clock: the time, which it does not take along when it dies.
        life: what it did.
    """

    def __init__(self, backend: StateBackend, clock: VirtualClock, crash: Crash | None, patience: float) -> None:
        self.backend: FaultyBackend = FaultyBackend(backend)
        self.clock = clock
        self.life: Life = Life()
        self._executing = 0
        self._patience = patience
        if crash is not None:
            self.backend.crash(WRITES, nth=crash.nth, how=crash.how)

    @override
    @contextmanager
    def executing(self, run_id: str, key: str) -> Generator[None]:
        if not self.backend.is_dead:  # what is unwound when a process dies would not have begun
            self.life.executed[run_id, key] += 1
        self._executing += 1
        try:
            yield
        finally:
            self._executing -= 1

    @override
    def dice(self, run_id: str, key: str) -> random.Random:
        return random.Random(f"{run_id}\0{key}")  # in every world the same, whenever it is drawn

    async def live(self, work: Coroutine[Any, Any, None], *, timeout: float) -> Life:
        """Do what the process is for, until it has done it, dies, or takes longer than ``timeout`` real seconds."""
        token = WITNESS.set(self)
        try:
            with self._silence_after_death():
                async with self._passing_time():
                    await self._until_death(work, timeout)
        finally:
            WITNESS.reset(token)
        self.life.writes = self.backend.writes
        self.life.has_crashed = self.backend.is_dead
        if self.life.has_crashed:
            self.life.trouble = None
        return self.life

    async def _until_death(self, work: Coroutine[Any, Any, None], timeout: float) -> None:
        task, death = asyncio.create_task(work), asyncio.create_task(self.backend.died())
        try:
            done, _ = await asyncio.wait({task, death}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                self.life.trouble = TimeoutError(f"it did not come to rest within {timeout:g} s")
        finally:
            task.cancel()  # nothing hears of its own death
            death.cancel()
            await settle(task)
            await settle(death)
        with suppress(RunFailed, RunCancelled, asyncio.CancelledError):
            try:
                task.result()
            except (RunFailed, RunCancelled):
                raise
            except Exception as error:  # whatever it is, it is to be told
                self.life.trouble = error

    @contextmanager
    def _silence_after_death(self) -> Generator[None]:
        """A dead process logs nothing."""

        def is_alive(_: logging.LogRecord) -> bool:
            return not self.backend.is_dead

        _log.addFilter(is_alive)
        try:
            yield
        finally:
            _log.removeFilter(is_alive)

    # ---------------------------------------------------------------------------------------------------- time

    @asynccontextmanager
    async def _passing_time(self) -> AsyncGenerator[None]:
        task = asyncio.create_task(self._pass_time())
        try:
            yield
        finally:
            task.cancel()
            await settle(task)

    async def _pass_time(self) -> None:
        """Move the clock to the next moment that somebody sleeps until, whenever nothing else goes on."""
        while True:
            await self.clock.until_asleep()
            await self._standstill()
            moment, now = self.clock.next_wake_at, self.clock.now()
            if moment is not None and moment - now < LEASE_TTL / 2:
                self.clock.advance(max(moment, now) - now)
            await asyncio.sleep(_LOOK_AGAIN_SECONDS if moment is not None and moment > now else 0)

    async def _standstill(self) -> None:
        """Return when nothing goes on but sleep: no call of the store, no step, and nothing in the event loop."""
        quiet, seen, waited = 0, self._seen(), 0.0
        while True:
            is_hanging = waited >= self._patience
            is_busy = self.backend.under_way > 0 or (self._executing > 0 and not is_hanging)
            if quiet >= _QUIET_TURNS and not is_busy:
                if is_hanging or not await self._is_due():
                    return
                is_busy = True
            rest = _LOOK_AGAIN_SECONDS if is_busy else 0
            await asyncio.sleep(rest)
            waited += rest  # by the clock, a process that was stopped for a while would take its steps for hanging
            quiet = 0 if is_busy or self._seen() != seen else quiet + 1
            if self._seen() != seen:
                seen, waited = self._seen(), 0.0

    async def _is_due(self) -> bool:
        """Return whether a run wants to go on now, and somebody is about to take it up."""
        store = self.backend.inner
        leases = [head.lease for head in await store.query_runs(RunQuery(is_leased=True))]
        owners = {lease.owner: Owner.parse(lease.owner) for lease in leases if lease is not None}
        dead = frozenset(text for text, owner in owners.items() if owner is not None and owner.is_dead())
        query = ClaimQuery(statuses=_GOING_ON, is_due=True, dead_owners=dead)
        moment = await store.next_due(query)
        return moment is not None and moment <= self.clock.now()

    def _seen(self) -> tuple[int, int, int]:
        return len(self.backend.calls), self.life.executed.total(), self.clock.sleepers
