"""Steps whose effect must not happen twice."""

import asyncio
from typing import Any

import pytest

from flujo_async import Flujo, Retry, StepContext, map_each, step
from flujo_async._model.facts import RunPaused
from flujo_async._runtime.one_attempt import idempotency_key
from flujo_async.abc import StateBackend
from flujo_async.errors import InvalidArgument, RunFailed
from flujo_async.testing import VirtualClock
from tests.runtime.pretend import failing, gated_store
from tests.runtime.stores import Store


class Bank:
    """Charges, and can be stopped in the middle of it."""

    def __init__(self) -> None:
        self.charges: list[int] = []
        self.is_reached, self.may_go_on = asyncio.Event(), asyncio.Event()

    def step(self, **options: Any) -> Any:
        @step(effect="once", **options)
        async def charge(amount: int, ctx: StepContext) -> str:
            self.charges.append(ctx.attempt)
            self.is_reached.set()
            await self.may_go_on.wait()
            return f"receipt {amount}"

        return charge


@pytest.fixture
def bank() -> Bank:
    return Bank()


async def kinds(flujo: Flujo[Any, Any], run_id: str = "r") -> list[str]:
    return [commit.fact.kind for commit in await flujo.history(run_id)]


async def interrupted(bank: Bank, backend: StateBackend, **options: Any) -> Flujo[Any, Any]:
    """Return a runtime with a run that was interrupted inside its step."""
    flujo: Flujo[Any, Any] = Flujo(bank.step(**options), state_backend=backend)
    run = asyncio.create_task(flujo.run(5, run_id="r"))
    await bank.is_reached.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    bank.may_go_on.set()
    return flujo


async def test_an_attempt_is_announced_before_it_begins(bank: Bank, backend: StateBackend) -> None:
    """On disk, not just on its way."""
    gated, gate = gated_store(backend, "append", after=True)
    flujo: Flujo[Any, Any] = Flujo(bank.step(), state_backend=gated)
    run = asyncio.create_task(flujo.run(5, run_id="r"))
    await gate.reached()
    async with asyncio.timeout(20):
        while (await kinds(Flujo(bank.step(), state_backend=backend)))[-1] != "StepStarted":  # it is being written
            await asyncio.sleep(0)
    assert bank.charges == []
    gate.release()
    bank.may_go_on.set()
    assert (await run).output == "receipt 5"
    assert (await kinds(flujo))[-3:] == ["StepStarted", "StepCompleted", "RunCompleted"]


async def test_after_a_crash_inside_somebody_has_to_decide(bank: Bank, store: Store) -> None:
    """The run is paused, says for which step, and calling it again changes nothing."""
    await interrupted(bank, store.open())
    flujo: Flujo[Any, Any] = Flujo(bank.step(), state_backend=store.open())
    for _ in range(2):
        result = await flujo.run(run_id="r")
        assert result.status == "paused"
        [waiting] = result.waiting_for
        assert (waiting.kind, waiting.name) == ("decision", "charge")
        assert waiting.prompt is not None
        assert idempotency_key("r", "charge") in waiting.prompt  # by which the bank can be asked
    assert bank.charges == [1]
    [record] = await flujo.steps("r")
    assert (record.key, record.status.value, record.attempts) == ("charge", "RUNNING", 1)


async def test_a_decision_to_skip_takes_the_given_output(bank: Bank, store: Store) -> None:
    await interrupted(bank, store.open())
    flujo: Flujo[Any, Any] = Flujo(bank.step(), state_backend=store.open())
    await flujo.run(run_id="r")
    result = await flujo.redrive("r", decision="skip", output="receipt by hand")
    assert (result.status, result.output) == ("completed", "receipt by hand")
    assert bank.charges == [1]
    assert (result.steps[0].status.value, result.steps[0].input) == ("SUCCEEDED", 5)


async def test_a_decision_to_retry_executes_it_again(bank: Bank, store: Store) -> None:
    """Announced again: a second crash asks again."""
    await interrupted(bank, store.open())
    flujo: Flujo[Any, Any] = Flujo(bank.step(), state_backend=store.open())
    await flujo.run(run_id="r")
    result = await flujo.redrive("r", decision="retry")
    assert (result.status, result.output) == ("completed", "receipt 5")
    assert bank.charges == [1, 2]
    assert (await kinds(flujo)).count("StepStarted") == 2


