"""One run as one file: JSON lines that say all there is to say of it.

The first line has the format and the head of the run, then comes a line for each signal, blob and record, and a last
line by which a whole file is told from the beginning of one. Facts and blobs stand in their lines byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Final, cast

from flujo_async._codec import heads
from flujo_async._codec.tree import check_format, dumps, loads
from flujo_async._log.audit import audit
from flujo_async._log.gradual import Gradual, each_of
from flujo_async._model.stored import Blob, Record, Signal, StoredRun
from flujo_async._model.summary import RunSummary
from flujo_async.errors import IntegrityError, InvalidArgument, SerializationError

FORMAT: Final = 1
_KIND: Final = "flujo-async run"


@dataclass(frozen=True, slots=True)
class RunFile:
    """What a file has: a run, and the blobs that its records name."""

    run: StoredRun
    blobs: tuple[Blob, ...]


def dump_run(run: StoredRun, blobs: Mapping[str, bytes]) -> Gradual[bytes]:
    """Return a run as a file.

    Args:
        run: the whole run; its lease, and who shares its log with it, is left out.
        blobs: the blobs that its records name, by digest.

    Raises:
        IntegrityError: the run is broken, or a blob is missing.
    """
    fold = yield from audit(run, blobs)
    head = heads.encode_summary(replace(run.summary, lease=None))
    first = dumps({"file": _KIND, "format": FORMAT, "head": head})
    signals = [dumps({"signal": heads.encode_signal(signal)}) for signal in run.signals]
    large = [b'{"blob":"%s","data":%s}' % (digest.encode(), data) for digest, data in sorted(blobs.items())]
    facts = [
        b'{"seq":%d,"hash":"%s","fact":%s}' % (record.seq, record.hash.encode(), record.body) for record in run.records
    ]
    body = b"".join(line + b"\n" for line in (first, *signals, *large, *facts))
    counts = {"signals": len(signals), "blobs": len(large), "facts": len(facts)}
    return body + dumps({"end": {**counts, "hash": fold.hash, "sha256": sha256(body).hexdigest()}}) + b"\n"


def load_run(data: bytes) -> Gradual[RunFile]:
    """Return what ``dump_run`` wrote, verified.

    Raises:
        InvalidArgument: this is no file of a run.
        SchemaTooNew: a newer version of this package wrote it.
        IntegrityError: it is not whole, or was changed.
    """
    head = _head(data)
    lines = _Lines(head.run_id)
    try:
        yield from each_of(data.splitlines(keepends=True)[1:], lines.take)
    except (SerializationError, KeyError, TypeError, ValueError) as error:
        raise lines.broken(f"not a line of a run: {error!r}") from error
    run = StoredRun(head, tuple(lines.records), tuple(lines.signals.values()))
    if lines.end is None:
        raise lines.broken("the file ends here, and lacks its last line")
    fold = yield from audit(run, {blob.digest: blob.data for blob in lines.blobs})
    body = data[: data.rstrip(b"\n").rfind(b"\n") + 1]
    if lines.end.get("hash") != fold.hash or lines.end.get("sha256") != sha256(body).hexdigest():
        raise IntegrityError("the last line does not fit what is before it", run_id=head.run_id, seq=fold.seq)
    return RunFile(run, tuple(lines.blobs))


def _head(data: bytes) -> RunSummary:
    line, newline, _ = data.partition(b"\n")
    try:
        first = cast("dict[str, Any]", loads(line))
        kind, version = first["file"], first["format"]
    except (SerializationError, KeyError, TypeError) as error:
        raise InvalidArgument("this is no file that a run was exported to") from error
    if kind != _KIND or not isinstance(version, int) or not newline:
        raise InvalidArgument("this is no file that a run was exported to")
    check_format("the file", version, FORMAT)
    try:
        return heads.decode_summary(first["head"])
    except (SerializationError, KeyError) as error:
        raise InvalidArgument(f"the first line of the file has no proper head of a run: {error}") from error


class _Lines:
    """Takes in the lines behind the first."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.records: list[Record] = []
        self.signals: dict[str, Signal] = {}
        self.blobs: list[Blob] = []
        self.end: Mapping[str, Any] | None = None

    def take(self, lines: Iterable[bytes]) -> None:
        """Take in the next lines.

        Raises:
            SerializationError, KeyError, TypeError, ValueError: one is none.
        """
        for line in lines:
            self._take(line)

    def _take(self, line: bytes) -> None:
        tree = cast("dict[str, Any]", loads(line))
        if self.end is not None or not line.endswith(b"\n"):
            raise ValueError("a line that is not complete, or behind the last")
        for key, take in self._takers():
            if key in tree:
                return take(tree, line)
        raise KeyError("seq")

    def broken(self, message: str) -> IntegrityError:
        """Return the error for what comes after what was taken."""
        return IntegrityError(message, run_id=self.run_id, seq=len(self.records) + 1)

    def _takers(self) -> Iterator[tuple[str, Callable[[dict[str, Any], bytes], None]]]:
        yield "fact", self._take_record
        yield "signal", self._take_signal
        yield "blob", self._take_blob
        yield "end", self._take_end

    def _take_record(self, tree: dict[str, Any], line: bytes) -> None:
        self.records.append(Record(int(tree["seq"]), _behind(b'"fact":', line), str(tree["hash"])))

    def _take_signal(self, tree: dict[str, Any], line: bytes) -> None:
        signal = heads.decode_signal(tree["signal"])
        if signal.run_id != self.run_id or signal.signal_id in self.signals:
            raise ValueError(f"the signal {signal.signal_id!r} is another run's, or the same again")
        self.signals[signal.signal_id] = signal

    def _take_blob(self, tree: dict[str, Any], line: bytes) -> None:
        self.blobs.append(Blob(str(tree["blob"]), _behind(b'"data":', line)))

    def _take_end(self, tree: dict[str, Any], line: bytes) -> None:
        self.end = dict(tree["end"])


def _behind(key: bytes, line: bytes) -> bytes:
    """Return the bytes of the value of the last key of a line."""
    return line[line.index(key) + len(key) : -2]
