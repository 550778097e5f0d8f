"""Which store a command looks at, and what it finds there."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, TypeAlias

import typer

from flujo_async._codec.values import Codec
from flujo_async._log.chain import verify
from flujo_async._log.fold import Fold, fold_log
from flujo_async._log.views import workflow_state
from flujo_async._model.ids import check_run_id
from flujo_async._model.state import RESTING, WorkflowState
from flujo_async._model.stored import RunQuery
from flujo_async._model.summary import RunSummary
from flujo_async._runtime.owner import Owner
from flujo_async.abc.backend import StateBackend
from flujo_async.backends import backend_from_url
from flujo_async.errors import InvalidArgument, RunNotFound

DEFAULT_DB: Final = "./flujo-demo.db"

Db: TypeAlias = Annotated[
    str,
    typer.Option(
        "--db",
        envvar="FLUJO_DB",
        metavar="PATH|URL",
        help="Where runs are kept: a SQLite file, a directory of the file backend, or a URL.",
    ),
]


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
            InvalidArgument: there is no such store.
        """
        if not self.exists():
            raise InvalidArgument(f"there is no database {self.name}; --db or FLUJO_DB names another")

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
    """All that can be told of a run without its definition."""

    summary: RunSummary
    fold: Fold
    state: WorkflowState
    output: object


def store_at(db: str) -> Store:
    """Return the store that an option names.

    Raises:
        InvalidArgument: it is a URL of nothing that outlives a process.
    """
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


async def find_run(backend: StateBackend, run_id: str) -> Found:
    """Return a run, verified; values of classes that are unknown here become what they hold.

    Raises:
        RunNotFound: there is no such run.
        IntegrityError: its log is broken.
    """
    stored = await backend.load(check_run_id(run_id))
    if stored is None:
        raise RunNotFound(f"there is no run {run_id!r}; `flujo-async runs list` names them all", run_id=run_id)
    verify(run_id, stored.records)
    fold, codec = fold_log(run_id, stored.records), Codec.lenient()
    return Found(stored.summary, fold, workflow_state(fold, codec), codec.decode(fold.output, at="output"))


def is_interrupted(summary: RunSummary) -> bool:
    """Return whether a run would go on if only somebody drove it."""
    if summary.status in RESTING or summary.queue is not None or summary.wake_at is not None:
        return False
    lease = summary.lease
    if lease is None or lease.expires_at <= datetime.now(UTC):
        return True
    owner = Owner.parse(lease.owner)
    return owner is not None and owner.is_dead()
