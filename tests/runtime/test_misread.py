"""What a run has recorded, and the classes of a later process do not take: the run is paused, and nothing is lost."""

import asyncio
import re
from collections.abc import Callable
from copy import copy
from dataclasses import field, make_dataclass
from datetime import timedelta
from pickle import dumps, loads
from typing import Annotated, Any

import pytest

from flujo_async import (
    Depends,
    Flujo,
    Retry,
    RunContext,
    StepContext,
    Worker,
    as_step,
    branch,
    child,
    graph,
    loop,
    parallel,
    sleep,
    step,
    workflow,
)
from flujo_async.abc import StateBackend
from flujo_async.errors import DeserializationError, RunCancelled, RunError, RunFailed, SerializationError
from flujo_async.reducers import append
from flujo_async.testing import VirtualClock
from tests.runtime.crashes import gone_to_sleep

HOUR = timedelta(hours=1)


class World:
    """One version of the code: a class ``Order`` with these fields, and what is done with it.

    Attributes:
        done: what has happened, in all versions.
        is_dying: whether the condition of a graph ends the process.
    """

    def __init__(self, done: list[str], *fields: str) -> None:
        self.done = done
        self.is_dying = False
        order: Any = make_dataclass("Order", [(name, int) for name in fields])
        notes: Any = make_dataclass("Notes", [("orders", Annotated[list[order], append], field(default_factory=list))])
        order.__module__ = notes.__module__ = __name__
        self.order, self.notes = order, notes

        async def unpack(packed: Any) -> None:
            done.append(f"unpack {packed.id}")

        async def pack(n: int) -> Any:
            done.append("pack")
            return self.new_order()

        async def ship(packed: Any) -> str:
            done.append("ship")
            return f"shipped {packed.id}"

        async def note(n: int, ctx: StepContext) -> int:
            done.append("note")
            ctx.state.orders.append(self.new_order())
            return n

        async def count(n: int, ctx: StepContext) -> str:
            number = len(ctx.state.orders)
            done.append("count")
            return f"{number} counted"

        async def deliver(packed: Any, ctx: StepContext) -> str:
            if ctx.attempt == 1:
                ctx.heartbeat(self.new_order())
                raise ConnectionError
            return f"delivered {ctx.heartbeat_details.id}"

        async def refuse(n: Any) -> str:
            raise ValueError("refused")

        deliver.__annotations__["packed"] = unpack.__annotations__["packed"] = ship.__annotations__["packed"] = order
        pack.__annotations__["return"] = order
        self.pack, self.ship, self.note, self.count = step(pack), step(ship), step(note), step(count)
        self.pack_to_undo = step(name="pack", compensate=unpack)(pack)
        self.refuse = step(refuse)
        self.deliver = step(retry=Retry(max_attempts=2, base=HOUR, jitter=0, cap=HOUR))(deliver)

    def new_order(self) -> Any:
        return self.order(*(1 for _ in self.order.__dataclass_fields__))


def input_of_step(world: World) -> Any:
    return world.pack >> sleep(HOUR) >> world.ship


def input_of_step_that_may_fail(world: World) -> Any:
    """Neither tried again, nor replaced: it did not begin."""
    fallback = step(name="other")(world.ship.function)
    ship = step(name="ship", retry=Retry(max_attempts=3, base=0), fallback=fallback)(world.ship.function)
    return world.pack >> sleep(HOUR) >> ship


def member_that_may_fail(world: World) -> Any:
    return world.pack >> sleep(HOUR) >> parallel(world.ship, on_error="ignore")


def selector(world: World) -> Any:
    return world.pack >> sleep(HOUR) >> branch(lambda order: order.id, {1: world.ship})


def end_of_loop(world: World) -> Any:
    return world.pack >> loop(sleep(HOUR), until=lambda order: order.id == 1, max_iterations=3) >> world.ship


def condition_in_graph(world: World) -> Any:
    def is_packed(order: Any) -> bool:
        if world.is_dying:
            raise SystemExit
        return bool(order.id)

    async def send(packed: Any) -> str:
        return f"sent {packed.id}"

    send.__annotations__["packed"] = Annotated[world.order, Depends(world.pack, when=is_packed)]
    return step(name="entries")(_as_entries) >> graph(step(send))


def context_of_step(world: World) -> Any:
    return world.note >> sleep(HOUR) >> world.count


def contexts_of_branches(world: World) -> Any:
    """They are merged, and nobody else looks at them."""
    return parallel(as_step(world.note, name="a"), as_step(world.note, name="b"), as_step(sleep(HOUR), name="c"))


def input_of_child(world: World) -> Any:
    return world.pack >> sleep(HOUR) >> child(world.ship, name="shipping")


def inside_a_child(world: World) -> Any:
    return child(input_of_step(world), name="shipping")


def detail_of_heartbeat(world: World) -> Any:
    return world.deliver


