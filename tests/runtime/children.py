"""Real processes for tests: started, spoken to by lines, killed."""

import asyncio
import sys
from pathlib import Path
from typing import Any

from tests.records import on_record

ROOT = Path(__file__).parents[2]


class Child:
    """One child process, which runs ``tests/runtime/child.py`` or another module."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        return self._process.pid

    @classmethod
    async def start(cls, *arguments: Any, module: str = "tests.runtime.child") -> "Child":
        """Start it; its side effects go to a file beside the store, whose URL is the second argument."""
        log = side_effects(arguments[1])
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            *map(str, arguments),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        return cls(process, log)

    async def says(self, expected: str) -> None:
        """Wait for a line."""
        assert self._process.stdout is not None
        line = (await self._process.stdout.readline()).decode().strip()
        assert line == expected, f"{line!r}, not {expected!r}"

    async def line(self) -> str:
        """Wait for any line."""
        assert self._process.stdout is not None
        return (await self._process.stdout.readline()).decode().strip()

    async def tell(self, line: str) -> None:
        """Send a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        await self._process.stdin.drain()

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._process.kill()
        await self._process.wait()

    async def end(self) -> int:
        """Wait until it has ended by itself, by closing its input."""
        if self._process.stdin is not None and not self._process.stdin.is_closing():
            self._process.stdin.close()
        return await self._process.wait()

    def executed(self) -> list[str]:
        """Return what this process executed."""
        return [name for pid, name in read_side_effects(self._log) if pid == self.pid]


def side_effects(url: str) -> Path:
    """Return the file that the side effects of runs in a store go to."""
    return Path("/" + url.partition(":///")[2].lstrip("/")).parent / "side-effects.log"


def read_side_effects(log: Path) -> list[tuple[int, str]]:
    """Return process and step of each side effect, in order."""
    return [(int(pid), name) for pid, name in map(str.split, on_record(log))]
