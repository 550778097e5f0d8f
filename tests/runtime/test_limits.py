"""Limits on steps: how many at once, how many in a time, and who is next."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flujo_async import Flujo, Limit, Retry, StepContext, map_each, parallel, step
from flujo_async._runtime.limits import Limits, Line, Ticket
from flujo_async.errors import DefinitionError, InvalidArgument, RunFailed
from flujo_async.testing import VirtualClock
from tests.runtime.pretend import Wall, until

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)


class TestLine:
    """Who may begin, decided without tasks."""

    def test_runs_take_turns(self) -> None:
        """A run with a thousand tickets does not keep one with a single ticket waiting."""
        line = Line({"l": Limit(concurrency=1)}, None)
        crowd = [Ticket("l", "big", 0) for _ in range(1000)]
        for ticket in crowd:
            line.ask(ticket)
        (inside,) = line.grant(NOW)
        single, other = Ticket("l", "small", 0), Ticket("l", "other", 0)
        line.ask(single)
        line.ask(other)
        order = [inside]
        for _ in range(4):
            line.leave(order[-1])
            order += line.grant(NOW)
        assert [ticket.run_id for ticket in order] == ["big", "big", "small", "other", "big"]
        assert order[:2] == crowd[:2], "first come, first served within a run"

    def test_a_higher_priority_goes_first(self) -> None:
        line = Line({}, 1)
        tickets = [Ticket(None, str(priority), priority) for priority in (0, 5, -1, 5, 7)]
        for ticket in tickets:
            line.ask(ticket)
        order: list[int] = []
        while granted := line.grant(NOW):
            order += [ticket.priority for ticket in granted]
            line.leave(granted[0])
        assert order == [7, 5, 5, 0, -1]

    def test_a_limit_that_is_used_up_holds_up_nobody_else(self) -> None:
        """Though there is one place for all."""
        line = Line({"slow": Limit(rate=(1, 60)), "fast": Limit(concurrency=9)}, 1)
        first, second, third = Ticket("slow", "a", 0), Ticket("slow", "a", 0), Ticket("fast", "b", 0)
        for ticket in (first, second, third):
            line.ask(ticket)
        assert line.grant(NOW) == [first]
        line.leave(first)
        assert line.grant(NOW) == [third]
        assert line.next_at(NOW) is None, "the place is taken"
        line.leave(third)
        assert line.next_at(NOW) == NOW + timedelta(minutes=1)

    def test_no_window_has_more_than_the_rate(self) -> None:
        """Not even one that begins between two full minutes."""
        line = Line({"l": Limit(rate=(3, 10))}, None)
        begun: list[datetime] = []
        now = NOW
        for _ in range(40):
            line.ask(Ticket("l", "r", 0))
            now += SECOND
            begun += [now for _ in line.grant(now)]
        assert begun[:4] == [NOW + SECOND, NOW + 2 * SECOND, NOW + 3 * SECOND, NOW + 11 * SECOND]
        for moment in begun:
            assert sum(moment <= other < moment + 10 * SECOND for other in begun) <= 3

    def test_a_clock_that_is_set_back_stops_nothing_for_longer_than_the_window(self) -> None:
        line = Line({"l": Limit(rate=(1, 10))}, None)
        for _ in range(2):
            line.ask(Ticket("l", "r", 0))
        assert len(line.grant(NOW)) == 1
        earlier = NOW - timedelta(hours=1)
        assert line.next_at(earlier) == earlier + 10 * SECOND

    def test_what_was_let_in_and_never_began_does_not_count(self) -> None:
        line = Line({"l": Limit(concurrency=1, rate=(1, 60))}, None)
        first, second = Ticket("l", "r", 0), Ticket("l", "r", 0)
        line.ask(first)
        line.ask(second)
        assert line.grant(NOW) == [first]
        line.leave(first, is_unused=True)
        assert line.grant(NOW) == [second]

    @given(
        st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.sampled_from([None, "l", "m"]), st.booleans()))
    )
    def test_whatever_comes_and_goes_nobody_is_lost(self, visits: list[tuple[str, int, str | None, bool]]) -> None:
        """All that stay are let in once, never too many at a time, and none that has gone."""
        line = Line({"l": Limit(concurrency=2), "m": Limit(rate=(1, 5))}, 3)
        tickets = [(Ticket(limit, run_id, priority), stays) for run_id, priority, limit, stays in visits]
        for ticket, _ in tickets:
            line.ask(ticket)
        for ticket, stays in tickets:
            if not stays:
                line.leave(ticket, is_unused=True)
        now, done, inside = NOW, list[Ticket](), list[Ticket]()
        for _ in range(10 * len(tickets) + 1):
            inside += line.grant(now)
            counts = Counter(ticket.limit for ticket in inside)
            assert len(inside) <= 3
            assert counts["l"] <= 2
            for ticket in inside:
                line.leave(ticket)
            done += inside
            inside = []
            now += SECOND
        assert len(done) == len(set(done))
        assert set(done) == {ticket for ticket, stays in tickets if stays}
        assert line.next_at(now) is None


class TestLimits:
    """Waiting for the line."""

    async def test_a_waiter_that_is_cancelled_gives_its_place_to_the_next(self) -> None:
        """Also one that was let in at the same instant."""
        limits = Limits({"l": Limit(concurrency=1)}, None, VirtualClock())
        inside = await limits.enter("l", "r", 0)
        waiters = [asyncio.create_task(limits.enter("l", "r", 0)) for _ in range(3)]
        await asyncio.sleep(0)
        waiters[1].cancel()
        await asyncio.wait({waiters[1]})
        limits.leave(inside)
        waiters[0].cancel()  # let in, and not told yet
        assert (await waiters[2]).began_at is not None
        assert waiters[0].cancelled() or (await asyncio.wait({waiters[0]}))
        limits.leave(waiters[2].result())
        await limits.enter("l", "r", 0)

    async def test_one_timer_serves_all_who_wait_for_the_rate(self) -> None:
        """And none is left when nobody waits."""
        clock = VirtualClock()
        limits = Limits({"l": Limit(rate=(2, 10))}, None, clock)
        waiters = [asyncio.create_task(limits.enter("l", "r", 0)) for _ in range(1000)]
        await clock.until_asleep()
        assert clock.sleepers == 1
        assert sum(waiter.done() for waiter in waiters) == 2
        clock.advance(10)
        await until(lambda: sum(waiter.done() for waiter in waiters) == 4)
        for waiter in waiters:
            waiter.cancel()
        await asyncio.wait(waiters)
        await asyncio.sleep(0)
        assert clock.sleepers == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    async def test_a_clock_that_is_set_back_while_they_wait_stops_nobody_for_long(self) -> None:
        """Only for the window, which begins anew."""
        clock = Wall()
        limits = Limits({"l": Limit(rate=(1, 10))}, None, clock)
        waiters = [asyncio.create_task(limits.enter("l", "r", 0)) for _ in range(2)]
        await clock.until_asleep()
        clock.wrong = timedelta(hours=-1)
        for _ in range(2):
            await clock.until_asleep()
            clock.advance(10)
        await until(waiters[1].done)


class Gauge:
    """Counts what runs at the same time."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.begun: list[Any] = []

    async def hold(self, value: Any, turns: int = 3) -> None:
        self.begun.append(value)
        self.now += 1
        self.most = max(self.most, self.now)
        for _ in range(turns):
            await asyncio.sleep(0)
        self.now -= 1


