"""Entries on disk: one file of JSON lines for all runs, in which a write is a few lines behind the others.

The first line has ``format``, and a ``mark`` that tells this file from others that have had its name. Each later one is
``{"more": …, "entry": {…}}``, or ``{"more": …, "without": {"run_id": …, "kind": …}}``: all earlier entries of a run
go, or those of one kind. ``more`` is how many lines of the same write follow: a write counts when all of it is there.
What stands behind the last whole write is the rest of one that never finished, and is cut off.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, cast

from flujo_async._codec.heads import decode_entry, encode_entry, load_object
from flujo_async._codec.tree import check_format, dumps
from flujo_async._model.entry import Entry, EntryId, EntryKind, EntryQuery, by_run, entry_id, put
from flujo_async._model.selection import select_entries
from flujo_async.backends import file_line, file_lock
from flujo_async.backends.file_locked import LockedFile, LogIsBusy, opened_once
from flujo_async.backends.file_logs import PATIENCE
from flujo_async.errors import BackendError

ENTRIES: Final = "entries.log"
"""The name of the file, beside the logs; no log has it."""

FORMAT: Final = 1
_UNFINISHED: Final = "entries.new"
_LARGE: Final = 1 << 20
"""From so many bytes on a file that is mostly out of date is written anew without being asked."""

_logger: Final = logging.getLogger("flujo_async")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an entry stands in the file; of the entry itself, all but its body."""

    entry: Entry
    start: int
    size: int


@dataclass(slots=True)
class _Index:
    """What stands where in a file, as far as it was read; true as long as the file begins as it did.

    Attributes:
        header: the first line.
        last: where the last write begins.
        end: where it ends.
        is_settled: whether all that is durable; whoever wrote it may have died before it was.
        places: where the entries are, by run.
    """

    header: bytes = b""
    last: int = 0
    end: int = 0
    is_settled: bool = False
    places: dict[str, dict[EntryId, _Place]] = field(default_factory=dict[str, dict[EntryId, _Place]])

    def add(self, data: bytes) -> None:
        """Take in what stands behind ``end``, as far as it is whole.

        Raises:
            ValueError: a line is none of this file's.
        """
        start, write = self.end, list[tuple[dict[str, Any], int, int]]()
        for line in data.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                return
            tree = load_object(line)
            write.append((tree, start, len(line)))
            start += len(line)
            if not tree.get("more"):
                for part in write:
                    self._take_in(*part)
                self.header = self.header or line
                self.last, self.end, write = write[0][1], start, []

    def of(self, run_id: str | None) -> list[_Place]:
        """Return where the entries of a run are, or all."""
        runs = self.places.values() if run_id is None else [self.places.get(run_id, {})]
        return [place for places in runs for place in places.values()]

    def _take_in(self, tree: dict[str, Any], start: int, size: int) -> None:
        if "entry" in tree:
            entry = replace(decode_entry(tree["entry"]), body={})
            self.places.setdefault(entry.run_id, {})[entry_id(entry)] = _Place(entry, start, size)
        elif "without" in tree:
            run_id, kind = tree["without"]["run_id"], tree["without"]["kind"]
            left = {name: place for name, place in self.places.pop(run_id, {}).items() if kind not in (None, name[0])}
            if left:
                self.places[run_id] = left
        else:
            check_format(ENTRIES, tree["format"], FORMAT)


