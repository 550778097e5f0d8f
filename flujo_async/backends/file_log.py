"""One run's log on disk: JSON lines that are only ever added.

A line is one write of the store: ``{"records": […], "signal": {…}, "head": {…}}``. ``records`` and ``signal``
are there when it brought some. The ``head`` of the first line is complete, each later one holds what differs
from the first, so the first and the last line are the head of the run, however long the log is. The first line
also has ``format``, the version of this layout.

A line counts when its newline is there. What stands behind the last newline is the rest of a write that never
finished, and is cut off. Everybody who looks at the file holds the lock, so nobody sees half a write.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from flujo_async._codec import heads
from flujo_async._codec.tree import dumps, loads
from flujo_async._model.stored import Record, Signal, StoredRun
from flujo_async._model.summary import RunSummary
from flujo_async.backends import file_lock
from flujo_async.backends.file_name import file_name, run_id_of
from flujo_async.errors import FlujoError, IntegrityError, SchemaTooNew, SerializationError

FORMAT = 1
_BLOCK = 4096
_logger = logging.getLogger("flujo_async")


class RunLog:
    """The log of one run, with what is known of it in memory; one thread at a time uses it.

    What is known stays true while the file is as long as it was: a log only grows.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run_id: str = run_id_of(path.name)
        self.mutex: threading.Lock = threading.Lock()
        self.users = 0
        self._fd: int | None = None
        self._end = 0  # behind the last complete line; what follows is known only if it is not 0
        # What stands behind this may be in memory only: a sync that fails lets the system forget to write it, and the
        # next one succeeds without. So it is written again, before the next sync.
        self._doubtful = sys.maxsize
        self._birth: dict[str, Any] = {}
        self._summary: RunSummary | None = None
        self._signal_ids: set[str] | None = None
        self._bookmark = (0, 0)  # up to which seq the log was read last, and where the next line begins

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Give back the file descriptor, if there is one."""
        fd, self._fd = self._fd, None
        self._forget()
        if fd is not None:
            os.close(fd)

    @contextmanager
    def locked(self, *, create: bool = False) -> Generator[None]:
        """Keep everybody else, in this process and in others, away from the log."""
        with self.mutex:
            self._lock(create)
            try:
                yield
            finally:
                if self._fd is not None:
                    file_lock.unlock(self._fd)

    # What follows is called while the log is locked.

    def head(self) -> RunSummary | None:
        """Return the head of the run; ``None`` if there is no such run.

        Raises:
            IntegrityError: the log is broken.
        """
        if self._fd is not None:
            size = os.fstat(self._fd).st_size
            if size != self._end:
                self._catch_up(self._fd, size)
        return self._summary

    def read(self) -> StoredRun | None:
        """Return the whole run; ``None`` if there is no such run.

        Raises:
            IntegrityError: a line is broken, or records are missing.
        """
        summary = self.head()
        if summary is None or self._fd is None:
            return None
        records, signals = self._parse_all(_read(self._fd, 0, self._end))
        if len(records) != summary.last_seq:
            raise self._broken(f"the log ends, though {summary.last_seq} records were written", len(records) + 1)
        self._signal_ids = {signal.signal_id for signal in signals}
        return StoredRun(summary, tuple(records), tuple(signals))

    def tail(self, after: int, limit: int | None) -> list[Record]:
        """Return the records with ``seq`` above ``after``, ``limit`` at most.

        Whoever follows a log asks for what comes next: then only that is read.

        Raises:
            IntegrityError: a line is broken.
        """
        if self.head() is None or self._fd is None:
            return []
        seq, position = self._bookmark if self._bookmark[0] <= after else (0, 0)
        records: list[Record] = []
        for line in _read(self._fd, position, self._end).splitlines(keepends=True):
            if limit is not None and seq + len(records) >= after + limit:
                break
            self._parse_line(line, records, [], seq)
            position += len(line)
        self._bookmark = (seq + len(records), position)
        wanted = records[after - seq :]
        return wanted if limit is None else wanted[:limit]

    def has_signal(self, signal_id: str) -> bool:
        """Tell whether a signal was posted already."""
        if self._signal_ids is None:
            self.read()
        return self._signal_ids is not None and signal_id in self._signal_ids

    def begin(self, summary: RunSummary, records: Sequence[Record]) -> None:
        """Write the first line. A file that cannot take it is removed."""
        birth = heads.encode_summary(summary)
        line = dumps({"format": FORMAT, "records": list(map(_encode_record, records)), "head": birth})
        try:
            self._add(line, sync=True)
            file_lock.sync_directory(self.path.parent)
        except BaseException:
            self.remove()
            raise
        self._birth = cast("dict[str, Any]", loads(line))["head"]
        self._summary = heads.decode_summary(self._birth)

    def write(
        self, summary: RunSummary, *, records: Sequence[Record] = (), signal: Signal | None = None, sync: bool = True
    ) -> None:
        """Add a line with the new head and what comes with it; durable when this returns, if ``sync``."""
        head = heads.encode_summary(summary)
        line: dict[str, Any] = {}
        if records:
            line["records"] = list(map(_encode_record, records))
        if signal:
            line["signal"] = heads.encode_signal(signal)
        line["head"] = {key: value for key, value in head.items() if value != self._birth[key]}
        self._add(dumps(line), sync)
        self._summary = summary
        if signal and self._signal_ids is not None:
            self._signal_ids.add(signal.signal_id)

    def remove(self) -> None:
        """Remove the log, while it is locked: who waits for the lock finds out that the file is gone."""
        if self._fd is None:
            return
        if os.name == "nt":  # an open file cannot be removed there, but an empty one is no run
            os.ftruncate(self._fd, 0)
            self.close()
        self.path.unlink(missing_ok=True)
        self.close()
        file_lock.sync_directory(self.path.parent)

    def _forget(self) -> None:
        self._end = 0
        self._birth = {}
        self._summary = None
        self._signal_ids = None

    def _lock(self, create: bool) -> None:
        while True:
            if self._fd is None and not self._open(create):
                return
            fd = cast("int", self._fd)
            file_lock.lock(fd)
            if os.fstat(fd).st_nlink:
                return
            self.close()  # the run was deleted; a new one may have the name

    def _open(self, create: bool) -> bool:
        flags = os.O_RDWR | file_lock.BINARY | (os.O_CREAT if create else 0)
        try:
            self._fd = os.open(self.path, flags, 0o666)
        except FileNotFoundError:
            if create:
                raise
            return False
        self._bookmark = (0, 0)
        return True

    def _catch_up(self, fd: int, size: int) -> None:
        birth = self._birth if self._end else None
        self._forget()
        line, end = _last_line(fd, size)
        if end < size:
            _logger.warning("run %r: dropped %d bytes of an unfinished write", self.run_id, size - end)
            os.ftruncate(fd, end)
        if not end:
            return
        try:
            self._birth = birth or self._parse_birth(_first_line(fd, end))
            summary = heads.decode_summary({**self._birth, **_parse(line)["head"]})
            if missing := heads.encode_summary(summary).keys() - self._birth.keys():
                raise SerializationError(f"the first head lacks {', '.join(sorted(missing))}")
            self._summary = summary
        except (SerializationError, KeyError, TypeError, AttributeError) as error:
            raise self._first_fault(_read(fd, 0, end), error) from error
        self._end = end
        self._doubtful = min(self._doubtful, end - len(line) - 1)  # whoever wrote the last line may have failed

    def _parse_birth(self, line: bytes) -> dict[str, Any]:
        tree = _parse(line)
        if tree["format"] > FORMAT:
            raise SchemaTooNew(f"{self.path} has format {tree['format']}; this version reads up to {FORMAT}")
        birth = cast("dict[str, Any]", tree["head"])
        if file_name(birth["run_id"]) != self.path.name:
            raise SerializationError(f"this is the log of run {birth['run_id']!r}")
        return birth

    def _first_fault(self, data: bytes, error: Exception) -> FlujoError:
        # The head cannot be read. Which line is to blame, and where in the log is it?
        try:
            records, _ = self._parse_all(data)
        except IntegrityError as found:
            return found
        return self._broken(f"a line without a proper head: {error!r}", len(records) + 1)

    def _parse_all(self, data: bytes) -> tuple[list[Record], list[Signal]]:
        records: list[Record] = []
        signals: list[Signal] = []
        for line in data.splitlines():
            self._parse_line(line, records, signals, 0)
        return records, signals

    def _parse_line(self, line: bytes, records: list[Record], signals: list[Signal], before: int) -> None:
        """Add what a line brings to ``records``, of which the first has ``seq`` ``before + 1``, and to ``signals``."""
        known = len(records)
        try:
            _collect(_parse(line), records, signals)
        except (SerializationError, KeyError, TypeError, AttributeError) as error:
            raise self._broken(f"not a line of a log: {error!r}", before + known + 1) from error
        for seq, record in enumerate(records[known:], before + known + 1):
            if record.seq != seq:
                raise self._broken(f"the log goes on with seq {record.seq}", seq)

    def _broken(self, message: str, seq: int) -> IntegrityError:
        return IntegrityError(message, run_id=self.run_id, seq=seq)

    def _add(self, line: bytes, sync: bool) -> None:
        fd = cast("int", self._fd)
        self._doubtful = min(self._doubtful, self._end)
        start = self._doubtful if sync else self._end
        try:
            _write(fd, start, _read(fd, start, self._end) + line + b"\n")
            if sync:
                os.fsync(fd)
                self._doubtful = sys.maxsize
        except BaseException:
            # Should even this fail, what was written is cut off later, unless all of it is there.
            with suppress(OSError):
                os.ftruncate(fd, self._end)
            self._forget()
            raise
        self._end += len(line) + 1


def _encode_record(record: Record) -> dict[str, Any]:
    """Return a record with its fact as an object that people can read, if that keeps every byte."""
    with suppress(SerializationError):
        fact = loads(record.body)
        if dumps(fact) == record.body:
            return {"seq": record.seq, "hash": record.hash, "fact": fact}
    return heads.encode_record(record)


def _decode_record(tree: dict[str, Any]) -> Record:
    if "fact" not in tree:
        return heads.decode_record(tree)
    return Record(tree["seq"], dumps(tree["fact"]), tree["hash"])


def _collect(tree: dict[str, Any], records: list[Record], signals: list[Signal]) -> None:
    # All of a line or nothing of it, so that a broken one is named by its first record.
    signal = heads.decode_signal(tree["signal"]) if "signal" in tree else None
    records.extend([_decode_record(record) for record in tree.get("records", ())])
    if signal:
        signals.append(signal)


def _parse(line: bytes) -> dict[str, Any]:
    return cast("dict[str, Any]", loads(line))


def _first_line(fd: int, size: int) -> bytes:
    length = _BLOCK
    while True:
        line, newline, _ = _read(fd, 0, min(length, size)).partition(b"\n")
        if newline:
            return line
        length *= 2


def _last_line(fd: int, size: int) -> tuple[bytes, int]:
    """Return the last complete line, and where it ends; ``(b"", 0)`` if there is none."""
    length = _BLOCK
    while True:
        start = max(0, size - length)
        data = _read(fd, start, size)
        last = data.rfind(b"\n")
        before = data.rfind(b"\n", 0, max(last, 0))
        if before >= 0 or start == 0:
            return data[before + 1 : max(last, 0)], start + last + 1
        length *= 2


def _read(fd: int, start: int, end: int) -> bytes:
    os.lseek(fd, start, os.SEEK_SET)
    chunks: list[bytes] = []
    missing = end - start
    while missing > 0:
        chunk = os.read(fd, missing)
        if not chunk:
            raise OSError(f"the file ends {missing} bytes before byte {end}")
        chunks.append(chunk)
        missing -= len(chunk)
    return b"".join(chunks)


def _write(fd: int, start: int, data: bytes) -> None:
    os.lseek(fd, start, os.SEEK_SET)
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
