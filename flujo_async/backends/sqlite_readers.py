"""Connections that read, shared by all event loops."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from traceback import clear_frames
from typing import Any, Final, TypeAlias, cast

import aiosqlite

from flujo_async.abc.pace import Outcome
from flujo_async.backends.forked import Opener
from flujo_async.backends.reply import reply, send

Rows: TypeAlias = list[tuple[Any, ...]]
Connect: TypeAlias = Callable[[], sqlite3.Connection]
Explain: TypeAlias = Callable[[Exception], Exception]

_ROWS_AT_ONCE: Final = 64  # aiosqlite asks; it matters to cursors, of which there are none here


class Readers:
    """A few connections, each opened when all others are busy.

    They live in an event loop of their own, in a daemon thread. So it does not matter in which loop a caller
    lives, whether it is cancelled, or whether its loop is closed meanwhile: a statement that has begun is
    carried to its end, and its connection serves the next one. The thread of an aiosqlite connection inherits
    being a daemon from the thread that makes the connection, so a forgotten ``stop`` does not keep the
    process alive.

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
        """Whether somebody has read since they were made or stopped."""
        return self._desk is not None

    async def fetch(self, sql: str, values: Mapping[str, Any]) -> Rows:
        """Return all rows of one statement, which is one read transaction."""
        if (desk := self._desk) is not None:
            desk.opener.check()
        answer: asyncio.Future[Rows] = reply()
        with self._guard:
            self._desk = self._desk or self._set_up()
            self._desk.hand_in(_Request(sql, values, answer))
        return await answer

    async def stop(self) -> None:
        """Finish the statements that wait, close the connections and end the threads."""
        with self._guard:
            desk = self._desk
            if desk is None or not desk.opener.is_here():  # a forked child has nothing to stop
                return
            self._desk = None
        done = reply()
        desk.hand_in(_Stop(done))
        await done

    def _set_up(self) -> _Desk:
        try:
            return _Desk(self._connect, self._explain, self._size)
        except (OSError, RuntimeError) as error:  # an event loop takes file descriptors; there are too many threads
            raise self._explain(error) from error

    def __del__(self) -> None:
        if self._desk is not None:
            self._desk.hand_in(_Stop(None))


@dataclass(frozen=True, slots=True)
class _Request:
    sql: str
    values: Mapping[str, Any]
    reply: asyncio.Future[Rows]


@dataclass(frozen=True, slots=True)
class _Stop:
    reply: asyncio.Future[None] | None


class _Desk:
    """The thread with its event loop, and a task for each statement that is carried out."""

    def __init__(self, connect: Connect, explain: Explain, size: int) -> None:
        self.opener = Opener()
        self._connect = connect
        self._explain = explain
        self._places = asyncio.Semaphore(size)
        self._idle: list[_Connection] = []
        self._inbox: asyncio.Queue[_Request | _Stop] = asyncio.Queue()
        self._loop = asyncio.new_event_loop()
        try:
            threading.Thread(target=self._run, name="flujo-readers", daemon=True).start()
        except RuntimeError:
            self._loop.close()
            raise

    def hand_in(self, item: _Request | _Stop) -> None:
        """Put something on the desk, from any thread."""
        self._loop.call_soon_threadsafe(self._inbox.put_nowait, item)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            stop = runner.run(self._serve())
        if stop.reply is not None:
            send([(stop.reply, (None, None))])

    async def _serve(self) -> _Stop:
        async with asyncio.TaskGroup() as group:
            while isinstance(item := await self._inbox.get(), _Request):
                await self._places.acquire()
                group.create_task(self._read(item))
        for connection in self._idle:
            await _close(connection)
        return item

    async def _read(self, request: _Request) -> None:
        # The one that was busy last comes first, so that reads that come one by one share a connection.
        is_new = not self._idle
        connection = _Connection(self._connect, _ROWS_AT_ONCE) if is_new else self._idle.pop()
        try:
            if is_new:
                await connection
            outcome: Outcome = await _fetch(connection, request), None
            self._idle.append(connection)
        except Exception as error:  # handed on to its caller
            outcome = None, self._explain(error)
            await _close(connection)
        self._places.release()
        send([(request.reply, outcome)])


async def _fetch(connection: _Connection, request: _Request) -> Rows:
    """Return the rows; a damaged text comes with replacement characters, so that it does not hide the others."""
    try:
        return cast("Rows", await connection.execute_fetchall(request.sql, request.values))
    except sqlite3.OperationalError as error:
        if not str(error).startswith("Could not decode"):
            raise
        clear_frames(error.__traceback__)  # with the cursor, which would keep the connection open behind ``close``
    connection.text_factory = _decode
    try:
        return cast("Rows", await connection.execute_fetchall(request.sql, request.values))
    finally:
        connection.text_factory = str


def _decode(text: bytes) -> str:
    return text.decode(errors="replace")


async def _close(connection: _Connection) -> None:
    with suppress(sqlite3.Error):  # what was to be read has been read
        await connection.close()


class _Connection(aiosqlite.Connection):
    """A connection whose thread is done with it when ``close`` returns, even if it could not be opened.

    In that case aiosqlite has the thread end by itself, and its last answer would go to an event loop that may be
    closed by then.
    """

    _ending: asyncio.Future[Any] | None = None

    def stop(self) -> asyncio.Future[Any] | None:
        self._ending = super().stop()  # pyright: ignore[reportUnknownMemberType]  # a future of no type
        return self._ending

    async def close(self) -> None:
        await super().close()
        if self._ending is not None:
            await self._ending
