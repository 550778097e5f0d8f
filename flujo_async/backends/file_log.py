"""One run's log on disk: JSON lines that are only ever added.

A line is one write of the store: ``{"records": […], "blobs": […], "signal": {…}, "head": {…}}``. All but the
head are there when it brought some; of blobs, the digests. The ``head`` of the first line is complete, each later
one holds what differs from the first, so the first and the last line are the head of the run, however long the
log is; but a list of waits tells what is new since an earlier line (``file_waits``). The first line also has
``format``, the version of this layout, ``files``, which is in the name of the directory beside the log, for a fork
``prefix``: which of the logs in that directory it continues, up to where, and for a run that was created with signals,
before all else, ``signals``.

A line counts when its newline is there. What stands behind the last newline is the rest of a write that never
finished, and is cut off. Everybody who looks at the end of a log holds the lock, so nobody sees half a write. A fork
reads what it shares without one: nothing before the byte that it knows is ever changed.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from typing_extensions import override

from flujo_async._codec import heads
from flujo_async._codec.tree import check_format
from flujo_async._model import transition
from flujo_async._model.stored import Blob, NewRun, Prefix, Record, Signal, Snapshot, StoredRun
from flujo_async._model.summary import RunSummary
from flujo_async.backends import file_line, file_lock
from flujo_async.backends.file_line import Content
from flujo_async.backends.file_locked import LockedFile
from flujo_async.backends.file_name import file_name, log_name_of, run_id_of
from flujo_async.backends.file_posted import Posted
from flujo_async.backends.file_side import KeptSnapshot, SideFiles
from flujo_async.backends.file_waits import NEVER, told_in
from flujo_async.errors import (
    FlujoError,
    IntegrityError,
    SerializationError,
)

FORMAT = 1
_MARKED_WRITES = 32
_logger = logging.getLogger("flujo_async")


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a log.

    Attributes:
        log: the mark of the log.
        last_seq: the last record that belongs to the part.
        end: the byte of the log behind the line of that record.
    """

    log: str
    last_seq: int
    end: int


@dataclass(frozen=True, slots=True)
class _Birth:
    """What the first line of a log tells for good."""

    head: dict[str, Any]
    files: SideFiles
    prefix: tuple[Segment, ...]

    @property
    def shared_seq(self) -> int:
        return self.prefix[-1].last_seq if self.prefix else 0


class NoLog(IntegrityError):
    """A file with the name of a log is something else: whole lines of JSON, and none of ours."""


