"""Runs that are to go, and runs that somebody has let lie."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import uuid4

from flujo_async._codec.exceptions import encode_error
from flujo_async._codec.values import Codec
from flujo_async._log.chain import seal
from flujo_async._model.entry import EntryKind, EntryQuery
from flujo_async._model.facts import RunFailed
from flujo_async._model.lease import ClaimQuery, Lease
from flujo_async._model.policy import earlier
from flujo_async._model.state import TERMINAL, RunStatus
from flujo_async._model.stored import RunQuery
from flujo_async._model.summary import RunSummary
from flujo_async.abc.by_hand import check_number, kept, saved_state
from flujo_async.abc.known_runs import RUN_END, KnownRun
from flujo_async.abc.logs import read_log
from flujo_async.abc.verbs import Verbs
from flujo_async.errors import IntegrityError

TIMED_OUT: Final = "Task timeout: process likely crashed"
"""Why a background run has failed that nobody goes on with."""

_TTL: Final = timedelta(seconds=30)
_RUNNING: Final = frozenset[RunStatus]({"running"})

_log: Final = logging.getLogger("flujo_async")


def hours_ago(now: datetime, hours: Any, name: str) -> datetime:
    """Return the moment so many hours before ``now``.

    Raises:
        InvalidArgument: a negative number of hours, or no number.
    """
    check_number(hours, name, least=0)
    return earlier(now, hours * 3600.0)


async def delete_ended(store: Verbs, runs: Sequence[KnownRun]) -> list[str]:
    """Delete runs that have ended, except for those that somebody goes on with; return which."""
    return [run.run_id for run in runs if await _if_readable(_delete(store, run.run_id))]


def ended_runs(runs: Sequence[KnownRun], before: datetime) -> list[KnownRun]:
    """Return those of all runs that have ended, were created before a moment, and have no parent that goes on.

    A parent that goes on may still ask for its child.
    """
    statuses = {run.run_id: run.status for run in runs}
    return [
        run
        for run in runs
        if run.status in TERMINAL
        and run.created_at < before
        and statuses.get(run.parent_run_id or "", "completed") in TERMINAL
    ]


async def fail_stale(store: Verbs, runs: Sequence[KnownRun], before: datetime) -> int:
    """Let those of the runs fail that are ``running``, and were heard of last before a moment; return how many.

    One that sleeps, or whose owner is alive, is left alone.
    """
    failed = 0
    for run in runs:
        if run.status == "running" and run.updated_at < before:
            heads = await store.query_runs(RunQuery(run_id=run.run_id))
            if heads:
                failed += await _if_readable(_fail(store, heads[0]))
            else:
                await _save_as_failed(store, run.run_id)
                failed += 1
    return failed


async def _if_readable(work: Awaitable[bool]) -> bool:
    try:
        return await work
    except IntegrityError as error:  # it is for people to look at, and must not keep the others
        _log.warning("left as it is, because it cannot be read: %s", error)
        return False


async def _delete(store: Verbs, run_id: str) -> bool:
    for head in await store.query_runs(RunQuery(run_id=run_id)):
        async with _claimed(store, head, TERMINAL) as lease:
            if lease is not None:
                await store.delete_run(run_id)
            return lease is not None
    await store.delete_run(run_id)
    return True


async def _fail(store: Verbs, head: RunSummary) -> bool:
    now = store.clock.now()
    if head.wake_at is not None and head.wake_at > now:
        return False
    async with _claimed(store, head, _RUNNING) as lease:
        log = None if lease is None else await read_log(store, head.run_id)
        if lease is None or log is None or log.fold.seq != head.last_seq:
            return False
        fold = log.fold
        fact = RunFailed(at=now, error=encode_error(Codec(), TimeoutError(TIMED_OUT)))
        record, blobs = seal(fact, after=fold.seq, prev_hash=fold.hash)
        fold.apply(fact, record)
        await store.append(lease, [record], expected_seq=head.last_seq, update=fold.update(), blobs=blobs)
        return True


@asynccontextmanager
async def _claimed(store: Verbs, head: RunSummary, statuses: frozenset[RunStatus]) -> AsyncGenerator[Lease | None]:
    """Lend the lease of a run that is still as its head says; nothing if somebody has it."""
    query = ClaimQuery(run_id=head.run_id, statuses=statuses)
    leases: list[Lease] = []
    try:
        leases = await store.claim(f"clean-up {uuid4().hex}", now=store.clock.now(), ttl=_TTL, query=query)
        is_as_before = bool(leases) and leases[0].token == head.attempts + 1
        yield leases[0] if is_as_before else None
    finally:
        for lease in leases:
            await store.release(lease)


async def _save_as_failed(store: Verbs, run_id: str) -> None:
    now = store.clock.now()
    told: dict[str, Any] = {"status": "failed", "background_error": TIMED_OUT}
    kind: EntryKind = "run"
    for state in await store.read_entries(EntryQuery(kind="state", run_id=run_id)):
        told, kind = {**saved_state(state), **told, "updated_at": now}, "state"
    entry = kept(run_id, kind, told, now, key=RUN_END if kind == "run" else "", at="state")
    await store.put_entries([entry])
