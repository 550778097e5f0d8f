"""Processes that share a store, killed, stopped and replaced, leave of each run what an oracle says (G1, G3, G4).

More of them: ``python -m tests.crash.test_fleet KIND FIRST_SEED LAST_SEED [SIZE [SECONDS]]``.
"""

import asyncio
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.crash.fleet.fleet import Fleet

SIZE = 12
SECONDS = 4.0


@pytest.mark.crash
@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("kind", ["file", "sqlite"])
async def test_a_fleet_in_a_storm_does_what_it_is_told(tmp_path: Path, kind: str, seed: int) -> None:
    """What is drawn for a seed is always the same; at which moments the storm hits is not."""
    fleet = Fleet(kind, tmp_path, seed, SIZE)
    findings = await fleet.sail(SECONDS)
    assert not findings, f"seed {seed}:\n" + "\n".join(findings)
    print(f"{kind}, seed {seed}: {dict(fleet.done)}")


async def _sail(kind: str, first: str, last: str, size: str = str(SIZE), seconds: str = str(SECONDS)) -> None:
    for seed in range(int(first), int(last) + 1):
        with TemporaryDirectory() as directory:
            fleet = Fleet(kind, Path(directory), seed, int(size))
            findings = await fleet.sail(float(seconds))
        print(f"{kind}, seed {seed}: {dict(fleet.done)}", *findings, sep="\n  ", flush=True)


if __name__ == "__main__":
    asyncio.run(_sail(*sys.argv[1:]))
