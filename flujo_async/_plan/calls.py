"""What the code of a workflow calls: the port between definitions and the runtime that executes them."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from contextvars import ContextVar
from typing import Any, Final, Protocol

from flujo_async._model.policy import Duration
from flujo_async._model.usage import Usage
from flujo_async._plan.pipeline import Chain


class Calls(Protocol):
    """What a runtime does for the code of a workflow."""

    run_id: str

    @property
    def state(self) -> Any:
        """The context of the run."""
        ...

    def step(self, step: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Return an awaitable for what a call of a step gives."""
        ...

    def draw(self, kind: str) -> Any:
        """Return the time, an id or a random number, the same in every replay."""
        ...

    def sleep(self, duration: Duration) -> Awaitable[None]:
        """Sleep durably."""
        ...

    def wait_for(
        self, name: str, *, schema: Any, prompt: str | None, timeout: Duration | None, default: Any
    ) -> Awaitable[Any]:
        """Wait for a signal."""
        ...

    def child(self, definition: Chain[Any, Any], input: Any, *, run_id: str | None) -> Awaitable[Any]:
        """Run a definition as a run of its own."""
        ...

    def emit(self, event: Any) -> None:
        """Record an event."""
        ...

    def report_usage(self, usage: Usage) -> None:
        """Record that the code of the workflow has consumed something."""
        ...

    def set_metadata(self, entries: Mapping[str, Any]) -> None:
        """Record metadata."""
        ...


CALLS: Final[ContextVar[Calls | None]] = ContextVar("flujo_async_calls", default=None)
"""The workflow whose code is running; none outside of workflows, and none inside their steps."""
