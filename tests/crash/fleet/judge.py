"""What a fleet may leave behind."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections import Counter
from pathlib import Path

from flujo_async import RunSummary
from flujo_async._model.facts import RunRedriven, StepCompleted, StepFailed
from flujo_async._runtime.one_attempt import idempotency_key
from tests.crash.fleet.plan import Runtimes, Task
from tests.crash.fleet.records import Effect, Records


class Judge:
    """Compares what a fleet has left with what the oracle says."""

    def __init__(self, tasks: list[Task], runtimes: Runtimes, directory: Path, stopped: set[int]) -> None:
        """Prepare to judge.

        Args:
            tasks: what there was to do.
            runtimes: for the runs.
            directory: where the store is, and what was put on record.
            stopped: processes that were stopped for a while; where they went on, they were inside a step perhaps.
        """
        self._tasks = {task.run_id: task for task in tasks}
        self._runtimes = runtimes
        self._flujo = runtimes[tasks[0].run_id]
        self._stopped = stopped
        self._orders = Records(directory).ordered()
        self._effects = Records(directory).effects()

    async def findings(self) -> list[str]:
        """Return what is wrong, in words."""
        found = list[str]()
        report = await self._flujo.verify()
        if not report.ok:
            found.append(str(report))
        heads = await self._flujo.list_runs(limit=None)
        gone = self._tasks.keys() - {head.run_id for head in heads} - self._orders["delete"]
        found += [f"{run_id} is gone" for run_id in gone]
        for head in heads:
            if head.lease is not None:
                found.append(f"{head.run_id} is {head.status}, and has a lease: {head.lease}")
            if head.parent_run_id is None:
                found += await self._of_root(head)
            found += await self._of_log(head.run_id)
        return found

    async def _of_root(self, head: RunSummary) -> list[str]:
        """Compare the outcome of a run that nobody but the fleet has asked for."""
        run_id = head.run_id
        source = run_id.split("!")[0]
        told = self._tasks[source].expected()
        state = await self._flujo.state(run_id)
        if head.status == "cancelled":
            was_asked = {run_id, source} & self._orders["cancel"]
            return [] if was_asked else [f"{run_id} was cancelled, and nobody has asked for that"]
        if head.status == "failed":
            as_told = bool(told.errors) and (state.error_message or "").startswith(tuple(told.errors))
        else:
            result = await self._runtimes[run_id].handle(run_id).result()
            as_told = not told.errors and result.output == told.output
        found = [] if as_told else [f"{run_id} is {head.status}, {state.error_message}, instead of {told}"]
        is_undisturbed = run_id == source and not any(run_id in self._orders[what] for what in ("cancel", "redrive"))
        if is_undisturbed and (told.is_settled or not told.errors):
            marks = dataclasses.asdict(told.marks)
            if state.pipeline_context != marks:
                found.append(f"{run_id} has the context {state.pipeline_context} instead of {marks}")
        if is_undisturbed:
            did = {effect.name for effect in self._effects if effect.run_id == run_id}
            if others := did - told.happens.keys() - told.undoable:
                found.append(f"{run_id} did {others}")
        return found

    async def _of_log(self, run_id: str) -> list[str]:
        """Check that each step has ended once, and has not begun again after that."""
        facts = [commit.fact for commit in await self._flujo.history(run_id)]
        if any(isinstance(fact, RunRedriven) for fact in facts):
            return []
        ended = [fact for fact in facts if isinstance(fact, StepCompleted | StepFailed)]
        twice = [key for key, count in Counter(fact.key for fact in ended).items() if count > 1]
        found = [f"{run_id} has committed twice: {twice}"] if twice else []
        for fact in ended:
            late = self._after(idempotency_key(run_id, fact.key), fact.at.timestamp())
            found += [f"{run_id}: {fact.key} was executed after its commit at {fact.at}: {effect}" for effect in late]
        return found

    def _after(self, key: str, at: float) -> list[Effect]:
        return [
            effect
            for effect in self._effects
            if effect.idempotency_key == key and effect.at > at and effect.pid not in self._stopped
        ]


def findings_in_files(kind: str, directory: Path) -> list[str]:
    """Return what is wrong with the files of a store that nobody has open."""
    if kind == "sqlite":
        connection = sqlite3.connect(directory / "runs.db")
        try:
            wrong = [*connection.execute("PRAGMA integrity_check"), *connection.execute("PRAGMA foreign_key_check")]
        finally:
            connection.close()
        left = {path.name for path in directory.glob("runs.db-*")}
        return [str(row) for row in wrong if row != ("ok",)] + [f"left behind: {name}" for name in left]
    return [f"left behind: {path}" for path in directory.rglob("*.new")]
