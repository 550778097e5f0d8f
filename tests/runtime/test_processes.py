"""Several processes on one store (G3), and processes that end by themselves (G15)."""

import asyncio
import os
import re
import sys
import threading
from pathlib import Path

import pytest

from flujo_async import Flujo, step
from tests.runtime import child
from tests.runtime.children import ROOT, Child, read_side_effects, side_effects
from tests.runtime.pretend import until
from tests.runtime.stores import KINDS, Store, on_disk


@on_disk
async def test_of_four_processes_one_executes(store: Store) -> None:
    """They resume one orphan at the same instant: all get the result, each step ran in one of them, once."""
    first = await Child.start("drive", store.url, "r")
    await first.says("in the second step")
    await first.kill()
    log = side_effects(store.url)
    log.unlink()

    children = await asyncio.gather(*(Child.start("resume", store.url, "r") for _ in range(4)))
    try:
        for process in children:
            await process.says("ready")
        await asyncio.gather(*(process.tell("go") for process in children))
        assert [await process.line() for process in children] == ["[1, 'a', 'b']"] * 4
    finally:
        codes = [await process.end() for process in children]
    assert codes == [0] * 4
    assert [name for _, name in read_side_effects(log)] == ["b"]
    flujo = Flujo(child.pipeline(), state_backend=store.open())
    kinds = [commit.fact.kind for commit in await flujo.history("r")]
    assert kinds == ["RunStarted", "StepCompleted", "RunResumed", "StepCompleted", "RunCompleted"]


ANY_SPEED = 'logging.getLogger("asyncio").addFilter(lambda record: not record.msg.startswith("Executing "))'
"""On a busy machine anything may be slow, in each of the loops of a process, and a loop in debug mode says so."""
SCRIPT = """
import asyncio, logging, threading
from flujo_async import Flujo, step

{any_speed}

@step
def in_thread(n: int) -> int:
    return n + 1

@step
async def wait(n: int) -> int:
    {wait}
    return n

async def main():
    flujo = Flujo(in_thread >> wait, state_backend={url!r})
    {use}

asyncio.run(main())
print("ended", flush=True)
"""
USES = {
    "forgotten": ("pass", "print((await flujo.run(1, run_id='r')).output)"),
    "closed": ("pass", "print((await flujo.run(1, run_id='r')).output); await flujo.aclose()"),
    "entered": ("pass", "async with flujo: print((await flujo.run(1, run_id='r')).output)"),
    "in the background": ("await asyncio.sleep(3600)", "await flujo.start(1, run_id='r'); print(2)"),
    "in a step": (
        "reached.set(); await asyncio.sleep(3600)",
        "globals().update(reached=asyncio.Event()); await flujo.start(1, run_id='r'); await reached.wait(); print(2)",
    ),
    "twice": ("pass", "print((await flujo.run(1, run_id='r')).output); await flujo.run(1); await flujo.list_runs()"),
}
SELECTION = {"memory": ["in a step"], "file": ["forgotten", "in the background"], "sqlite": ["forgotten", "in a step"]}
"""Which of them the default run tries in which store; all are tried by ``-m crash``."""


@pytest.mark.parametrize(
    ("store", "use"),
    [
        pytest.param(kind, use, marks=() if use in SELECTION[kind] else pytest.mark.crash)
        for kind in KINDS
        for use in USES
    ],
    indirect=["store"],
)
async def test_a_process_ends_when_its_code_does(store: Store, use: str) -> None:
    """Closed or not, with a run in the background or not: exit code 0, and nothing on stderr."""
    wait, call = USES[use]
    code, out, err = await run_script(SCRIPT.format(any_speed=ANY_SPEED, wait=wait, use=call, url=store.url))
    assert (code, out.split(), err) == (0, ["2", "ended"], "")


STUCK = """
import asyncio, threading, time
from flujo_async import Flujo, step
reached = threading.Event()

@step(timeout=0.05)
def stuck(n: int) -> int:
    time.sleep(30)
    return n

async def main():
    try:
        await Flujo(stuck, state_backend={url!r}).run(1)
    except Exception as error:
        print(type(error.__cause__).__name__, flush=True)

asyncio.run(main())
"""


async def test_an_abandoned_thread_does_not_keep_the_process_alive() -> None:
    """The run has said that the step took too long; nobody waits for its thread at the exit."""
    async with asyncio.timeout(20):
        code, out, _ = await run_script(STUCK.format(url="memory://"))
    assert (code, out.split()) == (0, ["TimeoutError"])


