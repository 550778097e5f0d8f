"""What was decided before a crash stays decided (G1): answers of selectors, and failures that ended a group."""

import asyncio

import pytest

from flujo_async import Flujo, InMemoryBackend, RunContext, StepContext, branch, parallel, step, workflow
from flujo_async.errors import BackendError, RunFailed
from flujo_async.testing import FaultyBackend


def dying(inner: InMemoryBackend, nth: int) -> FaultyBackend:
    """Return a store whose process dies at its n-th append."""
    faulty = FaultyBackend(inner)
    faulty.crash("append", nth=nth)
    return faulty


@pytest.mark.parametrize("nth", [2, 3])
async def test_a_selector_is_not_asked_again_once_its_branch_has_begun(nth: int) -> None:
    """One whose answer changes from call to call: the branch that has begun is the one that ends."""
    begun: list[str] = []
    answers = iter(["left", "right", "left"])

    @step
    async def left(n: int) -> str:
        begun.append("left")
        return "left"

    @step
    async def right(n: int) -> str:
        begun.append("right")
        return "right"

    pipeline = branch(lambda _: next(answers), {"left": left, "right": right})
    store = InMemoryBackend()
    with pytest.raises(BackendError):
        await Flujo(pipeline, state_backend=dying(store, nth)).run(1, run_id="r")
    result = await Flujo(pipeline, state_backend=store).run(1, run_id="r")
    assert result.output == "left"
    assert set(begun) == {"left"}


async def test_a_member_that_had_failed_ends_its_group_before_the_others_start_again() -> None:
    """Its siblings were cancelled; the process died before the run could say that it had failed."""
    begun: list[str] = []

    @step
    async def slow(n: int) -> int:
        begun.append("slow")
        await never.wait()
        return n

    @step
    async def bad(n: int) -> int:
        raise ValueError("bad")

    never = asyncio.Event()
    pipeline = parallel(slow, bad)
    store = InMemoryBackend()
    with pytest.raises(BackendError):  # the first append is StepFailed, the second would be RunFailed
        await Flujo(pipeline, state_backend=dying(store, 2)).run(1, run_id="r")
    assert begun == ["slow"]
    with pytest.raises(RunFailed) as caught:
        await Flujo(pipeline, state_backend=store).run(1, run_id="r")
    assert str(caught.value.__cause__) == "bad"
    assert begun == ["slow"]


@pytest.mark.parametrize("nth", [1, 2, 3])
async def test_a_step_that_is_given_what_was_drawn_keeps_its_idempotency_key(nth: int) -> None:
    """An id drawn by the workflow is durable before a step can pass it on; drawn again, it would name another call."""
    keys: list[str] = []

    @step
    async def charge(order: str, ctx: StepContext) -> str:
        keys.append(ctx.idempotency_key)
        return order

    @workflow
    async def order(ctx: RunContext) -> str:
        return await charge(str(ctx.uuid()))

    store = InMemoryBackend()
    with pytest.raises(BackendError):
        await Flujo(order, state_backend=dying(store, nth)).run(run_id="r")
    await Flujo(order, state_backend=store).run(run_id="r")
    assert len(set(keys)) == 1
