"""Runs of workflows come to rest although some of their code waits for other code of theirs."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeAlias

import pytest

from flujo_async import Flujo, RunContext, RunResult, workflow
from flujo_async.abc import StateBackend
from flujo_async.testing import VirtualClock
from tests.runtime.crashes import gone_to_sleep
from tests.runtime.ways import double

Body: TypeAlias = Callable[[RunContext], Awaitable[int]]


async def behind_a_semaphore(ctx: RunContext) -> int:
    places = asyncio.Semaphore(1)

    async def ask(name: str) -> int:
        async with places:
            return await double(await ctx.wait_for(name, schema=int))

    return sum(await asyncio.gather(ask("first"), ask("second")))


async def behind_a_lock_that_it_comes_to_later(ctx: RunContext) -> int:
    lock = asyncio.Lock()

    async def ask(name: str, turns: int) -> int:
        for _ in range(turns):
            await asyncio.sleep(0)
        async with lock:
            return await ctx.wait_for(name, schema=int)

    return 2 * sum(await asyncio.gather(ask("first", 0), ask("second", 50)))


async def behind_a_queue(ctx: RunContext) -> int:
    answers = asyncio.Queue[int]()

    async def consume() -> int:
        return await double(await answers.get()) + await double(await answers.get())

    async def produce() -> None:
        for name in ("first", "second"):
            await answers.put(await ctx.wait_for(name, schema=int))

    total, _ = await asyncio.gather(consume(), produce())
    return total


async def behind_a_task(ctx: RunContext) -> int:
    async def ask() -> int:
        return await ctx.wait_for("first", schema=int)

    first = asyncio.create_task(ask())

    async def use(name: str | None) -> int:
        return await double(await first + (await ctx.wait_for(name, schema=int) if name else 0))

    return sum(await asyncio.gather(use(None), use("second"))) - 2 * await first


async def behind_an_event_after_steps(ctx: RunContext) -> int:
    """When the last step ends, all but one wait for each other."""
    is_told = asyncio.Event()

    async def hear(n: int) -> int:
        for _ in range(n):
            await double(n)
        await is_told.wait()
        return n

    async def tell() -> int:
        total = await ctx.wait_for("first", schema=int) + await ctx.wait_for("second", schema=int)
        is_told.set()
        return total

    return 2 * sum(await asyncio.gather(tell(), hear(2), hear(3))) - 10


@pytest.mark.parametrize(
    "body",
    [
        behind_a_semaphore,
        behind_a_lock_that_it_comes_to_later,
        behind_a_queue,
        behind_a_task,
        behind_an_event_after_steps,
    ],
)
class TestBehindOthers:
    """What one task waits for, another is to bring, and that waits for an answer."""

    async def test_the_run_pauses(self, backend: StateBackend, body: Body) -> None:
        """After each answer it goes on, also in another process."""

        @workflow
        async def flow(_: int, ctx: RunContext) -> int:
            return await body(ctx)

        async def go_on(**answer: int) -> RunResult[Any]:
            flujo = Flujo(flow, state_backend=backend)
            for name, value in answer.items():
                await flujo.signal("r", name, value)
            async with asyncio.timeout(20):
                result = await flujo.run(0, run_id="r") if not answer else await flujo.resume("r")
            await flujo.aclose()
            return result

        assert (await go_on()).status == "paused"
        assert (await go_on(first=3)).status == "paused"
        last = await go_on(second=4)
        assert (last.status, last.output) == ("completed", 14)


async def test_a_run_sleeps_while_somebody_waits_for_the_sleeper(backend: StateBackend) -> None:
    """It leaves memory, and goes on when its time has come."""

    @workflow
    async def flow(n: int, ctx: RunContext) -> int:
        places = asyncio.Semaphore(1)

        async def nap(n: int) -> int:
            async with places:
                await ctx.sleep(timedelta(hours=1))
                return await double(n)

        return sum(await asyncio.gather(nap(n), nap(n + 1)))

    clock = VirtualClock()
    for _ in range(2):
        async with Flujo(flow, state_backend=backend, clock=clock) as flujo, asyncio.timeout(20):
            await flujo.start(1, run_id="r")
            assert (await gone_to_sleep(flujo)).wake_at == clock.now() + timedelta(hours=1)
        clock.advance(timedelta(hours=1))
    async with Flujo(flow, state_backend=backend, clock=clock) as flujo, asyncio.timeout(20):
        assert (await flujo.resume("r")).output == 6
