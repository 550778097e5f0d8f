"""``flujo-async tail``: what happens in all runs of a store, as it happens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Annotated, Final, NoReturn

import typer
from rich.cells import cell_len
from rich.text import Text

from flujo_async._log.views import Commit, commit_of
from flujo_async._model import facts
from flujo_async.abc.backend import StateBackend
from flujo_async.abc.known_runs import KnownRun, KnownRunQuery
from flujo_async.abc.logs import read_values
from flujo_async.abc.shield import settle
from flujo_async.cli.completion import complete_status
from flujo_async.cli.fact_line import tell
from flujo_async.cli.given import length
from flujo_async.cli.options import STATUSES, FlujoName, Json, MaybeDb
from flujo_async.cli.runtime import Runtime, perform, place_at
from flujo_async.cli.screen import clock, name_cell, plain, print_json_line, print_text, say
from flujo_async.cli.watch import commit_as_json
from flujo_async.errors import IntegrityError, RunNotFound, SerializationError

_LOOK_AGAIN_SECONDS: Final = 1.0
_SHORTEST_REST_SECONDS: Final = 0.1
_REST: Final = 4
"""After a look at the store, rest so many times as long as that took: the store is there for the runs."""

_LATE: Final = timedelta(seconds=30)
"""How much older than others what is written now may say that it is: hosts have clocks of their own."""

_AT_ONCE: Final = 500
_STYLES: Final[dict[type[object], str]] = {
    facts.RunCompleted: "green",
    facts.RunFailed: "red",
    facts.StepFailed: "red",
    facts.RunCancelled: "red",
    facts.RollbackStarted: "yellow",
    facts.AttemptFailed: "yellow",
    facts.WaitStarted: "cyan",
    facts.RunPaused: "cyan",
}


@dataclass(frozen=True, slots=True)
class News:
    """A fact, and the run that it is about.

    Attributes:
        run: the run.
        commit: the fact.
        told_at: its moment among other runs: not before that of what stands before it in the log.
    """

    run: KnownRun
    commit: Commit
    told_at: datetime


Show = Callable[[News], None]


def tail(
    pipeline: Annotated[str | None, typer.Option(metavar="NAME", help="Only runs of this pipeline.")] = None,
    status: Annotated[
        str | None,
        typer.Option(
            metavar=STATUSES,
            help="Only runs in this status: of one that gets into it, all since the start.",
            autocompletion=complete_status,
        ),
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="AGE", help="Begin with what happened in the last 10m, 2h or 1d.")
    ] = None,
    db: MaybeDb = None,
    flujo: FlujoName = None,
    json: Json = False,
) -> None:
    """Follow all runs: a line for everything that happens.

    Begins with what happens from now on, and ends by Ctrl-C. Nothing that happens to the command changes a run.
    """
    age = timedelta() if since is None else length(since, "--since")
    query = KnownRunQuery(pipeline_name=pipeline, status=status, order="updated_at")
    show: Show = _print_json if json else _Lines()
    perform(place_at(flujo, db), lambda flujo: _follow(flujo, query, age, show), interrupted="")


async def _follow(flujo: Runtime, query: KnownRunQuery, age: timedelta, show: Show) -> NoReturn:
    backend = flujo.state_backend
    looking = Looking(backend, query, backend.clock.now() - age)
    while True:
        change = asyncio.create_task(backend.wait_for_work(timeout=_LOOK_AGAIN_SECONDS))
        try:
            await asyncio.sleep(0)  # from here on it listens, so that nothing is missed while we look
            began = time.monotonic()
            for news in await looking.look():
                show(news)
            await asyncio.sleep(max(_SHORTEST_REST_SECONDS, _REST * (time.monotonic() - began)))
            await change
        finally:
            change.cancel()
            await settle(change)


class Looking:
    """Finds what is new in a store: in the runs that were heard of lately.

    Args:
        backend: the store.
        query: which runs.
        since: of a run that it sees first, all facts from this moment on are new.
    """

    def __init__(self, backend: StateBackend, query: KnownRunQuery, since: datetime) -> None:
        self._backend = backend
        self._query = query
        self._since = since
        self._latest = since
        self._seen: dict[str, int] = {}
        self._heads: dict[str, int] = {}

    async def look(self) -> list[News]:
        """Return what is new, in the order in which it happened."""
        runs = await self._backend.known_runs(replace(self._query, since=self._latest - _LATE))
        self._latest = max((self._latest, *(run.updated_at for run in runs)))
        found = [news for run in runs if self._has_grown(run) for news in await self._read(run)]
        return sorted(found, key=lambda news: (news.told_at, news.run.run_id, news.commit.seq))

    def _has_grown(self, run: KnownRun) -> bool:
        is_of_interest = run.run_id in self._seen or run.updated_at >= self._since
        return is_of_interest and self._heads.get(run.run_id) != run.version

    async def _read(self, run: KnownRun) -> list[News]:
        self._heads[run.run_id] = run.version
        try:
            commits = await self._commits(run.run_id)
        except RunNotFound:  # it was deleted meanwhile
            return []
        except (IntegrityError, SerializationError) as error:
            # It is for people to look at, and must not keep the others from being told.
            say(f"left out: {error}")
            return []
        moments = accumulate((commit.at for commit in commits), max)
        return [News(run, commit, told_at) for commit, told_at in zip(commits, moments, strict=True)]

    async def _commits(self, run_id: str) -> list[Commit]:
        is_new = run_id not in self._seen
        found: list[Commit] = []
        while records := await self._backend.read_events(run_id, after=self._seen.get(run_id, 0), limit=_AT_ONCE):
            self._seen[run_id] = records[-1].seq
            commits = map(commit_of, await read_values(self._backend, run_id, records))
            found += [commit for commit in commits if not is_new or commit.at >= self._since]
        return found


class _Lines:
    """Prints lines whose columns stand below each other, as far as names allow."""

    def __init__(self) -> None:
        self._width = 0

    def __call__(self, news: News) -> None:
        told = tell(news.commit.fact)
        if told is None:
            return
        name = name_cell(news.run.run_id)
        self._width = max(self._width, cell_len(name))
        style = _STYLES.get(type(news.commit.fact), "")
        padding = " " * (self._width - cell_len(name))
        print_text(
            Text.assemble((clock(news.commit.at), "dim"), "  ", (name, "bold"), padding, "  ", (plain(told), style))
        )


def _print_json(news: News) -> None:
    fact = commit_as_json(news.commit)
    print_json_line({"run_id": news.run.run_id, "pipeline_name": news.run.pipeline_name, "fact": fact})
