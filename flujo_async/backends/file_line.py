"""The lines of a run's log, and what they bring."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from flujo_async._codec import heads
from flujo_async._codec.tree import dumps, loads
from flujo_async._model.stored import Blob, Record, Signal
from flujo_async.errors import IntegrityError, SerializationError

_BLOCK = 4096
_SIGNALS = b'{"signal'  # one, or several

BROKEN = (SerializationError, KeyError, TypeError, AttributeError)
"""What reading a line raises that nobody wrote."""


class TooShort(OSError):
    """A file ends before what is to be read of it."""


def encode(
    head: dict[str, Any],
    *,
    first: dict[str, Any] | None = None,
    records: Sequence[Record] = (),
    blobs: Sequence[Blob] = (),
    signal: Signal | None = None,
) -> bytes:
    """Return one write as a line, without the newline; ``first`` is what only the first line of a log has."""
    line = dict(first or {})
    if records:
        line["records"] = list(map(_encode_record, records))
    if blobs:
        line["blobs"] = [blob.digest for blob in blobs]
    if signal:
        line["signal"] = heads.encode_signal(signal)
    line["head"] = head
    return dumps(line)


def first_signals(signals: Sequence[Signal]) -> dict[str, Any]:
    """Return the beginning of a first line: what is there if the run is created with signals."""
    return {"signals": list(map(heads.encode_signal, signals))} if signals else {}


@dataclass(slots=True)
class Content:
    """What lines have brought, one after the other.

    Attributes:
        run_id: the run they belong to.
        before: the ``seq`` behind which the lines begin.
    """

    run_id: str
    before: int = 0
    records: list[Record] = field(default_factory=list[Record])
    signals: list[Signal] = field(default_factory=list[Signal])
    blobs: set[str] = field(default_factory=set[str])

    @property
    def last_seq(self) -> int:
        """The ``seq`` of the last record."""
        return self.before + len(self.records)

    def add(self, line: bytes) -> None:
        """Take what the next line brings: all of it, or nothing.

        Raises:
            IntegrityError: it is no line of a log, or not the next one.
        """
        try:
            tree = heads.load_object(line)
            signals = _signals(tree)
            records = [_decode_record(record) for record in tree.get("records", ())]
            blobs = set[str](tree.get("blobs", ()))
        except BROKEN as error:
            raise self._no_line(error) from error
        for seq, record in enumerate(records, self.last_seq + 1):
            if record.seq != seq:
                raise IntegrityError(f"the log goes on with seq {record.seq}", run_id=self.run_id, seq=seq)
        self.records += records
        self.signals += signals
        self.blobs |= blobs

    def add_all(self, lines: bytes) -> None:
        """Take what all these lines bring."""
        for line in lines.splitlines():
            self.add(line)

    def add_signals(self, lines: bytes) -> None:
        """Take the signals of lines, and look at no other line."""
        try:
            for line in lines.splitlines():
                if line.startswith(_SIGNALS):
                    self.signals += _signals(heads.load_object(line))
        except BROKEN as error:
            raise self._no_line(error) from error

    def add_until(self, lines: bytes, seq: int) -> int:
        """Take lines until the record ``seq`` is there; return how many bytes that were."""
        position = 0
        for line in lines.splitlines(keepends=True):
            if self.last_seq >= seq:
                break
            self.add(line)
            position += len(line)
        return position

    def broken(self, message: str) -> IntegrityError:
        """Return the error for a fault in what follows the last record."""
        return IntegrityError(message, run_id=self.run_id, seq=self.last_seq + 1)

    def _no_line(self, error: Exception) -> IntegrityError:
        return self.broken(f"not a line of a log: {error!r}")


def line_at(fd: int, start: int, size: int) -> bytes:
    """Return the line of a file that begins at ``start``."""
    length = _BLOCK
    while True:
        line, newline, _ = read(fd, start, min(start + length, size)).partition(b"\n")
        if newline:
            return line
        length *= 2


def last_line(fd: int, size: int) -> tuple[bytes, int]:
    """Return the last complete line, and where it ends; ``(b"", 0)`` if there is none."""
    length = _BLOCK
    while True:
        start = max(0, size - length)
        data = read(fd, start, size)
        last = data.rfind(b"\n")
        before = data.rfind(b"\n", 0, max(last, 0))
        if before >= 0 or start == 0:
            return data[before + 1 : max(last, 0)], start + last + 1
        length *= 2


def read(fd: int, start: int, end: int) -> bytes:
    """Return these bytes of a file.

    Raises:
        TooShort: the file ends before that.
    """
    os.lseek(fd, start, os.SEEK_SET)
    chunks: list[bytes] = []
    missing = end - start
    while missing > 0:
        chunk = os.read(fd, missing)
        if not chunk:
            raise TooShort(f"the file ends {missing} bytes before byte {end}")
        chunks.append(chunk)
        missing -= len(chunk)
    return b"".join(chunks)


def write(fd: int, start: int, data: bytes) -> None:
    """Write all of ``data`` at ``start``."""
    os.lseek(fd, start, os.SEEK_SET)
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _encode_record(record: Record) -> dict[str, Any]:
    """Return a record with its fact as an object that people can read, if that keeps every byte."""
    with suppress(SerializationError):
        fact = loads(record.body)
        if dumps(fact) == record.body:
            return {"seq": record.seq, "hash": record.hash, "fact": fact}
    return heads.encode_record(record)


def _signals(tree: dict[str, Any]) -> list[Signal]:
    signals = [tree["signal"]] if "signal" in tree else tree.get("signals", ())
    return list(map(heads.decode_signal, signals))


def _decode_record(tree: dict[str, Any]) -> Record:
    if "fact" not in tree:
        return heads.decode_record(tree)
    return Record(tree["seq"], dumps(tree["fact"]), tree["hash"])
