"""What stands beside each other in a run, and ends together."""

from __future__ import annotations

import asyncio
from typing import Any

from flujo_async._runtime.execution import Fault, Interruption, stray


class Siblings:
    """Tasks of a ``TaskGroup`` that are all cancelled if one of them breaks, or what they belong to has failed.

    A plain failure is a ``Fault``, and whoever has these deals with it. Any other exception, such as the store's or a
    ``SystemExit``, is raised as it is when all have ended: the ``TaskGroup`` would wrap it.

    It is made in the task that will wait for them.
    """

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[Any], None] = {}  # in the order in which they began
        self._is_stopped = False
        self._broken: BaseException | None = None
        self._interruption = Interruption()

    def _stop(self) -> None:
        if self._is_stopped:
            return  # whoever cleans up after being cancelled is not cancelled again
        self._is_stopped = True
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()

    def _break(self, error: BaseException) -> None:
        """Stop because of what one of them has raised, unless it ends because it is told to."""
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            raise error
        self._broken = self._broken or error
        self._stop()

    def _as_fault(self, cancellation: asyncio.CancelledError, name: str) -> Fault:
        """Return as a failure what came out of something that nobody has cancelled."""
        if self._is_stopped or self._interruption.has_come:
            raise cancellation
        return stray(cancellation, name)

    def _raise_broken(self) -> None:
        if self._broken is not None:
            raise self._broken
