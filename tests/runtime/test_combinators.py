"""What each combinator makes of its input."""

import asyncio
from typing import Any

import pytest

from flujo_async import (
    Flujo,
    Pipeline,
    Step,
    StepContext,
    as_step,
    branch,
    loop,
    map_each,
    parallel,
    sleep,
    step,
    wait_for,
)
from flujo_async.abc import StateBackend
from flujo_async.errors import AllBranchesFailed, BackendError, LoopExhausted, NoBranch, RunFailed
from flujo_async.testing import FaultyBackend, VirtualClock
from tests.runtime.crashes import gone_to_sleep
from tests.runtime.pretend import cancel_this_task, eager_tasks


@step
async def double(n: int) -> int:
    return 2 * n


@step
async def increment(n: int) -> int:
    return n + 1


@step
def square(n: int) -> int:
    return n * n


@step
async def total(numbers: dict[str, int]) -> int:
    return sum(numbers.values())


@step
async def fail_on_odd(n: int) -> int:
    if n % 2:
        raise ValueError(f"{n} is odd")
    return n


def is_large(n: int) -> bool:
    return n >= 100


def parity(n: int) -> str:
    return "odd" if n % 2 else "even"


COMBINATIONS: list[tuple[Any, Any, Any]] = [
    (double, 4, 8),
    (double >> increment, 4, 9),
    (double >> double >> double, 1, 8),
    (double >> square >> increment, 3, 37),
    (parallel(double, increment), 4, {"double": 8, "increment": 5}),
    (parallel(double, square) >> total, 3, 15),
    (parallel(double >> increment, square), 3, {"double >> increment": 7, "square": 9}),
    (parallel(as_step(double >> increment, name="both"), square), 3, {"both": 7, "square": 9}),
    (parallel(double, increment, square, max_concurrency=1), 5, {"double": 10, "increment": 6, "square": 25}),
    (map_each(double), [1, 2, 3], [2, 4, 6]),
    (map_each(double), [], []),
    (map_each(double), (3, 1), [6, 2]),
    (map_each(double >> square), [1, 2], [4, 16]),
    (map_each(double, max_concurrency=1), [5, 4, 3], [10, 8, 6]),
    (map_each(map_each(double)), [[1], [], [2, 3]], [[2], [], [4, 6]]),
    (map_each(parallel(double, increment)), [1, 2], [{"double": 2, "increment": 2}, {"double": 4, "increment": 3}]),
    (branch(parity, {"even": double, "odd": increment}), 3, 4),
    (branch(parity, {"even": double, "odd": increment}), 4, 8),
    (branch(parity, {"even": double}, default=increment >> increment), 3, 5),
    (branch(is_large, {True: double, False: increment}), 7, 8),
    (branch(lambda n: n, {1: double, 2: increment}), 2, 3),
    (loop(double, until=is_large, max_iterations=10), 3, 192),
    (loop(double >> increment, until=is_large, max_iterations=10), 1, 127),
    (loop(double, until=is_large, max_iterations=1), 50, 100),
    (loop(loop(double, until=is_large, max_iterations=9), until=lambda n: n > 500, max_iterations=9), 60, 960),
    (as_step(double >> increment, name="block") >> square, 1, 9),
    (as_step(as_step(double, name="inner"), name="outer"), 2, 4),
    (parallel(parallel(double, increment), map_each_of := as_step(square, name="sq")), 2, None),
    (
        loop(branch(parity, {"even": square, "odd": increment}), until=is_large, max_iterations=9),
        3,
        256,
    ),
    (
        map_each(loop(branch(parity, {"even": square, "odd": increment}), until=is_large, max_iterations=9)),
        [3, 100],
        [256, 10000],
    ),
    (
        branch(
            parity, {"odd": parallel(map_each_of, as_step(increment >> double, name="id")) >> total}, default=double
        ),
        5,
        37,
    ),
]


@pytest.mark.parametrize(("pipeline", "given", "expected"), COMBINATIONS)
async def test_a_pipeline_makes_its_output_of_its_input(
    pipeline: Pipeline[Any, Any] | Step[Any, Any], given: Any, expected: Any
) -> None:
    """Every combinator, alone and inside others; a second ``run`` returns the recorded output."""
    if expected is None:
        expected = {"parallel": {"double": 4, "increment": 3}, "sq": 4}
    flujo = Flujo(pipeline)
    result = await flujo.run(given, run_id="r")
    assert (result.status, result.output) == ("completed", expected)
    assert (await flujo.run(given, run_id="r")).output == expected


