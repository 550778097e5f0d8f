"""What waits at the same time goes down together, and each caller gets its own answer."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from flujo_async.abc.pace import MOST_A_TURN
from flujo_async.backends.group_commit import GroupCommit


class Refused(Exception):
    """What work raises here to say no."""


class Ledger:
    """A database of numbers, which counts how often it is opened and keeps the statements that it sees."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.opened = 0
        self.statements: list[str] = []
        self.closed = threading.Event()
        self.trouble: Exception | None = None
        self.lost: Exception | None = None

    def open(self, *, create: bool) -> Ledger:
        self.opened += 1
        if self.trouble:
            raise self.trouble
        self.connection = sqlite3.connect(self.path, isolation_level=None)
        self.connection.execute("CREATE TABLE IF NOT EXISTS numbers (n INTEGER PRIMARY KEY)")
        self.connection.execute(
            "CREATE TABLE IF NOT EXISTS orphans (n INTEGER REFERENCES numbers (n) DEFERRABLE INITIALLY DEFERRED)"
        )
        self.connection.execute("PRAGMA foreign_keys = ON")
        self.connection.set_trace_callback(self.statements.append)
        return self

    def check(self) -> None:
        if self.lost:
            raise self.lost

    def tend(self, *, is_asked_to: bool) -> float | None:
        return None

    def close(self) -> None:
        self.connection.close()
        self.closed.set()

    def explain(self, error: Exception) -> Exception:
        explained = RuntimeError("explained")
        explained.__cause__ = error
        return explained

    @property
    def commits(self) -> int:
        return self.statements.count("COMMIT")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.db")


@pytest.fixture
async def writer(ledger: Ledger) -> AsyncIterator[GroupCommit]:
    writer = GroupCommit(ledger, refusal=Refused)
    yield writer
    await writer.stop()


class Hold:
    """Keeps the writer busy, so that what is put meanwhile waits together."""

    def __init__(self, writer: GroupCommit) -> None:
        self._writer = writer
        self._begun = threading.Event()
        self._go_on = threading.Event()

    async def __aenter__(self) -> None:
        self._task = asyncio.create_task(self._writer.put(self._work))
        await asyncio.to_thread(self._begun.wait)

    async def __aexit__(self, *error: object) -> None:
        for _ in range(3):
            await asyncio.sleep(0)  # the tasks of the test have put what they put
        self._go_on.set()
        await self._task

    def _work(self, db: sqlite3.Connection) -> None:
        self._begun.set()
        self._go_on.wait()


def add(n: int, db: sqlite3.Connection) -> int:
    db.execute("INSERT INTO numbers VALUES (?)", (n,))
    return n


def numbers(db: sqlite3.Connection) -> list[int]:
    return [row[0] for row in db.execute("SELECT n FROM numbers ORDER BY n")]


def put_all(writer: GroupCommit, *work: Callable[[sqlite3.Connection], object]) -> list[asyncio.Task[object]]:
    return [asyncio.create_task(writer.put(each)) for each in work]


async def test_what_waits_shares_a_transaction(ledger: Ledger, writer: GroupCommit) -> None:
    async with Hold(writer):
        tasks = put_all(writer, *(partial(add, n) for n in range(100)))
    assert await asyncio.gather(*tasks) == list(range(100))
    assert ledger.commits == 2
    assert not any("SAVEPOINT" in statement for statement in ledger.statements)


async def test_a_refusal_is_its_callers_own(ledger: Ledger, writer: GroupCommit) -> None:
    def refuse(db: sqlite3.Connection) -> None:
        raise Refused

    async with Hold(writer):
        tasks = put_all(writer, partial(add, 1), refuse, partial(add, 2))
    one, refused, two = await asyncio.gather(*tasks, return_exceptions=True)
    assert (one, type(refused), two) == (1, Refused, 2)
    assert await writer.put(numbers) == [1, 2]
    assert "ROLLBACK" not in ledger.statements


