"""Twice as much takes twice the work (G13): whatever there is of it. Bytecodes are counted, and never time."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeAlias

import pytest
from pydantic import BaseModel
from typing_extensions import override

from flujo_async import (
    Depends,
    Flujo,
    InMemoryBackend,
    Retention,
    RunContext,
    StepContext,
    graph,
    loop,
    map_each,
    parallel,
    step,
    wait_for,
    workflow,
)
from flujo_async._log.fold import fold_log
from flujo_async._log.snapshot import snapshot_of
from flujo_async._model.lease import ANY_RUN, ClaimQuery
from flujo_async._model.stored import RunQuery, Signal
from flujo_async._model.summary import RunSummary
from flujo_async._runtime.driven_runs import nudge
from flujo_async.backends.changes import Changes
from flujo_async.errors import RunFailed
from flujo_async.reducers import add, append
from flujo_async.testing import samples
from flujo_async.testing.samples import T0, new_run
from tests.growth import growth

Work: TypeAlias = Callable[[], Awaitable[object]]

ALMOST_TWICE = 2.15


class Count(BaseModel):
    total: Annotated[int, add] = 0
    seen: Annotated[list[int], append] = []


@step
async def one_more(x: int) -> int:
    return x + 1


@step
async def count(x: int, ctx: StepContext) -> int:
    ctx.state.total += 1
    return x


@step
async def count_too(x: int, ctx: StepContext) -> int:
    ctx.state.total += 1
    return x


@step
async def see(x: int, ctx: StepContext) -> int:
    ctx.state.seen.append(x)
    return x + 1


@step
async def see_none(x: int, ctx: StepContext) -> int:
    return len(ctx.state.seen)


@step
async def latest(both: dict[str, int]) -> int:
    return both["see"]


@step
async def first(both: dict[str, int]) -> int:
    return both["count"]


@step
async def refuse(x: int) -> int:
    raise ValueError(x)


@step(fallback=one_more)
async def give_way(x: int) -> int:
    raise ValueError(x)


@step
async def alone(x: int) -> list[int]:
    return [x]


@step
async def largest(xs: list[int]) -> int:
    return max(xs)


@workflow
async def two_more(x: int) -> int:
    return await one_more(await one_more(x))


@workflow
async def one_by_one(n: int) -> int:
    for x in range(n):
        await one_more(x)
    return n


@workflow
async def see_itself(n: int, ctx: RunContext) -> int:
    for x in range(n):
        ctx.state.seen.append(x)
        await count(x)
    return n


@workflow
async def see_in_a_list_of_its_own(n: int, ctx: RunContext) -> int:
    ctx.state.seen = []
    return await see_itself.function(n, ctx)


@workflow
async def see_one_itself(x: int, ctx: RunContext) -> int:
    ctx.state.seen.append(x)
    return await one_more(x)


@workflow
async def see_together(n: int, ctx: RunContext) -> None:
    async def one(x: int) -> None:
        await one_more(x)
        ctx.state.seen.append(x)
        await one_more(x)

    await asyncio.gather(*map(one, range(n)))


@workflow
async def all_at_once(n: int) -> int:
    return sum(await asyncio.gather(*map(one_more, range(n))))


@workflow
async def all_see_a_list(n: int) -> int:
    numbers = list(range(20 * n))

    async def one(place: int) -> int:
        return await one_more(numbers[place])

    return sum(await asyncio.gather(*map(one, range(n))))


@workflow
async def all_in_vain(n: int) -> int:
    errors = await asyncio.gather(*map(refuse, range(n)), return_exceptions=True)
    raise ExceptionGroup("all of them", [error for error in errors if isinstance(error, Exception)])


def turns(body: Any, n: int) -> Any:
    return loop(body, until=lambda x: x >= n, max_iterations=n + 1)


def wide(n: int) -> Any:
    """Return a graph of which the last step waits for all others."""
    leaves = [step(_named(f"leaf_{place}", one_more.function)) for place in range(n)]
    names: dict[str, Any] = {"Annotated": Annotated, "Depends": Depends, "leaves": leaves}
    parameters = ", ".join(f"p{place}: Annotated[int, Depends(leaves[{place}])]" for place in range(n))
    exec(f"async def last({parameters}) -> int: return p0", names)
    return graph(step(names["last"]))


def _named(name: str, function: Any) -> Any:
    async def leaf(x: int) -> int:
        return int(await function(x))

    leaf.__name__ = leaf.__qualname__ = name
    return leaf


DEFINITIONS: dict[str, tuple[Callable[[int], Any], Callable[[int], Any]]] = {
    "turns of a loop": (lambda n: turns(one_more, n), lambda n: 0),
    "steps of a workflow": (lambda n: one_by_one, lambda n: n),
    "tasks of a workflow": (lambda n: all_at_once, lambda n: n),
    "tasks that see a list": (lambda n: all_see_a_list, lambda n: n),
    "items": (lambda n: map_each(one_more), range),
    "items a few at a time": (lambda n: map_each(one_more, max_concurrency=5), range),
    "items that are workflows": (lambda n: map_each(two_more, max_concurrency=5), range),
    "turns that are workflows": (lambda n: turns(two_more, 2 * n), lambda n: 0),
    "items that change contexts of branches": (lambda n: map_each(parallel(count, count_too) >> first), range),
    "items after others have failed": (lambda n: map_each(give_way) >> map_each(one_more), range),
    "turns after others have failed": (lambda n: turns(alone >> map_each(give_way) >> largest, n), lambda n: 0),
    "steps that add to a list": (lambda n: turns(see, n), lambda n: 0),
    "items that add to a list": (lambda n: map_each(see), range),
    "turns with branches that add to a list": (lambda n: turns(parallel(see, see_none) >> latest, n), lambda n: 0),
    "code that adds to a list": (lambda n: see_itself, lambda n: n),
    "code that adds to a list of its own": (lambda n: see_in_a_list_of_its_own, lambda n: n),
    "tasks that add to a list": (lambda n: see_together, lambda n: n),
    "turns that are code that adds to a list": (lambda n: turns(see_one_itself, n), lambda n: 0),
    "items that are code that adds to a list": (lambda n: map_each(see_one_itself, max_concurrency=5), range),
    "steps that one step depends on": (wide, lambda n: {"x": 0}),
    "steps that fail in one workflow": (lambda n: all_in_vain, lambda n: n),
}


@pytest.mark.parametrize("name", DEFINITIONS)
async def test_a_run(name: str) -> None:
    """However long, and however wide; and the same when it is walked through once more."""
    definition, input = DEFINITIONS[name]

    async def ready(n: int) -> Work:
        flujo = Flujo(definition(n), context_type=Count)
        given = input(n)

        async def run() -> None:
            with suppress(RunFailed):
                await flujo.run(list(given) if isinstance(given, range) else given)

        return run

    assert await growth(ready, 60) < ALMOST_TWICE


@pytest.mark.parametrize(
    "name",
    [
        "items",
        "items that are workflows",
        "turns that are workflows",
        "code that adds to a list",
        "code that adds to a list of its own",
        "tasks that add to a list",
        "turns that are code that adds to a list",
        "items that are code that adds to a list",
    ],
)
async def test_a_replay(name: str) -> None:
    """Of what is recorded each part finds its own."""
    definition, input = DEFINITIONS[name]

    async def ready(n: int) -> Work:
        flujo = Flujo(definition(n) >> wait_for("more"), context_type=Count)
        given = input(n)
        await flujo.run(list(given) if isinstance(given, range) else given, run_id="r")
        await flujo.state_backend.post(Signal("r", "more", "more", 1, datetime.now(UTC)))  # so that nobody else resumes

        async def resume() -> None:
            assert (await flujo.run(run_id="r")).status == "completed"

        return resume

    assert await growth(ready, 60) < ALMOST_TWICE


async def waits_beside_a_step(n: int) -> tuple[Flujo[Any, Any], list[asyncio.Event], asyncio.Event]:
    """Return a runtime that drives run ``r``, which waits for ``n`` answers; what is set by each, and what ends it."""
    begun, answered, is_over = asyncio.Event(), [asyncio.Event() for _ in range(n)], asyncio.Event()

    @step
    async def hold() -> None:
        begun.set()
        await is_over.wait()

    @workflow
    async def waiting(n: int, ctx: RunContext) -> None:
        async def wait(place: int) -> None:
            await ctx.wait_for(f"answer {place}", schema=int)
            answered[place].set()

        await asyncio.gather(*map(wait, range(n)), hold())

    flujo = Flujo(waiting)
    await flujo.start(n, run_id="r")
    await begun.wait()
    return flujo, answered, is_over


async def test_many_waits_in_one_run_that_goes_on() -> None:
    """An answer wakes the one that waits for it."""

    async def ready(n: int) -> Work:
        flujo, answered, is_over = await waits_beside_a_step(n)

        async def answer() -> None:
            for place, heard in enumerate(answered):
                await flujo.state_backend.post(Signal("r", f"{place}", f"answer {place}", 1, datetime.now(UTC)))
                nudge("r")
                await heard.wait()
            is_over.set()
            await flujo.handle("r").result()

        return answer

    assert await growth(ready, 30) < ALMOST_TWICE


async def answer_one_by_one(flujo: Flujo[Any, Any], n: int) -> None:
    for place in range(n):
        await flujo.signal("r", f"answer {place}", place)


async def answer_at_once(flujo: Flujo[Any, Any], n: int) -> None:
    await asyncio.gather(*(flujo.signal("r", f"answer {place}", place) for place in range(n)))


async def answer_twice(flujo: Flujo[Any, Any], n: int) -> None:
    for place in range(n):
        await flujo.signal("r", f"answer {place}", place)
        await flujo.signal("r", f"answer {place}", place)


@pytest.mark.parametrize("is_driven", [True, False])
@pytest.mark.parametrize("answers", [answer_one_by_one, answer_at_once, answer_twice])
async def test_many_signals_to_one_run(answers: Callable[[Flujo[Any, Any], int], Any], is_driven: bool) -> None:
    """What was posted before is not read again, neither by whoever posts the next one nor by whoever drives the run."""

    async def ready(n: int) -> Work:
        begun, is_over = asyncio.Event(), asyncio.Event()

        @step
        async def hold() -> None:
            begun.set()
            await is_over.wait()

        flujo = Flujo(hold)
        await (flujo.start(run_id="r") if is_driven else flujo.dispatch(run_id="r"))
        if is_driven:
            await begun.wait()

        async def signal() -> None:
            await answers(flujo, n)
            if is_driven:
                is_over.set()
                await flujo.handle("r").result()

        return signal

    assert await growth(ready, 60) < ALMOST_TWICE


async def test_many_answers_that_are_taken_at_once() -> None:
    """Each makes the log longer, and who gives the next one reads only that."""

    async def ready(n: int) -> Work:
        flujo, answered, is_over = await waits_beside_a_step(n)
        await flujo.signal("r", "hello")  # from here on the run is known

        async def answer() -> None:
            for place, heard in enumerate(answered):
                await flujo.signal("r", f"answer {place}", place)
                await heard.wait()
            is_over.set()
            await flujo.handle("r").result()

        return answer

    assert await growth(ready, 30) < ALMOST_TWICE


async def test_children_that_are_answered_while_their_parent_goes_on() -> None:
    """News of one of them make nobody look at the others, however many they are."""

    @workflow
    async def ask(place: int, ctx: RunContext) -> int:
        return int(await ctx.wait_for("answer", schema=int))

    async def ready(n: int) -> Work:
        heard = [asyncio.Event() for _ in range(n)]

        @step
        async def hold() -> None:
            await asyncio.Event().wait()

        @workflow
        async def parent(n: int, ctx: RunContext) -> None:
            async def one(place: int) -> None:
                await ctx.child(ask, place, run_id=f"child {place}")
                heard[place].set()

            await asyncio.gather(hold(), *map(one, range(n)))

        flujo = Flujo(parent)
        await flujo.start(n, run_id="r")
        while len(await flujo.list_runs(status="paused", limit=None)) < n:
            await asyncio.sleep(0)

        async def answer() -> None:
            for place in range(10):
                await flujo.signal(f"child {place}", "answer", place)
                await heard[place].wait()

        return answer

    # Not exactly 1: time decides who takes a child up first, its parent or the scheduler, which takes a fifth more.
    assert await growth(ready, 20) < 1.4


async def test_many_runs_that_are_waited_for() -> None:
    """A change wakes who waits for this run, and finds them at once."""

    async def ready(n: int) -> Work:
        changes = Changes()
        listening = ExitStack()
        for place in range(n):
            listening.enter_context(changes.listening(f"run {place}"))

        async def change() -> None:
            for place in range(n):
                changes.announce(f"run {place}")
            listening.close()

        return change

    assert await growth(ready, 60) < ALMOST_TWICE


OTHERS: dict[str, dict[str, Any]] = {
    "parked": {"status": "paused"},
    "sleep": {"wake_at": T0 + timedelta(days=1)},
    "are driven": {"lease": "w1"},
    "wait for their turn": {},
    "are of another queue": {"queue": "other"},
    "are of another definition": {"pipeline_name": "other"},
    "have ended": {"status": "completed"},
}


@pytest.mark.parametrize("others", OTHERS)
async def test_a_claim_among_many_runs(others: str) -> None:
    """Whoever claims one run, and asks when the next one is due, looks at no others."""
    head = dict(OTHERS[others])
    owner = head.pop("lease", None)
    query = ClaimQuery(
        statuses=frozenset({"pending", "running", "paused"}), queues=frozenset({""}), pipeline_names=frozenset({"p"})
    )

    async def ready(n: int) -> Work:
        store = InMemoryBackend()
        for place in range(n):
            other = new_run(f"other {place}", priority=-1, **{"pipeline_name": "p", **head})
            await store.create_run(other, owner=owner, ttl=timedelta(days=1))
        await store.create_run(new_run(pipeline_name="p", status="paused"))

        async def claim() -> None:
            for number in range(20):
                await store.post(Signal("run", f"{number}", "news", None, T0))
                assert await store.next_due(query) == T0
                (lease,) = await store.claim("w2", now=T0, ttl=timedelta(days=1), query=query)
                await store.release(lease, signals_read=number + 1)

        return claim

    assert await growth(ready, 200) < 1.05


async def test_a_backlog_that_is_taken_up() -> None:
    """What is left is not looked at each time that some of it is claimed."""

    async def ready(n: int) -> Work:
        store = InMemoryBackend()
        for place in range(n):
            await store.create_run(new_run(f"{place}", wake_at=T0 if place % 2 else None))

        async def claim() -> None:
            for _ in range(n):
                assert await store.next_due(ANY_RUN) == T0
                (lease,) = await store.claim("w", now=T0, ttl=timedelta(days=1))
                await samples.append(store, lease, status="completed")

        return claim

    assert await growth(ready, 100) < ALMOST_TWICE


async def test_leases_among_many_runs() -> None:
    """Whoever looks for owners that have died looks at no run that nobody has."""

    async def ready(n: int) -> Work:
        store = InMemoryBackend()
        for place in range(n):
            await store.create_run(new_run(f"{place}", status="completed"))
        await store.create_run(new_run(), owner="w")

        async def look() -> None:
            assert [head.run_id for head in await store.query_runs(RunQuery(is_leased=True))] == ["run"]

        return look

    assert await growth(ready, 200) == 1


async def test_children_of_many_runs() -> None:
    """Each run finds its own, as a retention asks for of all that are to go."""

    @workflow
    async def parent(number: int, ctx: RunContext) -> int:
        return await ctx.child(one_more, number)

    async def ready(n: int) -> Work:
        flujo = Flujo(parent)
        for number in range(n):
            await flujo.run(number, run_id=f"{number}")

        async def look() -> None:
            for number in range(n):
                (child,) = await flujo.list_runs(parent_run_id=f"{number}")
                await flujo.delete(child.run_id)
                assert not await flujo.list_runs(parent_run_id=f"{number}")

        return look

    assert await growth(ready, 60) < ALMOST_TWICE


class Asked(InMemoryBackend):
    """Counts how often all runs are asked for, or what is below some: without an index, that is a look at all."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.asked_for_one = 0

    @override
    async def query_runs(self, query: RunQuery) -> list[RunSummary]:
        self.asked += query.run_id is None and not query.is_leased
        self.asked_for_one += query.run_id is not None
        return await super().query_runs(query)


