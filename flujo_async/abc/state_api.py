"""What callers ask of a store about runs, and keep in it by hand: the same on every store, derived from its verbs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

from flujo_async._log.spans import Span, span_order, spans_of
from flujo_async._log.traces import nodes_of, spans_in, statistics_of, tree_of
from flujo_async._model.entry import EntryQuery
from flujo_async._model.ids import check_run_id
from flujo_async.abc.by_hand import (
    check_number,
    kept,
    kept_evaluation,
    kept_spans,
    kept_step,
    required,
    saved_evaluation,
    saved_span,
    saved_state,
)
from flujo_async.abc.clean_up import delete_ended, ended_runs, fail_stale, hours_ago
from flujo_async.abc.known_runs import (
    RUN_END,
    RUN_START,
    KnownRun,
    KnownRunQuery,
    known_run,
    known_runs,
)
from flujo_async.abc.logs import read_log, saved_step, state_of, steps_of, with_saved
from flujo_async.abc.statistics import check_range, span_statistics, workflow_stats
from flujo_async.abc.verbs import Verbs
from flujo_async.errors import BackendError, InvalidArgument

T = TypeVar("T")

_PATIENCE: Final = 30.0
"""For how many seconds a thread waits for what it asked another one for."""


class StateApi(Verbs):
    """The state API: names and signatures that users of workflow stores know.

    A run is one that a runtime has driven, or of which somebody has saved a state, a start or an end. All lists show
    both, each run once: as its log says, or else as its state says, then its end, then its start. What runs do is in
    their logs: nobody has to save anything for it to be shown here, and what is saved changes no log.

    Moments are ``datetime`` in UTC. Lists of runs are ordered by ``created_at``, newest first; those of background and
    of failed runs by ``updated_at``; ties by ascending ``run_id``. Filters apply before ``offset`` and ``limit``;
    ``None``, ``""`` and ``{}`` filter nothing.

    Every method raises ``InvalidArgument``, which is a ``ValueError``, for a negative number, an unknown status and
    what cannot be a ``run_id``; ``SerializationError`` for a value that cannot be stored; ``IntegrityError`` for a run
    whose log is broken; and ``BackendError`` when the store fails.
    """

    def __init__(self) -> None:
        # Nothing to do: it is here because a protocol's own would take any arguments.
        super().__init__()

    # ------------------------------------------------------------------------------------------------------- states

    async def save_state(self, run_id: str, state: dict[str, Any]) -> None:
        """Keep the state of a run, in place of the one saved before; the first ``created_at`` stays.

        Models and dataclasses are kept as dictionaries of their fields, whatever else the codec knows as it is.

        Args:
            run_id: the run; it need not be one that a runtime has driven.
            state: anything by name; ``status``, ``created_at`` and the other keys that lists show are shown there.
        """
        await self.put_entries([kept(run_id, "state", state, self.clock.now(), at="state")])

    async def load_state(self, run_id: str) -> dict[str, Any] | None:
        """Return what ``save_state`` was given; ``None`` for a run that nobody has saved or driven.

        Of a run that was driven it is the state of its log, with the keys of ``WorkflowState`` and those of lists, and
        what was saved under other keys.
        """
        saved = await self.read_entries(EntryQuery(kind="state", run_id=check_run_id(run_id)))
        state = saved_state(saved[0]) if saved else None
        log = await read_log(self, run_id)
        return state if log is None else {**(state or {}), **state_of(log)}

    async def delete_state(self, run_id: str) -> None:
        """Remove a run with all that belongs to it, as ``delete_run`` does."""
        await self.delete_run(check_run_id(run_id))

    # --------------------------------------------------------------------------------------------------------- lists

    async def list_states(self, status: str | None = None) -> list[dict[str, Any]]:
        """Return ``run_id``, ``status``, ``created_at`` and ``updated_at`` of the runs."""
        runs = await self.list_workflows(status)
        return [{name: run[name] for name in ("run_id", "status", "created_at", "updated_at")} for run in runs]

    async def list_workflows(
        self, status: str | None = None, pipeline_id: str | None = None, limit: int | None = None, offset: int = 0
    ) -> list[dict[str, Any]]:
        """Return the runs.

        Args:
            status: only runs in this status.
            pipeline_id: only runs of the definition with this fingerprint.
            limit: at most so many; ``None`` is no limit.
            offset: leave out so many at the front.
        """
        return await self._list(KnownRunQuery(status=status, pipeline_id=pipeline_id, limit=limit, offset=offset))

    async def list_runs(
        self,
        status: str | None = None,
        pipeline_name: str | None = None,
        limit: int | None = None,
        offset: int = 0,
        metadata_filter: dict[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """Return the runs.

        Args:
            status: only runs in this status.
            pipeline_name: only runs of this definition.
            limit: at most so many; ``None`` is no limit.
            offset: leave out so many at the front.
            metadata_filter: only runs whose metadata contain this, recursively.
        """
        query = KnownRunQuery(status=status, pipeline_name=pipeline_name, metadata=metadata_filter or {})
        return await self._list(replace(query, limit=limit, offset=offset))

    async def get_run_details(self, run_id: str) -> dict[str, Any] | None:
        """Return what lists show of one run; ``None`` for a run that nobody has saved or driven."""
        run = await known_run(self, check_run_id(run_id))
        return None if run is None else run.as_dict()

    async def get_failed_workflows(self, hours_back: float = 24) -> list[dict[str, Any]]:
        """Return the runs that have failed in the last so many hours."""
        since = hours_ago(self.clock.now(), hours_back, "hours_back")
        return await self._list(KnownRunQuery(status="failed", since=since, order="updated_at"))

    async def list_background_tasks(
        self, parent_run_id: str | None = None, status: str | None = None, limit: int | None = None, offset: int = 0
    ) -> list[dict[str, Any]]:
        """Return the runs that nobody waits for: dispatched, started in the background, or saved as such.

        Args:
            parent_run_id: only children of this run.
            status: only runs in this status.
            limit: at most so many; ``None`` is no limit.
            offset: leave out so many at the front.
        """
        query = KnownRunQuery(parent_run_id=parent_run_id, status=status, is_background=True, order="updated_at")
        return await self._list(replace(query, limit=limit, offset=offset))

    async def get_failed_background_tasks(
        self, parent_run_id: str | None = None, hours_back: float = 24
    ) -> list[dict[str, Any]]:
        """Return the background runs, all or those of one parent, that have failed in the last so many hours."""
        since = hours_ago(self.clock.now(), hours_back, "hours_back")
        query = KnownRunQuery(parent_run_id=parent_run_id, status="failed", is_background=True, order="updated_at")
        return await self._list(replace(query, since=since))

    async def known_runs(self, query: KnownRunQuery) -> list[KnownRun]:
        """Return the runs that match; all lists of runs are made of this.

        A store that can answer it with a query of its own overrides it.
        """
        return await known_runs(self, query)

    async def ended_runs(self, before: datetime) -> list[KnownRun]:
        """Return the runs that have ended, were created before a moment, and have no parent that goes on.

        A store that can answer it with a query of its own overrides it.
        """
        return ended_runs(await self.known_runs(KnownRunQuery()), before)

    async def _list(self, query: KnownRunQuery) -> list[dict[str, Any]]:
        return [run.as_dict() for run in await self.known_runs(query)]

    # --------------------------------------------------------------------------------------------------- statistics

    async def get_workflow_stats(self) -> dict[str, Any]:
        """Return how many runs there are.

        Returns:
            ``total_workflows``, ``status_counts``, ``recent_workflows_24h``, ``average_execution_time_ms`` of the runs
            that have ended (0 if none has), ``background_status_counts``.
        """
        since = self.clock.now() - timedelta(hours=24)
        return workflow_stats(await self.known_runs(KnownRunQuery()), since)

    def get_workflow_stats_sync(self) -> dict[str, Any]:
        """Return what ``get_workflow_stats`` does, to a caller that cannot wait for a coroutine.

        It may be called from any thread, also in one whose event loop is running, which it holds up meanwhile.
        """
        return _in_a_thread(self.get_workflow_stats)

    # ------------------------------------------------------------------------------------------------------ upkeep

    async def cleanup_old_workflows(self, days_old: float = 30) -> int:
        """Delete the runs that have ended and were created more than so many days ago; return how many.

        A run that somebody goes on with is spared, and so is a child whose parent has not ended.
        """
        check_number(days_old, "days_old", least=0)
        before = hours_ago(self.clock.now(), days_old * 24, "days_old")
        return len(await delete_ended(self, await self.ended_runs(before)))

    async def cleanup_stale_background_tasks(self, stale_hours: float = 24) -> int:
        """Let background runs fail that are ``running`` and were not heard of for so many hours; return how many.

        One that sleeps, or whose owner is alive, is left alone. The others end as ``failed``, and stand in the dead
        letters: a runtime can redrive them.
        """
        before = hours_ago(self.clock.now(), stale_hours, "stale_hours")
        query = KnownRunQuery(status="running", is_background=True, order="updated_at")
        return await fail_stale(self, await self.known_runs(query), before)

    # ------------------------------------------------------------------------------------------------- runs and steps

    async def save_run_start(self, run_data: dict[str, Any]) -> None:
        """Keep that a run has begun; once more, that it has begun again: its end is forgotten, its steps stay.

        Args:
            run_data: its ``run_id``, and whatever else lists show.

        Raises:
            InvalidArgument: it has no ``run_id``.
        """
        run_id = required(run_data, "run_id", "run_data")
        entry = kept(run_id, "run", run_data, self.clock.now(), key=RUN_START, at="run_data")
        await self.put_entries([entry], instead_of="run")

    async def save_run_end(self, run_id: str, end_data: dict[str, Any]) -> None:
        """Keep how a run has ended; ``status`` is ``completed`` unless told otherwise."""
        await self.put_entries([kept(run_id, "run", end_data, self.clock.now(), key=RUN_END, at="end_data")])

    async def save_step_result(self, step_data: dict[str, Any]) -> None:
        """Keep the result of a step, in place of the one saved before of the same step.

        Args:
            step_data: its ``run_id`` and ``step_name``; which step it is tells ``step_run_id``, or else
                ``step_index`` and ``step_name``; and whatever ``list_run_steps`` shows.

        Raises:
            InvalidArgument: it has no ``run_id`` or no ``step_name``.
        """
        await self.put_entries([kept_step(step_data, self.clock.now())])

    async def list_run_steps(self, run_id: str) -> list[dict[str, Any]]:
        """Return the steps of a run, in the order of their completion; then those that were saved, by ``step_index``.

        Where a saved step has the key of one in the log, it takes its place.
        """
        log = await read_log(self, check_run_id(run_id))
        saved = await self.read_entries(EntryQuery(kind="step", run_id=run_id))
        return with_saved([] if log is None else steps_of(log), list(map(saved_step, saved)))

    # -------------------------------------------------------------------------------------------------------- traces

    async def save_trace(self, run_id: str, trace: Any) -> None:
        """Keep the trace of a run, in place of all spans that were saved of it.

        Args:
            run_id: the run.
            trace: a span with its ``children``, and theirs; or a list of such.

        Raises:
            InvalidArgument: there is no span in it, or something that is none; and as ``save_spans``.
        """
        entries = kept_spans(run_id, _checked_nodes(trace), self.clock.now(), at="trace")
        if not entries:
            raise InvalidArgument("a trace has one span at the least")
        await self.put_entries(entries, instead_of="span")

    async def save_spans(self, run_id: str, spans: list[dict[str, Any]]) -> None:
        """Keep spans of a run, each in place of the one saved before with its ``span_id``.

        Args:
            run_id: the run.
            spans: each with a ``span_id`` and a ``name``; times are seconds since 1970 in UTC, or moments.

        Raises:
            InvalidArgument: one of them lacks these or is no span, or two have one ``span_id``.
        """
        await self.put_entries(kept_spans(run_id, spans_in(spans, "spans"), self.clock.now(), at="spans"))

    async def get_spans(self, run_id: str, status: str | None = None, name: str | None = None) -> list[Span]:
        """Return the spans of a run: those that its log tells, and those that were saved, which win.

        Each has ``span_id``, ``parent_span_id``, ``name``, ``start_time``, ``end_time``, ``status``, ``attributes`` and
        ``events``. They are ordered by ``start_time``, ties by ``span_id``.

        Args:
            run_id: the run.
            status: only spans in this status, such as ``running``, ``completed`` or ``failed``.
            name: only spans of this name.
        """
        log = await read_log(self, check_run_id(run_id))
        spans = {} if log is None else {span["span_id"]: span for span in spans_of(log.fold, log.records)}
        for entry in await self.read_entries(EntryQuery(kind="span", run_id=run_id)):
            spans[entry.key] = saved_span(entry)
        asked = [span for span in spans.values() if name in (None, "", span["name"])]
        return sorted((span for span in asked if status in (None, "", span["status"])), key=span_order)

    async def get_trace(self, run_id: str) -> Any:
        """Return the spans of a run as a tree: each has its ``children``.

        Returns:
            The root; a list of them if there are several; ``None`` if there is no span.
        """
        roots = tree_of(await self.get_spans(run_id))
        return roots if len(roots) > 1 else next(iter(roots), None)

    async def get_span_statistics(
        self, pipeline_name: str | None = None, time_range: tuple[float, float] | None = None
    ) -> dict[str, Any]:
        """Return how many spans have finished, and how long they took.

        Args:
            pipeline_name: only spans of runs of this definition.
            time_range: only spans that started from the first of these moments to the second, in seconds since 1970.

        Returns:
            ``total_spans``, ``by_name``, ``by_status``, and ``avg_duration_by_name``: for each name ``total``,
            ``count`` and ``average``, in seconds.

        Raises:
            InvalidArgument: ``time_range`` is not two numbers.
        """
        check_range(time_range)
        return statistics_of(await span_statistics(self, self.get_spans, pipeline_name, time_range))

    # --------------------------------------------------------------------------------------------------- evaluations

    async def persist_evaluation(
        self,
        run_id: str,
        score: float,
        feedback: str | None = None,
        step_name: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Keep how well a run, or a step of it, has done; every call is one more.

        Args:
            run_id: the run; it need not be known.
            score: any finite number.
            feedback: what there is to say.
            step_name: the step.
            metadata: whatever belongs to it.
        """
        data = {"step_name": step_name, "score": score, "feedback": feedback, "metadata": metadata}
        await self.put_entries([kept_evaluation(run_id, data, self.clock.now())])

    async def list_evaluations(self, limit: int | None = 20, run_id: str | None = None) -> list[dict[str, Any]]:
        """Return evaluations, the newest first.

        Args:
            limit: at most so many; ``None`` is no limit.
            run_id: only those of this run.

        Returns:
            Of each ``run_id``, ``step_name``, ``score``, ``feedback``, ``metadata`` and ``created_at``.
        """
        query = EntryQuery(kind="evaluation", run_id=check_run_id(run_id) if run_id else None, limit=limit)
        return list(map(saved_evaluation, await self.read_entries(query)))


def _checked_nodes(trace: Any) -> Iterable[Mapping[str, Any]]:
    seen: set[str] = set()
    for node in nodes_of(trace):
        span_id = str(node.get("span_id"))
        if span_id in seen:  # a trace that holds itself would never end
            raise InvalidArgument(f"trace: two spans have the span_id {span_id!r}")
        seen.add(span_id)
        yield node


def _in_a_thread(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine in an event loop and a thread of its own, and return what it does.

    Raises:
        BackendError: it needs something that this thread holds up, or there is no thread for it.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(asyncio.run(work()))
        except BaseException as error:  # handed to who waits
            outcome.set_exception(error)

    try:
        threading.Thread(target=run, name="flujo_async statistics", daemon=True).start()
    except RuntimeError as error:  # there are too many threads
        raise BackendError(f"no statistics: {error}") from error
    try:
        return outcome.result(_PATIENCE)
    except TimeoutError as error:
        raise BackendError("the store waits for this thread: ask it from another one") from error
