"""What runs do is in the state API without anybody saving it: runs, steps, spans and traces, on every kind of store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from flujo_async import (
    FileBackend,
    Flujo,
    InMemoryBackend,
    Retry,
    SQLiteBackend,
    StateBackend,
    StepContext,
    child,
    loop,
    map_each,
    parallel,
    step,
    wait_for,
    workflow,
)
from flujo_async.errors import BackendError, RunFailed
from flujo_async.testing import FaultyBackend, VirtualClock
from tests.contract.dictionary import Dictionary


@pytest.fixture(params=["memory", "file", "sqlite", "three methods"])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StateBackend]:
    stores = {
        "memory": InMemoryBackend,
        "file": lambda: FileBackend(tmp_path),
        "sqlite": lambda: SQLiteBackend(tmp_path / "runs.db"),
        "three methods": Dictionary,
    }
    backend = stores[request.param]()
    yield backend
    await backend.shutdown()


@step
async def begin(n: int, ctx: StepContext) -> int:
    ctx.emit({"begun": n})
    ctx.report_usage(tokens={"input": 5, "output": 2}, cost="0.25")
    return n + 1


@step
async def double(n: int) -> int:
    return 2 * n


@step
async def both(found: dict[str, int]) -> list[int]:
    return sorted(found.values())


@step
async def total(numbers: list[int]) -> int:
    return sum(numbers)


@step(retry=Retry(max_attempts=3, base=0.001))
async def flaky(n: int, ctx: StepContext) -> int:
    if ctx.attempt < 3:
        raise ConnectionError("not yet")
    return n


@step
async def undo(n: int) -> None: ...


@step(compensate=undo)
async def book(n: int) -> int:
    return n


@step
async def refuse(answer: Any) -> None:
    raise ValueError("no")


def children(span: dict[str, Any]) -> list[str]:
    return sorted(each["name"] for each in span["children"])


def by_name(spans: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {span["name"]: span for span in spans}


async def test_a_run_that_does_everything_is_told_as_a_tree(backend: StateBackend) -> None:
    pipeline = (
        begin
        >> parallel(begin, double)
        >> both
        >> map_each(begin >> double)
        >> total
        >> loop(double, until=lambda n: n > 100, max_iterations=10)
        >> flaky
        >> child(begin >> double, name="kid")
    )
    flujo = Flujo(pipeline, state_backend=backend)
    await flujo.run(1, run_id="run", metadata={"a": 1})
    root = await backend.get_trace("run")
    assert (root["status"], children(root)) == (
        "completed",
        ["begin", "both", "flaky", "kid", "loop", "map_each", "parallel", "total"],
    )
    below = by_name(root["children"])
    assert children(below["parallel"]) == ["begin", "double"]
    assert children(below["map_each"]) == ["begin", "begin", "double", "double"]
    assert children(below["flaky"]) == ["flaky attempt 1", "flaky attempt 2", "flaky attempt 3"]
    assert [each["status"] for each in below["flaky"]["children"]] == ["failed", "failed", "completed"]
    assert [event["data"] for event in below["begin"]["events"]] == [{"begun": 1}]
    assert (await backend.get_trace(below["kid"]["attributes"]["child_run_id"]))["status"] == "completed"
    spans = await backend.get_spans("run")
    assert all(span["start_time"] <= span["end_time"] for span in spans)
    assert {span["status"] for span in spans} == {"completed", "failed"}


async def test_the_steps_of_a_run_have_cost_tokens_duration_and_attempts(backend: StateBackend) -> None:
    flujo = Flujo(begin >> flaky, state_backend=backend)
    await flujo.run(1, run_id="run")
    first, second = await backend.list_run_steps("run")
    assert (first["step_name"], first["input"], first["output"], first["status"]) == ("begin", 1, 2, "completed")
    assert (first["cost_usd"], first["token_counts"], first["attempts"], second["attempts"]) == (0.25, 7, 1, 3)
    assert first["execution_time_ms"] >= 0
    details = await backend.get_run_details("run")
    assert details is not None
    assert (details["status"], details["total_cost"], details["usage"]["tokens"]) == ("completed", 0.25, 7)
    state = await backend.load_state("run") if not isinstance(backend, Dictionary) else None
    if state is not None:
        assert [each["name"] for each in state["step_history"]] == ["begin", "flaky"]
        assert (state["pipeline_id"], state["last_step_output"]) == (details["pipeline_id"], 2)


async def test_the_state_of_a_run_can_be_saved_and_comes_back_equal(backend: StateBackend) -> None:
    """It is plain dictionaries all the way down, so nothing of it turns into something else on the way."""
    if isinstance(backend, Dictionary):
        pytest.skip("with three methods of its own, load_state is the medium's")
    await Flujo(begin >> flaky >> wait_for("approval"), state_backend=backend).run(1, run_id="run")
    state = await backend.load_state("run")
    assert state is not None
    assert state["step_history"][0]["usage"] == state["usage"]
    await backend.save_state("copy", state)
    assert await backend.load_state("copy") == state


async def test_a_run_that_waits_fails_and_is_undone_is_told(backend: StateBackend) -> None:
    flujo = Flujo(book >> wait_for("approval") >> refuse, state_backend=backend)
    await flujo.run(1, run_id="run")
    (waiting,) = await backend.list_workflows(status="paused")
    assert [each["name"] for each in waiting["waiting_for"]] == ["approval"]
    open_spans = await backend.get_spans("run", status="running")
    assert sorted(span["name"] for span in open_spans) == ["approval", "book >> approval >> refuse"]
    await flujo.signal("run", "approval", "yes")
    with pytest.raises(RunFailed):
        await flujo.resume("run")
    root = await backend.get_trace("run")
    below = by_name(root["children"])
    assert (root["status"], below["approval"]["status"], below["refuse"]["status"]) == ("failed", "completed", "failed")
    assert children(below["book"]) == ["undo"]
    assert "ValueError: no" in below["refuse"]["attributes"]["error"]
    (failed,) = await backend.get_failed_workflows()
    assert failed["error_message"] == "ValueError: no"
    statuses = {each["step_name"]: each["status"] for each in await backend.list_run_steps("run")}
    assert (statuses["book"], statuses["refuse"]) == ("completed", "failed")


async def test_a_background_run_whose_process_died_fails_when_it_is_stale_and_can_be_redriven(
    backend: StateBackend,
) -> None:
    """The fact that says that nobody went on with it is one that a runtime takes up again."""
    if not backend.capabilities.multi_process:
        pytest.skip("a lease of this process lasts as long as the process")
    faulty = FaultyBackend(backend)
    faulty.crash("append", nth=2)
    handle = await Flujo(begin >> double, state_backend=faulty).start(1, run_id="run", background=True)
    with pytest.raises(BackendError):
        await handle.result()
    (found,) = await backend.list_background_tasks(status="running")
    assert (found["task_id"], found["current_step_index"]) == ("run", 1)
    assert await backend.cleanup_stale_background_tasks(stale_hours=0) == 0  # its lease has not expired yet
    backend.clock = VirtualClock(found["updated_at"] + timedelta(hours=25))
    assert await backend.cleanup_stale_background_tasks() == 1
    (failed,) = await backend.get_failed_background_tasks()
    assert failed["background_error"] == "TimeoutError: Task timeout: process likely crashed"
    flujo = Flujo(begin >> double, state_backend=backend)
    assert [run.run_id for run in await flujo.list_dead_letters()] == ["run"]
    assert (await flujo.verify("run")).ok
    assert (await flujo.redrive("run")).output == 4


async def test_statistics_are_over_all_runs(backend: StateBackend) -> None:
    flujo = Flujo(begin >> double, state_backend=backend)
    for n in range(3):
        await flujo.run(n, run_id=f"run{n}")
    stats = await backend.get_workflow_stats()
    assert (stats["total_workflows"], stats["status_counts"]) == (3, {"completed": 3})
    assert stats["average_execution_time_ms"] > 0
    spans = await backend.get_span_statistics("begin >> double")
    assert spans["by_name"] == {"begin >> double": 3, "begin": 3, "double": 3}


async def test_tasks_of_a_workflow_end_as_what_they_did_last(backend: StateBackend) -> None:
    """This one had a step that failed, and went on."""

    @step
    async def fail(n: int) -> int:
        raise ValueError("no")

    @workflow(name="race", version="1")
    async def race(n: int) -> int:
        async def brave() -> int:
            try:
                return await fail(n)
            except ValueError:
                return await double(n)

        async with asyncio.TaskGroup() as group:
            return await group.create_task(brave())

    assert (await Flujo(race, state_backend=backend).run(1, run_id="run")).output == 2
    spans = await backend.get_spans("run")
    (task,) = (span for span in spans if span["attributes"]["kind"] == "task")
    assert task["status"] == "completed"
    assert {span["name"] for span in spans if span["parent_span_id"] == task["span_id"]} == {"fail", "double"}
