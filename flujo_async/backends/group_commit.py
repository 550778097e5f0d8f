"""One thread that writes: whatever waits at the same time goes down in one transaction."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeAlias, TypeVar

from flujo_async.abc.pace import Answer, Outcome, Reply
from flujo_async.abc.pending import Pending
from flujo_async.backends.forked import Opener
from flujo_async.backends.reply import reply, send

T = TypeVar("T")
Work: TypeAlias = Callable[[sqlite3.Connection], T]
Together: TypeAlias = Callable[[sqlite3.Connection, Sequence[Work[Any]]], Mapping[int, Any]]
"""Does what it can of some work in fewer statements than one by one; returns the results by position."""

MOST_IN_ONE_TRANSACTION = 1000


def _nothing_together(_: sqlite3.Connection, __: Sequence[Work[Any]]) -> Mapping[int, Any]:
    return {}


class OpenDatabase(Protocol):
    """A database that is open for writing; all of it is used in the writer's thread."""

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection that the work is done on; it begins and commits nothing by itself."""
        ...

    def check(self) -> None:
        """Make sure that what has just been committed lasts; raise if it would not be found."""
        ...

    def tend(self, *, is_asked_to: bool) -> float | None:
        """Do what is to be done between transactions, the first time before anything is written.

        Args:
            is_asked_to: whether what is mostly put off, because it takes time, is to be done now.

        Returns:
            After how many seconds without work to do so again; ``None`` is not before the next transaction.
        """
        ...

    def close(self) -> None:
        """Close all connections."""
        ...


class Database(Protocol):
    """A database that can be opened."""

    def open(self, *, create: bool) -> OpenDatabase:
        """Open it for writing.

        Args:
            create: whether something is written at once; otherwise ``tend`` is called before that.

        Raises:
            Exception: it does not exist, and ``create`` is false.
        """
        ...

    def explain(self, error: Exception) -> Exception:
        """Return the exception that a caller gets for ``error``: a new one for each caller."""
        ...


class GroupCommit:
    """Does work on one connection, in one daemon thread that starts when there is something to do.

    Work is a function of the connection. All work that waits when the connection is free shares one
    transaction, and each caller is released with its own result when that transaction is durable. A cancelled
    caller stops waiting; its work may still be done. Callers may live in several event loops.

    A connection with which something went wrong is closed, and the next work opens another.

    Args:
        database: what to open, and how to explain its errors.
        refusal: what work raises to say no *before it has written anything*: its caller gets the exception, and
            the transaction goes on. Any other exception undoes the whole transaction; all of its work is then
            done again, each piece behind a savepoint, and the caller of the one that fails again gets the
            explanation. So work may be done twice, and does nothing but use the connection.
        together: is given all work that shares a transaction, if there are several pieces, before the rest of it is
            done one by one. It refuses nothing: what may have to be refused it leaves to the work itself.
    """

    def __init__(self, database: Database, *, refusal: type[Exception], together: Together = _nothing_together) -> None:
        self._database = database
        self._refusal = refusal
        self._together = together
        self._guard = threading.Lock()  # never held for longer than it takes to start a thread
        self._writer: _Writer | None = None
        self._before: threading.Thread | None = None  # of the writer that was stopped last, which may not be done yet

    async def put(self, work: Work[T], *, then: Callable[[], None] | None = None) -> T:
        """Have work done, wait until it is durable and return its result.

        Args:
            work: what to do.
            then: called in the writer's thread once the work is durable, whether its caller still waits or not.
        """
        answer: asyncio.Future[T] = reply()
        self._hand_in(_Job(work, answer, then))
        return await answer

    def begin(self, work: Work[T], *, then: Callable[[], None] | None = None) -> Pending[T]:
        """Have work done, as ``put`` does; the result is there when it is durable."""
        pending: Pending[T] = Pending()
        self._hand_in(_Job(work, pending, then))
        return pending

    async def open(self) -> None:
        """Open the database, unless it is open; one that does not exist is not created."""
        opened = reply()
        self._hand_in(_Job(_nothing, opened, only_reads=True))
        await opened

    async def tend(self) -> None:
        """Have all done that is to be done between transactions, and wait for it; the database has to be open."""
        tended = reply()
        self._hand_in(_Job(_nothing, tended, only_reads=True, tends=True))
        await tended
        await self.open()  # when it is the turn of this, it is done

    def look(self, work: Work[object]) -> None:
        """Have something read on the connection some time soon; whether that succeeds is not told."""
        self._hand_in(_Job(work, None, only_reads=True))

    async def stop(self) -> None:
        """Finish the work that waits, close the database and end the thread."""
        with self._guard:
            writer = self._writer
            if writer is None or not writer.opener.is_here():  # a forked child has nothing to stop
                return
            self._writer, self._before = None, writer.thread
        stopped = reply()
        writer.inbox.put(_Stop(stopped))
        await stopped

    def _hand_in(self, job: _Job) -> None:
        if (writer := self._writer) is not None:
            writer.opener.check()
        with self._guard:
            self._writer = self._writer or self._start()
            self._writer.inbox.put(job)

    def _start(self) -> _Writer:
        try:
            return _Writer(self._database, self._refusal, self._together, after=self._before)
        except RuntimeError as error:  # there are too many threads
            raise self._database.explain(error) from error

    def __del__(self) -> None:
        if self._writer is not None:
            self._writer.inbox.put(_Stop(None))


@dataclass(slots=True)
class _Job:
    work: Work[Any]
    reply: Reply | None
    then: Callable[[], None] | None = None
    only_reads: bool = False
    tends: bool = False


@dataclass(frozen=True, slots=True)
class _Stop:
    reply: asyncio.Future[None] | None


class _Writer:
    """The thread: takes what waits, commits it, answers.

    It begins when that of the writer before, ``after``, is done: what was handed in first goes down first, and the
    database is not opened while another thread closes it.
    """

    def __init__(
        self, database: Database, refusal: type[Exception], together: Together, *, after: threading.Thread | None
    ) -> None:
        self.inbox: SimpleQueue[_Job | _Stop] = SimpleQueue()
        self._database = database
        self._refusal = refusal
        self._together = together
        self._open: OpenDatabase | None = None
        self._stop: _Stop | None = None
        self.opener = Opener()
        # A daemon: what was acknowledged is durable, so nothing has to hold the process up.
        self.thread = threading.Thread(target=self._run, args=(after,), name="flujo-writer", daemon=True)
        self.thread.start()

    def _run(self, after: threading.Thread | None) -> None:
        if after is not None:
            after.join()
        pause = None
        while self._stop is None:
            jobs = self._take(pause)
            if jobs:
                self._answer(jobs, self._commit(jobs))
            pause = self._tend(is_asked_to=any(job.tends for job in jobs))
        self._close()
        if self._stop.reply is not None:
            send([(self._stop.reply, (None, None))])

    def _take(self, pause: float | None) -> list[_Job]:
        """Wait for a job, ``pause`` seconds at most, and return it with those behind it."""
        jobs: list[_Job] = []
        try:
            item = self.inbox.get(timeout=pause)
            while isinstance(item, _Job):
                jobs.append(item)
                if len(jobs) == MOST_IN_ONE_TRANSACTION:
                    return jobs
                item = self.inbox.get_nowait()
            self._stop = item
        except Empty:
            pass
        return jobs

    def _commit(self, jobs: Sequence[_Job]) -> list[Outcome]:
        try:
            if self._open is None:
                self._open = self._database.open(create=not all(job.only_reads for job in jobs))
            outcomes = self._transact(self._open.connection, jobs)
            self._open.check()
            return outcomes
        except Exception as error:  # handed on to every caller
            self._close()  # whatever was begun is undone
            return [(None, self._database.explain(error)) for _ in jobs]

    def _transact(self, db: sqlite3.Connection, jobs: Sequence[_Job]) -> list[Outcome]:
        if jobs[0].only_reads and all(job.only_reads for job in jobs):  # no need to wait for the write lock
            return [self._do(db, job) for job in jobs]
        db.execute("BEGIN IMMEDIATE")
        try:
            outcomes = self._do_all(db, jobs)
        except Exception:  # it comes again, to its own caller
            db.rollback()
            db.execute("BEGIN IMMEDIATE")
            outcomes = [self._do_apart(db, job) for job in jobs]
        db.execute("COMMIT")
        return outcomes

    def _do_all(self, db: sqlite3.Connection, jobs: Sequence[_Job]) -> list[Outcome]:
        results: Mapping[int, Any] = {}
        if len(jobs) > 1:
            results = self._together(db, [job.work for job in jobs])
        return [(results[n], None) if n in results else self._do(db, job) for n, job in enumerate(jobs)]

    def _do(self, db: sqlite3.Connection, job: _Job) -> Outcome:
        try:
            return job.work(db), None
        except self._refusal as refusal:
            return None, refusal

    def _do_apart(self, db: sqlite3.Connection, job: _Job) -> Outcome:
        db.execute("SAVEPOINT job")
        try:
            outcome = self._do(db, job)
        except Exception as error:  # handed on to its caller
            if not db.in_transaction:
                raise  # SQLite gave up the transaction, and with it the others' work
            db.execute("ROLLBACK TO job")
            outcome = None, self._database.explain(error)
        db.execute("RELEASE job")
        return outcome

    def _answer(self, jobs: Sequence[_Job], outcomes: Sequence[Outcome]) -> None:
        answers: list[Answer] = []
        for job, outcome in zip(jobs, outcomes, strict=True):
            if job.then is not None and outcome[1] is None:
                job.then()
            if job.reply is not None:
                answers.append((job.reply, outcome))
        send(answers)

    def _tend(self, *, is_asked_to: bool) -> float | None:
        try:
            return None if self._open is None else self._open.tend(is_asked_to=is_asked_to)
        except (sqlite3.Error, OSError):  # nobody waits for this; whoever comes next finds out with a new connection
            self._close()
            return None

    def _close(self) -> None:
        database, self._open = self._open, None
        if database is not None:
            database.close()


def _nothing(_: sqlite3.Connection) -> None:
    pass
