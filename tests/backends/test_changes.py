"""``Changes`` wakes waiters in any loop of any thread, and keeps nothing of those who left."""

from __future__ import annotations

import asyncio
import threading

import pytest

from flujo_async.backends.changes import Changes


async def test_a_change_announced_in_another_thread_wakes_the_waiter() -> None:
    changes = Changes()
    waiter = asyncio.create_task(changes.wait("run", timeout=1000))
    await asyncio.sleep(0)
    await asyncio.to_thread(changes.announce, "run")
    async with asyncio.timeout(20):
        await waiter


async def test_a_change_of_another_run_wakes_only_those_who_wait_for_any() -> None:
    changes = Changes()
    one, any_run = (asyncio.create_task(changes.wait(run_id, timeout=1000)) for run_id in ("run", None))
    await asyncio.sleep(0)
    changes.announce("other")
    async with asyncio.timeout(20):
        await any_run
    assert not one.done()
    changes.announce("run")
    await one


async def test_loops_of_several_threads_wait_at_once() -> None:
    changes = Changes()
    threads = [asyncio.to_thread(asyncio.run, changes.wait(timeout=1000)) for _ in range(3)]
    waiters = asyncio.gather(*threads)
    while not waiters.done():
        changes.announce("run")
        await asyncio.wait([waiters], timeout=0.01)


async def test_who_leaves_is_forgotten() -> None:
    """By a timeout, by a change, by cancellation."""
    changes = Changes()
    await changes.wait(timeout=0)
    waiter = asyncio.create_task(changes.wait(timeout=1000))
    await asyncio.sleep(0)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert not changes._waiters


def test_a_waiter_whose_loop_was_closed_does_no_harm() -> None:
    changes = Changes()
    loop = asyncio.new_event_loop()
    waiter = loop.create_task(changes.wait(timeout=1000))
    loop.run_until_complete(asyncio.sleep(0))
    waiting = next(iter(changes._waiters[None]))
    waiter.cancel()
    loop.run_until_complete(asyncio.wait([waiter]))
    loop.close()
    threading.Thread(target=waiting.wake).start()
    waiting.wake()
