"""Graphs: what runs, when, with what, and what is left after a failure or a crash."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from inspect import Parameter, Signature
from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flujo_async import (
    Action,
    Depends,
    Flujo,
    InMemoryBackend,
    Retry,
    StepContext,
    any_of,
    as_step,
    facts,
    graph,
    loop,
    map_each,
    parallel,
    reducers,
    step,
)
from flujo_async.abc.pace import Pace
from flujo_async.errors import BackendError, ContextConflict, DefinitionError, NoBranch, RunFailed
from flujo_async.testing import VirtualClock
from tests.runtime.pretend import cancel_this_task, dying, eager_tasks, gated_store

Statuses = dict[str, str]


def is_positive(number: int) -> bool:
    return number > 0


def never(value: Any) -> bool:
    return False


def statuses(result: Any) -> Statuses:
    """Return the status of each step of the graph, by its name."""
    return {record.name: record.status.value for record in result.steps}


def failed(caught: pytest.ExceptionInfo[RunFailed]) -> Statuses:
    return statuses(caught.value.result)


@step
async def one() -> int:
    return 1


@step
async def two() -> int:
    return 2


@step
async def minus() -> int:
    return -1


@step
async def nothing() -> None: ...


@step
async def broken() -> int:
    raise ValueError("broken")


@step
async def positive(n: Annotated[int, Depends(minus, when=is_positive)]) -> int:
    return n


@step
async def large(n: Annotated[int, Depends(two, when=is_positive)]) -> int:
    return n * 100


@step
async def after_positive(n: Annotated[int, Depends(positive)]) -> int:
    return n


@step
async def total(a: Annotated[int, Depends(one)], b: Annotated[int, Depends(two)], bonus: int = 10) -> int:
    return a + b + bonus


@step
async def double(n: Annotated[int, Depends(one)], times: int) -> int:
    return n * times


@step
async def either(n: Annotated[int | None, Depends(positive)], m: Annotated[int | None, Depends(large)]) -> Any:
    return n, m


@step
async def neither(
    n: Annotated[int | None, Depends(positive)], m: Annotated[int | None, Depends(after_positive)]
) -> Any:
    return n, m


@step
async def with_default(n: Annotated[int, Depends(positive)] = 7, m: Annotated[int, Depends(two)] = 8) -> Any:
    return n, m


@step
async def required(n: Annotated[int, Depends(positive)], m: Annotated[int, Depends(two)]) -> Any:
    return n, m


@step
async def rescued(n: Annotated[int, Depends(any_of(broken, positive, two))]) -> int:
    return n


@step
async def none_of(n: Annotated[int | None, Depends(any_of(positive, after_positive))]) -> Any:
    return n


@step
async def unwanted(n: Annotated[int, Depends(any_of(broken, minus), when=is_positive)]) -> int:
    return n


@step
async def gives_none(n: Annotated[None, Depends(nothing)]) -> str:
    return repr(n)


@step
async def review(decision: str) -> Action | str:
    return Action(decision, {"by": "me"}) if decision != "plain approve" else "approve"


@step
async def publish(review: Annotated[Action, Depends(review)]) -> str:
    return f"published by {review.value['by']}"


@step
async def archive(decision: str) -> str:
    return f"archived: {decision}"


EDGES = {review.on("approve"): publish, review.on("reject"): archive}
SKIPPED, SUCCEEDED, FAILED, CANCELLED = "SKIPPED", "SUCCEEDED", "FAILED", "CANCELLED"

RUNS: list[tuple[Any, Any, Any, Statuses]] = [
    (graph(one), None, 1, {"one": SUCCEEDED}),
    (graph(one, two), {}, {"one": 1, "two": 2}, {}),
    (graph(two, one), {}, {"two": 2, "one": 1}, {}),
    (graph(total), {}, 13, {}),
    (graph(total), {"bonus": 0}, 3, {}),
    (graph(total, double), {"bonus": 0, "times": 5, "unknown": 1}, {"total": 3, "double": 5}, {}),
    (graph(double), {"times": 3, 1: "key", "$": 0}, 3, {}),
    (graph(gives_none), {}, "None", {}),
    (graph(large), {}, 200, {"large": SUCCEEDED}),
    (graph(positive), {}, None, {"minus": SUCCEEDED, "positive": SKIPPED}),
    (graph(after_positive), {}, None, {"positive": SKIPPED, "after_positive": SKIPPED}),
    (graph(either), {}, (None, 200), {"positive": SKIPPED}),
    (graph(neither), {}, None, {"neither": SKIPPED}),
    (graph(with_default), {}, (7, 2), {}),
    (graph(required), {}, None, {"required": SKIPPED, "two": SUCCEEDED}),
    (graph(rescued), {}, 2, {"broken": FAILED, "positive": SKIPPED, "rescued": SUCCEEDED}),
    (graph(none_of), {}, None, {"none_of": SKIPPED}),
    (graph(unwanted), {}, None, {"unwanted": SKIPPED, "broken": FAILED}),
    (
        graph(review, EDGES),
        {"decision": "approve"},
        {"publish": "published by me", "archive": None},
        {"archive": SKIPPED},
    ),
    (
        graph(review, EDGES),
        {"decision": "reject"},
        {"publish": None, "archive": "archived: reject"},
        {"publish": SKIPPED},
    ),
    (graph(review, EDGES), {"decision": "plain approve"}, {"publish": None, "archive": None}, {"review": SUCCEEDED}),
    (graph(one) >> graph(two), {}, 2, {}),
    (as_step(graph(total), name="sum"), {"bonus": 1}, 4, {}),
    (parallel(graph(total), as_step(graph(double), name="twice")), {"times": 2}, {"graph": 13, "twice": 2}, {}),
    (map_each(graph(total, double)), [{"times": n, "bonus": n} for n in (1, 2)], None, {}),
    (map_each(graph(double)), [{"times": 2}, {"times": 3}], [2, 3], {}),
]


@pytest.mark.parametrize(("pipeline", "value", "output", "expected"), RUNS)
async def test_what_a_graph_makes_of_its_input(pipeline: Any, value: Any, output: Any, expected: Statuses) -> None:
    result = await Flujo(pipeline).run(value, run_id="r")
    assert result.status == "completed"
    assert output is None or result.output == output
    if output is None and len(pipeline.elements()) == 1 and pipeline.elements()[0].name == "graph":
        assert result.output is None
    found = statuses(result)
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(("pipeline", "value", "output", "expected"), RUNS)
async def test_a_graph_ends_the_same_wherever_it_is_interrupted(
    pipeline: Any, value: Any, output: Any, expected: Statuses
) -> None:
    whole = await Flujo(pipeline).run(value, run_id="r")
    for nth in range(1, 20):
        store = InMemoryBackend()
        faulty = dying(store, "append", nth, after=bool(nth % 2))
        try:
            await Flujo(pipeline, state_backend=faulty).run(value, run_id="r")
        except BackendError:
            again = await Flujo(pipeline, state_backend=store).run(run_id="r")
            assert again.output == whole.output
            assert statuses(again) == statuses(whole)
        else:
            break
    assert not faulty.is_dead


@pytest.mark.parametrize("start", ["run", "start", "dispatch"])
async def test_a_missing_entry_is_refused_before_there_is_a_run(start: str) -> None:
    flujo = Flujo(graph(double))
    for value in ({}, {"time": 1}, 5):
        with pytest.raises(DefinitionError, match="lacks 'times' for step 'double'"):
            await getattr(flujo, start)(value, run_id="r")
    assert await flujo.list_runs() == []


async def test_a_missing_entry_in_the_middle_fails_the_run_before_the_graph_begins() -> None:
    @step
    async def prepare(value: Any) -> Any:
        return value

    with pytest.raises(RunFailed) as caught:
        await Flujo(prepare >> graph(double)).run({}, run_id="r")
    assert isinstance(caught.value.__cause__, DefinitionError)
    assert failed(caught) == {"prepare": SUCCEEDED}


# ------------------------------------------------------------------------------------------------------ side by side


def taking(function: Any, **annotations: Any) -> Any:
    """Return the function with these parameters, each by name."""
    named = [Parameter(name, Parameter.KEYWORD_ONLY, annotation=hint) for name, hint in annotations.items()]
    function.__signature__ = Signature(named)
    function.__annotations__ = annotations
    return function


def make(name: str, run: Callable[..., Any], **annotations: Any) -> Any:
    """Return a step of this name with these parameters, which may depend on others."""

    async def call(**given: Any) -> Any:
        result = run(**given)
        return await result if asyncio.iscoroutine(result) else result

    return step(taking(call, **annotations), name=name)


def on(*steps: Any) -> Any:
    """Return the annotation of a parameter that depends on a step, or on one of several."""
    first, *others = steps
    return Annotated[Any, Depends(any_of(*steps) if others else first)]


async def test_what_does_not_depend_on_each_other_runs_at_the_same_time() -> None:
    meeting = asyncio.Barrier(3)
    steps = [make(name, meeting.wait) for name in "abc"]
    async with asyncio.timeout(20):
        result = await Flujo(graph(*steps)).run(run_id="r")
    assert sorted(result.output.values()) == [0, 1, 2]


async def test_a_step_starts_as_soon_as_its_own_inputs_are_there() -> None:
    """It does not wait for steps that it does not depend on."""
    is_done = asyncio.Event()
    slow = make("slow", is_done.wait)
    quick = make("quick", lambda a: is_done.set(), a=on(make("a", lambda: 1)))
    async with asyncio.timeout(20):
        await Flujo(graph(slow, quick)).run(run_id="r")


async def test_steps_that_follow_one_another_are_as_quick_as_in_a_pipeline() -> None:
    """They share a task, and each commit goes down at once, since there is nothing beside it to wait for."""
    tasks, turns = set[Any](), 0

    def note(a: int = 0) -> int:
        tasks.add(asyncio.current_task())
        return a + 1

    def turn() -> None:
        nonlocal turns
        turns += 1
        asyncio.get_running_loop().call_soon(turn)

    fork = make("fork", note)
    sides = [make("left", note, a=on(fork)), make("right", note, a=on(fork))]
    chain = make("join", lambda a, b: note(a), a=on(sides[0]), b=on(sides[1]))
    for number in range(100):
        chain = make(f"n{number}", note, a=on(chain))
    with Pace.here().timeless():
        turn()
        result = await Flujo(graph(chain)).run(None, run_id="r")
    assert result.output == 103
    assert len(tasks) == 2
    assert turns < 50


async def test_the_first_success_of_a_group_starts_the_step_once() -> None:
    begun, may_end, calls = asyncio.Event(), asyncio.Event(), list[str]()

    async def slow() -> str:
        begun.set()
        await may_end.wait()
        return "slow"

    def take(quote: str) -> str:
        calls.append(quote)
        may_end.set()
        return quote

    taken = make("taken", take, quote=on(make("slow", slow), make("quick", begun.wait)))
    async with asyncio.timeout(20):
        result = await Flujo(graph(taken)).run(run_id="r")
    assert result.output is True
    assert calls == [True]
    assert statuses(result) == {"quick": SUCCEEDED, "taken": SUCCEEDED, "slow": SUCCEEDED}


async def test_the_first_member_to_succeed_counts_even_if_the_step_starts_later() -> None:
    """The step sees that member's changes of the context, and not those of the others."""
    order = [asyncio.Event(), asyncio.Event()]

    @step
    async def second(ctx: StepContext) -> str:
        await order[0].wait()
        ctx.state["second"] = True
        return "second"

    @step
    async def first(ctx: StepContext) -> str:
        ctx.state["first"] = True
        return "first"

    @step
    async def notice(done: Annotated[str, Depends(first)]) -> None:
        order[0].set()

    @step
    async def last(done: Annotated[str, Depends(second)]) -> None: ...

    @step
    async def taken(
        value: Annotated[str, Depends(any_of(second, first))], done: Annotated[None, Depends(notice)], ctx: StepContext
    ) -> Any:
        return value, dict(ctx.state)

    @step
    async def late(
        value: Annotated[str, Depends(any_of(second, first))], done: Annotated[None, Depends(last)], ctx: StepContext
    ) -> Any:
        return value, sorted(ctx.state)

    result = await Flujo(graph(taken, late)).run(run_id="r")
    assert result.output == {"taken": ("first", {"first": True}), "late": ("first", ["first", "second"])}
    assert result.context == {"first": True, "second": True}


