"""The façade: what users call."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from flujo_async._log.views import Commit, Event
from flujo_async._model.ids import check_run_id
from flujo_async._model.policy import seconds
from flujo_async._model.result import RunResult
from flujo_async._model.state import RUN_STATUSES, RunStatus, StepRecord, WorkflowState
from flujo_async._model.stored import RunQuery
from flujo_async._model.summary import RunSummary
from flujo_async._plan.definition import Definition
from flujo_async._plan.pipeline import Chain, as_pipeline
from flujo_async._plan.registry import LATEST, PipelineRegistry
from flujo_async._runtime.clock import SystemClock
from flujo_async._runtime.handle import RunHandle
from flujo_async._runtime.program import Catalogue, Migrate
from flujo_async._runtime.request import Request
from flujo_async._runtime.runner import Runner
from flujo_async.abc.backend import StateBackend
from flujo_async.abc.clock import Clock
from flujo_async.errors import DefinitionError, InvalidArgument, RunNotFound

In = TypeVar("In")
Out = TypeVar("Out")


class Flujo(Generic[In, Out]):
    """Runs a pipeline durably, inside the process and the event loop that await it.

    Works with ``async with``, with ``await flujo.aclose()``, or with neither.

    Args:
        pipeline: a pipeline or a step; or else ``registry`` and ``pipeline_name`` name one.
        registry: registered definitions; a run goes on under the version that it began with.
        pipeline_name: which one, or, with ``pipeline``, the name under which its runs are recorded.
        pipeline_version: which version; ``"latest"`` is the highest.
        state_backend: where runs live: a backend, or the URL of one, such as ``sqlite:///runs.db`` (relative;
            four slashes are absolute), ``file:///directory`` or ``memory://``. By default a new memory.
        context_type: the class of the context: a pydantic model, a dataclass or a ``TypedDict``; by default a ``dict``.
        migrate: takes over runs that were recorded by a definition of another structure: called with their
            ``WorkflowState``, it returns the fields of the context to change, or ``None``.
        lease_ttl: how long a run stays with an owner on another host that is not heard of any more.
        clock: the time; the machine's by default.

    Raises:
        DefinitionError: there is no such definition, or contexts cannot be of that type.
        InvalidArgument: no backend, an unknown URL, or a time to live that is not longer than zero.
    """

    def __init__(  # noqa: PLR0913 -- keyword-only options of a runtime
        self,
        pipeline: Chain[In, Out] | None = None,
        *,
        registry: PipelineRegistry | None = None,
        pipeline_name: str | None = None,
        pipeline_version: str = LATEST,
        state_backend: StateBackend | str = "memory://",
        context_type: type[Any] | None = None,
        migrate: Migrate | None = None,
        lease_ttl: timedelta = timedelta(seconds=30),
        clock: Clock | None = None,
    ) -> None:
        if not seconds(lease_ttl) > 0:
            raise InvalidArgument(f"lease_ttl is longer than zero, not {lease_ttl!r}")
        definition = _definition(pipeline, registry, pipeline_name, pipeline_version)
        catalogue = Catalogue(definition, registry=registry, context_type=context_type, migrate=migrate)
        self._owns_backend = isinstance(state_backend, str)
        self.state_backend: StateBackend = _open(state_backend)
        self._runner = Runner(self.state_backend, catalogue, clock or SystemClock(), lease_ttl)

    async def run(
        self,
        input: In | Any = ...,
        /,
        *,
        run_id: str | None = None,
        context: Any = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> RunResult[Out]:
        """Start a run, or resume the one with this ``run_id``, and drive it until it rests.

        A completed run returns its recorded result, any number of times, and executes nothing. A run that is
        alive elsewhere is attached to: this call waits for its result. Cancelling the task that awaits this
        call interrupts a run that it drives, which can be resumed, and only stops waiting for any other.

        Args:
            input: the input of the first step. To resume, the same as before, or left out.
            run_id: names the run; a new unique name by default.
            context: the context to start with; ``context_type()`` by default. To resume, the same, or left out.
            metadata: plain JSON to find the run by.

        Returns:
            The result of a run that completed or paused.

        Raises:
            RunFailed: the run failed, now or earlier; the step's exception is the ``__cause__``.
            RunCancelled: the run was cancelled.
            RunConflict: the ``run_id`` belongs to a run with another input or context.
            VersionMismatch: the run was recorded by another definition, and would have to execute.
            SerializationError: the input, the context or the metadata cannot be stored.
            BackendError: the store failed; the run can be resumed.
        """
        return await self._runner.complete(_request(run_id, input, context, metadata))

    async def start(
        self,
        input: In | Any = ...,
        /,
        *,
        run_id: str | None = None,
        context: Any = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> RunHandle[Out]:
        """Start or resume a run in the background: it is durable when this returns.

        Arguments and errors are those of ``run``, except that the outcome comes from ``RunHandle.result``.
        """
        request = _request(run_id, input, context, metadata)
        await self._runner.launch(request)
        return self.handle(request.run_id)

    async def resume(self, run_id: str) -> RunResult[Out]:
        """Drive an existing run until it rests, as ``run(run_id=…)`` does.

        Raises:
            RunNotFound: there is no such run.
        """
        if await self._runner.reader.summary(run_id) is None:
            raise RunNotFound(f"there is no run {run_id!r} to resume", run_id=run_id)
        return await self.run(run_id=run_id)

    async def stream(
        self,
        input: In | Any = ...,
        /,
        *,
        run_id: str | None = None,
        after: int = 0,
        context: Any = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> AsyncIterator[Event]:
        """Start or resume a run, and yield every fact and emitted event once it is durable, until the run rests.

        Leaving the iteration interrupts a run that it drives; ``aclose()`` of the iterator does so at once. To
        reconnect, give the same ``run_id`` and the last ``seq`` that was seen.

        Args:
            input: as in ``run``.
            run_id: as in ``run``.
            after: leave out what has a ``seq`` up to this one.
            context: as in ``run``.
            metadata: as in ``run``.

        Raises:
            RunFailed: the run failed; raised after the last event.
            RunCancelled: the run was cancelled; raised after the last event.
        """
        request = _request(run_id, input, context, metadata)
        task = await self._runner.launch(request)
        try:
            reader = self._runner.reader
            async for event in reader.events(request.run_id, after=after, follow=True, driver=task):
                yield event
            await self._runner.result(request.run_id)
        finally:
            await self._runner.interrupt(task)

    async def state(self, run_id: str, *, at: int | None = None) -> WorkflowState:
        """Return the state of a run: now, or as it was after fact ``at``.

        Raises:
            RunNotFound: there is no such run.
            InvalidArgument: its log has no fact ``at``.
            IntegrityError: its log is broken.
        """
        return await self._runner.reader.state(run_id, at=at)

    async def history(self, run_id: str) -> list[Commit]:
        """Return all facts of a run, from the first on; errors as in ``state``."""
        return await self._runner.reader.history(run_id)

    async def steps(self, run_id: str) -> list[StepRecord]:
        """Return the steps of a run in the order of their completion; errors as in ``state``."""
        return await self._runner.reader.steps(run_id)

    async def list_runs(
        self,
        *,
        status: RunStatus | None = None,
        pipeline_name: str | None = None,
        parent_run_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        limit: int | None = 100,
        offset: int = 0,
    ) -> list[RunSummary]:
        """Return the runs in the store that match, the newest first.

        Args:
            status: only runs in this status.
            pipeline_name: only runs of this definition.
            parent_run_id: only children of this run.
            metadata: only runs whose metadata contain this, recursively.
            limit: at most so many; ``None`` is all.
            offset: leave out so many at the front.

        Raises:
            InvalidArgument: an unknown status, or a negative number.
        """
        if status and status not in RUN_STATUSES:
            raise InvalidArgument(f"{status!r} is no status; there are {', '.join(sorted(RUN_STATUSES))}")
        if offset < 0 or (limit is not None and limit < 0):
            raise InvalidArgument("limit and offset are not negative")
        query = RunQuery(
            status=status,
            pipeline_name=pipeline_name,
            parent_run_id=parent_run_id,
            metadata=dict(metadata or {}),
            limit=limit,
            offset=offset,
        )
        return await self.state_backend.query_runs(query)

    async def delete(self, run_id: str) -> None:
        """Remove a run with all that belongs to it; one that does not exist is no error.

        Whoever drives it stops at its next commit.
        """
        await self.state_backend.delete_run(check_run_id(run_id))

    def handle(self, run_id: str) -> RunHandle[Out]:
        """Return a handle on a run, which need not exist yet."""
        return RunHandle(self._runner, check_run_id(run_id))

    async def aclose(self) -> None:
        """Interrupt the runs in the background, and close a backend that was given as a URL."""
        await self._runner.aclose()
        if self._owns_backend:
            await self.state_backend.shutdown()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()


def _definition(
    pipeline: Chain[Any, Any] | None, registry: PipelineRegistry | None, name: str | None, version: str
) -> Definition:
    if pipeline is not None:
        chain = as_pipeline(pipeline, "Flujo()")
        return Definition(chain, name or chain.name, None if version == LATEST else version)
    if registry is None or name is None:
        raise DefinitionError("Flujo() needs a pipeline, or a registry and a pipeline_name")
    return registry.get(name, version)


def _open(backend: StateBackend | str) -> StateBackend:
    if isinstance(backend, StateBackend):
        return backend
    if not isinstance(backend, str):  # pyright: ignore[reportUnnecessaryIsInstance] -- users without a type checker
        raise InvalidArgument(f"state_backend= is a StateBackend or the URL of one, not {backend!r}")
    from flujo_async.backends import backend_from_url  # a store is imported when it is asked for

    return backend_from_url(backend)


def _request(run_id: str | None, input: Any, context: Any, metadata: Mapping[str, Any] | None) -> Request:
    return Request(
        run_id=uuid.uuid4().hex if run_id is None else run_id, input=input, context=context, metadata=metadata or {}
    )
