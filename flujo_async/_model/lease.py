"""Who may write a run: leases, and what one asks for when claiming."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from flujo_async._model.quick import quick
from flujo_async._model.state import RunStatus

CLAIMABLE: frozenset[RunStatus] = frozenset({"pending", "running"})
"""The statuses in which a run can go on by itself."""


@quick
@dataclass(frozen=True, slots=True)
class Lease:
    """The right to append to one run's log, until somebody claims the run anew.

    Attributes:
        run_id: the run.
        token: the fencing token; it grows with every claim of the run and is compared inside every write.
        owner: who holds it; opaque to stores.
        expires_at: from this moment on anybody may claim the run.
    """

    run_id: str
    token: int
    owner: str
    expires_at: datetime


class DefinitionKey(NamedTuple):
    """What the head of a run says of the definition that it goes on with.

    Attributes:
        pipeline_name: its name.
        pipeline_version: its version.
        pipeline_id: the fingerprint of its structure.
    """

    pipeline_name: str
    pipeline_version: str
    pipeline_id: str


@dataclass(frozen=True, slots=True)
class ClaimQuery:
    """Which runs a claimant asks for.

    Attributes:
        run_id: this run and no other; ``None`` asks for any run that is due.
        statuses: only runs in one of these.
        queues: only runs dispatched to one of these queues, where ``""`` stands for runs of no queue; ``None`` asks
            for all.
        definitions: only runs that go on with one of these; ``None`` asks for all.
        pipeline_names: only runs whose definition has one of these names, whatever its version; ``None`` asks for all.
        is_due: only runs that slept and whose ``wake_at`` has come, or that have signals their last owner has not read.
        dead_owners: owners known to be dead, whose leases count as expired.
        limit: at most so many runs.
    """

    run_id: str | None = None
    statuses: frozenset[RunStatus] = CLAIMABLE
    queues: frozenset[str] | None = None
    definitions: frozenset[DefinitionKey] | None = None
    pipeline_names: frozenset[str] | None = None
    is_due: bool = False
    dead_owners: frozenset[str] = frozenset()
    limit: int = 1


ANY_RUN: Final = ClaimQuery()
"""Asks for one run, whichever is due first."""
