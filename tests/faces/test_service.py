"""A real server that embeds a runtime: asked by HTTP, killed, started again."""

import asyncio
import re
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from flujo_async import Flujo
from flujo_async._model.facts import StepCompleted
from tests.faces import service
from tests.faces.conftest import ROOT
from tests.records import on_record

APPROVAL = {"granted": True, "by": "Ann"}
PATIENCE = 40  # seconds; a limit, not a wait
ADDRESS = re.compile(rb"Uvicorn running on (http://\S+)")


class Server:
    """One process of the service, on a free port."""

    def __init__(self, process: asyncio.subprocess.Process, http: httpx.AsyncClient) -> None:
        self._process = process
        self.http = http
        self.pid = process.pid

    async def put(self, path: str, body: Any) -> int:
        return (await self.http.put(path, json=body)).status_code

    async def get(self, path: str) -> Any:
        return (await self.http.get(path)).json()

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._process.kill()
        await self._process.wait()

    async def terminate(self) -> int:
        """SIGTERM, as a deployment does, and wait until it is gone."""
        self._process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self._process.wait(), PATIENCE)


class Shop:
    """The service over its life: a store, what its steps did, and the servers that come and go."""

    def __init__(self, directory: Path, url: str, stack: AsyncExitStack) -> None:
        self.url = url
        self._log = directory / "side-effects.log"
        self._stack = stack

    async def open(self, **environment: str) -> Server:
        """Start a server; it ends with the test at the latest."""
        return await self._stack.enter_async_context(self._serve(environment))

    @asynccontextmanager
    async def _serve(self, environment: dict[str, str]) -> AsyncIterator[Server]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "uvicorn", "tests.faces.service:app", "--port", "0", "--no-access-log"),
            cwd=ROOT,
            env={"STORE": self.url, "SIDE_EFFECTS": str(self._log)} | environment,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        try:
            async with asyncio.timeout(PATIENCE):
                said = b""
                while not (found := ADDRESS.search(said)):
                    line = await process.stderr.readline()
                    assert line, f"the server ended: {said.decode()}"
                    said += line
            async with httpx.AsyncClient(base_url=found[1].decode(), timeout=PATIENCE) as http:
                yield Server(process, http)
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    def effects(self) -> list[tuple[int, str, str]]:
        """Return process, run and step of each side effect, in order."""
        return [(int(pid), run_id, name) for pid, run_id, name in map(str.split, on_record(self._log))]

    def times(self, run_id: str) -> dict[str, int]:
        """Return how often each step of a run was executed."""
        return Counter(name for _, run, name in self.effects() if run == run_id)

    async def acknowledged(self) -> set[tuple[str, str]]:
        """Return run and step of each recorded result."""
        async with Flujo(service.order, state_backend=self.url) as flujo:
            runs = [run.run_id for run in await flujo.list_runs(limit=None)]
            return {
                (run_id, commit.fact.name)
                for run_id in runs
                for commit in await flujo.history(run_id)
                if isinstance(commit.fact, StepCompleted)
            }


@pytest.fixture(params=["sqlite", pytest.param("file", marks=pytest.mark.crash)])
async def shop(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Shop]:
    path = {"sqlite": tmp_path / "orders.db", "file": tmp_path / "orders"}[request.param]
    async with AsyncExitStack() as stack:
        yield Shop(tmp_path, f"{request.param}:///{path}", stack)


async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
    """Look again and again, up to a deadline."""
    async with asyncio.timeout(PATIENCE):
        while not await is_so():
            await asyncio.sleep(0.01)


async def test_a_run_that_waits_outlives_its_server(shop: Shop) -> None:
    """Asked by one server, which is killed; answered by the next, which completes it and repeats nothing."""
    first = await shop.open()
    assert await first.put("/orders/o1", "boat") == 202
    assert await first.get("/orders/o1/result") == {"status": "paused", "output": None}
    await first.kill()

    second = await shop.open()
    assert await second.get("/orders/o1") == {"status": "paused", "asks": ["boat?"]}
    assert await second.put("/orders/o1/approval", APPROVAL) == 202
    shipped = {"status": "completed", "output": "boat, reserved, packed, shipped, says Ann"}
    assert await second.get("/orders/o1/result") == shipped
    assert shop.effects() == [(first.pid, "o1", "reserve"), (second.pid, "o1", "pack"), (second.pid, "o1", "ship")]


