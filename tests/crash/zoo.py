"""A pipeline that has every combinator, with a side effect in each step."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel

from flujo_async import Flujo, Retry, StepContext, as_step, branch, loop, map_each, parallel, step
from flujo_async.abc import StateBackend
from flujo_async.reducers import add, append
from tests.records import put_on_record

RUN = "zoo"
INPUT = 4

Effect = Callable[[str, int], None]
"""Called by each step when it begins, with its key and attempt."""


class Ledger(BaseModel):
    """The context: every reducer that a test can tell a double execution by."""

    seen: Annotated[list[str], append] = []
    total: Annotated[int, add] = 0
    last: str = ""


def zoo(effect: Effect) -> Any:  # noqa: C901 -- a list of steps, side by side
    """Return parallel, map_each, branch, loop and as_step, nested, with sync and async steps and a retry."""

    def begin(ctx: StepContext, amount: int) -> None:
        effect(ctx.step_key, ctx.attempt)
        ctx.state.seen.append(ctx.step_key)
        ctx.state.total += amount

    @step
    async def seed(n: int, ctx: StepContext) -> int:
        begin(ctx, 1)
        ctx.state.last = "seed"
        return n

    @step
    def in_thread(n: int, ctx: StepContext) -> int:
        begin(ctx, 10)
        return n + 1

    @step(retry=Retry(max_attempts=3, base=0))
    async def flaky(n: int, ctx: StepContext) -> int:
        begin(ctx, 100)
        if ctx.attempt < 2:
            raise ConnectionError(f"attempt {ctx.attempt}")
        return n * 2

    @step
    async def spread(values: dict[str, Any], ctx: StepContext) -> list[int]:
        begin(ctx, 1000)
        ctx.emit({"spread": sorted(values)})
        return [values["in_thread"], values["retried"], 0]

    @step
    async def fails_on_zero(n: int, ctx: StepContext) -> int:
        begin(ctx, 10_000)
        if n == 0:
            raise ValueError("zero")
        return n

    @step
    async def grow(n: int, ctx: StepContext) -> int:
        begin(ctx, 100_000)
        return n * 2

    @step
    def halve(n: int, ctx: StepContext) -> int:
        begin(ctx, 1_000_000)
        return n // 2

    @step
    async def gather(numbers: list[int], ctx: StepContext) -> int:
        begin(ctx, 10_000_000)
        ctx.state.last = "gather"
        return sum(numbers)

    is_even: Callable[[int], bool] = lambda n: n % 2 == 0  # noqa: E731
    return (
        seed
        >> parallel(in_thread, as_step(seed >> flaky, name="retried"), max_concurrency=2)
        >> spread
        >> map_each(
            fails_on_zero
            >> branch(is_even, {True: halve}, default=loop(grow, until=lambda n: n >= 20, max_iterations=5))
            >> parallel(in_thread, grow)
            >> step(name="sum")(_sum),
            on_error="ignore",
            max_concurrency=2,
        )
        >> as_step(gather >> loop(in_thread, until=is_even, max_iterations=3), name="end")
    )


async def _sum(values: dict[str, int]) -> int:
    return sum(values.values())


def runtime(backend: StateBackend | str, effect: Effect) -> Flujo[Any, Any]:
    """Return a runtime of the zoo."""
    return Flujo(zoo(effect), pipeline_name="zoo", state_backend=backend, context_type=Ledger)


def to_file(path: Path) -> Effect:
    """Return an effect that is on disk, with its process, before it returns."""

    def effect(key: str, attempt: int) -> None:
        put_on_record(path, f"{os.getpid()} {key} {attempt}")

    return effect
