"""The database file: whose it is, how it is opened, migrated and checkpointed, and what its errors mean."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, cast

from flujo_async._codec.plain import decode_plain
from flujo_async._codec.tree import loads
from flujo_async._model.report import SchemaVersion
from flujo_async._model.selection import contains
from flujo_async._model.tree import Json, JsonObject
from flujo_async.backends.sql import migrations
from flujo_async.backends.sqlite_place import Place, log_of
from flujo_async.backends.sqlite_watch import Watch
from flujo_async.errors import BackendError, FlujoError, SchemaTooNew, SerializationError

Synchronous: TypeAlias = Literal["full", "normal"]

APPLICATION_ID: Final = 0x666C756A
"""``fluj``, in the header of each of our files."""

CHECKPOINT_EVERY = 1000
"""Pages written, about, between two checkpoints: a write-ahead log of some megabytes."""

_LOOK_EVERY = 8
"""Transactions between two looks at how much has been written."""

_MIGRATIONS = migrations()
_LARGEST_IDLE_WAL = 16 * 2**20
_LONG_ENOUGH = 4 * 2**20
_LENGTHEN_BY = 2**20
_PAGE: Final = bytes(4096)
_HEADER_BYTES = 32
_PIECE_BYTES = 2**20
_RETRY_SECONDS = 0.01

_WHAT_TO_DO = {
    sqlite3.SQLITE_BUSY: "another process holds the database for longer than {busy_timeout} seconds; "
    "nothing was written, try again, or give a longer busy_timeout",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened; its directory has to exist, and to be writable",
    sqlite3.SQLITE_READONLY: "the file, or its directory, is read-only; a store has to be writable even to be read",
    sqlite3.SQLITE_FULL: "the disk is full; nothing was written",
    sqlite3.SQLITE_IOERR: "the file system failed; nothing was written, the system's log may tell more",
    sqlite3.SQLITE_NOTADB: "the file is not a database; it was left as it is, choose another path",
    sqlite3.SQLITE_CORRUPT: "the database is damaged; it was left as it is, restore it from a backup",
}


class NoFileYet(BackendError):
    """Nothing has been written yet, and looking at a store does not create it."""


class SQLiteFile:
    """A database file that may not exist yet. Nothing touches the disk before it is opened.

    Args:
        path: where it is.
        synchronous: whether each commit waits for the disk.
        busy_timeout: how long to wait for other processes.
        watch: looks at the database between transactions.
    """

    def __init__(self, path: Path, *, synchronous: Synchronous, busy_timeout: timedelta, watch: Watch) -> None:
        self.path = path
        self._synchronous: Synchronous = synchronous
        self._busy_seconds = busy_timeout.total_seconds()
        self._watch = watch
        self._place: Place | None = None  # where it was when it was open, unless it was still there when it was closed

    def open(self, *, create: bool) -> OpenFile:
        """Open the file for writing; bring it up to date, if need be.

        Whoever only reads does not wait until the log that others have left is settled: ``tend`` does that, which comes
        before anything is written.

        Args:
            create: whether something is to be written, so that the file has to exist.

        Raises:
            SchemaTooNew: a newer version of this package wrote it.
            BackendError: another application did, or it was replaced while it was open before.
            NoFileYet: there is none, and ``create`` is false.
        """
        self._check_place()  # a write-ahead log that is not its own would damage another file
        with self._looking_before_touching():
            if not create and not self.path.exists():
                raise NoFileYet(f"{self.path} does not exist yet")
            db = self.connect("rwc")
            try:
                left = self._set_up(db, is_to_write=create)
            except BaseException:
                db.close()
                raise
        self._place = Place(self.path)
        waits_for_disk = self._synchronous == "full"
        return OpenFile(self, db, self._watch, self._place, waits_for_disk=waits_for_disk, left=left)

    def leave(self) -> None:
        """Forget where the file was: it is being closed, and may be replaced then."""
        self._place = None

    def connect(self, mode: Literal["ro", "rw", "rwc"], *, waits: bool = True) -> sqlite3.Connection:
        """Open one connection, which begins no transactions by itself, and mostly waits while others hold a lock."""
        timeout = self._busy_seconds if waits else 0
        return sqlite3.connect(self._uri(mode), uri=True, isolation_level=None, timeout=timeout)

    def open_reader(self) -> sqlite3.Connection:
        """Open one connection for reading, in the thread that is to use it.

        It knows three functions: ``json_contains(whole, part)``, ``plain_contains`` of what ``encode_plain`` makes, and
        ``json_contains_value``, where only the part is made by that.

        Raises:
            BackendError: the file was replaced while it was open.
        """
        self._check_place()  # others read the one that was there before
        reader = self.connect("ro")
        for name, function in _FUNCTIONS.items():
            reader.create_function(name, 2, function, deterministic=True)
        return reader

    def schema_version(self, db: sqlite3.Connection | None) -> SchemaVersion:
        """Return the version of the schema; ``db`` is ``None`` where there is no file.

        Raises:
            SchemaTooNew: it is newer than this package.
            BackendError: another application wrote the database.
        """
        return SchemaVersion(0 if db is None else self._version(db), len(_MIGRATIONS))

    def explain(self, error: Exception) -> FlujoError:
        """Return what to tell a caller about an error: a new exception for each."""
        if isinstance(error, BackendError):
            explained: FlujoError = type(error)(*error.args)
        elif isinstance(error, UnicodeEncodeError):
            explained = SerializationError(f"text that is not Unicode cannot be stored: {error.object!r}")
        else:
            explained = BackendError(f"{self.path}: {self._what_to_do(error)}")
        explained.__cause__ = error
        return explained

    def _what_to_do(self, error: Exception) -> str:
        sentence = _WHAT_TO_DO.get(_code(error))
        return f"{sentence.format(busy_timeout=self._busy_seconds)} ({error})" if sentence else f"{error!r}"

    def _check_place(self) -> None:
        place = self._place
        if place is not None and not place.is_kept() and self._place is place:  # and nobody is just closing it
            place.check()

    def _uri(self, mode: str) -> str:
        return f"{self.path.as_uri()}?mode={mode}"

    @contextmanager
    def _looking_before_touching(self) -> Generator[None]:
        # Whoever closes the last connection that can write also checkpoints, which would change a stranger's file.
        if self.path.is_dir():
            raise BackendError(f"{self.path}: this is a directory, a SQLite store is a file")
        if not self.path.exists() or not self.path.stat().st_size:
            yield
            return
        with closing(self.connect("ro")) as db:
            try:
                self._version(db)
            except sqlite3.OperationalError as error:
                # A crash has left a journal that only a writer can undo; then there is no looking without touching.
                if _code(error) != sqlite3.SQLITE_READONLY:
                    raise
            yield  # still open, so that a write-ahead log that a crash has left is read through once, and not twice

    def _version(self, db: sqlite3.Connection) -> int:
        """Return the version of the schema; 0 is an empty database."""
        application, version, has_tables = _whose(db)
        newest = len(_MIGRATIONS)
        if application == APPLICATION_ID and version <= newest:
            return version
        if application == APPLICATION_ID:
            raise SchemaTooNew(
                f"{self.path}: the database has schema version {version}, and this version of flujo_async "
                f"knows versions up to {newest}: upgrade flujo_async, or open a backup from before it was upgraded"
            )
        if application or version or has_tables:
            raise BackendError(
                f"{self.path}: the database belongs to another application; it was left as it is, choose another path"
            )
        return 0

    def _set_up(self, db: sqlite3.Connection, *, is_to_write: bool) -> bytes | None:
        """Make the file one of ours, of the newest schema; return the header of the log that was left, once settled."""
        version = self._version(db)
        is_to_write = is_to_write or version < len(_MIGRATIONS)
        db.execute("PRAGMA wal_autocheckpoint = 0")
        if not version:
            self._insist(db, "PRAGMA auto_vacuum = INCREMENTAL")
        self._insist(db, "PRAGMA journal_mode = WAL")
        left = self.settle_what_was_left(db) if is_to_write else None
        db.execute(f"PRAGMA synchronous = {self._synchronous}")
        db.execute("PRAGMA foreign_keys = ON")
        db.execute(f"PRAGMA journal_size_limit = {_LARGEST_IDLE_WAL}")
        while self._version(db) < len(_MIGRATIONS):
            self._migrate(db)
        return left

    def _insist(self, db: sqlite3.Connection, pragma: str) -> None:
        # SQLite does not wait by itself here when two processes open a new file at once.
        deadline = time.monotonic() + self._busy_seconds
        while True:
            try:
                db.execute(pragma)
                return
            except sqlite3.OperationalError as error:
                if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(_RETRY_SECONDS)

    def settle_what_was_left(self, db: sqlite3.Connection) -> bytes:
        """Checkpoint the write-ahead log that others have left, before anything is added to it; return its header.

        Its last owner may have died because the disk failed. After a sync that failed, the system calls pages clean
        that it still shows and never wrote: a later sync would succeed, and what is written behind them would be out
        of reach after the failure of power. The checkpoint writes them again, elsewhere, and the log starts anew,
        unless somebody reads what stands in it, or writes just now: see ``OpenFile.check``.
        """
        left = LogFile(self.path).header()
        if not left:
            return left
        with closing(self.connect("rw", waits=False)) as guard:  # its transaction ends with it
            try:
                guard.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if _code(error) != sqlite3.SQLITE_BUSY:
                    raise
            else:
                db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        return left

    def _migrate(self, db: sqlite3.Connection) -> None:
        """Take one step, unless another process has just taken it."""
        db.execute("BEGIN IMMEDIATE")
        version = self._version(db)
        if version < len(_MIGRATIONS):
            for statement in _MIGRATIONS[version]:
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {version + 1}")
        db.execute("COMMIT")


class OpenFile:
    """A file that is open for writing.

    Automatic checkpoints are off. SQLite before 3.51.3 can corrupt a database when one connection checkpoints
    while another starts the write-ahead log anew, so checkpoints are made only while this process has the write
    lock, on a second connection: the one that writes may not checkpoint inside its own transaction.

    Args:
        left: the header of the log that others have left, if that is settled; until it is, nothing may be written.
    """

    def __init__(
        self,
        file: SQLiteFile,
        connection: sqlite3.Connection,
        watch: Watch,
        place: Place,
        *,
        waits_for_disk: bool,
        left: bytes | None,
    ) -> None:
        self.connection = connection
        self._left = left
        self._file = file
        self._watch = watch
        self._place = place
        self._log = LogFile(file.path) if waits_for_disk else None
        self._checkpointer: sqlite3.Connection | None = None
        self._transactions = 0
        self._rows = connection.total_changes
        self._pages = _page_count(connection)

    def check(self) -> None:
        """Raise if others have removed or replaced the file; make sure that what was just committed lasts.

        Where it was added to what others have left, since the log could not start anew, all of that is written again.
        """
        self._place.check()
        if self._left and self._log is not None and self.connection.total_changes:  # who only reads has added nothing
            if self._log.header() == self._left:
                with self._locked():
                    self._log.write_again()
            self._left = b""

    def tend(self, *, is_asked_to: bool) -> float | None:
        """Checkpoint if enough has been written, and look for changes that others have made."""
        if self._left is None:
            self._left = self._file.settle_what_was_left(self.connection)
        # Whoever has just been answered comes back soon and needs the interpreter, so this mostly does nothing.
        self._transactions += 1
        if is_asked_to or not self._transactions % _LOOK_EVERY:
            self._look_after_log(may_wait=not is_asked_to)
        return self._watch.look(self.connection)

    def close(self) -> None:
        """Close the connections; the last one to a file checkpoints it."""
        if self._place.is_kept():  # asked, and told, before the write-ahead log goes
            self._file.leave()
        for connection in (self._checkpointer, self.connection):
            if connection is not None:
                with suppress(sqlite3.Error):  # what was committed is in the write-ahead log
                    connection.close()
        self._place.close()

    def _look_after_log(self, *, may_wait: bool) -> None:
        pages = _page_count(self.connection)
        rows = self.connection.total_changes - self._rows
        written = max(2 * self._transactions + rows // 4, pages - self._pages)
        if not may_wait or written >= CHECKPOINT_EVERY or pages < self._pages:  # a checkpoint makes the file shorter
            self._checkpoint()
            self._transactions, self._rows, self._pages = 0, self.connection.total_changes, pages
        if self._log is not None and self._log.gets_longer():
            with self._locked():
                self._log.lengthen()

    def _checkpoint(self) -> None:
        if self._checkpointer is None:
            self._checkpointer = self._connect_again()
        with self._locked():
            self._checkpointer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def _connect_again(self) -> sqlite3.Connection:
        connection = self._file.connect("rw")
        if not self._place.is_kept():  # that may be another file, which has another log
            connection.close()
            raise sqlite3.OperationalError("the database is not where it was")
        return connection

    @contextmanager
    def _locked(self) -> Generator[None]:
        """Keep all writers out, those of other processes too."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            self.connection.execute("ROLLBACK")


