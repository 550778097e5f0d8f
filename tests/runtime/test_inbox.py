"""What a runtime knows of the runs that it has answered: the same as one that looks for the first time."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from flujo_async import Flujo, InMemoryBackend, Retry, RunContext, step, wait_for, workflow
from flujo_async._plan.definition import definition_of
from flujo_async._runtime.inbox import Inbox, Inboxes
from flujo_async._runtime.program import Catalogue
from flujo_async._runtime.reader import Reader
from flujo_async.abc import StateBackend
from flujo_async.errors import FlujoError, InvalidSignal, RunNotFound
from flujo_async.testing import FaultyBackend, VirtualClock
from tests.runtime.crashes import ticks
from tests.runtime.stores import Store

HOUR = timedelta(hours=1)


async def undo(done: int) -> None:
    """Do nothing."""


@step(compensate=undo)
async def book(number: int) -> int:
    return number


@step(retry=Retry(max_attempts=1))
async def conclude(numbers: list[int]) -> int:
    if sum(numbers) % 2:
        raise ValueError("odd")
    return sum(numbers)


@workflow(name="desk")
async def desk(ctx: RunContext) -> int:
    async def ask(name: str, count: int) -> int:
        return sum([await book(await ctx.wait_for(name, schema=int)) for _ in range(count)])

    numbers = await asyncio.gather(ask("a", 2), ask("a", 1), ask("b", 2))
    return await conclude(list(numbers)) + int(await ctx.wait_for("c", schema=int, timeout=HOUR, default=0))


def inboxes(store: StateBackend) -> Inboxes:
    catalogue = Catalogue(definition_of(desk), registry=None, context_type=None, migrate=None)
    return Inboxes(Reader(store, catalogue, VirtualClock()))


async def known(boxes: Inboxes) -> dict[str, Any] | None:
    try:
        return dict(vars(await boxes.look("r")))
    except RunNotFound:
        return None


def copied(state: dict[str, Any] | None) -> Any:
    return (
        None
        if state is None
        else {name: value.copy() if hasattr(value, "copy") else value for name, value in state.items()}
    )


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_happens_to_a_run_is_known(seed: int) -> None:
    """Answered, failed, undone, tried again, deleted and begun anew: at the same instant as before, too."""
    draw, store, clock = random.Random(seed), InMemoryBackend(), VirtualClock()
    flujo, kept = Flujo(desk, state_backend=store, clock=clock), inboxes(store)

    async def late() -> None:
        clock.advance(HOUR)

    acts: list[Callable[[], Awaitable[object]]] = [
        *[lambda: flujo.signal("r", draw.choice("aabbcd"), draw.choice([1, 2, 3, "x"]))] * 8,
        lambda: flujo.pause("r"),
        lambda: flujo.resume("r"),
        lambda: flujo.redrive("r"),
        lambda: flujo.redrive("r", decision="skip", output=0),
        late,
        draw.choice([lambda: flujo.cancel("r"), lambda: flujo.delete("r")]),
    ]
    for _ in range(60):
        with suppress(FlujoError):
            await flujo.start(run_id="r")
        with suppress(FlujoError):
            await draw.choice(acts)()
        await ticks()
        before = copied(await known(inboxes(store)))
        found = copied(await known(kept))
        if before == copied(await known(inboxes(store))):  # nobody has gone on with it meanwhile
            assert found == before
    await flujo.aclose()


@pytest.mark.parametrize("is_imported", [True, False])
async def test_a_run_of_the_same_log_has_answers_of_its_own(store: Store, is_imported: bool) -> None:
    """Imported again as it was before, or created anew at the same instant, it has not got what the one before got."""

    @workflow(name="asking")
    async def asking(ctx: RunContext) -> list[str]:
        return [str(await ctx.wait_for(name, schema=str)) for name in ("one", "two")]

    flujo = Flujo(asking, state_backend=store.open(), clock=VirtualClock())
    await flujo.dispatch(run_id="r")
    backup = await flujo.export_run("r")
    for answer in ("old", "new"):
        for name in ("one", "two", "two"):  # what was said before is accepted in silence
            await flujo.signal("r", name, f"{answer} {name}")
        if answer == "old":
            await flujo.delete("r")
            await (flujo.import_run(backup) if is_imported else flujo.dispatch(run_id="r"))
    assert (await flujo.run(run_id="r")).output == ["new one", "new two"]
    await flujo.aclose()


async def test_an_answer_that_is_counted_with_those_of_the_run_before_hinders_no_other(store: Store) -> None:
    """That one was deleted and begun anew just before the answer was posted, which is the new one's first."""

    @workflow(name="asking")
    async def asking(ctx: RunContext) -> list[int]:
        return [int(await ctx.wait_for("go", schema=int)) for _ in range(2)]

    backend = FaultyBackend(store.open())
    flujo, other = Flujo(asking, state_backend=backend), Flujo(asking, state_backend=store.open())

    backend.delay("post", nth=2, how="before", until=partial(begun_anew, other))
    for answer in (1, 2, 3):
        assert (await flujo.run(run_id="r")).status == "paused"
        await flujo.signal("r", "go", answer)
    assert (await flujo.run(run_id="r")).output == [2, 3]
    await flujo.aclose()
    await other.aclose()


