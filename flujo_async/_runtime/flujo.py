"""The façade: what users call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from types import EllipsisType, TracebackType
from typing import Any, Generic, Literal, Self

from typing_extensions import TypeVar  # `default=` is in `typing` since 3.13 only

from flujo_async._log.views import Event
from flujo_async._model.policy import Durability, Limit, Retention, misnamed_durability
from flujo_async._model.result import RunResult
from flujo_async._plan.pipeline import Chain
from flujo_async._plan.registry import LATEST, PipelineRegistry, choose_definition
from flujo_async._runtime.archive import Archive
from flujo_async._runtime.handle import RunHandle
from flujo_async._runtime.program import Catalogue, Migrate
from flujo_async._runtime.request import Request, check_place, checked_seconds, request_for
from flujo_async._runtime.runner import Runner
from flujo_async._runtime.services import Services
from flujo_async.abc.backend import StateBackend
from flujo_async.abc.clock import Clock, SystemClock
from flujo_async.abc.instrument import Instrument
from flujo_async.abc.shield import finish
from flujo_async.errors import InvalidArgument

# By default, since a registry and a name do not tell what a run takes and returns.
In = TypeVar("In", default=Any)
Out = TypeVar("Out", default=Any)


class Flujo(Archive[Out], Generic[In, Out]):
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
            ``WorkflowState``, it returns the fields of the context to change, the whole context, or ``None``.
        max_concurrency: how many runs are driven at the same time; ``None`` is no limit.
        max_concurrent_steps: how many steps execute at the same time, over all runs; ``None`` is no limit.
        limits: what steps share that name a ``limit``.
        resources: what steps get injected that ask for a ``Resource``: by name, a function that returns an async
            context manager, which is entered for each attempt.
        recover: keep taking up runs whose owner is gone, while this runtime is open.
        durability: when what steps did is durable: ``"sync"``, before the next step starts; ``"async"``, soon after; or
            ``"exit"``, when the run rests. A definition and a step can say otherwise.
        instruments: what observes the runs, such as those of ``flujo_async.telemetry``.
        retention: how long runs are kept that have ended; by default until they are deleted.
        always_replay: for tests: begin a workflow again after each step, with what is recorded, so that code which does
            not do the same in a replay shows at once.
        lease_ttl: how long a run stays with an owner on another host that is not heard of any more.
        clock: the time; the machine's by default.

    Raises:
        DefinitionError: there is no such definition, contexts or the answers of a ``wait_for`` cannot be of that type,
            or a step asks for a limit or a resource that there is not.
        InvalidArgument: no backend, an unknown URL, no such durability, no instrument, no retention, or a time to live
            that is not longer than zero.
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
        max_concurrency: int | None = None,
        max_concurrent_steps: int | None = None,
        limits: Mapping[str, Limit] | None = None,
        resources: Mapping[str, Any] | None = None,
        recover: bool = False,
        durability: Durability = "sync",
        instruments: Sequence[Instrument] = (),
        retention: Retention | None = None,
        always_replay: bool = False,
        lease_ttl: timedelta = timedelta(seconds=30),
        clock: Clock | None = None,
    ) -> None:
        if problem := misnamed_durability(durability):
            raise InvalidArgument(problem)
        definition = choose_definition(pipeline, registry, pipeline_name, pipeline_version)
        catalogue = Catalogue(definition, registry=registry, context_type=context_type, migrate=migrate)
        self._owns_backend = isinstance(state_backend, str)
        backend, clock = _open(state_backend), clock or SystemClock()
        services = Services(
            backend,
            clock,
            resources=resources,
            limits=limits,
            max_concurrent_steps=max_concurrent_steps,
            instruments=instruments,
        )
        services.check(step for program in catalogue.programs() for step in program.definition.steps())
        self._is_recovering = recover
        runner = Runner(
            backend,
            catalogue,
            clock,
            lease_ttl=lease_ttl,
            services=services,
            max_concurrency=max_concurrency,
            is_recovering=recover,
            durability=durability,
            always_replay=always_replay,
            retention=retention,
        )
        super().__init__(runner)

    async def run(
        self,
        input: In | EllipsisType = ...,
        /,
        *,
        run_id: str | None = None,
        context: Any = None,
        metadata: Mapping[str, Any] | None = None,
        timeout: timedelta | float | None = None,
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
            timeout: how long the run may take, from its start over all restarts; then it fails. A ``timedelta`` or
                seconds; to resume, left out.

        Returns:
            The result of a run that completed or paused.

        Raises:
            RunFailed: the run failed, now or earlier; the step's exception is the ``__cause__``.
            RunCancelled: the run was cancelled.
            NonDeterminismError: the code of a workflow contradicts what is recorded; the run is paused.
            DeserializationError: what is recorded does not fit the classes that are here; the run is paused.
            RunConflict: the ``run_id`` belongs to a run with another input or context.
            VersionMismatch: the run was recorded by another definition, and would have to execute.
            SerializationError: the input, the context or the metadata cannot be stored.
            BackendError: the store failed; the run can be resumed.
        """
        self._recover_meanwhile()
        request = request_for(run_id, input, context, metadata, timeout)
        return await self._runner.sweeper.handed(request.run_id, self._runner.complete(request))

    async def start(
        self,
        input: In | EllipsisType = ...,
        /,
        *,
        run_id: str | None = None,
        context: Any = None,
        metadata: Mapping[str, Any] | None = None,
        timeout: timedelta | float | None = None,
        background: bool = False,
    ) -> RunHandle[Out]:
        """Start or resume a run that goes on by itself: it is durable when this returns.

        A run that has to wait long leaves memory; this runtime takes it up again when it is due, as long as it is open.

        Arguments and errors are those of ``run``, except that the outcome comes from ``RunHandle.result``.

        Args:
            input: as in ``run``.
            run_id: as in ``run``.
            context: as in ``run``.
            metadata: as in ``run``.
            timeout: as in ``run``.
            background: whether the run counts among the background tasks, which the store lists apart; dispatched ones
                always do. Says nothing about a run that exists.
        """
        self._recover_meanwhile()
        request = replace(request_for(run_id, input, context, metadata, timeout), is_background=background)
        await self._runner.launch(request)
        return self.handle(request.run_id)

    async def dispatch(
        self,
        input: In | EllipsisType = ...,
        /,
        *,
        run_id: str | None = None,
        queue: str = "default",
        delay: timedelta | float | None = None,
        priority: int = 0,
        context: Any = None,
        metadata: Mapping[str, Any] | None = None,
        timeout: timedelta | float | None = None,
    ) -> RunHandle[Out]:
        """Put a run into a queue, from which a ``Worker`` takes it. It is durable when this returns.

        A run that exists with the same input is left as it is.

        Args:
            input: as in ``run``.
            run_id: as in ``run``.
            queue: which queue.
            delay: how long it waits there at least, a ``timedelta`` or seconds.
            priority: higher goes first.
            context: as in ``run``.
            metadata: as in ``run``.
            timeout: as in ``run``; the time in the queue counts.

        Raises:
            InvalidArgument: an empty queue, a priority that is no whole number, or a delay that is no duration.
            RunConflict: the ``run_id`` belongs to a run with another input or context.
        """
        check_place(queue, priority)
        request = request_for(run_id, input, context, metadata, timeout)
        wait = checked_seconds(delay, "delay") or 0
        await self._runner.taking.ensure(replace(request, queue=queue, delay=wait, priority=priority))
        return self.handle(request.run_id)

    async def resume(self, run_id: str) -> RunResult[Out]:
        """Drive an existing run until it rests, as ``run(run_id=…)`` does; one that was paused goes on.

        One that waits for children looks at all of them, whether they have told it of news or not.

        Raises:
            RunNotFound: there is no such run.
        """
        self._recover_meanwhile()
        completed = self._runner.complete(Request(run_id=run_id, is_resume=True, is_known=True))
        return await self._runner.sweeper.handed(run_id, completed)

    async def signal(self, run_id: str, name: str, payload: Any = None, *, by: str | None = None) -> None:
        """Answer a ``wait_for`` of a run; durable when this returns.

        An answer that comes before the run waits for it is kept. The first answer wins; the same once more is
        accepted in silence. A paused run that is answered goes on in the background of this runtime; one that was
        dispatched, with a worker.

        Args:
            run_id: the run.
            name: the name of the wait.
            payload: the answer.
            by: who answers, for the audit log.

        Raises:
            RunNotFound: there is no such run.
            InvalidArgument: ``name`` cannot be that of a wait, or ``by`` is no text.
            InvalidSignal: the answer does not fit the schema, or another one was given. Nothing was consumed.
        """
        await self._control.signal(run_id, name, payload, by)

    async def pause(self, run_id: str) -> None:
        """Pause a run before its next step; ``resume`` goes on with it. One that has ended stays as it is.

        Raises:
            RunNotFound: there is no such run.
        """
        await self._control.pause(run_id)

    async def cancel(self, run_id: str, reason: str = "") -> None:
        """Cancel a run and the runs that it has started, and return when it has ended.

        ``CancelledError`` arrives at once in a step that this process executes, and within a second or so in one of
        another process. Then what was done is compensated. A run that has ended stays as it is.

        Args:
            run_id: the run.
            reason: told by ``RunCancelled``.

        Raises:
            InvalidArgument: ``reason`` is no text of Unicode.
            RunNotFound: there is no such run.
            VersionMismatch: nobody drives it, and it was recorded by another definition.
            NonDeterminismError: nobody drives it, and its code contradicts what is recorded.
            DeserializationError: nobody drives it, and what is recorded does not fit the classes that are here.
        """
        await self._runner.cancel(run_id, reason)

    async def redrive(
        self,
        run_id: str,
        *,
        decision: Literal["retry", "skip"] = "retry",
        output: Any = ...,
        step: str | None = None,
    ) -> RunResult[Out]:
        """Try a run again that has failed or was cancelled, from the step that failed, with its original input.

        Steps that were undone run again. For a run that waits for a decision on a step with ``effect="once"``, this is
        the decision.

        Args:
            run_id: the run.
            decision: ``"retry"`` the step, or ``"skip"`` it.
            output: what the step counts as having returned, if it is skipped; ``None`` by default.
            step: the key of the step that is decided on, where the run waits for several decisions, by default for all;
                or of the one to skip where several have failed, by default the one whose error is the run's.

        Raises:
            InvalidArgument: the run has not ended, and waits for no decision, or for none on this step, or this step
                has not failed; or there is one output, and several steps that would take it.
            RunNotFound: there is no such run.
        """
        return await self._runner.sweeper.handed(run_id, self._control.redrive(run_id, decision, output, step))

    async def fork(
        self,
        run_id: str,
        *,
        at: int | None = None,
        new_run_id: str | None = None,
        context_update: Mapping[str, Any] | None = None,
    ) -> RunHandle[Out]:
        """Create a run that has the same past as another one, up to ``at``. Nothing of that runs again.

        The new run is ``pending``; ``run``, ``resume`` and ``recover`` drive it.

        Args:
            run_id: the run to share the past of.
            at: the last fact that is shared; by default the last one there is.
            new_run_id: names the new run; a new unique name by default.
            context_update: fields of the context that differ in the new run.

        Raises:
            RunNotFound: there is no such run.
            InvalidArgument: its log has no fact ``at``, the run was being undone there, or ``new_run_id`` is taken.
        """
        return self.handle(await self._control.fork(run_id, at, new_run_id, context_update))

    async def recover(self) -> list[str]:
        """Drive every run whose owner is gone, until it rests or sleeps, and return their ids.

        Those are the ``running`` runs without a living owner, and the ``pending`` ones that are in no queue.
        """
        return await self._runner.recover()

    async def stream(
        self,
        input: In | EllipsisType = ...,
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
        self._recover_meanwhile()
        request = request_for(run_id, input, context, metadata, None)
        task = await self._runner.launch(request, is_followed=True)
        try:
            reader = self._runner.reader
            async for event in reader.events(request.run_id, after=after, follow=True, driver=task):
                yield event
            await self._runner.sweeper.handed(request.run_id, self._runner.result(request.run_id))
        finally:
            await self._runner.interrupt(task)

    async def aclose(self) -> None:
        """Interrupt the runs in the background, and close a backend that was given as a URL.

        A cancellation meanwhile is raised when all that is done.
        """
        await finish(self._close())

    async def _close(self) -> None:
        await self._runner.aclose()
        if self._owns_backend:
            await self.state_backend.shutdown()

    def _recover_meanwhile(self) -> None:
        if self._is_recovering:
            self._runner.scheduler.kick()

    async def __aenter__(self) -> Self:
        self._recover_meanwhile()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()


def runner_of(flujo: Flujo[Any, Any]) -> Runner:
    """Return what a runtime drives runs with; for workers."""
    return flujo._runner  # pyright: ignore[reportPrivateUsage] -- of this module


def _open(backend: StateBackend | str) -> StateBackend:
    if isinstance(backend, StateBackend):
        return backend
    if not isinstance(backend, str):  # pyright: ignore[reportUnnecessaryIsInstance] -- users without a type checker
        raise InvalidArgument(
            f"state_backend= is a StateBackend, such as SQLiteBackend(path), or the URL of one, not {backend!r}"
        )
    from flujo_async.backends import backend_from_url  # a store is imported when it is asked for

    return backend_from_url(backend)
