"""Compensations: what was done is undone when the run fails or is cancelled (G6)."""

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any

import pytest

from flujo_async import (
    Depends,
    Flujo,
    Retry,
    RunContext,
    Step,
    StepContext,
    as_step,
    branch,
    graph,
    loop,
    map_each,
    parallel,
    step,
    wait_for,
    workflow,
)
from flujo_async.abc import StateBackend
from flujo_async.errors import InvalidArgument, RunCancelled, RunFailed
from flujo_async.testing import VirtualClock
from tests.runtime.crashes import crashes, gone_to_sleep, others, ticks
from tests.runtime.stores import mostly_in_memory

LOG: list[str] = []


@pytest.fixture(autouse=True)
def log() -> list[str]:
    LOG.clear()
    return LOG


def act(name: str, **options: Any) -> Step[Any, Any]:
    """Return a step that does something, with the step that undoes it."""

    @step(name=f"undo_{name}", **options)
    async def undo(done: Any, ctx: StepContext) -> None:
        assert ctx.compensates is not None
        LOG.append(f"undo {name} {done}")

    @step(name=name, compensate=undo)
    async def do(value: Any) -> Any:
        LOG.append(f"do {name}")
        await asyncio.sleep(0)
        return f"{value}{name}"

    return do


@step
async def broken(value: Any) -> Any:
    raise ValueError("broken")


@step
async def plain(value: Any) -> Any:
    return value


A, B, C = act("a"), act("b"), act("c")


async def failed(flujo: Flujo[Any, Any], given: Any = "", run_id: str = "r") -> RunFailed:
    with pytest.raises(RunFailed) as caught:
        await flujo.run(given, run_id=run_id)
    return caught.value


async def test_a_failed_run_is_undone_newest_first(backend: StateBackend) -> None:
    """Each compensation gets the output of its step, and is journalled; then the run is failed."""
    flujo = Flujo(A >> plain >> B >> broken >> C, state_backend=backend)
    error = await failed(flujo)
    assert LOG == ["do a", "do b", "undo b ab", "undo a a"]
    assert isinstance(error.__cause__, ValueError)
    kinds = [commit.fact.kind for commit in await flujo.history("r")]
    assert kinds[-4:] == ["RollbackStarted", "StepCompleted", "StepCompleted", "RunFailed"]
    keys = [record.key for record in await flujo.steps("r")]
    assert keys == ["a", "plain", "b", "broken", "b/compensate", "a/compensate"]
    assert (await flujo.state("r")).current_step_index == 3
    await failed(flujo)
    assert len(LOG) == 4


async def test_a_compensation_knows_what_it_undoes(backend: StateBackend) -> None:
    """The record of the step, with its input, its output and its attempts; and the context as it is now."""
    seen = list[Any]()

    async def undo(done: int, ctx: StepContext) -> None:
        assert ctx.compensates is not None
        record = ctx.compensates
        seen.append((done, record.key, record.input, record.output, dict(ctx.state)))
        ctx.state["undone"] = True

    @step(compensate=undo)
    async def do(n: int, ctx: StepContext) -> int:
        assert ctx.compensates is None
        ctx.state["n"] = n
        return n + 1

    error = await failed(Flujo(do >> broken, state_backend=backend), 1)
    assert seen == [(2, "do", 1, 2, {"n": 1})]
    assert error.result.context == {"n": 1, "undone": True}


async def test_nothing_to_undo(backend: StateBackend) -> None:
    """No rollback is recorded."""
    flujo = Flujo(plain >> broken, state_backend=backend)
    await failed(flujo)
    assert "RollbackStarted" not in [commit.fact.kind for commit in await flujo.history("r")]


async def test_a_run_that_completes_undoes_nothing(backend: StateBackend) -> None:
    """Nor does a step that has failed itself."""
    assert (await Flujo(A >> B, state_backend=backend).run("")).output == "ab"
    undone = step(name="failing", compensate=A.policy.compensate)(broken.function)
    await failed(Flujo(undone, state_backend=backend))
    assert LOG == ["do a", "do b"]


async def test_a_fallback_is_undone_by_its_own_compensation() -> None:
    """Since that is what was done."""
    replaced = step(name="replaced", fallback=A, compensate=B.policy.compensate)(broken.function)
    await failed(Flujo(replaced >> broken))
    assert LOG == ["do a", "undo a a"]


