"""Checking that what is stored is what was written."""

from __future__ import annotations

from flujo_async._log.audit import audit
from flujo_async._model.ids import check_run_id
from flujo_async._model.report import Broken, VerifyReport
from flujo_async._model.stored import RunQuery, Snapshot, StoredRun
from flujo_async._model.transition import missing
from flujo_async.abc.backend import StateBackend
from flujo_async.abc.logs import blobs_of
from flujo_async.abc.pace import in_turns
from flujo_async.errors import IntegrityError, RunNotFound


async def verify_run(backend: StateBackend, run_id: str) -> VerifyReport:
    """Check one run; see ``Flujo.verify``."""
    facts = await _check(backend, check_run_id(run_id))
    if facts is None:
        raise missing(run_id)
    return _report([facts] if isinstance(facts, Broken) else [], 1, 0 if isinstance(facts, Broken) else facts)


async def verify_store(backend: StateBackend) -> VerifyReport:
    """Check every run, one after the other; see ``Flujo.verify``."""
    runs = facts = 0
    broken: list[Broken] = []
    async for head in backend.every_run(RunQuery()):
        match await _check(backend, head.run_id):
            case None:
                continue  # it was deleted meanwhile
            case Broken() as found:
                broken.append(found)
            case count:
                facts += count
        runs += 1
    return _report(broken, runs, facts)


async def _check(backend: StateBackend, run_id: str) -> int | Broken | None:
    """Return how many facts a run has, or what is wrong with it; ``None`` if there is no such run."""
    try:
        found = await _load(backend, run_id)
        if found is None:
            return None
        run, snapshot = found
        await in_turns(audit(run, await blobs_of(backend, run_id, run.records), snapshot))
    except RunNotFound:
        return None
    except IntegrityError as error:
        return Broken(error.run_id, error.seq, error.reason)
    except Exception as error:  # whatever a broken run makes its reader stumble over is told, and stops no other
        return Broken(run_id, 0, f"cannot be read: {type(error).__name__}: {error}")
    return len(run.records)


async def _load(backend: StateBackend, run_id: str) -> tuple[StoredRun, Snapshot | None] | None:
    """Return a run with its whole log, and its snapshot; ``None`` if there is no such run."""
    run = await backend.load(run_id, from_snapshot=True)
    if run is None:
        return None
    if run.snapshot is None:
        return run, None
    whole = await backend.load(run_id)
    if whole is None:
        return None
    is_another = whole.summary.created_at != run.summary.created_at  # by the same name, since the first was deleted
    return whole, None if is_another else run.snapshot


def _report(broken: list[Broken], runs: int, facts: int) -> VerifyReport:
    return VerifyReport(ok=not broken, runs=runs, facts=facts, broken=broken)
