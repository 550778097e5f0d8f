"""Telling of runs that wait for a version which is not known here: nobody here claims them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from flujo_async._model.lease import ClaimQuery
from flujo_async.abc.backend import StateBackend
from flujo_async.abc.clock import Clock

_log: Final = logging.getLogger("flujo_async")

_PATIENCE: Final = timedelta(seconds=30)
"""So long others have to take up what is due, before anything is said; and so often it is looked at."""


class Strangers:
    """Runs that are due, of definitions that are known here by name, but not in the version that fits."""

    def __init__(self, backend: StateBackend, clock: Clock) -> None:
        self._backend = backend
        self._clock = clock
        self._looked_at: datetime | None = None
        self._seen: dict[str, datetime] = {}
        self._told: dict[str, datetime] = {}

    async def glance(self, queries: Sequence[ClaimQuery], *, is_last: bool = False) -> None:
        """Look now and then, and tell of what has not moved meanwhile; or of all, if it is the last time."""
        now = self._clock.now()
        if self._looked_at is None or not self._looked_at <= now < self._looked_at + _PATIENCE:
            self._looked_at = now
            await self.look(queries, is_patient=not is_last)

    async def look(self, queries: Sequence[ClaimQuery], *, is_patient: bool = False) -> None:
        """Tell of each definition with such runs once; if ``is_patient``, only of what was there the last time."""
        due: dict[str, datetime] = {}
        for query in queries:
            names = frozenset(definition.pipeline_name for definition in query.definitions or ())
            if await self._due_since(query, names) is not None:
                found = {name: await self._due_since(query, frozenset({name})) for name in names}
                due |= {name: moment for name, moment in found.items() if moment is not None}
        for name, moment in due.items():
            if self._told.get(name) != moment and (not is_patient or self._seen.get(name) == moment):
                self._told[name] = moment
                _log.warning(
                    "runs of %r have been due since %s that no version known here fits: register theirs as well, "
                    "or give Flujo(migrate=…); `flujo-async doctor --flujo MODULE:ATTRIBUTE` lists them",
                    name,
                    moment.isoformat(timespec="seconds"),
                )
        self._seen = due

    async def _due_since(self, query: ClaimQuery, names: frozenset[str]) -> datetime | None:
        """Return since when a run is due that has one of these names and does not fit; ``None`` if none is older."""
        named = replace(query, pipeline_names=names)
        moment = await self._backend.next_due(replace(named, definitions=None)) if names else None
        if moment is None or moment > self._clock.now() or moment == await self._backend.next_due(named):
            return None
        return moment
