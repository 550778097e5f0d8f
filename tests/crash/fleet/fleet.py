"""Processes that share a store, and are killed, stopped and replaced while they work."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from flujo_async import Flujo
from tests.crash.faults.stores import open_store
from tests.crash.fleet.judge import Judge, findings_in_files
from tests.crash.fleet.member import BUSY, ENDED
from tests.crash.fleet.plan import TTL, Runtimes, draw, save
from tests.crash.fleet.records import Records
from tests.crash.nest import Process, fork

ROLES = ("worker", "worker", "caller", "controller")
EXTRA = (["worker"], ["caller"], [])
PATIENCE = 90.0
"""So many seconds, on a busy machine, for all runs to end, or a process, once nobody is in their way."""


class Member:
    """One process.

    Attributes:
        role: what it does.
        pid: its number.
        complaint: what it says that should not be.
        is_left_alone: whether nothing is to be done to it.
    """

    def __init__(self, role: str, process: Process) -> None:
        self.role = role
        self.pid = process.pid
        self.complaint = ""
        self.is_left_alone = False
        self._process = process
        self._is_ready = asyncio.Event()
        self._life = asyncio.create_task(self._live())

    async def _live(self) -> None:
        await self._process.stdout.readline()
        self._is_ready.set()
        _, complaint = await self._process.communicate()
        self.complaint = complaint.decode()
        by_itself = 0 if self.role == "worker" else -signal.SIGTERM
        if self._process.returncode not in (by_itself, -signal.SIGKILL):
            self.complaint += f"{self.role} ended by {self._process.returncode}"

    @property
    def is_there(self) -> bool:
        """Whether it is at work."""
        return self._is_ready.is_set() and not self._life.done()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    async def stop(self, seconds: float) -> None:
        """Let it stand still."""
        self.signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        self.signal(signal.SIGCONT)
        self.is_left_alone = False

    async def end(self) -> None:
        """Ask it to end, and see that it does."""
        await self._is_ready.wait()
        if self.is_there:
            self.signal(signal.SIGTERM)
        await asyncio.wait({self._life}, timeout=PATIENCE)
        if self.is_there:
            await self.kill()
            self.complaint += f"{self.role} hangs"

    async def kill(self) -> None:
        """Leave nothing behind of it."""
        if not self._life.done():
            self.signal(signal.SIGKILL)
            await self._life


class Fleet:
    """Some processes, and what they have to do.

    Attributes:
        done: how often the storm did what, and in which state how many runs are in the end.
    """

    def __init__(self, kind: str, directory: Path, seed: int, size: int) -> None:
        """Draw what there is to do: so many definitions."""
        self.done = Counter[str]()
        self._kind, self._directory = kind, directory
        self._dice = random.Random(seed)
        self._tasks = draw(seed, size)
        self._members = list[Member]()
        self._stopped = set[int]()
        self._under_way = set[asyncio.Task[None]]()
        self._findings = list[str]()

    async def sail(self, seconds: float) -> list[str]:
        """Let the fleet work, for so many seconds in a storm, and return what is wrong with what it leaves."""
        save(self._tasks, self._directory)
        backend = open_store(self._kind, self._directory, busy=BUSY)
        runtimes = Runtimes(self._tasks, backend, lambda name, _: self._findings.append(f"{name} was executed here"))
        flujo = runtimes[self._tasks[0].run_id]
        try:
            for role in (*ROLES, *self._dice.choice(EXTRA)):
                await self._launch(role)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._dispatch(runtimes, seconds))
                group.create_task(self._storm(seconds))
            Records(self._directory).calm()
            await self._come_to_an_end(flujo)
            await asyncio.gather(*(member.end() for member in self._members))
            self._findings += [member.complaint for member in self._members if member.complaint]
            self._findings += await Judge(self._tasks, runtimes, self._directory, self._stopped).findings()
            self.done.update(head.status for head in await flujo.list_runs(limit=None))
            await flujo.compact()
        finally:
            await asyncio.gather(*(member.kill() for member in self._members))
            await backend.shutdown()
        return self._findings + findings_in_files(self._kind, self._directory)

    async def _launch(self, role: str) -> None:
        number = self._dice.randrange(2**32)
        process = await fork("tests.crash.fleet.member", role, self._kind, self._directory, number)
        self._members.append(Member(role, process))

    async def _dispatch(self, runtimes: Runtimes, seconds: float) -> None:
        for task in self._tasks:
            if task.is_dispatched:
                priority, delay = self._dice.randrange(3), self._dice.choice([None, 0.5])
                await runtimes[task.run_id].dispatch(task.start, run_id=task.run_id, priority=priority, delay=delay)
                await asyncio.sleep(self._dice.uniform(0, seconds / len(self._tasks)))

    async def _storm(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await asyncio.sleep(self._dice.uniform(0, 0.6))
            there = [member for member in self._members if member.is_there and not member.is_left_alone]
            if there:
                # A controller is spared mostly: it makes a storm of its own.
                await self._hit(self._dice.choices(there, [1 if each.role == "controller" else 3 for each in there])[0])
        if self._under_way:
            await asyncio.wait(self._under_way)

    async def _hit(self, member: Member) -> None:
        member.is_left_alone = True
        what = self._dice.choice(["killed", "asked to end", "stopped", "held up"])
        self.done[what] += 1
        match what:
            case "killed":
                await member.kill()
                await self._launch(member.role)
            case "asked to end":
                self._meanwhile(member.end())
                await self._launch(member.role)
            case "stopped":
                self._stopped.add(member.pid)
                self._meanwhile(member.stop(TTL.total_seconds() + self._dice.uniform(0.5, 1.5)))
            case _:
                self._meanwhile(member.stop(self._dice.uniform(0, 0.5)))

    def _meanwhile(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _come_to_an_end(self, flujo: Flujo[Any, Any]) -> None:
        """Return when all runs have ended, in the hands of those that are still there."""
        deadline = time.monotonic() + PATIENCE
        wanted = {task.run_id for task in self._tasks if not task.is_deletable}
        while True:
            heads = await flujo.list_runs(limit=None)
            going_on = [head for head in heads if head.status not in ENDED]
            missing = wanted - {head.run_id for head in heads}
            if not going_on and not missing:
                return
            if time.monotonic() > deadline:
                self._findings += [f"it does not end: {head}" for head in going_on]
                self._findings += [f"nobody has begun {run_id}" for run_id in missing]
                return
            await asyncio.sleep(0.2)
