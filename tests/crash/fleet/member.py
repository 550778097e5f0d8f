"""A process of a fleet: ``main(ROLE, KIND, DIRECTORY, SEED)``, all of them strings.

A ``worker`` takes runs from the queue. A ``caller`` begins, resumes, follows and waits for runs, some of which it takes
up by itself. A ``controller`` answers what is asked, and disturbs the others: it pauses, cancels, redrives, forks,
deletes, moves and checks runs, until the fleet is to calm down. Whatever should not be is told on stderr.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sys
import traceback
from collections.abc import Coroutine
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from flujo_async import Flujo, RunSummary, Waiting, Worker
from flujo_async.errors import InvalidArgument, InvalidSignal, RunCancelled, RunFailed, RunNotFound
from tests.crash.drawn.terms import SIGNALS
from tests.crash.faults.stores import open_store
from tests.crash.fleet.plan import Runtimes, Task, load
from tests.crash.fleet.records import Records

BUSY = timedelta(seconds=30)
"""Longer than a process is stopped for, which may have the lock of the store."""

ENDED = ("completed", "failed", "cancelled")
MOST = 20
"""A process asks for so many things at a time."""

DISTURBANCES = [
    "pause",
    "cancel",
    "redrive",
    "fork",
    "delete",
    "move",
    "signal",
    "hammer",
    "verify",
    "compact",
    "recover",
]


class Member:
    """What all members have."""

    def __init__(self, kind: str, directory: Path, seed: int) -> None:
        self.dice = random.Random(seed)
        self.records = Records(directory)
        self.tasks = {task.run_id: task for task in load(directory)}
        self.backend = open_store(kind, directory, busy=BUSY)
        options: dict[str, Any] = {
            "durability": self.dice.choice(["sync", "async", "exit"]),
            "max_concurrency": self.dice.choice([None, None, 2]),
            "recover": self.dice.choice([True, False]),
        }
        self.runtimes = Runtimes(list(self.tasks.values()), self.backend, self.records.happens, **options)
        self._asked = set[asyncio.Task[None]]()

    @property
    def flujo(self) -> Flujo[Any, Any]:
        """Any runtime: they share the store."""
        return self.runtimes[next(iter(self.tasks))]

    def ask(self, call: Coroutine[Any, Any, Any], what: str, task: Task | None = None) -> None:
        """Ask for something, unless there is too much to do, and go on."""
        if len(self._asked) >= MOST:
            call.close()
            return
        asked = asyncio.create_task(self.hear(call, what, task))
        self._asked.add(asked)
        asked.add_done_callback(self._asked.discard)

    def give_up(self) -> None:
        """Wait no longer for something."""
        if self._asked:
            self.dice.choice(list(self._asked)).cancel()

    async def hear(self, call: Coroutine[Any, Any, Any], what: str, task: Task | None = None) -> None:
        """Ask for something, and tell if that comes to anything but what the oracle says, if there is a task."""
        told = task and task.expected()
        try:
            result = await call
        except RunFailed as error:
            if told and not told.errors:
                complain(f"{what}: {error}")
        except (RunCancelled, RunNotFound, InvalidArgument, InvalidSignal):
            pass  # somebody else has changed what it was asked for
        except Exception:
            complain(f"{what}: {traceback.format_exc()}")
        else:
            if told and result is not None and result.status == "completed" and result.output != told.output:
                complain(f"{what}: {result.output} instead of {told.output}")


class Caller(Member):
    """Wants results."""

    async def live(self) -> None:
        while True:
            await asyncio.sleep(self.dice.uniform(0, 0.1))
            task = self.dice.choice(list(self.tasks.values()))
            handle = self.runtimes[task.run_id].handle(task.run_id)
            match self.dice.choice(["run", "start", "resume", "result", "follow", "give up"]):
                case "run" if not task.is_dispatched:
                    self.ask(self.runtimes[task.run_id].run(task.start, run_id=task.run_id), f"run {task}", task)
                case "start" if not task.is_dispatched:
                    self.ask(self._start(task), f"start {task}")
                case "resume" if not (task.is_dispatched and self.records.is_calm):  # workers get there by themselves
                    self.ask(self.runtimes[task.run_id].resume(task.run_id), f"resume {task}", task)
                case "result":
                    self.ask(handle.result(), f"result {task}", task)
                case "follow":
                    self.ask(self._follow(task), f"follow {task}")
                case "give up" if self.dice.random() < 0.2:
                    self.give_up()
                case _:
                    pass

    async def _start(self, task: Task) -> None:
        await self.runtimes[task.run_id].start(task.start, run_id=task.run_id)

    async def _follow(self, task: Task) -> None:
        last = 0
        async for event in self.runtimes[task.run_id].handle(task.run_id).events(follow=True):
            assert event.seq > last
            last = event.seq


class Controller(Member):
    """Answers and disturbs."""

    async def live(self) -> None:
        while True:
            await asyncio.sleep(self.dice.uniform(0, 0.1))
            heads = await self.flujo.list_runs(limit=None)
            for head in heads:
                for waiting in head.waiting_for:
                    if waiting.run_id is None:
                        self._answer(head.run_id, waiting)
            if self.records.is_calm:
                self.ask(self.flujo.recover(), "recover")
            elif heads:
                await self._disturb(self.dice.choice(heads))

    def _answer(self, run_id: str, waiting: Waiting) -> None:
        flujo = self.runtimes[run_id]
        match waiting.kind:
            case "signal" if waiting.name in SIGNALS:
                self.ask(flujo.signal(run_id, waiting.name, SIGNALS[waiting.name]), f"signal {run_id}")
            case "decision":
                self.ask(flujo.redrive(run_id), f"decide {run_id}")
            case "pause" if self.records.is_calm or self.dice.random() < 0.2:
                self.ask(flujo.resume(run_id), f"resume {run_id}")
            case "definition":
                complain(f"{run_id}: {waiting}")
            case _:
                pass

    async def _disturb(self, head: RunSummary) -> None:  # noqa: C901, PLR0912 -- one case a disturbance
        run_id, flujo = head.run_id, self.runtimes[head.run_id]
        has_ended, is_child = head.status in ENDED, head.parent_run_id is not None
        match self.dice.choice(DISTURBANCES):
            case "pause" if not has_ended:
                self.ask(flujo.pause(run_id), f"pause {run_id}")
            case "cancel" if not has_ended and not is_child and self.dice.random() < 0.2:
                self.records.order("cancel", run_id)
                self.ask(flujo.cancel(run_id), f"cancel {run_id}")
            case "redrive" if head.status in ("failed", "cancelled"):
                self.records.order("redrive", run_id)
                self.ask(flujo.redrive(run_id), f"redrive {run_id}")
            case "fork" if run_id in self.tasks and self.dice.random() < 0.2:
                self.ask(self._fork(head), f"fork {run_id}", self.tasks[run_id])
            case "delete" if has_ended and not is_child and self._is_deletable(run_id):
                self.records.order("delete", run_id)
                self.ask(flujo.delete(run_id), f"delete {run_id}")
            case "move" if run_id in self.tasks and self.dice.random() < 0.2:
                self.ask(self._move(run_id), f"move {run_id}")
            case "signal" if not has_ended:
                name = self.dice.choice(list(SIGNALS))
                self.ask(flujo.signal(run_id, name, SIGNALS[name]), f"signal {run_id}")
            case "hammer" if not has_ended:
                for _ in range(3):
                    self.ask(flujo.pause(run_id), f"pause {run_id}")
                    self.ask(flujo.resume(run_id), f"resume {run_id}")
            case "verify" if self.dice.random() < 0.2:
                self.ask(self._verify(), "verify")
            case "compact" if self.dice.random() < 0.2:
                self.ask(flujo.compact(), "compact")
            case "recover":
                self.ask(flujo.recover(), "recover")
            case _:
                pass

    def _is_deletable(self, run_id: str) -> bool:
        return "!" in run_id or self.tasks[run_id].is_deletable

    def _other(self, run_id: str) -> str:
        new = f"{run_id}!{os.getpid()}.{self.dice.randrange(10**6)}"
        self.records.order("copy", new)
        return new

    async def _fork(self, head: RunSummary) -> Any:
        flujo, new = self.runtimes[head.run_id], self._other(head.run_id)
        await flujo.fork(head.run_id, at=self.dice.choice([None, self.dice.randint(1, head.last_seq)]), new_run_id=new)
        return await flujo.resume(new)

    async def _move(self, run_id: str) -> None:
        flujo = self.runtimes[run_id]
        await flujo.import_run(await flujo.export_run(run_id), self._other(run_id))

    async def _verify(self) -> None:
        report = await self.flujo.verify()
        assert report.ok, report


class Taker(Member):
    """Takes runs from the queue."""

    async def live(self) -> None:
        seconds = self.dice.choice([0, 0.5, 5])
        worker = Worker(self.flujo, concurrency=self.dice.choice([2, 20]), drain_timeout=seconds)
        await worker.run()
        await self.flujo.aclose()
        await self.backend.shutdown()


def complain(text: str) -> None:
    """Tell what should not be."""
    print(text, file=sys.stderr, flush=True)


ROLES: dict[str, type[Caller | Controller | Taker]] = {"worker": Taker, "caller": Caller, "controller": Controller}


async def live(role: str, kind: str, directory: Path, seed: int) -> None:
    """Live until somebody ends this process; say when it can be asked to."""
    member = ROLES[role](kind, directory, seed)
    asyncio.get_running_loop().call_soon(partial(print, "ready", flush=True))
    await member.live()


def main(role: str, kind: str, directory: str, seed: str) -> None:
    logging.getLogger("flujo_async").setLevel(logging.ERROR)  # the loop of a process that is stopped does not turn
    asyncio.run(live(role, kind, Path(directory), int(seed)))