async def test_every_combinator_runs_on_every_store(backend: StateBackend) -> None:
    """The whole zoo in one pipeline, on each store."""
    pipeline = (
        as_step(double >> increment, name="head")
        >> parallel(double, square)
        >> total
        >> loop(increment, until=lambda n: n % 5 == 0, max_iterations=5)
        >> branch(parity, {"even": double, "odd": square})
        >> parallel(as_step(increment, name="up"), as_step(double, name="two"))
        >> step(name="listed")(_values)
        >> map_each(double >> increment)
    )
    async with Flujo(pipeline, state_backend=backend) as flujo:
        result = await flujo.run(2, run_id="r")
    # 5 → {10, 25} → 35 → 36…40 → 80 → {81, 160} → …
    assert result.output == [163, 321]
    assert (await flujo.state("r")).current_step_index == 8


async def _values(numbers: dict[str, int]) -> list[int]:
    return list(numbers.values())


async def test_a_parallel_lists_its_outputs_in_declared_order() -> None:
    """Whichever branch is done first."""
    second_is_done = asyncio.Event()

    @step
    async def first(n: int) -> str:
        await second_is_done.wait()
        return "first"

    @step
    async def second(n: int) -> str:
        second_is_done.set()
        return "second"

    result = await Flujo(parallel(first, second)).run(1)
    assert list(result.output) == ["first", "second"]
    assert [record.name for record in result.steps] == ["second", "first"]


async def test_items_keep_their_places_however_they_finish() -> None:
    """The output of ``map_each`` is in the order of the input."""
    gates = [asyncio.Event() for _ in range(4)]
    gates[3].set()

    @step
    async def in_reverse(n: int) -> int:
        await gates[n].wait()
        if n:
            gates[n - 1].set()
        return n * 10

    assert (await Flujo(map_each(in_reverse)).run([0, 1, 2, 3])).output == [0, 10, 20, 30]


@pytest.mark.parametrize("limit", [1, 2, 3])
@pytest.mark.parametrize("kind", ["map_each", "parallel"])
async def test_max_concurrency_bounds_what_runs_at_once(kind: str, limit: int) -> None:
    """At most so many at the same time, and indeed so many."""
    running: set[int] = set()
    most = 0
    is_full = asyncio.Event()

    async def work(n: int) -> int:
        nonlocal most
        running.add(n)
        most = max(most, len(running))
        if len(running) == limit:
            is_full.set()
        await is_full.wait()
        await asyncio.sleep(0)
        running.discard(n)
        return n

    def member(n: int) -> Step[Any, int]:
        async def call(_: Any) -> int:
            return await work(n)

        return step(name=f"work{n}")(call)

    pipeline: Any
    if kind == "map_each":
        pipeline = map_each(step(work), max_concurrency=limit)
    else:
        pipeline = parallel(*(member(n) for n in range(6)), max_concurrency=limit)
    await Flujo(pipeline).run(list(range(6)))
    assert most == limit


async def test_a_step_used_twice_runs_twice() -> None:
    """Each use has a key of its own."""
    result = await Flujo(double >> increment >> double).run(1)
    assert [(record.key, record.output) for record in result.steps] == [
        ("double@1", 2),
        ("increment", 3),
        ("double@3", 6),
    ]


async def test_keys_tell_where_a_step_stands() -> None:
    """Branch, item and turn are part of the key."""
    pipeline = (
        parallel(double, as_step(increment >> square, name="both"))
        >> total
        >> loop(increment, until=is_large, max_iterations=100)
        >> branch(parity, {"even": double, "odd": increment >> double})
        >> step(name="pair")(_pair)
        >> map_each(square)
    )
    result = await Flujo(pipeline).run(9)
    assert {record.key for record in result.steps} == {
        "parallel/double",
        "parallel/both/increment",
        "parallel/both/square",
        "total",
        "loop/0/increment",
        "branch/odd/increment",
        "branch/odd/double",
        "pair",
        "map_each/0/square",
        "map_each/1/square",
    }


async def _pair(n: int) -> list[int]:
    return [n, n + 1]


