"""Structural step identity: the order in which coroutines happen to run never decides whose result is whose."""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from flujo_async import Flujo, RunContext, step, workflow
from flujo_async._model.facts import ValueDrawn
from flujo_async.backends.memory import InMemoryBackend
from flujo_async.errors import BackendError, NonDeterminismError
from flujo_async.testing import FaultyBackend
from tests.runtime.crashes import all_but_its_end, others, ticks
from tests.runtime.executed import EXECUTED
from tests.runtime.pretend import dying

FEW = int(os.environ.get("FLUJO_INTERLEAVINGS", "25"))
MANY = 1000


class Chains:
    """Chains of steps that make equal calls with unequal results; remembers what each chain was given."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.drawn = dict[Any, float]()
        self.given = list[tuple[Any, float]]()

        @step
        async def sample(prompt: str) -> float:
            await self.jitter()
            return self.dice.random()

        @step
        async def store(i: Any, result: float) -> str:
            await self.jitter()
            return f"{i}:{result}"

        self.sample, self.store = sample, store

    async def jitter(self) -> None:
        for _ in range(self.dice.randrange(12)):
            await asyncio.sleep(0)

    async def one(self, i: Any) -> str:
        """Jitter, an equal call, jitter, and a call that tells whose result it was."""
        await self.jitter()
        result = await self.sample("the same")
        self.given.append((i, result))
        await self.jitter()
        stored: str = await self.store(i, result)
        assert stored == f"{i}:{result}"
        return stored


Way = Callable[[Chains, int], Awaitable[list[str]]]


async def gathered(chains: Chains, n: int) -> list[str]:
    return list(await asyncio.gather(*(chains.one(i) for i in range(n))))


async def grouped(chains: Chains, n: int) -> list[str]:
    async with asyncio.TaskGroup() as tasks:
        made = [tasks.create_task(chains.one(i)) for i in range(n)]
    return [task.result() for task in made]


async def as_they_complete(chains: Chains, n: int) -> list[str]:
    results = list[str]()
    for each in asyncio.as_completed([chains.one(i) for i in range(n)]):
        results.append(await each)
        await chains.store("between", 1.0)
    return sorted(results)


async def first_come(chains: Chains, n: int) -> list[str]:
    results = list[str]()
    pending = {asyncio.create_task(chains.one(i)) for i in range(n)}
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            results.append(task.result())
            await chains.store("between", float(task.result().partition(":")[2]))
    return sorted(results)


async def unequal(chains: Chains, n: int) -> list[str]:
    return [str(result) for result in await asyncio.gather(*(chains.sample("y") for _ in range(n)))]


async def nested(chains: Chains, n: int) -> list[str]:
    async def pair(i: int) -> list[str]:
        await chains.jitter()
        return list(await asyncio.gather(chains.one((i, "a")), chains.one((i, "b"))))

    return [each for pair_of in await asyncio.gather(*(pair(i) for i in range(n))) for each in pair_of]


async def the_same_arguments(chains: Chains, n: int) -> list[str]:
    """Tasks that nothing but their order of creation tells apart."""

    async def anonymous() -> float:
        await chains.jitter()
        first = await chains.sample("the same")
        await chains.jitter()
        second = await chains.sample("the same")
        return first + second

    return [str(total) for total in await asyncio.gather(*(anonymous() for _ in range(n)))]


async def behind_a_lock(chains: Chains, n: int) -> list[str]:
    """In whatever order they are given the lock."""
    lock, results = asyncio.Lock(), list[str]()

    async def locked(i: int) -> None:
        await chains.jitter()
        async with lock:
            results.append(await chains.one(i))

    await asyncio.gather(*(locked(i) for i in range(n)))
    return sorted(results)


async def one_after_another(chains: Chains, n: int) -> list[str]:
    """The others wait for an event."""
    is_done = asyncio.Event()

    async def first() -> str:
        result = await chains.one(0)
        is_done.set()
        return result

    async def other(i: int) -> str:
        await is_done.wait()
        return await chains.one(i)

    return list(await asyncio.gather(first(), *(other(i) for i in range(1, n))))


async def a_race(chains: Chains, n: int) -> list[str]:
    """The losers are cancelled."""
    tasks = [asyncio.create_task(chains.one(i)) for i in range(n)]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for task in done:
        await chains.store("between", float(task.result().partition(":")[2]))
    return [task.result() for task in done]


async def mixed(chains: Chains, n: int) -> list[str]:
    results = [*await gathered(chains, n), *await grouped(chains, n), *await as_they_complete(chains, n)]
    return [*results, *await unequal(chains, n), *await first_come(chains, n)]


WAYS: list[Way] = [
    gathered,
    grouped,
    as_they_complete,
    first_come,
    unequal,
    nested,
    the_same_arguments,
    behind_a_lock,
    one_after_another,
    a_race,
    mixed,
]


async def one_life(way: Way, seed: int, n: int) -> None:
    """Kill a run at random commits until it is done, and check each result that was recorded."""
    dice, backend = random.Random(seed), InMemoryBackend()
    recorded = dict[str, Any]()
    for _ in range(1000):
        chains = Chains(dice)

        @workflow(name="interleaved")
        async def flow(n: int, chains: Chains = chains) -> list[str]:
            return await way(chains, n)

        nth, after = dice.randint(1, 14), dice.random() < 0.5
        faulty = dying(backend, "append", nth, after=after)
        result = None
        with suppress(BackendError):
            result = await Flujo(flow, state_backend=faulty).run(n, run_id="r")
        steps = await Flujo(flow, state_backend=backend).steps("r")
        now = {record.key: record.output for record in steps}
        assert recorded.items() <= now.items(), "what is recorded stays"
        recorded = now
        if result is not None:
            _check(result.output, steps)
            assert others() == set()
            return
    pytest.fail("it never ended")


def _check(output: list[str], steps: list[Any]) -> None:
    """Every result that went in came from a sample, each sample at most once, and each was stored by its chain."""
    samples = [record.output for record in steps if record.name == "sample"]
    assert len(set(samples)) == len(samples)
    stored = [record.input["result"] for record in steps if record.name == "store" and record.input["i"] != "between"]
    assert len(set(stored)) == len(stored)
    assert set(stored) <= set(samples)
    chains = [record.key.rpartition("/")[0] for record in steps if record.name == "store"]
    by_chain = {record.key.rpartition("/")[0]: record.output for record in steps if record.name == "sample"}
    for record, chain in zip((record for record in steps if record.name == "store"), chains, strict=True):
        if record.input["i"] != "between":
            assert record.input["result"] == by_chain[chain]
    results = [float(text.partition(":")[2]) for text in output if ":" in text]
    assert set(results) <= set(samples)


@pytest.mark.parametrize("way", WAYS)
async def test_each_chain_resumes_with_its_own_results(way: Way) -> None:
    """Two and three chains, random jitter, killed at random commits until they are done."""
    for seed in range(FEW):
        await one_life(way, seed, n=2 + seed % 2)


@pytest.mark.crash
@pytest.mark.timeout(900)
@pytest.mark.parametrize("way", WAYS)
async def test_each_chain_resumes_with_its_own_results_a_thousand_times(way: Way) -> None:
    """The same, longer, with up to six chains."""
    for seed in range(MANY):
        await one_life(way, seed, n=2 + seed % 5)


@pytest.mark.parametrize("with_failure", [False, True])
async def test_what_is_drawn_in_a_replay_holds_no_result_up(with_failure: bool) -> None:
    """It is not recorded yet, and nothing that rests on it executes before all that is recorded has been given back."""

    @step
    async def take(n: int) -> int:
        if n == 1 and with_failure:
            raise ValueError("not this one")
        return n

    @workflow
    async def flow(n: int, ctx: RunContext) -> list[int]:
        order = list[int]()

        async def one(i: int) -> None:
            with suppress(ValueError):
                await take(i)
            if i == 0:
                ctx.random()
            order.append(i)

        await asyncio.gather(*(one(i) for i in range(n)))
        return order

    backend = FaultyBackend(InMemoryBackend())
    flujo = Flujo(flow, state_backend=backend)
    assert (await flujo.run(3, run_id="r")).output == [0, 1, 2]
    drawn = next(commit.seq for commit in await flujo.history("r") if isinstance(commit.fact, ValueDrawn))
    await flujo.fork("r", at=drawn - 1, new_run_id="again")
    backend.delay("append", nth=None, until=ticks)
    assert (await flujo.run(run_id="again")).output == [0, 1, 2]


@pytest.mark.parametrize("durability", ["async", "exit"])
async def test_at_a_lowered_durability_results_come_in_the_order_of_the_log(durability: Any) -> None:
    """What is durable at once at every level, as the end of a sleep is, is not overtaken while it is being written."""
    over = asyncio.Event()

    @step
    async def take(n: int) -> int:
        await over.wait()
        return n

    @workflow
    async def flow(n: int, ctx: RunContext) -> list[str]:
        order = list[str]()

        async def sleep() -> None:
            await ctx.sleep(0)
            order.append("sleep")

        async def one() -> None:
            await take(n)
            order.append("take")

        await asyncio.gather(sleep(), one())
        return order

    backend = FaultyBackend(InMemoryBackend())
    flujo = Flujo(flow, state_backend=backend, durability=durability)

    async def until_taken() -> None:
        over.set()
        await ticks()

    backend.delay("append", nth=2, until=until_taken)  # the first is the beginning of the sleep
    order = (await flujo.run(1, run_id="r")).output
    assert (await flujo.run(run_id=await all_but_its_end(flujo))).output == order


# ------------------------------------------------------------------------------------------------- contradictions


@step
async def first(n: int) -> int:
    EXECUTED.append("first")
    return n + 1


@step
async def second(n: int) -> int:
    EXECUTED.append("second")
    return n * 2


@step
async def third(n: int) -> int:
    EXECUTED.append("third")
    return n


@workflow(name="flow", version="1")
async def old(n: int, ctx: RunContext) -> int:
    n = await first(n)
    n = await second(n)
    await ctx.wait_for("go")
    return await third(n)


@workflow(name="flow", version="1")
async def another_step(n: int, ctx: RunContext) -> int:
    n = await third(n)
    n = await second(n)
    await ctx.wait_for("go")
    return n


@workflow(name="flow", version="1")
async def other_arguments(n: int, ctx: RunContext) -> int:
    n = await first(n + 7)
    n = await second(n)
    await ctx.wait_for("go")
    return n


@workflow(name="flow", version="1")
async def fewer_steps(n: int, ctx: RunContext) -> int:
    return await first(n)


@workflow(name="flow", version="1")
async def no_steps(n: int) -> int:
    return n


@workflow(name="flow", version="1")
async def more_in_front(n: int, ctx: RunContext) -> int:
    n = await third(n)
    n = await first(n)
    n = await second(n)
    await ctx.wait_for("go")
    return n


@workflow(name="flow", version="1")
async def more_in_between(n: int, ctx: RunContext) -> int:
    n = await first(n)
    await ctx.sleep(1)
    n = await second(n)
    await ctx.wait_for("go")
    return n


@workflow(name="flow", version="1")
async def in_tasks(n: int, ctx: RunContext) -> int:
    async def both() -> int:
        return await second(await first(n))

    n, _ = await asyncio.gather(both(), both())
    await ctx.wait_for("go")
    return n


@workflow(name="flow", version="1")
async def that_catches_everything(n: int, ctx: RunContext) -> int:
    with suppress(BaseException):
        await third(n)
    return n


CHANGED = [another_step, other_arguments, fewer_steps, no_steps, more_in_front, more_in_between, in_tasks]


@pytest.fixture
async def parked() -> AsyncIterator[InMemoryBackend]:
    """A store with a run that has done two steps, and has the answer that it waited for."""
    backend = InMemoryBackend()
    await Flujo(old, state_backend=backend).run(1, run_id="r")
    other = Flujo(third, state_backend=backend)
    await other.signal("r", "go")
    await other.aclose()
    EXECUTED.clear()
    yield backend
    assert others() == set()


@pytest.mark.parametrize("changed", [*CHANGED, that_catches_everything], ids=lambda changed: changed.function.__name__)
async def test_code_that_contradicts_the_journal_is_refused(parked: InMemoryBackend, changed: Any) -> None:
    """Naming both; nothing executes; the run is paused, its log untouched; the old code resumes it."""
    flujo = Flujo(changed, state_backend=parked)
    before = await flujo.history("r")
    for _ in range(2):
        with pytest.raises(NonDeterminismError) as caught:
            await flujo.run(run_id="r")
        assert caught.value.run_id == "r"
        assert "first" in str(caught.value) or "second" in str(caught.value)
        assert EXECUTED == []
        assert await flujo.history("r") == before
        [summary] = await flujo.list_runs()
        assert (summary.status, summary.lease) == ("paused", None)
        assert [waiting.kind for waiting in summary.waiting_for] == ["definition"]
        assert summary.waiting_for[0].prompt == str(caught.value)
        assert (await flujo.state("r")).status == "paused"
    result = await Flujo(old, state_backend=parked).run(run_id="r")
    assert (result.output, EXECUTED) == (4, ["third"])


async def test_a_contradiction_in_tasks_is_refused_as_well() -> None:
    """A chain that asks for other arguments gets nobody's result, and executes nothing."""
    executed = list[Any]()

    @step
    async def take(n: int) -> int:
        executed.append(n)
        return n

    @workflow(name="flow")
    async def before(n: int, ctx: RunContext) -> list[int]:
        async def chain(i: int) -> int:
            return await take(await take(i))

        results = await asyncio.gather(*(chain(i) for i in range(n)))
        await ctx.wait_for("go")
        return list(results)

    @workflow(name="flow")
    async def after(n: int, ctx: RunContext) -> list[int]:
        async def chain(i: int) -> int:
            return await take(await take(i + 10))

        return list(await asyncio.gather(*(chain(i) for i in range(n))))

    backend = InMemoryBackend()
    await Flujo(before, state_backend=backend).run(3, run_id="r")
    executed.clear()
    flujo = Flujo(after, state_backend=backend)
    await flujo.signal("r", "go")
    with pytest.raises(NonDeterminismError):
        await flujo.run(run_id="r")
    await flujo.aclose()
    assert executed == []
    result = await Flujo(before, state_backend=backend).run(run_id="r")
    assert (result.output, executed) == ([0, 1, 2], [])


async def test_found_in_the_background_it_does_not_go_round_in_circles(parked: InMemoryBackend) -> None:
    """A runtime that is open leaves the run alone once it has seen that it does not fit."""
    flujo = Flujo(another_step, state_backend=parked, recover=True)
    await flujo.start(run_id="r")
    for _ in range(50):
        await asyncio.sleep(0)
    [summary] = await flujo.list_runs()
    assert (summary.status, [waiting.kind for waiting in summary.waiting_for]) == ("paused", ["definition"])
    attempts = summary.attempts
    for _ in range(200):
        await asyncio.sleep(0)
    assert [summary.attempts for summary in await flujo.list_runs()] == [attempts]
    await flujo.aclose()
