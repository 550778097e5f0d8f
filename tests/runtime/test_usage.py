"""What steps consume: reported by attempts, added up over steps, runs and children, and never lost."""

import asyncio
from decimal import Context, Decimal, localcontext
from typing import Any

import pytest

from flujo_async import Flujo, Retry, RunContext, StepContext, child, parallel, step, workflow
from flujo_async.abc import StateBackend
from flujo_async.errors import BackendError, InvalidArgument, RunFailed
from flujo_async.testing import FaultyBackend, VirtualClock
from tests.runtime.stores import Store


@step
async def ask(prompt: str, ctx: StepContext) -> str:
    ctx.report_usage(tokens={"input": len(prompt), "output": 2}, cost=0.1)
    ctx.report_usage(cost=0.2)
    return prompt.upper()


@step
async def count(prompt: str, ctx: StepContext) -> str:
    ctx.report_usage(tokens=10)
    return prompt


async def test_steps_add_up_in_the_run(store: Store) -> None:
    """Each record has its own, the result and the state have the sum; cents do not drift."""
    result = await Flujo(ask >> count, state_backend=store.open()).run("abc", run_id="r")
    by_name = {record.name: record.usage for record in result.steps}
    assert (by_name["ask"].tokens, by_name["ask"].cost) == (5, Decimal("0.3"))
    assert by_name["ask"].token_counts == {"input": 3, "output": 2}
    assert (by_name["count"].tokens, by_name["count"].cost) == (10, 0)
    assert (result.usage.tokens, result.usage.cost) == (15, Decimal("0.3"))
    again = Flujo(ask >> count, state_backend=store.open())
    assert (await again.run("abc", run_id="r")).usage == result.usage
    assert (await again.state("r")).usage == result.usage
    [head] = await again.list_runs()
    assert head.usage == result.usage


async def test_money_adds_up_whatever_the_precision_of_who_counts(store: Store) -> None:
    """A host that computes with few digits loses none of a bill, and the head of the run says what its log does."""

    @step
    async def pay(cost: str, ctx: StepContext) -> str:
        ctx.report_usage(cost=cost)
        ctx.report_usage(cost="0.00001")
        return "0.00123"

    flujo = Flujo(pay >> pay, state_backend=store.open())
    with localcontext(Context(prec=6)):
        result = await flujo.run("1000.01", run_id="r")
    assert result.usage.cost == (await flujo.state("r")).usage.cost == Decimal("1000.01125")
    assert (await flujo.verify()).broken == []


async def test_a_failed_attempt_has_cost_money_too(backend: StateBackend) -> None:
    """Three attempts, three bills; also where the step fails for good."""

    @step(retry=Retry(max_attempts=3, base=0))
    async def flaky(tokens: int, ctx: StepContext) -> int:
        ctx.report_usage(tokens=tokens)
        if ctx.attempt < 3 or tokens == 7:
            raise ValueError("no")
        return tokens

    runner = Flujo(flaky, state_backend=backend)
    assert (await runner.run(5)).usage.tokens == 15
    with pytest.raises(RunFailed) as caught:
        await runner.run(7)
    assert caught.value.result.usage.tokens == 21
    assert caught.value.result.steps[0].usage.tokens == 21


async def test_children_count_for_their_parents(backend: StateBackend) -> None:
    """The record of the call has what the child consumed as a whole, whether it completed or failed."""

    @step
    async def fail(text: str, ctx: StepContext) -> str:
        ctx.report_usage(tokens=4)
        raise ValueError("no")

    pipeline = parallel(child(ask, name="good"), child(fail, name="bad"), on_error="ignore")
    runner = Flujo(pipeline, state_backend=backend)
    result = await runner.run("abc", run_id="r")
    assert result.usage.tokens == 9
    assert {record.name: record.usage.tokens for record in result.steps} == {"good": 5, "bad": 4}
    children = await runner.list_runs(parent_run_id="r")
    assert sorted(head.usage.tokens for head in children) == [4, 5]


async def test_what_is_recorded_is_not_counted_again(store: Store) -> None:
    """A crash after the first step: the resumed run has each bill once, the code of the workflow as well."""

    @workflow(name="w", version="1")
    async def talk(prompt: str, ctx: RunContext) -> str:
        ctx.report_usage(tokens=1)
        first = await ask(prompt)
        ctx.report_usage(tokens=100, cost="0.05")
        return await count(first)

    whole = await Flujo(talk, state_backend=store.open()).run("abc", run_id="whole")
    assert (whole.usage.tokens, whole.usage.cost) == (116, Decimal("0.35"))
    faulty = FaultyBackend(store.open())
    faulty.fail("append", nth=2)
    with pytest.raises(BackendError):
        await Flujo(talk, state_backend=faulty).run("abc", run_id="r")
    resumed = await Flujo(talk, state_backend=store.open(), always_replay=True).run("abc", run_id="r")
    assert resumed.usage == whole.usage


