"""One ``Flujo`` and several event loops: one at a time, one after another."""

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import anyio.to_thread
import pytest

from flujo_async import Flujo, InMemoryBackend, Limit, Worker, step, wait_for
from flujo_async.errors import WrongEventLoop

Use = Callable[[Flujo[Any, Any]], Coroutine[Any, Any, Any]]


class Door:
    """A step that stays inside until it is let out."""

    def __init__(self) -> None:
        self.is_inside, self.go_on = asyncio.Event(), asyncio.Event()

        @step
        async def stay(value: int) -> int:
            self.is_inside.set()
            await self.go_on.wait()
            return value

        self.step = stay


@step
async def double(value: int) -> int:
    return 2 * value


@step(limit="few")
def plainly(value: int) -> int:
    return 2 * value


async def elsewhere(use: Use, flujo: Flujo[Any, Any]) -> Any:
    """Use a runtime in another event loop, in a thread of its own."""

    async def used() -> Any:
        async with asyncio.timeout(20):
            return await use(flujo)

    return await anyio.to_thread.run_sync(asyncio.run, used())


USES: dict[str, Use] = {
    "run": lambda flujo: flujo.run(2),
    "start": lambda flujo: flujo.start(2),
    "resume": lambda flujo: flujo.resume("r1"),
    "recover": lambda flujo: flujo.recover(),
    "signal": lambda flujo: flujo.signal("r1", "go"),
    "pause": lambda flujo: flujo.pause("r1"),
    "cancel": lambda flujo: flujo.cancel("r1"),
    "redrive": lambda flujo: flujo.redrive("r1"),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
async def test_a_second_loop_is_refused_while_the_first_has_a_run(use: Use) -> None:
    """Nothing is done there; what it waits for is counted in the first one."""
    door = Door()
    flujo = Flujo(door.step, max_concurrency=1)
    task = asyncio.ensure_future(flujo.run(1, run_id="r1"))
    await door.is_inside.wait()
    with pytest.raises(WrongEventLoop, match="a Flujo for each event loop"):
        await elsewhere(use, flujo)
    assert [head.run_id for head in await flujo.list_runs()] == ["r1"]
    assert not (await flujo.state_backend.read_signals({"r1": 0}))
    door.go_on.set()
    assert (await task).output == 1


WITHOUT: dict[str, Use] = {
    "run": lambda flujo: flujo.run(1),
    "start": lambda flujo: flujo.start(1),
    "signal": lambda flujo: flujo.signal("r1", "go"),
    "recover": lambda flujo: flujo.recover(),
    "worker": lambda flujo: Worker(flujo).run(),
}


@pytest.mark.parametrize("use", WITHOUT.values(), ids=WITHOUT)
def test_without_a_loop_of_asyncio_it_is_refused(use: Use) -> None:
    """This is how a coroutine is driven by trio, which is somebody else's loop. Signals are nobody's business then."""
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(WrongEventLoop, match="no event loop of asyncio"):
        use(Flujo(double)).send(None)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


async def test_a_second_loop_is_refused_while_the_first_takes_up_runs() -> None:
    """A scheduler that waits there would not be woken from here."""
    flujo = Flujo(wait_for("go", schema=int) >> double, recover=True)
    async with flujo:
        await flujo.run(run_id="r1")
        with pytest.raises(WrongEventLoop):
            await elsewhere(lambda flujo: flujo.signal("r1", "go", 2), flujo)
        with pytest.raises(WrongEventLoop):
            await elsewhere(lambda flujo: Worker(flujo).__aenter__(), flujo)
        await flujo.signal("r1", "go", 4)
        assert (await flujo.handle("r1").result()).output == 8
    assert (await elsewhere(lambda flujo: flujo.run(2), flujo)).status == "paused"


async def test_what_is_stored_is_read_in_any_loop() -> None:
    door = Door()
    flujo = Flujo(door.step)
    task = asyncio.ensure_future(flujo.run(1, run_id="r1"))
    await door.is_inside.wait()
    assert (await elsewhere(lambda flujo: flujo.state("r1"), flujo)).status == "running"
    assert (await elsewhere(lambda flujo: flujo.dispatch(2), flujo)).run_id != "r1"
    door.go_on.set()
    await task


def test_one_loop_after_another() -> None:
    """Also where a loop ended with a run in the background, or was closed in the middle of one."""
    door_step = step(name="stay")(asyncio.sleep)
    flujo = Flujo(plainly, max_concurrency=1, limits={"few": Limit(concurrency=1)})
    stay: Flujo[Any, Any] = Flujo(door_step)

    async def start() -> None:
        await stay.start(3600.0)

    for number in range(3):
        assert asyncio.run(flujo.run(number)).output == 2 * number
        asyncio.run(start())
    loop = asyncio.new_event_loop()
    loop.run_until_complete(start())
    left = asyncio.all_tasks(loop)
    assert asyncio.run(stay.run(0.0)).status == "completed"  # the other loop stands still
    for task in left:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    loop.close()


def test_a_flujo_for_each_thread_shares_the_backend() -> None:
    """This is what the error advises."""
    backend = InMemoryBackend()
    outputs = list[int]()

    def work(number: int) -> None:
        flujo = Flujo(plainly, state_backend=backend, max_concurrency=1, limits={"few": Limit(concurrency=1)})
        outputs.append(asyncio.run(flujo.run(number)).output)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(outputs) == [0, 2, 4, 6]