async def test_what_is_done_together_is_not_done_alone(ledger: Ledger) -> None:
    """But it is when doing it together fails, and everybody gets an answer of their own."""

    def add_even(db: sqlite3.Connection, waiting: Sequence[object]) -> dict[int, int]:
        even = {place: work.args[0] for place, work in enumerate(waiting) if isinstance(work, partial)}
        even = {place: n for place, n in even.items() if n % 2 == 0}
        db.execute(f"INSERT INTO numbers VALUES {','.join(f'({n})' for n in even.values())}")
        return even

    writer = GroupCommit(ledger, refusal=Refused, together=add_even)
    async with Hold(writer):
        tasks = put_all(writer, *(partial(add, n) for n in range(6)))
    assert await asyncio.gather(*tasks) == list(range(6))
    assert next(line for line in ledger.statements if "INSERT" in line) == "INSERT INTO numbers VALUES (0),(2),(4)"
    assert sum("INSERT" in line for line in ledger.statements) == 4
    async with Hold(writer):
        tasks = put_all(writer, *(partial(add, n) for n in range(4, 9)))
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [RuntimeError, RuntimeError, int, int, int]
    assert await writer.put(numbers) == list(range(9))
    await writer.stop()


async def most_in_a_turn(writer: GroupCommit, callers: int, wait: Callable[[int], Awaitable[int]]) -> int:
    """Let callers wait for one commit; return how many of them went on in one turn of the loop at most."""
    turns: list[int] = []
    done: list[int] = []

    def turn() -> None:
        turns.append(len(done))
        if len(done) < callers:
            asyncio.get_running_loop().call_soon(turn)

    async def call(n: int) -> None:
        done.append(await wait(n))

    async with Hold(writer):
        tasks = [asyncio.create_task(call(n)) for n in range(callers)]
    turn()
    await asyncio.gather(*tasks)
    return max(later - earlier for earlier, later in pairwise(turns))


async def test_the_loop_turns_while_many_get_their_answers(writer: GroupCommit) -> None:
    async def wait(n: int) -> int:
        return await writer.put(partial(add, n))

    assert await most_in_a_turn(writer, 100, wait) <= MOST_A_TURN


async def test_a_turn_is_over_when_who_goes_on_takes_long(writer: GroupCommit) -> None:
    async def wait_and_work(n: int) -> int:
        result = await writer.begin(partial(add, n))
        began = time.perf_counter()
        while time.perf_counter() - began < 0.002:
            pass
        return result

    assert await most_in_a_turn(writer, 5, wait_and_work) == 1


async def test_work_that_fails_half_way_leaves_no_trace_and_hurts_nobody(writer: GroupCommit) -> None:
    def fail(db: sqlite3.Connection) -> None:
        add(666, db)
        raise ZeroDivisionError

    async with Hold(writer):
        tasks = put_all(writer, partial(add, 1), fail, partial(add, 2), partial(add, 1))
    one, failed, two, doubled = await asyncio.gather(*tasks, return_exceptions=True)
    assert (one, two) == (1, 2)
    assert isinstance(failed, RuntimeError)
    assert isinstance(failed.__cause__, ZeroDivisionError)
    assert isinstance(doubled, RuntimeError)
    assert isinstance(doubled.__cause__, sqlite3.IntegrityError)
    assert await writer.put(numbers) == [1, 2]


async def test_a_commit_that_fails_is_told_to_all_and_the_next_succeeds(writer: GroupCommit) -> None:
    def spoil(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO orphans VALUES (99)")  # refused at the commit

    async with Hold(writer):
        tasks = put_all(writer, partial(add, 1), spoil)
    failures = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(failure) for failure in failures] == [RuntimeError, RuntimeError]
    assert failures[0] is not failures[1]
    assert await writer.put(partial(add, 2)) == 2
    assert await writer.put(numbers) == [2]


