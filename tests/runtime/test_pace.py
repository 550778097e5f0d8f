"""Runs that could go on at the same instant share the turns of their event loop with everything else in it."""

import asyncio
import functools
import operator
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from flujo_async import (
    Flujo,
    InMemoryBackend,
    as_step,
    graph,
    map_each,
    parallel,
    register_type,
    step,
    wait_for,
    workflow,
)
from flujo_async.abc.pace import MOST_A_TURN, Pace
from flujo_async.abc.pending import Pending
from flujo_async.errors import RunFailed
from flujo_async.testing import FaultyBackend
from tests.runtime.stores import Store


class Watch:
    """A clock, and how often a task has been woken that does nothing but wait for the event loop."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.wakings = 0

    def __call__(self) -> float:
        return self.seconds

    @asynccontextmanager
    async def looking(self, meanwhile: Callable[[], None] = lambda: None) -> AsyncIterator[None]:
        task = asyncio.create_task(self._look(meanwhile))
        await asyncio.sleep(0)
        yield
        task.cancel()

    async def _look(self, meanwhile: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            woken: asyncio.Future[None] = loop.create_future()
            loop.call_soon(woken.set_result, None)  # as what a timer or a socket does
            await woken
            self.wakings += 1
            meanwhile()


@pytest.fixture
def watch() -> Watch:
    return Watch()


class Crowd:
    """Tasks that begin in the same turn of the loop; each does one thing, which takes some seconds."""

    def __init__(self, watch: Watch) -> None:
        self.pace = Pace(watch)
        self.order: list[int] = []
        self.at: list[int] = []
        self._watch = watch

    async def go_on(self, number: int, seconds: float) -> None:
        if self.pace.is_over:
            await self.pace.turn()
        self.work(number, seconds)

    async def be_answered(self, number: int, seconds: float) -> None:
        answer: Pending[None] = Pending()
        self.pace.give([(answer, (None, None))])
        await answer
        self.work(number, seconds)

    def work(self, number: int, seconds: float) -> None:
        self._watch.seconds += seconds
        self.order.append(number)
        self.at.append(self._watch.wakings)


async def test_what_takes_long_is_done_once_in_a_while(watch: Watch) -> None:
    """In between a timer can wake a task: that takes two turns, one for the callback and one for the task."""
    crowd = Crowd(watch)
    async with watch.looking():
        await asyncio.gather(*(crowd.go_on(number, 0.004) for number in range(20)))
    assert crowd.order == list(range(20))
    assert all(later > earlier for earlier, later in pairwise(crowd.at))


async def test_what_is_quick_shares_a_turn(watch: Watch) -> None:
    crowd = Crowd(watch)
    async with watch.looking():
        await asyncio.gather(*(crowd.go_on(number, 0.0003) for number in range(8)))
    assert crowd.order == list(range(8))
    assert len(set(crowd.at)) == 2, "four in the first turn, and four in the next"


async def test_a_timeless_turn_is_as_long_as_it_likes(watch: Watch) -> None:
    """Until the last one who wants it so has ended."""
    crowd = Crowd(watch)
    with crowd.pace.timeless():
        with crowd.pace.timeless():
            pass
        async with watch.looking():
            await asyncio.gather(*(crowd.go_on(number, 0.004) for number in range(8)))
        assert set(crowd.at) == {0}
    crowd.at.clear()
    async with watch.looking():
        await asyncio.gather(*(crowd.go_on(number, 0.004) for number in range(8)))
    assert len(set(crowd.at)) == 8


async def test_one_alone_does_not_wait(watch: Watch) -> None:
    crowd = Crowd(watch)
    async with watch.looking():
        for number in range(5):
            await crowd.go_on(number, 0.0001)
    assert set(crowd.at) == {0}


async def test_answers_wait_in_the_same_queue(watch: Watch) -> None:
    """First come, first served."""
    crowd = Crowd(watch)
    ways = [crowd.go_on, crowd.be_answered]
    async with watch.looking():
        await asyncio.gather(*(ways[number % 2](number, 0.004) for number in range(10)))
    assert crowd.order == list(range(10))
    assert all(later > earlier for earlier, later in pairwise(crowd.at))


async def test_no_more_go_on_in_a_turn_than_are_good_for_commits(watch: Watch) -> None:
    crowd = Crowd(watch)
    answers: list[Pending[None]] = [Pending() for _ in range(3 * MOST_A_TURN)]
    crowd.pace.give((answer, (None, None)) for answer in answers)
    assert [answer.done() for answer in answers].count(True) == MOST_A_TURN
    await asyncio.gather(*(answer.over() for answer in answers))


async def test_others_that_take_long_do_not_hold_up_the_runs(watch: Watch) -> None:
    """Whatever else keeps the loop busy is none of theirs: they go on in every turn."""
    crowd = Crowd(watch)

    def be_busy() -> None:
        watch.seconds += 0.1

    async with watch.looking(be_busy):
        await asyncio.gather(*(crowd.go_on(number, 0.0006) for number in range(20)))
    turns = [later - earlier for earlier, later in pairwise(crowd.at[2:])]
    assert max(turns) <= 1


async def test_who_is_cancelled_gives_up_its_place(watch: Watch) -> None:
    crowd = Crowd(watch)
    tasks = [asyncio.create_task(crowd.go_on(number, 0.004)) for number in range(4)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    await asyncio.wait(tasks)
    assert crowd.order == [0, 2, 3]
    assert tasks[1].cancelled()


def test_every_event_loop_has_its_own() -> None:
    async def here() -> Pace:
        assert Pace.here() is Pace.here()
        return Pace.here()

    assert asyncio.run(here()) is not asyncio.run(here())


# ----------------------------------------------------------------------------------------------------- with runs


class Text:
    """A text that tells when it is encoded."""

    encoded_at: list[int]
    watch: Watch

    def __init__(self, text: str) -> None:
        self.text = text

    def encoded(self) -> str:
        self.encoded_at.append(self.watch.wakings)
        return self.text


register_type(Text, name="pace-test-text", encode=Text.encoded, decode=Text)


@step
async def grow(text: Text) -> Text:
    return Text(text.text + ".")


async def test_runs_with_large_values_leave_the_loop_to_others(store: Store, watch: Watch) -> None:
    """They begin at the same instant. Encoding and hashing eight megabytes takes milliseconds on any machine."""
    Text.watch, Text.encoded_at = watch, []
    large = "é" * 2**22
    flujo = Flujo(grow >> grow, state_backend=store.open())
    await flujo.run(Text("small"), run_id="first")
    Text.encoded_at.clear()
    async with watch.looking():
        results = await asyncio.gather(
            *(flujo.run(Text(f"{number}{large}"), run_id=f"{number}") for number in range(4))
        )
    assert [result.output.text for result in results] == [f"{number}{large}.." for number in range(4)]
    assert len(Text.encoded_at) == 4 * 3
    assert all(later > earlier for earlier, later in pairwise(Text.encoded_at))


async def test_a_run_that_never_waits_leaves_the_loop_to_others(watch: Watch) -> None:
    """A store that answers at once is nothing to wait for."""

    @step
    async def work(number: int) -> int:
        sum(range(100_000))
        return number + 1

    pipeline = work
    for _ in range(20):
        pipeline = pipeline >> work  # type: ignore[assignment]
    async with watch.looking():
        await Flujo(pipeline, state_backend=InMemoryBackend()).run(0)
    assert watch.wakings > 2


def many_at_once(kind: str, work: Callable[[int], Awaitable[int]]) -> Any:
    """Return what calls ``work`` for many numbers, all of which could begin at the same instant."""
    one = step(name="one")(work)
    if kind == "map_each":
        return map_each(one)
    if kind == "graph":
        return graph(*(step(name=f"node {number}")(partial(work, number)) for number in range(200)))

    @workflow
    async def gather(numbers: list[int]) -> None:
        await asyncio.gather(*map(one, numbers))

    return gather


@pytest.mark.parametrize("kind", ["map_each", "graph", "workflow"])
async def test_steps_that_begin_at_once_leave_the_loop_to_others(watch: Watch, kind: str) -> None:
    """And begin in their order."""
    begun, begun_at = list[int](), list[int]()

    async def work(number: int) -> int:
        begun.append(number)
        begun_at.append(watch.wakings)
        return sum(range(20_000))

    async with watch.looking():
        await Flujo(many_at_once(kind, work)).run({} if kind == "graph" else list(range(200)))
    assert begun == list(range(200))
    assert len(set(begun_at)) > 4


async def test_a_workflow_that_goes_on_after_a_failure_leaves_the_loop_to_others(watch: Watch) -> None:
    """However many of its calls are recorded."""
    called_at = list[int]()
    is_broken = True

    @step
    async def last() -> None:
        if is_broken:
            raise ValueError("broken")

    @workflow
    async def calls(count: int) -> None:
        called_at.clear()
        for number in range(count):
            await note(number)
            called_at.append(watch.wakings)
        await last()

    flujo = Flujo(calls)
    with pytest.raises(RunFailed):
        await flujo.run(4000, run_id="r")
    is_broken = False
    async with watch.looking():
        await flujo.redrive("r")
    assert len(called_at) == 4000
    assert len(set(called_at)) > 2


async def test_a_run_that_waits_for_its_turn_is_at_no_standstill() -> None:
    """One branch waits for an answer. In the other much is recorded, and many others want to go on."""
    executed, begun = list[int](), asyncio.Event()

    @step
    async def new(number: int) -> int:
        if not begun.is_set():
            begun.set()
            await asyncio.Event().wait()
        executed.append(number)
        return number

    long = functools.reduce(operator.rshift, [note] * 10_000, note)
    flujo = Flujo(parallel(as_step(long >> new, name="long"), as_step(wait_for("answer"), name="waiting")))
    run = asyncio.create_task(flujo.run(1, run_id="r"))
    await begun.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run

    async def go_on() -> None:
        while not executed:
            await Pace.here().turn()

    others = [asyncio.create_task(go_on()) for _ in range(40 * MOST_A_TURN)]
    assert (await flujo.resume("r")).status == "paused"
    assert executed == [1]
    for other in others:
        other.cancel()


NOTES = 10_000


@pytest.fixture(scope="module")
def exported() -> bytes:
    """A run whose facts take milliseconds to read on any machine."""

    async def run() -> bytes:
        flujo = Flujo(note_all)
        await flujo.run(NOTES, run_id="r")
        return await flujo.export_run("r")

    return asyncio.run(run())


@step
async def note(number: int) -> int:
    return number


@workflow
async def note_all(count: int) -> None:
    for number in range(count):
        await note(number)


async def _follow(flujo: Flujo[int, None]) -> None:
    async for _ in flujo.handle("r").events():
        pass


WAYS_TO_READ: dict[str, Callable[[Flujo[int, None]], Awaitable[object]]] = {
    "state": lambda flujo: flujo.state("r"),
    "history": lambda flujo: flujo.history("r"),
    "steps": lambda flujo: flujo.steps("r"),
    "run": lambda flujo: flujo.run(run_id="r"),
    "fork": lambda flujo: flujo.fork("r"),
    "events": _follow,
    "verify": lambda flujo: flujo.verify("r"),
    "export_run": lambda flujo: flujo.export_run("r"),
}


@pytest.mark.parametrize("way", WAYS_TO_READ)
async def test_who_reads_a_long_log_leaves_the_loop_to_others(exported: bytes, watch: Watch, way: str) -> None:
    """A store that answers at once is nothing to wait for."""
    flujo = Flujo(note_all)
    async with watch.looking():
        await flujo.import_run(exported)
    assert watch.wakings > 2
    watch.wakings = 0
    async with watch.looking():
        await WAYS_TO_READ[way](flujo)
    assert watch.wakings > 2


async def test_many_who_follow_a_run_do_not_read_what_they_have_seen(exported: bytes) -> None:
    """Nor do they fold the run to know its definition."""
    faulty = FaultyBackend(InMemoryBackend())
    flujo = Flujo(note_all, state_backend=faulty)
    await flujo.import_run(exported)
    faulty.calls.clear()
    assert [event.kind async for event in flujo.handle("r").events(after=NOTES + 1)] == ["RunCompleted"]
    assert "load" not in {call.verb for call in faulty.calls}