def argument_of_compensation(world: World) -> Any:
    return world.pack_to_undo >> step(name="forget")(_nothing) >> sleep(HOUR) >> world.refuse


def output_in_code(world: World) -> Any:
    @workflow(name="code", version="1")
    async def code(n: int, ctx: RunContext) -> str:
        try:
            packed = await world.pack(n)
        except Exception as error:
            world.done.append(repr(error))
            raise
        await ctx.sleep(HOUR)
        return await world.ship(packed)

    return code


def output_in_task_of_code(world: World) -> Any:
    @workflow(name="code", version="1")
    async def code(n: int, ctx: RunContext) -> str:
        try:
            packed, _ = await asyncio.gather(world.pack(n), ctx.sleep(HOUR))
        except Exception as error:
            world.done.append(repr(error))
            raise
        return await world.ship(packed)

    return code


def input_of_code(world: World) -> Any:
    async def code(order: Any, ctx: RunContext) -> str:
        await ctx.sleep(HOUR)
        return await world.ship(order)

    code.__annotations__["order"] = world.order
    return world.pack >> workflow(name="code", version="1")(code)


def answer_in_code(world: World) -> Any:
    @workflow(name="code", version="1")
    async def code(n: int, ctx: RunContext) -> str:
        packed = await ctx.wait_for("order", schema=world.order)
        await ctx.sleep(HOUR)
        return await world.ship(packed)

    return code


def output_of_child_in_code(world: World) -> Any:
    @workflow(name="code", version="1")
    async def code(n: int, ctx: RunContext) -> str:
        packed = await ctx.child(world.pack, n)
        await ctx.sleep(HOUR)
        return await world.ship(packed)

    return code


def context_of_code(world: World) -> Any:
    @workflow(name="code", version="1")
    async def code(n: int, ctx: RunContext) -> str:
        await world.note(n)
        await ctx.sleep(HOUR)
        try:
            return f"{len(ctx.state.orders)} counted"
        except Exception as error:
            world.done.append(repr(error))
            raise

    return code


def context_that_code_holds(world: World) -> Any:
    """It is brought up to date as the code hears of the step."""

    @workflow(name="code", version="1")
    async def code(n: int, ctx: RunContext) -> str:
        state = ctx.state
        try:
            await world.note(n)
            await ctx.sleep(HOUR)
        except Exception as error:
            world.done.append(repr(error))
            raise
        return f"{len(state.orders)} counted"

    return code


async def _as_entries(n: int) -> dict[str, int]:
    return {"n": n}


async def _nothing(packed: Any) -> None:
    pass


async def until_recorded(flujo: Flujo[Any, Any], kind: str, run_id: str = "r") -> None:
    """Return when a run has a fact of this kind."""
    async with asyncio.timeout(20):
        while kind not in [commit.fact.kind for commit in await flujo.history(run_id)]:
            await asyncio.sleep(0.001)


FIELD = "unknown field 'weight': Order has none"
KINDS: dict[Callable[[World], Any], tuple[str, Any]] = {
    input_of_step: ("ship.input", "shipped 1"),
    input_of_step_that_may_fail: ("ship.input", "shipped 1"),
    member_that_may_fail: ("parallel/ship.input", {"ship": "shipped 1"}),
    selector: ("branch.input", "shipped 1"),
    end_of_loop: ("loop/0.input", "shipped 1"),
    condition_in_graph: ("graph/send/packed.input", "sent 1"),
    context_of_step: ("context.orders[0]", "1 counted"),
    contexts_of_branches: ("context.orders[0]", {"a": 1, "b": 1, "c": 1}),
    input_of_child: ("r/shipping.input", "shipped 1"),
    detail_of_heartbeat: ("deliver.heartbeat", "delivered 1"),
    output_in_code: ("pack:….output", "shipped 1"),
    output_in_task_of_code: ("pack:….output", "shipped 1"),
    input_of_code: ("code.input", "shipped 1"),
    answer_in_code: ("wait.order.output", "shipped 1"),
    output_of_child_in_code: ("pack:….output", "shipped 1"),
    context_of_code: ("context.orders[0]", "1 counted"),
    context_that_code_holds: ("context.orders[0]", "1 counted"),
}


class Shop:
    """A run that was recorded by one version of the code."""

    def __init__(self, backend: StateBackend, kind: Callable[[World], Any]) -> None:
        self.done = list[str]()
        self.clock = VirtualClock()
        self._backend = backend
        self._kind = kind

    def opened(self, *fields: str, is_dying: bool = False) -> Flujo[Any, Any]:
        world = World(self.done, *fields)
        world.is_dying = is_dying
        return Flujo(
            self._kind(world),
            pipeline_name="shop",
            pipeline_version="1",
            context_type=world.notes,
            state_backend=self._backend,
            clock=self.clock,
        )

    async def record(self) -> None:
        """Let the run come as far as it does in the first hour, in a process with two fields of an order."""
        async with self.opened("id", "weight", is_dying=True) as old:
            if self._kind is condition_in_graph:
                with pytest.raises(SystemExit):
                    await old.run(1, run_id="r")
            else:
                await old.start(1, run_id="r")
                await gone_to_sleep(old)
            if self._kind is answer_in_code:
                await old.signal("r", "order", {"id": 1, "weight": 1})
                await until_recorded(old, "TimerStarted")
        self.clock.advance(HOUR)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
