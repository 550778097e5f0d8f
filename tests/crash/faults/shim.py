"""System calls that fail when a test wants it, in a child process: ``shim.c``, compiled by the test that needs it."""

import ctypes
import errno
import mmap
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping
from enum import IntFlag
from pathlib import Path
from typing import NamedTuple

import pytest

_SOURCE = Path(__file__).with_name("shim.c")
_FIELDS = ("calls", "nth", "times", "error", "is_short", "seen", "failed")
_RECORD = struct.Struct("<4q")
FOR_EVER = -1


class Call(IntFlag):
    """System calls that can fail."""

    WRITE = 1
    SYNC = 2
    TRUNCATE = 4


class Traced(NamedTuple):
    """One thing that happened to a file: ``W`` write, ``S`` sync, ``F`` failed sync, ``T`` truncate, ``U`` unlink,
    ``R`` rename, or ``A``, which the process itself said."""

    kind: str
    path: str
    offset: int
    data: bytes


def compiled(directory: Path) -> Path:
    """Return the shim, or skip the test that wants it."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("failing system calls are made by a library that is preloaded: that takes Linux and a C compiler")
    library = directory / "shim.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(_SOURCE), "-ldl", "-lpthread"]
    subprocess.run(command, check=True, capture_output=True)
    return library


class Shim:
    """What one process, or several, get to feel on the files under a directory, with the library preloaded."""

    def __init__(self, library: Path, under: Path, directory: Path, *, is_traced: bool = False) -> None:
        self.library, self._under = library, under
        self._control = directory / "control"
        self._trace = directory / "trace" if is_traced else None
        self._control.write_bytes(bytes(8 * len(_FIELDS)))
        with self._control.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), 0)

    def fail(self, calls: Call, nth: int, *, times: int = 1, error: int = errno.EIO, is_short: bool = False) -> None:
        """Let calls fail from the ``nth`` on, so many times; from 1, and 0 lets all of them succeed."""
        self._shared[:] = struct.pack(f"<{len(_FIELDS)}q", calls, nth, times, error, is_short, 0, 0)

    @property
    def failed(self) -> int:
        """How many calls failed."""
        return self._field("failed")

    @property
    def seen(self) -> int:
        """How many calls there were of those that could fail."""
        return self._field("seen")

    def environment(self) -> Mapping[str, str]:
        """Return what a process that has loaded the library needs in its environment to feel it."""
        traced = {} if self._trace is None else {"FAULT_TRACE": str(self._trace)}
        return {**traced, "FAULT_UNDER": str(self._under), "FAULT_CONTROL": str(self._control)}

    def trace(self) -> Iterator[Traced]:
        """Return what happened, in order."""
        assert self._trace is not None
        data, position = self._trace.read_bytes(), 0
        while position < len(data):
            kind, offset, length, path_length = _RECORD.unpack_from(data, position)
            position += _RECORD.size
            path = data[position : position + path_length].decode()
            position += path_length
            has_data = chr(kind) in "WRA"
            yield Traced(chr(kind), path, offset, data[position : position + length * has_data])
            position += length * has_data

    def _field(self, name: str) -> int:
        value: int = struct.unpack_from("<q", self._shared, 8 * _FIELDS.index(name))[0]
        return value


def begin_to_feel() -> None:
    """Let this process feel what its environment says; the one that it was forked of did not."""
    if "FAULT_CONTROL" in os.environ:
        ctypes.CDLL(os.environ["LD_PRELOAD"]).begin()


def say_in_trace(words: str) -> None:
    """Write into the trace of this process, if it has one, between what happened before and what comes."""
    if path := os.environ.get("FAULT_TRACE"):
        data = words.encode()
        file = os.open(path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(file, _RECORD.pack(ord("A"), 0, len(data), 0) + data)
        finally:
            os.close(file)