async def test_a_compensation_that_fails_does_not_stop_the_others(backend: StateBackend) -> None:
    """It is told in the notes of the run's error."""

    async def undo(done: Any) -> None:
        LOG.append("cannot")
        raise LookupError("cannot")

    stubborn = step(name="stubborn", compensate=undo)(plain.function)
    flujo = Flujo(A >> stubborn >> B >> broken, state_backend=backend)
    error = await failed(flujo)
    assert LOG == ["do a", "do b", "undo b ab", "cannot", "undo a a"]
    assert isinstance(error.__cause__, ValueError)
    assert "cannot" in str(error.__cause__.__notes__)
    again = await failed(Flujo(A >> stubborn >> B >> broken, state_backend=backend))
    assert "cannot" in str(again.__cause__.__notes__)  # type: ignore[union-attr]


@dataclass(frozen=True)
class Sealed(Exception):
    """Lets nobody set an attribute, and cannot be shown."""

    name: str

    def __repr__(self) -> str:
        raise RuntimeError("not to be shown")


async def test_errors_that_let_nothing_be_done_with_them_are_told_as_well() -> None:
    """The run ends as it does with others."""

    async def undo(done: Any) -> None:
        raise Sealed("compensation")

    async def fail(value: Any) -> Any:
        raise Sealed("step")

    stubborn = step(name="stubborn", compensate=undo)(plain.function)
    error = await failed(Flujo(stubborn >> step(name="fail")(fail)))
    assert isinstance(error.__cause__, Sealed)
    assert error.__cause__.__notes__ == ["a compensation failed as well: Sealed: compensation"]


async def test_a_compensation_is_retried() -> None:
    """By its own policy; long waits park the run."""
    clock, attempts = VirtualClock(), list[int]()

    @step(retry=Retry(max_attempts=3, base=100, cap=100, jitter=0))
    async def undo(done: Any, ctx: StepContext) -> None:
        attempts.append(ctx.attempt)
        if ctx.attempt < 3:
            raise ValueError

    do = step(name="do", compensate=undo)(plain.function)
    flujo = Flujo(do >> broken, clock=clock)
    task = asyncio.ensure_future(flujo.run(1, run_id="r"))
    for _ in range(2):
        assert (await gone_to_sleep(flujo)).status == "running"
        await clock.until_asleep()
        clock.advance(100)
        await ticks()
    with pytest.raises(RunFailed):
        await task
    assert attempts == [1, 2, 3]


@workflow
async def one_after_the_other(value: Any) -> Any:
    value = await A(value)
    value = await B(value)
    return await broken(value)


@workflow
async def side_by_side(value: Any) -> Any:
    await asyncio.gather(A(value), B(value))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(C(value))
        tasks.create_task(late(value))
    return value


@step
async def late(value: Any) -> Any:
    for _ in range(20):
        await asyncio.sleep(0)
    raise ValueError("broken")


@workflow
async def that_catches(value: Any, ctx: RunContext) -> Any:
    await A(value)
    try:
        await late(value)
    except ValueError:
        await B(value)
    raise LookupError("mine")


@step
async def join(a: Annotated[str, Depends(A)], b: Annotated[str, Depends(B)]) -> str:
    raise ValueError("broken")


DEFINITIONS: dict[str, tuple[Any, Any, list[str]]] = {
    "sequence": (A >> B >> broken, "", ["a", "b"]),
    "parallel": (parallel(A, B) >> broken, "", ["a", "b"]),
    "in a parallel": (parallel(A >> plain, as_step(plain >> late, name="fails"), B), "", ["a", "b"]),
    "the first of a parallel": (
        parallel(as_step(late >> plain, name="fails"), A, B, on_error="finish"),
        "",
        ["a", "b"],
    ),
    "cancelled in a parallel": (parallel(as_step(late, name="fails"), A, B >> C), "", ["a", "b", "c"]),
    "map_each": (map_each(A, max_concurrency=2) >> broken, ["1", "2", "3"], ["a", "a", "a"]),
    "in a map_each": (
        map_each(branch(lambda v: v == "x", {True: late, False: A}), max_concurrency=2),
        ["1", "x", "2"],
        ["a", "a"],
    ),
    "loop": (loop(A, until=lambda v: len(v) > 2, max_iterations=9) >> broken, "", ["a", "a", "a"]),
    "branch": (branch(lambda v: v, {"x": A, "y": B}) >> broken, "x", ["a"]),
    "workflow": (one_after_the_other, "", ["a", "b"]),
    "tasks": (side_by_side, "", ["a", "b", "c"]),
    "caught": (that_catches, "", ["a", "b"]),
    "workflow in a pipeline": (C >> one_after_the_other, "", ["c", "a", "b"]),
    "graph": (graph(join), {"value": ""}, ["a", "b"]),
}