async def test_the_first_of_a_group_is_the_first_in_the_log_however_long_it_takes_to_go_on() -> None:
    """Else a step that is begun again after a crash is given something else."""
    kept, gate = gated_store(InMemoryBackend(), "set_system_state")
    may_end, has_ended = asyncio.Event(), asyncio.Event()

    async def cached() -> str:
        return "first"

    async def second() -> str:
        await may_end.wait()
        return "second"

    steps = step(cached, cache=True), make("second", second)
    taken = make("taken", lambda quote: quote, quote=on(any_of(*steps)))
    after = make("after", lambda a: has_ended.set(), a=on(steps[1]))
    run = asyncio.create_task(Flujo(graph(taken, after), state_backend=kept).run(None, run_id="r"))
    async with asyncio.timeout(20):
        await gate.reached()  # it is in the log, and its output is on its way to the cache
        may_end.set()
        await has_ended.wait()
        gate.release()
        result = await run
    assert result.output["taken"] == "first"


async def test_a_member_that_fails_after_another_one_succeeded_fails_nothing() -> None:
    may_fail = asyncio.Event()

    async def late() -> None:
        await may_fail.wait()
        raise ValueError("late")

    taken = make("taken", lambda quote: may_fail.set() or quote, quote=on(make("late", late), one))
    async with asyncio.timeout(20):
        result = await Flujo(graph(taken)).run(run_id="r")
    assert result.output == 1
    assert statuses(result)["late"] == FAILED


