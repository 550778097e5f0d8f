"""Who holds a lease, and whether they are still alive.

An owner names the host (its boot and its process namespace), the process and when it started, and the runtime in
it. A process that is gone from this host is dead at once; of other hosts nothing can be known, there the lease
has to expire.
"""

from __future__ import annotations

import os
import sys
import uuid
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_STATE_FIELD, _START_FIELD = 0, 19
"""Where /proc/PID/stat has them, counted after the name of the program; see proc(5)."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The holder of leases. Its text is what stores keep."""

    host: str
    pid: int
    started: str
    runtime: str

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}:{self.started}:{self.runtime}"

    @classmethod
    def here(cls) -> Owner:
        """Return a new owner in this process."""
        pid = os.getpid()
        return cls(_this_host(), pid, _started(pid) or "", uuid.uuid4().hex)

    @classmethod
    def parse(cls, text: str) -> Owner | None:
        """Return the owner whose text this is; ``None`` if it is no owner's."""
        parts = text.split(":")
        if len(parts) != 4 or not parts[1].isdecimal():
            return None
        return cls(parts[0], int(parts[1]), parts[2], parts[3])

    def is_in(self, process: Owner) -> bool:
        """Return whether this owner lives in the same process as ``process``."""
        return (self.host, self.pid, self.started) == (process.host, process.pid, process.started)

    def is_gone(self) -> bool:
        """Return whether the owner's process is known to have ended."""
        if self.host != _this_host() or sys.platform == "win32":  # there, signal 0 is not a question but a Ctrl-C
            return False
        return not _exists(self.pid) if not self.started else _started(self.pid) != self.started


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
    except OSError:
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