class EntryFile:
    """All entries of a directory of runs; safe for several threads and processes.

    Which entries there are is remembered, what they say is read again. The file is made with the first entry, and goes
    with the last.

    Args:
        directory: where the file is.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / ENTRIES
        self._guard = threading.Lock()
        self._index = _Index()

    def put(self, entries: Sequence[Entry], instead_of: EntryKind | None) -> None:
        """Keep entries as in ``StateBackend.put_entries``; durable when this returns."""
        if not entries:
            return
        file_lock.make_directory(self._path.parent)
        with self._guard, self._locked(create=True) as file:
            lines: list[dict[str, Any]] = []
            for run_id, more in by_run(entries).items():
                known = {name: place.entry for name, place in self._index.places.get(run_id, {}).items()}
                after = put(known, more, instead_of)
                if len(after.keys() & known.keys()) < len(known):
                    lines.append({"without": {"run_id": run_id, "kind": instead_of}})
                names = dict.fromkeys(map(entry_id, more))
                lines += [{"entry": encode_entry(after[name])} for name in names]
            self._write(file, lines)

    def read(self, query: EntryQuery) -> list[Entry]:
        """Return entries as in ``StateBackend.read_entries``."""
        with self._guard:
            try:
                with self._locked(patience=PATIENCE) as file:
                    return self._select(file, query)
            except LogIsBusy:  # somebody was stopped while writing; what is whole can be read all the same
                self._index = _Index()
                try:
                    file = LockedFile(self._path)
                    with file.unlocked():
                        self._catch_up(file)
                        return self._select(file, query)
                finally:
                    self._index = _Index()

    def remove(self, run_id: str) -> None:
        """Remove the entries of a run."""
        if not self._path.exists():
            return
        with self._guard, self._locked() as file:
            without = [{"without": {"run_id": run_id, "kind": None}}] if run_id in self._index.places else []
            if without or not self._index.is_settled:
                self._write(file, without)

    def copy_to(self, directory: Path) -> None:
        """Copy the file, as it is at one instant, to a directory."""
        with self._guard, self._locked() as file:
            if file.fd is not None and self._index.end:
                (directory / ENTRIES).write_bytes(file_line.read(file.fd, 0, self._index.end))

    def compact(self) -> None:
        """Give back the space of what is out of date."""
        with self._guard, self._locked() as file:
            if file.fd is not None:
                self._path.with_name(_UNFINISHED).unlink(missing_ok=True)
                self._write_anew(file, is_asked_to=True)

    @contextmanager
    def _locked(self, *, create: bool = False, patience: float | None = None) -> Generator[LockedFile]:
        with opened_once(self._path, create=create, patience=patience) as file:
            self._catch_up(file)
            yield file

    def _catch_up(self, file: LockedFile) -> None:
        """Take in what was written since the file was used last."""
        size = 0 if file.fd is None else os.fstat(file.fd).st_size
        header = self._index.header
        if size < self._index.end or (header and file_line.read(cast("int", file.fd), 0, len(header)) != header):
            self._index = _Index()
        if size > self._index.end:
            self._index.is_settled = False
            self._take_in(file_line.read(cast("int", file.fd), self._index.end, size))

    def _take_in(self, data: bytes) -> None:
        try:
            self._index.add(data)
        except file_line.BROKEN as error:
            end, self._index = self._index.end, _Index()
            raise BackendError(f"{self._path}: what stands behind byte {end} are no entries: {error!r}") from error

    def _select(self, file: LockedFile, query: EntryQuery) -> list[Entry]:
        places = {id(place.entry): place for place in self._index.of(query.run_id)}
        asked = select_entries((place.entry for place in places.values()), query)
        return [self._read(file, places[id(entry)]) for entry in asked]

    def _read(self, file: LockedFile, place: _Place) -> Entry:
        line = file_line.read(cast("int", file.fd), place.start, place.start + place.size)
        return decode_entry(load_object(line)["entry"])

    def _write(self, file: LockedFile, lines: Sequence[dict[str, Any]]) -> None:
        """Put one write behind the others; durable when this returns."""
        fd, index = cast("int", file.fd), self._index
        data = b"" if index.end else self._header()
        data += _joined({"more": more, **line} for more, line in zip(range(len(lines) - 1, -1, -1), lines, strict=True))
        if (torn := os.fstat(fd).st_size - index.end) > 0:
            _logger.warning("%s: dropped %d bytes of an unfinished write", self._path, torn)
        try:
            os.ftruncate(fd, index.end)
            if not index.is_settled:
                file_lock.sync_directory(self._path.parent)
            # The last write once more: whoever made it may have failed to make it durable, and a sync forgets that.
            file_line.write(fd, index.last, file_line.read(fd, index.last, index.end) + data)
            os.fsync(fd)
        except BaseException:
            with suppress(OSError):
                os.ftruncate(fd, index.end)
            raise
        file.check_there()
        self._take_in(data)
        index.is_settled = True
        if not index.places or (index.end > _LARGE and 2 * _size(index) < index.end):
            self._write_anew(file, is_asked_to=False)

    def _write_anew(self, file: LockedFile, *, is_asked_to: bool) -> None:
        """Write what still counts to a file of its own, which takes the place of this one."""
        if os.name == "nt" or _size(self._index) == self._index.end:  # nothing can take the place of an open file there
            return
        places, unfinished = self._index.of(None), self._path.with_name(_UNFINISHED)
        if places:
            lines = ({"more": 0, "entry": encode_entry(self._read(file, place))} for place in places)
            try:
                file_lock.write_file(unfinished, self._header() + _joined(lines))
            except OSError:
                if is_asked_to:
                    raise
                return  # there is no room for it now, and what was to be kept is kept all the same
            os.replace(unfinished, self._path)
        else:
            self._path.unlink()
        file_lock.sync_directory(self._path.parent)
        self._index = _Index()

    def _header(self) -> bytes:
        return _joined([{"format": FORMAT, "mark": secrets.token_hex(8)}])


def _size(index: _Index) -> int:
    """Return how many bytes of a file still count."""
    return len(index.header) + sum(place.size for place in index.of(None))


def _joined(lines: Iterable[dict[str, Any]]) -> bytes:
    return b"".join(dumps(line) + b"\n" for line in lines)
