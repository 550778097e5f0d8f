"""Connections that read, shared by all event loops."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from sqlite3 import Error
from typing import Any, TypeAlias

import aiosqlite

from flujo_async.abc.pace import Outcome
from flujo_async.backends.reply import reply, send

Rows: TypeAlias = list[tuple[Any, ...]]
Connect: TypeAlias = Callable[[], Awaitable[aiosqlite.Connection]]
Explain: TypeAlias = Callable[[Exception], Exception]


class Readers:
    """A few connections, each opened when it is first needed.

    They live in an event loop of their own, in a daemon thread. So it does not matter in which loop a caller
    lives, whether it is cancelled, or whether its loop is closed meanwhile: a statement that has begun is
    carried to its end, and its connection serves the next one. The thread of an aiosqlite connection inherits
    being a daemon from the thread that makes the connection, so a forgotten ``stop`` does not keep the
    process alive.

    Args:
        connect: opens a connection.
        explain: returns the exception that a caller gets for an error; a new one for each caller.
        size: how many connections.
    """

    def __init__(self, connect: Connect, explain: Explain, *, size: int = 3) -> None:
        self._connect = connect
        self._explain = explain
        self._size = size
        self._guard = threading.Lock()  # never held for longer than it takes to start a thread
        self._desk: _Desk | None = None

    async def fetch(self, sql: str, values: Mapping[str, Any]) -> Rows:
        """Return all rows of one statement, which is one read transaction."""
        answer: asyncio.Future[Rows] = reply()
        with self._guard:
            self._desk = self._desk or self._set_up()
            self._desk.hand_in(_Request(sql, values, answer))
        return await answer

    async def stop(self) -> None:
        """Finish the statements that wait, close the connections and end the threads."""
        with self._guard:
            desk, self._desk = self._desk, None
        if desk is not None:
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
    """The thread with its event loop, and a coroutine for each connection."""

    def __init__(self, connect: Connect, explain: Explain, size: int) -> None:
        self._connect = connect
        self._explain = explain
        self._size = size
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
            readers = [group.create_task(self._read()) for _ in range(self._size)]
        return readers[0].result()

    async def _read(self) -> _Stop:
        connection: aiosqlite.Connection | None = None
        while isinstance(item := await self._inbox.get(), _Request):
            try:
                connection = connection or await self._connect()
                outcome: Outcome = await connection.execute_fetchall(item.sql, item.values), None
            except Exception as error:  # handed on to its caller
                outcome = None, self._explain(error)
                await _close(connection)
                connection = None
            send([(item.reply, outcome)])
        self._inbox.put_nowait(item)  # for the other readers
        await _close(connection)
        return item


async def _close(connection: aiosqlite.Connection | None) -> None:
    if connection is not None:
        with suppress(Error):  # what was to be read has been read
            await connection.close()
