"""The limit: what a writer without any product around it takes, at the same durability.

A thread of its own, ``sqlite3``, one row a step, everything that waits in one transaction, and an answer by
``call_soon_threadsafe``: the settings of the write-ahead log are those of ``SQLiteBackend``. Nothing of the project's
code is used.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Self

from benchmarks.work import work

CHECKPOINT_EVERY = 1000
LARGEST_IDLE_LOG = 16 * 2**20
INSERT = "INSERT INTO facts (run, seq, body) VALUES (?, ?, ?)"

Row = tuple[str, int, bytes]
Job = tuple[Row, asyncio.Future[None]]


class Writer:
    """Inserts rows, those that wait at the same time in one transaction."""

    def __init__(self, path: Path, synchronous: str) -> None:
        self._path = path
        self._synchronous = synchronous
        self._inbox: SimpleQueue[Job | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def put(self, row: Row) -> asyncio.Future[None]:
        """Return what is done when the row is durable."""
        answer: asyncio.Future[None] = self._loop.create_future()
        self._inbox.put((row, answer))
        return answer

    def stop(self) -> None:
        """Write what waits and end the thread."""
        self._inbox.put(None)
        self._thread.join()

    def _write(self) -> None:
        db, checkpointer = _open(self._path, self._synchronous), _connect(self._path)
        checkpointed = db.total_changes
        while jobs := self._waiting():
            db.execute("BEGIN IMMEDIATE")
            db.executemany(INSERT, [row for row, _ in jobs])
            db.execute("COMMIT")
            self._loop.call_soon_threadsafe(_answer, [answer for _, answer in jobs])
            if db.total_changes - checkpointed >= CHECKPOINT_EVERY:
                checkpointer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                checkpointed = db.total_changes
        checkpointer.close()
        db.close()

    def _waiting(self) -> list[Job]:
        """Return all that waits, once something does; nothing is left when it is time to stop."""
        jobs = [self._inbox.get()]
        try:
            while jobs[-1] is not None:
                jobs.append(self._inbox.get_nowait())
        except Empty:
            pass
        if jobs[-1] is None and len(jobs) > 1:
            self._inbox.put(None)
        return [job for job in jobs if job is not None]


class System:
    """Runs that are a loop over ``put``. Variants: ``full`` and ``normal`` (synchronous), ``memory`` (no store)."""

    def __init__(self, directory: Path, variant: str, steps: int, *, grows: bool = False) -> None:
        self._path = directory / "limit.db"
        self._variant = variant
        self._steps = steps
        self._grows = grows

    async def __aenter__(self) -> Self:
        self._writer = None if self._variant == "memory" else Writer(self._path, self._variant)
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._writer is not None:
            self._writer.stop()

    async def run(self, run_id: str, value: Any) -> Any:
        if self._grows:
            return await self._grow(run_id, value)
        return await self._go_on(run_id, 0, value)

    async def resume(self, run_id: str) -> None:
        rows = _connect(self._path).execute("SELECT body FROM facts WHERE run = ? ORDER BY seq", (run_id,)).fetchall()
        facts = [json.loads(body) for (body,) in rows]
        await self._go_on(run_id, len(facts), facts[-1]["output"])

    async def _go_on(self, run_id: str, done: int, value: Any) -> Any:
        for seq in range(done, self._steps):
            value = work(value)
            await self._put(run_id, seq, {"step": "increment", "seq": seq, "output": value})
        return value

    async def _grow(self, run_id: str, value: str) -> int:
        context: dict[str, Any] = {"text": value, "items": []}
        await self._put(run_id, 0, context)
        for seq in range(1, self._steps + 1):
            context["items"].append(f"item {seq}")
            await self._put(run_id, seq, {"step": "extend", "seq": seq, "items": context["items"][-1:]})
        return len(context["items"])

    async def _put(self, run_id: str, seq: int, fact: dict[str, Any]) -> None:
        body = json.dumps(fact).encode()
        if self._writer is not None:
            await self._writer.put((run_id, seq, body))


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None)


def _open(path: Path, synchronous: str) -> sqlite3.Connection:
    db = _connect(path)
    db.execute("PRAGMA wal_autocheckpoint = 0")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute(f"PRAGMA synchronous = {synchronous}")
    db.execute(f"PRAGMA journal_size_limit = {LARGEST_IDLE_LOG}")
    db.execute("CREATE TABLE IF NOT EXISTS facts (id INTEGER PRIMARY KEY, run TEXT, seq INTEGER, body BLOB)")
    db.execute("CREATE UNIQUE INDEX IF NOT EXISTS facts_of_run ON facts (run, seq)")
    return db


def _answer(answers: list[asyncio.Future[None]]) -> None:
    for answer in answers:
        answer.set_result(None)
