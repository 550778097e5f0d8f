"""Noticing what others commit to a SQLite file: none of it is missed by who waits for it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from flujo_async._model.lease import Lease
from flujo_async.backends.changes import Changes, Waiter
from flujo_async.backends.sqlite import SQLiteBackend
from flujo_async.backends.sqlite_watch import Watch
from flujo_async.testing.samples import append, create, new_run


@pytest.fixture
async def elsewhere(path: Path) -> AsyncIterator[SQLiteBackend]:
    """Another process, for the file: a backend with connections of its own."""
    async with SQLiteBackend(path) as backend:
        yield backend


@pytest.fixture
async def leases(elsewhere: SQLiteBackend) -> dict[str, Lease]:
    return {name: await create(elsewhere, new_run(name)) for name in ("one", "other")}


@asynccontextmanager
async def connection(path: Path) -> AsyncIterator[sqlite3.Connection]:
    """The writer's connection, for the watch."""
    db = await asyncio.to_thread(sqlite3.connect, path, check_same_thread=False)
    try:
        yield db
    finally:
        await asyncio.to_thread(db.close)


async def look(watch: Watch, db: sqlite3.Connection) -> None:
    await asyncio.to_thread(watch.look, db)


async def look_until_woken(watch: Watch, db: sqlite3.Connection, waiter: Waiter) -> None:
    waking = asyncio.create_task(waiter.sleep(1000))
    async with asyncio.timeout(20):
        while not waking.done():
            await look(watch, db)


async def test_what_changes_between_the_beginning_of_a_wait_and_a_look(
    elsewhere: SQLiteBackend, leases: dict[str, Lease], path: Path
) -> None:
    watch = Watch(changes := Changes())
    async with connection(path) as db:
        with watch.waiting("other"):
            await look(watch, db)  # so that it is too early for the next look
        with watch.waiting("one"), changes.listening("one") as waiter:
            await append(elsewhere, leases["one"])
            await look_until_woken(watch, db, waiter)


async def test_what_changes_between_two_waits(elsewhere: SQLiteBackend, leases: dict[str, Lease], path: Path) -> None:
    """Who waits in turns looks at the store in between, and that may have been too early."""
    watch = Watch(changes := Changes())
    async with connection(path) as db:
        with watch.waiting("one"), changes.listening("one") as waiter:
            await look_until_woken(watch, db, waiter)
        await append(elsewhere, leases["one"])
        with watch.waiting("other"), changes.listening("other") as waiter:
            await look_until_woken(watch, db, waiter)
        with watch.waiting("one"), changes.listening("one") as waiter:
            await append(elsewhere, leases["other"])
            await look_until_woken(watch, db, waiter)


async def test_what_changes_before_the_file_is_opened_again(
    elsewhere: SQLiteBackend, leases: dict[str, Lease], path: Path
) -> None:
    """Two connections count the changes of others each for itself, and may come to the same number."""
    watch = Watch(changes := Changes())
    with watch.waiting("one"):
        async with connection(path) as db:
            await look(watch, db)
        with changes.listening("one") as waiter:
            await append(elsewhere, leases["one"])
            async with connection(path) as db:
                await look_until_woken(watch, db, waiter)