async def test_a_second_crash_asks_again(bank: Bank, backend: StateBackend) -> None:
    flujo = await interrupted(bank, backend)
    await flujo.run(run_id="r")
    bank.is_reached.clear()
    bank.may_go_on.clear()
    again = asyncio.create_task(flujo.redrive("r"))
    await bank.is_reached.wait()
    again.cancel()
    with pytest.raises(asyncio.CancelledError):
        await again
    result = await flujo.run(run_id="r")
    assert (result.status, result.waiting_for[0].kind) == ("paused", "decision")


async def test_an_interruption_before_or_after_asks_nobody(bank: Bank, backend: StateBackend) -> None:
    """Where the outcome is known: the attempt had not begun, or it was recorded."""
    seen: list[str] = []
    reached, may_go_on = asyncio.Event(), asyncio.Event()

    def around(name: str, *, stops: str) -> Any:
        async def call(value: Any) -> Any:
            seen.append(name)
            if name == stops:
                reached.set()
                await may_go_on.wait()
            return value

        return step(name=name)(call)

    bank.may_go_on.set()
    for stops in ("before", "after"):
        reached.clear()
        may_go_on.clear()
        pipeline = around("before", stops=stops) >> bank.step() >> around("after", stops=stops)
        flujo: Flujo[Any, Any] = Flujo(pipeline, state_backend=backend)
        run = asyncio.create_task(flujo.run(5, run_id=stops))
        await reached.wait()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        may_go_on.set()
        assert (await flujo.run(run_id=stops)).status == "completed"
    assert bank.charges == [1, 1]


async def test_a_waiting_attempt_has_not_begun(bank: Bank, backend: StateBackend) -> None:
    """A store that fails when the attempt is announced has kept it from beginning."""
    faulty = failing(backend, "append")
    with pytest.raises(Exception, match="the disk is full"):
        await Flujo(bank.step(), state_backend=faulty).run(5, run_id="r")
    assert bank.charges == []
    bank.may_go_on.set()
    assert (await Flujo(bank.step(), state_backend=backend).run(run_id="r")).output == "receipt 5"
    assert bank.charges == [1]


async def test_a_failure_is_known_and_may_be_retried(backend: StateBackend) -> None:
    """Every attempt is announced."""
    attempts: list[int] = []

    @step(effect="once", retry=Retry(max_attempts=3, base=0))
    async def charge(amount: int, ctx: StepContext) -> int:
        attempts.append(ctx.attempt)
        if ctx.attempt < 3:
            raise ConnectionError
        return amount

    flujo = Flujo(charge, state_backend=backend)
    assert (await flujo.run(5, run_id="r")).output == 5
    assert attempts == [1, 2, 3]
    assert [kind for kind in await kinds(flujo) if kind not in ("RunStarted", "RunCompleted")] == [
        "StepStarted",
        "AttemptFailed",
        "StepStarted",
        "AttemptFailed",
        "StepStarted",
        "StepCompleted",
    ]


async def test_an_interruption_between_attempts_asks_nobody(store: Store) -> None:
    clock, attempts = VirtualClock(), list[int]()

    @step(effect="once", retry=Retry(max_attempts=2, base=60, jitter=0))
    async def charge(amount: int, ctx: StepContext) -> int:
        attempts.append(ctx.attempt)
        if ctx.attempt == 1:
            raise ConnectionError
        return amount

    run = asyncio.create_task(Flujo(charge, state_backend=store.open(), clock=clock).run(5, run_id="r"))
    await clock.until_asleep()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    clock.advance(60)
    assert (await Flujo(charge, state_backend=store.open(), clock=clock).run(run_id="r")).output == 5
    assert attempts == [1, 2]