async def test_the_winner_of_a_group_stays_the_winner() -> None:
    """The process dies while the step runs on the first member's value, after the second member has succeeded too."""
    store, seen = InMemoryBackend(), list[str]()
    is_first, is_second, forever = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def second() -> str:
        await is_first.wait()
        is_second.set()
        return "second"

    async def take(quote: str) -> str:
        seen.append(quote)
        is_first.set()
        if len(seen) == 1:
            await forever.wait()
        return quote

    taken = make("taken", take, quote=on(make("second", second), make("first", lambda: "first")))
    flujo = Flujo(graph(taken), state_backend=store)
    run = asyncio.create_task(flujo.run(None, run_id="r"))
    await is_second.wait()
    await until_steps(flujo, lambda found: found.get("second") == SUCCEEDED)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    result = await Flujo(graph(taken), state_backend=store).run(run_id="r")
    assert seen == ["first", "first"]
    assert result.output == "first"


async def until_steps(flujo: Any, are_so: Callable[[Statuses], bool]) -> None:
    """Return when the statuses of the steps are so."""
    while not are_so({record.name: record.status.value for record in await flujo.steps("r")}):
        await asyncio.sleep(0)


# ---------------------------------------------------------------------------------------------------------- failures


after_broken = make("after_broken", lambda a: a, a=on(broken))
further = make("further", lambda a: a, a=on(after_broken))
after_one = make("after_one", lambda a: a, a=on(one))
half_broken = make("half_broken", lambda a, b: a, a=on(one), b=on(broken))
saved = make("saved", lambda a: a, a=on(after_broken, one))
lost = make("lost", lambda a: a, a=on(after_broken, further))

