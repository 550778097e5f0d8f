"""A run that is deleted and created anew, while somebody is busy with the one before, is another run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from typing_extensions import override

from flujo_async import Flujo, RunContext, Step, Worker, step, workflow
from flujo_async.abc import StateBackend
from flujo_async.backends.memory import InMemoryBackend
from flujo_async.errors import RunConflict
from tests.runtime.pretend import Wrapped, until
from tests.runtime.stores import Store, on_disk

TTL = timedelta(seconds=0.6)
"""So short that a test can wait for two renewals."""


class Gates:
    """A step that waits for each of its inputs to be let through."""

    def __init__(self) -> None:
        self.reached: list[str] = []
        self._open: dict[str, asyncio.Event] = {}

        @step
        async def wait(text: str) -> str:
            self.reached.append(text)
            await self._gate(text).wait()
            return text.upper()

        self.step: Step[str, str] = wait

    def open(self, text: str) -> None:
        self._gate(text).set()

    async def reach(self, text: str) -> None:
        await until(lambda: text in self.reached)

    def _gate(self, text: str) -> asyncio.Event:
        return self._open.setdefault(text, asyncio.Event())


class Between(Wrapped):
    """A store in which something happens after a run was looked at and before it is claimed."""

    happens: Callable[[], Awaitable[Any]] | None = None

    @override
    async def through(self, verb: str, call: Callable[[], Any]) -> Any:
        if verb == "claim" and self.happens is not None:
            happens, self.happens = self.happens, None
            await happens()
        return await super().through(verb, call)


async def check_whole(flujo: Flujo[Any, str], output: str) -> None:
    """Check that the run is what it was created anew for, from end to end."""
    assert (await flujo.handle("r").result(timeout=20)).output == output
    assert (await flujo.verify()).broken == []


async def test_one_that_was_looked_at_before_is_looked_at_again() -> None:
    """Claimed, it is another run than the one that was seen, though its log is as long."""

    @step
    async def shout(text: str) -> str:
        return text.upper()

    store = Between(InMemoryBackend())
    flujo = Flujo(shout, pipeline_name="shout", state_backend=store)
    await flujo.dispatch("old", run_id="r")

    async def create_anew() -> None:
        await flujo.delete("r")
        await flujo.dispatch("new", run_id="r")

    store.happens = create_anew
    assert (await flujo.resume("r")).output == "NEW"
    await check_whole(flujo, "NEW")


@pytest.mark.parametrize("is_begun", [False, True])
async def test_one_that_was_imported_anew_goes_on_from_what_it_is_now(is_begun: bool) -> None:
    """It begins as the run that was seen did, at the same moment, and has none of what that got later."""

    @workflow(name="desk")
    async def desk(ctx: RunContext) -> str:
        return str(await ctx.wait_for("go", schema=str))

    store = Between(InMemoryBackend())
    flujo = Flujo(desk, state_backend=store)
    await flujo.dispatch(run_id="r")
    backup = await flujo.export_run("r")
    if is_begun:
        assert (await flujo.run(run_id="r")).status == "paused"
    other = Flujo(desk, state_backend=store.inner)  # which leaves it to the first one to go on
    await other.signal("r", "go", "old")

    async def import_anew() -> None:
        await other.delete("r")
        await other.import_run(backup)

    store.happens = import_anew
    assert (await flujo.resume("r")).status == "paused"
    assert (await flujo.verify()).broken == []
    await flujo.signal("r", "go", "new")
    assert (await flujo.resume("r")).output == "new"
    await check_whole(flujo, "new")
    await other.aclose()
    await flujo.aclose()


async def test_a_worker_that_drives_both_keeps_them_apart(store: Store) -> None:
    """They have the same name, and the first lease of either has the same token."""
    gates = Gates()
    flujo = Flujo(gates.step, pipeline_name="gates", state_backend=store.open())
    async with Worker(flujo):
        await flujo.dispatch("old", run_id="r")
        await gates.reach("old")
        await flujo.delete("r")
        await flujo.dispatch("new", run_id="r")
        await gates.reach("new")
        gates.open("old")
        gates.open("new")
        await check_whole(flujo, "NEW")


@on_disk
async def test_the_lease_of_the_new_one_is_renewed_when_the_old_one_is_over(store: Store) -> None:
    gates, backend = Gates(), store.open()
    flujo = Flujo(gates.step, pipeline_name="gates", state_backend=backend, lease_ttl=TTL)
    old = asyncio.create_task(flujo.run("old", run_id="r"))
    await gates.reach("old")
    await flujo.delete("r")
    new = asyncio.create_task(flujo.run("new", run_id="r"))
    await gates.reach("new")
    gates.open("old")
    async with asyncio.timeout(20):
        for _ in range(4):
            before = await expiry(backend)
            while await expiry(backend) == before:
                await backend.wait_for_work(timeout=TTL.total_seconds() / 10)
    gates.open("new")
    assert (await new).output == "NEW"
    with pytest.raises(RunConflict):
        await old


async def expiry(backend: StateBackend) -> datetime:
    run = await backend.load("r")
    assert run is not None
    assert run.summary.lease is not None
    return run.summary.lease.expires_at
