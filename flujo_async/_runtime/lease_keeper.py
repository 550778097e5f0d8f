"""Renewing leases, off the event loop: a blocked loop must not lose its runs."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from flujo_async._model.lease import Lease
from flujo_async.abc.backend import StateBackend
from flujo_async.abc.clock import Clock

_log: Final = logging.getLogger("flujo_async")
_RENEWALS_PER_TTL: Final = 3


@dataclass(slots=True)
class _Held:
    lease: Lease
    lost: Callable[[], object]


class LeaseKeeper:
    """Renews all leases of one runtime together, from a daemon thread that lives while there are any."""

    def __init__(self, backend: StateBackend, clock: Clock, ttl: timedelta) -> None:
        self._backend = backend
        self._clock = clock
        self._ttl = ttl
        self._guard = threading.Condition()
        self._held: dict[str, _Held] = {}
        self._thread: threading.Thread | None = None

    @contextmanager
    def holding(self, lease: Lease, lost: Callable[[], object]) -> Generator[None]:
        """Keep a lease alive while the block runs.

        Args:
            lease: what to renew.
            lost: called, from the keeper's thread, when somebody else has the run.
        """
        if not self._backend.capabilities.multi_process:
            yield  # nobody else can claim the run
            return
        with self._guard:
            self._held[lease.run_id] = _Held(lease, lost)
            self._ensure_thread()
        try:
            yield
        finally:
            with self._guard:
                self._held.pop(lease.run_id, None)

    def _ensure_thread(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="flujo-leases", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        interval = self._ttl.total_seconds() / _RENEWALS_PER_TTL
        while True:
            with self._guard:
                self._guard.wait(interval)
                if not self._held:
                    self._thread = None
                    return
                held = list(self._held.values())
            self._renew(held)

    def _is_held(self, entry: _Held) -> bool:
        with self._guard:
            return self._held.get(entry.lease.run_id) is entry

    def _renew(self, held: list[_Held]) -> None:
        leases = [entry.lease for entry in held]
        try:
            renewed = asyncio.run(self._backend.renew(leases, now=self._clock.now(), ttl=self._ttl))
        except Exception as error:  # whatever it is, this thread has to be there for the next try
            # The leases last for two more tries; a store that stays away stops the runs at their next commit.
            _log.warning("leases could not be renewed: %r", error)
            return
        kept = {lease.run_id: lease for lease in renewed}
        for entry in held:
            if entry.lease.run_id in kept:
                entry.lease = kept[entry.lease.run_id]
            elif self._is_held(entry):  # a run that came to rest meanwhile has given its lease back
                entry.lost()