@mostly_in_memory
@pytest.mark.parametrize("name", list(DEFINITIONS))
async def test_a_crash_while_it_is_undone_resumes_that(backend: StateBackend, name: str) -> None:
    """Killed at every commit: everything that was done is undone, and recorded so once."""
    definition, given, done = DEFINITIONS[name]

    async def attempt(store: StateBackend, run_id: str) -> None:
        await Flujo(definition, state_backend=store).run(given, run_id=run_id)

    flujo = Flujo(definition, state_backend=backend)
    await failed(flujo, given, "whole")
    assert set(await _undone(flujo, "whole")) <= set(done)
    number = 0
    async for run_id in crashes(backend, attempt):
        number += 1
        await failed(flujo, given, run_id)
        await _undone(flujo, run_id)
        kinds = [commit.fact.kind for commit in await flujo.history(run_id)]
        assert kinds.count("RollbackStarted") <= 1
        assert others() == set()
    assert number > 4


async def _undone(flujo: Flujo[Any, Any], run_id: str) -> list[str]:
    """Return what was undone, which is all that was done, the newest first."""
    records = await flujo.steps(run_id)
    completed = [record for record in records if record.name in ("a", "b", "c")]
    compensated = [record.key.removesuffix("/compensate") for record in records if "/compensate" in record.key]
    assert compensated == [record.key for record in completed][::-1], run_id
    return [record.name for record in completed]


async def test_the_error_survives_a_crash_while_it_is_undone(backend: StateBackend) -> None:
    """It is that of the step, not of the crash."""

    async def attempt(store: StateBackend, run_id: str) -> None:
        await Flujo(A >> broken, state_backend=store).run("", run_id=run_id)

    async for run_id in crashes(backend, attempt):
        error = await failed(Flujo(A >> broken, state_backend=backend), "", run_id)
        assert (type(error.__cause__), str(error.__cause__)) == (ValueError, "broken")
        assert error.result.error is error.__cause__


class TestCancel:
    """A run that is cancelled is undone as well."""

    async def test_a_cancelled_run_is_undone(self, backend: StateBackend) -> None:
        """Also when it was paused, and at every crash meanwhile."""

        async def attempt(store: StateBackend, run_id: str) -> None:
            flujo = Flujo(A >> B >> wait_for("go"), state_backend=store)
            await flujo.run("", run_id=run_id)
            await flujo.cancel(run_id, "no need")

        flujo = Flujo(A >> B >> wait_for("go"), state_backend=backend)
        await attempt(backend, "whole")
        assert LOG == ["do a", "do b", "undo b ab", "undo a a"]
        async for run_id in crashes(backend, attempt):
            if (
                (await flujo.run(run_id=run_id)).status == "paused"
                if not await _is_cancelling(flujo, run_id)
                else False
            ):
                continue
            with pytest.raises(RunCancelled, match="no need"):
                await flujo.run(run_id=run_id)
            records = await flujo.steps(run_id)
            assert [record.key for record in records] == ["a", "b", "b/compensate", "a/compensate"]

    async def test_a_step_that_is_cancelled_is_not_undone(self) -> None:
        """It has not completed."""
        reached = asyncio.Event()

        @step(compensate=A.policy.compensate)
        async def stuck(value: Any) -> Any:
            reached.set()
            await asyncio.Event().wait()

        flujo = Flujo(A >> stuck)
        task = asyncio.ensure_future(flujo.run("", run_id="r"))
        await reached.wait()
        await flujo.cancel("r")
        with pytest.raises(RunCancelled):
            await task
        assert LOG == ["do a", "undo a a"]

    async def test_cancelled_again_while_it_is_undone(self, backend: StateBackend) -> None:
        """The compensation goes on to its end."""
        reached, go_on = asyncio.Event(), asyncio.Event()

        async def undo(done: Any) -> None:
            reached.set()
            await go_on.wait()
            LOG.append("undone")

        slow = step(name="slow", compensate=undo)(plain.function)
        flujo = Flujo(slow >> wait_for("go"), state_backend=backend)
        await flujo.run(1, run_id="r")
        first = asyncio.ensure_future(flujo.cancel("r", "first"))
        await reached.wait()
        second = asyncio.ensure_future(flujo.cancel("r", "second"))
        await ticks()
        go_on.set()
        await asyncio.gather(first, second)
        assert LOG == ["undone"]
        with pytest.raises(RunCancelled, match="first"):
            await flujo.run(run_id="r")

    async def test_a_compensation_that_fails_fails_a_cancelled_run(self) -> None:
        """Somebody has to look at it: it is in the dead letters."""

        async def undo(done: Any) -> None:
            raise LookupError("cannot")

        stubborn = step(name="stubborn", compensate=undo)(plain.function)
        flujo = Flujo(stubborn >> wait_for("go"))
        await flujo.run(1, run_id="r")
        await flujo.cancel("r", "no need")
        with pytest.raises(RunFailed) as caught:
            await flujo.run(run_id="r")
        assert isinstance(caught.value.__cause__, LookupError)
        assert [summary.run_id for summary in await flujo.list_dead_letters()] == ["r"]

    async def test_interrupted_while_it_is_undone_it_can_be_resumed(self, backend: StateBackend) -> None:
        """Cancelling the task that awaits ``run`` is no end of the run."""
        reached, go_on = asyncio.Event(), asyncio.Event()

        async def undo(done: Any) -> None:
            reached.set()
            await go_on.wait()
            LOG.append("undone")

        slow = step(name="slow", compensate=undo)(plain.function)
        flujo = Flujo(slow >> broken, state_backend=backend)
        task = asyncio.ensure_future(flujo.run(1, run_id="r"))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await flujo.handle("r").status() == "running"
        assert others() == set()
        go_on.set()
        await failed(flujo, 1)
        assert LOG == ["undone"]


