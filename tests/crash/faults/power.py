"""What is on a disk after the power fails: a model that is fed with the trace of a process.

A disk keeps what was synced and, of what was not, any pages it likes. A failed sync is the treacherous one: the kernel
calls the pages clean, so the next sync does not write them, though everybody still reads them from memory. A file is
there after the failure if it was synced, or its directory was, after it was made; what was removed is gone.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.faults.shim import Traced

PAGE = 4096


@dataclass
class File:
    """A file in memory and on the platter."""

    content: bytearray = field(default_factory=bytearray)
    platter: bytearray = field(default_factory=bytearray)
    dirty: set[int] = field(default_factory=set)
    is_named: bool = False

    def write(self, offset: int, data: bytes) -> None:
        """Take bytes into memory."""
        end = offset + len(data)
        self.content.extend(bytes(max(0, end - len(self.content))))
        self.content[offset:end] = data
        self.dirty.update(range(offset // PAGE, (end + PAGE - 1) // PAGE))

    def truncate(self, size: int) -> None:
        """Change the size in memory; the page of the new end is written again."""
        if size < len(self.content):
            self.dirty.add(size // PAGE)
        self.content[size:] = bytes(max(0, size - len(self.content)))

    def sync(self, pages: Iterable[int]) -> None:
        """Bring pages, and the size, to the platter."""
        size = len(self.content)
        self.platter[size:] = bytes(max(0, size - len(self.platter)))
        for page in pages:
            part = slice(page * PAGE, min((page + 1) * PAGE, size))
            if part.start < size:
                self.platter[part] = self.content[part]

    def after_power_cut(self, dice: random.Random | None) -> bytes:
        """Return what is left: of the pages that were not synced some, by the dice; none without dice."""
        left = File(self.content, bytearray(self.platter))
        if dice is not None and self.dirty:
            left.sync(page for page in sorted(self.dirty) if dice.random() < 0.5)
        return bytes(left.platter)


class Disk:
    """The files under a directory, by their paths."""

    def __init__(self) -> None:
        self.files: dict[str, File] = {}

    def take(self, traced: Traced) -> None:
        """Let something happen to a file."""
        path = traced.path
        match traced.kind:
            case "W":
                self._file(path).write(traced.offset, traced.data)
            case "T":
                self._file(path).truncate(traced.offset)
            case "S" if path in self.files:
                file = self.files[path]
                file.sync(file.dirty)
                file.dirty, file.is_named = set(), True
            case "S":
                self._name_files_in(path)
            case "F" if path in self.files:
                self.files[path].dirty = set()  # treacherous: still in memory, never on the platter
            case "U":
                self.files.pop(path, None)
            case "R":
                self.files[traced.data.decode()] = self.files.pop(path)
            case _:
                pass

    def restore(self, under: Path, to: Path, dice: random.Random | None) -> None:
        """Lay down, in the directory ``to``, what was under ``under`` when the power failed."""
        for name, file in self.files.items():
            if not file.is_named or name.endswith("-shm"):
                continue  # the index of a write-ahead log is memory, not disk
            path = to / Path(name).relative_to(under)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.after_power_cut(dice))

    def _file(self, path: str) -> File:
        return self.files.setdefault(path, File())

    def _name_files_in(self, directory: str) -> None:
        for name, file in self.files.items():
            if name.rpartition("/")[0] == directory:
                file.is_named = True
