"""Outputs of steps that stand in for executing them again, in whatever run."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from types import TracebackType
from typing import Any, Final, Self

from flujo_async._codec.heads import decode_moment, encode_moment
from flujo_async._codec.tree import canonical
from flujo_async._model.tree import Json
from flujo_async._plan.step import Step
from flujo_async.abc.backend import StateBackend
from flujo_async.errors import BackendError, SerializationError

_log: Final = logging.getLogger("flujo_async")


@dataclass(frozen=True, slots=True)
class Hit:
    """A kept output.

    Attributes:
        output: the encoded output.
        run_id: the run that executed the step.
        at: when that had ended.
    """

    output: Json
    run_id: str
    at: datetime

    def is_fresh(self, ttl: float, now: datetime) -> bool:
        """Return whether it is not older than ``ttl`` seconds, nor from a time so far ahead that a clock was wrong."""
        return abs((now - self.at).total_seconds()) < ttl


def cache_key(step: Step[Any, Any], arguments: Json) -> str:
    """Return what is equal for equal calls of equal code: of the step's name, its code and its encoded arguments."""
    return "cache:" + sha256(canonical([step.name, step.fingerprint, arguments])).hexdigest()


class Cache:
    """What a runtime keeps in its store beside the runs.

    It is a help and no promise: a store that fails here is reported to the log, and the step is executed.
    """

    def __init__(self, backend: StateBackend) -> None:
        self._backend = backend
        self._flights: dict[str, Flight] = {}

    def flight(self, key: str) -> Flight:
        """Return the way to a key, ``async with`` which one caller at a time goes."""
        return self._flights.setdefault(key, Flight(self, key))

    def land(self, key: str) -> None:
        """Forget a flight that nobody is on."""
        del self._flights[key]

    async def load(self, key: str) -> Hit | None:
        """Return what is kept; ``None`` if nothing is, or nothing that can be read."""
        try:
            value = await self._backend.get_system_state(key)
        except BackendError as error:
            _log.warning("the cache could not be read: %r", error)
            return None
        match value:
            case {"output": output, "run_id": str(run_id), "at": at}:
                with suppress(SerializationError):
                    return Hit(output, run_id, decode_moment(at))
            case _:
                pass
        return None

    async def save(self, key: str, hit: Hit) -> None:
        """Keep an output."""
        value = {"output": hit.output, "run_id": hit.run_id, "at": encode_moment(hit.at)}
        try:
            await self._backend.set_system_state(key, value)
        except BackendError as error:
            _log.warning("the cache could not be written: %r", error)


@dataclass(slots=True, eq=False)
class Flight:
    """All who want one output at the same time: the first makes it, the others take what it made.

    If the first fails or is cancelled, the next one goes.
    """

    cache: Cache
    key: str
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _passengers: int = 0
    _hit: Hit | None = None

    async def __aenter__(self) -> Self:
        self._passengers += 1
        try:
            await self._turn.acquire()
        except BaseException:
            self._leave()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._turn.release()
        self._leave()

    def _leave(self) -> None:
        self._passengers -= 1
        if not self._passengers:
            self.cache.land(self.key)

    async def find(self, ttl: float, now: datetime) -> Hit | None:
        """Return an output that is not older than ``ttl`` seconds."""
        if self._hit is None:
            self._hit = await self.cache.load(self.key)
        return self._hit if self._hit is not None and self._hit.is_fresh(ttl, now) else None

    async def keep(self, hit: Hit) -> None:
        """Keep an output for those who wait, and for later."""
        self._hit = hit
        await self.cache.save(self.key, hit)
