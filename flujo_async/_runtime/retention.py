"""Deleting runs that have ended, when a retention says so."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Collection, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final, TypeVar

from flujo_async._model.lease import Lease
from flujo_async._model.policy import Retention, earlier, seconds
from flujo_async._model.result import RunResult
from flujo_async._model.state import TERMINAL
from flujo_async._model.stored import RunQuery
from flujo_async._model.summary import RunSummary
from flujo_async._runtime.owner import Owner
from flujo_async._runtime.program import Catalogue
from flujo_async._runtime.taking import Taking
from flujo_async._runtime.time_limit import TimeLimit
from flujo_async.abc.backend import StateBackend
from flujo_async.abc.clock import Clock
from flujo_async.abc.shield import settle
from flujo_async.errors import FlujoError, IntegrityError, InvalidArgument

Out = TypeVar("Out")

_log: Final = logging.getLogger("flujo_async")
_AT_ONCE: Final = 20
"""So many runs, each with those below it, are deleted at the same time."""

_LOOKED_AT: Final = 200
"""What is below so many runs is asked for at a time: a store may have to look at all runs for that."""

_REST: Final = 10
"""After looking through the store, rest so many times as long as that took: the store is there for the runs."""

_LAST_LOOK: Final = 2.0
"""Who closes waits so many seconds at most for a look that is under way."""

_LOOKS_PER_TTL: Final = 20
_LONGEST_BETWEEN_LOOKS: Final = timedelta(hours=1)


class Sweeper:
    """Deletes the runs of one runtime's definitions that have ended long ago, or are too many.

    It remembers nothing that a restart would lose: what is to go follows from what is stored.

    Attributes:
        retention: what is kept; ``None`` is everything.
        is_automatic: whether runs are deleted without being asked for.

    Raises:
        InvalidArgument: something that is no ``Retention``.
    """

    def __init__(
        self, backend: StateBackend, catalogue: Catalogue, clock: Clock, taking: Taking, retention: Retention | None
    ) -> None:
        self._backend = backend
        self._catalogue = catalogue
        self._clock = clock
        self._taking = taking
        if not isinstance(retention, Retention | None):  # pyright: ignore[reportUnnecessaryIsInstance] -- untyped users
            raise InvalidArgument(f"retention= is a Retention, not {retention!r}")
        self.retention = retention
        self.is_automatic: bool = True
        self._task: asyncio.Task[None] | None = None
        self._is_wanted = False
        self._is_resting = False
        self._is_closing = False
        self._ages_from: datetime | None = None
        self._awaited: Counter[str] = Counter()
        self._handed: set[str] = set()
        self._removals: set[asyncio.Task[None]] = set()

    def kick(self) -> None:
        """Look soon for runs that are to go, in the background: one has just ended."""
        if not self.is_automatic or self.retention is None or not self._is_time(self.retention):
            return
        self._is_wanted = True
        if self._task is None or self._task.done():
            self._is_resting = self._is_closing = False
            self._task = asyncio.create_task(self._sweep_while_wanted(self.retention), name="flujo retention")

    def handed(self, run_id: str, outcome: Awaitable[RunResult[Out]]) -> Awaitable[RunResult[Out]]:
        """Return the outcome of a run; when nobody here waits for it any more, a completed run may go."""
        if not self.is_automatic or self.retention is None or self.retention.on_complete != "delete":
            return outcome
        return self._handed_over(run_id, outcome)

    async def _handed_over(self, run_id: str, outcome: Awaitable[RunResult[Out]]) -> RunResult[Out]:
        self._awaited[run_id] += 1
        try:
            result = await outcome
            if result.status == "completed":
                self._handed.add(run_id)
            return result
        finally:
            self._awaited[run_id] -= 1
            if not self._awaited[run_id]:
                self._all_have_it(run_id)

    async def compact(self) -> int:
        """Delete everything that is to go now, and return how many runs that were."""
        if self.retention is None:
            return 0
        return await self.sweep(self.retention, self._catalogue.names())

    async def sweep(self, retention: Retention, names: Collection[str] | None, *, is_thorough: bool = True) -> int:
        """Delete runs as ``trees`` finds them, a few at a time, and return how many."""
        deleted = 0
        batch: list[Sequence[RunSummary]] = []
        async for tree in self.trees(retention, names, is_thorough=is_thorough):
            batch.append(tree)
            if len(batch) == _AT_ONCE:
                deleted += sum(await asyncio.gather(*map(self._remove, batch)))
                batch = []
        return deleted + sum(await asyncio.gather(*map(self._remove, batch)))

    async def trees(
        self, retention: Retention, names: Collection[str] | None, *, is_thorough: bool = True
    ) -> AsyncIterator[list[RunSummary]]:
        """Yield the runs that are to go, each with all runs below it, leaves first.

        Args:
            retention: what is kept.
            names: of which definitions; ``None`` is of all that there are.
            is_thorough: also completed runs that were not handed out, and children whose parent is gone.
        """
        roots: list[RunSummary] = []
        async for root in self._roots(retention, names, is_thorough=is_thorough):
            roots.append(root)
            if len(roots) == _LOOKED_AT:
                for tree in await self._trees(roots):
                    yield tree
                roots = []
        for tree in await self._trees(roots):
            yield tree

    async def _roots(
        self, retention: Retention, names: Collection[str] | None, *, is_thorough: bool
    ) -> AsyncIterator[RunSummary]:
        """Yield the runs that are to go, if all below them have ended."""
        kept: Counter[str] = Counter()
        now = self._clock.now()
        for name in [None] if names is None else sorted(names):
            async for head in self._backend.every_run(RunQuery(pipeline_name=name)):
                if head.status not in TERMINAL or not await self._is_root(head, is_thorough=is_thorough):
                    continue
                is_unwanted = is_thorough and self._goes_on_completion(retention, head)
                if is_unwanted or _is_expired(retention, head, kept, now):
                    yield head

    async def aclose(self) -> None:
        """Stop looking; runs whose result was handed out are still deleted.

        A look comes to its end first if that is soon: in a process that ends with its run there is no other one.
        """
        if self._task is not None:
            self._is_closing = True
            try:
                if not self._is_resting:
                    with suppress(TimeoutError):
                        async with TimeLimit(self._clock, _LAST_LOOK):
                            await asyncio.wait({self._task})
            finally:
                self._task.cancel()
                await settle(self._task)
        for task in list(self._removals):
            await settle(task)

    def _is_time(self, retention: Retention) -> bool:
        """Return whether to look through the store; for the age of runs alone only now and then."""
        if retention.keep_last is not None or retention.ttl is None:
            return retention.keep_last is not None
        now = self._clock.now()
        if self._ages_from is not None and now < self._ages_from:
            return False
        between = timedelta(seconds=min(seconds(retention.ttl), _LOOKS_PER_TTL * 3600.0) / _LOOKS_PER_TTL)
        self._ages_from = now + min(between, _LONGEST_BETWEEN_LOOKS)
        return True

    async def _sweep_while_wanted(self, retention: Retention) -> None:
        while self._is_wanted:
            self._is_wanted = False
            began = time.monotonic()
            try:
                await self.sweep(retention, self._catalogue.names(), is_thorough=False)
            except FlujoError as error:  # the store failed, or a run is broken: no run may suffer from that
                _log.warning("runs that are to go could not be deleted: %s", error)
            if self._is_closing:
                return
            self._is_resting = True
            await asyncio.sleep(_REST * (time.monotonic() - began))
            self._is_resting = False

    def _all_have_it(self, run_id: str) -> None:
        del self._awaited[run_id]
        if run_id not in self._handed:
            return
        self._handed.discard(run_id)
        # Behind the result: a caller that is interrupted now must not lose the result and the run.
        task = asyncio.create_task(self._remove_completed(run_id), name=f"flujo retention of {run_id}")
        self._removals.add(task)
        task.add_done_callback(self._removals.discard)

    async def _remove_completed(self, run_id: str) -> None:
        try:
            for head in await self._backend.query_runs(RunQuery(run_id=run_id, status="completed")):
                trees = await self._trees([head]) if await self._is_root(head, is_thorough=True) else []
                for tree in trees:
                    if not self._awaited[run_id]:
                        await self._remove(tree)
        except FlujoError as error:
            _log.warning("run %r has completed, and could not be deleted: %s", run_id, error)

    def _goes_on_completion(self, retention: Retention, head: RunSummary) -> bool:
        is_awaited = self._awaited[head.run_id] > 0
        return retention.on_complete == "delete" and head.status == "completed" and not is_awaited

    async def _is_root(self, head: RunSummary, *, is_thorough: bool) -> bool:
        """Return whether a run is nobody's child, or its parent is known to be gone."""
        if head.parent_run_id is None:
            return True
        return is_thorough and not await self._backend.query_runs(RunQuery(run_id=head.parent_run_id))

    async def _trees(self, roots: Sequence[RunSummary]) -> list[list[RunSummary]]:
        """Return runs, each with all below it, leaves first; without those of which one has not ended."""
        trees = {root.run_id: [root] for root in roots}
        root_of = {run_id: run_id for run_id in trees}
        parents = frozenset(trees)
        while parents:
            below = await self._backend.query_runs(RunQuery(parent_run_ids=parents))
            children = [(child, root_of[child.parent_run_id or ""]) for child in below if child.run_id not in root_of]
            for child, root in children:
                root_of[child.run_id] = root
                trees[root].append(child)
            parents = frozenset(child.run_id for child, _ in children)
        return [tree[::-1] for tree in trees.values() if all(head.status in TERMINAL for head in tree)]

    async def _remove(self, tree: Sequence[RunSummary]) -> int:
        """Delete runs, and return how many; none if somebody has gone on with one of them, or one cannot be read."""
        try:
            return await self._claim_and_delete(tree)
        except IntegrityError as error:  # it is for people to look at, and must not keep the others
            _log.warning("not deleted, because it cannot be read: %s", error)
            return 0

    async def _claim_and_delete(self, tree: Sequence[RunSummary]) -> int:
        leases: list[Lease] = []
        with Owner.at_work() as owner:
            try:
                for head in tree:
                    lease = await self._taking.take(head.run_id, str(owner), TERMINAL)
                    if lease is None:
                        return 0
                    leases.append(lease)
                    if lease.token != head.attempts + 1:
                        return 0
                return await self._delete(tree, leases)
            finally:
                for lease in leases:
                    await self._taking.give_back(lease)

    async def _delete(self, tree: Sequence[RunSummary], leases: list[Lease]) -> int:
        for head in tree:
            await self._backend.delete_run(head.run_id)
            leases.pop(0)
            if head.status == "failed":
                _log.warning("run %r, which had failed, is deleted: %s", head.run_id, head.error_message)
        return len(tree)


def _is_expired(retention: Retention, head: RunSummary, kept: Counter[str], now: datetime) -> bool:
    """Return whether a run that has ended goes for its age, or because newer ones take its place."""
    if retention.ttl is not None and head.updated_at <= earlier(now, seconds(retention.ttl)):
        return True
    if retention.keep_last is None or head.status == "failed":
        return False
    kept[head.pipeline_name] += 1
    return kept[head.pipeline_name] > retention.keep_last
