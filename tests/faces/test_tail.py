"""``tail``: what happens in all runs of a store, as it happens."""

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from flujo_async import Flujo, InMemoryBackend, step, wait_for
from flujo_async._model.facts import StepCompleted, UsageReported
from flujo_async._model.stored import NewRun, Record, RunQuery
from flujo_async.abc.known_runs import KnownRunQuery
from flujo_async.cli.tail import Looking, News
from tests.faces.conftest import Project
from tests.faces.test_runs import T0, create, started


@step
async def pack(order: str) -> str:
    return order


ORDERS = pack >> wait_for("approval")


def looking(
    backend: InMemoryBackend, since: datetime | None = None, status: str | None = None, pipeline: str | None = None
) -> Looking:
    query = KnownRunQuery(status=status, pipeline_name=pipeline, order="updated_at")
    return Looking(backend, query, since or datetime.now(UTC))


def told(news: list[News]) -> list[tuple[str, str]]:
    return [(each.run.run_id, each.commit.fact.kind) for each in news]


FIRST = ["RunStarted", "StepCompleted", "WaitStarted", "RunPaused"]
THEN = ["SignalReceived", "RunCompleted"]


async def test_each_fact_is_told_once_in_the_order_of_all_runs() -> None:
    backend = InMemoryBackend()
    flujo = Flujo(ORDERS, state_backend=backend)
    eyes = looking(backend)
    await flujo.run("tea", run_id="b")
    await flujo.run("tea", run_id="a")
    assert told(await eyes.look()) == [("b", kind) for kind in FIRST] + [("a", kind) for kind in FIRST]
    assert await eyes.look() == []
    await flujo.signal("b", "approval", 1)
    await flujo.run(run_id="b")
    assert [kind for _, kind in told(await eyes.look())] == ["RunResumed", *THEN]
    await flujo.aclose()


async def test_the_facts_of_a_run_keep_their_order_whatever_their_moments() -> None:
    backend = InMemoryBackend()
    eyes = looking(backend, T0 - timedelta(hours=1))
    usage = UsageReported(at=T0 + timedelta(seconds=2), key="a", name="a", tokens=1)
    done = StepCompleted(at=T0 + timedelta(seconds=1), key="a", name="a", started_at=T0, attempts=1, output=None)
    await create(backend, started("a"), usage, done)
    await create(backend, started("b"))
    kinds = ["RunStarted", "RunStarted", "UsageReported", "StepCompleted"]
    assert [kind for _, kind in told(await eyes.look())] == kinds


async def test_what_was_before_is_not_told_nor_what_a_fork_shares() -> None:
    backend = InMemoryBackend()
    flujo = Flujo(ORDERS, state_backend=backend)
    await flujo.run("tea", run_id="a")
    eyes = looking(backend)
    await flujo.fork("a", new_run_id="b")
    assert told(await eyes.look()) == [("b", "RunForked")]
    long_ago = datetime.now(UTC) - timedelta(hours=1)
    assert len(await looking(backend, long_ago).look()) == 2 * len(FIRST) + 1


async def test_a_clock_that_is_behind_hides_nothing() -> None:
    """What another host writes may say that it is older than what was seen before."""
    backend = InMemoryBackend()
    eyes = looking(backend, T0 - timedelta(hours=1))
    await create(backend, started("early"))
    assert told(await eyes.look()) == [("early", "RunStarted")]
    behind = replace(started("late"), at=T0 - timedelta(seconds=20))
    await create(backend, behind, updated_at=behind.at)
    assert told(await eyes.look()) == [("late", "RunStarted")]


async def test_a_run_that_gets_into_the_status_is_told_from_the_start() -> None:
    backend = InMemoryBackend()
    flujo = Flujo(ORDERS, pipeline_name="orders", state_backend=backend)
    eyes = looking(backend, status="completed", pipeline="orders")
    await flujo.run("tea", run_id="a")
    await Flujo(pack, pipeline_name="others", state_backend=backend).run("tea", run_id="b")
    assert await eyes.look() == []
    await flujo.signal("a", "approval", 1)
    await flujo.run(run_id="a")
    assert [kind for _, kind in told(await eyes.look())] == [*FIRST, "RunResumed", *THEN]
    await flujo.aclose()


async def test_a_broken_run_does_not_hide_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    backend = InMemoryBackend()
    eyes = looking(backend, T0)
    await create(backend, started("whole"))
    head = (await backend.query_runs(RunQuery(run_id="whole")))[0]
    await backend.create_run(NewRun(replace(head, run_id="broken"), (Record(1, b"{", "hash"),)))
    assert told(await eyes.look()) == [("whole", "RunStarted")]
    assert "left out: " in capsys.readouterr().err


def test_json_lines_come_as_it_happens_and_ctrl_c_ends_it_quietly(one_project: Project) -> None:
    one_project.run("orders", "before")
    with one_project.cli.start("tail", "--since", "1h", "--json") as tail:
        assert tail.stdout
        lines = (json.loads(line) for line in tail.stdout)
        assert [next(lines)["run_id"] for _ in range(4)] == ["before"] * 4
        one_project.run("orders", "a")
        news = next(lines)
        assert (news["run_id"], news["pipeline_name"], news["fact"]["seq"]) == ("a", "orders", 1)
        assert [next(lines)["fact"]["kind"] for _ in range(3)] == FIRST[1:]
        tail.send_signal(signal.SIGINT)
        out, err = tail.communicate(timeout=50)
    assert (tail.returncode, out, err) == (130, "", "")


def test_a_line_fits_into_a_terminal(one_project: Project) -> None:
    run_id = "a-run-with-a-name-that-takes-more-than-its-share"
    one_project.run("orders", run_id)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 50, 0, 0))
    environment = one_project.cli.environment({"TERM": "xterm-256color"})
    command = [sys.executable, "-m", "flujo_async", "tail", "--since", "1h", "--db", "runs.db"]
    tail = subprocess.Popen(
        command, cwd=one_project.directory, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    sent = b""
    while b"paused" not in sent:
        sent += os.read(ours, 65536)
    tail.send_signal(signal.SIGINT)
    assert tail.wait(20) == 130
    os.close(ours)
    *lines, _ = sent.decode().replace("\x1b[0m", "").splitlines()
    assert lines[2].endswith("waits for signal appr…")
    assert "a-run-wi…s-share" in lines[0]
    assert "\x1b[36m" in lines[2]
