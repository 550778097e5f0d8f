"""The clock jumps an hour, forward and back, at any moment: everything happens once, in its order, and ends alike."""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typing_extensions import override

from flujo_async.testing import VirtualClock
from tests.crash.faults.stores import open_store
from tests.crash.remains import differences, director, remains
from tests.crash.scenes import SCENES, play
from tests.crash.test_scenes import undisturbed
from tests.crash.world import World

A_DAY = timedelta(days=1)
SELECTION = ["sleep", "wait", "workflow"]


class JumpingClock(VirtualClock):
    """A clock that somebody sets an hour forward or back, again and again; time passes by it all the same."""

    def __init__(self, seed: int) -> None:
        super().__init__(datetime(2026, 1, 1, tzinfo=UTC))
        self._dice = random.Random(seed)
        self._wrong = timedelta(0)

    @override
    def now(self) -> datetime:
        if self._dice.random() < 0.3:
            self._wrong = timedelta(hours=self._dice.choice([-1, 0, 1]))
        return super().now() + self._wrong


async def play_with_a_jumping_clock(name: str, kind: str, directory: Path, seed: int) -> None:
    """Play a scene to its end, and compare."""
    scene, world = SCENES[name], World("", [])
    expected = await undisturbed(scene, directory / "undisturbed")
    world.clock = JumpingClock(seed)
    store = open_store(kind, directory)
    try:
        await play(scene, world, director(scene, world, store, lease_ttl=A_DAY))
        found = differences(await remains(scene, director(scene, world, store)), expected)
        assert not found, found
        usual = World("", [])
        memory = open_store("memory", directory)
        await play(scene, usual, director(scene, usual, memory))
        assert sorted(_named(world)) == sorted(_named(usual)), "something happened more than once, or less"
    finally:
        await store.shutdown()


def _named(world: World) -> list[str]:
    return [name for name in world.happened() if not name.startswith("drew ")]


@pytest.mark.parametrize("kind", ["memory", "file", "sqlite"])
@pytest.mark.parametrize("name", SELECTION)
async def test_a_clock_that_jumps_changes_nothing(tmp_path: Path, kind: str, name: str) -> None:
    """Timers, retries, time limits of waits, leases."""
    await play_with_a_jumping_clock(name, kind, tmp_path, 1)


@pytest.mark.crash
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(2, 8))
@pytest.mark.parametrize("kind", ["memory", "file", "sqlite"])
@pytest.mark.parametrize("name", SCENES)
async def test_a_clock_that_jumps_changes_nothing_in_any_scene(tmp_path: Path, kind: str, name: str, seed: int) -> None:
    await play_with_a_jumping_clock(name, kind, tmp_path, seed)
