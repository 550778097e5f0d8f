"""What the derived state API needs of a store."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from flujo_async._model.entry import Entry, EntryKind, EntryQuery
from flujo_async._model.lease import ANY_RUN, ClaimQuery, Lease
from flujo_async._model.stored import Blob, Record, RunQuery, RunUpdate, StoredRun
from flujo_async._model.summary import RunSummary
from flujo_async.abc.clock import Clock


class Verbs(Protocol):
    """The verbs of the port that others are derived from; see ``StateBackend``.

    Attributes:
        clock: what time it is, for what is derived: the verbs read no clock.
    """

    clock: Clock

    async def load(self, run_id: str, *, until: int | None = None, from_snapshot: bool = False) -> StoredRun | None:
        """See ``StateBackend``."""
        ...

    async def append(
        self,
        lease: Lease,
        records: Sequence[Record],
        *,
        expected_seq: int,
        update: RunUpdate,
        blobs: Sequence[Blob] = (),
    ) -> int:
        """See ``StateBackend``."""
        ...

    async def claim(self, owner: str, *, now: datetime, ttl: timedelta, query: ClaimQuery = ANY_RUN) -> list[Lease]:
        """See ``StateBackend``."""
        ...

    async def release(self, lease: Lease) -> None:
        """See ``StateBackend``."""
        ...

    async def query_runs(self, query: RunQuery) -> list[RunSummary]:
        """See ``StateBackend``."""
        ...

    async def read_events(self, run_id: str, *, after: int = 0, limit: int | None = None) -> list[Record]:
        """See ``StateBackend``."""
        ...

    async def read_blobs(self, run_id: str, digests: Collection[str]) -> dict[str, bytes]:
        """See ``StateBackend``."""
        ...

    async def delete_run(self, run_id: str) -> None:
        """See ``StateBackend``."""
        ...

    async def put_entries(self, entries: Sequence[Entry], *, instead_of: EntryKind | None = None) -> None:
        """See ``StateBackend``."""
        ...

    async def read_entries(self, query: EntryQuery) -> list[Entry]:
        """See ``StateBackend``."""
        ...
