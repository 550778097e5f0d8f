"""Looking at a database as it is, on a connection of one's own."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing
from functools import partial
from typing import Final, TypeAlias, TypeVar

from flujo_async.abc.pace import Outcome
from flujo_async.backends.reply import reply, send, stopped
from flujo_async.backends.sqlite_file import SQLiteFile
from flujo_async.errors import BackendError

T = TypeVar("T")

Question: TypeAlias = Callable[[sqlite3.Connection | None], T]
"""What to read of a database; there is no connection where nothing has been written yet."""

_PATIENCE: Final = 60.0
"""For how many seconds a thread waits that can do nothing else meanwhile."""

Stopped: TypeAlias = Callable[[], bool]
"""Whether nobody waits for the answer any more."""

STEPS_BETWEEN_LOOKS: Final = 10_000  # of SQLite's machine: some milliseconds


async def look(file: SQLiteFile, question: Question[T]) -> T:
    """Answer a question in a daemon thread. It may take long: it is in nobody's way, and ends when it is cancelled."""
    return await off_the_loop(partial(_ask, file, question), file, name="flujo-look")


async def off_the_loop(work: Callable[[Stopped], T], file: SQLiteFile, *, name: str) -> T:
    """Do work on a file in a daemon thread with a name, and wait for its end, also when this is cancelled."""
    answer: asyncio.Future[T] = reply()
    stop = threading.Event()

    def give() -> None:
        outcome: Outcome
        try:
            outcome = work(stop.is_set), None
        except Exception as error:  # handed on to the caller
            outcome = None, error
        send([(answer, outcome)])

    _start(give, file, name)
    return await stopped(answer, stop.set)


def look_now(file: SQLiteFile, question: Question[T]) -> T:
    """Answer a question in a daemon thread, while this one waits: for callers that cannot wait for a coroutine.

    Raises:
        BackendError: it could not be read, or not soon enough.
    """
    answer: Future[T] = Future()

    def give() -> None:
        try:
            answer.set_result(_ask(file, question, bool))
        except Exception as error:  # handed on to the caller
            answer.set_exception(error)

    _start(give, file, "flujo-look")
    try:
        return answer.result(_PATIENCE)
    except TimeoutError as error:
        raise BackendError(
            f"{file.path}: no answer within {_PATIENCE:g} seconds; ask without waiting for it"
        ) from error


def _start(work: Callable[[], None], file: SQLiteFile, name: str) -> None:
    try:
        threading.Thread(target=work, name=name, daemon=True).start()
    except RuntimeError as error:  # there are too many threads
        raise file.explain(error) from error


def _ask(file: SQLiteFile, question: Question[T], stopped: Stopped) -> T:
    try:
        if not file.path.exists() or not file.path.stat().st_size:
            return question(None)
        with closing(file.connect("ro")) as db:
            db.set_progress_handler(stopped, STEPS_BETWEEN_LOOKS)
            return question(db)
    except Exception as error:  # handed on to the caller
        raise file.explain(error) from error