async def test_a_key_that_no_branch_has_fails_the_run() -> None:
    """``NoBranch`` names the key and what there is."""
    with pytest.raises(RunFailed) as caught:
        await Flujo(branch(lambda n: "odd one", {"even": double})).run(1, run_id="r")
    assert isinstance(caught.value.__cause__, NoBranch)
    assert "'odd one'" in str(caught.value.__cause__)
    assert "'even'" in str(caught.value.__cause__)
    assert caught.value.result.status == "failed"


async def test_a_loop_that_is_never_done_fails_the_run() -> None:
    """``LoopExhausted``, after exactly ``max_iterations`` turns."""
    flujo = Flujo(loop(increment, until=is_large, max_iterations=3))
    with pytest.raises(RunFailed) as caught:
        await flujo.run(1, run_id="r")
    assert isinstance(caught.value.__cause__, LoopExhausted)
    assert len(caught.value.result.steps) == 3
    with pytest.raises(RunFailed) as again:
        await flujo.run(1, run_id="r")
    assert isinstance(again.value.__cause__, LoopExhausted)


async def test_mapping_over_a_number_fails_the_run() -> None:
    """What is not a collection has no items."""
    with pytest.raises(RunFailed) as caught:
        await Flujo(step(name="any")(_anything) >> map_each(double)).run(7)
    assert isinstance(caught.value.__cause__, TypeError)


async def _anything(value: Any) -> Any:
    return value


@pytest.mark.parametrize("place", ["selector", "until"])
async def test_a_question_that_raises_fails_the_run(place: str) -> None:
    """A bug in a selector or predicate is a failure like any other."""

    def broken(n: int) -> bool:
        raise ZeroDivisionError("bug")

    pipeline = branch(broken, {True: double}) if place == "selector" else loop(double, until=broken, max_iterations=2)
    with pytest.raises(RunFailed) as caught:
        await Flujo(pipeline).run(1)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


async def test_questions_see_value_and_context() -> None:
    """A selector or predicate with two parameters gets the context as the second."""

    @step
    async def count(n: int, ctx: StepContext) -> int:
        ctx.state["turns"] = ctx.state.get("turns", 0) + 1
        return n

    def enough(n: int, context: dict[str, int]) -> bool:
        return context["turns"] == 3

    def by_turns(n: int, context: dict[str, int]) -> str:
        return f"turns{context['turns']}"

    pipeline = loop(count, until=enough, max_iterations=9) >> branch(by_turns, {"turns3": double})
    result = await Flujo(pipeline).run(5)
    assert (result.output, result.context) == (10, {"turns": 3})


async def test_what_a_question_changes_is_gone() -> None:
    """It is asked about copies."""

    def meddle(items: list[int], context: dict[str, int]) -> str:
        items.clear()
        context["meddled"] = 1
        return "go"

    result = await Flujo(branch(meddle, {"go": map_each(double)})).run([1, 2])
    assert (result.output, result.context) == ([2, 4], {})