async def test_an_interrupted_attempt_leaves_its_bill(backend: StateBackend) -> None:
    """What was spent when the run was interrupted is spent."""
    begun = asyncio.Event()

    @step
    async def wait(tokens: int, ctx: StepContext) -> int:
        ctx.report_usage(tokens=tokens)
        if not begun.is_set():
            begun.set()
            await asyncio.Event().wait()
        return tokens

    runner = Flujo(wait, state_backend=backend)
    running = asyncio.create_task(runner.run(3, run_id="r"))
    await begun.wait()
    running.cancel()
    await asyncio.wait([running])
    assert (await runner.run(3, run_id="r")).usage.tokens == 6


async def test_a_fork_and_a_redrive_keep_what_was_spent() -> None:
    """Trying again does not take back a bill."""
    is_broken = True

    @step
    async def maybe(text: str, ctx: StepContext) -> str:
        ctx.report_usage(tokens=1)
        if is_broken:
            raise ValueError("no")
        return text

    runner = Flujo(ask >> maybe, clock=VirtualClock())
    with pytest.raises(RunFailed):
        await runner.run("abc", run_id="r")
    is_broken = False
    assert (await runner.redrive("r")).usage.tokens == 7
    forked = await runner.fork("r")
    assert (await runner.run(run_id=forked.run_id)).usage.tokens == 7


async def test_the_span_of_a_workflow_has_all_that_its_code_reports() -> None:
    """Each report adds up, as those of a step do."""

    @workflow(name="w")
    async def spend(value: int, ctx: RunContext) -> int:
        ctx.report_usage(tokens=1, cost="0.1")
        ctx.report_usage(tokens=2, cost="0.2")
        return value

    runner = Flujo(spend)
    await runner.run(1, run_id="r")
    [root] = await runner.state_backend.get_spans("r")
    assert (root["attributes"]["tokens"], root["attributes"]["cost"]) == (3, 0.3)


async def test_a_child_that_is_tried_again_is_not_counted_twice(store: Store) -> None:
    """What it consumed before it failed, its parent knows already; the child of a fork is another one."""
    is_broken = True

    @step
    async def maybe(text: str, ctx: StepContext) -> str:
        ctx.report_usage(tokens={"input": 10}, cost=1)
        if is_broken:
            raise ValueError("no")
        return text

    runner = Flujo(count >> child(maybe >> maybe), state_backend=store.open())
    with pytest.raises(RunFailed) as caught:
        await runner.run("a", run_id="r")
    assert caught.value.result.usage.tokens == 20
    before = (await runner.state("r")).version
    is_broken = False
    usage = (await runner.redrive("r")).usage
    assert (usage.tokens, usage.cost, usage.token_counts) == (40, 3, {"input": 30})
    forked = await runner.fork("r", at=before + 1)  # where it has failed, and is to be tried again
    assert (await runner.run(run_id=forked.run_id)).usage.tokens == 40


@pytest.mark.parametrize(
    "report",
    [{"tokens": -1}, {"tokens": 2**64}, {"tokens": 1.5}, {"tokens": True}, {"tokens": {"a": -1}}, {"tokens": {1: 1}}]
    + [{"cost": value} for value in (-0.1, 1e300, float("nan"), float("inf"), "much", None, True)],
)
async def test_what_is_no_usage_is_refused_by_name(report: dict[str, Any]) -> None:
    @step
    async def wrong(value: int, ctx: StepContext) -> int:
        ctx.report_usage(**report)
        return value

    with pytest.raises(RunFailed) as caught:
        await Flujo(wrong).run(1)
    assert isinstance(caught.value.__cause__, InvalidArgument)
    assert "report_usage()" in str(caught.value.__cause__)


async def test_runs_in_the_background_say_so(store: Store) -> None:
    """Started so, or dispatched; others are none."""
    runner = Flujo(ask, state_backend=store.open())
    await (await runner.start("a", run_id="started", background=True)).result()
    await runner.dispatch("a", run_id="queued")
    await runner.run("a", run_id="plain")
    assert {head.run_id: head.is_background for head in await runner.list_runs()} == {
        "started": True,
        "queued": True,
        "plain": False,
    }
    state = await runner.state("started")
    assert (state.is_background_task, state.task_id, state.background_error) == (True, "started", None)
    await runner.aclose()