async def _is_cancelling(flujo: Flujo[Any, Any], run_id: str) -> bool:
    stored = await flujo.state_backend.load(run_id)
    assert stored is not None
    return bool(stored.signals)


class TestFork:
    """A fork never goes on from what was undone."""

    @staticmethod
    async def cancelled(backend: StateBackend) -> Flujo[Any, Any]:
        flujo = Flujo(plain >> A >> B >> wait_for("go") >> C, state_backend=backend)
        await flujo.run("", run_id="r")
        await flujo.cancel("r")
        return flujo

    async def test_what_was_undone_cannot_be_shared(self, backend: StateBackend) -> None:
        """Neither the end of the run nor the midst of its rollback; the error names what can."""
        flujo = await self.cancelled(backend)
        kinds = [commit.fact.kind for commit in await flujo.history("r")]
        began = kinds.index("RollbackStarted") + 1
        for at in (None, *range(began, len(kinds) + 1)):
            with pytest.raises(InvalidArgument, match=rf"fork\(at={began - 1}\)"):
                await flujo.fork("r", at=at)
        data = await flujo.export_run("r")
        with pytest.raises(InvalidArgument, match="from results that are no more"):
            await flujo.import_run(data, "copy")
        assert len(await flujo.list_runs()) == 1
        await flujo.delete("r")
        assert await (await flujo.import_run(data)).status() == "cancelled"

    @pytest.mark.parametrize(("is_before_the_steps", "done"), [(True, ["do a", "do b", "do c"]), (False, ["do c"])])
    async def test_what_the_error_names_can_be_shared(
        self, backend: StateBackend, is_before_the_steps: bool, done: list[str]
    ) -> None:
        flujo = await self.cancelled(backend)
        began = next(commit.seq for commit in await flujo.history("r") if commit.fact.kind == "RollbackStarted")
        fork = await flujo.fork("r", at=2 if is_before_the_steps else began - 1)
        LOG.clear()
        await flujo.run(run_id=fork.run_id)
        await flujo.signal(fork.run_id, "go", "x")
        assert (await flujo.run(run_id=fork.run_id)).output == "xc"
        assert done == LOG

    async def test_a_run_that_was_redriven_can_be_shared_again(self, backend: StateBackend) -> None:
        """What was undone was done again."""
        flujo = await self.cancelled(backend)
        await flujo.redrive("r")
        fork = await flujo.fork("r")
        LOG.clear()
        await flujo.signal(fork.run_id, "go", "x")
        assert (await flujo.run(run_id=fork.run_id)).output == "xc"
        assert LOG == ["do c"]
