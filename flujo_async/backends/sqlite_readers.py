"""Reading from SQLite, while the writer writes."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeAlias

from flujo_async.backends.reply import Outcome, reply, send

Rows: TypeAlias = list[tuple[Any, ...]]
Connect: TypeAlias = Callable[[], sqlite3.Connection]
Explain: TypeAlias = Callable[[Exception], Exception]


class Readers:
    """A few connections, each in a daemon thread of its own, which begins when all others are busy.

    So it does not matter in which loop a caller lives, whether it is cancelled, or whether its loop is closed
    meanwhile: a statement that has begun is carried to its end, and its connection serves the next one. A forgotten
    ``stop`` does not keep the process alive.

    Args:
        connect: opens a connection, in the thread that is to use it.
        explain: returns the exception that a caller gets for an error; a new one for each caller.
        size: how many connections.
    """

    def __init__(self, connect: Connect, explain: Explain, *, size: int = 3) -> None:
        self._connect = connect
        self._explain = explain
        self._size = size
        self._guard = threading.Lock()  # never held for longer than it takes to start a thread
        self._desk: _Desk | None = None

    @property
    def are_open(self) -> bool:
        """Whether there are threads that read, or are about to."""
        return self._desk is not None

    async def fetch(self, sql: str, values: Mapping[str, Any]) -> Rows:
        """Return all rows of one statement, which is one read transaction."""
        answer: asyncio.Future[Rows] = reply()
        with self._guard:
            desk = self._desk or _Desk(self._connect, self._explain)
            if desk.waiting >= desk.threads and desk.threads < self._size:
                self._start(desk)
            self._desk = desk
            desk.hand_in(_Request(sql, values, answer))
        return await answer

    async def stop(self) -> None:
        """Finish the statements that wait, close the connections and end the threads."""
        with self._guard:
            desk, self._desk = self._desk, None
        if desk is not None:
            done = reply()
            desk.inbox.put(_Stop(done))
            await done

    def _start(self, desk: _Desk) -> None:
        try:
            desk.start()
        except RuntimeError as error:  # there are too many threads
            if not desk.threads:
                raise self._explain(error) from error

    def __del__(self) -> None:
        if self._desk is not None:
            self._desk.inbox.put(_Stop(None))


@dataclass(frozen=True, slots=True)
class _Request:
    sql: str
    values: Mapping[str, Any]
    reply: asyncio.Future[Rows]


@dataclass(frozen=True, slots=True)
class _Stop:
    reply: asyncio.Future[None] | None


class _Desk:
    """What the threads share.

    Attributes:
        inbox: what is to be done.
        threads: how many threads there are.
        waiting: how many requests have no outcome yet.
    """

    def __init__(self, connect: Connect, explain: Explain) -> None:
        self._connect = connect
        self._explain = explain
        self._guard = threading.Lock()
        self.inbox: SimpleQueue[_Request | _Stop] = SimpleQueue()
        self.threads = 0
        self.waiting = 0

    def start(self) -> None:
        """Start another thread."""
        threading.Thread(target=self._read, name="flujo-reader", daemon=True).start()
        self.threads += 1

    def hand_in(self, request: _Request) -> None:
        """Put a request on the desk."""
        with self._guard:
            self.waiting += 1
        self.inbox.put(request)

    def _read(self) -> None:
        connection: sqlite3.Connection | None = None
        while isinstance(item := self.inbox.get(), _Request):
            try:
                connection = connection or self._connect()
                outcome: Outcome = connection.execute(item.sql, item.values).fetchall(), None
            except Exception as error:  # handed on to its caller
                outcome = None, self._explain(error)
                _close(connection)
                connection = None
            with self._guard:  # before the answer: whoever comes back with the next request finds this thread free
                self.waiting -= 1
            send([(item.reply, outcome)])
            del item, outcome  # what was read may be large, and the next request far away
        _close(connection)
        self._leave(item)

    def _leave(self, stop: _Stop) -> None:
        with self._guard:
            self.threads -= 1
            is_last = not self.threads
        if not is_last:
            self.inbox.put(stop)
        elif stop.reply is not None:
            send([(stop.reply, (None, None))])


def _close(connection: sqlite3.Connection | None) -> None:
    if connection is not None:
        with suppress(sqlite3.Error):  # what was to be read has been read
            connection.close()