async def test_the_run_is_paused_until_the_class_fits_again(backend: StateBackend, kind: Any) -> None:
    path, output = KINDS[kind]
    shop = Shop(backend, kind)
    await shop.record()
    done = [*shop.done]
    async with shop.opened("id") as new:
        with pytest.raises(DeserializationError, match=FIELD) as caught:
            await new.run(run_id="r")
        assert re.fullmatch(re.escape(path).replace("…", r"\w+") + ".*", caught.value.path)
        [summary] = await new.list_runs(status="paused", pipeline_name="shop")
        [waiting] = summary.waiting_for
        assert (summary.status, waiting.kind, waiting.prompt) == ("paused", "definition", str(caught.value))
        assert shop.done == done
    async with shop.opened("id", "weight") as again:
        assert (await again.resume("r")).output == output
    assert len(set(shop.done)) == len(shop.done) or kind is contexts_of_branches


async def test_a_child_that_cannot_be_read_pauses_its_parent(backend: StateBackend) -> None:
    shop = Shop(backend, inside_a_child)
    await shop.record()
    async with shop.opened("id") as new:
        result = await new.run(run_id="r")
        [waiting] = result.waiting_for
        assert (result.status, waiting.kind, waiting.run_id) == ("paused", "definition", "r/shipping")
        assert str(waiting.prompt).startswith("ship.input: unknown field 'weight'")
    async with shop.opened("id", "weight") as again:
        assert (await again.resume("r")).output == "shipped 1"
    assert shop.done == ["pack", "ship"]


@pytest.mark.parametrize("is_cancelled", [False, True], ids=["failed", "cancelled"])
async def test_what_cannot_be_read_is_undone_later(backend: StateBackend, is_cancelled: bool) -> None:
    """The run stays on its way to its end, and nothing that is to be undone is left out."""
    shop = Shop(backend, argument_of_compensation)
    await shop.record()
    async with shop.opened("id") as new:
        for _ in range(2):  # asked again, it says so again
            with pytest.raises(DeserializationError, match="unknown field 'weight'"):
                await (new.cancel("r", reason="no") if is_cancelled else new.run(run_id="r"))
            assert await new.handle("r").status() == "paused"
    assert shop.done == ["pack"]
    async with shop.opened("id", "weight") as again:
        with pytest.raises(RunCancelled if is_cancelled else RunFailed):
            await again.resume("r")
    assert shop.done == ["pack", "unpack 1"]


async def test_a_worker_goes_on_with_other_runs(backend: StateBackend, caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop(backend, input_of_step)
    async with shop.opened("id", "weight") as old, Worker(old):
        await old.dispatch(1, run_id="r")
        await until_recorded(old, "TimerStarted")
    shop.clock.advance(HOUR)
    async with shop.opened("id") as new, Worker(new):
        paused = await new.handle("r").result(timeout=20)
        other = await new.dispatch(1, run_id="other")
        await until_recorded(new, "TimerStarted", "other")
        shop.clock.advance(HOUR)
        assert (await other.result(timeout=20)).output == "shipped 1"
    assert paused.status == "paused"
    assert "run 'r' is paused: ship.input: unknown field 'weight'" in caplog.text


async def test_the_error_is_one_of_a_run_and_of_a_value(backend: StateBackend) -> None:
    """It tells which, and can be copied and pickled."""
    shop = Shop(backend, input_of_step)
    await shop.record()
    async with shop.opened("id") as new:
        with pytest.raises(DeserializationError) as caught:
            await new.run(run_id="r")
    for error in (caught.value, copy(caught.value), loads(dumps(caught.value))):
        assert isinstance(error, RunError)
        assert isinstance(error, SerializationError)
        assert (error.run_id, error.path) == ("r", "ship.input")
        assert str(error).endswith("; run 'r' is paused, resume it where the classes fit what is recorded")


async def test_a_run_within_a_step_fails_the_step(backend: StateBackend) -> None:
    """It is paused; the run of the step has recorded nothing that cannot be read."""
    shop = Shop(backend, input_of_step)
    await shop.record()
    async with shop.opened("id") as inner:

        @step
        async def outer(n: int) -> Any:
            return (await inner.run(run_id="r")).output

        with pytest.raises(RunFailed) as caught:
            await Flujo(outer, state_backend=backend).run(1, run_id="outer")
    assert isinstance(caught.value.__cause__, DeserializationError)
