"""Outputs that stand in for executing a step again."""

import asyncio
import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flujo_async import Flujo, Retry, Step, facts, map_each, parallel, step
from flujo_async.abc import StateBackend
from flujo_async.errors import RunFailed
from flujo_async.testing import VirtualClock
from tests.runtime.pretend import Wrapped, failing
from tests.runtime.stores import Store


class Counted:
    """A step that counts how often it is executed."""

    def __init__(self) -> None:
        self.executed: list[Any] = []

    def step(self, cache: Any = True, **options: Any) -> Step[Any, Any]:
        async def square(n: Any) -> Any:
            self.executed.append(n)
            await asyncio.sleep(0)
            return n * n

        return step(cache=cache, **options)(square)


@pytest.fixture
def counted() -> Counted:
    return Counted()


async def test_equal_input_is_executed_once(counted: Counted, store: Store) -> None:
    """In whatever run of whatever process; the record says so."""
    assert (await Flujo(counted.step(), state_backend=store.open()).run(3, run_id="first")).output == 9
    flujo = Flujo(counted.step(), state_backend=store.open())
    result = await flujo.run(3, run_id="second")
    assert (result.output, result.steps[0].attempts, result.steps[0].input) == (9, 0, 3)
    assert counted.executed == [3]
    [completed] = [commit.fact for commit in await flujo.history("second") if commit.fact.kind == "StepCompleted"]
    assert isinstance(completed, facts.StepCompleted)
    assert completed.cached_from == "first"


async def test_other_input_another_name_or_other_code_is_another_call(counted: Counted) -> None:
    async def square(n: Any) -> Any:
        counted.executed.append(n)
        return n**2

    backend = Flujo(counted.step()).state_backend
    for made, value in [
        (counted.step(), 3),
        (counted.step(), 3.0),
        (counted.step(), 4),
        (counted.step(name="other"), 3),
        (step(cache=True)(square), 3),
        (counted.step(), 3),
    ]:
        await Flujo(made, state_backend=backend).run(value)
    assert counted.executed == [3, 3.0, 4, 3, 3]


async def test_an_output_gets_old(counted: Counted, backend: StateBackend) -> None:
    """By the clock; each step has its own idea of how old."""
    clock = VirtualClock()

    async def run(cache: Any) -> None:
        await Flujo(counted.step(cache), state_backend=backend, clock=clock).run(3)

    await run(timedelta(minutes=1))
    clock.advance(59)
    await run(60)
    assert len(counted.executed) == 1
    clock.advance(1)
    await run(60)
    assert len(counted.executed) == 2
    clock.advance(timedelta(days=5000))
    await run(True)
    assert len(counted.executed) == 2
    await run(60)
    assert len(counted.executed) == 3


async def test_an_output_from_the_future_is_as_old(counted: Counted, backend: StateBackend) -> None:
    """The clock was set back since, or that of another machine is wrong: it may not be fresh until then."""
    for moment in (datetime(2030, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)):
        await Flujo(counted.step(60), state_backend=backend, clock=VirtualClock(moment)).run(3)
    assert len(counted.executed) == 2


async def test_who_wants_the_same_at_the_same_time_waits_for_the_first(counted: Counted) -> None:
    """Within a run, and over all runs of a runtime."""
    async with Flujo(map_each(counted.step())) as flujo:
        results = await asyncio.gather(*(flujo.run([3, 3, 3]) for _ in range(5)))
    assert [result.output for result in results] == [[9, 9, 9]] * 5
    assert counted.executed == [3]


async def test_if_the_first_fails_the_next_one_tries() -> None:
    attempts: list[int] = []

    @step(cache=True)
    async def flaky(n: int) -> int:
        attempts.append(n)
        await asyncio.sleep(0)
        if len(attempts) < 3:
            raise ConnectionError
        return n

    async with Flujo(map_each(flaky, on_error="ignore")) as flujo:
        assert (await flujo.run([1] * 6)).output == [1] * 4
    assert len(attempts) == 3


