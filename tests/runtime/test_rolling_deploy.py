"""Code of two versions on one store: each drives what it knows, and is in nobody's way."""

import asyncio
import logging
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from flujo_async import Flujo, PipelineRegistry, RunSummary, Worker, WorkflowState, sleep, step, wait_for
from flujo_async._runtime.flujo import runner_of
from flujo_async._runtime.strangers import Strangers
from flujo_async.abc import ClaimQuery, StateBackend
from flujo_async.errors import BackendError
from flujo_async.testing import FaultyBackend, VirtualClock
from tests.runtime.crashes import others
from tests.runtime.pretend import dying
from tests.runtime.stores import Store

HOUR = timedelta(hours=1)
MANY = 15


@step
async def add_one(n: int) -> int:
    return n + 1


@step
async def add_ten(n: int) -> int:
    return n + 10


VERSIONS = {"1.0": add_one >> sleep(HOUR) >> wait_for("go"), "2.0": add_one >> add_ten >> sleep(HOUR) >> wait_for("go")}


def runtime(version: str, backend: StateBackend, clock: VirtualClock, **options: Any) -> Flujo[Any, Any]:
    """Return what a process has that was deployed with one version."""
    registry = PipelineRegistry()
    registry.register(VERSIONS[version], "page", version)
    return Flujo(registry=registry, pipeline_name="page", state_backend=backend, clock=clock, **options)


async def runs(flujo: Flujo[Any, Any]) -> list[RunSummary]:
    return await flujo.list_runs(limit=None)


async def until_all(flujo: Flujo[Any, Any], status: str, prefix: str = "") -> None:
    """Return when no run is driven, and all have a status; those that are running sleep."""
    async with asyncio.timeout(20):
        while not all(
            head.status == status and head.lease is None and (head.wake_at is not None or status != "running")
            for head in await runs(flujo)
            if head.run_id.startswith(prefix)
        ):
            await flujo.state_backend.wait_for_work(timeout=0.1)


async def test_workers_of_two_versions_delay_nobody(store: Store) -> None:
    """Two of each: every run is taken up by who can drive it when it is due, and by nobody else."""
    clock = VirtualClock()
    flujos = {
        name: runtime(version, store.open(), clock)
        for name, version in (("old", "1.0"), ("older", "1.0"), ("new", "2.0"), ("newer", "2.0"))
    }
    old, new = flujos["old"], flujos["new"]
    for n in range(MANY):
        await old.dispatch(n, run_id=f"old{n}")
        await new.dispatch(n, run_id=f"new{n}")
    async with Worker(old), Worker(new), Worker(flujos["older"]), Worker(flujos["newer"], concurrency=3):
        await until_all(old, "running")
        clock.advance(HOUR)
        await until_all(old, "paused")
        for n in range(MANY):  # whoever signals need not be able to drive
            await new.signal(f"old{n}", "go", n)
            await old.signal(f"new{n}", "go", n)
        await until_all(old, "completed")
    heads = await runs(old)
    assert {head.updated_at - head.created_at for head in heads} == {HOUR}
    assert {(head.run_id[:3], head.pipeline_version, head.attempts) for head in heads} == {
        ("old", "1.0", 3),
        ("new", "2.0", 3),
    }
    for flujo in flujos.values():
        await flujo.aclose()


async def test_a_run_is_left_alone_by_who_knows_its_version_with_another_structure(store: Store) -> None:
    """As where somebody has forgotten to raise the version."""
    clock = VirtualClock()
    old = Flujo(add_one, pipeline_name="page", pipeline_version="1.0", state_backend=store.open(), clock=clock)
    new = Flujo(add_ten, pipeline_name="page", pipeline_version="1.0", state_backend=store.open(), clock=clock)
    await old.dispatch(1, run_id="old", priority=1)
    await new.dispatch(1, run_id="new")
    async with Worker(new):
        assert (await new.handle("new").result(timeout=timedelta(hours=9))).output == 11
    assert [head.attempts for head in await runs(old) if head.run_id == "old"] == [0]
    async with Worker(old):
        assert (await old.handle("old").result(timeout=timedelta(hours=9))).output == 2