class LogFile:
    """The file of the write-ahead log, which is made longer before it is written.

    A commit that makes a file longer has to wait until the disk has its length as well, not only its bytes, and
    takes nearly twice as long. What stands behind the last frame is no frame to SQLite, whatever it is. After a
    checkpoint the log is written again from its beginning, and is long enough from then on.
    """

    def __init__(self, database: Path) -> None:
        self._path = log_of(database)
        self._size = self._look()

    def gets_longer(self) -> bool:
        """Tell whether commits have made the file longer since the last look, and more of them may do so."""
        before, self._size = self._size, self._look()
        return before < self._size < _LONG_ENOUGH

    def lengthen(self) -> None:
        """Make the file longer; only while nobody can write to it."""
        with (
            suppress(OSError),
            self._path.open("r+b", buffering=0) as log,
        ):  # then commits do it themselves, as well as they can
            log.seek(0, os.SEEK_END)
            for _ in range(_LENGTHEN_BY // len(_PAGE)):  # at once, Linux would keep it in large pieces,
                log.write(_PAGE)  # and write one of them whole for each page in it that changes
            os.fsync(log.fileno())
        self._size = self._look()

    def header(self) -> bytes:
        """Return what stands at its beginning, which changes whenever it begins anew; nothing where there is no log."""
        try:
            with self._path.open("rb", buffering=0) as log:
                return log.read(_HEADER_BYTES)
        except FileNotFoundError:
            return b""

    def write_again(self) -> None:
        """Make all of it durable, whatever the system says of its pages; only while nobody can write to it."""
        with self._path.open("r+b", buffering=0) as log:
            while piece := log.read(_PIECE_BYTES):
                log.seek(-len(piece), os.SEEK_CUR)
                log.write(piece)
            os.fsync(log.fileno())

    def _look(self) -> int:
        try:
            log = os.open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            return 0
        try:
            return os.lseek(log, 0, os.SEEK_END)  # and not `stat`, which makes commits longer: see `sqlite_place`
        finally:
            os.close(log)


def _whose(db: sqlite3.Connection) -> tuple[int, int, bool]:
    """Return the application and the version in the header of a database, and whether one without them has tables.

    That is of one instant, so that nobody who creates the tables meanwhile is seen half way. Only the header is read
    where it tells enough: to read the schema as well takes ten times as long.
    """
    db.execute("SAVEPOINT whose")
    application: int = db.execute("PRAGMA application_id").fetchone()[0]
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    is_told = application or version
    has_tables = not is_told and db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None
    db.execute("RELEASE whose")
    return application, version, has_tables


def _page_count(db: sqlite3.Connection) -> int:
    pages: int = db.execute("PRAGMA page_count").fetchone()[0]
    return pages


def _code(error: Exception) -> int:
    """Return SQLite's code of an error, without the details of extended codes; 0 if it has none."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _json_contains(whole: str, part: str) -> bool:
    return contains(loads(whole.encode()), _tree(part))


def _json_contains_value(whole: str, part: str) -> bool:
    return contains(loads(whole.encode()), _plain(part))


def _plain_contains(whole: str, part: str) -> bool:
    return contains(decode_plain(cast("JsonObject", loads(whole.encode())), at=""), _plain(part))


@lru_cache(maxsize=16)
def _tree(part: str) -> Json:
    return loads(part.encode())


@lru_cache(maxsize=16)
def _plain(part: str) -> Mapping[str, Any]:
    return decode_plain(cast("JsonObject", _tree(part)), at="")


_FUNCTIONS: Final = {
    "json_contains": _json_contains,
    "json_contains_value": _json_contains_value,
    "plain_contains": _plain_contains,
}
