"""What a ``RunContext`` gives to the code of a workflow."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, PrivateAttr, field_validator

from flujo_async import (
    Flujo,
    InMemoryBackend,
    RunContext,
    StepContext,
    map_each,
    step,
    workflow,
)
from flujo_async._model.stored import RunUpdate
from flujo_async.abc import StateBackend
from flujo_async.abc.pace import Pace
from flujo_async.abc.pending import Pending
from flujo_async.errors import ContextConflict, RunFailed, SerializationError
from flujo_async.reducers import add, append
from tests.runtime.crashes import crashes
from tests.runtime.ways import broken, double


class TestDraws:
    """``now``, ``uuid``, ``random``: the same in every replay."""

    async def test_what_was_drawn_is_drawn_again(self, backend: StateBackend) -> None:
        """Once it is recorded; of its type."""
        seen = list[tuple[Any, ...]]()

        @workflow
        async def flow(n: int, ctx: RunContext) -> list[Any]:
            drawn = [ctx.now(), ctx.uuid(), ctx.random(), ctx.random()]
            seen.append(tuple(drawn))
            await double(n)
            drawn.append(ctx.uuid())
            await double(n)
            return drawn

        async def attempt(store: StateBackend, run_id: str) -> None:
            await Flujo(flow, state_backend=store).run(1, run_id=run_id)

        flujo = Flujo(flow, state_backend=backend)
        first = (await flujo.run(1, run_id="whole")).output
        assert [type(item) for item in first] == [datetime, UUID, float, float, UUID]
        assert first[0].tzinfo is UTC
        assert first[1] != first[4]
        assert first[2] != first[3]
        assert (await flujo.run(run_id="whole")).output == first
        async for run_id in crashes(backend, attempt):
            steps = len(await flujo.steps(run_id))
            before = seen[-1] if steps else None
            result = await flujo.run(run_id=run_id)
            assert before is None or tuple(result.output[:4]) == before

    async def test_tasks_draw_each_their_own(self, backend: StateBackend) -> None:
        """In whatever order they come to it."""

        @workflow
        async def flow(n: int, ctx: RunContext) -> list[Any]:
            async def one(i: int) -> list[Any]:
                drawn = ctx.random()
                await double(i)
                return [i, drawn]

            return list(await asyncio.gather(*(one(i) for i in range(n))))

        async def attempt(store: StateBackend, run_id: str) -> None:
            await Flujo(flow, state_backend=store).run(3, run_id=run_id)

        async for run_id in crashes(backend, attempt):
            flujo = Flujo(flow, state_backend=backend)
            values = [c.fact.value for c in await flujo.history(run_id) if c.fact.kind == "ValueDrawn"]  # type: ignore[union-attr]
            result = await flujo.run(run_id=run_id)
            assert set(values) <= {drawn for _, drawn in result.output}
            assert [i for i, _ in result.output] == [0, 1, 2]

    async def test_an_event_is_emitted_once(self, backend: StateBackend) -> None:
        """However often the code comes by."""

        @workflow
        async def flow(n: int, ctx: RunContext) -> int:
            ctx.emit({"at": 1})
            await double(n)
            ctx.emit({"at": 2})
            ctx.emit({"at": 2})
            return await double(n)

        async def attempt(store: StateBackend, run_id: str) -> None:
            await Flujo(flow, state_backend=store).run(1, run_id=run_id)

        async for run_id in crashes(backend, attempt):
            flujo = Flujo(flow, state_backend=backend)
            await flujo.run(run_id=run_id)
            events = [event.data async for event in flujo.handle(run_id).events() if event.kind == "EventEmitted"]
            assert events == [{"at": 1}, {"at": 2}, {"at": 2}]

    async def test_metadata_can_be_set_and_found(self, backend: StateBackend) -> None:
        """By ``list_runs``, in the state; others that were given stay."""

        @workflow
        async def flow(n: int, ctx: RunContext) -> int:
            ctx.set_metadata(customer="Ada", size={"n": n})
            await double(n)
            ctx.set_metadata(customer="Bob")
            return n

        flujo = Flujo(flow, state_backend=backend)
        await flujo.run(1, run_id="r", metadata={"given": True})
        expected = {"given": True, "customer": "Bob", "size": {"n": 1}}
        [found] = await flujo.list_runs(metadata={"customer": "Bob"})
        assert (found.run_id, found.metadata) == ("r", expected)
        assert await flujo.list_runs(metadata={"customer": "Ada"}) == []
        assert (await flujo.state("r")).metadata == expected

    async def test_metadata_go_down_when_they_have_changed(self) -> None:
        """Not at every step after that, in this process or in the one that resumes."""
        told = list[dict[str, Any] | None]()

        class Told(InMemoryBackend):
            def begin_append(self, *args: Any, update: RunUpdate, **kwargs: Any) -> Pending[int]:
                told.append(update.change.metadata)
                return super().begin_append(*args, update=update, **kwargs)

        @workflow
        async def flow(n: int, ctx: RunContext) -> int:
            await double(n)
            ctx.set_metadata(customer="Ada")
            for _ in range(3):
                await double(n)
            await ctx.wait_for("answer")
            return await double(n)

        store = Told()
        flujo = Flujo(flow, state_backend=store)
        await flujo.run(1, run_id="r")
        assert [metadata for metadata in told if metadata is not None] == [{"customer": "Ada"}]
        told.clear()
        flujo = Flujo(flow, state_backend=store)
        await flujo.handle("r").signal("answer", 5)
        await flujo.resume("r")
        assert (await flujo.state("r")).metadata == {"customer": "Ada"}
        assert told
        assert not any(told)

    async def test_a_list_of_the_context_can_be_metadata(self) -> None:
        """However long it is."""

        @step
        async def count(n: int, ctx: StepContext) -> None:
            ctx.state["numbers"] = list(range(n))

        @workflow
        async def flow(n: int, ctx: RunContext) -> None:
            await count(n)
            ctx.set_metadata(seen={"numbers": ctx.state["numbers"]})

        flujo = Flujo(flow)
        for n in (3, 300):
            await flujo.run(n, run_id=f"{n}")
            assert (await flujo.state(f"{n}")).metadata == {"seen": {"numbers": list(range(n))}}

    async def test_metadata_is_plain_json(self) -> None:
        """They are searched."""

        @workflow
        async def flow(ctx: RunContext) -> str:
            with pytest.raises(SerializationError, match=r"metadata\.when: not plain JSON: text, numbers, lists and"):
                ctx.set_metadata(shop="Ann's", when=ctx.now())
            return "ok"

        assert (await Flujo(flow).run()).output == "ok"


@dataclass
class Tally:
    items: Annotated[list[str], append] = field(default_factory=list)
    total: Annotated[int, add] = 100
    note: str = ""


class Watchful(BaseModel):
    """A context that looks at what it is given, and lets more be added."""

    model_config = ConfigDict(validate_assignment=True, extra="allow")
    items: list[str] = []
    note: str = ""
    _secret: str = PrivateAttr("")

    @field_validator("note")
    @classmethod
    def _loud(cls, note: str) -> str:
        return f"{note}!"


class FrozenModel(BaseModel):
    model_config = ConfigDict(frozen=True)
    items: list[str] = []


@dataclass(frozen=True, slots=True)
class FrozenTally:
    items: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Unfinished:
    items: list[str] = field(default_factory=list)
    note: str = field(init=False)


@step
async def note_it(text: str, ctx: StepContext) -> str:
    await asyncio.sleep(0)
    ctx.state.note = text
    await asyncio.sleep(0)
    return text


@step
async def put(item: str, ctx: StepContext) -> str:
    ctx.state.items.append(item)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    ctx.state.total += 1
    return item


class TestState:
    """The context of a run, in a workflow and its steps."""

    async def test_the_code_changes_it_between_steps(self, backend: StateBackend) -> None:
        """Steps see it; so does whoever reads the run; at every crash."""

        @step
        async def look(ctx: StepContext) -> tuple[list[str], int]:
            return list(ctx.state.items), ctx.state.total

        @workflow
        async def flow(ctx: RunContext) -> list[Any]:
            ctx.state.items.append("a")
            first = await look()
            ctx.state.total = 7
            await put("b")
            assert ctx.state.items == ["a", "b"]
            second = await look()
            ctx.state.note = "end"
            return [first, second]

        async def attempt(store: StateBackend, run_id: str) -> None:
            await Flujo(flow, state_backend=store, context_type=Tally).run(run_id=run_id)

        expected = [(["a"], 100), (["a", "b"], 8)]
        flujo = Flujo(flow, state_backend=backend, context_type=Tally)
        result = await flujo.run(run_id="whole")
        assert (result.output, result.context) == (expected, Tally(["a", "b"], 8, "end"))
        async for run_id in crashes(backend, attempt):
            result = await flujo.run(run_id=run_id)
            assert (result.output, result.context) == (expected, Tally(["a", "b"], 8, "end"))
            assert (await flujo.state(run_id)).pipeline_context["total"] == 8

    @pytest.mark.parametrize("context_type", [FrozenModel, FrozenTally, Watchful, Unfinished])
    async def test_what_is_inside_a_field_changes_whatever_its_class_refuses(self, context_type: type[Any]) -> None:
        """A frozen context can have a list that grows."""

        @step
        async def add_item(item: str, ctx: StepContext) -> None:
            ctx.state.items.append(item)

        @workflow
        async def flow(ctx: RunContext) -> None:
            ctx.state.items.append("a")
            await add_item("b")
            assert ctx.state.items == ["a", "b"]
            ctx.state.items.append("c")

        result = await Flujo(flow, context_type=context_type, always_replay=True).run()
        assert result.context.items == ["a", "b", "c"]

    @pytest.mark.parametrize("context_type", [Watchful, Unfinished])
    async def test_what_a_step_sets_and_removes_is_so_for_the_code(self, context_type: type[Any]) -> None:
        """No validator runs a second time."""

        @step
        async def change(ctx: StepContext) -> str:
            ctx.state.note = "done"
            if context_type is Watchful:
                ctx.state.more, ctx.state._secret = [1], "s"
            return str(ctx.state.note)

        @step
        async def remove(ctx: StepContext) -> None:
            if context_type is Watchful:
                del ctx.state.more
            else:
                del ctx.state.note

        @workflow
        async def flow(ctx: RunContext) -> bool:
            assert await change() == ctx.state.note
            assert context_type is Unfinished or (ctx.state.more, ctx.state._secret) == ([1], "s")
            await remove()
            return hasattr(ctx.state, "more" if context_type is Watchful else "note")

        assert not (await Flujo(flow, context_type=context_type, always_replay=True).run()).output

    async def test_concurrent_steps_come_together_by_reducers(self, backend: StateBackend) -> None:
        """Each one's difference counts, in any order; at every crash."""

        @workflow
        async def flow(n: int, ctx: RunContext) -> int:
            await asyncio.gather(*(put(str(i)) for i in range(n)))
            return ctx.state.total  # type: ignore[no-any-return]

        async def attempt(store: StateBackend, run_id: str) -> None:
            await Flujo(flow, state_backend=store, context_type=Tally).run(3, run_id=run_id)

        flujo = Flujo(flow, state_backend=backend, context_type=Tally)
        result = await flujo.run(3, run_id="whole")
        assert (result.output, sorted(result.context.items)) == (103, ["0", "1", "2"])
        async for run_id in crashes(backend, attempt):
            result = await flujo.run(run_id=run_id)
            assert (result.output, sorted(result.context.items)) == (103, ["0", "1", "2"])

    async def test_concurrent_steps_that_change_different_fields_do_not_disturb_each_other(self) -> None:
        """Nothing is reverted."""

        @workflow
        async def flow(ctx: RunContext) -> None:
            await asyncio.gather(note_it("x"), put("a"), put("b"))

        result = await Flujo(flow, context_type=Tally).run()
        assert (sorted(result.context.items), result.context.total, result.context.note) == (["a", "b"], 102, "x")

    async def test_a_field_without_a_reducer_is_a_conflict(self) -> None:
        """For whoever comes second."""

        @workflow
        async def flow() -> None:
            await asyncio.gather(note_it("x"), note_it("y"))

        with Pace.here().timeless(), pytest.raises(RunFailed) as caught:  # neither ends before the other begins
            await Flujo(flow, context_type=Tally).run()
        assert isinstance(caught.value.__cause__, ContextConflict)

    async def test_branches_in_a_pipeline_have_copies_of_their_own(self, backend: StateBackend) -> None:
        """Merged when they are done, as those of steps are."""

        @workflow
        async def fill(n: int, ctx: RunContext) -> int:
            ctx.state.items.append(f"w{n}")
            await put(f"s{n}")
            ctx.state.total += 10
            return n

        flujo = Flujo(map_each(fill), state_backend=backend, context_type=Tally)

        async def attempt(store: StateBackend, run_id: str) -> None:
            await Flujo(map_each(fill), state_backend=store, context_type=Tally).run([1, 2], run_id=run_id)

        expected = Tally(["w1", "s1", "w2", "s2"], 122, "")
        assert (await flujo.run([1, 2])).context == expected
        async for run_id in crashes(backend, attempt):
            assert (await flujo.run(run_id=run_id)).context == expected

    async def test_a_failed_run_keeps_what_the_code_changed_last(self) -> None:
        """For the inquest."""

        @workflow
        async def flow(n: int, ctx: RunContext) -> int:
            ctx.state.note = "before"
            try:
                return await broken(n)
            finally:
                ctx.state.note = "after"

        flujo = Flujo(flow, context_type=Tally)
        with pytest.raises(RunFailed) as caught:
            await flujo.run(1)
        assert caught.value.result.context.note == "after"
