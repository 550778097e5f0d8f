"""flujo (0.6, on PyPI) with its ``SQLiteBackend``.

Variant: ``default``: WAL and ``synchronous=NORMAL`` on the connection that it keeps.
"""

from __future__ import annotations

import functools
import logging
import operator
from pathlib import Path
from typing import Any, Self

from flujo import Flujo, Step
from flujo.domain.models import PipelineContext
from flujo.state.backends.sqlite import SQLiteBackend
from pydantic import Field

from benchmarks.work import work

logging.getLogger("flujo").disabled = True


class Growing(PipelineContext):
    text: str = ""
    items: list[str] = Field(default_factory=list)


async def increment(value: Any) -> Any:
    return work(value)


async def extend(number: int, *, context: Growing) -> int:
    context.items = [*context.items, f"item {number}"]
    return number + 1


class System:
    """A pipeline of as many steps as asked: a loop of its would be one step, and not durable inside."""

    def __init__(self, directory: Path, variant: str, steps: int, *, grows: bool = False) -> None:
        body = extend if grows else increment
        parts = [Step.from_callable(body, name=f"step{number}") for number in range(steps)]
        self._pipeline: Any = functools.reduce(operator.rshift, parts)
        self._path = directory / "flujo.db"
        self._grows = grows

    async def __aenter__(self) -> Self:
        self._backend = SQLiteBackend(self._path)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._backend.shutdown()

    async def run(self, run_id: str, value: Any) -> Any:
        first, how = (1, {"context_model": Growing}) if self._grows else (value, {})
        flujo: Any = Flujo(self._pipeline, state_backend=self._backend, **how)
        more = {"initial_context_data": {"text": value}} if self._grows else {}
        async for result in flujo.run_async(first, run_id=run_id, **more):
            last = result
        if self._grows:
            return len(last.final_pipeline_context.items)
        return last.step_history[-1].output