FAILURES: list[tuple[Any, Statuses]] = [
    (graph(broken), {"broken": FAILED}),
    (graph(further, on_error="finish"), {"broken": FAILED, "after_broken": CANCELLED, "further": CANCELLED}),
    (graph(half_broken, on_error="finish"), {"one": SUCCEEDED, "broken": FAILED, "half_broken": CANCELLED}),
    (graph(further, after_one, on_error="finish"), {"broken": FAILED, "one": SUCCEEDED, "after_one": SUCCEEDED}),
    (graph(broken, after_one), {"broken": FAILED, "after_one": CANCELLED}),
    (graph(lost, on_error="finish"), {"broken": FAILED, "lost": CANCELLED}),
    (graph(saved, further, on_error="finish"), {"broken": FAILED, "saved": SUCCEEDED, "further": CANCELLED}),
]


@pytest.mark.parametrize(("pipeline", "expected"), FAILURES)
async def test_a_failure_cancels_what_comes_after_it(pipeline: Any, expected: Statuses) -> None:
    flujo = Flujo(pipeline)
    for arguments in ([None], []):
        with pytest.raises(RunFailed) as caught:
            await flujo.run(*arguments, run_id="r")
        assert str(caught.value.__cause__) == "broken"
        found = failed(caught)
        assert {name: found[name] for name in expected} == expected
    ended = [commit.fact for commit in await flujo.history("r") if isinstance(commit.fact, facts.RunFailed)]
    assert [fact.keys for fact in ended] == [("graph/broken",)]


@pytest.mark.parametrize("on_error", ["cancel", "finish"])
async def test_a_failure_that_a_group_makes_up_for_stops_nothing(on_error: Any) -> None:
    pipeline = graph(make("end", lambda a: a, a=on(saved)), on_error=on_error)
    result = await Flujo(pipeline).run(run_id="r")
    assert result.output == 1
    expected = {"broken": FAILED, "after_broken": CANCELLED, "one": SUCCEEDED, "saved": SUCCEEDED, "end": SUCCEEDED}
    assert statuses(result) == expected


async def test_a_failure_cancels_the_steps_that_are_running() -> None:
    begun, also, seen = asyncio.Event(), asyncio.Event(), list[str]()

    async def endless() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            for _ in range(20):
                await asyncio.sleep(0)
            seen.append("cleaned up")
            raise

    async def fail() -> None:
        await begun.wait()
        await also.wait()
        raise ValueError("no")

    async def stubborn() -> None:
        also.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise LookupError("fails as well") from None

    endless_step = make("endless", endless)
    behind = make("behind", lambda a: a, a=on(endless_step))
    with pytest.raises(RunFailed, match="no") as caught:
        await Flujo(graph(behind, make("fail", fail), make("stubborn", stubborn))).run(run_id="r")
    assert seen == ["cancelled", "cleaned up"], "what cleans up is not cancelled again by the second failure"
    assert failed(caught) == {"fail": FAILED, "stubborn": FAILED, "endless": CANCELLED, "behind": CANCELLED}


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("fails", ["step", "condition"])
async def test_a_failure_cancels_the_others_where_tasks_begin_at_once(fails: str, place: int) -> None:
    """The graph has failed while its tasks are being made: some wait already, others would begin after that."""

    def broken(number: int) -> bool:
        raise ValueError("no")

    def fail(**_: int) -> None:
        raise ValueError("no")

    root = make("root", lambda: 1)
    when = broken if fails == "condition" else None
    steps = [make(name, lambda a: asyncio.Event().wait(), a=on(root)) for name in ["first", "second"]]
    steps.insert(place, make("fails", fail, a=Annotated[Any, Depends(root, when=when)]))
    with eager_tasks(), pytest.raises(RunFailed, match="no") as caught:
        async with asyncio.timeout(20):
            await Flujo(graph(*steps), durability="exit").run(None, run_id="r")
    ends = failed(caught)
    assert (ends["first"], ends["second"]) == (CANCELLED, CANCELLED)


async def test_finish_lets_the_others_end_and_tells_the_first_failure_in_declared_order() -> None:
    is_failed = asyncio.Event()

    async def late() -> None:
        await is_failed.wait()
        raise ValueError("declared first")

    def early() -> None:
        is_failed.set()
        raise ValueError("failed first")

    pipeline = graph(make("late", late), make("early", early), one, on_error="finish")
    with pytest.raises(RunFailed) as caught:
        await Flujo(pipeline).run(run_id="r")
    assert str(caught.value.__cause__) == "declared first"
    assert failed(caught) == {"early": FAILED, "late": FAILED, "one": SUCCEEDED}


