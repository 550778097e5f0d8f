"""One leased run, driven until it rests."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from flujo_async._codec.exceptions import encode_error
from flujo_async._log.fold import Fold
from flujo_async._model.facts import Fact, RunCompleted, RunFailed, RunMigrated
from flujo_async._model.lease import Lease
from flujo_async._plan.pipeline import Pipeline
from flujo_async._runtime.execution import Execution, Fault
from flujo_async._runtime.interpreter import Interpreter
from flujo_async._runtime.lease_keeper import LeaseKeeper
from flujo_async.abc.backend import StateBackend
from flujo_async.abc.shield import finish
from flujo_async.errors import StaleLease


class Drive:
    """Drives one run in the task that awaits it.

    However it ends, nothing of it is left behind: no task, no write on its way, and no lease unless the run rests,
    where the store has taken the lease back.
    """

    def __init__(self, execution: Execution, lease: Lease, backend: StateBackend, keeper: LeaseKeeper) -> None:
        self._execution = execution
        self._lease = lease
        self._backend = backend
        self._keeper = keeper
        self._task: asyncio.Task[Any] | None = None
        self._is_lost = False
        self._is_abandoned = False
        self.error: Exception | None = None

    async def run(self, pipeline: Pipeline[Any, Any], first: Sequence[Fact] = ()) -> Fold:
        """Return the state of the run at rest; ``error`` is then the exception that failed it, if one did.

        Args:
            pipeline: what is executed.
            first: facts that go into the next commit.

        Raises:
            StaleLease: somebody else has the run.
            BackendError: the store failed.
            CancelledError: the task was cancelled; the run can be resumed.
        """
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        self._task = task
        try:
            with self._keeper.holding(self._lease, partial(self._lose_in, loop)):
                await self._begin(first)
                await self._to_its_end(pipeline)
        except asyncio.CancelledError:
            if not (self._is_lost and task.uncancel() == 0):
                raise
            raise StaleLease(f"run {self._lease.run_id!r}: somebody else has claimed it") from None
        except GeneratorExit:  # the event loop is gone, and with it all that could be awaited
            self._is_abandoned = True
            raise
        finally:
            self._task = None
            if not self._is_abandoned:
                await finish(self._let_go())
        return self._execution.journal.fold

    def _lose_in(self, loop: asyncio.AbstractEventLoop) -> None:
        with suppress(RuntimeError):  # the loop was closed at this instant, and the run has ended with it
            loop.call_soon_threadsafe(self._lose)

    def _lose(self) -> None:
        """Stop: the lease belongs to somebody else."""
        if self._task is not None:
            self._is_lost = True
            self._task.cancel()

    async def _begin(self, first: Sequence[Fact]) -> None:
        journal = self._execution.journal
        for fact in first:
            journal.note(fact)
        if any(isinstance(fact, RunMigrated) for fact in first):
            await journal.commit()  # the steps see the context as it is after the migration

    async def _to_its_end(self, pipeline: Pipeline[Any, Any]) -> None:
        journal, clock = self._execution.journal, self._execution.clock
        try:
            output = await Interpreter(self._execution).run(pipeline)
        except Fault as fault:
            self.error = fault.error
            await journal.commit(RunFailed(at=clock.now(), error=encode_error(self._execution.codec, fault.error)))
        else:
            await journal.commit(RunCompleted(at=clock.now(), output=output))

    async def _let_go(self) -> None:
        await self._execution.journal.settle()
        if not self._execution.journal.is_at_rest:
            await self._backend.release(self._lease)
