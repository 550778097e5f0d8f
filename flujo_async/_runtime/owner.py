"""Who holds a lease, and whether they are still alive.

An owner names the host (its boot and its process namespace), the process and when it started, and the caller in
it. A process that is gone from this host is dead at once; of other hosts nothing can be known, there the lease
has to expire.
"""

from __future__ import annotations

import asyncio
import os
import sys
import uuid
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Final

from flujo_async._model.quick import quick

_PROC: Final = Path("/proc")
_STATE_FIELD, _START_FIELD = 0, 19
"""Where /proc/PID/stat has them, counted after the name of the program; see proc(5)."""


_WORKING: Final[dict[str, asyncio.AbstractEventLoop]] = {}
"""The owners of this process that are at work, and the event loop of each."""

_NUMBERS: Final = count(1)


@quick
@dataclass(frozen=True, slots=True)
class Owner:
    """The holder of a lease. Its text is what stores keep.

    Attributes:
        host: the machine, its boot and its process namespace.
        pid: the process.
        started: when the process started, in clock ticks since boot; empty where that cannot be known.
        name: one caller in that process that takes a run and drives it, or one of the claims of such a caller.
    """

    host: str
    pid: int
    started: str
    name: str

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}:{self.started}:{self.name}"

    @staticmethod
    def at_work() -> _AtWork:
        """Lend a new owner, which counts as alive until the block ends.

        It is alive before it claims anything, so nobody who sees its lease in a store can take it for dead.
        """
        return _AtWork()

    @classmethod
    def parse(cls, text: str) -> Owner | None:
        """Return the owner whose text this is; ``None`` if it is no owner's."""
        parts = text.split(":")
        if len(parts) != 4 or not parts[1].isdecimal():
            return None
        return cls(parts[0], int(parts[1]), parts[2], parts[3])

    @staticmethod
    def for_claim(owner: str) -> str:
        """Return the name under which an owner makes one of several claims.

        A run that is deleted and created anew has the same tokens again, and its owner may still drive the one before.
        """
        return f"{owner}/{next(_NUMBERS)}"

    @staticmethod
    def of_claim(owner: str) -> str:
        """Return the owner that has made a claim under a name."""
        return owner.partition("/")[0]

    def is_here(self) -> bool:
        """Return whether this owner belongs to this process."""
        return (self.host, self.pid, self.started) == _this_process(os.getpid())

    def is_dead(self) -> bool:
        """Return whether the owner is known to have ended."""
        if self.is_here():
            loop = _WORKING.get(self.of_claim(self.name))
            return loop is None or loop.is_closed()
        if self.host != _this_host() or sys.platform == "win32":  # there, signal 0 is not a question but a Ctrl-C
            return False
        return not _exists(self.pid) if not self.started else _started(self.pid) != self.started


class _AtWork:
    """The block in which an owner is at work: one for each run, so it is quicker than a generator would be."""

    __slots__ = ("_name",)

    def __enter__(self) -> Owner:
        pid = os.getpid()
        self._name = f"{_mark(pid)}.{next(_NUMBERS)}"
        _WORKING[self._name] = asyncio.get_running_loop()
        return Owner(*_this_process(pid), self._name)

    def __exit__(self, *_: object) -> None:
        del _WORKING[self._name]


@cache
def _mark(pid: int) -> str:
    """Return what tells the owners of this process from those of one that had its number before."""
    return uuid.uuid4().hex


@cache
def _this_process(pid: int) -> tuple[str, int, str]:
    return _this_host(), pid, _started(pid) or ""


@cache
def _this_host() -> str:
    boot = _PROC / "sys/kernel/random/boot_id"
    if not boot.exists():
        return f"{uuid.getnode():x}"
    # Containers on one machine share its boot id, and each has a process 7 of its own.
    namespace = Path("/proc/self/ns/pid").readlink().name.strip("pid:[]")
    return f"{boot.read_text().strip()}-{namespace}"


def _started(pid: int) -> str | None:
    """Return when a process started, in clock ticks since boot; ``None`` if it is gone, "" if unknowable."""
    if not (_PROC / "self/stat").exists():
        return "" if _exists(pid) else None
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):  # any other error tells nothing about that process
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[_STATE_FIELD] in "ZX" else fields[_START_FIELD]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it exists, and belongs to somebody else
        return True
    return True
