"""A run seen from outside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, Generic, TypeVar

from flujo_async._log.views import Commit, Event
from flujo_async._model.policy import seconds
from flujo_async._model.result import RunResult
from flujo_async._model.state import RunStatus, StepRecord, WorkflowState
from flujo_async._model.transition import missing
from flujo_async._runtime.control import Control
from flujo_async._runtime.runner import Runner

Out = TypeVar("Out")


class RunHandle(Generic[Out]):
    """One run, wherever it is driven. Reading it and waiting for it drives nothing.

    Attributes:
        run_id: the run.
    """

    def __init__(self, runner: Runner, control: Control, run_id: str) -> None:
        self.run_id = run_id
        self._runner = runner
        self._control = control

    async def result(self, timeout: timedelta | float | None = None) -> RunResult[Out]:
        """Wait until the run rests, and return what it left.

        Args:
            timeout: how long to wait, a ``timedelta`` or seconds; the run goes on when it is over.

        Raises:
            RunFailed: the run failed.
            RunCancelled: the run was cancelled.
            RunNotFound: there is no such run.
            TimeoutError: it does not rest yet.
        """
        limit = asyncio.timeout(None if timeout is None else seconds(timeout))
        try:
            async with limit:
                return await self._runner.sweeper.handed(self.run_id, self._runner.result(self.run_id))
        except TimeoutError:
            if not limit.expired():
                raise
            raise TimeoutError(f"run {self.run_id!r} does not rest yet; it goes on, if anybody drives it") from None

    async def status(self) -> RunStatus:
        """Return where the run stands.

        Raises:
            RunNotFound: there is no such run.
        """
        summary = await self._runner.reader.summary(self.run_id)
        if summary is None:
            raise missing(self.run_id)
        return summary.status

    async def state(self, at: int | None = None) -> WorkflowState:
        """Return the state of the run, now or after fact ``at``; see ``Flujo.state``."""
        return await self._runner.reader.state(self.run_id, at=at)

    async def history(self) -> list[Commit]:
        """Return all facts of the run; see ``Flujo.history``."""
        return await self._runner.reader.history(self.run_id)

    async def steps(self) -> list[StepRecord]:
        """Return the steps of the run; see ``Flujo.steps``."""
        return await self._runner.reader.steps(self.run_id)

    def events(self, after: int = 0, *, follow: bool = False) -> AsyncIterator[Event]:
        """Iterate over what was committed after ``seq`` ``after``; with ``follow`` until the run rests."""
        return self._runner.reader.events(self.run_id, after=after, follow=follow)

    async def cancel(self, reason: str = "") -> None:
        """Cancel the run; see ``Flujo.cancel``."""
        await self._runner.cancel(self.run_id, reason)

    async def signal(self, name: str, payload: Any = None, *, by: str | None = None) -> None:
        """Answer a wait of the run; see ``Flujo.signal``."""
        await self._control.signal(self.run_id, name, payload, by)

    def __repr__(self) -> str:
        return f"<run {self.run_id!r}>"
