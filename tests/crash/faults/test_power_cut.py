"""The power fails at each moment of a run: what was acknowledged is on the platter, and the run goes on (G4).

The disk is a model (``power.py``), which is fed with all that a process wrote and synced. It keeps none of what was not
synced, or any part of it, and forgets what a failed sync was to bring it.
"""

import json
import random
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from itertools import takewhile
from pathlib import Path

import pytest

from tests.crash.faults.power import Disk
from tests.crash.faults.shim import Call, Shim
from tests.crash.faults.stage import Lost, Performance, Stage, undisturbed

FAULTS = {
    "none": (Call.SYNC, 0, 0),
    "sync": (Call.SYNC, 1, 1),
    "two syncs": (Call.SYNC, 1, 2),
    "sync and truncate": (Call.SYNC | Call.TRUNCATE, 1, 2),
}


def cuts(stage: Stage, shims: list[Shim], to: Path, seed: int, every: int) -> Iterator[tuple[Stage, Performance]]:
    """Cut the power after every so many acknowledgements, and return what is left: nothing unsynced, and some of it."""
    disk, told, number = Disk(), Performance(), 0
    for traced in (traced for shim in shims for traced in shim.trace()):
        disk.take(traced)
        if traced.kind != "A":
            continue
        told.hear(*json.loads(traced.data))
        number += 1
        if number % every and not told.has_ended:
            continue
        for dice in (None, random.Random(seed + number)):
            left = Stage(stage.kind, to / f"{number}{'' if dice is None else '-some'}", stage.name)
            left.history = [("before", name) for name in told.did]
            disk.restore(stage.disk, left.disk, dice)
            yield left, told


def begin_to_read(stage: Stage) -> sqlite3.Connection:
    """Read all that is in a database, and do not stop: what stands in its log is in use from now on."""
    (path,) = stage.disk.rglob("runs.db")
    db = sqlite3.connect(path, isolation_level=None)
    if path.with_name("runs.db-wal").exists():  # it would keep others from turning the log on
        db.execute("BEGIN")
        db.execute("SELECT count(*) FROM sqlite_master").fetchall()
    return db


async def run_and_cut(
    kind: str, directory: Path, library: Path, fault: str, nth: int, every: int = 1, *, is_read: bool = False
) -> int:
    """Run a scene, with a fault at the n-th call and, if that ended it, once more; then cut the power everywhere.

    Args:
        is_read: whether somebody reads all the time, from when the first process has ended.
    """
    stage = Stage(kind, directory)
    expected = await undisturbed(stage.scene, directory / "undisturbed")
    calls, first, times = FAULTS[fault]
    shims: list[Shim] = []
    with ExitStack() as stack:
        while True:
            (place := directory / f"life{len(shims)}").mkdir()
            shim = Shim(library, stage.disk, place, is_traced=True)
            shim.fail(calls, 0 if shims else first * nth, times=times)
            shims.append(shim)
            if (await stage.perform(shim)).has_ended:
                break
            if is_read:
                stack.enter_context(closing(begin_to_read(stage)))
    for left, told in cuts(stage, shims, directory / "cut", nth, every):
        await left.resume_and_check(told, expected)
    return shims[0].failed


@pytest.mark.parametrize("kind", ["file", "sqlite"])
async def test_a_power_cut_loses_nothing_that_was_acknowledged(tmp_path: Path, kind: str, library: Path) -> None:
    """At some of the moments; all of them are tried by ``-m crash``."""
    assert await run_and_cut(kind, tmp_path, library, "none", 0, every=6) == 0


async def test_a_directory_that_somebody_has_made_and_died_outlasts_a_power_cut(tmp_path: Path, library: Path) -> None:
    """Its name stands in the directory above, which nobody has synced since."""
    stage = Stage("file", tmp_path)
    (stage.disk / "runs").mkdir()
    shim = Shim(library, tmp_path, tmp_path, is_traced=True)
    assert (await stage.perform(shim)).has_ended
    before_the_first_word = takewhile(lambda traced: traced.kind != "A", shim.trace())
    assert ("S", str(stage.disk)) in {(traced.kind, traced.path) for traced in before_the_first_word}


@pytest.mark.crash
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["file", "sqlite"])
async def test_a_power_cut_at_any_moment_loses_nothing_that_was_acknowledged(
    tmp_path: Path, kind: str, library: Path
) -> None:
    assert await run_and_cut(kind, tmp_path, library, "none", 0) == 0


@pytest.mark.crash
@pytest.mark.timeout(900)
async def test_without_waiting_for_the_disk_a_power_cut_takes_only_the_end(tmp_path: Path, library: Path) -> None:
    """``synchronous="normal"``: the last commits are lost, and what is left of the run is whole and goes on."""
    stage = Stage("sqlite-normal", tmp_path)
    expected = await undisturbed(stage.scene, tmp_path / "undisturbed")
    shim = Shim(library, stage.disk, tmp_path, is_traced=True)
    assert (await stage.perform(shim)).has_ended
    has_lost = False
    for left, told in cuts(stage, [shim], tmp_path / "cut", 1, 1):
        try:
            await left.resume_and_check(told, expected)
        except Lost:
            has_lost = True
            await left.resume_and_check(Performance(), expected)
    assert has_lost, "it waits for the disk"


@pytest.mark.crash
@pytest.mark.timeout(900)
async def test_a_sync_that_succeeds_after_one_that_could_not_be_undone_is_not_believed(
    tmp_path: Path, library: Path
) -> None:
    """Any one behind the beginning of a log, and the cut of its line fails as well."""
    nth, was_felt = 3, 2
    while was_felt:
        nth += 1
        (place := tmp_path / str(nth)).mkdir()
        was_felt = await run_and_cut("file", place, library, "sync and truncate", nth)
        assert was_felt in (0, 2)
    assert nth > 10


@pytest.mark.crash
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("kind", "is_read"), [("file", False), ("sqlite", False), ("sqlite", True)], ids=["file", "sqlite", "sqlite, read"]
)
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "none"])
async def test_a_sync_that_succeeds_after_one_that_failed_is_not_believed(
    tmp_path: Path, kind: str, is_read: bool, fault: str, library: Path
) -> None:
    """Somewhere a sync fails, the next process goes on, its syncs succeed, and then the power fails.

    While somebody reads a write-ahead log, it cannot begin anew, and grows behind what the sync has failed for.
    """
    nth, was_felt = 0, 1
    while was_felt:
        nth += 1
        (place := tmp_path / str(nth)).mkdir()
        was_felt = await run_and_cut(kind, place, library, fault, nth, every=5, is_read=is_read)
    assert nth > 10