class TestFailures:
    """``on_error`` of ``parallel`` and ``map_each``."""

    @pytest.mark.parametrize("kind", ["map_each", "parallel"])
    async def test_cancel_stops_the_siblings(self, kind: str) -> None:
        """The default: the first failure cancels what runs and what has not begun."""
        fates: dict[int, str] = {}
        is_waiting = asyncio.Event()

        async def work(n: int) -> int:
            if n == 1:
                await is_waiting.wait()
                raise ValueError("broken")
            fates[n] = "started"
            try:
                is_waiting.set()
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                fates[n] = "cancelled"
                raise
            return n

        with pytest.raises(RunFailed) as caught:
            await Flujo(_group(kind, work, 4, max_concurrency=2)).run([0, 1, 2, 3], run_id="r")
        assert isinstance(caught.value.__cause__, ValueError)
        assert fates == {0: "cancelled"}
        assert [(record.status.value, record.error) for record in caught.value.result.steps] == [
            ("FAILED", "ValueError: broken")
        ]

    async def test_a_sibling_that_cleans_up_is_not_cancelled_again(self) -> None:
        """Also where another one answers its cancellation with a failure."""
        are_there, has_failed, is_clean = asyncio.Barrier(3), asyncio.Event(), asyncio.Event()
        log: list[str] = []

        async def until_cancelled() -> None:
            await are_there.wait()
            await asyncio.Event().wait()

        @step
        async def clean_up(n: int) -> None:
            try:
                await until_cancelled()
            finally:
                await is_clean.wait()
                log.append("cleaned up")

        @step
        async def fail_again(n: int) -> None:
            try:
                await until_cancelled()
            except asyncio.CancelledError:
                has_failed.set()
                raise KeyError(n) from None

        @step
        async def fail(n: int) -> None:
            await are_there.wait()
            raise ValueError(n)

        run = asyncio.create_task(Flujo(parallel(clean_up, fail_again, fail)).run(1))
        await has_failed.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        is_clean.set()
        with pytest.raises(RunFailed):
            await run
        assert log == ["cleaned up"]

    @pytest.mark.parametrize("kind", ["map_each", "parallel"])
    async def test_finish_lets_the_siblings_end(self, kind: str) -> None:
        """And then fails, with the first failure in declared order."""
        done: list[int] = []
        has_failed = asyncio.Event()

        async def work(n: int) -> int:
            if n in (1, 2):
                if n == 2:
                    has_failed.set()
                else:
                    await has_failed.wait()
                raise ValueError(f"broken {n}")
            await has_failed.wait()
            done.append(n)
            return n

        with pytest.raises(RunFailed) as caught:
            await Flujo(_group(kind, work, 4, on_error="finish")).run([0, 1, 2, 3])
        assert str(caught.value.__cause__) == "broken 1"
        assert sorted(done) == [0, 3]
        assert len(caught.value.result.steps) == 4

    async def test_ignore_drops_the_failed_branch(self) -> None:
        """It is absent from the result."""
        pipeline = parallel(double, fail_on_odd, on_error="ignore")
        result = await Flujo(pipeline).run(3)
        assert (result.status, result.output) == ("completed", {"double": 6})

    async def test_ignore_drops_the_failed_items(self) -> None:
        """The rest keeps its order."""
        flujo = Flujo(map_each(fail_on_odd, on_error="ignore"))
        assert (await flujo.run([1, 2, 3, 4], run_id="r")).output == [2, 4]
        assert (await flujo.run(run_id="r")).output == [2, 4]

    @pytest.mark.parametrize("kind", ["map_each", "parallel"])
    async def test_ignoring_everything_is_a_failure(self, kind: str) -> None:
        """When all fail there is nothing left to go on with."""

        async def work(n: int) -> int:
            raise ValueError(f"broken {n}")

        with pytest.raises(RunFailed) as caught:
            await Flujo(_group(kind, work, 2, on_error="ignore")).run([0, 1])
        assert isinstance(caught.value.__cause__, AllBranchesFailed)
        assert "broken 0" in str(caught.value.__cause__)

    async def test_ignore_of_nothing_is_nothing(self) -> None:
        """No items: none failed."""
        assert (await Flujo(map_each(double, on_error="ignore")).run([])).output == []

    async def test_an_inner_failure_stays_inside_an_outer_ignore(self) -> None:
        """A parallel that fails as a whole is one failed branch of the one around it."""
        inner = as_step(parallel(double, fail_on_odd), name="inner")
        result = await Flujo(parallel(increment, inner, on_error="ignore")).run(3)
        assert result.output == {"increment": 4}

    @pytest.mark.parametrize("reason", [NoBranch, LoopExhausted])
    async def test_failures_between_steps_are_ignored_too(self, reason: type[Exception]) -> None:
        """``NoBranch`` and ``LoopExhausted`` end their branch like a failed step."""
        broken: Any = (
            branch(parity, {"even": double})
            if reason is NoBranch
            else loop(double, until=lambda n: False, max_iterations=1)
        )
        result = await Flujo(parallel(increment, as_step(broken, name="broken"), on_error="ignore")).run(3)
        assert result.output == {"increment": 4}

    @pytest.mark.parametrize("kind", ["step", "map_each", "parallel"])
    async def test_a_step_that_cancels_itself_has_failed(self, kind: str) -> None:
        """A ``CancelledError`` of the step's own may not make its branch vanish from a completed run."""

        async def confused(n: Any) -> int:
            if n == 0:
                raise asyncio.CancelledError
            return 1

        pipeline = step(confused) if kind == "step" else _group(kind, confused, 2)
        with pytest.raises(RunFailed) as caught:
            await Flujo(pipeline).run(0 if kind == "step" else [0, 1])
        assert isinstance(caught.value.__cause__, RuntimeError)
        assert isinstance(caught.value.__cause__.__cause__, asyncio.CancelledError)

    @pytest.mark.parametrize("kind", ["map_each", "parallel"])
    @pytest.mark.parametrize("place", [0, 1, 2])
    async def test_the_others_are_cancelled_where_tasks_begin_at_once(self, kind: str, place: int) -> None:
        """A member has failed while tasks are being made: some wait already, others would begin after that."""

        async def fail_or_wait(n: Any) -> None:
            if n == place:
                raise ValueError("no")
            await asyncio.Event().wait()

        with eager_tasks(), pytest.raises(RunFailed, match="no"):
            async with asyncio.timeout(20):
                await Flujo(_group(kind, fail_or_wait, 3), durability="exit").run([0, 1, 2])

    @pytest.mark.parametrize("kind", ["map_each", "parallel"])
    @pytest.mark.parametrize("on_error", ["cancel", "finish", "ignore"])
    async def test_a_step_that_cancels_its_own_task_has_failed(self, kind: str, on_error: Any) -> None:
        """What its task does besides goes on, as after any failure."""
        done = list[int]()

        async def confused(n: Any) -> int:
            if n == 0:
                cancel_this_task()
                await asyncio.sleep(0)
            done.append(n)
            return 1

        flujo = Flujo(_group(kind, confused, 2, on_error=on_error, max_concurrency=1))
        if on_error == "ignore":
            assert len((await flujo.run([0, 1])).output) == 1
        else:
            with pytest.raises(RunFailed, match=r"failed: RuntimeError: branch '.+' raised CancelledError"):
                await flujo.run([0, 1])
        assert done == ([] if on_error == "cancel" else [1])