async def test_runs_that_a_retention_deletes() -> None:
    """What is below them is asked for of many at a time."""

    @workflow
    async def parent(number: int, ctx: RunContext) -> int:
        return await ctx.child(one_more, number)

    store = Asked()
    flujo = Flujo(parent, state_backend=store)
    for number in range(100):
        await flujo.run(number)
    assert (store.asked, store.asked_for_one) == (0, 0)  # children that have completed need not be looked at
    assert await Flujo(parent, state_backend=store, retention=Retention(keep_last=1)).compact() == 198
    assert store.asked == 3  # once for the runs of the definition, and twice for what is below them


async def test_a_tree_that_is_deleted() -> None:
    """What is below runs is asked for level by level, and in the end once more, of all of them."""

    @workflow
    async def trunk(branches: int, ctx: RunContext) -> None:
        await asyncio.gather(*(ctx.child(bough, number) for number in range(branches)))

    @workflow
    async def bough(number: int, ctx: RunContext) -> int:
        return await ctx.child(one_more, number)

    store = Asked()
    flujo = Flujo(trunk, state_backend=store)
    await flujo.run(20, run_id="r")
    await flujo.delete("r")
    assert store.asked == 4
    assert await flujo.list_runs() == []


async def test_a_tree_that_is_cancelled() -> None:
    """Each run has in its log what it has started."""

    @workflow
    async def trunk(branches: int, ctx: RunContext) -> None:
        await asyncio.gather(*(ctx.child(bough, number) for number in range(branches)))

    @workflow
    async def bough(number: int, ctx: RunContext) -> None:
        await ctx.child(wait_for("word"), number)

    store = Asked()
    flujo = Flujo(trunk, state_backend=store)
    assert (await flujo.run(20, run_id="r")).status == "paused"
    await flujo.cancel("r")
    assert store.asked == 0
    assert [head.status for head in await flujo.list_runs()] == ["cancelled"] * 41


