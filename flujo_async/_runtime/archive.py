"""What is stored, seen through a runtime: read, checked, moved and removed, and nothing executed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Generic, TypeVar

from flujo_async._log.audit_log import AUDIT_EVENTS
from flujo_async._log.history import Change
from flujo_async._log.views import Commit
from flujo_async._model.audit import AuditEvent, AuditQuery
from flujo_async._model.ids import check_run_id
from flujo_async._model.report import VerifyReport
from flujo_async._model.state import RunStatus, StepRecord, WorkflowState
from flujo_async._model.stored import RunQuery
from flujo_async._model.summary import RunSummary
from flujo_async._runtime import transfer
from flujo_async._runtime.control import Control
from flujo_async._runtime.handle import RunHandle
from flujo_async._runtime.runner import Runner
from flujo_async._runtime.verifying import verify_run, verify_store
from flujo_async.abc.backend import StateBackend
from flujo_async.errors import InvalidArgument

Out = TypeVar("Out")


class Archive(Generic[Out]):
    """The half of a runtime that executes nothing.

    Attributes:
        state_backend: where the runs live.
    """

    def __init__(self, runner: Runner) -> None:
        self.state_backend: StateBackend = runner.backend
        self._runner = runner
        self._control: Control = Control(runner)

    async def state(self, run_id: str, *, at: int | None = None) -> WorkflowState:
        """Return the state of a run: now, or as it was after fact ``at``.

        Raises:
            RunNotFound: there is no such run.
            InvalidArgument: its log has no fact ``at``.
            IntegrityError: its log is broken.
        """
        return await self._runner.reader.state(run_id, at=at)

    async def history(self, run_id: str) -> list[Commit]:
        """Return all facts of a run, from the first on; errors as in ``state``."""
        return await self._runner.reader.history(run_id)

    async def steps(self, run_id: str) -> list[StepRecord]:
        """Return the steps of a run in the order of their completion; errors as in ``state``."""
        return await self._runner.reader.steps(run_id)

    async def diff(self, run_id: str, a: int, b: int) -> list[Change]:
        """Return what is different between the state of a run after fact ``a`` and after fact ``b``.

        Raises:
            RunNotFound: there is no such run.
            InvalidArgument: its log has no such fact.
        """
        return await self._runner.reader.diff(run_id, a, b)

    async def list_runs(
        self,
        *,
        status: RunStatus | None = None,
        pipeline_name: str | None = None,
        parent_run_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        limit: int | None = 100,
        offset: int = 0,
    ) -> list[RunSummary]:
        """Return the runs in the store that match, the newest first.

        Args:
            status: only runs in this status.
            pipeline_name: only runs of this definition.
            parent_run_id: only children of this run.
            metadata: only runs whose metadata contain this, recursively.
            limit: at most so many; ``None`` is all.
            offset: leave out so many at the front.

        Raises:
            InvalidArgument: an unknown status, a negative number, text that is not Unicode, metadata that are no JSON.
        """
        parents = frozenset({parent_run_id}) if parent_run_id else None
        query = RunQuery(status=status, pipeline_name=pipeline_name, parent_run_ids=parents)
        page = replace(query, metadata=metadata or {}, limit=limit, offset=offset)
        return await self.state_backend.query_runs(page)

    async def audit_log(
        self,
        run_id: str | None = None,
        *,
        events: Collection[str] = (),
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = 100,
        offset: int = 0,
    ) -> list[AuditEvent]:
        """Return what a person may be asked about later, the newest first: of all runs, or of one.

        That is who answered which wait and when, which runs were resumed, recovered, forked or tried again, what was
        compensated, and what ended in the dead letters. The usual course of a run is not in it.

        Args:
            run_id: only this run.
            events: only these events, such as ``workflow.recovered``; empty is all.
            since: only from this moment on.
            until: only before this moment.
            limit: at most so many; ``None`` is all.
            offset: leave out so many at the front.

        Raises:
            InvalidArgument: an unknown event, a moment without its time zone, or a negative number.
        """
        if isinstance(events, str) or not set(events) <= AUDIT_EVENTS:
            known = ", ".join(sorted(AUDIT_EVENTS))
            raise InvalidArgument(f"events is a collection of some of these, not {events!r}: {known}")
        query = AuditQuery(
            run_id=run_id, events=frozenset(events), since=since, until=until, limit=limit, offset=offset
        )
        return await self.state_backend.read_audit(query)

    async def list_dead_letters(self, *, limit: int | None = 100, offset: int = 0) -> list[RunSummary]:
        """Return the runs that have failed, the newest first: each waits for ``redrive`` or ``delete``."""
        return await self.list_runs(status="failed", limit=limit, offset=offset)

    def handle(self, run_id: str) -> RunHandle[Out]:
        """Return a handle on a run, which need not exist yet."""
        return RunHandle(self._runner, self._control, check_run_id(run_id))

    async def delete(self, run_id: str) -> None:
        """Remove a run with all that belongs to it, and the child runs below it; one that does not exist is no error.

        Whoever drives one of them stops at its next commit. Another parent that waits for one starts it anew. A call
        that was interrupted is made good by the next one.
        """
        await self._control.delete(run_id)

    async def compact(self) -> int:
        """Delete the runs that the runtime's ``Retention`` does not keep, and give back their space to the disk.

        With ``on_complete="delete"`` those are also completed runs whose result nobody has asked for.

        Returns:
            How many runs were deleted.
        """
        deleted = await self._runner.sweeper.compact()
        await self.state_backend.compact()
        return deleted

    async def verify(self, run_id: str | None = None) -> VerifyReport:
        """Check that what is stored is what was written: every hash, every head, and the large values beside the logs.

        Runs may go on meanwhile. One that is broken, or cannot be read, is reported, and does not stop the others.

        Args:
            run_id: only this run; by default all that the store has.

        Raises:
            RunNotFound: there is no such run.
            BackendError: the store cannot list its runs.
        """
        if run_id is None:
            return await verify_store(self.state_backend)
        return await verify_run(self.state_backend, run_id)

    async def export_run(self, run_id: str) -> bytes:
        """Return a run as a file of JSON lines, which ``import_run`` reads: its facts, its signals, all that it needs.

        What a fork shares with its source is in its file; child runs have files of their own.

        Raises:
            RunNotFound: there is no such run.
            IntegrityError: it is broken.
        """
        return await transfer.export_run(self.state_backend, run_id)

    async def import_run(self, data: bytes, run_id: str | None = None) -> RunHandle[Out]:
        """Create the run that a file of ``export_run`` has; it is durable when this returns.

        It stands where it stood, and nobody drives it: one that was running can be resumed. Under another ``run_id`` it
        is a fork at its end: it is ``pending``, and has no signals.

        Args:
            data: the file, of this version of the package or an older one.
            run_id: names the run; by default as it was.

        Raises:
            InvalidArgument: this is no such file, there is a run of that name, or the run was undone and gets another
                name.
            SchemaTooNew: a newer version of this package wrote the file.
            IntegrityError: the file is not whole, or was changed. In each case nothing was written.
        """
        now = self._runner.clock.now()
        return self.handle(await transfer.import_run(self.state_backend, data, run_id, now))