@pytest.mark.parametrize("fails_as_well", [False, True])
async def test_what_was_on_its_way_to_the_store_when_it_was_cancelled_counts_as_done(fails_as_well: bool) -> None:
    """The failure's commit is under way; the other step's waits behind it, and goes down although nobody waits."""
    store, calls, may_go_on = InMemoryBackend(), list[str](), asyncio.Event()
    gated, gate = gated_store(store, "append", nth=2)

    async def slow() -> str:
        calls.append("slow")
        await may_go_on.wait()
        if fails_as_well and calls.count("slow") == 1:
            raise ValueError("as well")
        return "slow"

    def fail() -> None:
        calls.append("fail")
        if calls.count("fail") == 1:
            raise ValueError("no")

    behind = make("behind", lambda a: a, a=on(make("slow", slow)))
    pipeline = graph(behind, make("fail", fail))
    run = asyncio.create_task(Flujo(pipeline, state_backend=gated).run(None, run_id="r"))
    await gate.reached()
    may_go_on.set()
    for _ in range(9):
        await asyncio.sleep(0)
    gate.release()
    with pytest.raises(RunFailed) as caught:
        await run
    assert failed(caught) == {"fail": FAILED, "slow": FAILED if fails_as_well else SUCCEEDED, "behind": CANCELLED}
    result = await Flujo(pipeline, state_backend=store).redrive("r")
    assert result.output == {"behind": "slow", "fail": None}
    assert sorted(calls) == ["fail", "fail", *(["slow"] * (1 + fails_as_well))]


async def test_a_step_that_takes_no_notice_of_a_cancellation_starts_nothing_more() -> None:
    begun, calls = asyncio.Event(), list[str]()

    async def deaf() -> str:
        calls.append("deaf")
        begun.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return "deaf"

    def after(a: str) -> str:
        calls.append("after")
        return a

    flujo = Flujo(graph(make("after", after, a=on(make("deaf", deaf)))))
    run = asyncio.create_task(flujo.run(None, run_id="r"))
    await begun.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert calls == ["deaf"]
    assert (await flujo.run(run_id="r")).output == "deaf"
    assert calls == ["deaf", "after"]


async def test_what_comes_after_a_step_that_has_cancelled_its_own_task_and_gone_on_runs_all_the_same() -> None:
    async def cancel_itself() -> str:
        cancel_this_task()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        return "went on"

    after = make("after", lambda a: a, a=on(make("itself", cancel_itself)))
    result = await Flujo(graph(after)).run(None, run_id="r")
    assert result.output == "went on"
    assert statuses(result) == {"itself": SUCCEEDED, "after": SUCCEEDED}


async def test_a_step_that_cancels_its_own_task_has_failed() -> None:
    """Other steps run, and what makes up for a failure makes up for this."""

    async def cancel_itself() -> None:
        cancel_this_task()
        await asyncio.sleep(0)

    itself, beside = make("itself", cancel_itself), make("beside", lambda: "here")
    with pytest.raises(RunFailed, match=r"'graph/itself' raised CancelledError, and nobody had cancelled it"):
        await Flujo(graph(make("after", lambda a: a, a=on(itself)), beside, on_error="finish")).run(None, run_id="r")
    either = make("either", lambda a: a, a=on(any_of(itself, beside)))
    assert (await Flujo(graph(either)).run(None)).output == "here"


async def test_a_redriven_graph_runs_what_failed_and_what_was_cancelled() -> None:
    calls = Counter[str]()

    def counted(name: str, **parameters: Any) -> Any:
        def run(**given: Any) -> str:
            calls[name] += 1
            if name == "b" and calls[name] == 1:
                raise ValueError("once")
            return name + "".join(given.values())

        return make(name, run, **parameters)

    a = counted("a")
    b = counted("b", x=on(a))
    c = counted("c", x=on(a), y=on(b))
    d = counted("d", x=on(a))
    pipeline = graph(c, counted("e", x=on(d)), on_error="finish")
    flujo = Flujo(pipeline)
    with pytest.raises(RunFailed):
        await flujo.run(None, run_id="r")
    result = await flujo.redrive("r")
    assert result.output == {"c": "caba", "e": "eda"}
    assert calls == {"a": 1, "b": 2, "c": 1, "d": 1, "e": 1}
    assert set(statuses(result).values()) == {SUCCEEDED}


@pytest.mark.parametrize("decision", ["maybe", "hold"])
async def test_an_action_without_an_edge_fails_the_run(decision: str) -> None:
    with pytest.raises(RunFailed) as caught:
        await Flujo(graph(review, EDGES)).run({"decision": decision}, run_id="r")
    assert isinstance(caught.value.__cause__, NoBranch)
    assert f"'graph/review' chose the action '{decision}'; the graph has edges for 'approve', 'reject'" in str(
        caught.value.__cause__
    )
    assert failed(caught) == {"review": SUCCEEDED, "publish": CANCELLED, "archive": CANCELLED}


async def test_an_action_where_there_are_no_edges_fails_the_run() -> None:
    with pytest.raises(RunFailed, match="edges for none at all"):
        await Flujo(graph(review, on_error="finish")).run({"decision": "approve"}, run_id="r")


async def test_no_group_makes_up_for_an_action_without_an_edge() -> None:
    taken = make("taken", lambda a: a, a=on(review, one))
    with pytest.raises(RunFailed, match="edges for none at all"):
        await Flujo(graph(taken, on_error="finish")).run({"decision": "approve"}, run_id="r")


async def test_a_step_whose_condition_raised_is_cancelled_where_the_failure_is_ignored() -> None:
    asked = make("asked", lambda n: n, n=Annotated[Any, Depends(two, when=lambda n: n / 0)])
    result = await Flujo(parallel(graph(asked), one, on_error="ignore")).run(run_id="r")
    assert result.output == {"one": 1}
    assert statuses(result) == {"one": SUCCEEDED, "two": SUCCEEDED, "asked": CANCELLED}


