"""A crash before and after every write of every scene changes nothing (G1, G2, G6, G7), on every store.

Every write counts: creating a run, appending, claiming, releasing, posting. How a process dies here is told in
``test_explorer``; ``test_kill`` does the same to real processes.
"""

import asyncio
import random
from pathlib import Path

import pytest

from flujo_async.abc import StateBackend
from flujo_async.errors import BackendError
from flujo_async.testing import FaultyBackend
from tests.crash.remains import Remains, acknowledged, differences, director, remains
from tests.crash.scenes import SCENES, WRITES, Scene, play
from tests.crash.world import World
from tests.runtime.stores import KINDS, Store

MOST = 200
"""More writes than any scene makes."""
SELECTION = {"memory": 2, "file": 9, "sqlite": 10}
"""Every how many-th write the default run crashes at; all of them are tried by ``-m crash``.

After one write the store has what it has before the next: with every other write it is left in each state once.
"""


def dying(inner: StateBackend, nth: int, *, after: bool) -> FaultyBackend:
    """Return a store whose process dies at its n-th write, before or after that took effect."""
    faulty = FaultyBackend(inner)
    faulty.crash(WRITES, nth=nth, how="after" if after else "before")
    return faulty


async def live(scene: Scene, world: World, backend: StateBackend) -> bool:
    """Live one life, and return whether it ended before its time."""
    others = asyncio.all_tasks()
    try:
        await play(scene, world, director(scene, world, backend))
    except BackendError:
        assert isinstance(backend, FaultyBackend)
        assert backend.is_dead
    assert asyncio.all_tasks() <= others, "tasks are left behind"
    return isinstance(backend, FaultyBackend) and backend.is_dead


async def crash_and_resume(scene: Scene, store: Store, *crashes: tuple[int, bool]) -> tuple[int, Remains, list[str]]:
    """Crash in one life after the other, and live the last one to its end.

    Returns:
        How many lives ended by a crash, what the last one left, and all that happened.
    """
    dead, history = 0, list[tuple[str, str]]()
    for number, crash in enumerate([*crashes, None]):
        world, backend = World(str(number), history), store.open()
        done = await acknowledged(scene, director(scene, world, backend))
        dead += await live(scene, world, backend if crash is None else dying(backend, crash[0], after=crash[1]))
        again = done & set(world.happened(world.life))
        assert not again, f"crash at {crashes}: what was acknowledged happened again: {again}"
    left = await remains(scene, director(scene, World("", history), store.open()))
    return dead, left, [name for _, name in history]


@pytest.fixture
async def expected(tmp_path: Path, name: str) -> Remains:
    return await undisturbed(SCENES[name], tmp_path / "undisturbed")


async def undisturbed(scene: Scene, directory: Path) -> Remains:
    """Return what a run leaves that never crashes."""
    return (await crash_and_resume(scene, Store("memory", directory)))[1]


async def explore(kind: str, directory: Path, name: str, expected: Remains, *, after: bool, stride: int) -> int:
    """Crash at each write, in a run of its own for each; return how many there are."""
    scene = SCENES[name]
    for nth in range(1, MOST, stride):
        store = Store(kind, directory / str(nth))
        try:
            dead, left, happened = await crash_and_resume(scene, store, (nth, after))
        finally:
            await store.close()
        assert not differences(left, expected), f"crash at write {nth}"
        check_effects(name, happened)
        if not dead:
            return nth - 1
    raise AssertionError("the run makes more writes than were tried")


def check_effects(name: str, happened: list[str]) -> None:
    """Check what has to be so over all lives together."""
    charged = happened.count("r:charge")
    if name == "once, skipped":
        assert charged <= 1
    if name == "once, retried":
        assert charged <= 1 + happened.count("decided")
    draws = {effect for effect in happened if effect.startswith("drew ")}
    assert len(draws) <= 1, draws


def fewest(name: str) -> int:
    """Return how many writes a scene makes at least; a step that happens once is the last of its pipeline."""
    return 5 if name.startswith("once") else 6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", SCENES)
async def test_a_crash_at_a_write_changes_nothing(
    tmp_path: Path, kind: str, name: str, expected: Remains, after: bool
) -> None:
    """Wherever the process dies, the next life ends as one that was never disturbed."""
    assert await explore(kind, tmp_path, name, expected, after=after, stride=SELECTION[kind]) >= fewest(name)


@pytest.mark.crash
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", SCENES)
async def test_a_crash_at_any_write_changes_nothing(
    tmp_path: Path, kind: str, name: str, expected: Remains, after: bool
) -> None:
    """The same, at each write."""
    assert await explore(kind, tmp_path, name, expected, after=after, stride=1) >= fewest(name)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.crash) for seed in range(1, 20))])
@pytest.mark.parametrize("name", SCENES)
async def test_crashes_in_a_row_change_nothing(tmp_path: Path, name: str, expected: Remains, seed: int) -> None:
    """A process that dies again and again, each time after a few writes, gets there."""
    dice = random.Random(seed)
    # The shortest of the scenes makes a handful of writes: the first life is to die in any case.
    crashes = [(dice.randint(1, 20 if life else 5), dice.random() < 0.5) for life in range(60)]
    dead, left, happened = await crash_and_resume(SCENES[name], Store("memory", tmp_path), *crashes)
    assert not differences(left, expected)
    check_effects(name, happened)
    assert 1 <= dead < 60, "it makes no progress"
