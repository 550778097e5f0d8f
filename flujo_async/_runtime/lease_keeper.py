"""Renewing leases, off the event loop: a blocked loop must not lose its runs. And giving them back."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from datetime import timedelta
from typing import Final, Protocol

from flujo_async._model.lease import Lease
from flujo_async._model.policy import LONGEST_TIMER
from flujo_async._model.stored import RunQuery, Signal
from flujo_async._runtime.stall import Watched, stall_threshold
from flujo_async.abc.backend import StateBackend
from flujo_async.abc.clock import Clock
from flujo_async.abc.event_loop import tell
from flujo_async.abc.shield import settle
from flujo_async.errors import BackendError, InvalidArgument

_log: Final = logging.getLogger("flujo_async")
_RENEWALS_PER_TTL: Final = 3
_SECONDS_BETWEEN_LOOKS: Final = 1.0


class Holder(Protocol):
    """Somebody who drives a run; told in the keeper's thread."""

    def lose(self) -> None:
        """Somebody else has the run."""
        ...

    def take_in(self, signals: list[Signal]) -> None:
        """There are signals of the run that may be new."""
        ...


class Held:
    """A lease, which is kept alive while the block runs.

    Attributes:
        lease: as it was renewed last.
        holder: who has it.
        signals: how many signals of the run are known.
        loop: where the run is driven.
    """

    __slots__ = ("_keeper", "holder", "lease", "loop", "signals")

    def __init__(self, keeper: LeaseKeeper, lease: Lease, holder: Holder, signals: int = 0) -> None:
        self.lease: Lease = lease
        self.holder: Holder = holder
        self.signals: int = signals
        self.loop: Watched | None = None
        self._keeper = keeper

    def __enter__(self) -> None:
        self._keeper.keep(self)

    def __exit__(self, *_: object) -> None:
        self._keeper.let_go(self)