async def test_a_run_killed_inside_a_step_goes_on_unasked(shop: Shop) -> None:
    """The next server takes it up by itself: an interrupted step runs again, an acknowledged one does not."""
    first = await shop.open(HANG_IN="pack")
    await first.put("/orders/o1", "boat")
    await first.put("/orders/o1/approval", APPROVAL)
    await until(lambda: _is_in(shop, "pack"))
    await first.kill()
    assert await shop.acknowledged() == {("o1", "reserve")}

    second = await shop.open()
    assert (await second.get("/orders/o1/result"))["status"] == "completed"
    assert shop.times("o1") == {"reserve": 1, "pack": 2, "ship": 1}


async def test_a_deployment_interrupts_and_goes_on(shop: Shop) -> None:
    """SIGTERM while a step is executed: the server ends at once, the next one goes on."""
    first = await shop.open(HANG_IN="ship")
    await first.put("/orders/o1", "boat")
    await first.put("/orders/o1/approval", APPROVAL)
    await until(lambda: _is_in(shop, "ship"))
    await first.terminate()

    second = await shop.open()
    assert (await second.get("/orders/o1/result"))["status"] == "completed"
    assert shop.times("o1") == {"reserve": 1, "pack": 1, "ship": 2}


async def test_what_was_accepted_survives_a_kill_at_once(shop: Shop) -> None:
    """Orders and answers that got their 202 are carried out, however soon after it the server is killed."""
    orders = [f"o{number}" for number in range(8)]
    first = await shop.open()
    assert await asyncio.gather(*(first.put(f"/orders/{name}", name) for name in orders)) == [202] * 8
    await first.kill()
    acknowledged = await shop.acknowledged()

    second = await shop.open()
    answers = (second.put(f"/orders/{name}/approval", APPROVAL) for name in orders)
    assert await asyncio.gather(*answers) == [202] * 8
    await second.kill()
    acknowledged_later = await shop.acknowledged()

    third = await shop.open()
    results = await asyncio.gather(*(third.get(f"/orders/{name}/result") for name in orders))
    assert [result["output"] for result in results] == [
        f"{name}, reserved, packed, shipped, says Ann" for name in orders
    ]
    later = [(run_id, name) for pid, run_id, name in shop.effects() if pid != first.pid]
    last = [(run_id, name) for pid, run_id, name in shop.effects() if pid == third.pid]
    assert acknowledged & set(later) == set()
    assert acknowledged_later & set(last) == set()


async def test_a_server_that_has_not_reached_the_question_knows_its_answers(shop: Shop) -> None:
    """Right after a start, before it has driven the run: a bad answer is refused, and the run still waits."""
    first = await shop.open()
    await first.put("/orders/o1", "boat")
    await first.get("/orders/o1/result")
    await first.kill()

    second = await shop.open()
    assert await second.put("/orders/o1/approval", {"granted": "perhaps"}) == 422
    assert await second.put("/orders/o2/approval", APPROVAL) == 404
    assert (await second.get("/orders/o1"))["status"] == "paused"
    assert await second.put("/orders/o1/approval", APPROVAL) == 202
    assert await second.put("/orders/o1/approval", APPROVAL) == 202
    assert await second.put("/orders/o1/approval", APPROVAL | {"by": "Bob"}) == 422
    assert (await second.get("/orders/o1/result"))["status"] == "completed"


async def test_a_client_may_repeat_itself(shop: Shop) -> None:
    """The order's name is the run's: the same order again starts nothing, another one of that name is a conflict."""
    server = await shop.open()
    codes = await asyncio.gather(*(server.put("/orders/o1", "boat") for _ in range(5)))
    assert codes == [202] * 5
    assert await server.put("/orders/o1", "ship") == 409
    await server.get("/orders/o1/result")
    assert shop.times("o1") == {"reserve": 1}


async def test_two_servers_share_the_work(shop: Shop) -> None:
    """Started at one, answered at the other, followed at both: each step once."""
    one, two = await shop.open(), await shop.open()
    orders = [f"o{number}" for number in range(8)]
    await asyncio.gather(*(one.put(f"/orders/{name}", name) for name in orders))
    await asyncio.gather(*(two.get(f"/orders/{name}/result") for name in orders))
    await asyncio.gather(*(two.put(f"/orders/{name}/approval", APPROVAL) for name in orders))
    results = [await server.get(f"/orders/{name}/result") for server in (one, two) for name in orders]
    assert [result["status"] for result in results] == ["completed"] * 16
    assert [shop.times(name) for name in orders] == [{"reserve": 1, "pack": 1, "ship": 1}] * 8


async def _is_in(shop: Shop, name: str) -> bool:
    return any(step == name for _, _, step in shop.effects())
