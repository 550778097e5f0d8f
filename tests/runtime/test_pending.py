"""Who awaits a write goes on as soon as it is over, and whoever ends it."""

import asyncio

import pytest

from flujo_async.abc.pending import Pending


async def result_of(pending: Pending[int]) -> int:
    return await pending


async def test_who_awaits_a_write_goes_on_in_the_turn_in_which_it_ends() -> None:
    pending: Pending[int] = Pending()
    order: list[str] = []

    async def wait() -> None:
        order.append(f"result {await pending}")

    def end() -> None:
        pending.set_result(5)
        order.append("ended")

    pending.when_done(lambda _: order.append("told"))
    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(end)
    await waiting
    assert order == ["told", "result 5", "ended"]


async def test_a_write_may_be_ended_by_a_task_and_awaited_by_several() -> None:
    pending: Pending[int] = Pending()

    waiting = [asyncio.create_task(result_of(pending)) for _ in range(3)]
    await asyncio.sleep(0)
    pending.set_result(5)  # this is a task as well, and another cannot run inside it
    assert await asyncio.gather(*waiting) == [5, 5, 5]
    assert await pending == 5


async def test_who_awaits_a_write_that_fails_gets_its_error() -> None:
    pending: Pending[int] = Pending()

    waiting = asyncio.create_task(result_of(pending))
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(pending.set_exception, OSError("gone"))
    with pytest.raises(OSError, match="gone"):
        await waiting


@pytest.mark.parametrize("error", [None, OSError("gone")])
async def test_a_cancellation_is_raised_when_the_write_is_over(error: OSError | None) -> None:
    pending: Pending[int] = Pending()

    waiting = asyncio.create_task(result_of(pending))
    await asyncio.sleep(0)
    waiting.cancel("enough")
    await asyncio.sleep(0)
    waiting.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    if error is None:
        pending.set_result(5)
    else:
        pending.set_exception(error)
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_cancellation_at_the_instant_at_which_the_write_ends() -> None:
    pending: Pending[int] = Pending()

    waiting = asyncio.create_task(result_of(pending))
    await asyncio.sleep(0)
    waiting.cancel()
    pending.set_result(5)
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_cancellation_after_a_task_has_ended_the_write_is_one() -> None:
    """The task that awaits it is to be woken already: it is not woken once more, wherever it is by then."""
    pending: Pending[int] = Pending()
    has_slept = False

    async def wait() -> None:
        nonlocal has_slept
        with pytest.raises(asyncio.CancelledError, match="enough"):
            await pending
        for _ in range(5):
            await asyncio.sleep(0)
        has_slept = True

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    pending.set_result(5)
    waiting.cancel("enough")
    await waiting
    assert has_slept