@pytest.mark.parametrize("on_error", ["cancel", "finish"])
async def test_a_condition_that_raises_fails_the_run(on_error: Any) -> None:
    def refuse(value: int) -> bool:
        raise LookupError(f"cannot tell {value}")

    @step
    async def asked(n: Annotated[int, Depends(one, when=refuse)]) -> int:
        return n

    with pytest.raises(RunFailed, match="cannot tell 1") as caught:
        await Flujo(graph(asked, on_error=on_error)).run(run_id="r")
    assert isinstance(caught.value.__cause__, LookupError)
    assert failed(caught) == {"one": SUCCEEDED, "asked": CANCELLED}


@pytest.mark.parametrize("answer", [True, False])
async def test_a_condition_is_not_asked_again_after_a_crash(answer: bool) -> None:
    """Whatever it would answer then: the step may have begun, and what was skipped stays skipped."""
    answers, store = [answer, not answer], InMemoryBackend()

    @step
    async def asked(n: Annotated[int, Depends(one, when=lambda _: answers.pop(0))]) -> int:
        return n

    pipeline = graph(asked) >> make("next", lambda: "next") >> make("last", lambda: "end")
    with pytest.raises(BackendError):
        await Flujo(pipeline, state_backend=dying(store, "append", 4)).run(None, run_id="r")
    result = await Flujo(pipeline, state_backend=store).run(run_id="r")
    assert answers == [not answer]
    assert statuses(result)["asked"] == (SUCCEEDED if answer else SKIPPED)


async def test_an_answer_is_durable_before_the_step_begins() -> None:
    answers, begun = [True, False], asyncio.Event()

    async def run(n: int) -> str:
        if not begun.is_set():
            begun.set()
            await asyncio.Event().wait()
        return "ran"

    asked = make("asked", run, n=Annotated[Any, Depends(one, when=lambda _: answers.pop(0))])
    flujo = Flujo(graph(asked))
    interrupted = asyncio.create_task(flujo.run(None, run_id="r"))
    await begun.wait()
    interrupted.cancel()
    with pytest.raises(asyncio.CancelledError):
        await interrupted
    assert (await flujo.run(run_id="r")).output == "ran"
    assert answers == [False]


# ------------------------------------------------------------------------------------------------ records and retries


async def test_every_step_of_a_graph_has_a_record_while_it_runs() -> None:
    clock = VirtualClock()
    attempts = Counter[str]()

    @step(retry=Retry(max_attempts=2, base=60, jitter=0))
    async def flaky(n: Annotated[int, Depends(one)]) -> int:
        attempts["flaky"] += 1
        if attempts["flaky"] == 1:
            raise ValueError("flaky")
        return n

    @step
    async def last(n: Annotated[int, Depends(flaky)], m: Annotated[int | None, Depends(positive)]) -> int:
        return n

    flujo = Flujo(graph(last), clock=clock)
    handle = await flujo.start(None, run_id="r")
    await clock.until_asleep()
    await until_steps(flujo, lambda found: (found.get("positive"), found.get("flaky")) == (SKIPPED, "RUNNING"))
    found = {record.name: record for record in await flujo.steps("r")}
    assert {name: record.status.value for name, record in found.items()} == {
        "one": SUCCEEDED,
        "minus": SUCCEEDED,
        "flaky": "RUNNING",
        "positive": SKIPPED,
        "last": "PENDING",
    }
    waiting = found["last"]
    assert (waiting.key, waiting.attempts, waiting.started_at, waiting.finished_at) == ("graph/last", 0, None, None)
    assert waiting.duration is None
    clock.advance(60)
    result = await handle.result()
    assert {record.name: record.attempts for record in result.steps}["flaky"] == 2
    assert (await flujo.state("r")).current_step_index == 1


async def test_a_record_tells_what_each_parameter_was_given() -> None:
    result = await Flujo(graph(total)).run({"bonus": 5}, run_id="r")
    assert {record.key: record.input for record in result.steps}["graph/total"] == {"a": 1, "b": 2, "bonus": 5}


async def test_an_input_is_stored_once_however_many_steps_take_it() -> None:
    document = "x" * 10_000
    takers = [make(f"take_{n}", lambda document: len(document), document=str) for n in range(20)]
    store = InMemoryBackend()
    result = await Flujo(graph(*takers), state_backend=store).run({"document": document}, run_id="r")
    assert set(result.output.values()) == {10_000}
    stored = await store.load("r")
    assert stored is not None
    assert sum(len(record.body) for record in stored.records) < 20_000
    assert {record.input["document"] for record in result.steps} == {document}


