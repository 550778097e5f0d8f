"""The cost of a step follows what it changes, not what there is (G13). Bytes are counted, and never time."""

import copy
import heapq
import operator
import random
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from flujo_async import Flujo, RunContext, StepContext, loop, map_each, step, workflow
from flujo_async.abc import StateBackend
from flujo_async.backends.memory import InMemoryBackend

LARGE = "x" * 100_000


class Notes(BaseModel):
    text: str = LARGE
    numbers: list[int] = []
    messages: list[dict[str, Any]] = []
    transcript: str = ""
    nested: dict[str, list[str]] = {"a": [], "b": []}


@step
async def write(turn: int, ctx: StepContext) -> int:
    notes = ctx.state
    notes.numbers.append(turn)
    notes.messages.append({"role": "user", "content": f"turn {turn}"})
    notes.messages[-1]["content"] += "!"
    notes.transcript += f"turn {turn}\n"
    notes.nested["a"].append(str(turn))
    return turn + 1


def turns(count: int) -> Any:
    return loop(write, until=lambda turn: turn >= count, max_iterations=count)


@workflow
async def code(count: int, ctx: RunContext) -> int:
    for turn in range(count):
        ctx.state.numbers.append(turn)
        await write(turn)
    return count


async def sizes(backend: StateBackend, definition: Any, input: Any) -> list[int]:
    """Return the bytes of each record but the first, which has the context to start with."""
    flujo = Flujo(definition, state_backend=backend, context_type=Notes)
    result = await flujo.run(input, run_id="r")
    assert result.context.messages[-1]["content"].endswith("!")
    assert len(result.context.messages) == len(result.context.nested["a"])
    assert (await flujo.run(run_id="r")).context == result.context
    stored = await backend.load("r")
    assert stored is not None
    return [len(record.body) for record in stored.records[1:]]


@pytest.mark.parametrize(("definition", "input"), [(turns(300), 0), (code, 300)], ids=["pipeline", "workflow"])
async def test_a_step_writes_what_it_added_and_no_more(definition: Any, input: Any) -> None:
    """Lists, texts and what is nested grow by their tails; what stays is not written again."""
    written = await sizes(InMemoryBackend(), definition, input)
    early, late = sum(written[20:120]), sum(written[-120:-20])
    assert late < 1.1 * early
    assert max(written) < 1000


@pytest.mark.parametrize(
    "change",
    [
        lambda items: items.pop(0),
        lambda items: items.insert(0, "new"),
        lambda items: items.insert(100, "new"),
        lambda items: items.__delitem__(slice(100, 103)),
        lambda items: items.append(items.pop(0) + "!") or items.append("new"),
    ],
    ids=["taken from the front", "put at the front", "put in the middle", "taken from the middle", "moved to the end"],
)
async def test_a_list_costs_what_comes_and_goes_wherever_that_is(change: Any) -> None:
    """A queue, for example, and all that was in it comes back in the same order."""

    class Queue(BaseModel):
        items: list[str] = [f"item {number}" for number in range(1000)]

    @step
    async def act(turn: int, ctx: StepContext) -> int:
        change(ctx.state.items)
        return turn + 1

    backend = InMemoryBackend()
    flujo = Flujo(
        loop(act, until=lambda turn: turn >= 20, max_iterations=20), state_backend=backend, context_type=Queue
    )
    result = await flujo.run(0, run_id="r")
    expected = Queue().items
    for _ in range(20):
        change(expected)
    assert result.context.items == (await flujo.run(run_id="r")).context.items == expected
    stored = await backend.load("r")
    assert stored is not None
    assert max(len(record.body) for record in stored.records[1:]) < 1000


