"""All logs of a directory: those that are open, and the heads of all."""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from flujo_async._model.summary import RunSummary
from flujo_async.backends.file_locked import LogIsBusy
from flujo_async.backends.file_log import NoLog, RunLog
from flujo_async.backends.file_name import SUFFIX, run_id_of
from flujo_async.backends.forked import Opener
from flujo_async.errors import IntegrityError

T = TypeVar("T")

PATIENCE = 0.25
"""How many seconds those who look at many logs wait for one of them; a write takes some milliseconds."""

_MAX_OPEN_LOGS = 64
_MAX_KNOWN_HEADS = 50_000

_logger = logging.getLogger("flujo_async")


class OpenLogs:
    """The logs that were used last, kept open: an append then neither opens its file nor reads it again.

    Args:
        directory: where the logs are.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._start_over()

    @contextmanager
    def using(self, name: str, *, create: bool = False, patience: float | None = None) -> Generator[RunLog]:
        """Lend the log in the file ``name``, locked.

        Raises:
            LogIsBusy: somebody else has had it for longer than ``patience``.
        """
        log = self._borrow(name)
        try:
            with log.locked(create=create, patience=patience):
                yield log
        finally:
            self._give_back(log)

    @contextmanager
    def using_all(self, names: Collection[str], *, create: str) -> Generator[dict[str, RunLog]]:
        """Lend several logs; that with the name ``create`` is made if it is not there."""
        with ExitStack() as stack:
            # In one order for all, so that nobody waits for somebody who waits for them.
            yield {
                name: stack.enter_context(self.using(name, create=name == create)) for name in sorted(frozenset(names))
            }

    def look(self, name: str, view: Callable[[RunLog], T]) -> T:
        """Return what ``view`` finds in a log, for those who look at many.

        A process that was stopped while it had the lock does not hold them up: after ``PATIENCE`` they look at the
        log as it is. What they see may then be one write ahead of what is durable, and is never a part of one.
        """
        try:
            with self.using(name, patience=PATIENCE) as log:
                return view(log)
        except LogIsBusy:
            log = RunLog(self.directory / name)
            with log.unlocked():
                return view(log)

    def names(self) -> Iterator[os.DirEntry[str]]:
        """Yield the files that are logs."""
        try:
            entries = os.scandir(self.directory)
        except FileNotFoundError:
            return
        with entries:
            yield from (entry for entry in entries if entry.name.endswith(SUFFIX) and entry.is_file())

    def close_idle(self, keep: int = 0) -> None:
        """Close logs that nobody uses, the one unused for longest first, until ``keep`` are left."""
        with self._guard:
            idle = [name for name, log in self._logs.items() if not log.users]
            for name in idle[: max(0, len(self._logs) - keep)]:
                self._logs.pop(name).close()

    def _start_over(self) -> None:
        self._opener = Opener()
        self._guard = threading.Lock()
        self._logs: OrderedDict[str, RunLog] = OrderedDict()

    def _borrow(self, name: str) -> RunLog:
        if not self._opener.is_here():
            # A forked child shares its parent's open files, and the system sees their locks as one.
            self._start_over()
        with self._guard:
            log = self._logs.get(name) or RunLog(self.directory / name)
            self._logs[name] = log
            self._logs.move_to_end(name)
            log.users += 1
            return log

    def _give_back(self, log: RunLog) -> None:
        with self._guard:
            log.users -= 1
            crowded = len(self._logs) > _MAX_OPEN_LOGS
        if crowded:
            self.close_idle(_MAX_OPEN_LOGS)


class Heads:
    """The heads of all runs; a file that has not changed since is not opened again.

    Args:
        logs: the logs of the runs.
    """

    def __init__(self, logs: OpenLogs) -> None:
        self._logs = logs
        self._known: dict[str, tuple[tuple[int, ...], RunSummary]] = {}

    def all(self) -> list[RunSummary]:
        """Return the heads of all runs, in no order."""
        known: dict[str, tuple[tuple[int, ...], RunSummary]] = {}
        summaries: list[RunSummary] = []
        for entry in self._logs.names():
            mark = _mark(entry)
            seen, summary = self._known.get(entry.name, ((), None))
            if mark and (seen != mark or summary is None):
                summary = self.read(entry.name)
            if mark and summary:
                summaries.append(summary)
                known[entry.name] = mark, summary
        self._known = known if len(known) <= _MAX_KNOWN_HEADS else {}
        return summaries

    def read(self, name: str) -> RunSummary | None:
        """Return the head of the run whose log is the file ``name``; ``None`` if the file is something else.

        A log that is broken hides no run and keeps none of the others from being listed: it stands for a failed
        run that says so.
        """
        try:
            return self._logs.look(name, RunLog.head)
        except NoLog:
            return None
        except IntegrityError as error:
            _logger.error("%s: %s", self._logs.directory / name, error)
            return _broken_run(run_id_of(name), str(error))


def _mark(entry: os.DirEntry[str]) -> tuple[int, ...] | None:
    """Return what tells one content of a file from another without reading it; ``None`` if it is gone."""
    try:
        stat = entry.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _broken_run(run_id: str, message: str) -> RunSummary:
    never = datetime.fromtimestamp(0, UTC)
    return RunSummary(
        run_id=run_id,
        pipeline_name="",
        pipeline_version="",
        status="failed",
        created_at=never,
        updated_at=never,
        error_message=message,
    )