class LeaseKeeper:
    """Renews all leases of one runtime together, and looks for signals that other processes post to their runs.

    From a daemon thread that lives while there are any. It also tells of an event loop with such runs that does not
    turn.
    """

    def __init__(self, backend: StateBackend, clock: Clock, ttl: timedelta) -> None:
        is_duration = isinstance(ttl, timedelta)  # pyright: ignore[reportUnnecessaryIsInstance] -- users without a type checker
        if not is_duration or not timedelta(0) < ttl <= LONGEST_TIMER:
            raise InvalidArgument(
                f"lease_ttl is a timedelta longer than zero and at most {LONGEST_TIMER.days:,} days, not {ttl!r}"
            )
        self._backend = backend
        self._clock = clock
        self._ttl = ttl
        self._renewal = ttl.total_seconds() / _RENEWALS_PER_TTL
        self._threshold: float | None = stall_threshold()
        self._watched: set[Watched] = set()
        self._guard = threading.Condition()
        self._held: set[Held] = set()
        self._thread: threading.Thread | None = None
        self._is_asking = False  # whether the thread has a list of leases to ask the store about
        self._waiting: list[asyncio.Future[None]] = []

    def keep(self, held: Held) -> None:
        """Keep a lease alive until ``let_go``.

        Raises:
            BackendError: there are too many threads to start the keeper's.
        """
        if not self._backend.capabilities.multi_process:
            return  # it lasts for ever; whether its owner is alive is known
        held.loop = None if self._threshold is None else Watched.here()
        with self._guard:
            self._ensure_thread(held.lease)
            self._held.add(held)

    def let_go(self, held: Held) -> None:
        """Do nothing for a lease any more."""
        with self._guard:
            self._held.discard(held)

    async def aclose(self) -> None:
        """Wait until the store is not asked any more for runs that are over: it may be closed then.

        One that has not answered for as long as a lease lasts is told of, and not waited for.
        """
        with self._guard:
            if not self._is_asking:
                return
            answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(answered)
        late = asyncio.create_task(self._clock.sleep(self._ttl.total_seconds()))
        try:
            await asyncio.wait({answered, late}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            late.cancel()
            await settle(late)
        if not answered.done():
            _log.warning("the store does not answer who renews leases, and is not waited for")

    async def renew_now(self, held: Held) -> bool:
        """Renew a lease that has run out; return whether its owner has the run still."""
        try:
            renewed = await self._backend.renew([held.lease], now=self._clock.now(), ttl=self._ttl)
        except BackendError as error:  # nobody knows, so it may not go on
            _log.warning("run %r: its lease has run out, and could not be renewed: %r", held.lease.run_id, error)
            return False
        held.lease = renewed[0] if renewed else held.lease
        return bool(renewed)

    def _ensure_thread(self, lease: Lease) -> None:
        if self._thread is not None:
            return
        thread = threading.Thread(target=self._run, name="flujo-leases", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            raise BackendError(f"run {lease.run_id!r}: its lease cannot be kept alive: {error}") from error
        self._thread = thread

    def _run(self) -> None:
        pace = min(self._renewal, _SECONDS_BETWEEN_LOOKS)
        renewed_at = looked_at = time.monotonic()
        self._watch()
        while self._rest(pace if self._threshold is None else min(pace, self._threshold)):
            self._watch()
            if time.monotonic() - renewed_at >= self._renewal:
                renewed_at = time.monotonic()
                self._renew(self._all())
            if time.monotonic() - looked_at >= pace:
                looked_at = time.monotonic()
                self._look(self._all())

    def _rest(self, seconds: float) -> bool:
        """Let time pass; return whether there is anything left to do."""
        with self._guard:
            self._is_asking, waiting, self._waiting = False, self._waiting, []
            for answered in waiting:
                tell(answered.get_loop(), _give, answered)
            self._guard.wait(seconds)
            self._is_asking = bool(self._held)
            if self._is_asking:
                return True
            self._thread = None
            watched, self._watched = self._watched, set()
        for loop in watched:
            loop.look_away()
        return False

    def _watch(self) -> None:
        """See whether the loops turn in which runs are driven."""
        if self._threshold is None:
            return
        driven: dict[Watched, list[str]] = {}
        for entry in self._all():
            if entry.loop is not None:
                driven.setdefault(entry.loop, []).append(entry.lease.run_id)
        for loop in self._watched - driven.keys():
            loop.look_away()
        self._watched = set(driven)
        for loop, run_ids in driven.items():
            loop.look(self._threshold, run_ids, at_most=self._renewal / 2)

    def _all(self) -> list[Held]:
        with self._guard:
            return list(self._held)

    def _look(self, held: list[Held]) -> None:
        if not held:  # the last run is over, and the store may have been closed: nobody would close it again
            return
        known: dict[str, int] = {}
        for entry in held:
            run_id = entry.lease.run_id
            known[run_id] = min(entry.signals, known.get(run_id, entry.signals))
        try:
            signals = asyncio.run(self._backend.read_signals(known))
        except Exception as error:  # whatever it is, this thread has to be there for the next try
            self._tell("signals could not be read: %r", error, held)
            return
        grouped: dict[str, list[Signal]] = {}
        for signal in signals:
            grouped.setdefault(signal.run_id, []).append(signal)
        for entry in held:
            if theirs := grouped.get(entry.lease.run_id):
                entry.signals = known[entry.lease.run_id] + len(theirs)
                entry.holder.take_in(theirs)

    def _tell(self, text: str, error: Exception, held: list[Held]) -> None:
        if any(map(self._is_held, held)):  # else nobody needs the store any more, and it may have been closed
            _log.warning(text, error)

    def _is_held(self, entry: Held) -> bool:
        with self._guard:
            return entry in self._held

    def _renew(self, held: list[Held]) -> None:
        if not held:
            return
        leases = [entry.lease for entry in held]
        try:
            renewed = asyncio.run(self._backend.renew(leases, now=self._clock.now(), ttl=self._ttl))
        except Exception as error:  # whatever it is, this thread has to be there for the next try
            # The leases last for two more tries; a store that stays away stops the runs at their next commit.
            self._tell("leases could not be renewed: %r", error, held)
            return
        kept = {_name(lease): lease for lease in renewed}
        for entry in held:
            if (lease := kept.get(_name(entry.lease))) is not None:
                entry.lease = lease
            elif self._is_held(entry):  # a run that came to rest meanwhile has given its lease back
                entry.holder.lose()


async def give_back(backend: StateBackend, lease: Lease) -> None:
    """Give up a lease; the run wants to be claimed when it wanted that before: nothing else may ever wake it."""
    heads = await backend.query_runs(RunQuery(run_id=lease.run_id))
    await backend.release(lease, wake_at=heads[0].wake_at if heads else None)


def _give(answered: asyncio.Future[None]) -> None:
    if not answered.done():
        answered.set_result(None)


def _name(lease: Lease) -> tuple[str, int, str]:
    """Return what stays of a lease as long as it is held; of a run that is created anew the tokens come again."""
    return lease.run_id, lease.token, lease.owner
