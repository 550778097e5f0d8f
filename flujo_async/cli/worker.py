"""``flujo-async worker``: takes dispatched runs from queues, in a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

import typer

from flujo_async._model.lease import Lease
from flujo_async._runtime.bound_loop import BoundLoop
from flujo_async._runtime.scheduler import Driver, Scheduler
from flujo_async._runtime.worker import Worker
from flujo_async.abc.backend import StateBackend
from flujo_async.abc.clock import Clock
from flujo_async.abc.shield import finish
from flujo_async.cli.options import FlujoName, Json, NoDb
from flujo_async.cli.run_page import note, standing
from flujo_async.cli.runtime import Named, Runtime, flujo_named
from flujo_async.cli.screen import brief, clock, duration, print_json_line, print_line, runs_text
from flujo_async.cli.store import find_summary
from flujo_async.errors import FlujoError

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_AFTER_SIGNAL: Final = 128
"""The exit code of what a signal ended is higher than the signal by this much."""

_LAST_SECONDS: Final = 1.0
"""What has not ended so long after the second signal, such as a thread, is left behind."""


@dataclass(frozen=True, slots=True)
class Duty:
    """What a worker is to do."""

    queues: tuple[str, ...]
    concurrency: int
    drain_seconds: float
    is_json: bool


def work(
    flujo: FlujoName = None,
    queue: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help='A queue to take runs from, by default "default"; can be repeated.'),
    ] = None,
    concurrency: Annotated[
        int, typer.Option(min=1, metavar="N", help="How many runs it drives at the same time.")
    ] = 100,
    drain_timeout: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="How long runs may go on when it is asked to stop.")
    ] = 30,
    db: NoDb = None,
    json: Json = False,
) -> None:
    """Take dispatched runs from queues and drive them. Prints a line for each run that it lets go.

    After SIGTERM or Ctrl-C it takes no more, and ends when those that it drives rest, or when the time for that is
    over: they are interrupted, and another worker resumes them. A second signal ends it at once.
    """
    named = flujo_named(flujo)
    duty = Duty(tuple(queue or ("default",)), concurrency, drain_timeout, json)
    code = asyncio.run(_work(named, named.load(), duty))
    if code:
        raise typer.Exit(code)


async def _work(named: Named, loaded: object, duty: Duty) -> int:
    flujo = await named.make(loaded)
    diary, stop = _Diary(duty), _Stop()
    try:
        async with flujo:
            await _until(stop, flujo, named, diary)
    except asyncio.CancelledError:
        if not stop.code:
            raise
    finally:
        await flujo.state_backend.shutdown()
    diary.stopped()
    return stop.code


async def _until(stop: _Stop, flujo: Runtime, named: Named, diary: _Diary) -> None:
    worker = _TellingWorker(flujo, diary)
    with stop.listening():
        async with worker:
            diary.started(named)
            await worker.wait(stop.asked)
            stop.is_answered = True
            diary.draining()
            await worker.drain()


class _Stop:
    """The wish of somebody outside that the worker ends.

    Attributes:
        asked: set by the first signal.
        is_answered: whether the worker has begun to drain. Signals before that are one: `timeout` and some supervisors
            tell a process, and then its group.
        code: what the process is to exit with: not 0 after the second signal.
    """

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.code = 0
        self.is_answered = False

    @contextmanager
    def listening(self) -> Generator[None]:
        """Listen to signals; the second one cancels the task that this is called in."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        for number in _SIGNALS:
            with suppress(NotImplementedError):  # Windows
                loop.add_signal_handler(number, self._hear, number, task)
        try:
            yield
        finally:
            for number in _SIGNALS:
                with suppress(NotImplementedError):
                    loop.remove_signal_handler(number)

    def _hear(self, number: signal.Signals, task: asyncio.Task[Any]) -> None:
        if not self.asked.is_set():
            self.asked.set()
        elif self.is_answered and not self.code:
            self.code = _AFTER_SIGNAL + number
            task.cancel()
            last = threading.Timer(_LAST_SECONDS, os._exit, (self.code,))
            last.daemon = True
            last.start()


