"""Copying a whole directory of runs, and removing from it what nobody needs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from flujo_async._model.report import StorePart, StoreReport
from flujo_async.backends import file_lock
from flujo_async.backends.file_locked import LogIsBusy
from flujo_async.backends.file_log import RunLog
from flujo_async.backends.file_logs import PATIENCE, OpenLogs
from flujo_async.backends.file_name import SUFFIX, log_name_of
from flujo_async.backends.file_side import BLOBS, SideFiles, remove_unused
from flujo_async.backends.file_system_state import SYSTEM
from flujo_async.backends.unfinished import check_free, unfinished
from flujo_async.errors import FlujoError


class Beside(Protocol):
    """What a directory has beside its runs."""

    def copy_to(self, directory: Path) -> None:
        """Copy it, as it is at one instant, to another directory."""
        ...


def back_up(logs: OpenLogs, names: Iterable[str], beside: Sequence[Beside], target: Path) -> None:
    """Copy runs, and what is beside them, to the directory ``target``, which appears when all is there.

    Args:
        logs: where the runs are.
        names: the names of their logs; what others share comes first, as far as that is known.
        beside: the rest.
        target: where to.

    Raises:
        InvalidArgument: something is there already.
    """
    check_free(target)
    with unfinished(target) as part:
        part.mkdir()
        copy = _Copy(part)
        for name in names:
            with logs.using(name) as log:
                copy.add(log)
        for each in beside:
            each.copy_to(part)
        _sync_tree(part)
        part.rename(target)
        file_lock.sync_directory(target.parent)


def compact(logs: OpenLogs) -> None:
    """Remove what deleted runs and crashes have left. A run that somebody has locked for long is left for later."""
    with suppress(FileNotFoundError):
        for name in os.listdir(logs.directory):
            with suppress(LogIsBusy):
                _tidy(logs, name)
    with suppress(FileNotFoundError):
        for blob in (logs.directory / BLOBS).iterdir():
            remove_unused(blob)


def report(directory: Path) -> StoreReport:
    """Tell what is in a directory of runs; what several runs share by hard links counts once."""
    sizes: dict[tuple[int, int], tuple[str, int]] = {}
    for top, _, names in os.walk(directory):
        for name in names:
            path = Path(top, name)
            with suppress(FileNotFoundError):  # somebody has just removed it
                found = path.stat()
                sizes.setdefault((found.st_dev, found.st_ino), (_what_it_is(path, directory), found.st_size))
    kinds = {kind for kind, _ in sizes.values()}
    of_kind = {kind: [size for each, size in sizes.values() if each == kind] for kind in kinds}
    parts = [StorePart(kind, len(found), sum(found)) for kind, found in of_kind.items()]
    ranked = sorted(parts, key=lambda part: (-(part.size or 0), part.name))
    return StoreReport(size=sum(size for _, size in sizes.values()), parts=tuple(ranked))


def _what_it_is(path: Path, directory: Path) -> str:
    if path.parent == directory:
        return "logs" if path.suffix == SUFFIX else path.stem
    beside = path.relative_to(directory).parts[0]
    return beside if beside in (BLOBS, SYSTEM) else "files of runs"


def _tidy(logs: OpenLogs, name: str) -> None:
    if log_name := log_name_of(name):
        with logs.using(log_name, patience=PATIENCE) as log, suppress(FlujoError):  # a broken one is left alone
            log.tidy(name.split(".")[-2])
    elif name.endswith(SUFFIX) and (logs.directory / name).is_file():
        with logs.using(name, patience=PATIENCE) as log:
            if not log.extent():  # its creation never came to an end
                log.remove()


class _Copy:
    """Copies runs into a directory; what several of them share is stored there once, too."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._logs: dict[str, tuple[Path, int]] = {}  # by their marks: where they are, and how many bytes

    def add(self, log: RunLog) -> None:
        """Copy a run, which is locked."""
        end = log.extent()
        if not end:
            return
        copy = self._directory / log.path.name
        shutil.copyfile(log.path, copy)
        needed: dict[str, int] = {}
        with suppress(FlujoError):  # of a broken one, all that is there
            needed = log.needed()
        for files in log.belongings():
            self._logs[files.mark] = copy, end
            self._add_files(files, needed)

    def _add_files(self, files: SideFiles, needed: dict[str, int]) -> None:
        for path in files.files():
            copy = self._directory / files.path.name / path.name
            copy.parent.mkdir(exist_ok=True)
            if path.suffix == SUFFIX:
                self._add_shared(path, copy, needed)
            elif path.suffix:
                self._add_blob(path, copy)
            else:
                shutil.copyfile(path, copy)

    def _add_shared(self, path: Path, copy: Path, needed: dict[str, int]) -> None:
        known, size = self._logs.get(path.stem, (None, 0))
        if known and needed.get(path.stem, size + 1) <= size:
            file_lock.link_growing(known, copy)
        else:
            shutil.copyfile(path, copy)
            self._logs[path.stem] = copy, copy.stat().st_size

    def _add_blob(self, path: Path, copy: Path) -> None:
        master = self._directory / BLOBS / path.name
        if master.exists():
            file_lock.link_or_copy(master, copy)
        else:
            master.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)
            with suppress(OSError):  # a file system without hard links has no masters
                os.link(copy, master)


def _sync_tree(top: Path) -> None:
    for directory, _, names in os.walk(top):
        for name in names:
            file_lock.sync_file(Path(directory, name))
        file_lock.sync_directory(Path(directory))