async def test_a_map_writes_what_its_members_changed_together() -> None:
    """Merged, and without what was there before."""

    class Log(BaseModel):
        text: str = LARGE
        seen: dict[str, int] = {str(n): n for n in range(1000)}

    @step
    async def note(item: int, ctx: StepContext) -> int:
        if item == 1:
            ctx.state.seen["new"] = item
        return item

    backend = InMemoryBackend()
    await Flujo(map_each(note), state_backend=backend, context_type=Log).run([1, 2, 3], run_id="r")
    stored = await backend.load("r")
    assert stored is not None
    assert max(len(record.body) for record in stored.records[1:]) < 1000


CHANGES: list[Callable[[list[Any]], object]] = [
    lambda numbers: numbers.__setitem__(5, 1.0),
    lambda numbers: numbers.__setitem__(5, True),
    lambda numbers: numbers.__setitem__(60, True),
    lambda numbers: numbers.__setitem__(60, 1.0),
    lambda numbers: numbers.__setitem__(slice(5, 7), [True, 1.0]),
    lambda numbers: numbers.__delitem__(5),
    lambda numbers: numbers.insert(0, 7),
    lambda numbers: numbers.append(numbers.pop(3)),
    lambda numbers: numbers.reverse(),
    lambda numbers: numbers.sort(key=lambda n: -n),
    lambda numbers: heapq.heapify(numbers),
    lambda numbers: heapq.heappush(numbers, -1),
    lambda numbers: random.Random(4).shuffle(numbers),
    lambda numbers: numbers.extend([(1,), {2}]),
    lambda numbers: numbers.append(numbers),
    lambda numbers: numbers.clear(),
    lambda numbers: operator.imul(numbers, 2),
    lambda numbers: operator.iadd(numbers, [1, True]),
]


class Log(BaseModel):
    numbers: list[Any] = [*range(50, 0, -1), *[1] * 50]


def do(change: Callable[[list[Any]], object], numbers: list[Any]) -> None:
    before = copy.deepcopy(numbers)
    assert type(before) is list
    change(numbers)
    if numbers and numbers[-1] is numbers:
        numbers[-1] = before


@pytest.mark.parametrize("change", CHANGES)
async def test_whatever_is_done_to_a_long_list_is_recorded(change: Any) -> None:
    """Also what Python takes for no change, as ``1`` for ``True``, and what goes past the methods of lists."""

    @step
    async def act(turn: int, ctx: StepContext) -> int:
        assert isinstance(ctx.state.numbers, list)
        if turn == 3:
            do(change, ctx.state.numbers)
        ctx.state.numbers.append(turn)
        seen.append(repr(ctx.state.numbers))
        return turn + 1

    seen: list[str] = []
    definition = loop(act, until=lambda turn: turn >= 6, max_iterations=6)
    flujo = Flujo(definition, context_type=Log)
    result = await flujo.run(0, run_id="r")
    assert repr(result.context.numbers) == seen[-1]
    assert repr((await flujo.state("r")).pipeline_context["numbers"]) == seen[-1]


@pytest.mark.parametrize("is_new", [False, True], ids=["as it was given", "a list of its own"])
@pytest.mark.parametrize("change", CHANGES)
async def test_whatever_the_code_does_to_a_list_is_recorded(change: Any, is_new: bool) -> None:
    """At each step, and the list that it keeps stays that of the context."""

    @step
    async def look(turn: int, ctx: StepContext) -> str:
        return repr(ctx.state.numbers)

    @workflow
    async def flow(turns: int, ctx: RunContext) -> list[bool]:
        if is_new:
            ctx.state.numbers = list(ctx.state.numbers)
        numbers, found = ctx.state.numbers, list[bool]()
        for turn in range(turns):
            if turn == 3:
                do(change, numbers)
            elif turn != 4:
                numbers.append(turn)
            found.append(await look(turn) == repr(numbers))
        return found

    flujo = Flujo(flow, context_type=Log)
    result = await flujo.run(6, run_id="r")
    assert result.output == [True] * 6
    assert repr(result.context.numbers) == (await flujo.steps("r"))[-1].output