async def test_a_check_of_all_runs() -> None:
    """They are asked for once, however many there are."""
    store = Asked()
    await asyncio.gather(*(store.create_run(new_run(str(number))) for number in range(450)))
    assert (await Flujo(one_more, state_backend=store).verify()).runs == 450
    assert store.asked == 1


async def test_many_runs_that_are_started() -> None:
    """One that begins does not look at all that go on in the background."""

    async def ready(n: int) -> Work:
        is_over = asyncio.Event()

        @step
        async def hold(place: int) -> None:
            await is_over.wait()

        flujo = Flujo(hold)

        async def start() -> None:
            handles = [await flujo.start(place) for place in range(n)]
            is_over.set()
            for handle in handles:
                await handle.result()

        return start

    assert await growth(ready, 200) < ALMOST_TWICE


async def test_a_fork_of_a_fork() -> None:
    """Each goes on where the one before ended, and has not all that came before in it once more."""

    async def length(forks: int) -> int:
        flujo = Flujo(map_each(one_more))
        await flujo.run(list(range(100)), run_id="0")
        for place in range(forks):
            await flujo.fork(str(place), new_run_id=str(place + 1))
        stored = await flujo.state_backend.load(str(forks))
        assert stored is not None
        return len(snapshot_of(fold_log(str(forks), stored.records)).body)

    few, more, most = [await length(forks) for forks in (0, 20, 40)]
    assert most - more < 1.1 * (more - few)
    assert more - few < 20 * 500