@pytest.fixture
def gauge() -> Gauge:
    return Gauge()


async def test_a_limit_holds_over_all_runs_of_a_runtime(gauge: Gauge) -> None:
    @step(limit="api")
    async def call(n: int) -> int:
        await gauge.hold(n)
        return n

    async with Flujo(map_each(call), limits={"api": Limit(concurrency=3)}) as flujo:
        results = await asyncio.gather(*(flujo.run(list(range(20))) for _ in range(3)))
    assert [result.output for result in results] == [list(range(20))] * 3
    assert gauge.most == 3


async def test_all_attempts_of_a_runtime_may_be_limited(gauge: Gauge) -> None:
    """Whatever their limits."""

    @step
    async def free(n: int) -> int:
        await gauge.hold(n)
        return n

    @step(limit="api")
    async def limited(n: int) -> int:
        await gauge.hold(n)
        return n

    pipeline = map_each(parallel(free, limited))
    async with Flujo(pipeline, limits={"api": Limit(concurrency=4)}, max_concurrent_steps=5) as flujo:
        await flujo.run(list(range(20)))
    assert gauge.most == 5
    assert len(gauge.begun) == 40


async def test_a_rate_goes_by_the_clock() -> None:
    clock, times = VirtualClock(), list[float]()
    began = clock.now()

    @step(limit="api")
    async def call(n: int) -> int:
        times.append((clock.now() - began).total_seconds())
        return n

    flujo = Flujo(map_each(call), limits={"api": Limit(rate=(2, timedelta(seconds=10)))}, clock=clock)
    run = asyncio.create_task(flujo.run([1, 2, 3, 4, 5]))
    for count in (2, 4):
        await clock.until_asleep()
        assert len(times) == count
        clock.advance(10)
        await until(lambda: len(times) > count)  # noqa: B023 -- awaited at once
    await run
    assert times == [0, 0, 10, 10, 20]
    assert clock.sleepers == 0


