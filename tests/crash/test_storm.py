"""Every scene in real processes, killed by SIGKILL at random moments and at writes, again and again (G1, G2, G6)."""

import random
from collections import Counter
from pathlib import Path

import pytest

from tests.crash.life import KILLED, live
from tests.crash.remains import Remains, acknowledged, differences, director, remains
from tests.crash.scenes import SCENES
from tests.crash.test_scenes import check_effects, undisturbed
from tests.crash.world import World, WorldOfProcess
from tests.runtime.stores import Store

MOST = 60


class Play:
    """One scene in a store of its own."""

    def __init__(self, name: str, kind: str, directory: Path) -> None:
        self.scene = SCENES[name]
        self._name = name
        self._log = directory / "effects.log"
        self.store = Store(kind, directory)

    async def live(self, where: str, nth: int = 0, *, signs: int | None = None) -> bool:
        """Let a process live, for so many signs at most; return whether it lived to the end of the scene.

        Nothing that was acknowledged before happens in it.
        """
        done = await acknowledged(self.scene, director(self.scene, World("", []), self.store.open_once()))
        pid, ended = await live(self.store.url, self._log, where, nth, self._name, signs=signs)
        again = done & set(WorldOfProcess(self._log).happened(str(pid)))
        assert not again, f"what was acknowledged happened again: {again}"
        return ended != KILLED

    async def check(self, expected: Remains) -> None:
        """Check that what is left is what was to be left."""
        world = WorldOfProcess(self._log)
        left = await remains(self.scene, director(self.scene, world, self.store.open_once()))
        assert not differences(left, expected)
        check_effects(self._name, world.happened())


async def storm(name: str, kind: str, directory: Path, seed: int) -> Counter[bool]:
    """Kill processes until one lives to the end; return how many did and did not."""
    play, dice, lives = Play(name, kind, directory), random.Random(seed), Counter[bool]()
    expected = await undisturbed(SCENES[name], directory / "undisturbed")
    try:
        while not lives[True]:
            if not lives:  # the shortest of the scenes makes a handful of writes: the first life is to die in any case
                lives[await play.live("after", dice.randint(1, 5))] += 1
            elif dice.random() < 0.5:
                lives[await play.live("after", dice.randint(3, 12))] += 1
            else:
                lives[await play.live("outside", signs=dice.randint(1, 30))] += 1
            assert lives.total() < MOST, "it makes no progress"
        assert lives[False], "none was killed"
        await play.check(expected)
    finally:
        await play.store.close()
    return lives


@pytest.mark.crash
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(10, 14))
@pytest.mark.parametrize("kind", ["file", "sqlite"])
@pytest.mark.parametrize("name", SCENES)
async def test_storms_of_kills_change_nothing(tmp_path: Path, kind: str, name: str, seed: int) -> None:
    lives = await storm(name, kind, tmp_path, seed)
    print(f"{name} on {kind}, seed {seed}: {lives[False]} killed")