async def test_a_runtime_is_not_kept_busy_by_what_others_will_drive(store: Store) -> None:
    """It rests while a run of another version sleeps, and when that is due."""
    clock = VirtualClock()
    old, new = (runtime(version, store.open(), clock) for version in ("1.0", "2.0"))
    await old.start(1, run_id="r")
    await until_all(old, "running")
    await old.aclose()
    for _ in range(2):
        async with asyncio.timeout(20):
            await runner_of(new).scheduler.start()
        clock.advance(HOUR)
    assert others() == set()
    assert [head.attempts for head in await runs(old)] == [1]
    await old.recover()
    assert [head.status for head in await runs(old)] == ["paused"]


async def test_who_migrates_takes_runs_of_all_versions(store: Store) -> None:
    """And only runs of its names; the others cannot take them back."""
    clock, seen = VirtualClock(), list[str]()

    def migrate(state: WorkflowState) -> None:
        seen.append(state.pipeline_version)

    old = runtime("1.0", store.open(), clock)
    another = Flujo(add_one, pipeline_name="another", state_backend=store.open(), clock=clock)
    new = runtime("2.0", store.open(), clock, migrate=migrate)
    await old.dispatch(1, run_id="old")
    await new.dispatch(1, run_id="new")
    await another.dispatch(1, run_id="another")
    async with Worker(new):
        await until_all(new, "running", "old")
        await until_all(new, "running", "new")
    assert seen == ["1.0"]
    heads = {head.run_id: (head.pipeline_version, head.attempts) for head in await runs(old)}
    assert heads.pop("another")[1] == 0
    assert heads == {"old": ("2.0", 1), "new": ("2.0", 1)}
    clock.advance(HOUR)
    assert await old.recover() == []
    assert sorted(await new.recover()) == ["new", "old"]


class TestTelling:
    """Of runs that nobody here can drive: in the log, since nobody here claims them."""

    async def test_a_recovery_tells_what_it_leaves(
        self, backend: StateBackend, caplog: pytest.LogCaptureFixture
    ) -> None:
        """At once: there may be no other. And once."""
        clock = VirtualClock()
        new = runtime("2.0", backend, clock)
        with pytest.raises(BackendError):
            await runtime("1.0", dying(backend, "append", 2), clock).run(1)
        assert await new.recover() == []
        [record] = caplog.records
        assert "runs of 'page' have been due since 2026" in record.getMessage()
        assert await new.recover() == []
        assert len(caplog.records) == 1
        assert [head.attempts for head in await runs(new)] == [1]

    async def test_a_worker_tells_what_nobody_takes(
        self, backend: StateBackend, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Not at once: others may be about to take it."""
        clock = VirtualClock()
        new = runtime("2.0", backend, clock)
        await runtime("1.0", backend, clock).dispatch(1)
        async with Worker(new), asyncio.timeout(20):
            while not caplog.records:
                handle = await new.dispatch(1)  # so that it looks
                await until_all(new, "running", handle.run_id)
                clock.advance(30)
        assert [record.levelno for record in caplog.records] == [logging.WARNING]

    async def test_what_others_take_is_not_told(self, backend: StateBackend, caplog: pytest.LogCaptureFixture) -> None:
        """The same run has to have been due all the time, or is it one that was too much for the others?"""
        clock = VirtualClock()
        strangers, queries = Strangers(backend, clock), [ask(runtime("2.0", backend, clock))]
        old = runtime("1.0", backend, clock)
        for n in range(4):
            await old.dispatch(n, run_id=f"r{n}")
            await strangers.glance(queries)
            await old.delete(f"r{n}")
            clock.advance(30)
        assert not caplog.records

    async def test_a_look_costs_little(self, backend: StateBackend) -> None:
        """Two questions each half a minute, however often it is asked for."""
        clock, faulty = VirtualClock(), FaultyBackend(backend)
        strangers, query = Strangers(faulty, clock), ask(runtime("2.0", backend, clock))
        await runtime("2.0", backend, clock).dispatch(1)
        for _ in range(60):
            await strangers.glance([query, replace(query, definitions=None)])
            clock.advance(1)
        assert [call.verb for call in faulty.calls] == ["next_due"] * 4


def ask(flujo: Flujo[Any, Any]) -> ClaimQuery:
    return runner_of(flujo).catalogue.claim_query()