async def test_waiting_is_no_part_of_the_timeout() -> None:
    clock = VirtualClock()

    @step(limit="api", timeout=5)
    async def call(n: int) -> int:
        return n

    run = asyncio.create_task(Flujo(map_each(call), limits={"api": Limit(rate=(1, 60))}, clock=clock).run([1, 2]))
    await clock.until_asleep()
    clock.advance(60)
    assert (await run).output == [1, 2]


async def test_waiting_is_part_of_the_deadline() -> None:
    """A step that never began has made no attempt."""
    clock = VirtualClock()

    @step(limit="api", deadline=5)
    async def call(n: int) -> int:
        return n

    flujo = Flujo(map_each(call, on_error="finish"), limits={"api": Limit(rate=(1, 60))}, clock=clock)
    run = asyncio.create_task(flujo.run([1, 2]))
    await clock.until_asleep(2)
    clock.advance(5)
    with pytest.raises(RunFailed, match="deadline") as caught:
        await run
    assert [(record.status.value, record.attempts) for record in caught.value.result.steps] == [
        ("SUCCEEDED", 1),
        ("FAILED", 0),
    ]
    await asyncio.sleep(0)
    assert clock.sleepers == 0


async def test_a_small_run_is_not_starved_by_a_large_one(gauge: Gauge) -> None:
    """Its turn comes among the first, and not when a thousand others have had theirs."""
    coming = {"large": 1000, "small": 1}
    has_come = {name: asyncio.Event() for name in coming}
    may_go_on = asyncio.Event()

    @step
    async def come(value: tuple[str, int]) -> tuple[str, int]:
        coming[value[0]] -= 1
        if coming[value[0]] == 0:
            has_come[value[0]].set()
        return value

    @step(limit="api")
    async def call(value: tuple[str, int]) -> int:
        await may_go_on.wait()
        await gauge.hold(value[0])
        return value[1]

    async with Flujo(map_each(come >> call), limits={"api": Limit(concurrency=1)}) as flujo:
        large = asyncio.create_task(flujo.run([("large", n) for n in range(1000)]))
        await has_come["large"].wait()
        small = asyncio.create_task(flujo.run([("small", 0)]))
        await has_come["small"].wait()
        may_go_on.set()
        await small
        assert gauge.begun.index("small") < 100
        large.cancel()
        with pytest.raises(asyncio.CancelledError):
            await large


async def test_a_wait_between_attempts_takes_no_place() -> None:
    clock, order = VirtualClock(), list[str]()

    @step(limit="api", retry=Retry(max_attempts=2, base=60, jitter=0))
    async def call(name: str, ctx: StepContext) -> str:
        order.append(name)
        if name == "broken" and ctx.attempt == 1:
            raise ConnectionError
        return name

    flujo = Flujo(map_each(call), limits={"api": Limit(concurrency=1)}, clock=clock)
    run = asyncio.create_task(flujo.run(["broken", "fine"]))
    await clock.until_asleep()
    assert order == ["broken", "fine"]
    clock.advance(60)
    await run
    assert order == ["broken", "fine", "broken"]


async def test_an_interrupted_run_leaves_no_place_taken(gauge: Gauge) -> None:
    stuck = asyncio.Event()

    @step(limit="api")
    async def call(n: int) -> int:
        if n:
            await stuck.wait()
        return n

    async with Flujo(map_each(call), limits={"api": Limit(concurrency=2)}) as flujo:
        run = asyncio.create_task(flujo.run([1] * 10))
        await asyncio.sleep(0.01)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert (await flujo.run([0] * 10)).output == [0] * 10


class TestRefused:
    """What is wrong with limits is said when the runtime is made."""

    def test_an_unknown_limit(self) -> None:
        @step(limit="openai")
        async def call(n: int) -> int:
            return n

        with pytest.raises(DefinitionError, match=r"step 'call' has the limit 'openai'.*there are api"):
            Flujo(call, limits={"api": Limit(concurrency=1)})
        with pytest.raises(DefinitionError, match=r"limits=\{'openai': Limit"):
            Flujo(step(fallback=step(limit="openai")(lambda: 1))(lambda: 1))

    @pytest.mark.parametrize("limit", [3, None, (3, 60)])
    def test_something_that_is_no_limit(self, limit: Any) -> None:
        with pytest.raises(InvalidArgument, match="is a Limit"):
            Flujo(step(str), limits={"api": limit})

    @pytest.mark.parametrize("number", [0, -1, 1.5, True, "3"])
    def test_a_number_below_one(self, number: Any) -> None:
        with pytest.raises(InvalidArgument, match="max_concurrent_steps is at least 1"):
            Flujo(step(str), max_concurrent_steps=number)
