"""Three worker processes on one store: one is killed, one stands still for longer than its leases last."""

import asyncio
import signal
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flujo_async import Flujo
from flujo_async._model.facts import RunResumed
from flujo_async._model.stored import RunQuery
from flujo_async.abc import StateBackend
from tests.runtime.children import ROOT
from tests.runtime.sharing import executions, shared
from tests.runtime.stores import Store, on_disk

STEPS = 3
TTL = 1.0


class Fleet:
    """The processes, and what they execute."""

    def __init__(self, store: Store, directory: Path, concurrency: int, seconds: float) -> None:
        self.log = directory / "effects.log"
        self._arguments = ["work", store.url, self.log, TTL, concurrency, seconds]
        self.processes: list[asyncio.subprocess.Process] = []

    async def grow(self) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.runtime.sharing", *map(str, self._arguments),
            cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        self.processes.append(process)
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"

    async def until_executed(self, count: int) -> None:
        await soon(lambda: answer(len(executions(self.log)) >= count))

    def has_executed(self, process: asyncio.subprocess.Process) -> bool:
        return any(pid == process.pid for pid, _, _ in executions(self.log))

    async def stop(self) -> None:
        for process in self.processes:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            _, err = await process.communicate()
            assert process.returncode in (0, -signal.SIGKILL), err.decode()


@asynccontextmanager
async def fleet(store: Store, directory: Path, concurrency: int, seconds: float) -> AsyncIterator[Fleet]:
    made = Fleet(store, directory, concurrency, seconds)
    try:
        await asyncio.gather(*(made.grow() for _ in range(3)))
        yield made
        await made.stop()
    finally:
        for process in made.processes:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def answer(value: bool) -> bool:
    return value


async def soon(is_so: Callable[[], Awaitable[bool]], *, within: float = 60) -> None:
    """Return when something is so that other processes bring about."""
    async with asyncio.timeout(within):
        while not await is_so():
            await asyncio.sleep(0.02)


async def holds_none(backend: StateBackend, pid: int) -> bool:
    """Return whether a process has no lease any more."""
    leased = await backend.query_runs(RunQuery(is_leased=True))
    return not any(head.lease is not None and f":{pid}:" in head.lease.owner for head in leased)


async def share(store: Store, directory: Path, runs: int, *, concurrency: int, seconds: float) -> float:
    """Let three processes execute runs, one of them killed and one stopped for a while; return how long it took."""
    flujo = Flujo(shared(), pipeline_name="shared", state_backend=store.open())
    run_ids: list[str] = []

    async def dispatch(count: int) -> None:
        new = range(len(run_ids), len(run_ids) + count)
        run_ids.extend(f"r{number:04}" for number in new)
        await asyncio.gather(*(flujo.dispatch(number, run_id=run_ids[number]) for number in new))

    async with fleet(store, directory, concurrency, seconds) as made:
        killed, stopped, _ = made.processes
        while not all(map(made.has_executed, made.processes)):
            await dispatch(3 * concurrency)
        executed, began = len(executions(made.log)), time.monotonic()
        await dispatch(runs)
        await made.until_executed(executed + runs * STEPS // 6)
        killed.kill()
        await made.until_executed(executed + runs * STEPS // 3)
        locked = await stand_still(stopped, store.open_once(), made)
        await soon(lambda: are_completed(store.open_once(), len(run_ids)), within=240)
        took = time.monotonic() - began
    await check(flujo, run_ids, made, locked)
    return took


async def stand_still(process: asyncio.subprocess.Process, backend: StateBackend, made: Fleet) -> int:
    """Stop a process until others have all its runs, and let it go on; return how often it had the lock of the store.

    Nobody can renew a lease then, so the others lose theirs as well.
    """

    async def goes_on(goal: int) -> bool:  # unless there is nothing left to do
        return len(executions(made.log)) >= goal or await holds_none(backend, process.pid)

    locked = 0
    while True:
        process.send_signal(signal.SIGUSR1)
        try:
            await soon(lambda: holds_none(backend, process.pid), within=4 * TTL)
            return locked
        except TimeoutError:  # it was stopped while it had the lock of a file, and everybody waits for that
            locked += 1
        finally:
            process.send_signal(signal.SIGCONT)
        goal = len(executions(made.log)) + 5
        await soon(partial(goes_on, goal))


async def are_completed(backend: StateBackend, runs: int) -> bool:
    return len(await backend.query_runs(RunQuery(status="completed"))) == runs


async def check(flujo: Flujo[Any, Any], run_ids: list[str], made: Fleet, locked: int) -> None:
    """Check that no acknowledged step was executed again, and that the logs are whole.

    Args:
        locked: how often all processes lost their leases.
    """
    by_step: dict[tuple[str, str], list[int]] = defaultdict(list)
    for pid, run_id, key in executions(made.log):
        by_step[run_id, key].append(pid)
    for number, run_id in enumerate(run_ids):
        history = await flujo.history(run_id)  # its hashes are verified
        assert [commit.seq for commit in history] == list(range(1, len(history) + 1))
        assert (await flujo.handle(run_id).result()).output == number + STEPS
        pid, steps = 0, []
        for commit in history:
            if isinstance(commit.fact, RunResumed):
                pid = int(commit.fact.owner.split(":")[1])
            if commit.fact.kind == "StepCompleted":
                steps.append(commit.step)
                pids = by_step[run_id, str(commit.step)]
                assert pids[-1] == pid, (
                    f"{run_id}/{commit.step}: {pids}, acknowledged by {pid}: executed again after that"
                )
        assert steps == ["a", "b", "c"]
    again = sum(len(pids) - 1 for pids in by_step.values())
    survivor = made.processes[2].pid
    assert again <= 2 * 25 * STEPS, f"{again} executions were in vain"
    assert all(pids.count(survivor) <= 1 + locked for pids in by_step.values())


@pytest.mark.timeout(300)
@on_disk
async def test_three_processes_share_the_work(store: Store, tmp_path: Path) -> None:
    await share(store, tmp_path, 60, concurrency=4, seconds=0.01)


@pytest.mark.crash
@pytest.mark.timeout(300)
@on_disk
async def test_three_processes_share_much_work(store: Store, tmp_path: Path) -> None:
    took = await share(store, tmp_path, 1000, concurrency=25, seconds=0.002)
    print(f"{store.kind}: 1,000 runs of {STEPS} steps in {took:.1f} s")


@pytest.mark.parametrize("store", ["sqlite", pytest.param("file", marks=pytest.mark.crash)], indirect=True)
async def test_of_four_processes_one_executes_a_run_that_sleeps_and_waits(store: Store, tmp_path: Path) -> None:
    """They drive it side by side: before it sleeps, when it wakes, and when it is answered."""
    log = tmp_path / "effects.log"
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.runtime.sharing", "resume", store.url, str(log),
            cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(4)
    ]  # fmt: skip
    try:
        assert [await line(process) for process in processes] == ["paused"] * 4
        assert [key for _, _, key in executions(log)] == ["a", "b"]
        # By somebody who does not know its definition, and so does not go on with it.
        await Flujo(shared(), pipeline_name="another", state_backend=store.open()).signal("r", "ok", 5)
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(b"go\n")
        assert [await line(process) for process in processes] == ["6"] * 4
        assert [await process.wait() for process in processes] == [0] * 4
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert [key for _, _, key in executions(log)] == ["a", "b", "c"]


async def line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().strip()
