"""``signal``: answers from outside, whenever and wherever they come from (G4)."""

import asyncio
from collections.abc import Callable
from typing import Any, Literal

import pytest
from pydantic import BaseModel
from typing_extensions import override

from flujo_async import Flujo, InMemoryBackend, RunContext, loop, step, wait_for, workflow
from flujo_async._model.stored import StoredRun
from flujo_async.abc import StateBackend
from flujo_async.errors import BackendError, InvalidArgument, InvalidSignal, RunFailed, RunNotFound
from flujo_async.testing import FaultyBackend, VirtualClock
from tests.runtime.crashes import others, ticks
from tests.runtime.pretend import Wrapped, failing
from tests.runtime.stores import Store, on_disk


class Approval(BaseModel):
    by: str


class Consent(BaseModel):
    """No annotation leads to it."""

    by: str


@step
async def note(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


@step
async def broken(value: Any) -> Any:
    raise ValueError("broken")


PIPELINE = wait_for("approval", schema=Approval) >> note


@workflow
async def flow(value: Any, ctx: RunContext) -> Any:
    await note(value)
    return await ctx.wait_for("approval", schema=Approval)


BOTH = pytest.mark.parametrize("definition", [PIPELINE, flow], ids=["pipeline", "workflow"])


@BOTH
async def test_the_first_answer_wins(backend: StateBackend, definition: Any) -> None:
    """An equal one is accepted in silence, another one is not; neither changes anything."""
    flujo = Flujo(definition, state_backend=backend)
    await flujo.run(1, run_id="r")
    await flujo.signal("r", "approval", {"by": "Ada"})
    for again in ({"by": "Ada"}, Approval(by="Ada")):
        await flujo.signal("r", "approval", again)
    with pytest.raises(InvalidSignal, match="first one counts") as caught:
        await flujo.signal("r", "approval", {"by": "Bob"})
    assert caught.value.run_id == "r"
    result = await flujo.handle("r").result()
    assert result.output == Approval(by="Ada")
    await flujo.signal("r", "approval", {"by": "Ada"})
    with pytest.raises(InvalidSignal):
        await flujo.signal("r", "approval", {"by": "Bob"})
    assert (await flujo.run(run_id="r")).output == Approval(by="Ada")
    await flujo.aclose()


@BOTH
@pytest.mark.parametrize("payload", [{"by": 7}, {}, None, "Ada", pytest.param(object(), id="an object")], ids=repr)
async def test_an_invalid_answer_is_refused_and_consumes_nothing(definition: Any, payload: Any) -> None:
    """Whoever gives a valid one afterwards is heard; also in a runtime that has not reached the wait."""
    flujo = Flujo(definition)
    first = await flujo.run(1, run_id="r")
    history = await flujo.history("r")
    for runtime in (flujo, Flujo(definition, state_backend=flujo.state_backend)):
        with pytest.raises(InvalidSignal):
            await runtime.signal("r", "approval", payload)
        assert await flujo.run(run_id="r") == first
    assert await flujo.history("r") == history
    await flujo.signal("r", "approval", Approval(by="Ada"))
    assert (await flujo.handle("r").result()).output == Approval(by="Ada")
    await flujo.aclose()


@pytest.mark.parametrize(
    ("schema", "wrong", "right"),
    [
        (Literal["yes", "no"], "perhaps", "yes"),
        (list[int], ["x"], [1]),
        (int | None, "x", None),
        (dict[str, float], {"a": "x"}, {"a": 1.5}),
        (bool, "perhaps", True),
        (str, 5, "5"),
    ],
    ids=repr,
)
async def test_what_a_workflow_asks_for_is_validated_where_it_has_not_run(schema: Any, wrong: Any, right: Any) -> None:
    """By what is recorded of it."""

    @workflow(name="flow")
    async def asks(ctx: RunContext) -> Any:
        return await ctx.wait_for("answer", schema=schema)

    flujo = Flujo(asks)
    await flujo.run(run_id="r")
    other: Flujo[Any, Any] = Flujo(note, state_backend=flujo.state_backend)
    with pytest.raises(InvalidSignal):
        await other.signal("r", "answer", wrong)
    await other.signal("r", "answer", right)
    assert (await flujo.resume("r")).output == right
    await other.aclose()


async def test_an_answer_may_come_early(backend: StateBackend) -> None:
    """It is kept: the run never pauses."""
    reached, go_on = asyncio.Event(), asyncio.Event()

    @step
    async def slow(value: Any) -> Any:
        reached.set()
        await go_on.wait()
        return value

    flujo = Flujo(slow >> PIPELINE, state_backend=backend)
    task = asyncio.ensure_future(flujo.run(1, run_id="r"))
    await reached.wait()
    await Flujo(slow >> PIPELINE, state_backend=backend).signal("r", "approval", {"by": "Ada"})
    with pytest.raises(InvalidSignal):
        await flujo.signal("r", "approval", {"by": 7})
    with pytest.raises(InvalidSignal):
        await flujo.signal("r", "approval", {"by": "Bob"})
    go_on.set()
    assert (await task).output == Approval(by="Ada")
    assert "RunPaused" not in [commit.fact.kind for commit in await flujo.history("r")]
    await flujo.aclose()


async def test_an_answer_that_is_being_read_when_the_run_gets_there_counts() -> None:
    """It was accepted before."""
    reached, go_on = asyncio.Event(), asyncio.Event()

    @step
    async def slow(value: Any) -> Any:
        reached.set()
        await go_on.wait()
        return value

    store = InMemoryBackend()
    gated = FaultyBackend(store)
    task = asyncio.ensure_future(Flujo(slow >> PIPELINE, state_backend=gated).run(1, run_id="r"))
    await reached.wait()
    reading = gated.delay("read_signals")
    await Flujo(slow >> PIPELINE, state_backend=store).signal("r", "approval", {"by": "Ada"})
    await reading.reached()
    go_on.set()
    await ticks()
    reading.release()
    assert (await task).output == Approval(by="Ada")


async def test_an_early_answer_that_turns_out_invalid_is_dropped(backend: StateBackend) -> None:
    """A workflow tells what it wants when it gets there; then it can be answered anew."""

    @workflow(name="flow")
    async def early(ctx: RunContext) -> Any:
        await ctx.wait_for("first")
        return await ctx.wait_for("number", schema=int)

    flujo = Flujo(early, state_backend=backend)
    await flujo.run(run_id="r")
    await flujo.signal("r", "number", "no number")
    await flujo.signal("r", "first")
    result = await flujo.handle("r").result()
    assert [waiting.name for waiting in result.waiting_for] == ["number"]
    history = await flujo.history("r")
    assert await flujo.run(run_id="r") == result
    assert await flujo.handle("r").result() == result
    assert await flujo.history("r") == history
    await flujo.signal("r", "number", "5")
    assert (await flujo.handle("r").result()).output == 5
    await flujo.aclose()


async def test_a_pipeline_beside_a_workflow_does_not_say_what_that_asks_for() -> None:
    """Though they are in one module, and both wait for an approval; nor does it before the workflow asks."""
    assert PIPELINE

    @workflow(name="flow")
    async def asks(ctx: RunContext) -> Any:
        await ctx.wait_for("first")
        return [await ctx.wait_for("approval", schema=str) for _ in range(2)]

    flujo = Flujo(asks)
    await flujo.run(run_id="r")
    await flujo.signal("r", "approval", "early")
    await flujo.signal("r", "first")
    await flujo.run(run_id="r")
    await flujo.signal("r", "approval", "late")
    assert (await flujo.run(run_id="r")).output == ["early", "late"]


@pytest.mark.parametrize("form", [{"by": "Ada"}, Consent(by="Ada")], ids=["plain", "typed"])
@pytest.mark.parametrize("again", [{"by": "Ada"}, Consent(by="Ada")], ids=["plain", "typed"])
async def test_an_early_answer_may_be_sent_again(backend: StateBackend, form: Any, again: Any) -> None:
    """In whatever form, before the workflow asks and after that: whoever sends it does not know how far the run is."""

    @workflow(name="flow")
    async def asks(ctx: RunContext) -> Any:
        await ctx.wait_for("first")
        await ctx.wait_for("consent", schema=Consent)
        return await ctx.wait_for("last")

    flujo = Flujo(asks, state_backend=backend)
    await flujo.run(run_id="r")
    for _ in range(2):
        await flujo.signal("r", "consent", form)
    await flujo.signal("r", "first")
    assert [waiting.name for waiting in (await flujo.run(run_id="r")).waiting_for] == ["last"]
    for sender in (flujo, Flujo(asks, state_backend=backend)):
        await sender.signal("r", "consent", again)
        with pytest.raises(InvalidSignal, match="another answer"):
            await sender.signal("r", "consent", {"by": "Bob"})
    await flujo.signal("r", "last", "end")
    assert (await flujo.run(run_id="r")).output == "end"
    await flujo.signal("r", "consent", again)
    await flujo.aclose()


async def test_an_early_answer_of_another_class_is_passed_over(backend: StateBackend) -> None:
    """As any that does not fit; then the run can be answered anew."""

    @workflow(name="flow")
    async def asks(ctx: RunContext) -> Any:
        await ctx.wait_for("first", schema=Approval)
        return await ctx.wait_for("number", schema=int)

    flujo = Flujo(asks, state_backend=backend)
    await flujo.run(run_id="r")
    await flujo.signal("r", "number", Approval(by="Ada"))
    await flujo.signal("r", "first", Approval(by="Ada"))
    result = await Flujo(asks, state_backend=backend).run(run_id="r")
    assert [waiting.name for waiting in result.waiting_for] == ["number"]
    await flujo.signal("r", "number", 5)
    assert (await flujo.run(run_id="r")).output == 5
    await flujo.aclose()


async def test_nobody_is_there() -> None:
    """Neither an unknown run nor one that has ended waits for anything."""
    flujo = Flujo(note)
    with pytest.raises(RunNotFound):
        await flujo.signal("r", "approval", 1)
    await flujo.run(1, run_id="r")
    with pytest.raises(InvalidSignal, match="completed"):
        await flujo.signal("r", "approval", 1)
    failing = Flujo(broken)
    with pytest.raises(RunFailed):
        await failing.run(1, run_id="r")
    with pytest.raises(InvalidSignal, match="failed"):
        await failing.signal("r", "approval", 1)


@pytest.mark.parametrize("name", ["", "$cancel", "$pause", "a/b", "a\ud800"])
async def test_a_bad_name_is_refused(name: str) -> None:
    """It could not be that of a wait."""
    flujo = Flujo(PIPELINE)
    await flujo.run(1, run_id="r")
    with pytest.raises(InvalidArgument):
        await flujo.signal("r", name, 1)


async def test_a_run_that_is_paused_goes_on_in_the_background(backend: StateBackend) -> None:
    """Of the runtime that was told; ``result`` waits for the next rest."""
    flujo = Flujo(PIPELINE >> wait_for("more") >> note, state_backend=backend)
    await flujo.run(1, run_id="r")
    await flujo.handle("r").signal("approval", {"by": "Ada"})
    result = await flujo.handle("r").result()
    assert [waiting.name for waiting in result.waiting_for] == ["more"]
    await flujo.signal("r", "more", 5)
    assert (await flujo.handle("r").result()).output == 5
    await ticks(300)
    await flujo.aclose()
    assert others() == set()


async def test_another_runtime_may_answer(store: Store) -> None:
    """One that knows nothing of the definition: whoever knows it goes on."""
    flujo = Flujo(PIPELINE, state_backend=store.open())
    await flujo.run(1, run_id="r")
    other: Flujo[Any, Any] = Flujo(note, state_backend=store.open())
    await other.signal("r", "approval", {"by": "Ada"})
    await ticks(300)
    assert await flujo.handle("r").status() == "paused"
    assert (await flujo.run(run_id="r")).output == Approval(by="Ada")
    await other.aclose()


@on_disk
async def test_a_runtime_elsewhere_that_is_open_takes_the_answer_up(store: Store) -> None:
    """It hears of it from the store."""
    flujo = Flujo(PIPELINE, state_backend=store.open(), recover=True)
    async with flujo:
        handle = await flujo.start(1, run_id="r")
        await handle.result()
        other: Flujo[Any, Any] = Flujo(note, state_backend=store.open())
        await other.signal("r", "approval", {"by": "Ada"})
        async with asyncio.timeout(20):
            while await handle.status() != "completed":
                await asyncio.sleep(0.01)
        await other.aclose()


async def test_whenever_the_answer_comes_it_is_heard() -> None:
    """At every tick of the run, before, while and after it pauses: the run ends by itself."""
    for number in range(1, 1000):
        flujo = Flujo(note >> wait_for("go", timeout=100) >> note, clock=VirtualClock())
        handle = await flujo.start(1, run_id="r")
        await ticks(number)
        status = await handle.status()
        await flujo.signal("r", "go", number)
        async with asyncio.timeout(20):
            while (result := await handle.result()).status == "paused":
                await asyncio.sleep(0)
        assert result.output == number
        await flujo.aclose()
        assert others() == set()
        if status == "paused" and number > 60:
            break


async def test_when_the_store_fails_the_answer_was_not_accepted(backend: StateBackend) -> None:
    """``signal`` raises, and can be repeated."""
    for after in (False, True):
        run_id = f"r{after}"
        await Flujo(PIPELINE, state_backend=backend).run(1, run_id=run_id)
        flujo = Flujo(PIPELINE, state_backend=failing(backend, "post", after=after))
        with pytest.raises(BackendError):
            await flujo.signal(run_id, "approval", {"by": "Ada"})
        await flujo.signal(run_id, "approval", {"by": "Ada"})
        assert (await flujo.handle(run_id).result()).output == Approval(by="Ada")
        await flujo.aclose()


async def test_two_at_the_same_instant(backend: StateBackend) -> None:
    """One is the first; the other hears that it is not."""
    flujos = [Flujo(PIPELINE, state_backend=backend) for _ in range(4)]
    await flujos[0].run(1, run_id="r")
    names = ["Ada", "Bob", "Eve", "Ada"]
    outcomes = await asyncio.gather(
        *(flujo.signal("r", "approval", {"by": name}) for flujo, name in zip(flujos, names, strict=True)),
        return_exceptions=True,
    )
    result = await flujos[0].handle("r").result()
    winner = result.output.by
    for name, outcome in zip(names, outcomes, strict=True):
        assert (outcome is None) == (name == winner), (name, outcome)
        assert outcome is None or isinstance(outcome, InvalidSignal)
    for flujo in flujos:
        await flujo.aclose()


async def test_each_turn_of_a_loop_takes_an_answer_of_its_own(backend: StateBackend) -> None:
    """The first one does not answer the second question."""
    flujo = Flujo(loop(wait_for("more") >> note, until=lambda v: v == "stop", max_iterations=9), state_backend=backend)
    await flujo.run(1, run_id="r")
    for word in ("on", "on", "stop"):
        assert (await flujo.handle("r").result()).status == "paused"
        await flujo.signal("r", "more", word)
    assert (await flujo.handle("r").result()).output == "stop"
    await flujo.aclose()


class Counting(Wrapped):
    """A store that counts the signals that it has given away."""

    given = 0

    @override
    async def through(self, verb: str, call: Callable[[], Any]) -> Any:
        result = await call()
        if isinstance(result, StoredRun):
            self.given += len(result.signals)
        elif verb == "read_signals":
            self.given += len(result)
        return result


async def test_a_signal_is_not_read_again_with_each_that_comes() -> None:
    """But once by whoever drives the run, and twice by whoever posts the next one: the run may be another by then."""
    store, begun, is_over = Counting(InMemoryBackend()), asyncio.Event(), asyncio.Event()

    @step
    async def hold() -> None:
        begun.set()
        await is_over.wait()

    flujo = Flujo(hold, state_backend=store)
    await flujo.start(run_id="r")
    await begun.wait()
    for number in range(50):
        await flujo.signal("r", f"name {number}", number)
        await ticks()
    assert 50 <= store.given <= 150
    is_over.set()
    await flujo.handle("r").result()
