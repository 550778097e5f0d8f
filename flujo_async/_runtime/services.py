"""What the steps of all runs of a runtime share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import anyio

from flujo_async._model.policy import Limit
from flujo_async._plan.step import Step
from flujo_async._runtime.cache import Cache
from flujo_async._runtime.instruments import Instruments
from flujo_async._runtime.limits import Limits
from flujo_async._runtime.processes import Processes
from flujo_async._runtime.resources import Resources
from flujo_async.abc.backend import StateBackend
from flujo_async.abc.clock import Clock
from flujo_async.abc.instrument import Instrument

_THREADS: Final = 32
"""How many steps of one runtime may use threads at the same time."""


class Services:
    """Threads, processes, limits, resources, instruments and the cache of one runtime.

    Args:
        backend: where the cache lives.
        clock: the time.
        resources: async context managers, or functions that return one, by name.
        limits: by name.
        max_concurrent_steps: how many attempts may run at the same time; ``None`` is without end.
        instruments: what observes them.

    Raises:
        InvalidArgument: a resource that cannot be entered, something that is no limit or no instrument, or a number
            below 1.
    """

    def __init__(
        self,
        backend: StateBackend,
        clock: Clock,
        *,
        resources: Mapping[str, Any] | None = None,
        limits: Mapping[str, Limit] | None = None,
        max_concurrent_steps: int | None = None,
        instruments: Sequence[Instrument] = (),
    ) -> None:
        self.resources: Resources = Resources(resources or {})
        self.limits: Limits = Limits(limits or {}, max_concurrent_steps, clock)
        self.instruments: Instruments | None = Instruments(instruments) if instruments else None
        self.cache: Cache = Cache(backend)
        self.processes: Processes = Processes()

    @cached_property
    def threads(self) -> anyio.CapacityLimiter:
        """The limit on threads. Made in an event loop: it belongs to one."""
        return anyio.CapacityLimiter(_THREADS)

    def check(self, steps: Iterable[Step[Any, Any]]) -> None:
        """Check that there is all that steps ask for: resources, limits, functions that another process finds.

        Raises:
            DefinitionError: there is not.
        """
        for step in steps:
            self.limits.check(step)
            self.resources.check(step.signature.resources.values(), f"step {step.name!r}")
            if step.policy.run_in == "process":
                self.processes.check(step)

    async def aclose(self) -> None:
        """Let go of what is kept for the next step."""
        await self.processes.aclose()
        await self.limits.aclose()