async def begun_anew(flujo: Flujo[Any, Any]) -> None:
    """Delete the run, and begin another one of its name."""
    await flujo.delete("r")
    await flujo.run(run_id="r")


async def test_a_pause_that_is_counted_with_those_of_the_run_before_hinders_no_other(store: Store) -> None:
    """As with an answer."""
    begun, goes_on = asyncio.Event(), asyncio.Event()

    @step
    async def held(value: Any) -> None:
        begun.set()
        await goes_on.wait()

    backend = FaultyBackend(store.open())
    flujo, other = (
        Flujo(wait_for("go") >> held >> wait_for("end"), state_backend=opened) for opened in (backend, store.open())
    )

    backend.delay("post", nth=2, how="before", until=partial(begun_anew, other))
    await flujo.run(run_id="r")
    for _ in range(2):
        await flujo.pause("r")
        await flujo.resume("r")
    await flujo.signal("r", "go", None)
    await flujo.run(run_id="r")  # it hears of the pause that came late
    driving = asyncio.ensure_future(flujo.resume("r"))
    await begun.wait()
    await flujo.pause("r")
    goes_on.set()
    assert [wait.kind for wait in (await driving).waiting_for] == ["pause"]
    await flujo.aclose()
    await other.aclose()


async def test_who_asks_while_somebody_reads_shares_what_is_read_next() -> None:
    """What is being read may be too old; so of many that ask at once, two read."""
    store = InMemoryBackend()
    await Flujo(desk, state_backend=store).dispatch(run_id="r")
    gated = FaultyBackend(store)
    boxes = inboxes(gated)
    for verbs in (["load", "read_events", "read_signals"], ["read_events", "read_signals"] * 2):
        before = len(gated.calls)
        reading = gated.delay(verbs[0])
        asking = [asyncio.ensure_future(boxes.look("r")) for _ in range(50)]
        await reading.reached()
        reading.release()
        await asyncio.gather(*asking)
        assert [call.verb for call in gated.calls[before:]] == verbs


async def test_who_is_cancelled_while_it_reads_is_in_nobody_s_way() -> None:
    """The store may hang for ever; whoever comes next asks anew."""
    store = InMemoryBackend()
    await Flujo(desk, state_backend=store).dispatch(run_id="r")
    gated = FaultyBackend(store)
    boxes = inboxes(gated)
    await boxes.look("r")
    reading = gated.delay("read_signals")
    first = asyncio.ensure_future(boxes.look("r"))
    await reading.reached()
    second = asyncio.ensure_future(boxes.look("r"))
    await ticks()
    first.cancel()
    assert (await second).run_id == "r"
    assert first.cancelled()
    reading.release()


async def test_a_runtime_that_has_answered_sees_what_others_have_answered() -> None:
    """In the order in which it was posted, and whatever was taken."""
    store = InMemoryBackend()

    @workflow(name="asking")
    async def asking(ctx: RunContext) -> str:
        await ctx.wait_for("first", schema=int)
        await ctx.wait_for("second", schema=int)
        return str(await ctx.wait_for("first", schema=str))

    one, other = Flujo(asking, state_backend=store), Flujo(asking, state_backend=store)
    await one.run(run_id="r")
    await one.signal("r", "first", 1)
    await other.run(run_id="r")
    await other.signal("r", "second", 2)
    with pytest.raises(InvalidSignal, match="first one counts"):
        await one.signal("r", "second", 3)
    result = await one.run(run_id="r")
    assert [waiting.name for waiting in result.waiting_for] == ["first"]
    await one.signal("r", "first", "done")
    assert (await other.run(run_id="r")).output == "done"
    with pytest.raises(InvalidSignal, match="first one counts"):
        await one.signal("r", "first", "else")
    with pytest.raises(InvalidSignal, match="completed"):
        await one.signal("r", "third", 1)
    await other.delete("r")
    with pytest.raises(RunNotFound):
        await one.signal("r", "first", 1)
    await one.aclose()
    await other.aclose()


async def test_the_runs_that_were_answered_last_are_known() -> None:
    """And no others: a service answers many."""
    store = InMemoryBackend()
    flujo, boxes = Flujo(desk, state_backend=store), inboxes(store)
    boxes_of: dict[str, Inbox] = {}
    for number in range(100):
        await flujo.dispatch(run_id=f"{number}")
        boxes_of[f"{number}"] = await boxes.look(f"{number}")
    kept = [run_id for run_id in reversed(boxes_of) if await boxes.look(run_id) is boxes_of[run_id]]
    assert kept == [f"{number}" for number in range(99, 35, -1)]
