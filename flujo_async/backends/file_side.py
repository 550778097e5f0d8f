"""What a run keeps beside its log: blobs, the logs that it shares, a snapshot."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from flujo_async._codec.heads import dump_object, load_object
from flujo_async._model.stored import Blob, Snapshot
from flujo_async.backends import file_lock
from flujo_async.backends.file_name import SUFFIX, key_file_name, side_name
from flujo_async.errors import SerializationError

BLOBS = "blobs"
"""The directory, beside the logs, where equal blobs are found; no log has this name."""

FORMAT = 1
_SNAPSHOT = "snapshot"
_UNFINISHED = ".new"  # nothing else in such a directory begins with a dot


@dataclass(frozen=True, slots=True)
class KeptSnapshot:
    """A snapshot, and where in the log to go on from it.

    Attributes:
        snapshot: the snapshot.
        start: a ``seq``, not after that of the snapshot, and the byte of the run's own log behind its line; ``None``
            if that is in what the run shares.
    """

    snapshot: Snapshot
    start: tuple[int, int] | None


class SideFiles:
    """A directory that belongs to one log, and is made when there is something to put into it.

    The log's first line has ``mark``, and the directory has it in its name: what a deleted run has left is
    never taken for a part of another that was created under its id since.

    Each blob that the log was given has a hard link here, and one in ``BLOBS`` for others to find it. A link
    there that is the last one of its file is of no use to anybody. So nothing counts references but the file
    system, and whoever makes a link while another removes the one in ``BLOBS`` has the blob none the less.

    All but reading is done while the log is locked.

    Args:
        log: the path of the log.
        mark: tells this log from others that have had its name.
    """

    def __init__(self, log: Path, mark: str) -> None:
        self.mark = mark
        self.path: Path = log.with_name(side_name(log.name, mark))
        self._blobs = log.with_name(BLOBS)
        self._is_durable = False

    def keep(self, blobs: Collection[Blob]) -> None:
        """Keep blobs durably; those that are there already are left alone."""
        if blobs:
            self.path.mkdir(exist_ok=True)
            for blob in blobs:
                self._keep(key_file_name(blob.digest), blob.data)
            self.sync()

    def read(self, digests: Iterable[str]) -> dict[str, bytes]:
        """Return those of the blobs that are there."""
        found: dict[str, bytes] = {}
        for digest in digests:
            with suppress(FileNotFoundError):
                found[digest] = (self.path / key_file_name(digest)).read_bytes()
        return found

    def share_blobs(self, others: SideFiles, digests: Iterable[str]) -> None:
        """Take blobs from another log; ``sync`` makes it durable."""
        self.path.mkdir(exist_ok=True)
        for name in map(key_file_name, digests):
            file_lock.link_or_copy(others.path / name, self.path / name)

    def share_log(self, log: Path, mark: str) -> None:
        """Take a log, which stays here when its run is deleted; ``sync`` makes it durable."""
        self.path.mkdir(exist_ok=True)
        file_lock.link_growing(log, self.shared(mark))

    def shared(self, mark: str) -> Path:
        """Return where a log is that was shared."""
        return self.path / f"{mark}{SUFFIX}"

    def sync(self) -> None:
        """Make durable which files there are."""
        file_lock.sync_directory(self.path)
        if not self._is_durable:
            file_lock.sync_directory(self.path.parent)
            self._is_durable = True

    def put_snapshot(self, kept: KeptSnapshot) -> None:
        """Keep a snapshot in place of the one before. A failure of the machine may lose it, but not go unnoticed."""
        snapshot = kept.snapshot
        tree = {"format": FORMAT, "seq": snapshot.seq, "hash": snapshot.hash, "start": kept.start}
        data = dump_object(tree) + b"\n" + snapshot.body
        self.path.mkdir(exist_ok=True)
        file_lock.write_file(self.path / _UNFINISHED, _digest(data) + b"\n" + data, sync=False)
        os.replace(self.path / _UNFINISHED, self.path / _SNAPSHOT)

    def snapshot(self) -> KeptSnapshot | None:
        """Return the snapshot, if there is one that is whole."""
        with suppress(FileNotFoundError, SerializationError, KeyError):
            digest, _, data = (self.path / _SNAPSHOT).read_bytes().partition(b"\n")
            line, _, body = data.partition(b"\n")
            if digest == _digest(data) and (tree := load_object(line))["format"] == FORMAT:
                start = tree["start"]
                return KeptSnapshot(Snapshot(tree["seq"], tree["hash"], body), start and (start[0], start[1]))
        return None

    def files(self) -> list[Path]:
        """Return what is there, without what is unfinished."""
        return [self.path / name for name in _names(self.path) if name != _UNFINISHED]

    def remove(self) -> None:
        """Remove the directory with all that is in it."""
        self.remove_all_but(())
        with suppress(FileNotFoundError):
            self.path.rmdir()

    def remove_all_but(self, names: Collection[str]) -> None:
        """Remove all files that are not among ``names``."""
        for name in _names(self.path):
            if name not in names:
                (self.path / name).unlink(missing_ok=True)
                remove_unused(self._blobs / name)

    def remove_unnamed(self, digests: Iterable[str], marks: Iterable[str]) -> None:
        """Remove what the log does not name: what was put here for a line that was never written."""
        logs = [f"{mark}{SUFFIX}" for mark in marks]
        self.remove_all_but({_SNAPSHOT, *logs, *map(key_file_name, digests)})

    def _keep(self, name: str, data: bytes) -> None:
        own = self.path / name
        if own.exists():
            return
        try:
            os.link(self._blobs / name, own)
        except OSError:  # no run has it, or the file system gives it no more links
            file_lock.write_file(self.path / _UNFINISHED, data)
            os.replace(self.path / _UNFINISHED, own)
            self._offer(own)

    def _offer(self, own: Path) -> None:
        # Only to save space: without hard links each run has its blobs for itself.
        with suppress(OSError):
            self._blobs.mkdir(exist_ok=True)
            (self._blobs / own.name).unlink(missing_ok=True)
            os.link(own, self._blobs / own.name)


def remove_unused(blob: Path) -> None:
    """Remove a blob from ``BLOBS`` if no run has it any more."""
    with suppress(FileNotFoundError):
        if blob.stat().st_nlink == 1:
            blob.unlink()


def _names(directory: Path) -> list[str]:
    with suppress(FileNotFoundError):
        return os.listdir(directory)
    return []


def _digest(data: bytes) -> bytes:
    return sha256(data).hexdigest().encode()
