"""Crashes at every write of a run, one world after the other."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from typing import Any, Final, Literal, TypeAlias

from flujo_async._model.result import RunResult
from flujo_async._model.state import Waiting
from flujo_async._plan.pipeline import Chain
from flujo_async._runtime.flujo import Flujo
from flujo_async.abc.backend import StateBackend
from flujo_async.abc.pace import Pace
from flujo_async.backends.memory import InMemoryBackend
from flujo_async.errors import InvalidArgument, RunCancelled, RunFailed, RunNotFound
from flujo_async.testing.clock import VirtualClock
from flujo_async.testing.explorer_life import LEASE_TTL, Process
from flujo_async.testing.explorer_report import Crash, CrashReport, Outcome, World, step_name

RUN_ID: Final = "explored"
"""The name of the run in every world."""

Verify: TypeAlias = Callable[[World, Flujo[Any, Any]], object]


class CrashExplorer:
    """Runs a definition once, then again and again with a crash at each write, and compares how it ends.

    In each world the process dies at one write of the run, before or after that is durable, and a new runtime takes the
    run up from the store. In the end it has to have the same status, output, context and failure as the run that
    nothing disturbed, and no step whose outcome was stored may have been executed again.

    ```python
    await CrashExplorer(pipeline, "tea", signals={"approval": True}).check()
    ```

    Time is virtual: when a run comes to a standstill, it moves to the next moment that something sleeps until. What
    workflows draw by ``ctx.random()`` and ``ctx.uuid()`` is the same in every world. Steps have to return the same in
    every world too: where they talk to a fake, ``setup`` brings that back to its beginning.

    A crash is simulated within this process: the store answers no more, and the run is cancelled. A step that runs in a
    thread cannot be stopped that way.
    """

    def __init__(  # noqa: PLR0913 -- keyword-only options of an exploration
        self,
        pipeline: Chain[Any, Any] | None = None,
        input: Any = ...,
        *,
        context: Any = None,
        signals: Mapping[str, Any] | None = None,
        skip: Mapping[str, Any] | None = None,
        backend: Callable[[int], StateBackend] | None = None,
        setup: Callable[[], object] | None = None,
        verify: Verify | None = None,
        depth: int = 1,
        max_worlds: int = 500,
        max_resumes: int = 100,
        timeout: float = 10.0,
        patience: float = 1.0,
        **options: Any,
    ) -> None:
        """Prepare an exploration.

        Args:
            pipeline: a pipeline, a step or a workflow; without one ``options`` name a registered one.
            input: of the run.
            context: of the run.
            signals: what is answered to waits, by name.
            skip: steps with ``effect="once"`` that are skipped if a crash interrupts them, and what they count as
                having returned, by name. All others are tried again.
            backend: opens the store of a world, given its number. It is called in each life of that world, and may
                return a new object for the same store, as another process would have it. By default memory.
            setup: called before each world; awaited if it returns an awaitable.
            verify: called after each world with the world and a runtime to read with; awaited if it returns an
                awaitable. An ``AssertionError``, or what ``pytest.fail`` raises, is reported as what is wrong with the
                world.
            depth: how many crashes one world may have: with 2 the resume crashes too, at each of its writes.
            max_worlds: at most so many worlds; of more of them an even selection is explored, and the report says so.
            max_resumes: at most so often one life may go on with a run that waits for an answer, a decision or time.
            timeout: how long one life may take, in seconds of real time.
            patience: a step that is executed for so long, in seconds of real time, counts as hanging: then the time of
                its limits passes. What holds up the whole process does not count.
            options: further arguments of ``Flujo``, such as ``registry``, ``context_type`` or ``resources``.

        Raises:
            InvalidArgument: a number below 1, or an option that an exploration has to choose itself.
            DefinitionError: as by ``Flujo``.
        """
        if taken := options.keys() & {"state_backend", "clock", "recover"}:
            raise InvalidArgument(
                f"an exploration chooses {', '.join(sorted(taken))} itself; backend= opens its stores"
            )
        if min(depth, max_worlds, max_resumes) < 1:
            raise InvalidArgument("depth, max_worlds and max_resumes are at least 1")
        self._pipeline, self._input, self._context = pipeline, input, context
        self._signals, self._skip = dict(signals or {}), dict(skip or {})
        self._backend = backend or _Memories().open
        self._setup, self._verify = setup, verify
        self._depth, self._max_worlds, self._max_resumes, self._timeout = depth, max_worlds, max_resumes, timeout
        self._patience = patience
        self._options: dict[str, Any] = {"lease_ttl": LEASE_TTL, **options}
        self._flujo(InMemoryBackend(), VirtualClock())  # a definition that is wrong is refused here

    async def check(self) -> CrashReport:
        """Explore, and return the report if all is well.

        Raises:
            AssertionError: a world ends otherwise than the undisturbed run; the text tells which, and how.
        """
        report = await self.explore()
        if report.failures:
            raise AssertionError(str(report))
        return report

    async def explore(self) -> CrashReport:
        """Explore, and return what was found.

        Raises:
            AssertionError: two runs that nothing disturbs end differently, so that nothing can be compared.
            Exception: what ``Flujo.run`` raises, if the run does not even come to rest undisturbed.
        """
        with Pace.here().timeless():
            return await self._explore()

    async def _explore(self) -> CrashReport:
        numbers = count()
        reference = await self._undisturbed(numbers)
        worlds, explored, skipped = [reference], list[World](), 0
        for _ in range(self._depth):
            candidates = [crashes for world in worlds for crashes in _next_crashes(world)]
            chosen = _spread(candidates, self._max_worlds - len(explored))
            skipped += len(candidates) - len(chosen)
            worlds = [await self._world(next(numbers), crashes, reference) for crashes in chosen]
            explored += worlds
        failures = tuple(world for world in explored if world.differences)
        return CrashReport(reference, len(explored), skipped, failures)

    async def _undisturbed(self, numbers: Iterable[int]) -> World:
        reference, again = [await self._world(number, ()) for number, _ in zip(numbers, range(2), strict=False)]
        for world in (reference, again):
            if (trouble := world.lives[-1].trouble) is not None:
                raise trouble
            if world.differences:
                raise AssertionError("\n".join(["The run is wrong even if nothing disturbs it:", *world.differences]))
        if differences := list(again.outcome.differences(reference.outcome)):
            raise AssertionError(
                "\n  ".join(
                    ["Two runs that nothing disturbs end differently, so crashes cannot be told:", *differences]
                )
                + "\nLet steps return the same each time, bring what they talk to back to its beginning in setup=, and "
                "let a workflow draw by ctx.now(), ctx.uuid() and ctx.random()."
            )
        return reference

    # -------------------------------------------------------------------------------------------------- one world

    async def _world(self, number: int, crashes: Sequence[Crash], reference: World | None = None) -> World:
        if self._setup is not None:
            await _done(self._setup())
        world, clock = World(number, tuple(crashes)), VirtualClock()
        for crash in (*crashes, None):
            await self._live(world, clock, crash)
            if not world.lives[-1].has_crashed:
                break
        await self._look_at(world, clock, reference)
        return world

    async def _live(self, world: World, clock: VirtualClock, crash: Crash | None) -> None:
        backend = self._backend(world.number)
        try:
            stored = await self._stored(self._flujo(backend, clock)) if world.lives else set[tuple[str, str]]()
            process = Process(backend, clock, crash, self._patience)
            flujo = self._flujo(process.backend, clock)
            life = await process.live(self._to_rest(flujo, clock), timeout=self._timeout)
        finally:
            await backend.shutdown()
        life.repeated = [step for step in life.executed if step in stored]
        world.lives.append(life)

    async def _to_rest(self, flujo: Flujo[Any, Any], clock: VirtualClock) -> None:
        async with flujo:
            result = await flujo.run(self._input, run_id=RUN_ID, context=self._context)
            for _ in range(self._max_resumes):
                if result.status != "paused" or not await self._go_on(flujo, clock, result):
                    return
                result = await flujo.run(run_id=RUN_ID)
        raise AssertionError(f"it still waits after {self._max_resumes} answers: {result.waiting_for}")

    async def _go_on(self, flujo: Flujo[Any, Any], clock: VirtualClock, paused: RunResult[Any]) -> bool:
        """Do what lets a paused run go on; return whether there was anything to do."""
        decisions = {waiting.run_id: waiting for waiting in reversed(paused.waiting_for) if waiting.kind == "decision"}
        # One lets its run go on: whatever else it waits for is looked at again.
        todo = decisions.values() or [waiting for waiting in paused.waiting_for if waiting.kind == "signal"]
        answered = [await self._answer(flujo, waiting) for waiting in todo]
        if any(answered):
            return True
        deadlines = [waiting.deadline for waiting in paused.waiting_for if waiting.deadline is not None]
        if deadlines:
            clock.advance(max(min(deadlines), clock.now()) - clock.now())
        return bool(deadlines)

    async def _answer(self, flujo: Flujo[Any, Any], waiting: Waiting) -> bool:
        run_id, name = waiting.run_id or RUN_ID, waiting.name
        if waiting.kind == "decision":
            decision: Literal["retry", "skip"] = "skip" if name in self._skip else "retry"
            with suppress(RunFailed, RunCancelled):  # of a child: the run itself tells how it goes on with that
                records = [record for record in await flujo.steps(run_id) if record.status == "RUNNING"]
                key = next(record.key for record in records if record.name == name)
                await flujo.redrive(run_id, decision=decision, output=self._skip.get(name), step=key)
        elif name in self._signals:
            await flujo.signal(run_id, name, self._signals[name])
        else:
            return False
        return True

    # ------------------------------------------------------------------------------------------------ what is left

    async def _stored(self, flujo: Flujo[Any, Any]) -> set[tuple[str, str]]:
        """Return the steps whose outcome is stored, by run and key."""
        return {
            (summary.run_id, record.key)
            for summary in await flujo.list_runs(limit=None)
            for record in await flujo.steps(summary.run_id)
            if record.status in ("SUCCEEDED", "FAILED")
        }

    async def _look_at(self, world: World, clock: VirtualClock, reference: World | None) -> None:
        backend = self._backend(world.number)
        try:
            flujo = self._flujo(backend, clock)
            world.outcome = await _outcome(flujo)
            await self._take_stock(world, flujo, reference)
        finally:
            await backend.shutdown()

    async def _take_stock(self, world: World, flujo: Flujo[Any, Any], reference: World | None) -> None:
        for life in world.lives:
            if life.trouble is not None:
                world.differences.append(f"it ended by {type(life.trouble).__name__}: {life.trouble}")
            for run_id, key in life.repeated:
                world.differences.append(f"{step_name(run_id, key, RUN_ID)} was executed again; its outcome was stored")
        if reference is not None:
            world.differences += world.outcome.differences(reference.outcome)
        if self._verify is not None:
            try:
                await _done(self._verify(world, flujo))
            except _refusals() as error:
                world.differences.append(f"verify: {error}")

    def _flujo(self, backend: StateBackend, clock: VirtualClock) -> Flujo[Any, Any]:
        return Flujo(self._pipeline, state_backend=backend, clock=clock, **self._options)


class _Memories:
    """The stores of all worlds that live in memory; only the newest is kept."""

    def __init__(self) -> None:
        self._number = -1
        self._backend = InMemoryBackend()

    def open(self, number: int) -> StateBackend:
        """Return the store of a world."""
        if number != self._number:
            self._number, self._backend = number, InMemoryBackend()
        return self._backend


async def _outcome(flujo: Flujo[Any, Any]) -> Outcome:
    """Return what the run left; nothing is driven."""
    try:
        state = await flujo.state(RUN_ID)
    except RunNotFound:
        return Outcome(None)
    waiting = tuple(sorted(f"{item.kind} {item.name}" for item in state.waiting_for))
    output, error = None, None
    if state.status in ("completed", "failed", "cancelled"):
        try:
            output = (await flujo.handle(RUN_ID).result()).output
        except (RunFailed, RunCancelled) as ended:
            cause = ended.result.error
            error = str(ended) if cause is None else f"{type(cause).__name__}: {cause}"
    return Outcome(state.status, output, error, state.pipeline_context, waiting)


def _refusals() -> tuple[type[BaseException], ...]:
    """Return what ``verify`` raises; ``pytest.fail`` raises an exception of its own, where pytest is in use."""
    pytest = sys.modules.get("pytest")
    return (AssertionError,) if pytest is None else (AssertionError, pytest.fail.Exception)


def _next_crashes(world: World) -> Iterable[tuple[Crash, ...]]:
    """Yield the crashes of this world and one more in its last life."""
    if world.is_as_planned and not world.differences:
        for nth in range(1, len(world.lives[-1].writes) + 1):
            yield (*world.crashes, Crash(nth, "before"))
            yield (*world.crashes, Crash(nth, "after"))


def _spread(candidates: Sequence[tuple[Crash, ...]], most: int) -> list[tuple[Crash, ...]]:
    """Return so many of the candidates at most, evenly chosen."""
    if len(candidates) <= most:
        return list(candidates)
    # They are pairs, before and after each write: the sides take turns, whatever the distance is.
    return [candidates[number * len(candidates) // most // 2 * 2 + number % 2] for number in range(most)]


async def _done(result: object) -> None:
    if inspect.isawaitable(result):
        awaitable: Awaitable[object] = result
        await awaitable