async def test_a_run_that_is_interrupted_goes_on_with_what_is_ready() -> None:
    calls, is_there = Counter[str](), asyncio.Event()

    async def wait() -> str:
        calls["wait"] += 1
        if calls["wait"] == 1:
            is_there.set()
            await asyncio.Event().wait()
        return "waited"

    def count(a: str) -> str:
        calls["count"] += 1
        return a

    quick = make("quick", lambda: count("quick"))
    end = make("end", lambda a, b: (a, b), a=on(make("wait", wait)), b=on(make("counted", count, a=on(quick))))
    flujo = Flujo(graph(end))
    run = asyncio.create_task(flujo.run(None, run_id="r"))
    await is_there.wait()
    await until_steps(flujo, lambda found: found.get("counted") == SUCCEEDED)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert (await flujo.run(run_id="r")).output == ("waited", "quick")
    assert calls == {"wait": 2, "count": 2}


# ----------------------------------------------------------------------------------------------------------- context


@dataclass
class Notes:
    seen: Annotated[list[str], reducers.append] = field(default_factory=list)
    count: Annotated[int, reducers.add] = 0
    last: str = ""


def noting(name: str, *before: Any, last: bool = False) -> Any:
    """Return a step that notes its name, and tells what it saw."""

    async def call(ctx: StepContext, **given: Any) -> Any:
        state = ctx.state
        saw = (list(state.seen), state.count, state.last)
        state.seen.append(name)
        state.count += 1
        if last:
            state.last = name
        return saw

    parameters = {f"p{place}": annotation for place, annotation in enumerate(before)}
    return step(taking(call, ctx=StepContext, **parameters), name=name)


async def test_a_step_sees_what_those_before_it_left_and_nothing_else() -> None:
    a = noting("a", last=True)
    b, c = noting("b", on(a)), noting("c", on(a), last=True)
    d = noting("d", on(b), on(c), last=True)
    beside = noting("beside")
    result = await Flujo(graph(d, beside), context_type=Notes).run(None, run_id="r", context=Notes(["start"], 5))
    saw = {record.name: record.output for record in result.steps}
    assert saw == {
        "a": (["start"], 5, ""),
        "beside": (["start"], 5, ""),
        "b": (["start", "a"], 6, "a"),
        "c": (["start", "a"], 6, "a"),
        "d": (["start", "a", "b", "c"], 8, "c"),
    }
    assert result.context == Notes(["start", "a", "b", "c", "d", "beside"], 10, "d")
    assert (await Flujo(graph(one), context_type=Notes).run(None)).context == Notes()


async def test_steps_side_by_side_that_change_the_same_field_contradict_each_other() -> None:
    a, b = noting("a", last=True), noting("b", last=True)
    for pipeline in (graph(a, b), graph(noting("c", on(a), on(b)))):
        with pytest.raises(RunFailed, match=r"graph/a and graph/b both changed the context's field 'last'") as caught:
            await Flujo(pipeline, context_type=Notes).run(None, run_id="r")
        assert isinstance(caught.value.__cause__, ContextConflict)
        assert failed(caught).get("c", CANCELLED) == CANCELLED


async def test_a_step_that_follows_another_one_may_overwrite_what_that_one_wrote() -> None:
    chain = noting("a", last=True)
    for name in "bcd":
        chain = noting(name, on(chain), last=True)
    result = await Flujo(graph(chain), context_type=Notes).run(None, run_id="r")
    assert result.context == Notes(["a", "b", "c", "d"], 4, "d")


async def test_a_step_sees_the_changes_of_the_member_that_it_was_given() -> None:
    may_end = asyncio.Event()

    @step(name="slow")
    async def slow(ctx: StepContext) -> None:
        await may_end.wait()
        ctx.state.seen.append("slow")

    @step(name="taken")
    async def taken(ctx: StepContext, value: Annotated[Any, Depends(any_of(slow, noting("quick")))]) -> Any:
        may_end.set()
        return list(ctx.state.seen)

    result = await Flujo(graph(taken), context_type=Notes).run(None, run_id="r")
    assert result.output == ["quick"]
    assert result.context.seen == ["slow", "quick"]


@pytest.mark.parametrize("nth", range(1, 6))
async def test_what_stands_behind_a_skipped_step_is_seen_all_the_same(nth: int) -> None:
    a = noting("a", last=True)
    skipped = make("skipped", lambda x: x, x=Annotated[Any, Depends(a, when=never)])
    end = noting("end", Annotated[Any, Depends(skipped)], Annotated[Any, Depends(two)], last=True)
    chain, store = graph(end, make("late", lambda x: x, x=on(end))), InMemoryBackend()
    whole = await Flujo(chain, context_type=Notes).run(None, run_id="r")
    assert whole.context == Notes(["a", "end"], 2, "end")
    faulty = dying(store, "append", nth)
    with pytest.raises(BackendError):
        await Flujo(chain, state_backend=faulty, context_type=Notes).run(None, run_id="r")
    again = await Flujo(chain, state_backend=store, context_type=Notes).run(run_id="r")
    assert (again.context, statuses(again)) == (whole.context, statuses(whole))


async def test_a_graph_in_a_loop_begins_with_what_the_turn_before_left() -> None:
    body = graph(noting("b", on(noting("a"))))

    @step
    async def ignore(value: Any) -> dict[str, Any]:
        return {}

    turns = loop(body >> ignore, until=lambda _, notes: notes.count >= 6, max_iterations=9)
    result = await Flujo(turns, context_type=Notes).run({}, run_id="r")
    assert result.context.seen == ["a", "b"] * 3
    assert [record.key for record in result.steps][:3] == ["loop/0/graph/a", "loop/0/graph/b", "loop/0/ignore"]


