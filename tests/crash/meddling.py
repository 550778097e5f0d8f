"""A run that a second runtime meddles with, at a call that the first one makes of the store."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from flujo_async import Flujo, PipelineRegistry
from flujo_async.abc import StateBackend
from flujo_async.errors import InvalidArgument, InvalidSignal, RunCancelled, RunFailed, RunNotFound
from flujo_async.testing import FaultyBackend, VirtualClock
from flujo_async.testing.explorer_life import LEASE_TTL, Process
from flujo_async.testing.faults import Fault, How
from tests.crash.drawn.building import Building, Marks
from tests.crash.drawn.oracle import expected
from tests.crash.drawn.terms import SIGNALS, Row
from tests.runtime.stores import Store

RUN = "r"
FORK, AT, MOVED = "fork", "fork at", "moved"
MOST_REST = 60
"""A run that rests more often than this is taken for one that never ends."""

CALLS = (
    *("create_run", "load", "append", "claim", "next_due", "release", "post", "read_signals", "query_runs"),
    *("read_events", "read_blobs", "put_snapshot", "delete_run"),
)
"""What the first runtime calls; other calls are few, and change nothing of a run."""

Deed = Callable[[Flujo[Any, Any], int], Awaitable[object]]


async def _signal(flujo: Flujo[Any, Any], _: int) -> None:
    for name, payload in SIGNALS.items():
        await flujo.signal(RUN, name, payload)


async def _pause_and_resume(flujo: Flujo[Any, Any], _: int) -> None:
    await flujo.pause(RUN)
    await flujo.resume(RUN)


async def _cancel_and_resume(flujo: Flujo[Any, Any], _: int) -> None:
    await asyncio.gather(flujo.cancel(RUN), flujo.resume(RUN), return_exceptions=True)


async def _fork_at(flujo: Flujo[Any, Any], _: int) -> None:
    history = await flujo.history(RUN)
    await flujo.fork(RUN, at=history[len(history) // 2].seq, new_run_id=AT)


async def _move(flujo: Flujo[Any, Any], _: int) -> None:
    await flujo.import_run(await flujo.export_run(RUN), MOVED)


async def _begin_anew(flujo: Flujo[Any, Any], given: int) -> None:
    await flujo.delete(RUN)
    await flujo.run(given, run_id=RUN)


async def _restore(flujo: Flujo[Any, Any], _: int) -> None:
    """As from a copy of the store: nobody drives anything of that."""
    saved, level = list[bytes](), [RUN]
    while level:
        saved += [await flujo.export_run(run_id) for run_id in level]
        level = [head.run_id for parent in level for head in await flujo.list_runs(parent_run_id=parent, limit=None)]
    await flujo.delete(RUN)
    for data in saved:
        await flujo.import_run(data)


async def _look(flujo: Flujo[Any, Any], _: int) -> None:
    await asyncio.gather(flujo.state(RUN), flujo.history(RUN), flujo.steps(RUN), flujo.verify())


DEEDS: dict[str, Deed] = {
    "run": lambda flujo, given: flujo.run(given, run_id=RUN),
    "start": lambda flujo, given: flujo.start(given, run_id=RUN),
    "dispatch": lambda flujo, given: flujo.dispatch(given, run_id=RUN),
    "resume": lambda flujo, _: flujo.resume(RUN),
    "recover": lambda flujo, _: flujo.recover(),
    "result": lambda flujo, _: flujo.handle(RUN).result(),
    "signal": _signal,
    "pause": lambda flujo, _: flujo.pause(RUN),
    "pause and resume": _pause_and_resume,
    "cancel": lambda flujo, _: flujo.cancel(RUN),
    "cancel and resume": _cancel_and_resume,
    "redrive": lambda flujo, _: flujo.redrive(RUN),
    "fork": lambda flujo, _: flujo.fork(RUN, new_run_id=FORK),
    "fork at": _fork_at,
    "move": _move,
    "delete": lambda flujo, _: flujo.delete(RUN),
    "delete and begin anew": _begin_anew,
    "delete and restore": _restore,
    "compact": lambda flujo, _: flujo.compact(),
    "look": _look,
}


@dataclass(frozen=True)
class Meddling:
    """What the second runtime does, and when.

    Attributes:
        deed: one of ``DEEDS``.
        nth: at which call of the store.
        is_after: whether that call has taken effect.
        turns: for how many turns of the event loop the call waits for the deed.
        crash: so many calls later the first process dies; ``None`` if it lives.
    """

    deed: str
    nth: int
    is_after: bool
    turns: int
    crash: int | None


class Meddled:
    """A run of a definition, from its beginning to its end, which two runtimes may see to.

    Attributes:
        calls: how many calls of the store the first runtime has made.
    """

    def __init__(self, definition: Row, start: int, meddling: Meddling | None, **options: Any) -> None:
        self.calls = 0
        self._definition, self._start, self._meddling, self._options = definition, start, meddling, options
        self._told = expected(definition, start)
        self._deed = "" if meddling is None else meddling.deed
        self._clock = VirtualClock()
        self._faults = list[Fault]()
        self._doing = list[asyncio.Task[None]]()
        self._is_too_late = False

    async def live(self, store: Store) -> None:
        """Let it live, and check what has become of it."""
        # Two that each have one place could wait for each other's children for as long as leases last here: for ever.
        async with self._flujo(store.open(), max_concurrency=None) as other:
            for meddling in (self._meddling, None):  # after a crash nobody meddles
                process = Process(store.open(), self._clock, None, patience=10)
                if meddling is not None:
                    self._arrange(process.backend, meddling, other)
                life = await process.live(self._work(process, other), timeout=60)
                if life.trouble is not None:
                    raise life.trouble
                self.calls += len(process.backend.calls)
                if not life.has_crashed:
                    break

    def _flujo(self, backend: StateBackend, **options: Any) -> Flujo[Any, Any]:
        registry = PipelineRegistry()
        registry.register(Building(lambda name, ctx: None).row(self._definition), "d", "1.0.0")
        return Flujo(
            registry=registry,
            pipeline_name="d",
            state_backend=backend,
            clock=self._clock,
            context_type=Marks,
            lease_ttl=LEASE_TTL,
            **{**self._options, **options},
        )

    def _arrange(self, backend: FaultyBackend, meddling: Meddling, other: Flujo[Any, Any]) -> None:
        async def meddle() -> None:
            if self._is_too_late:  # the call was under way
                return
            task = asyncio.create_task(self._do(DEEDS[meddling.deed](other, self._start)))
            self._doing.append(task)
            for _ in range(meddling.turns):
                await asyncio.sleep(0)

        moment: How = "after" if meddling.is_after else "before"
        self._faults.append(backend.delay(CALLS, nth=meddling.nth, how=moment, until=meddle))
        if meddling.crash is not None:
            self._faults.append(backend.crash(CALLS, nth=meddling.nth + meddling.crash, how="after"))

    async def _do(self, deed: Awaitable[object]) -> None:
        """Do it; the run need not be there yet, or any more, or be one that this can be done to."""
        with suppress(RunNotFound, RunFailed, RunCancelled, InvalidArgument, InvalidSignal):
            await deed

    async def _work(self, process: Process, other: Flujo[Any, Any]) -> None:
        async with self._flujo(process.backend) as flujo:
            await self._end(flujo, RUN)
            self._is_too_late = True  # what has not been done by now would find a run at its end
            for fault in self._faults:
                fault.withdraw()
            for doing in self._doing:
                while not doing.done():  # it may wait for what the run is to be told once more
                    await self._end(flujo, RUN)
                    await asyncio.wait({doing}, timeout=0.01)
                await doing
            await self._end(flujo, RUN)
            for head in await other.list_runs(limit=None):
                if head.parent_run_id is None:
                    await self._end(other, head.run_id)
                    await self._judge(other, head.run_id)
            await self._judge_all(other)

    async def _end(self, flujo: Flujo[Any, Any], run_id: str) -> None:
        """Bring a run to its end, whatever it rests for."""
        for _ in range(MOST_REST):
            if self._deed.startswith("delete"):
                await flujo.recover()  # children that somebody else takes for theirs
            try:
                to_end = flujo.run(self._start, run_id=run_id) if run_id == RUN else flujo.resume(run_id)
                result = await to_end
            except (RunFailed, RunCancelled):
                return
            except RunNotFound:
                assert self._deed.startswith("delete")
                return
            if result.status != "paused":
                return
            await self._answer(flujo, run_id, result.waiting_for)
        raise AssertionError(f"{run_id} has not come to its end: {result.waiting_for}")

    async def _answer(self, flujo: Flujo[Any, Any], run_id: str, waiting_for: Any) -> None:
        is_answered, deadlines = False, []
        for item in waiting_for:
            whose = item.run_id or run_id
            with suppress(RunFailed, RunCancelled, RunNotFound, InvalidArgument, InvalidSignal):
                match item.kind:
                    case "signal" if item.name in SIGNALS:
                        is_answered = True
                        await flujo.signal(whose, item.name, SIGNALS[item.name])
                    case "pause":
                        is_answered = True
                        await flujo.resume(whose)
                    case "decision":
                        is_answered = True
                        await flujo.redrive(whose)
                    case _:
                        assert item.deadline is not None, f"{whose} waits for {item}"
                        deadlines.append(item.deadline)
        if deadlines and not is_answered:
            now = self._clock.now()
            self._clock.advance(max(min(deadlines), now) - now)

    async def _judge(self, flujo: Flujo[Any, Any], run_id: str) -> None:
        """Compare a run at its end with what was told."""
        told, state = self._told, await flujo.state(run_id)
        match state.status:
            case "completed":
                output = (await flujo.handle(run_id).result()).output
                assert not told.errors, f"{run_id} returned {output} instead of failing: {told.errors}"
                assert output == told.output, f"{run_id} returned {output} instead of {told.output}"
                if not self._is_unsettled:
                    assert state.pipeline_context == dataclasses.asdict(told.marks), f"context of {run_id}"
            case "failed":
                message = state.error_message or ""
                assert told.errors, f"{run_id} failed: {message}"
                assert message.startswith(tuple(told.errors)), f"{run_id} failed: {message} instead of {told.errors}"
            case "cancelled":
                assert self._deed.startswith("cancel"), f"{run_id} was cancelled"
            case status:
                raise AssertionError(f"{run_id} is {status}")

    @property
    def _is_unsettled(self) -> bool:
        """Whether what was undone, or done twice by leave of the user, is in the context."""
        return self._deed == "redrive" or self._deed.startswith("cancel")

    async def _judge_all(self, flujo: Flujo[Any, Any]) -> None:
        """Look at the store as a whole: nothing is left half done, and nothing is damaged."""
        report = await flujo.verify()
        assert report.ok, str(report)
        for head in await flujo.list_runs(limit=None):
            assert head.lease is None, f"{head.run_id} is still leased: {head.lease}"
            assert head.status in ("completed", "failed", "cancelled"), f"{head.run_id} is {head.status}"
