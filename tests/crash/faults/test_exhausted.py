"""A process that may not open another file: the caller hears of it, and the next process goes on."""

from pathlib import Path

import pytest

from tests.crash.faults.stage import Stage, undisturbed
from tests.crash.faults.stores import ON_DISK

ENOUGH = 40
"""More files than one run opens."""


async def exhaust_and_resume(kind: str, directory: Path, more: int) -> bool:
    """Let a process open so many files more; return whether that was too few."""
    stage = Stage(kind, directory)
    expected = await undisturbed(stage.scene, directory / "undisturbed")
    told = await stage.perform(more_files=more)
    assert told.has_ended != bool(told.failed)
    if told.failed:
        assert "Too many open files" in f"{told.failed}" or "cannot be opened" in told.failed[1]
    await stage.resume_and_check(told, expected)
    return told.failed is not None


@pytest.mark.crash
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ON_DISK)
async def test_a_process_that_is_out_of_file_descriptors_says_so_and_loses_nothing(tmp_path: Path, kind: str) -> None:
    was_too_few = [await exhaust_and_resume(kind, tmp_path / str(more), more) for more in range(ENOUGH)]
    assert was_too_few[0]
    assert not was_too_few[-1]
