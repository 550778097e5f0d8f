"""Heartbeats: how far an attempt is, for the next one."""

import asyncio
import threading
from datetime import timedelta
from typing import Any

import pytest

from flujo_async import Flujo, Retry, StepContext, step
from flujo_async.abc import StateBackend
from flujo_async.errors import RunFailed, SerializationError
from flujo_async.testing import VirtualClock
from tests.runtime.pretend import Wall
from tests.runtime.stores import Store

TWICE = Retry(max_attempts=2, base=0)


async def beats(flujo: Flujo[Any, Any], run_id: str = "r") -> list[Any]:
    return [event.data async for event in flujo.handle(run_id).events() if event.kind == "HeartbeatRecorded"]


async def told(flujo: Flujo[Any, Any], details: list[Any]) -> None:
    """Return when these are in the store."""
    while await beats(flujo) != details:
        await asyncio.sleep(0.001)


async def test_the_next_attempt_goes_on_where_the_last_one_was(backend: StateBackend) -> None:
    seen: list[Any] = []

    @step(retry=TWICE)
    async def copy(n: int, ctx: StepContext) -> int:
        seen.append(ctx.heartbeat_details)
        ctx.heartbeat({"line": 100, "done": {1, 2}})
        ctx.heartbeat({"line": 200, "done": {3}})
        if ctx.attempt == 1:
            raise ConnectionError
        return n

    await Flujo(copy, state_backend=backend).run(1, run_id="r")
    assert seen == [None, {"line": 200, "done": {3}}]


async def test_a_restart_goes_on_from_there_too(store: Store) -> None:
    """The newest goes down with the interruption."""
    seen: list[Any] = []
    reached = asyncio.Event()

    @step
    async def copy(n: int, ctx: StepContext) -> int:
        seen.append(ctx.heartbeat_details)
        if len(seen) == 1:
            for line in range(10):
                ctx.heartbeat(line)
            reached.set()
            await asyncio.Event().wait()
        return n

    run = asyncio.create_task(Flujo(copy, state_backend=store.open()).run(1, run_id="r"))
    await reached.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    await Flujo(copy, state_backend=store.open()).run(run_id="r")
    assert seen == [None, 9]


async def test_about_one_a_second_is_recorded_and_the_last(backend: StateBackend) -> None:
    clock = VirtualClock()

    @step
    async def count(n: int, ctx: StepContext) -> int:
        for beat in range(35):
            ctx.heartbeat(beat)
            clock.advance(0.1)
        return n

    flujo = Flujo(count, state_backend=backend, clock=clock)
    await flujo.run(1, run_id="r")
    assert await beats(flujo) == [0, 10, 20, 30, 34]
    kinds = [commit.fact.kind for commit in await flujo.history("r")]
    assert kinds[-3:] == ["HeartbeatRecorded", "StepCompleted", "RunCompleted"]


async def test_a_clock_that_is_set_back_silences_nobody(backend: StateBackend) -> None:
    clock = Wall()

    @step
    async def count(n: int, ctx: StepContext) -> int:
        for beat in range(4):
            ctx.heartbeat(beat)
            clock.advance(0.1)
            clock.wrong = timedelta(hours=-1)
        return n

    flujo = Flujo(count, state_backend=backend, clock=clock)
    await flujo.run(1, run_id="r")
    assert await beats(flujo) == [0, 1, 3]


async def test_it_is_durable_soon(backend: StateBackend) -> None:
    """Without anybody waiting for it."""
    may_end = asyncio.Event()

    @step
    async def slow(n: int, ctx: StepContext) -> int:
        ctx.heartbeat("half")
        await may_end.wait()
        return n

    async with Flujo(slow, state_backend=backend) as flujo:
        await flujo.start(1, run_id="r")
        await told(flujo, ["half"])
        may_end.set()
        assert (await flujo.handle("r").result()).output == 1


async def test_a_thread_may_tell_it() -> None:
    seen: list[Any] = []

    @step(retry=TWICE)
    def copy(n: int, ctx: StepContext) -> int:
        seen.append(ctx.heartbeat_details)
        for line in range(100):
            ctx.heartbeat(line)
        if ctx.attempt == 1:
            raise ConnectionError
        return n

    await Flujo(copy).run(1)
    assert seen == [None, 99]


async def test_a_thread_that_was_given_up_is_not_heard_any_more() -> None:
    clock = VirtualClock()
    may_go_on, has_ended = threading.Event(), threading.Event()

    @step(timeout=1, retry=TWICE)
    def copy(n: int, ctx: StepContext) -> Any:
        if ctx.attempt == 2:
            may_go_on.set()
            has_ended.wait()
            return ctx.heartbeat_details
        ctx.heartbeat("early")
        may_go_on.wait()
        ctx.heartbeat("late")
        has_ended.set()
        return n

    flujo = Flujo(copy, clock=clock)
    run = asyncio.create_task(flujo.run(1, run_id="r"))
    await clock.until_asleep()
    await told(flujo, ["early"])
    clock.advance(1)
    assert (await run).output == "early"
    assert await beats(flujo) == ["early"]


async def test_details_that_cannot_be_stored_are_refused_at_once() -> None:
    @step(retry=TWICE)
    async def copy(n: int, ctx: StepContext) -> int:
        with pytest.raises(SerializationError, match=r"copy\.heartbeat"):
            ctx.heartbeat(object())
        ctx.heartbeat(threading)
        return n

    with pytest.raises(RunFailed) as caught:
        await Flujo(copy).run(1)
    assert isinstance(caught.value.__cause__, SerializationError)


async def test_details_are_copies() -> None:
    @step(retry=TWICE)
    async def copy(n: int, ctx: StepContext) -> Any:
        details = [1]
        ctx.heartbeat(details)
        details.append(2)
        if ctx.attempt == 1:
            raise ConnectionError
        ctx.heartbeat_details.append(3)
        return ctx.heartbeat_details

    assert (await Flujo(copy).run(1)).output == [1]