# ------------------------------------------------------------------------------------------------- whatever the graph


@dataclass(frozen=True)
class Plan:
    """A graph to be.

    Attributes:
        nodes: what each node depends on: a step or several, whether a condition says no, whether ``None`` would do.
        turns: for how many turns of the event loop each of them runs.
        broken: those that fail.
    """

    nodes: tuple[tuple[tuple[tuple[int, ...], bool, bool], ...], ...]
    turns: tuple[int, ...]
    broken: frozenset[int]

    def build(self, effects: Counter[str]) -> Any:
        steps: list[Any] = []
        for number, dependencies in enumerate(self.nodes):
            steps.append(self._node(number, dependencies, steps, effects))
        return graph(*steps, on_error="finish")

    def _node(self, number: int, dependencies: Any, steps: Sequence[Any], effects: Counter[str]) -> Any:
        async def run(**given: Any) -> Any:
            effects[f"n{number}"] += 1
            for _ in range(self.turns[number]):
                await asyncio.sleep(0)
            if number in self.broken:
                raise ValueError(f"n{number}")
            return [number, *(type(value).__name__ for value in given.values())]

        annotations: dict[str, Any] = {}
        for place, (members, is_refused, is_optional) in enumerate(dependencies):
            chosen = [steps[member] for member in members]
            depends = Depends(any_of(*chosen) if len(chosen) > 1 else chosen[0], when=never if is_refused else None)
            annotations[f"p{place}"] = Annotated[(list[Any] | None) if is_optional else list[Any], depends]
        return make(f"n{number}", run, **annotations)


@st.composite
def plans(draw: Any) -> Plan:
    size = draw(st.integers(1, 7))
    nodes = []
    for number in range(size):
        before = st.lists(st.integers(0, max(number - 1, 0)), min_size=1, max_size=3, unique=True).map(tuple)
        one_input = st.tuples(before, st.integers(0, 9).map(lambda n: n == 0), st.booleans())
        nodes.append(tuple(draw(st.lists(one_input, max_size=3))) if number else ())
    broken = draw(st.frozensets(st.integers(0, size - 1), max_size=1)) if draw(st.integers(0, 3)) == 0 else frozenset()
    turns = tuple(draw(st.lists(st.integers(0, 5), min_size=size, max_size=size)))
    return Plan(tuple(nodes), turns, broken)


async def ending(flujo: Flujo[Any, Any], *arguments: Any) -> tuple[Any, Statuses, Any]:
    try:
        result = await flujo.run(*arguments, run_id="r")
    except RunFailed as error:
        return str(error.__cause__), statuses(error.result), None
    return "", statuses(result), result.output


@settings(max_examples=settings().max_examples // 2)
@given(plans(), st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=1, max_size=4))
async def test_a_graph_that_crashes_again_and_again_ends_as_one_that_did_not(
    plan: Plan, crashes: list[tuple[int, bool]]
) -> None:
    effects = Counter[str]()
    expected = await ending(Flujo(plan.build(effects)), None)
    assert all(count == 1 for count in effects.values())
    store, done = InMemoryBackend(), set[str]()
    for nth, after in crashes:
        life = Counter[str]()
        faulty = dying(store, "append", nth, after=after)
        with suppress(BackendError):
            await ending(Flujo(plan.build(life), state_backend=faulty), None)
        assert not done & life.keys(), "a step that had ended ran again"
        assert all(count == 1 for count in life.values()), "a step ran twice"
        reader = Flujo(plan.build(life), state_backend=store)
        done = {record.name for record in await reader.steps("r") if record.finished_at}
    last = Counter[str]()
    assert await ending(Flujo(plan.build(last), state_backend=store)) == expected
    assert not done & last.keys()


@settings(max_examples=settings().max_examples // 3)
@given(st.lists(st.frozensets(st.integers(0, 20), max_size=3), min_size=1, max_size=8), st.integers(1, 12))
async def test_every_step_sees_just_those_before_it(before: list[frozenset[int]], nth: int) -> None:
    """Each once, and at the end there is each once, whatever the shape and wherever it crashed."""
    steps, ancestors = list[Any](), list[set[int]]()
    for number, chosen in enumerate(before):
        earlier = {place % number for place in chosen} if number else set[int]()
        steps.append(noting(f"n{number}", *(on(steps[place]) for place in sorted(earlier))))
        ancestors.append(earlier.union(*(ancestors[place] for place in earlier)))
    pipeline, store = graph(*steps), InMemoryBackend()
    with suppress(BackendError):
        faulty = dying(store, "append", nth)
        await Flujo(pipeline, state_backend=faulty, context_type=Notes).run(None, run_id="r", context=Notes(["x"], 7))
    result = await Flujo(pipeline, state_backend=store, context_type=Notes).run(run_id="r")
    saw = {record.name: record.output for record in result.steps}
    for number, expected in enumerate(ancestors):
        assert saw[f"n{number}"] == (["x", *(f"n{place}" for place in sorted(expected))], 7 + len(expected), "")
    assert result.context == Notes(["x", *(f"n{number}" for number in range(len(steps)))], 7 + len(steps))
