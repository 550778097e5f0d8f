"""``wait_for``: a run pauses until somebody answers (G14)."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from flujo_async import Flujo, RunContext, as_step, branch, child, loop, map_each, parallel, step, wait_for, workflow
from flujo_async._model.stored import RunQuery
from flujo_async.abc import StateBackend
from flujo_async.errors import DefinitionError, RunFailed, WaitTimeout
from flujo_async.testing import VirtualClock
from tests.runtime.crashes import crashes, others, ticks
from tests.runtime.executed import EXECUTED, note
from tests.runtime.stores import Store


class Approval(BaseModel):
    by: str
    is_granted: bool = True


@dataclass
class Point:
    x: int
    y: int


class Mentioning(BaseModel):
    other: "NotYet"  # type: ignore[name-defined]  # noqa: F821  # pyright: ignore[reportUndefinedVariable]


class Unknown: ...


DAY = timedelta(days=1)


async def test_a_run_pauses_and_tells_what_it_waits_for(backend: StateBackend) -> None:
    """The result is a plain one; so is the listing."""
    clock = VirtualClock()
    pipeline = note >> wait_for("approval", schema=Approval, prompt="Shall we?", timeout=DAY) >> note
    flujo = Flujo(pipeline, state_backend=backend, clock=clock)
    result = await flujo.run(1, run_id="r")
    assert (result.status, result.output, result.error) == ("paused", None, None)
    [waiting] = result.waiting_for
    assert (waiting.kind, waiting.name, waiting.prompt) == ("signal", "approval", "Shall we?")
    assert (waiting.since, waiting.deadline) == (clock.now(), clock.now() + DAY)
    assert waiting.schema == Approval.model_json_schema()
    [summary] = await flujo.list_runs(status="paused")
    assert (summary.waiting_for, summary.lease) == ([waiting], None)
    assert (await flujo.state("r")).waiting_for == [waiting]
    assert EXECUTED == [1]
    assert others() == set()


async def test_a_run_that_pauses_again_is_woken_by_what_is_new_only(backend: StateBackend) -> None:
    """Workers look for paused runs with signals that nobody has read."""
    flujo = Flujo(wait_for("first") >> wait_for("second"), state_backend=backend)
    await flujo.run(run_id="r")
    await flujo.signal("r", "first", 1)
    assert (await flujo.run(run_id="r")).waiting_for[0].name == "second"
    [head] = await backend.query_runs(RunQuery(run_id="r"))
    assert (head.signals, head.signals_read) == (1, 1)


async def test_calling_again_executes_nothing(backend: StateBackend) -> None:
    """However often, in whichever way: the same result, and the log does not grow."""
    flujo = Flujo(note >> wait_for("go") >> note, state_backend=backend)
    first = await flujo.run(1, run_id="r")
    history = await flujo.history("r")
    for _ in range(3):
        assert await flujo.run(1, run_id="r") == first
        assert await flujo.run(run_id="r") == first
        assert await flujo.resume("r") == first
        assert await flujo.recover() == []
        assert await (await flujo.start(run_id="r")).result() == first
    assert await flujo.history("r") == history
    assert EXECUTED == [1]
    await flujo.aclose()


@pytest.mark.parametrize("prompt", ["a\ud800", b"text", 3])
def test_a_prompt_is_a_text(prompt: Any) -> None:
    """One that could not be stored would fail a run that has come as far as the wait."""
    with pytest.raises(DefinitionError, match=r"wait_for\('answer'\): prompt is a text"):
        wait_for("answer", prompt=prompt)


@pytest.mark.parametrize("schema", [Unknown, list[Unknown], Callable, 3, int.bit_length], ids=repr)
async def test_what_cannot_be_asked_for_is_refused_before_anything_runs(schema: Any) -> None:
    """Also inside of another element, and in a child."""
    question = wait_for("answer", schema=schema)
    for pipeline in (note >> question, map_each(question), child(question)):
        with pytest.raises(DefinitionError, match=r"wait_for\('answer'\): schema= is a type"):
            Flujo(pipeline)


async def test_what_is_asked_for_may_be_described_later() -> None:
    """A class that mentions one which is not there yet, and a name."""
    await Flujo(wait_for("answer", schema="int")).run(run_id="r")
    Flujo(wait_for("answer", schema=Mentioning))


@pytest.mark.parametrize(
    ("schema", "payload", "output"),
    [
        (None, {"any": [1, "thing"]}, {"any": [1, "thing"]}),
        (Approval, {"by": "Ada"}, Approval(by="Ada")),
        (Approval, Approval(by="Ada"), Approval(by="Ada")),
        (int, "5", 5),
        (Literal["yes", "no"], "yes", "yes"),
        (Point, {"x": 1, "y": "2"}, Point(1, 2)),
        (Point, Point(1, 2), Point(1, 2)),
        (list[int], ["1", 2], [1, 2]),
        (bool | None, None, None),
    ],
    ids=repr,
)
@pytest.mark.parametrize("kind", ["pipeline", "workflow"])
async def test_an_answer_becomes_what_the_schema_says(kind: str, schema: Any, payload: Any, output: Any) -> None:
    """Validated, converted, of its type; from another runtime as well."""

    @workflow
    async def flow(ctx: RunContext) -> Any:
        return await note(await ctx.wait_for("answer", schema=schema))

    definition: Any = flow if kind == "workflow" else wait_for("answer", schema=schema) >> note
    flujo = Flujo(definition)
    await flujo.run(run_id="r")
    other: Flujo[Any, Any] = Flujo(definition, state_backend=flujo.state_backend)
    await other.signal("r", "answer", payload)
    result = await flujo.handle("r").result()
    assert (result.output, type(result.output)) == (output, type(output))
    assert (EXECUTED, type(EXECUTED[0])) == ([output], type(output))
    await other.aclose()


@pytest.mark.parametrize("kind", ["pipeline", "workflow"])
async def test_an_answer_is_on_record_before_anything_acts_on_it(backend: StateBackend, kind: str) -> None:
    """A process that dies in the step that follows was answered all the same, even if the time is over by then."""
    recorded: list[str] = []

    @step
    async def act(answer: str) -> str:
        recorded.extend(commit.fact.kind for commit in await flujo.history("r"))
        return answer

    @workflow
    async def flow(ctx: RunContext) -> Any:
        return await act(await ctx.wait_for("go"))

    flujo: Flujo[Any, Any] = Flujo(flow if kind == "workflow" else wait_for("go") >> act, state_backend=backend)
    await flujo.run(run_id="r")
    await flujo.signal("r", "go", "now")
    assert (await flujo.handle("r").result()).output == "now"
    assert recorded[-1] == "SignalReceived"
    assert recorded.count("SignalReceived") == 1
    await flujo.aclose()


class TestTimeout:
    """Waits that end by themselves."""

    async def test_a_default_stands_in(self, backend: StateBackend) -> None:
        """When the time is over; the run was paused until then, and wakes by itself."""
        clock = VirtualClock()
        flujo = Flujo(wait_for("go", timeout=DAY, default="nobody") >> note, state_backend=backend, clock=clock)
        assert (await flujo.run(run_id="r")).status == "paused"
        clock.advance(DAY / 2)
        assert (await flujo.run(run_id="r")).status == "paused"
        clock.advance(DAY / 2)
        result = await flujo.run(run_id="r")
        assert (result.status, result.output, EXECUTED) == ("completed", "nobody", ["nobody"])

    async def test_without_a_default_it_fails_the_run(self, backend: StateBackend) -> None:
        """With ``WaitTimeout``, for whoever comes first after that."""
        clock = VirtualClock()
        flujo = Flujo(wait_for("go", timeout=DAY) >> note, state_backend=backend, clock=clock)
        await flujo.run(run_id="r")
        clock.advance(DAY)
        with pytest.raises(RunFailed) as caught:
            await flujo.run(run_id="r")
        assert isinstance(caught.value.__cause__, WaitTimeout)
        assert EXECUTED == []

    async def test_a_runtime_that_is_open_wakes_it(self, backend: StateBackend) -> None:
        """Nobody has to call."""
        clock = VirtualClock()
        flujo = Flujo(wait_for("go", timeout=DAY, default=1), state_backend=backend, clock=clock)
        handle = await flujo.start(run_id="r")
        assert (await handle.result()).status == "paused"
        await clock.until_asleep()
        clock.advance(DAY)
        async with asyncio.timeout(20):
            while await handle.status() == "paused":
                await asyncio.sleep(0.001)
            assert (await handle.result()).output == 1
        await flujo.aclose()
        assert others() == set()

    async def test_an_answer_in_time_counts(self, backend: StateBackend) -> None:
        """And the time does not matter any more."""
        clock = VirtualClock()
        flujo = Flujo(wait_for("go", timeout=DAY, default="nobody") >> note, state_backend=backend, clock=clock)
        await flujo.run(run_id="r")
        await flujo.signal("r", "go", "me")
        assert (await flujo.handle("r").result()).output == "me"
        clock.advance(DAY)
        assert (await flujo.run(run_id="r")).output == "me"
        await flujo.aclose()

    async def test_code_may_catch_it(self, backend: StateBackend) -> None:
        """As any exception."""
        clock = VirtualClock()

        @workflow
        async def flow(ctx: RunContext) -> str:
            try:
                await ctx.wait_for("go", timeout=DAY)
            except WaitTimeout:
                return "late"
            return "in time"

        flujo = Flujo(flow, state_backend=backend, clock=clock)
        await flujo.run(run_id="r")
        clock.advance(DAY)
        assert (await flujo.run(run_id="r")).output == "late"

    async def test_a_short_wait_stays_in_memory(self) -> None:
        """No use in leaving it for less than a moment."""
        clock = VirtualClock()
        flujo = Flujo(wait_for("go", timeout=0.5, default=1), clock=clock)
        task = asyncio.ensure_future(flujo.run(run_id="r"))
        await clock.until_asleep()
        await ticks()
        assert await flujo.handle("r").status() == "running"
        clock.advance(0.5)
        assert (await task).output == 1

    def test_a_default_needs_a_timeout(self) -> None:
        """And names have to be names."""
        with pytest.raises(DefinitionError):
            wait_for("go", default=1)
        for name in ("", "a/b", "$cancel", "a\ud800"):
            with pytest.raises(DefinitionError):
                wait_for(name)


@workflow
async def waiting(name: str, ctx: RunContext) -> str:
    return await note(await ctx.wait_for(name))  # type: ignore[no-any-return]


class TestPlaces:
    """Waits inside of combinators."""

    @pytest.mark.parametrize(
        ("pipeline", "given", "names", "output"),
        [
            (
                parallel(as_step(wait_for("a"), name="a"), as_step(wait_for("b") >> note, name="b")),
                1,
                ["a", "b"],
                {"a": "A", "b": "B"},
            ),
            (loop(wait_for("a") >> note, until=lambda v: v == "A", max_iterations=3), 1, ["a"], "A"),
            (branch(lambda v: v, {"x": wait_for("a") >> note, "y": note}), "x", ["a"], "A"),
            (map_each(waiting), ["a", "b"], ["a", "b"], ["A", "B"]),
        ],
        ids=["parallel", "loop", "branch", "map_each"],
    )
    async def test_it_stands_wherever_a_step_can(
        self, backend: StateBackend, pipeline: Any, given: Any, names: list[str], output: Any
    ) -> None:
        """Answered one after the other."""
        flujo = Flujo(pipeline, state_backend=backend)
        result = await flujo.run(given, run_id="r")
        for number, name in enumerate(names):
            assert result.status == "paused"
            assert [waiting.name for waiting in result.waiting_for] == names[number:]
            await flujo.signal("r", name, name.upper())
            result = await flujo.handle("r").result()
        assert (result.status, result.output) == ("completed", output)
        await flujo.aclose()

    async def test_other_branches_run_to_their_end_first(self, backend: StateBackend) -> None:
        """Only when nothing can go on is the run paused."""
        is_reached, go_on = asyncio.Event(), asyncio.Event()

        @step
        async def busy(n: int) -> int:
            is_reached.set()
            await go_on.wait()
            return n

        flujo = Flujo(
            parallel(as_step(wait_for("a"), name="a"), as_step(busy >> note, name="b")), state_backend=backend
        )
        task = asyncio.ensure_future(flujo.run(1, run_id="r"))
        await is_reached.wait()
        await ticks()
        assert await flujo.handle("r").status() == "running"
        assert not task.done()
        go_on.set()
        result = await task
        assert (result.status, EXECUTED) == ("paused", [1])
        await flujo.signal("r", "a", 7)
        assert (await flujo.handle("r").result()).output == {"a": 7, "b": 1}
        assert EXECUTED == [1]
        await flujo.aclose()

    async def test_an_answer_reaches_a_run_that_is_still_driven(self, backend: StateBackend) -> None:
        """It goes on at once beside the busy branch, and is never paused."""
        is_reached, go_on = asyncio.Event(), asyncio.Event()

        @step
        async def busy(n: int) -> int:
            is_reached.set()
            await go_on.wait()
            return n

        flujo = Flujo(
            parallel(as_step(wait_for("a") >> note, name="a"), as_step(busy, name="b")), state_backend=backend
        )
        task = asyncio.ensure_future(flujo.run(1, run_id="r"))
        await is_reached.wait()
        await ticks()
        await Flujo(note, state_backend=backend).signal("r", "a", "answer")
        async with asyncio.timeout(20):
            while not EXECUTED:
                await asyncio.sleep(0.001)
        go_on.set()
        assert (await task).output == {"a": "answer", "b": 1}
        kinds = [commit.fact.kind for commit in await flujo.history("r")]
        assert "RunPaused" not in kinds

    async def test_tasks_of_a_workflow_wait_side_by_side(self, backend: StateBackend) -> None:
        """Each for its own; killed at every commit."""

        @workflow
        async def flow(ctx: RunContext) -> list[Any]:
            async def one(name: str) -> Any:
                return await note(await ctx.wait_for(name))

            return list(await asyncio.gather(one("a"), one("b"), note("c")))

        async def attempt(store: StateBackend, run_id: str) -> None:
            flujo = Flujo(flow, state_backend=store)
            result = await flujo.run(None, run_id=run_id)
            for name in ("b", "a"):
                assert name in [waiting.name for waiting in result.waiting_for]
                await flujo.signal(run_id, name, name.upper())
                await flujo.aclose()
                result = await flujo.run(run_id=run_id)
            assert result.output == ["A", "B", "c"]

        async for run_id in crashes(backend, attempt):
            flujo = Flujo(flow, state_backend=backend)
            result = await flujo.run(run_id=run_id)
            for item in result.waiting_for:
                await flujo.signal(run_id, item.name, item.name.upper())
                result = await flujo.handle(run_id).result()
            assert result.output == ["A", "B", "c"]
            await flujo.aclose()

    async def test_one_name_can_be_asked_for_again(self, backend: StateBackend) -> None:
        """Each time it takes a new answer."""

        @workflow
        async def flow(ctx: RunContext) -> list[Any]:
            return [await ctx.wait_for("word") for _ in range(3)]

        flujo = Flujo(flow, state_backend=backend)
        await flujo.run(run_id="r")
        for word in ("one", "two", "two"):
            await flujo.signal("r", "word", word)
            result = await flujo.handle("r").result()
        assert result.output == ["one", "two", "two"]
        await flujo.aclose()

    async def test_waiting_for_is_a_list_of_all(self, backend: StateBackend) -> None:
        """With timers running beside, the run is not paused but sleeps."""
        clock = VirtualClock()

        @workflow
        async def flow(ctx: RunContext) -> Any:
            return await asyncio.gather(ctx.wait_for("a"), ctx.wait_for("b", timeout=DAY), ctx.sleep(DAY / 2))

        flujo = Flujo(flow, state_backend=backend, clock=clock)
        task = asyncio.ensure_future(flujo.run(run_id="r"))
        await clock.until_asleep()
        assert await flujo.handle("r").status() == "running"
        clock.advance(DAY / 2)
        result = await task
        assert [(item.name, item.deadline) for item in result.waiting_for] == [
            ("a", None),
            ("b", clock.now() + DAY / 2),
        ]


async def test_a_paused_run_is_rows_only(store: Store) -> None:
    """A thousand of them take no task and no lease."""
    flujo = Flujo(wait_for("go"), state_backend=store.open())
    number = 1000 if store.kind == "memory" else 100
    results = await asyncio.gather(*(flujo.run(n) for n in range(number)))
    assert {result.status for result in results} == {"paused"}
    assert others() == set()
    assert {summary.lease for summary in await flujo.list_runs(limit=None)} == {None}
