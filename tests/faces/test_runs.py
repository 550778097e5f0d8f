"""``runs list`` and ``runs show``: what can be told of runs whose definitions are not here."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flujo_async import Flujo, Retry, StateBackend, StepContext, errors, map_each, step
from flujo_async._log.chain import GENESIS
from flujo_async._model.facts import (
    AttemptFailed,
    Fact,
    GraphStarted,
    RollbackStarted,
    RunFailed,
    RunPaused,
    RunStarted,
    StepCancelled,
    StepSkipped,
    TimerStarted,
)
from flujo_async._model.state import Waiting
from flujo_async._model.stored import NewRun
from flujo_async._model.summary import RunSummary
from flujo_async._model.tree import JsonObject
from flujo_async.backends import backend_from_url
from tests.faces.conftest import STORES, Finished, InProcess
from tests.log.made import seal

T0 = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LATER = datetime(2126, 1, 2, 3, 4, 5, tzinfo=UTC)


@dataclass
class Cart:
    """A class that the command line does not know."""

    owner: str
    items: int = 0


@step
async def pack(item: int, ctx: StepContext) -> Cart:
    ctx.state.items = item
    return Cart("\x1b[31mann", item)


@step(retry=Retry(max_attempts=2, base=0))
async def ship(cart: Cart) -> Cart:
    if cart.items == 13:
        raise ValueError("no [bold]boxes[/bold]\nare left")
    return cart


@step
async def count(item: int) -> int:
    return item


many = map_each(count)


@dataclass(frozen=True)
class Shop:
    """A store with runs in it, and the command line to look at it."""

    db: str
    call: InProcess

    def __call__(self, *arguments: str) -> Finished:
        return self.call("runs", *arguments, "--db", self.db)


@pytest.fixture(params=STORES)
def shop(request: pytest.FixtureRequest, call: InProcess) -> Shop:
    db: str = request.param
    asyncio.run(fill(backend_from_url(db)))
    return Shop(db, call)


async def fill(backend: StateBackend) -> None:
    async with backend:
        await Flujo(pack >> ship, state_backend=backend, context_type=Notes).run(
            7, run_id="good", metadata={"shop": "Köln"}
        )
        with pytest.raises(errors.RunFailed):
            await Flujo(pack >> ship, state_backend=backend, context_type=Notes).run(13, run_id="bad")
        await Flujo(many, pipeline_name="many", pipeline_version="2.0", state_backend=backend).run(
            list(range(30)), run_id="long"
        )
        await create(backend, started("waiting"), paused())
        await create(backend, started("left"))
        await create(backend, started("graph"), *graph())
        await create(backend, started("asleep"), TimerStarted(at=T0, key="sleep", wake_at=LATER), wake_at=LATER)
        await create(backend, started("queued"), status="pending", queue="mail", priority=7)


@dataclass
class Notes:
    items: int = 0


def started(run_id: str) -> RunStarted:
    return RunStarted(at=T0, run_id=run_id, pipeline_name="by hand", pipeline_version="1", fingerprint="f", input=None)


def paused() -> RunPaused:
    return RunPaused(at=T0, waiting_for=(Waiting(kind="signal", name="approval", since=T0, prompt="Ship it?"),))


def graph() -> tuple[Fact, ...]:
    error: JsonObject = {"type": "builtins:OSError", "message": "no line"}
    names = {f"graph/{name}": name for name in ("fetch", "clean", "skip", "stop")}
    return (
        GraphStarted(at=T0, key="graph", steps=names),
        AttemptFailed(at=T0, key="graph/fetch", name="fetch", attempt=2, error=error, retry_at=LATER),
        StepSkipped(at=T0, key="graph/skip", name="skip"),
        StepCancelled(at=T0, key="graph/stop", name="stop"),
    )


async def create(backend: StateBackend, first: RunStarted, *others: Fact, **head: Any) -> None:
    facts: Sequence[Fact] = [first, *others]
    pauses = [fact for fact in others if isinstance(fact, RunPaused)]
    summary = RunSummary(
        run_id=first.run_id,
        pipeline_name=first.pipeline_name,
        pipeline_version=first.pipeline_version,
        created_at=T0,
        last_seq=len(facts),
        waiting_for=[waiting for fact in pauses for waiting in fact.waiting_for],
        **{"status": "paused" if pauses else "running", "updated_at": T0, **head},
    )
    await backend.create_run(NewRun(summary, tuple(seal(facts, after=0, prev_hash=GENESIS))))


def test_list_has_a_line_for_each_run_the_newest_first(shop: Shop) -> None:
    finished = shop("list")
    assert finished.code == 0
    header, *lines = finished.out.partition("\n\n")[0].splitlines()
    assert header.split() == ["Run", "Pipeline", "Version", "Status", "Steps", "Created", "Updated"]
    assert [line.split()[0] for line in lines] == [
        "long",
        "bad",
        "good",
        "asleep",
        "graph",
        "left",
        "queued",
        "waiting",
    ]
    assert lines[0].split()[1:5] == ["many", "2.0", "completed", "1"]


def test_a_running_run_that_nobody_drives_is_interrupted(shop: Shop) -> None:
    assert "interrupted" in shop("list", "--status", "running").out
    running = {run["run_id"]: run for run in shop("list", "--status", "running", "--json").json}
    assert running["left"]["is_interrupted"] is True
    assert running["asleep"]["is_interrupted"] is False
    hint = "`flujo-async runs resume left --flujo MODULE:ATTRIBUTE`"  # a store does not know the name
    assert f"Driven by  nobody: {hint} takes it up\n" in shop("show", "left").out


def test_list_tells_below_what_runs_wait_for(shop: Shop) -> None:
    notes = shop("list").out.partition("\n\n")[2].splitlines()
    assert notes == [
        "Run      Waits for",
        f"asleep   {LATER.astimezone():%Y-%m-%d %H:%M:%S}, when it wakes",
        "queued   a worker of queue mail",
        "waiting  signal approval: Ship it?",
    ]


def test_list_filters(shop: Shop) -> None:
    def ids(*arguments: str) -> list[str]:
        return [run["run_id"] for run in shop("list", "--json", *arguments).json]

    assert ids("--status", "failed") == ["bad"]
    assert ids("--pipeline", "many") == ["long"]
    assert ids("--limit", "2") == ["long", "bad"]
    assert ids("--status", "cancelled") == []


def test_list_says_what_it_leaves_out(shop: Shop) -> None:
    assert shop("list", "--limit", "2").err == "there are more than 2; --limit shows them\n"
    assert shop("list", "--limit", "8").err == ""
    nothing = shop("list", "--status", "cancelled")
    assert (nothing.code, nothing.out) == (0, "")
    assert nothing.err == f"there are no such runs in {shop.db}\n"


def test_list_as_json_has_the_whole_head(shop: Shop) -> None:
    good = next(run for run in shop("list", "--json").json if run["run_id"] == "good")
    assert good["status"] == "completed"
    assert good["metadata"] == {"shop": "Köln"}
    assert good["current_step_index"] == 2
    assert datetime.fromisoformat(good["created_at"]).tzinfo is not None


def test_show_a_completed_run(shop: Shop) -> None:
    finished = shop("show", "good")
    assert finished.code == 0
    assert "Status    completed\n" in finished.out
    assert "Output    {'owner': '\\x1b[31mann', 'items': 7}\n" in finished.out
    assert "Metadata  {'shop': 'Köln'}\n" in finished.out
    assert "\nContext\nitems  7\n" in finished.out
    assert "\nSteps: 2 succeeded\n" in finished.out
    assert "\x1b" not in finished.out


def test_show_why_a_run_failed(shop: Shop) -> None:
    finished = shop("show", "bad")
    assert finished.code == 0
    assert "Status    failed\n" in finished.out
    assert "Error     ValueError: no [bold]boxes[/bold] are left\n" in finished.out
    assert "\nSteps: 1 succeeded, 1 failed\n" in finished.out
    ship_line = next(line for line in finished.out.splitlines() if line.startswith("ship"))
    assert ship_line.split()[1:3] == ["failed", "2"]
    assert "Traceback" not in finished.out
    assert "\nTraceback (most recent call last):\n" in shop("show", "bad", "--all").out


def test_show_what_a_run_waits_for(shop: Shop) -> None:
    finished = shop("show", "waiting")
    assert "Waits for  signal approval, since " in finished.out
    assert ": Ship it?\n" in finished.out
    assert shop("show", "waiting", "--json").json["waiting_for"][0]["name"] == "approval"


def test_show_steps_that_have_not_run(shop: Shop) -> None:
    shown = shop("show", "graph").out
    assert "\nSteps: 1 running, 1 pending, 1 skipped, 1 cancelled\n" in shown
    lines = [line.split()[:3] for line in shown.splitlines() if line.startswith("graph/")][:4]
    assert lines == [
        ["graph/fetch", "running", "2"],
        ["graph/clean", "pending"],
        ["graph/skip", "skipped"],
        ["graph/stop", "cancelled"],
    ]
    retry = f"{LATER.astimezone():%Y-%m-%d %H:%M:%S}"
    assert shown.endswith(f"\n\nStep         Error\ngraph/fetch  OSError: no line; the next attempt is at {retry}\n")
    statuses = [step["status"] for step in shop("show", "graph", "--json").json["steps"]]
    assert statuses == ["RUNNING", "PENDING", "SKIPPED", "CANCELLED"]


def test_show_who_is_to_go_on_with_a_run(shop: Shop) -> None:
    queued = shop("show", "queued").out
    assert "Queue      mail, priority 7\n" in queued
    assert "Driven by  nobody: a worker of queue mail takes it\n" in queued
    asleep = shop("show", "asleep").out
    assert f"Sleeps    until {LATER.astimezone():%Y-%m-%d %H:%M:%S %Z}\n" in asleep
    assert "Status    running\n" in asleep


def test_show_that_a_run_is_being_undone(call: InProcess) -> None:
    asyncio.run(begin_to_undo(backend_from_url("sqlite:///runs.db")))
    shown = call("runs", "show", "undone", "--db", "runs.db").out
    assert "Undoing    what was done; it will end as failed: OSError: no line\n" in shown
    assert "Driven by  process 4711\n" in shown
    assert "Undoing" not in call("runs", "show", "ended", "--db", "runs.db").out


async def begin_to_undo(backend: StateBackend) -> None:
    undoing = RollbackStarted(at=T0, status="failed", error={"type": "builtins:OSError", "message": "no line"})
    ended = RunFailed(at=T0, error={"type": "builtins:OSError", "message": "no line"})
    async with backend:
        await create(backend, started("undone"), undoing)
        await backend.claim("elsewhere:4711:123:abc", now=T0, ttl=LATER - T0)
        await create(backend, started("ended"), undoing, ended, status="failed")


def test_show_the_last_of_many_steps(shop: Shop) -> None:
    assert len(step_lines(shop("show", "long"))) == 10
    everything = shop("show", "long", "--all")
    assert len(step_lines(everything)) == 30
    assert f"Output    {list(range(30))}\n" in everything.out


def step_lines(finished: Finished) -> list[str]:
    return [line for line in finished.out.splitlines() if line.startswith("map_each/")]


def test_show_as_json(shop: Shop) -> None:
    shown = shop("show", "bad", "--json").json
    assert shown["context"] == {"items": 13}
    assert shown["error"]["type"] == "builtins:ValueError"
    assert shown["error"]["message"] == "no [bold]boxes[/bold]\nare left"
    pack_step, ship_step = shown["steps"]
    assert (ship_step["key"], ship_step["status"], ship_step["attempts"]) == ("ship", "FAILED", 2)
    assert pack_step["duration"] >= 0
    assert "output" not in pack_step
    assert shop("show", "bad", "--json", "--all").json["steps"][0]["output"]["items"] == 13


def test_there_is_no_such_run(shop: Shop) -> None:
    finished = shop("show", "nobody")
    assert (finished.code, finished.out) == (2, "")
    assert finished.err == "flujo-async: there is no run 'nobody'; `runs list` names them all\n"


def test_a_store_without_a_name_is_none(call: InProcess) -> None:
    """As from a variable of the shell that is not set."""
    finished = call("runs", "list", "--db", "")
    assert (finished.code, finished.out) == (2, "")
    assert finished.err.startswith("flujo-async: --db '' names no store")


@pytest.mark.parametrize("db", ["runs.db", "sqlite:///runs.db", "file:///runs"])
@pytest.mark.parametrize("command", [["list"], ["show", "demo"]])
def test_looking_creates_nothing(call: InProcess, db: str, command: list[str]) -> None:
    finished = call("runs", *command, "--db", db)
    assert (finished.code, finished.out) == (2, "")
    assert (
        finished.err == f"flujo-async: there is no database {db}; --db or FLUJO_DB names another, or --flujo a Flujo\n"
    )
    (call.directory / "runs.db").touch()
    finished = call("runs", *command, "--db", "runs.db")
    assert (finished.code, finished.out) == (2, "")
    assert finished.err == "flujo-async: the file runs.db is empty: nothing was ever kept there\n"
    assert [path.name for path in call.directory.iterdir()] == ["runs.db"]
    assert (call.directory / "runs.db").stat().st_size == 0


@pytest.mark.parametrize("db", ["memory://", "nosuch://x", "sqlite://x"])
def test_a_store_that_cannot_be_looked_at(call: InProcess, db: str) -> None:
    finished = call("runs", "list", "--db", db)
    assert finished.code == 2
    assert finished.err.startswith("flujo-async: ")
    assert finished.err.count("\n") == 1


def test_a_log_that_was_tampered_with_is_not_shown(call: InProcess) -> None:
    asyncio.run(fill(backend_from_url("file:///runs")))
    [path] = [path for path in (call.directory / "runs").iterdir() if path.name.startswith("good")]
    path.write_bytes(path.read_bytes().replace(b'"items":7', b'"items":8'))
    finished = call("runs", "show", "good", "--db", "runs")
    assert (finished.code, finished.out) == (1, "")
    assert finished.err.startswith("flujo-async: run 'good', seq ")


def test_the_environment_names_the_store(call: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(fill(backend_from_url("sqlite:///elsewhere.db")))
    monkeypatch.setenv("FLUJO_DB", "elsewhere.db")
    assert call("runs", "show", "good").code == 0


def test_the_demo_can_be_looked_at(call: InProcess, sources: Path) -> None:
    assert call("demo", "--path", sources / "json").code == 0
    shown = call("runs", "show", "demo").out
    assert "Pipeline  survey 1.0.0\n" in shown
    assert f"root     '{sources / 'json'}'\n" in shown


async def save(backend: StateBackend) -> None:
    """Save two runs that no runtime has driven."""
    async with backend:
        await backend.save_run_start({"run_id": "start", "pipeline_name": "elsewhere"})
        await backend.save_step_result({"run_id": "start", "step_name": "ask", "output": 42})
        await backend.save_state("state", {"status": "failed", "pipeline_context": {"items": 7}})


def test_runs_that_were_saved_by_hand_are_told_shown_and_deleted(shop: Shop) -> None:
    asyncio.run(save(backend_from_url(shop.db)))
    assert sorted(shop("list").err.partition(": ")[2].strip().split(", ")) == ["start", "state"]
    assert shop("list", "--status", "failed").err == "1 run saved by hand, without a log: state\n"
    shown = shop("show", "start").out
    assert "Saved     by hand: it has no log\nPipeline  elsewhere\nStatus    running\n" in shown
    assert [line.split() for line in shown.splitlines()[-1:]] == [["ask", "completed", "42"]]
    assert shop("show", "state", "--json").json["context"] == {"items": 7}
    assert shop("delete", "state", "good", "--yes").out == "deleted 2 runs\n"
    assert shop("list").err == "1 run saved by hand, without a log: start\n"
    assert shop("show", "state").code == 2


def test_a_status_that_there_is_not_is_refused_with_those_that_there_are(shop: Shop) -> None:
    refused = shop("list", "--status", "finished")
    assert refused.code == 2
    assert refused.err.startswith("flujo-async: 'finished' is no status; there are cancelled, completed, ")
