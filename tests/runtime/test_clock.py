"""``VirtualClock``: time passes only by ``advance``."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from flujo_async.testing import VirtualClock


async def test_time_stands_still() -> None:
    """Until it is told to advance."""
    clock = VirtualClock(datetime(2026, 5, 1, 12, tzinfo=UTC))
    assert clock.now() == clock.now() == datetime(2026, 5, 1, 12, tzinfo=UTC)
    clock.advance(timedelta(minutes=1))
    clock.advance(0.5)
    assert clock.now() == datetime(2026, 5, 1, 12, 1, 0, 500_000, tzinfo=UTC)


async def test_sleepers_wake_in_the_order_of_their_moments() -> None:
    """Whoever fell asleep first goes first among equals; the others sleep on."""
    clock, woken = VirtualClock(), list[str]()

    async def sleep(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(name)

    async with asyncio.TaskGroup() as tasks:
        for name, seconds in [("c", 3), ("a", 1), ("b", 2), ("b2", 2), ("d", 10)]:
            tasks.create_task(sleep(name, seconds))
        await clock.until_asleep(5)
        clock.advance(3)
        assert clock.sleepers == 1
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert woken == ["a", "b", "b2", "c"]
        clock.advance(7)
    assert woken[-1] == "d"


async def test_a_cancelled_sleeper_is_forgotten() -> None:
    """It neither wakes nor counts."""
    clock = VirtualClock()
    sleeper = asyncio.create_task(clock.sleep(5))
    await clock.until_asleep()
    sleeper.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeper
    assert clock.sleepers == 0
    clock.advance(5)


async def test_no_time_to_sleep_is_a_turn_for_others() -> None:
    """Zero and less return without an advance."""
    clock = VirtualClock()
    await clock.sleep(0)
    await clock.sleep(-1)


def test_time_does_not_go_backwards() -> None:
    """A negative duration is refused."""
    with pytest.raises(ValueError, match="backwards"):
        VirtualClock().advance(-1)