class RunLog(LockedFile):
    """The log of one run, with what is known of it in memory; one thread at a time uses it.

    What is known stays true while the file is as long as it was: a log only grows.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.run_id: str = run_id_of(path.name)
        self.users = 0
        self._end = 0  # behind the last complete line; what follows is known only if it is not 0
        # What stands behind this may be in memory only: a sync that fails lets the system forget to write it, and the
        # next one succeeds without. So it is written again, before the next sync.
        self._doubtful = sys.maxsize
        self._birth: _Birth | None = None
        self._summary: RunSummary | None = None
        self._told = NEVER
        self._posted = Posted()
        self._bookmark = (0, 0)  # up to which seq the log was read last, and where the next line begins
        self._last_read: Record | None = None  # the one at the bookmark: whoever goes on from it asks for it as well
        self._marks: deque[tuple[int, int]] = deque(maxlen=_MARKED_WRITES)  # the same of the last writes

    @override
    def close(self) -> None:
        super().close()
        self._forget()
        self._birth = None
        self._bookmark, self._last_read = (0, 0), None
        self._marks.clear()

    # What follows is called while it is locked; what only reads, unlocked too: then the last line may not be durable.

    @property
    def files(self) -> SideFiles | None:
        """What the run keeps beside the log; ``None`` if there is no such run."""
        return self._birth.files if self.head() and self._birth else None

    def head(self) -> RunSummary | None:
        """Return the head of the run; ``None`` if there is no such run.

        Raises:
            IntegrityError: the log is broken.
        """
        if self.fd is not None:
            size = os.fstat(self.fd).st_size
            if size != self._end:
                self._catch_up(self.fd, size)
        return self._summary

    def read(self, *, until: int | None = None, from_snapshot: bool = False) -> StoredRun | None:
        """Return the run, as in ``StateBackend.load``; ``None`` if there is no such run.

        Raises:
            IntegrityError: a line is broken, or records are missing.
        """
        summary = self.head()
        if summary is None:
            return None
        kept = self._known().files.snapshot() if from_snapshot else None
        if kept and kept.snapshot.seq <= (summary.last_seq if until is None else until):
            with suppress(IntegrityError):  # it does not fit; whether the log is to blame, reading all of it tells
                return self._read_after(summary, kept, until)
        content = self._read_all(summary)
        return StoredRun(summary, tuple(content.records[:until]), tuple(content.signals))

    def signals(self, known: int = 0) -> list[Signal]:
        """Return the signals that were posted to the run, without the first ones.

        Raises:
            IntegrityError: one of them is broken.
        """
        posted = self._posted_so_far()
        if known >= len(posted.places):
            return []
        start, _, before = posted.line_of(known)
        return self._signals_between(start, posted.end)[before:]

    def signal(self, signal_id: str) -> Signal | None:
        """Return the signal with an id, if it was posted."""
        posted = self._posted_so_far()
        number = posted.numbers.get(signal_id)
        if number is None:
            return None
        start, end, before = posted.line_of(number)
        return self._signals_between(start, end)[before]

    def tail(self, after: int, limit: int | None) -> list[Record]:
        """Return the records with ``seq`` above ``after``, ``limit`` at most.

        Whoever follows a log asks for what comes next: then only that is read.

        Raises:
            IntegrityError: a line is broken.
        """
        if self.head() is None:
            return []
        before = self._known().shared_seq
        shared = self._shared().records[after:] if after < before else []
        if limit is not None and len(shared) >= limit:
            return shared[:limit]
        return shared + self._own_tail(max(after, before), limit and limit - len(shared))

    def begin(self, summary: RunSummary, run: NewRun, *, source: RunLog | None = None) -> None:
        """Write the first line, of a log that continues ``source`` if the run has a ``prefix``.

        A file that cannot take it is removed.

        Args:
            summary: the head, as it is stored.
            run: what else there is.
            source: the log of the run that ``run.prefix`` names.
        """
        files = SideFiles(self.path, secrets.token_hex(8))
        try:
            shared = () if run.prefix is None else _source_of(run.prefix, source).share(run.prefix, files)
            files.keep(run.blobs)
            birth = heads.encode_summary(summary)
            first = {**file_line.first_signals(run.signals), "format": FORMAT, "files": files.mark}
            if shared:
                first["prefix"] = list(map(asdict, shared))
            line = file_line.encode(birth, first=first, records=run.records, blobs=run.blobs)
            file_lock.sync_directory(self.path.parent)  # first: where there is a line, its file has its name for good
            self._add(line + b"\n", sync=True)
        except BaseException:
            self.remove()
            raise
        self.check_there()
        self._birth = _Birth(heads.load_object(line)["head"], files, tuple(shared))
        self._summary = heads.decode_summary(self._birth.head)

    def write(
        self,
        summary: RunSummary,
        *,
        records: Sequence[Record] = (),
        blobs: Sequence[Blob] = (),
        signal: Signal | None = None,
        sync: bool = True,
    ) -> None:
        """Add a line with the new head and what comes with it; durable when this returns, if ``sync``."""
        birth = self._known()
        birth.files.keep(blobs)
        head = {key: value for key, value in heads.encode_summary(summary).items() if value != birth.head[key]}
        told = self._told
        if head.get("waiting_for"):
            head["waiting_for"], told = told.tell(head["waiting_for"], self._end)
        self._add(file_line.encode(head, records=records, blobs=blobs, signal=signal) + b"\n", sync)
        self._told = told
        if sync:
            self.check_there()
        self._summary = summary
        if records:
            self._marks.append((summary.last_seq, self._end))

    def put_snapshot(self, snapshot: Snapshot) -> None:
        """Keep a snapshot, if the log has what is in it."""
        summary = self.head()
        if summary is None or not 1 <= snapshot.seq <= summary.last_seq:
            return
        birth, start = self._known(), None
        if snapshot.seq >= birth.shared_seq:
            last = (summary.last_seq, self._end)
            start = max(mark for mark in [(birth.shared_seq, 0), *self._marks, last] if mark[0] <= snapshot.seq)
        birth.files.put_snapshot(KeptSnapshot(snapshot, start))

    def share(self, prefix: Prefix, files: SideFiles) -> list[Segment]:
        """Give another run the records of a prefix, and their blobs, by reference.

        Raises:
            SequenceConflict: the log has no such prefix.
        """
        summary, birth = self.head(), self._known()
        assert summary is not None
        found: str | None = None
        self._settle()
        shared: list[Segment] = []
        for log, segment in self._segments(summary):
            if shared and shared[-1].last_seq >= prefix.last_seq:
                break
            content = Content(self.run_id, shared[-1].last_seq if shared else 0)
            last = min(prefix.last_seq, segment.last_seq)
            if last == content.before:
                continue
            end = content.add_until(_bytes(log, segment.end), last)
            found = content.records[last - content.before - 1].hash
            files.share_log(log, segment.log)
            files.share_blobs(birth.files, content.blobs)
            shared.append(Segment(segment.log, last, end))
        transition.check_prefix(prefix, summary.last_seq, found)
        files.sync()
        return shared

    def extent(self) -> int:
        """Return where the last complete line ends."""
        return 0 if self.fd is None else file_line.last_line(self.fd, os.fstat(self.fd).st_size)[1]

    def needed(self) -> dict[str, int]:
        """Return the marks of the logs that this one shares, and how many bytes of each."""
        return {segment.log: segment.end for segment in self._known().prefix} if self.head() else {}

    def tidy(self, mark: str) -> None:
        """Remove what a crash has left in the directory with this mark, or all of it if it belongs to no run."""
        files = self.files
        if files is None or files.mark != mark:
            SideFiles(self.path, mark).remove()
        elif self._summary:
            files.remove_unnamed(self._read_all(self._summary).blobs, self.needed())

    def remove(self) -> None:
        """Remove the log, while it is locked: who waits for the lock finds out that the file is gone."""
        if self.fd is None:
            with suppress(FileNotFoundError):
                file_lock.sync_directory(self.path.parent)  # whoever removed it may have died before that
            return
        belongings = self.belongings()
        if os.name == "nt":  # an open file cannot be removed there, but an empty one is no run
            os.ftruncate(self.fd, 0)
            self.close()
        self.path.unlink(missing_ok=True)
        self.close()
        file_lock.sync_directory(self.path.parent)
        for files in belongings:
            files.remove()

    def belongings(self) -> list[SideFiles]:
        """Return the directories of the run: of a log that cannot be read, all that have its name."""
        with suppress(FlujoError):
            if files := self.files:
                return [files]
        names = [name for name in os.listdir(self.path.parent) if log_name_of(name) == self.path.name]
        return [SideFiles(self.path, name.split(".")[-2]) for name in names]

    def _forget(self) -> None:
        self._end = 0
        self._summary = None
        self._told = NEVER
        self._posted = Posted()

    def _known(self) -> _Birth:
        assert self._birth is not None
        return self._birth

    def _catch_up(self, fd: int, size: int) -> None:
        known = self._birth, self._posted, self._told
        birth, posted, told = known if self._end else (None, Posted(), NEVER)
        self._forget()
        line, end = file_line.last_line(fd, size)
        if end < size and self._is_locked:
            _logger.warning("run %r: dropped %d bytes of an unfinished write", self.run_id, size - end)
            os.ftruncate(fd, end)
        if not end:
            return
        try:
            self._birth = birth = birth or self._parse_birth(file_line.line_at(fd, 0, end))
            head = heads.load_object(line)["head"]
            if head.get("waiting_for"):
                told = told_in(end - len(line) - 1, head["waiting_for"], partial(_waits_at, fd, end), told)
                head["waiting_for"] = told.waits
            summary = heads.decode_summary({**birth.head, **head})
            if missing := heads.encode_summary(summary).keys() - birth.head.keys():
                raise SerializationError(f"the first head lacks {', '.join(sorted(missing))}")
            self._summary = summary
        except file_line.BROKEN as error:
            raise self._first_fault(file_line.read(fd, 0, end), error) from error
        self._end, self._posted, self._told = end, posted, told
        self._doubtful = min(self._doubtful, end - len(line) - 1)  # whoever wrote the last line may have failed

    def _parse_birth(self, line: bytes) -> _Birth:
        tree = heads.load_object(line)
        if "format" not in tree:
            raise NoLog(f"{self.path.name} is no log of a run", run_id=self.run_id, seq=1)
        check_format(self.path, tree["format"], FORMAT)
        head = cast("dict[str, Any]", tree["head"])
        if file_name(head["run_id"]) != self.path.name:
            raise SerializationError(f"this is the log of run {head['run_id']!r}")
        prefix = [Segment(part["log"], part["last_seq"], part["end"]) for part in tree.get("prefix", ())]
        return _Birth(head, SideFiles(self.path, tree["files"]), tuple(prefix))

    def _first_fault(self, data: bytes, error: Exception) -> FlujoError:
        # The head cannot be read. Which line is to blame, and where in the log is it?
        content = Content(self.run_id, self._birth.shared_seq if self._birth else 0)
        try:
            content.add_all(data)
        except IntegrityError as found:
            return found
        return content.broken(f"a line without a proper head: {error!r}")

    def _segments(self, summary: RunSummary) -> list[tuple[Path, Segment]]:
        """Return where the records are: in the logs that are shared, and then in the run's own."""
        birth = self._known()
        own = (self.path, Segment(birth.files.mark, summary.last_seq, self._end))
        return [*((birth.files.shared(segment.log), segment) for segment in birth.prefix), own]

    def _read_all(self, summary: RunSummary) -> Content:
        content = self._shared()
        content.add_all(self._own_lines(0))
        self._check_end(content, summary)
        return content

    def _read_after(self, summary: RunSummary, kept: KeptSnapshot, until: int | None) -> StoredRun:
        snapshot = kept.snapshot
        if kept.start is None:
            content = self._read_all(summary)
        else:
            content = Content(self.run_id, kept.start[0])
            lines = self._own_lines(0)
            content.add_signals(lines[: kept.start[1]])
            content.add_all(lines[kept.start[1] :])
            self._check_end(content, summary)
        first = snapshot.seq - content.before
        records = content.records[first : None if until is None else until - content.before]
        return StoredRun(summary, tuple(records), tuple(content.signals), snapshot)

    def _check_end(self, content: Content, summary: RunSummary) -> None:
        if content.last_seq != summary.last_seq:
            raise content.broken(f"the log ends, though {summary.last_seq} records were written")

    def _shared(self) -> Content:
        """Return the records that are shared, with their blobs."""
        content, birth = Content(self.run_id), self._known()
        for segment in birth.prefix:
            try:
                content.add_all(_bytes(birth.files.shared(segment.log), segment.end))
            except (FileNotFoundError, file_line.TooShort) as error:
                raise content.broken(f"the log that the run continues, or its end, is gone: {error}") from error
            del content.records[segment.last_seq :]
        content.signals.clear()
        return content

    def _posted_so_far(self) -> Posted:
        if self.head() and self._posted.end < self._end:
            self._posted.look(self.run_id, self._own_lines(self._posted.end))
        return self._posted

    def _signals_between(self, start: int, end: int) -> list[Signal]:
        content = Content(self.run_id)
        content.add_signals(file_line.read(cast("int", self.fd), start, end))
        return content.signals

    def _own_lines(self, start: int) -> bytes:
        return file_line.read(cast("int", self.fd), start, self._end)

    def _own_tail(self, after: int, limit: int | None) -> list[Record]:
        before, (seq, position) = self._known().shared_seq, self._bookmark
        last = [self._last_read] if self._last_read is not None and self._last_read.seq == seq == after + 1 else []
        if not last and not before <= seq <= after:
            seq, position = before, 0
        content, lines = Content(self.run_id, seq), self._own_lines(position)
        if limit is None:
            content.add_all(lines)
            position = self._end
        else:
            position += content.add_until(lines, after + limit)
        self._bookmark = (content.last_seq, position)
        self._last_read = content.records[-1] if content.records else self._last_read
        wanted = last + content.records[max(0, after - seq) :]
        return wanted if limit is None else wanted[:limit]

    def _settle(self) -> None:
        """Make durable all that the log has: whoever wrote it may have died before that."""
        if self._doubtful < self._end:
            self._add(b"", sync=True)

    def _add(self, lines: bytes, sync: bool) -> None:
        fd = cast("int", self.fd)
        self._doubtful = min(self._doubtful, self._end)
        start = self._doubtful if sync else self._end
        try:
            file_line.write(fd, start, file_line.read(fd, start, self._end) + lines)
            if sync:
                os.fsync(fd)
                self._doubtful = sys.maxsize
        except BaseException:
            # Should even this fail, what was written is cut off later, unless all of it is there.
            with suppress(OSError):
                os.ftruncate(fd, self._end)
            self._forget()
            raise
        self._end += len(lines)


def _waits_at(fd: int, size: int, start: int) -> Any:
    return heads.load_object(file_line.line_at(fd, start, size))["head"]["waiting_for"]


def _source_of(prefix: Prefix, source: RunLog | None) -> RunLog:
    """Return the log that a fork continues.

    Raises:
        RunNotFound: there is none.
    """
    if source is None or source.head() is None:
        raise transition.missing(prefix.run_id)
    return source


def _bytes(path: Path, end: int) -> bytes:
    with path.open("rb") as file:
        return file_line.read(file.fileno(), 0, end)
