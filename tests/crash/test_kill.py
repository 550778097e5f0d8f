"""Real processes, killed by SIGKILL at each commit and inside each step; the next one ends alike (G1)."""

import random
from collections import Counter
from pathlib import Path

import pytest

from tests.crash.life import KILLED, live
from tests.crash.outcome import Outcome, acknowledged, outcome_of
from tests.crash.zoo import runtime
from tests.records import on_record
from tests.runtime.stores import Store

SELECTION = [
    ("file", "before", 9),
    ("sqlite", "after", 5),
    ("sqlite", "step", 9),
]
"""At which commits and steps the default run kills; all of them are tried by ``-m crash``."""
MOST = 60
"""More commits, and executions of steps, than a run of the zoo has."""


@pytest.fixture
async def expected() -> Outcome:
    return await outcome_of(runtime("memory://", lambda key, attempt: None))


class Scene:
    """A store, and the file of side effects beside it."""

    def __init__(self, kind: str, directory: Path) -> None:
        self.store = Store(kind, directory)
        self.log = directory / "effects.log"

    async def victim(self, where: str, nth: int = 0, *, signs: int | None = None) -> int:
        """Let a process live, for so many signs at most; return how it ended."""
        _, ended = await live(self.store.url, self.log, where, nth, signs=signs)
        return ended

    def effects(self) -> list[tuple[int, str]]:
        """Return process and step of each side effect."""
        return [(int(pid), key) for pid, key, _ in map(str.split, on_record(self.log))]

    async def acknowledged(self) -> set[str]:
        return await acknowledged(runtime(self.store.open(), lambda key, attempt: None))

    async def outcome(self) -> Outcome:
        """Return what the finished run left; nothing executes here."""

        def refuse(key: str, attempt: int) -> None:
            raise AssertionError(f"{key} is executed once more")

        return await outcome_of(runtime(self.store.open(), refuse))


async def kill_and_resume(kind: str, directory: Path, where: str, nth: int, expected: Outcome) -> bool:
    """Kill a process somewhere and go on in another; return whether there was somewhere to kill it."""
    scene = Scene(kind, directory)
    try:
        was_killed = await scene.victim(where, nth) == KILLED
        done, before = await scene.acknowledged(), len(scene.effects())
        assert await scene.victim("never") == 0
        assert await scene.outcome() == expected, f"{where} {nth}"
        again = {key for _, key in scene.effects()[before:]}
        assert not done & again, f"{where} {nth}: acknowledged steps ran again"
        # What was running at the kill may run again, and nothing else may: two items with two branches each.
        twice = [key for key, count in Counter(key for _, key in scene.effects()).items() if count > _usual(key)]
        assert len(twice) <= 4, f"{where} {nth}: {twice}"
        return was_killed
    finally:
        await scene.store.close()


def _usual(key: str) -> int:
    return 2 if key.endswith("flaky") else 1


@pytest.mark.parametrize(("kind", "where", "nth"), SELECTION)
async def test_a_killed_process_changes_nothing(
    tmp_path: Path, kind: str, where: str, nth: int, expected: Outcome
) -> None:
    """A selection of the moments; all of them are marked ``crash``."""
    assert await kill_and_resume(kind, tmp_path, where, nth, expected)


@pytest.mark.crash
@pytest.mark.timeout(600)
@pytest.mark.parametrize("where", ["before", "after", "step"])
@pytest.mark.parametrize("kind", ["file", "sqlite"])
async def test_a_process_killed_anywhere_changes_nothing(
    tmp_path: Path, kind: str, where: str, expected: Outcome
) -> None:
    """Before and after each commit, and inside each execution of a step."""
    nth = 0
    while nth < MOST:
        nth += 1
        if not await kill_and_resume(kind, tmp_path / str(nth), where, nth, expected):
            break
    print(f"{kind}: killed at {nth - 1} places ({where})")
    assert 12 < nth < MOST


@pytest.mark.crash
@pytest.mark.parametrize("kind", ["file", "sqlite"])
async def test_processes_killed_one_after_the_other_get_there(tmp_path: Path, kind: str, expected: Outcome) -> None:
    """Each life dies at its second commit: one fact of progress at a time, until nothing is left to do."""
    scene = Scene(kind, tmp_path)
    try:
        for life in range(6):
            assert await scene.victim("after" if life % 2 else "before", 2) == KILLED
        assert await scene.victim("never") == 0
        assert await scene.outcome() == expected
    finally:
        await scene.store.close()


async def storm(scene: Scene, dice: random.Random) -> int:
    """Kill processes at random moments until one gets to the end; return how many were killed."""
    lives = 0
    while True:
        done = await scene.acknowledged()
        before = len(scene.effects())
        if lives:
            ended = await scene.victim("outside", signs=dice.randint(1, 40))
        else:  # this one dies in any case
            ended = await scene.victim("step", dice.randint(1, 9))
        again = {key for _, key in scene.effects()[before:]}
        assert not done & again, "acknowledged steps ran again"
        if ended == 0:
            assert lives, "the first one lived"
            return lives
        lives += 1
        assert lives < MOST, "it makes no progress"


@pytest.mark.crash
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(1, 8))
@pytest.mark.parametrize("kind", ["file", "sqlite"])
async def test_a_storm_of_kills_changes_nothing(tmp_path: Path, kind: str, seed: int, expected: Outcome) -> None:
    """SIGKILL at random moments, again and again, until a process gets to the end."""
    scene = Scene(kind, tmp_path)
    try:
        killed = await storm(scene, random.Random(seed))
        assert await scene.outcome() == expected
        print(f"{kind}, seed {seed}: {killed} killed")
    finally:
        await scene.store.close()
