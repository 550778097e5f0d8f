"""What appears when it is whole, and what is left of what never was."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flujo_async import FileBackend, SQLiteBackend
from flujo_async.backends.unfinished import unfinished
from flujo_async.testing.samples import create, listed

KILLED = """
import os, sys
from pathlib import Path
from flujo_async.backends.unfinished import unfinished

with unfinished(Path(sys.argv[1])) as part:
    part.write_text("half of it")
    os._exit(9)
"""


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Return where something goes, beside what was left when it was made once before."""
    target = tmp_path / "copies" / "a+[copy]"
    target.parent.mkdir()
    assert subprocess.run([sys.executable, "-c", KILLED, str(target)], timeout=50).returncode == 9
    assert [path.name for path in target.parent.rglob("*") if path.is_file()] == [target.name]
    return target


@pytest.mark.skipif(sys.platform == "win32", reason="no directory can be locked there")
@pytest.mark.parametrize("kind", [FileBackend, SQLiteBackend])
async def test_a_copy_removes_what_one_before_has_left_that_was_killed(
    kind: type[FileBackend | SQLiteBackend], tmp_path: Path, target: Path
) -> None:
    async with kind(tmp_path / "runs") as backend:
        await create(backend)
        await backend.backup(target)
    assert list(target.parent.iterdir()) == [target]
    async with kind(target) as copy:
        assert await listed(copy) == ["run"]


def test_what_somebody_is_at_work_on_stays(target: Path) -> None:
    """And so does what belongs to another target."""
    with unfinished(target) as one, unfinished(target) as other, unfinished(target.with_name("copy")):
        for part in (one, other):
            part.write_text("whole")
        assert one.read_text() == other.read_text() == "whole"
    assert list(target.parent.iterdir()) == []