async def test_a_commit_that_nobody_would_find_is_told_to_all(ledger: Ledger, writer: GroupCommit) -> None:
    told: list[int] = []

    def lose(db: sqlite3.Connection) -> None:
        ledger.lost = OSError("lost")

    async with Hold(writer):
        adding = asyncio.create_task(writer.put(partial(add, 1), then=partial(told.append, 1)))
        tasks = put_all(writer, partial(add, 2), lose)
    failures = await asyncio.gather(adding, *tasks, return_exceptions=True)
    assert [type(failure) for failure in failures] == [RuntimeError] * 3
    assert failures[0] is not failures[1]
    assert told == []
    ledger.lost = None
    assert await writer.put(numbers) == [1, 2]
    assert ledger.opened == 2


async def test_an_unusable_connection_is_replaced(ledger: Ledger, writer: GroupCommit) -> None:
    with pytest.raises(RuntimeError, match="explained"):
        await writer.put(sqlite3.Connection.close)
    assert await writer.put(partial(add, 1)) == 1
    assert ledger.opened == 2


async def test_a_database_that_does_not_open_is_tried_again(ledger: Ledger, writer: GroupCommit) -> None:
    ledger.trouble = OSError("no")
    with pytest.raises(RuntimeError, match="explained"):
        await writer.put(partial(add, 1))
    ledger.trouble = None
    assert await writer.put(partial(add, 1)) == 1


async def test_a_cancelled_caller_does_not_break_the_writer(writer: GroupCommit) -> None:
    async with Hold(writer):
        left, stays = put_all(writer, partial(add, 1), partial(add, 2))
        await asyncio.sleep(0)
        left.cancel()
    assert await stays == 2
    assert left.cancelled()
    assert await writer.put(numbers) == [1, 2]


async def test_a_closed_loop_does_not_break_the_writer(writer: GroupCommit) -> None:
    async def leave() -> None:
        call = asyncio.create_task(writer.put(partial(add, 1)))
        await asyncio.sleep(0)
        call.cancel()

    async with Hold(writer):
        await asyncio.to_thread(asyncio.run, leave())
    assert await writer.put(numbers) == [1]


async def test_callers_may_live_in_several_loops(writer: GroupCommit) -> None:
    async def add_some(first: int) -> None:
        await asyncio.gather(*(writer.put(partial(add, first + n)) for n in range(25)))

    await asyncio.gather(*(asyncio.to_thread(asyncio.run, add_some(100 * i)) for i in range(4)))
    assert len(await writer.put(numbers)) == 100


async def test_what_comes_then_comes_whoever_waits(writer: GroupCommit) -> None:
    durable: list[int] = []
    async with Hold(writer):
        task = asyncio.create_task(writer.put(partial(add, 1), then=lambda: durable.append(1)))
        await asyncio.sleep(0)
        task.cancel()
    with pytest.raises(RuntimeError):
        await writer.put(partial(add, 1), then=lambda: durable.append(2))
    assert durable == [1]


async def test_stopping_finishes_what_waits(ledger: Ledger, writer: GroupCommit) -> None:
    async with Hold(writer):
        tasks = put_all(writer, *(partial(add, n) for n in range(10)))
        await asyncio.sleep(0)
        stop = asyncio.create_task(writer.stop())
    await stop
    assert all(task.done() for task in tasks)
    assert ledger.closed.is_set()
    await writer.stop()
    assert await writer.put(numbers) == list(range(10))
    assert ledger.opened == 2


async def test_what_comes_after_a_stop_waits_until_the_database_is_closed(ledger: Ledger, writer: GroupCommit) -> None:
    """So it goes down behind all that came before, and nobody opens what another thread is closing."""
    async with Hold(writer):
        before = put_all(writer, *(partial(add, n) for n in range(10)))
        await asyncio.sleep(0)
        stop = asyncio.create_task(writer.stop())
        await asyncio.sleep(0)
        after = asyncio.create_task(writer.put(lambda db: (ledger.closed.is_set(), numbers(db))))
    assert await after == (True, list(range(10)))
    await asyncio.gather(stop, *before)


async def test_a_forgotten_writer_goes(ledger: Ledger) -> None:
    writer = GroupCommit(ledger, refusal=Refused)
    await writer.put(partial(add, 1))
    del writer
    assert await asyncio.to_thread(ledger.closed.wait, 20)
