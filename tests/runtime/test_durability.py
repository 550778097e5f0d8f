"""Durability levels: when what a step did is durable, and what a crash takes away."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from flujo_async import (
    Flujo,
    Pipeline,
    Retry,
    RunContext,
    StepContext,
    as_step,
    branch,
    child,
    loop,
    parallel,
    step,
    workflow,
)
from flujo_async.abc import StateBackend
from flujo_async.backends.memory import InMemoryBackend
from flujo_async.errors import BackendError, DefinitionError, InvalidArgument, RunFailed
from flujo_async.testing import FaultyBackend, VirtualClock
from tests.runtime.crashes import ticks
from tests.runtime.pretend import Wrapped, dying, failing, gated_store
from tests.runtime.stores import Store


class Counting(Wrapped):
    """Keeps how many records each append had."""

    def __init__(self, inner: StateBackend) -> None:
        super().__init__(inner)
        self.appends: list[int] = []

    async def append(self, lease: Any, records: Any, **more: Any) -> int:
        self.appends.append(len(records))
        return await self.inner.append(lease, records, **more)


@step
async def one(value: int) -> int:
    return value + 1


@step
async def two(value: int) -> int:
    await asyncio.sleep(0)  # the loop turns, and what was noted before goes on its way
    return value * 2


@step
async def three(value: int, ctx: StepContext) -> int:
    ctx.state["seen"] = value
    return value - 3


LINE = one >> two >> three


@workflow
async def code(value: int, ctx: RunContext) -> int:
    ctx.state["drawn"] = ctx.random() < 1
    return await three(await two(await one(value)))


async def appends(definition: Any, **options: Any) -> list[int]:
    backend = Counting(InMemoryBackend())
    result = await Flujo(definition, state_backend=backend, **options).run(5)
    assert result.output == 9
    assert [record.name for record in result.steps] == ["one", "two", "three"]
    assert result.context["seen"] == 12
    return backend.appends


@pytest.mark.parametrize("definition", [LINE, code])
class TestLevels:
    async def test_sync_commits_each_step_before_the_next_begins(self, definition: Any) -> None:
        least = 3 if definition is LINE else 4  # the last step of a pipeline goes down with its end
        assert len(await appends(definition)) >= least

    async def test_exit_makes_one_commit(self, definition: Any) -> None:
        assert len(await appends(definition, durability="exit")) == 1

    async def test_async_makes_fewer_commits_the_busier_the_store(self, definition: Any) -> None:
        gated, gate = gated_store(InMemoryBackend(), "append")
        backend = Counting(gated)
        run = asyncio.ensure_future(Flujo(definition, state_backend=backend, durability="async").run(5, run_id="r"))
        await gate.reached()
        for _ in range(100):
            await asyncio.sleep(0)
        assert not run.done(), "the end waits for all commits"
        gate.release()
        assert (await run).output == 9
        assert len(backend.appends) == 2, "what was noted during the first commit went down in the second"

    @pytest.mark.parametrize("level", ["async", "exit"])
    async def test_all_of_it_is_durable_in_the_end(self, definition: Any, level: Any, store: Store) -> None:
        result = await Flujo(definition, state_backend=store.open(), durability=level).run(5, run_id="r")
        again = Flujo(definition, state_backend=store.open())
        assert await again.run(run_id="r") == result
        assert (await again.state("r")).current_step_index == 3


async def test_a_step_goes_before_its_definition_and_that_before_the_runtime() -> None:
    @step(name="one", durability="sync")
    async def at_once(value: int) -> int:
        return value + 1

    assert await appends((at_once >> two >> three).with_durability("exit")) == [1, 3]
    assert await appends(LINE.with_durability("sync"), durability="exit") == [1, 1, 2]
    lazily = workflow(name="lazy", durability="exit")(code.function)
    assert len(await appends(lazily, durability="sync")) == 1


async def test_a_child_has_the_durability_of_its_own_definition() -> None:
    backend = Counting(InMemoryBackend())
    result = await Flujo(child(LINE.with_durability("exit"), name="inner"), state_backend=backend).run(5)
    assert result.output == 9
    assert 4 in backend.appends


async def test_what_may_happen_only_once_is_announced_and_all_before_it_durable() -> None:
    """Before an effect there is a barrier at every level."""
    backend = Counting(InMemoryBackend())

    @step(effect="once")
    async def charge(value: int) -> int:
        assert backend.appends == [3], "two outcomes and the announcement"
        return value

    assert (await Flujo(one >> two >> charge, state_backend=backend, durability="exit").run(5)).output == 12


async def test_a_crash_takes_away_what_exit_had_not_written_and_it_is_done_again(store: Store) -> None:
    executed: list[str] = []

    @step
    async def note(value: int) -> int:
        executed.append("note")
        return value

    flaky = dying(store.open(), "append", 1)
    with pytest.raises(BackendError):
        await Flujo(note >> one, state_backend=flaky, durability="exit").run(1, run_id="r")
    result = await Flujo(note >> one, state_backend=store.open(), durability="exit").run(1, run_id="r")
    assert (result.output, executed) == (2, ["note", "note"])


async def test_a_store_that_fails_behind_an_async_step_fails_the_call() -> None:
    """No success is reported over a failed write."""
    with pytest.raises(BackendError, match="full"):
        await Flujo(LINE, state_backend=failing(InMemoryBackend(), "append"), durability="async").run(5)


@pytest.mark.parametrize("goes_on", ["calls", "waits", "catches", "returns"])
@pytest.mark.parametrize("is_inner", [False, True])
async def test_a_store_that_fails_while_code_does_something_else_fails_the_call(goes_on: str, is_inner: bool) -> None:
    """Nobody has cancelled it, so nobody hears of a cancellation."""
    store = FaultyBackend(InMemoryBackend())

    @workflow(name="code")
    async def code(n: int, ctx: RunContext) -> int:
        await one(n)
        await full.reached()
        await ticks()
        match goes_on:
            case "calls":
                return await one(n)
            case "waits":
                return int(await ctx.wait_for("go", schema=int))
            case "catches":
                with suppress(asyncio.CancelledError):
                    await one(n)
            case _:
                pass
        return n

    full = store.fail("append", error=BackendError("full"))
    flujo = Flujo(as_step(code, name="inner") >> one if is_inner else code, state_backend=store, durability="async")
    with pytest.raises(BackendError, match="full"):
        await flujo.run(1, run_id="r")


@pytest.mark.parametrize("level", ["async", "exit"])
async def test_an_interruption_loses_nothing(level: Any, store: Store) -> None:
    """A process that is asked to stop writes down what it has."""
    executed: list[str] = []
    is_reached, never = asyncio.Event(), asyncio.Event()

    @step
    async def note(value: int) -> int:
        executed.append("note")
        return value

    @step
    async def hang(value: int) -> int:
        executed.append("hang")
        is_reached.set()
        if len(executed) == 2:
            await never.wait()
        return value

    run = asyncio.ensure_future(Flujo(note >> hang, state_backend=store.open(), durability=level).run(1, run_id="r"))
    await is_reached.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert (await Flujo(note >> hang, state_backend=store.open()).run(1, run_id="r")).output == 1
    assert executed == ["note", "hang", "hang"]


@pytest.mark.parametrize("level", ["async", "exit"])
async def test_a_run_that_leaves_memory_writes_down_what_it_has(level: Any) -> None:
    clock, executed, backend = VirtualClock(), list[str](), InMemoryBackend()

    @step(name="note")
    async def note(value: int) -> int:
        executed.append("note")
        return value

    @step(retry=Retry(max_attempts=2, base=timedelta(hours=1), jitter=0))
    async def flaky(value: int) -> int:
        executed.append("flaky")
        if len(executed) == 2:
            raise ValueError("not yet")
        return value

    flujo = Flujo(note >> flaky, state_backend=backend, clock=clock, durability=level)
    handle = await flujo.start(1, run_id="r")
    await clock.until_asleep()
    clock.advance(timedelta(hours=1))
    assert (await handle.result()).output == 1
    assert executed == ["note", "flaky", "flaky"]


@pytest.mark.parametrize("level", ["async", "exit"])
async def test_what_was_done_is_undone(level: Any) -> None:
    undone: list[int] = []

    @step(compensate=undone.append)
    async def reserve(value: int) -> int:
        return value

    @step
    async def fail(value: int) -> int:
        raise ValueError("no")

    with pytest.raises(RunFailed):
        await Flujo(reserve >> fail, durability=level).run(7)
    assert undone == [7]


@pytest.mark.parametrize(
    "nest",
    [
        lambda inner: parallel(inner, one),
        lambda inner: branch(bool, {True: inner}),
        lambda inner: loop(inner, until=bool, max_iterations=1),
        lambda inner: one >> inner,
        lambda inner: inner >> one,
    ],
)
def test_a_part_of_a_definition_has_none_of_its_own(nest: Any) -> None:
    with pytest.raises(DefinitionError, match="whole definition"):
        nest(LINE.with_durability("exit"))


def test_a_level_that_does_not_exist_is_refused() -> None:
    with pytest.raises(DefinitionError, match="'sync', 'async' or 'exit', not 'never'"):
        LINE.with_durability("never")  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match="step 'f'"):
        step(name="f", durability="never")(one.function)  # type: ignore[call-overload]
    with pytest.raises(DefinitionError, match="workflow 'w'"):
        workflow(name="w", durability="never")(code.function)  # type: ignore[call-overload]
    with pytest.raises(InvalidArgument, match="'never'"):
        Flujo(LINE, durability="never")  # type: ignore[arg-type]


def test_it_is_written_down_and_read_back() -> None:
    lazy = (child(LINE.with_durability("exit"), name="inner") >> one).with_durability("async")
    again = Pipeline.from_dict(lazy.to_dict(), {"one": one, "two": two, "three": three})
    assert again == lazy
    assert again.durability == "async"