async def test_any_step_that_failed_may_be_skipped(backend: StateBackend) -> None:
    """A redrive may take an output for it, whatever its effect."""
    executed: list[str] = []

    @step
    async def broken(n: int) -> int:
        executed.append("broken")
        raise ValueError

    @step
    async def double(n: int) -> int:
        executed.append("double")
        return n * 2

    flujo = Flujo(broken >> double, state_backend=backend)
    with pytest.raises(RunFailed):
        await flujo.run(1, run_id="r")
    result = await flujo.redrive("r", decision="skip", output=21)
    assert result.output == 42
    assert executed == ["broken", "double"]


async def test_who_has_decided_need_not_call_the_run_first(bank: Bank, store: Store) -> None:
    """The run still counts as running, since nobody has looked at it after the crash."""
    await interrupted(bank, store.open())
    flujo: Flujo[Any, Any] = Flujo(bank.step(), state_backend=store.open())
    assert await flujo.handle("r").status() == "running"
    result = await flujo.redrive("r", decision="skip", output="receipt by hand")
    assert (result.output, bank.charges) == ("receipt by hand", [1])


class TestSeveral:
    """Steps that were interrupted side by side are decided on one by one, or all alike."""

    async def interrupted(self, bank: Bank, backend: StateBackend) -> Flujo[Any, Any]:
        flujo: Flujo[Any, Any] = Flujo(map_each(bank.step()), state_backend=backend)
        run = asyncio.create_task(flujo.run([5, 6], run_id="r"))
        async with asyncio.timeout(20):
            while len(bank.charges) < 2:
                await asyncio.sleep(0)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        bank.may_go_on.set()
        assert len((await flujo.run(run_id="r")).waiting_for) == 2
        return flujo

    async def test_one_output_for_several_is_refused(self, bank: Bank, backend: StateBackend) -> None:
        """The error names them; nothing was decided."""
        flujo = await self.interrupted(bank, backend)
        keys = [record.key for record in await flujo.steps("r")]
        with pytest.raises(InvalidArgument, match="step= for each of") as refused:
            await flujo.redrive("r", decision="skip", output="by hand")
        assert all(repr(key) in str(refused.value) for key in keys)
        with pytest.raises(InvalidArgument, match="no decision on step 'charge'") as refused:
            await flujo.redrive("r", decision="skip", output="by hand", step="charge")
        assert all(repr(key) in str(refused.value) for key in keys)
        assert "StepDecided" not in await kinds(flujo)
        assert (await flujo.run(run_id="r")).status == "paused"

    async def test_each_has_its_own_decision(self, bank: Bank, backend: StateBackend) -> None:
        """The run goes on as far as it can, and still waits for the others."""
        flujo = await self.interrupted(bank, backend)
        first, second = [record.key for record in await flujo.steps("r")]
        paused = await flujo.redrive("r", decision="skip", output="by hand", step=second)
        assert (paused.status, len(paused.waiting_for), len(bank.charges)) == ("paused", 1, 2)
        with pytest.raises(InvalidArgument, match=first):
            await flujo.redrive("r", step=second)
        result = await flujo.redrive("r", decision="retry", step=first)
        assert result.output == ["receipt 5", "by hand"]
        assert len(bank.charges) == 3

    async def test_what_is_left_to_decide_is_told_once(self, bank: Bank, backend: StateBackend) -> None:
        """It waits since its attempt began, however often the run is taken up."""
        flujo = await self.interrupted(bank, backend)
        first, second = [record.key for record in await flujo.steps("r")]
        before = (await flujo.run(run_id="r")).waiting_for
        after = (await flujo.redrive("r", decision="skip", step=second)).waiting_for
        assert after == [waiting for waiting in before if first in (waiting.prompt or "")]
        [*_, paused] = [commit.fact for commit in await flujo.history("r") if isinstance(commit.fact, RunPaused)]
        assert (paused.waiting_for, len(paused.gone), paused.kept) == ((), 1, 1)

    @pytest.mark.parametrize(("decision", "output"), [("retry", ["receipt 5", "receipt 6"]), ("skip", [None, None])])
    async def test_without_an_output_all_are_decided_alike(
        self, bank: Bank, backend: StateBackend, decision: Any, output: list[Any]
    ) -> None:
        flujo = await self.interrupted(bank, backend)
        assert (await flujo.redrive("r", decision=decision)).output == output