async def test_if_the_first_is_cancelled_the_next_one_goes_on() -> None:
    attempts: list[int] = []
    reached, may_end = asyncio.Event(), asyncio.Event()

    @step(cache=True)
    async def slow(n: int) -> int:
        attempts.append(n)
        reached.set()
        await may_end.wait()
        return n

    async with Flujo(slow) as flujo:
        first = asyncio.create_task(flujo.run(1))
        await reached.wait()
        waiters = [asyncio.create_task(flujo.run(1)) for _ in range(3)]
        await asyncio.sleep(0.01)
        waiters[0].cancel()
        first.cancel()
        may_end.set()
        assert [(await waiter).output for waiter in waiters[1:]] == [1, 1]
        await asyncio.wait({first, waiters[0]})
    assert len(attempts) == 2


async def test_a_failure_is_not_kept(counted: Counted) -> None:
    @step(cache=True, retry=Retry(max_attempts=2, base=0))
    async def broken(n: int) -> int:
        counted.executed.append(n)
        raise ValueError

    flujo = Flujo(broken)
    for _ in range(2):
        with pytest.raises(RunFailed):
            await flujo.run(1)
    assert len(counted.executed) == 4


@dataclass
class Point:
    x: int


async def test_an_output_comes_back_as_its_type(backend: StateBackend) -> None:
    """And each run has a copy of its own."""

    @step(cache=True)
    async def origin(n: int) -> Point:
        return Point(n)

    @step
    async def move(point: Point) -> Point:
        point.x += 1
        return point

    flujo = Flujo(origin >> move, state_backend=backend)
    assert [(await flujo.run(1)).output for _ in range(3)] == [Point(2)] * 3


async def test_an_output_whose_class_has_gone_is_made_anew(counted: Counted, backend: StateBackend) -> None:
    names: dict[str, Any] = {"dataclass": dataclass, "executed": counted.executed}
    source = (
        "@dataclass\nclass {0}:\n    x: int\nasync def make(n: int) -> {0}:\n    executed.append(n)\n    return TYPE(n)"
    )

    def made(name: str) -> Step[Any, Any]:
        exec(source.format(name), names)
        names["TYPE"] = names[name]
        return step(names["make"], cache=True)

    await Flujo(made("Old"), state_backend=backend).run(1)
    result = await Flujo(made("New"), state_backend=backend).run(1)
    assert type(result.output).__name__ == "New"
    assert counted.executed == [1, 1]


async def test_a_step_without_input_has_one_output(counted: Counted) -> None:
    @step(cache=True)
    async def constant() -> int:
        counted.executed.append(None)
        return 1

    flujo = Flujo(constant)
    for value in (1, 2):
        await flujo.run(value)
    assert counted.executed == [None]


async def test_resume_takes_the_recorded_output_not_the_cached_one(counted: Counted, backend: StateBackend) -> None:
    flujo = Flujo(counted.step(cache=60), state_backend=backend)
    await flujo.run(3, run_id="r")
    assert (await flujo.run(run_id="r")).output == 9
    assert counted.executed == [3]


@pytest.mark.parametrize("verb", ["get_system_state", "set_system_state"])
async def test_a_cache_that_fails_is_told_and_does_no_harm(
    counted: Counted, backend: StateBackend, verb: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "flujo_async"):
        flujo = Flujo(counted.step(), state_backend=failing(backend, verb))
        assert (await flujo.run(3)).output == 9
    assert "the cache could not be" in caplog.text


async def test_what_stands_there_and_is_no_output_is_a_miss(counted: Counted, backend: StateBackend) -> None:
    class Spoiled(Wrapped):
        async def through(self, verb: str, call: Any) -> Any:
            result = await call()
            return {"output": 1, "run_id": "r", "at": "yesterday"} if verb == "get_system_state" else result

    flujo = Flujo(parallel(counted.step()), state_backend=Spoiled(backend))
    assert (await flujo.run(3)).output == {"square": 9}
