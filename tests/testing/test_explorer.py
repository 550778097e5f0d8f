"""The explorer finds what a crash changes, tells where, and finds nothing where nothing is wrong."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BaseModel

from flujo_async import (
    Flujo,
    PipelineRegistry,
    Resource,
    Retry,
    RunContext,
    SQLiteBackend,
    StepContext,
    as_step,
    child,
    map_each,
    parallel,
    sleep,
    step,
    wait_for,
    workflow,
)
from flujo_async.errors import DefinitionError, InvalidArgument, SerializationError
from flujo_async.reducers import add, append
from flujo_async.testing import CrashExplorer, CrashReport


class Total(BaseModel):
    total: Annotated[int, add] = 0


class Seen(BaseModel):
    names: Annotated[list[str], append] = []


@step
async def double(n: int, ctx: StepContext) -> int:
    if isinstance(ctx.state, Seen):
        ctx.state.names.append(ctx.step_key)
    return n * 2


@step
async def negate(n: int) -> int:
    return -n


@step(retry=Retry(max_attempts=3, base=timedelta(hours=1)), timeout=timedelta(minutes=1))
async def flaky(n: int, ctx: StepContext) -> int:
    if ctx.attempt == 1:
        await asyncio.Event().wait()  # until its time is over
    if ctx.attempt == 2:
        raise ConnectionError("not yet")
    return n + 1


@step
async def broken(n: int) -> int:
    raise ValueError(f"no good: {n}")


@workflow
async def everything(n: int, ctx: RunContext) -> list[Any]:
    numbers = await asyncio.gather(double(n), double(n + 1), negate(n))
    ctx.state.names.append(str(ctx.random()))
    await ctx.sleep(timedelta(days=3))
    answer = await ctx.wait_for("approval", schema=int, timeout=timedelta(days=1))
    below = await ctx.child(double >> negate, answer)
    return [*numbers, answer, below, ctx.uuid(), ctx.now()]


async def test_a_workflow_that_does_everything_survives_every_crash() -> None:
    """Timers pass by themselves, answers are given, draws are the same in all worlds."""
    report = await CrashExplorer(everything, 3, context_type=Seen, signals={"approval": 5}).check()
    assert report.failures == ()
    assert report.worlds == 2 * report.writes
    assert report.writes > 15
    assert report.steps == 5
    assert report.reference.outcome.output[:5] == [6, 8, -3, 5, -10]
    assert len(report.reference.outcome.context["names"]) == 3
    assert "all end as if nothing had happened" in str(report)


async def test_a_pipeline_survives_two_crashes() -> None:
    """The second one while it is resumed, at each write of that."""
    report = await CrashExplorer(double >> sleep(60), 3, depth=2).check()
    assert report.worlds > 2 * report.writes * 4
    assert report.reference.outcome.output == 6


async def test_of_more_worlds_than_wanted_an_even_selection_is_explored() -> None:
    report = await CrashExplorer(double >> negate, 3, depth=2, max_worlds=20).check()
    assert report.worlds == 20
    assert report.skipped > 0
    assert f"({report.skipped} more were left out)" in str(report)


@pytest.mark.parametrize("share", [2, 3, 4])
async def test_a_selection_has_crashes_before_and_after_writes(share: int) -> None:
    pipeline, crashes = double >> negate >> double >> negate, list[Any]()
    most = (await CrashExplorer(pipeline, 3).check()).worlds // share
    selection = CrashExplorer(pipeline, 3, max_worlds=most, verify=lambda world, _: crashes.extend(world.crashes))
    assert (await selection.check()).worlds == len(set(crashes)) == most
    assert {crash.how for crash in crashes} == {"before", "after"}


@pytest.mark.parametrize("pipeline", [double >> broken, double >> parallel(broken, negate)])
async def test_a_run_that_fails_has_to_fail_in_the_same_way(pipeline: Any) -> None:
    report = await CrashExplorer(pipeline, 3).check()
    assert report.reference.outcome.status == "failed"
    assert report.reference.outcome.error == "ValueError: no good: 6"


async def test_attempts_that_hang_end_when_their_time_is_over() -> None:
    """Nothing goes on but a step that never ends: after a while time passes all the same."""
    report = await CrashExplorer(flaky, 3, max_worlds=1, patience=0.02).check()
    assert report.reference.outcome.output == 4


async def test_a_step_does_not_hang_that_was_held_up_with_everything_else() -> None:
    """As on a machine that stands still for a while: its step is given as long to go on as ever."""

    @step(timeout=60)
    async def held_up(n: int) -> int:
        await asyncio.sleep(0.01)  # meanwhile it is seen to be executed
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            pass
        await asyncio.sleep(0.05)
        return n

    report = await CrashExplorer(held_up, 3, max_worlds=1, patience=0.2).check()
    assert report.reference.outcome.output == 3


async def test_fallbacks_in_a_workflow_survive_every_crash() -> None:
    """One that is executed after a crash sees what others did before; one may stand in for another."""

    def count(name: str, amount: int, *, fails: bool = False, **options: Any) -> Any:
        async def add_up(n: int, ctx: StepContext) -> int:
            ctx.state.total += amount
            if fails:
                raise ValueError(name)
            return n

        return step(name=name, **options)(add_up)

    last = count("last", 1)
    broken = count("broken", 0, fails=True, fallback=count("first", 0, fails=True, fallback=last))
    other = count("other", 10)

    @workflow
    async def both(n: int) -> int:
        one, two = await asyncio.gather(broken(n), other(n))
        return int(await other(await broken(one + two)))

    report = await CrashExplorer(both, 1, context_type=Total).check()
    assert report.reference.outcome.context == {"total": 22}


async def test_a_run_that_nobody_answers_rests_as_it_does_undisturbed() -> None:
    report = await CrashExplorer(double >> wait_for("ok"), 3).check()
    assert report.reference.outcome.status == "paused"
    assert report.reference.outcome.waiting_for == ("signal ok",)


@pytest.mark.parametrize(("skip", "expected"), [({}, [1, 2]), ({"charge": 3}, [0, 1])])
async def test_an_effect_that_may_happen_only_once_is_decided_on(skip: dict[str, int], expected: list[int]) -> None:
    """Tried again by default, and then perhaps a second time; or skipped, and then never twice."""
    charges: list[int] = []
    counts = set[int]()

    @step(effect="once")
    async def charge(n: int) -> int:
        charges.append(n)
        return n + 1

    explorer = CrashExplorer(
        charge >> double, 2, skip=skip, setup=charges.clear, verify=lambda world, flujo: counts.add(len(charges))
    )
    await explorer.check()
    assert sorted(counts) == expected


@pytest.mark.parametrize("inner", ["pair", "child"])
async def test_a_decision_may_be_one_of_two_or_on_a_child_that_fails(inner: str) -> None:
    """One decision counts for all steps of its run; how a child ends is told by its parent."""

    @step(effect="once")
    async def charge(n: int) -> int:
        await asyncio.sleep(0)
        return n

    pipelines: dict[str, Any] = {"pair": map_each(charge), "child": child(charge >> broken, name="inner")}
    await CrashExplorer(pipelines[inner], [1, 2] if inner == "pair" else 2).check()


# ------------------------------------------------------------------------------------------------ what it finds

NUMBERS = itertools.count()


@workflow
async def order(n: int) -> int:
    """Breaks when it is replayed: the second step is called with another argument each time."""
    total = await double(n)
    return await negate(await double(total + next(NUMBERS)))


def number_from_0() -> None:
    global NUMBERS
    NUMBERS = itertools.count()


async def test_a_workflow_that_does_not_do_the_same_again_is_found() -> None:
    """With the writes at which a crash shows it, and what it says."""
    report = await CrashExplorer(order, 1, setup=number_from_0).explore()
    assert report.failures
    [first, *_] = report.failures
    assert first.crashes[0].nth > 1, "a crash before the first step changes nothing"
    text = str(report)
    assert "NonDeterminismError" in text
    assert "The process died at its write" in text
    assert "StepCompleted double" in text
    assert "status: 'paused' instead of 'completed'" in text
    with pytest.raises(AssertionError, match="do not end as the undisturbed run"):
        await CrashExplorer(order, 1, setup=number_from_0).check()


async def test_two_runs_that_differ_undisturbed_are_told_before_anything_else() -> None:
    with pytest.raises(AssertionError, match=r"(?s)nothing disturbs end differently.*output: .* instead of .*setup="):
        await CrashExplorer(order, 1).check()


async def test_a_race_between_steps_ends_alike_however_long_they_take() -> None:
    """By real time some would have their turn later, and an exploration might say that a race cannot be told."""
    begun: list[str] = []
    worlds = itertools.count()
    is_slow = False

    def begin() -> None:
        nonlocal is_slow
        begun.clear()
        is_slow = next(worlds) % 2 == 1

    def begins(name: str) -> None:
        begun.append(name)
        if is_slow:
            sum(range(200_000))  # some turns of the event loop long

    @step
    async def durable(n: int) -> int:
        await asyncio.sleep(0)
        begins("durable")
        return n

    @step(durability="async")
    async def hasty(n: int) -> int:
        begins("hasty")
        return n

    @step
    async def order(_: dict[str, int]) -> str:
        return " ".join(begun)

    race = parallel(as_step(durable >> durable >> durable, name="a"), as_step(hasty >> hasty >> hasty, name="b"))
    report = await CrashExplorer(race >> order, 1, setup=begin).explore()
    assert report.reference.outcome.output == "hasty hasty hasty durable durable durable"


async def test_an_output_that_a_crash_changes_is_found() -> None:
    """A step that counts its calls."""
    calls: list[int] = []

    @step
    async def count(n: int) -> int:
        calls.append(n)
        return len(calls)

    report = await CrashExplorer(count, 1, setup=calls.clear).explore()
    assert [world.differences for world in report.failures] == [["output: 2 instead of 1"]]
    assert [(world.crashes[0].how, len(world.lives)) for world in report.failures] == [("before", 2)]


async def test_a_context_that_a_crash_changes_is_found_by_its_field() -> None:
    calls: list[int] = []

    @step
    async def count(n: int, ctx: StepContext) -> int:
        calls.append(n)
        ctx.state["calls"] = len(calls)
        return n

    report = await CrashExplorer(count, 1, setup=calls.clear).explore()
    assert [world.differences for world in report.failures] == [["context.calls: 2 instead of 1"]]


async def test_what_the_user_checks_is_part_of_the_report() -> None:
    """An effect outside of a step, which every replay repeats."""
    sent: list[str] = []

    @workflow
    async def careless(n: int) -> int:
        sent.append("mail")
        return await negate(await double(n))

    def verify(world: Any, flujo: Flujo[Any, Any]) -> None:
        assert sent == ["mail"], f"{len(sent)} mails were sent"

    report = await CrashExplorer(careless, 1, setup=sent.clear, verify=verify).explore()
    assert len(report.failures) == report.worlds - 3, "all but those before the run has begun"
    assert "verify: 2 mails were sent" in str(report)


async def test_a_verification_may_fail_as_tests_do() -> None:
    """``pytest.fail`` raises no ``Exception``, and would end the exploration without telling where."""

    def verify(world: Any, flujo: Flujo[Any, Any]) -> None:
        if world.crashes:
            pytest.fail("not like this")

    report = await CrashExplorer(double, 1, verify=verify).explore()
    assert len(report.failures) == report.worlds > 0
    assert "verify: not like this" in str(report)


async def test_a_user_may_look_at_the_run_of_each_world() -> None:
    statuses: list[str] = []

    async def verify(world: Any, flujo: Flujo[Any, Any]) -> None:
        statuses.append((await flujo.state("explored")).status)

    report = await CrashExplorer(double, 1, verify=verify).check()
    assert statuses == ["completed"] * (report.worlds + 2)


async def test_a_run_that_hangs_after_a_crash_is_told() -> None:
    lives: list[int] = []

    @step
    async def hangs_the_second_time(n: int) -> int:
        lives.append(n)
        if len(lives) > 1:
            await asyncio.Event().wait()
        return n

    explorer = CrashExplorer(hangs_the_second_time, 1, setup=lives.clear, timeout=1)
    report = await explorer.explore()
    assert "did not come to rest within 1 s" in str(report)


async def test_a_run_that_waits_for_ever_anew_is_told() -> None:
    @workflow
    async def insatiable(n: int, ctx: RunContext) -> None:
        while True:
            await ctx.wait_for("more")

    with pytest.raises(AssertionError, match="still waits after 5 answers"):
        await CrashExplorer(insatiable, 1, signals={"more": None}, max_resumes=5).check()


# ------------------------------------------------------------------------------------------------- how it is asked


async def test_worlds_live_in_stores_of_the_users_choice(tmp_path: Path) -> None:
    """Opened anew for each life."""
    opened: list[int] = []

    def backend(world: int) -> SQLiteBackend:
        opened.append(world)
        return SQLiteBackend(tmp_path / f"{world}.db")

    report = await CrashExplorer(double >> sleep(3600) >> negate, 3, backend=backend, max_worlds=4).check()
    assert report.worlds == 4
    assert opened.count(0) == 2
    assert opened.count(3) == 3


async def test_options_of_a_runtime_are_passed_on() -> None:
    @asynccontextmanager
    async def ten() -> AsyncIterator[int]:
        yield 10

    @step
    async def add(n: int, more: Annotated[int, Resource("ten")]) -> int:
        return n + more

    registry = PipelineRegistry()
    registry.register(add >> child(double, name="below"), "adding", "1.0")
    explorer = CrashExplorer(None, 1, registry=registry, pipeline_name="adding", resources={"ten": ten})
    assert (await explorer.check()).reference.outcome.output == 22


async def test_a_context_is_given() -> None:
    explorer = CrashExplorer(double, 1, context=Seen(names=["first"]), context_type=Seen)
    report = await explorer.check()
    assert report.reference.outcome.context["names"] == ["first", "double"]


async def test_an_error_of_the_undisturbed_run_is_raised_as_it_is() -> None:
    with pytest.raises(SerializationError):
        await CrashExplorer(double, object()).check()


def test_what_cannot_be_explored_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="clock"):
        CrashExplorer(double, 1, clock=None)
    with pytest.raises(InvalidArgument, match="at least 1"):
        CrashExplorer(double, 1, depth=0)
    with pytest.raises(DefinitionError):
        CrashExplorer(None, 1, pipeline_name="nobody", registry=PipelineRegistry())


async def test_an_exploration_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A process that died has nothing to say."""
    report = await CrashExplorer(double >> sleep(3600) >> wait_for("ok"), 1, signals={"ok": 1}).check()
    assert isinstance(report, CrashReport)
    assert caplog.records == []
    assert asyncio.all_tasks() == {asyncio.current_task()}