async def run_script(script: str) -> tuple[int | None, str, str]:
    """Run a script in a process of its own, warnings shown."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-X",
        "dev",
        "-c",
        script,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, out.decode(), err.decode()


HOST = """
import asyncio, logging, signal, sys, threading
from flujo_async import Flujo, map_each, parallel, step

{any_speed}

@step
def in_thread(n: int) -> int:
    return n + 1

@step
async def on_loop(n: int) -> int:
    await asyncio.sleep(0)
    return n

def host():
    loop = asyncio.get_running_loop()
    return (
        loop._default_executor, loop.get_task_factory(), loop.get_exception_handler(),
        sys.version_info >= (3, 14) or asyncio.get_event_loop_policy(), logging.root.handlers[:], logging.root.level,
        logging.getLogger("flujo_async").handlers[:], logging.getLogger("flujo_async").level,
        [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)],
    )

async def main():
    before = host()
    flujo = Flujo(map_each(in_thread) >> map_each(parallel(in_thread, on_loop)), state_backend={url!r})
    counts = []
    for _ in range(4):
        await asyncio.gather(*(flujo.run([1, 2, 3]) for _ in range(10)))
        counts.append(threading.active_count())
    assert host() == before, (host(), before)
    print(counts)

asyncio.run(main())
"""


async def test_the_host_is_left_as_it_was(store: Store) -> None:
    """Executor, task factory, handlers, policy, logging, signals; and the number of threads does not grow."""
    code, out, err = await run_script(HOST.format(any_speed=ANY_SPEED, url=store.url))
    assert (code, err) == (0, "")
    counts = [int(count) for count in re.findall(r"\d+", out)]
    # 32 for steps, and what the store has; they come as they are needed, and are used again.
    assert max(counts) <= 32 + 12, counts


SIGNALS = """
import asyncio, logging, os, signal
from flujo_async import Flujo, Worker, step
{any_speed}

@step
async def add_one(n):
    return n + 1

async def main():
    flujo, heard = Flujo(add_one), asyncio.Queue()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, heard.put_nowait, "heard")
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    working = [asyncio.create_task(Worker(flujo, queues=name).run()) for name in "ab"]
    for name in "ab":
        await (await flujo.dispatch(1, queue=name)).result(timeout=20)
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(20):
        await asyncio.gather(*working)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    while not heard.empty():
        heard.get_nowait()
    os.kill(os.getpid(), signal.SIGTERM)
    print(await asyncio.wait_for(heard.get(), 20))

asyncio.run(main())
"""


async def test_a_signal_stops_all_workers_of_a_process() -> None:
    """And then the host hears it, as it did before, also by a handler that it has given its loop."""
    assert await run_script(SIGNALS.format(any_speed=ANY_SPEED)) == (0, "heard\n", "")


IMPORTS = """
import logging, sys, threading
import flujo_async
assert threading.active_count() == 1
assert not logging.root.handlers
"""


async def test_importing_starts_nothing() -> None:
    """No thread, no handler."""
    assert await run_script(IMPORTS) == (0, "", "")


async def test_nothing_is_written_that_was_not_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No default file, no lock file."""
    monkeypatch.chdir(tmp_path)
    await Flujo(child.pipeline()).run([], run_id="r")
    assert os.listdir(tmp_path) == []


def test_one_runtime_serves_one_loop_after_the_other(tmp_path: Path) -> None:
    """``asyncio.run`` twice on one ``Flujo``, the first of them cancelled in a thread's step."""
    started, go_on = threading.Event(), threading.Event()

    @step
    def in_thread(n: int) -> int:
        started.set()
        go_on.wait()
        return n + 1

    for url in ("memory://", f"file:///{tmp_path}/runs", f"sqlite:///{tmp_path}/runs.db"):
        started.clear()
        go_on.clear()
        flujo = Flujo(in_thread, state_backend=url)

        async def interrupted(flujo: Flujo[int, int] = flujo) -> None:
            task = asyncio.create_task(flujo.run(1, run_id="r"))
            await until(started.is_set)
            task.cancel()
            await asyncio.wait({task})
            go_on.set()

        async def resumed(flujo: Flujo[int, int] = flujo) -> int:
            results = await asyncio.gather(
                *(flujo.run(n, run_id=f"r{n or ''}") for n in range(1, 40)), flujo.run(1, run_id="r")
            )
            await flujo.aclose()
            return int(results[-1].output)

        asyncio.run(interrupted())
        assert asyncio.run(resumed()) == 2