class TestResumed:
    """A group with ``on_error="cancel"`` in which something had failed when its process died."""

    @pytest.mark.parametrize("after_failure", [wait_for("answer"), sleep(3600)])
    async def test_a_failure_that_was_made_up_for_holds_nobody_up(self, after_failure: Any) -> None:
        """While the branch with a fallback waits, or sleeps, the other one goes on."""
        executed, reached = list[int](), asyncio.Event()

        @step(fallback=double)
        async def broken(n: int) -> int:
            raise ValueError("broken")

        @step
        async def stuck(n: int) -> int:
            executed.append(n)
            if len(executed) == 1:
                reached.set()
                await asyncio.Event().wait()
            return n

        both = parallel(as_step(broken >> after_failure, name="holds"), as_step(stuck >> stuck, name="goes"))
        flujo = Flujo(both, clock=VirtualClock())
        task = asyncio.ensure_future(flujo.run(1, run_id="r"))
        await reached.wait()
        task.cancel()
        await asyncio.wait({task})
        resumed = asyncio.ensure_future(flujo.run(run_id="r"))
        await gone_to_sleep(flujo)
        assert executed == [1, 1, 1]
        resumed.cancel()
        await asyncio.wait({resumed})
        await flujo.aclose()

    async def test_nobody_begins_before_the_failure_that_counts(self, backend: StateBackend) -> None:
        """What had failed first fails the group again, and the others do not even begin."""
        executed = list[int]()

        @step
        async def work(n: int) -> int:
            executed.append(n)
            if n == 2:
                raise ValueError("broken")
            return n

        @step(fallback=double)
        async def made_up_for(n: int) -> int:
            raise ValueError("made up for")

        items = map_each(made_up_for >> work, max_concurrency=1)
        dying = FaultyBackend(backend)
        dying.crash("append", nth=10)  # each item makes three commits, and then comes the end
        with pytest.raises(BackendError):
            await Flujo(items, state_backend=dying).run([2, 3, 1, 4], run_id="r")
        assert executed == [4, 6, 2]
        with pytest.raises(RunFailed, match="broken"):
            await Flujo(items, state_backend=backend).run(run_id="r")
        assert executed == [4, 6, 2]


def _group(kind: str, work: Any, size: int, **options: Any) -> Any:
    if kind == "map_each":
        return map_each(step(name="work")(work), **options)

    def member(n: int) -> Any:
        async def call(_: list[int]) -> int:
            result: int = await work(n)
            return result

        return step(name=f"work{n}")(call)

    return parallel(*(member(n) for n in range(size)), **options)
