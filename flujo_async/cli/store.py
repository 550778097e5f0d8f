"""Which store a command looks at, and what it finds there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from flujo_async._codec.facts import read_fact
from flujo_async._codec.values import Codec
from flujo_async._log.fold import Fold
from flujo_async._log.views import workflow_state
from flujo_async._model.facts import RunForked
from flujo_async._model.ids import check_run_id
from flujo_async._model.state import WorkflowState
from flujo_async._model.stored import Record, RunQuery
from flujo_async._model.summary import RunSummary
from flujo_async._runtime.owner import Owner
from flujo_async.abc.backend import StateBackend
from flujo_async.abc.logs import read_log
from flujo_async.backends import backend_from_url
from flujo_async.backends.file_entries import ENTRIES
from flujo_async.backends.file_name import SUFFIX
from flujo_async.backends.file_system_state import SYSTEM
from flujo_async.errors import InvalidArgument, RunNotFound

DEFAULT_DB: Final = "./flujo-demo.db"
DB_VARIABLE: Final = "FLUJO_DB"

_FORKED: Final = RunForked.kind.encode()


@dataclass(frozen=True, slots=True)
class Store:
    """A store by name: nothing is opened or created yet.

    Attributes:
        name: what the user called it.
        url: what opens it.
        path: the file or the directory that it is.
    """

    name: str
    url: str
    path: Path

    def exists(self) -> bool:
        """Return whether there is anything to look at."""
        return self.path.is_dir() or (self.path.is_file() and self.path.stat().st_size > 0)

    def check_exists(self) -> None:
        """Check that looking at it creates nothing.

        Raises:
            InvalidArgument: there is no such store, or it is an empty file.
        """
        if self.exists():
            return
        if self.path.is_file():
            raise InvalidArgument(f"the file {self.name} is empty: nothing was ever kept there")
        raise InvalidArgument(
            f"there is no database {self.name}; --db or {DB_VARIABLE} names another, or --flujo a Flujo"
        )

    def check_holds_runs(self) -> None:
        """Check that a directory is one of the file backend, and not one of something else.

        Raises:
            InvalidArgument: it is not, or it is empty.
        """
        if self.path.is_dir() and not any(map(_is_of_a_store, self.path.iterdir())):
            raise InvalidArgument(f"there is no store in the directory {self.name}: nothing was ever kept there")

    def check_creatable(self) -> None:
        """Check that a store can be here.

        Raises:
            InvalidArgument: its directory is missing.
        """
        if not self.path.parent.is_dir() and self.url.startswith("sqlite:"):
            raise InvalidArgument(f"cannot create the database {self.name}: its directory does not exist")

    def open(self) -> StateBackend:
        """Return the backend."""
        return backend_from_url(self.url)


@dataclass(frozen=True, slots=True)
class Found:
    """All that can be told of a run without its definition.

    Attributes:
        forked_from: the run whose past it shares, if it is a fork.
        missing: its children that it waits for, and that are not in the store.
    """

    summary: RunSummary
    fold: Fold
    state: WorkflowState
    output: object
    forked_from: str | None
    missing: tuple[str, ...]


def store_at(db: str) -> Store:
    """Return the store that an option names.

    Raises:
        InvalidArgument: it is empty, or a URL of nothing that outlives a process.
    """
    if not db:
        raise InvalidArgument("--db '' names no store: it is empty; is a variable of the shell not set?")
    scheme, is_url, rest = db.partition("://")
    if not is_url:
        return Store(db, f"{'file' if Path(db).is_dir() else 'sqlite'}:///{db}", Path(db))
    backend_from_url(db)
    if not rest:
        raise InvalidArgument(f"{scheme}:// lives and dies with its process: name a file or a directory")
    return Store(db, db, Path(rest.removeprefix("/")))


async def find_summary(backend: StateBackend, run_id: str) -> RunSummary | None:
    """Return the head of a run; ``None`` if there is no such run."""
    found = await backend.query_runs(RunQuery(run_id=check_run_id(run_id)))
    return found[0] if found else None


async def head_of(backend: StateBackend, run_id: str) -> RunSummary:
    """Return the head of a run.

    Raises:
        RunNotFound: there is no such run.
    """
    summary = await find_summary(backend, run_id)
    if summary is None:
        raise _no_run(run_id)
    return summary


async def known_run(backend: StateBackend, run_id: str) -> Mapping[str, Any]:
    """Return what lists show of a run, also of one that was saved by hand; the name alone if it has only spans.

    Raises:
        RunNotFound: nobody has driven it, or saved anything of it.
    """
    run = await backend.get_run_details(run_id)
    if run is None and not await backend.get_spans(run_id):
        raise _no_run(run_id)
    return run or {"run_id": run_id}


async def find_run(backend: StateBackend, run_id: str) -> Found:
    """Return a run, verified; values of classes that are unknown here become what they hold.

    Raises:
        RunNotFound: there is no such run.
        IntegrityError: its log is broken.
    """
    log = await read_log(backend, check_run_id(run_id))
    if log is None:
        raise _no_run(run_id)
    fold, codec = log.fold, Codec.lenient()
    state, output = workflow_state(fold, codec), codec.decode(fold.output, at="output")
    children = fold.awaited.children() if log.head.status == "paused" else ()
    missing = [child for child in children if not await backend.query_runs(RunQuery(run_id=child))]
    return Found(log.head, fold, state, output, _forked_from(log.records), tuple(missing))


def who(owner: str) -> str:
    """Return what to call the owner of a lease: its process, or a name that somebody else gave it."""
    known = Owner.parse(owner)
    return owner if known is None else f"process {known.pid}"


def is_driven(summary: RunSummary) -> bool:
    """Return whether somebody drives a run, as far as can be known here."""
    lease = summary.lease
    if lease is None or lease.expires_at <= datetime.now(UTC):
        return False
    owner = Owner.parse(lease.owner)
    return owner is None or not owner.is_dead()


def is_orphan(summary: RunSummary) -> bool:
    """Return whether a run would go on if only somebody drove it."""
    is_asleep = summary.wake_at is not None and summary.wake_at > datetime.now(UTC)
    return summary.status == "running" and not is_asleep and not is_driven(summary)


def is_interrupted(summary: RunSummary) -> bool:
    """Return whether a run is an orphan that no worker will take up by itself."""
    return summary.queue is None and is_orphan(summary)


def needs_worker(summary: RunSummary) -> bool:
    """Return whether a run is in a queue, and nobody drives it although it could go on."""
    is_new = summary.status == "pending" and not is_driven(summary)
    return summary.queue is not None and (is_new or is_orphan(summary))


def _is_of_a_store(path: Path) -> bool:
    return path.suffix == SUFFIX or path.name in (ENTRIES, SYSTEM)


def _forked_from(records: Sequence[Record]) -> str | None:
    for record in reversed(records):
        if _FORKED in record.body:
            fact = read_fact(record)
            if isinstance(fact, RunForked):
                return fact.source_run_id
    return None


def _no_run(run_id: str) -> RunNotFound:
    return RunNotFound(f"there is no run {run_id!r}; `runs list` names them all", run_id=run_id)
