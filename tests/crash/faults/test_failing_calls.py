"""Writes, syncs and truncations that fail in the middle of a run: the caller hears of it, nothing is lost (G4)."""

import errno
from pathlib import Path

import pytest

from tests.crash.faults.shim import FOR_EVER, Call, Shim
from tests.crash.faults.stage import Stage, undisturbed
from tests.crash.faults.stores import ON_DISK

MOST = 900
"""More calls of one kind than a scene makes."""


async def fail_and_resume(
    stage: Stage, shim: Shim, calls: Call, nth: int, *, times: int = 1, error: int = errno.EIO, is_short: bool = False
) -> bool:
    """Let a call fail in one process and go on in another; return whether there was such a call."""
    expected = await undisturbed(stage.scene, stage.disk.parent / "undisturbed")
    shim.fail(calls, nth, times=times, error=error, is_short=is_short)
    told = await stage.perform(shim)
    if told.failed:
        cause = f"{told.failed[1]} {told.failed[2]}"
        assert shim.failed, cause
        assert str(stage.disk) in cause, "the error does not name the place"
    assert told.has_ended or told.failed
    await stage.resume_and_check(told, expected)
    return shim.failed > 0


FAULTS = {
    "sync": (Call.SYNC, 1, errno.EIO, False),
    "sync for ever": (Call.SYNC, FOR_EVER, errno.EIO, False),
    "write": (Call.WRITE, 1, errno.EIO, False),
    "short write": (Call.WRITE, 1, errno.EIO, True),
    "half a write": (Call.WRITE, 2, errno.EIO, True),
    "full disk": (Call.WRITE, FOR_EVER, errno.ENOSPC, True),
    "all for ever": (Call.WRITE | Call.SYNC | Call.TRUNCATE, FOR_EVER, errno.EIO, False),
    "sync and truncate": (Call.SYNC | Call.TRUNCATE, 2, errno.EIO, False),
}


@pytest.mark.parametrize("kind", ["file", "sqlite"])
async def test_a_sync_that_fails_is_told_and_loses_nothing(tmp_path: Path, kind: str, library: Path) -> None:
    """One of the middle; all of them, and all other faults, are tried by ``-m crash``."""
    stage = Stage(kind, tmp_path)
    assert await fail_and_resume(stage, Shim(library, stage.disk, tmp_path), Call.SYNC, 9)


@pytest.mark.crash
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ON_DISK)
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_call_that_fails_anywhere_is_told_and_loses_nothing(
    tmp_path: Path, kind: str, fault: str, library: Path
) -> None:
    """Each write, sync and truncation of a run, one process for each; of the many writes of a database every ninth."""
    calls, times, error, is_short = FAULTS[fault]
    places = range(1, MOST, 9 if Call.WRITE in calls and kind != "file" else 1)
    for nth in places:
        place = tmp_path / str(nth)
        stage = Stage(kind, place)
        shim = Shim(library, stage.disk, place)
        if not await fail_and_resume(stage, shim, calls, nth, times=times, error=error, is_short=is_short):
            break
    print(f"{kind}, {fault}: failed at {len(places[: places.index(nth)])} places")
    assert places[1] < nth < MOST - 9