class _Diary:
    """Tells what a worker does: lines, or lines of JSON."""

    def __init__(self, duty: Duty) -> None:
        self.duty = duty
        self._driven: set[str] = set()
        self._interrupted = 0

    def started(self, named: Named) -> None:
        """Tell what is going to be done."""
        self._tell(
            f"{named.name} takes runs from {_queues(self.duty)}, {self.duty.concurrency:,} at a time",
            "started",
            flujo=named.name,
            queues=list(self.duty.queues),
            concurrency=self.duty.concurrency,
            pid=os.getpid(),
        )

    def taken(self, run_id: str) -> None:
        """Tell that a run is driven from now on: only to programs."""
        self._driven.add(run_id)
        self._tell(None, "taken", run_id=run_id)

    async def left(self, backend: StateBackend, run_id: str, seconds: float) -> None:
        """Tell how a run stands that the worker has let go."""
        self._driven.discard(run_id)
        head = await find_summary(backend, run_id)
        if head is None:
            self._tell(f"{run_id}: deleted", "left", run_id=run_id, status=None, seconds=seconds)
            return
        status = "interrupted" if head.status == "running" and head.wake_at is None else standing(head)
        self._interrupted += status == "interrupted"
        more = brief(head.error_message) if head.error_message else note(head)
        self._tell(
            f"{run_id}: {status} after {duration(seconds)}{f', {more}' if more else ''}",
            "left",
            run_id=run_id,
            pipeline_name=head.pipeline_name,
            status=head.status,
            is_interrupted=status == "interrupted",
            wake_at=head.wake_at,
            error_message=head.error_message,
            seconds=seconds,
        )

    def draining(self) -> None:
        """Tell that no more runs are taken."""
        count, seconds = len(self._driven), self.duty.drain_seconds
        wait = f": {runs_text(count)} may go on for {seconds:g} s; a second signal stops at once" if count else ""
        self._tell(f"stopping{wait}", "draining", runs=count)

    def stopped(self) -> None:
        """Tell that this was all."""
        count = self._interrupted
        rest = f": {runs_text(count)} interrupted, for another worker to resume" if count else ""
        self._tell(f"stopped{rest}", "stopped", interrupted=count)

    def _tell(self, text: str | None, event: str, **more: Any) -> None:
        now = datetime.now(UTC)
        if self.duty.is_json:
            print_json_line({"event": event, "at": now, **more})
        elif text is not None:
            print_line(f"{clock(now)}  {text}")


class _TellingWorker(Worker):
    """A worker that tells of every run."""

    def __init__(self, flujo: Runtime, diary: _Diary) -> None:
        duty = diary.duty
        super().__init__(flujo, duty.queues, duty.concurrency, drain_timeout=duty.drain_seconds)
        driver = _TellingDriver(self._runner, diary)
        self._scheduler = Scheduler(driver, self._ask, is_lasting=True, concurrency=duty.concurrency)

    async def wait(self, stop: asyncio.Event) -> None:
        """Return when ``stop`` is set; raise what ends the work before."""
        working, stopping = self._task, asyncio.create_task(stop.wait())
        assert working is not None
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        if working.done():
            working.result()


class _TellingDriver:
    """Drives what another driver drives, and tells of it; see ``Driver``."""

    def __init__(self, driver: Driver, diary: _Diary) -> None:
        self.backend: StateBackend = driver.backend
        self.clock: Clock = driver.clock
        self.ttl: timedelta = driver.ttl
        self.bound_loop: BoundLoop = driver.bound_loop
        self.max_concurrency: int | None = driver.max_concurrency
        self._driver = driver
        self._diary = diary

    async def drive_claimed(self, lease: Lease) -> None:
        began = time.monotonic()
        self._diary.taken(lease.run_id)
        try:
            await self._driver.drive_claimed(lease)
        finally:
            with suppress(FlujoError):  # the store fails: told by whoever drives
                await finish(self._diary.left(self.backend, lease.run_id, time.monotonic() - began))

    async def put_off(self, run_id: str, until: datetime) -> None:
        await self._driver.put_off(run_id, until)


def _queues(duty: Duty) -> str:
    names = ", ".join(map(repr, duty.queues))
    return f"queue {names}" if len(duty.queues) == 1 else f"queues {names}"
