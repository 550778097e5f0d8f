"""Dead letters, and trying again (G7)."""

import asyncio
import re
from datetime import timedelta
from typing import Annotated, Any, ClassVar

import pytest
from pydantic import BaseModel

from flujo_async import (
    Flujo,
    Retry,
    RunContext,
    StepContext,
    as_step,
    child,
    graph,
    map_each,
    parallel,
    sleep,
    step,
    wait_for,
    workflow,
)
from flujo_async.abc import StateBackend
from flujo_async.errors import InvalidArgument, RunCancelled, RunFailed, RunNotFound, VersionMismatch, WaitTimeout
from flujo_async.reducers import append
from flujo_async.testing import VirtualClock
from tests.runtime.crashes import crashes, gone_to_sleep, others
from tests.runtime.pretend import failing_once
from tests.runtime.stores import mostly_in_memory

HOUR = timedelta(hours=1)


class World:
    """Steps of which one fails until it is repaired; remembers what was executed."""

    def __init__(self) -> None:
        self.is_repaired = False
        self.executed = list[str]()

        async def undo(done: Any) -> None:
            self.executed.append("undo")

        @step
        async def before(n: int) -> int:
            self.executed.append("before")
            return n + 1

        @step(compensate=undo)
        async def undoable(n: int) -> int:
            self.executed.append("undoable")
            return n + 1

        @step(retry=Retry(max_attempts=2, base=0))
        async def fragile(n: int) -> int:
            self.executed.append("fragile")
            if not self.is_repaired:
                raise ValueError("broken")
            return n * 10

        @step
        async def after(n: int) -> int:
            self.executed.append("after")
            return n + 1

        self.before, self.undoable, self.fragile, self.after = before, undoable, fragile, after

        @workflow
        async def flow(n: int) -> int:
            n = await before(n)
            n = await fragile(n)
            return await after(n)

        @workflow
        async def in_tasks(n: int) -> int:
            _, other = await asyncio.gather(before(n), fragile(n + 1))
            return await after(other)

        self.definitions: dict[str, Any] = {
            "pipeline": before >> fragile >> after,
            "workflow": flow,
            "tasks": in_tasks,
        }

    def taken(self) -> list[str]:
        executed, self.executed[:] = list(self.executed), []
        return executed


@pytest.fixture
def world() -> World:
    return World()


KINDS = pytest.mark.parametrize("kind", ["pipeline", "workflow", "tasks"])


async def failed(flujo: Flujo[Any, Any], run_id: str = "r", given: Any = 1) -> None:
    with pytest.raises(RunFailed, match="broken"):
        await flujo.run(given, run_id=run_id)


async def test_a_failed_run_is_a_dead_letter(backend: StateBackend, world: World) -> None:
    """With the error; until it is redriven or deleted."""
    flujo = Flujo(world.definitions["pipeline"], state_backend=backend)
    for number in range(3):
        await failed(flujo, f"r{number}")
    letters = await flujo.list_dead_letters()
    assert {letter.run_id for letter in letters} == {"r0", "r1", "r2"}
    assert {letter.error_message for letter in letters} == {"ValueError: broken"}
    assert len(await flujo.list_dead_letters(limit=1, offset=1)) == 1
    world.is_repaired = True
    await flujo.redrive("r0")
    await flujo.delete("r1")
    assert [letter.run_id for letter in await flujo.list_dead_letters()] == ["r2"]


@KINDS
async def test_the_step_that_failed_runs_again_and_no_other(backend: StateBackend, world: World, kind: str) -> None:
    """With the original input; as often as it takes; its attempts are counted anew."""
    flujo = Flujo(world.definitions[kind], state_backend=backend)
    await failed(flujo)
    world.taken()
    with pytest.raises(RunFailed) as live:
        await flujo.redrive("r")
    with pytest.raises(RunFailed) as recorded:
        await flujo.run(1, run_id="r")
    assert str(recorded.value) == str(live.value)
    assert not hasattr(live.value, "__notes__")
    assert "nothing was executed now, and a redrive tries it again" in recorded.value.__notes__[0]
    assert re.match(r"run 'r' failed at 'fragile(:\w+)?': ValueError: broken$", str(live.value))
    assert world.taken() == ["fragile", "fragile"]
    world.is_repaired = True
    result = await flujo.redrive("r")
    assert (result.output, world.taken()) == (21, ["fragile", "after"])
    assert [record.attempts for record in result.steps if record.name == "fragile"] == [1]
    assert (await flujo.run(1, run_id="r")).output == 21
    assert world.taken() == []
    assert (await flujo.state("r")).error_message is None


@KINDS
async def test_a_step_may_be_skipped(backend: StateBackend, world: World, kind: str) -> None:
    """What is given counts as its output."""
    flujo = Flujo(world.definitions[kind], state_backend=backend)
    await failed(flujo)
    world.taken()
    result = await flujo.redrive("r", decision="skip", output=7)
    assert (result.output, world.taken()) == (8, ["after"])
    [record] = [record for record in result.steps if record.name == "fragile"]
    assert record.output == 7


async def test_skipped_without_an_output_it_is_none(backend: StateBackend, world: World) -> None:
    """Which the next step may mind."""
    flujo = Flujo(world.fragile, state_backend=backend)
    await failed(flujo)
    assert (await flujo.redrive("r", decision="skip")).output is None


@mostly_in_memory
@KINDS
async def test_killed_at_every_commit_while_it_is_tried_again(backend: StateBackend, world: World, kind: str) -> None:
    """Whoever resumes goes on with it."""
    definition = world.definitions[kind]

    async def attempt(store: StateBackend, run_id: str) -> None:
        world.is_repaired = False
        await failed(Flujo(definition, state_backend=backend), run_id)
        world.is_repaired = True
        assert (await Flujo(definition, state_backend=store).redrive(run_id)).output == 21

    async for run_id in crashes(backend, attempt):
        flujo = Flujo(definition, state_backend=backend)
        world.is_repaired = True
        if await flujo.handle(run_id).status() == "failed":
            assert (await flujo.redrive(run_id)).output == 21
        else:
            assert (await flujo.run(run_id=run_id)).output == 21
        assert others() == set()


class Rows:
    """Two rows of steps side by side, in the code of workflows; one step of each fails, once in each run.

    Attributes:
        runs: the steps that each run has executed.
    """

    names: ClassVar = [["fails", "a"], ["b", "fails as well", "c"]]

    def __init__(self) -> None:
        self.runs: dict[str, list[str]] = {}

    async def _note(self, name: str, ctx: StepContext) -> str:
        executed = self.runs.setdefault(ctx.run_id, [])
        executed.append(name)
        if name.startswith("fails") and executed.count(name) == 1:
            raise ValueError("no")
        return name

    def _row(self, names: list[str] | None = None) -> Any:
        note = step(name="note")(self._note)

        async def row(given: Any, ctx: RunContext) -> list[str]:
            await ctx.sleep(0)
            return [await note(name) for name in names or given]

        return workflow(name="row" if names is None else names[0])(row)

    def definition(self, kind: str) -> Any:
        """Return it with the rows in tasks of one workflow, in branches, or as the items of a list."""
        row, (first, second) = self._row(), (self._row(names) for names in self.names)

        @workflow
        async def tasks(rows: Any, ctx: RunContext) -> Any:
            outcomes = await asyncio.gather(*(row.function(names, ctx) for names in rows), return_exceptions=True)
            if failures := [outcome for outcome in outcomes if isinstance(outcome, ValueError)]:
                raise ExceptionGroup("both", failures)
            return outcomes

        definitions: dict[str, Any] = {
            "in_tasks": tasks,
            "in_branches": parallel(first, second, on_error="finish"),
            "in_items": map_each(row, on_error="finish"),
        }
        return definitions[kind]


@mostly_in_memory
@pytest.mark.parametrize("kind", ["in_tasks", "in_branches", "in_items"])
async def test_killed_at_every_commit_while_two_rows_are_tried_again(backend: StateBackend, kind: str) -> None:
    """What one of them had done after the first failure has no order any more, and is given back all the same."""
    rows = Rows()
    flujo = Flujo(rows.definition(kind), state_backend=backend)

    async def attempt(store: StateBackend, run_id: str) -> None:
        with pytest.raises(RunFailed):
            await flujo.run(rows.names, run_id=run_id)
        await Flujo(rows.definition(kind), state_backend=store).redrive(run_id)

    async for run_id in crashes(backend, attempt):
        if await flujo.handle(run_id).status() == "failed":
            await flujo.redrive(run_id)
        result = await flujo.run(run_id=run_id)
        assert rows.runs[run_id].count("b") == 1
        again = await flujo.fork(run_id)
        assert (await flujo.run(run_id=again.run_id)).output == result.output


@mostly_in_memory
async def test_killed_at_every_commit_while_what_came_before_is_tried_again(backend: StateBackend) -> None:
    """What the code asks for after that is given back where it asks for it, and not where the log has it."""
    rows = Rows()
    note = step(name="note")(rows._note)

    @workflow
    async def caught(_: Any, ctx: RunContext) -> list[str]:
        failure, names = None, list[str]()
        try:
            names.append(await note("fails"))
        except ValueError as error:
            failure = error
        names.append(await note("a"))
        if failure is not None:
            raise failure
        return [*names, await note("b")]

    flujo = Flujo(caught, state_backend=backend)

    async def attempt(store: StateBackend, run_id: str) -> None:
        with pytest.raises(RunFailed):
            await flujo.run(0, run_id=run_id)
        await Flujo(caught, state_backend=store).redrive(run_id)

    async for run_id in crashes(backend, attempt):
        if await flujo.handle(run_id).status() == "failed":
            await flujo.redrive(run_id)
        assert (await flujo.run(run_id=run_id)).output == ["fails", "a", "b"]
        assert rows.runs[run_id].count("a") == 1
        again = await flujo.fork(run_id)
        assert (await flujo.run(run_id=again.run_id)).output == ["fails", "a", "b"]


class Log(BaseModel):
    """A context to which several append."""

    lines: Annotated[list[str], append] = []


@mostly_in_memory
async def test_code_beside_a_failure_changes_the_context_once(backend: StateBackend) -> None:
    """Though it does that again when the failure is tried again."""
    has_failed = asyncio.Event()
    fail_once = failing_once(has_failed)

    @step
    async def write(line: str, ctx: StepContext) -> None:
        await has_failed.wait()  # so it comes later in the log
        ctx.state.lines.append(line)

    async def change(ctx: RunContext) -> None:
        ctx.state.lines.append("code")
        await fail_once(1)

    @workflow
    async def both(_: Any, ctx: RunContext) -> None:
        _, failure = await asyncio.gather(write("step"), change(ctx), return_exceptions=True)
        if failure is not None:
            raise failure

    flujo = Flujo(both, context_type=Log, state_backend=backend)
    with pytest.raises(RunFailed):
        await flujo.run(0, run_id="r")
    await flujo.redrive("r")
    result = await flujo.run(run_id="r")
    assert sorted(result.context.lines) == ["code", "step"]
    again = await flujo.fork("r")
    assert (await flujo.run(run_id=again.run_id)).context == result.context


@mostly_in_memory
async def test_what_code_changes_at_its_end_is_recorded_each_time(backend: StateBackend) -> None:
    """A workflow that failed had left its changes as well, and they were not the last."""
    fail_once = failing_once(asyncio.Event())

    @step
    async def look(_: Any, ctx: StepContext) -> list[str]:
        return list(ctx.state.lines)

    @workflow
    async def both(_: Any, ctx: RunContext) -> None:
        async def write(line: str) -> None:
            ctx.state.lines.append(line)

        await asyncio.gather(fail_once(1), write("beside"))
        ctx.state.lines.append("end")

    flujo = Flujo(both >> look, context_type=Log, state_backend=backend)
    with pytest.raises(RunFailed):
        await flujo.run(0, run_id="r")
    result = await flujo.redrive("r")
    assert result.context.lines == result.output == ["beside", "end"]


async def test_after_a_rollback_what_was_undone_is_done_again(backend: StateBackend, world: World) -> None:
    """From the oldest step that was undone on; and undone again if it fails again."""
    definition = world.before >> world.undoable >> world.fragile >> world.after
    flujo = Flujo(definition, state_backend=backend)
    await failed(flujo)
    assert world.taken() == ["before", "undoable", "fragile", "fragile", "undo"]
    with pytest.raises(RunFailed):
        await flujo.redrive("r")
    assert world.taken() == ["undoable", "fragile", "fragile", "undo"]
    world.is_repaired = True
    assert (await flujo.redrive("r")).output == 31
    assert world.taken() == ["undoable", "fragile", "after"]


async def test_a_compensation_that_failed_is_tried_again_if_the_run_fails_again(backend: StateBackend) -> None:
    """Meanwhile its step counts as done: it is not repeated before it was undone."""
    executed, undone = list[str](), list[int]()

    async def undo(n: int) -> None:
        executed.append("undo")
        if executed.count("undo") == 1:
            raise ConnectionError("not now")
        undone.append(n)

    @step(compensate=undo)
    async def undoable(n: int) -> int:
        executed.append("undoable")
        return n + 1

    @step
    async def fragile(n: int) -> int:
        executed.append("fragile")
        if len(undone) == 0:
            raise ValueError("broken")
        return n * 10

    flujo = Flujo(undoable >> fragile, state_backend=backend)
    await failed(flujo)
    assert executed == ["undoable", "fragile", "undo"]

    executed[:] = ["undo"]
    with pytest.raises(RunFailed) as again:
        await flujo.redrive("r")
    assert executed == ["undo", "fragile", "undo"]
    assert undone == [2]
    assert not hasattr(again.value.__cause__, "__notes__")

    result = await flujo.redrive("r")
    assert result.output == 20
    assert executed[3:] == ["undoable", "fragile"]
    assert [record.key for record in result.steps] == ["undoable", "fragile"]


async def test_a_cancelled_run_may_go_on(backend: StateBackend, world: World) -> None:
    """With what it had done and what was undone."""
    flujo = Flujo(world.before >> world.undoable >> wait_for("go") >> world.after, state_backend=backend)
    await flujo.run(1, run_id="r")
    await flujo.cancel("r")
    assert world.taken() == ["before", "undoable", "undo"]
    result = await flujo.redrive("r")
    assert (result.status, world.taken()) == ("paused", ["undoable"])
    await flujo.signal("r", "go", 5)
    assert (await flujo.handle("r").result()).output == 6
    await flujo.aclose()


async def test_nothing_to_skip_in_a_cancelled_run(backend: StateBackend, world: World) -> None:
    """No step of it has failed."""
    flujo = Flujo(world.before >> wait_for("go"), state_backend=backend)
    await flujo.run(1, run_id="r")
    await flujo.cancel("r")
    with pytest.raises(InvalidArgument, match="skip"):
        await flujo.redrive("r", decision="skip", output=1)
    with pytest.raises(RunCancelled):
        await flujo.run(run_id="r")


@pytest.mark.parametrize("on_error", ["cancel", "finish"])
async def test_in_branches_only_what_has_not_succeeded_runs_again(
    backend: StateBackend, world: World, on_error: Any
) -> None:
    """A branch that was done stays done."""
    flujo = Flujo(parallel(world.before, world.fragile, on_error=on_error), state_backend=backend)
    await failed(flujo)
    world.taken()
    world.is_repaired = True
    assert (await flujo.redrive("r")).output == {"before": 2, "fragile": 10}
    assert world.taken() == ["fragile"]


async def test_all_items_that_failed_are_tried_again(backend: StateBackend) -> None:
    """When the group went on to its end."""
    executed, is_repaired = list[int](), False

    @step
    async def picky(n: int) -> int:
        executed.append(n)
        if n % 2 and not is_repaired:
            raise ValueError("broken")
        return n

    flujo = Flujo(map_each(picky, on_error="finish"), state_backend=backend)
    await failed(flujo, given=[1, 2, 3, 4])
    executed.clear()
    is_repaired = True
    assert (await flujo.redrive("r")).output == [1, 2, 3, 4]
    assert executed == [1, 3]


class Outage:
    """Two steps that fail at the same time until it is over, in everything that runs them so."""

    def __init__(self) -> None:
        self.is_over = False
        self.executed = list[str]()
        both = asyncio.Barrier(2)

        async def fail(name: str) -> int:
            self.executed.append(name)
            if not self.is_over:
                await both.wait()
                raise ValueError(f"broken {name}")
            return len(self.executed)

        @step
        async def one(n: int) -> int:
            return await fail("one")

        @step
        async def other(n: int) -> int:
            return await fail("other")

        @workflow
        async def gather(n: int) -> dict[str, int]:
            first, second = await asyncio.gather(one(n), other(n))
            return {"one": first, "other": second}

        @workflow
        async def task_group(n: int) -> dict[str, int]:
            async with asyncio.TaskGroup() as tasks:
                first, second = tasks.create_task(one(n)), tasks.create_task(other(n))
            return {"one": first.result(), "other": second.result()}

        self.one, self.other = one, other
        self.definitions: dict[str, Any] = {
            "parallel": parallel(one, other),
            "nested": parallel(as_step(parallel(one), name="one"), other),
            "part": parallel(as_step(parallel(one, other), name="both"), step(name="beside")(str), on_error="finish"),
            "graph": graph(one, other),
            "children": parallel(child(one), child(other)),
            "gather": gather,
            "task group": task_group,
        }


@pytest.mark.parametrize("kind", ["parallel", "nested", "graph", "children", "gather", "task group"])
async def test_what_fails_at_the_same_time_is_tried_again_together(backend: StateBackend, kind: str) -> None:
    """The run ends with the first of the failures; the others are in the log as well, and nobody has heard of them."""
    outage = Outage()
    flujo = Flujo[Any, Any](outage.definitions[kind], state_backend=backend)
    with pytest.raises(RunFailed):
        await flujo.run({"n": 1} if kind == "graph" else 1, run_id="r")
    outage.is_over = True
    await flujo.redrive("r")
    assert sorted(outage.executed) == ["one", "one", "other", "other"]


@mostly_in_memory
@pytest.mark.parametrize("kind", ["parallel", "nested", "part", "graph", "children", "gather", "task group"])
async def test_killed_at_every_commit_while_it_fails_it_is_tried_again_together(
    backend: StateBackend, kind: str
) -> None:
    """Whoever takes the run up then hears of the first failure, which ends it; the others are in the log."""
    outage = Outage()

    async def attempt(store: StateBackend, run_id: str) -> None:
        outage.is_over = False
        await Flujo[Any, Any](outage.definitions[kind], state_backend=store).run(given, run_id=run_id)

    given = {"n": 1} if kind == "graph" else 1
    async for run_id in crashes(backend, attempt):
        flujo = Flujo[Any, Any](outage.definitions[kind], state_backend=backend)
        with pytest.raises(RunFailed):
            await asyncio.wait_for(flujo.run(run_id=run_id), timeout=20)
        outage.is_over = True
        await flujo.redrive(run_id)


class MadeUpFor:
    """Something that fails, is made up for, and stands beside a step that fails after that, and ends the run."""

    def __init__(self) -> None:
        self.is_over = False
        self.executed = list[str]()
        is_made_up_for = asyncio.Event()

        @step
        async def fatal(n: int) -> str:
            await is_made_up_for.wait()
            self.fail()
            return "fatal"

        @step
        async def fragile(n: int) -> str:
            self.executed.append("fragile")
            self.fail()
            return "fragile"

        @step
        async def instead(n: Any) -> str:
            self.executed.append("instead")
            return "instead"

        @step
        async def after(done: Any) -> Any:
            is_made_up_for.set()
            if not self.is_over:
                await asyncio.Event().wait()
            return done

        async def caught(n: int) -> str:
            try:
                done = await fragile(n)
            except ValueError:
                done = await instead(n)
            return await after(done)

        @workflow
        async def code(n: int) -> list[str]:
            return list(await asyncio.gather(fatal(n), caught(n)))

        stands_in = step(name="stands_in", fallback=instead)(fragile.function)
        ignored = parallel(fragile, instead, on_error="ignore")
        self.definitions: dict[str, Any] = {
            "code": code,
            "fallback": parallel(fatal, as_step(stands_in >> after, name="beside")),
            "ignored": parallel(fatal, as_step(ignored >> after, name="beside")),
        }

    def fail(self) -> None:
        if not self.is_over:
            raise ValueError("broken")


@pytest.mark.parametrize("kind", ["code", "fallback", "ignored"])
async def test_what_was_made_up_for_before_is_not_tried_again(backend: StateBackend, kind: str) -> None:
    """What came after it rests on that."""
    made_up_for = MadeUpFor()
    flujo = Flujo[Any, Any](made_up_for.definitions[kind], state_backend=backend)
    await failed(flujo)
    made_up_for.is_over = True
    assert "instead" in str((await flujo.redrive("r")).output)
    assert made_up_for.executed == ["fragile", "instead"]


async def test_of_several_that_have_failed_one_may_be_skipped(backend: StateBackend) -> None:
    """By default the one whose error is the run's; the others are tried again."""
    for number, (named, output) in enumerate(
        [(None, {"one": 7, "other": 3}), ("parallel/other", {"one": 3, "other": 7})]
    ):
        outage, run_id = Outage(), f"r{number}"
        flujo = Flujo[Any, Any](parallel(outage.one, outage.other, on_error="finish"), state_backend=backend)
        with pytest.raises(RunFailed, match="broken one"):
            await flujo.run(1, run_id=run_id)
        outage.is_over = True
        with pytest.raises(InvalidArgument, match="'parallel/one', 'parallel/other'"):
            await flujo.redrive(run_id, decision="skip", step="parallel")
        assert (await flujo.redrive(run_id, decision="skip", step=named, output=7)).output == output


@pytest.mark.parametrize("kind", ["parallel", "map_each"])
async def test_where_nothing_was_left_to_go_on_with_all_are_tried_again(
    backend: StateBackend, world: World, kind: str
) -> None:
    """Failures that are ignored fail the run when there are only those."""
    as_parallel = parallel(world.fragile, step(name="other")(world.fragile.function), on_error="ignore")
    group = as_parallel if kind == "parallel" else map_each(world.fragile, on_error="ignore")
    flujo = Flujo[Any, Any](group, state_backend=backend)
    await failed(flujo, given=1 if kind == "parallel" else [1, 2])
    world.is_repaired = True
    result = await flujo.redrive("r")
    assert result.output == ({"fragile": 10, "other": 10} if kind == "parallel" else [10, 20])


async def test_a_failure_that_was_caught_is_not_tried_again(backend: StateBackend, world: World) -> None:
    """It did not end the run."""

    @workflow
    async def flow(n: int) -> int:
        try:
            return await world.fragile(n)
        except ValueError:
            return await other(n)

    @step
    async def other(n: int) -> int:
        world.executed.append("other")
        if not world.is_repaired:
            raise ValueError("broken too")
        return n

    flujo = Flujo(flow, state_backend=backend)
    await failed(flujo)
    world.taken()
    world.is_repaired = True
    assert (await flujo.redrive("r")).output == 1
    assert world.taken() == ["other"]


async def test_a_fallback_that_failed_is_tried_again_with_its_step(backend: StateBackend, world: World) -> None:
    """From the beginning."""
    replaced = step(name="replaced", fallback=world.fragile)(world.fragile.function)
    flujo = Flujo(replaced, state_backend=backend)
    await failed(flujo)
    world.taken()
    world.is_repaired = True
    assert (await flujo.redrive("r")).output == 10
    assert world.taken() == ["fragile"]


async def test_what_the_failed_run_changed_in_the_context_is_there(backend: StateBackend, world: World) -> None:
    """Of the steps that count; the workflow's own changes are made anew."""

    @step
    async def put(n: int, ctx: StepContext) -> int:
        ctx.state["put"] = n
        return n

    @workflow
    async def flow(n: int, ctx: RunContext) -> int:
        ctx.state["code"] = n
        await put(n)
        try:
            return await world.fragile(n)
        finally:
            ctx.state["end"] = world.is_repaired

    flujo = Flujo(flow, state_backend=backend)
    await failed(flujo)
    world.is_repaired = True
    result = await flujo.redrive("r")
    assert result.context == {"code": 1, "put": 1, "end": True}
    assert (await flujo.state("r")).pipeline_context == result.context


async def test_a_wait_that_was_too_long_may_be_repeated_or_skipped(backend: StateBackend, world: World) -> None:
    """With the whole time again."""
    clock = VirtualClock()
    flujo = Flujo(wait_for("go", timeout=60) >> world.after, state_backend=backend, clock=clock)
    for run_id in ("again", "skip"):
        await flujo.run(run_id=run_id)
    clock.advance(60)
    for run_id in ("again", "skip"):
        with pytest.raises(RunFailed) as caught:
            await flujo.run(run_id=run_id)
        assert isinstance(caught.value.__cause__, WaitTimeout)
    result = await flujo.redrive("again")
    assert result.waiting_for[0].deadline == clock.now() + timedelta(seconds=60)
    await flujo.signal("again", "go", 1)
    assert (await flujo.handle("again").result()).output == 2
    assert (await flujo.redrive("skip", decision="skip", output=5)).output == 6
    await flujo.aclose()


@pytest.mark.parametrize("kind", ["pipeline", "workflow"])
async def test_what_was_waited_for_beside_the_failure_has_the_whole_time(
    backend: StateBackend, world: World, kind: str
) -> None:
    """However long the dead letter has lain there."""

    @workflow
    async def flow(n: int, ctx: RunContext) -> Any:
        return await asyncio.gather(ctx.wait_for("ok", timeout=60), world.fragile(n))

    pipelines: dict[str, Any] = {"pipeline": parallel(wait_for("ok", timeout=60), world.fragile), "workflow": flow}
    clock = VirtualClock()
    flujo = Flujo(pipelines[kind], state_backend=backend, clock=clock)
    await failed(flujo)
    clock.advance(timedelta(days=1))
    world.is_repaired = True
    result = await flujo.redrive("r")
    assert [waiting.deadline for waiting in result.waiting_for] == [clock.now() + timedelta(seconds=60)]
    clock.advance(59)
    await flujo.signal("r", "ok", 7)
    output = (await flujo.handle("r").result()).output
    assert output == ([7, 10] if kind == "workflow" else {"ok": 7, "fragile": 10})
    await flujo.aclose()


async def test_a_step_that_waited_for_its_next_attempt_has_the_whole_deadline(
    backend: StateBackend, world: World
) -> None:
    """Its attempts count on, and its deadline from when the run is tried again."""
    attempts = list[int]()

    @step(retry=Retry(max_attempts=2, base=60, jitter=0), deadline=90)
    async def slow(n: int, ctx: StepContext) -> int:
        attempts.append(ctx.attempt)
        if ctx.attempt == 1:
            raise ValueError
        return n

    @step
    async def late(n: int) -> int:
        while not attempts:
            await asyncio.sleep(0)
        return n

    clock = VirtualClock()
    flujo = Flujo(
        parallel(slow, as_step(late >> sleep(30) >> world.fragile, name="late")), state_backend=backend, clock=clock
    )
    run = asyncio.ensure_future(flujo.run(1, run_id="r"))
    await gone_to_sleep(flujo)
    clock.advance(30)
    with pytest.raises(RunFailed):
        await run
    clock.advance(timedelta(days=1))
    world.is_repaired = True
    assert (await flujo.redrive("r")).output == {"slow": 1, "late": 10}
    assert attempts == [1, 2]
    await flujo.aclose()


class TestDecisions:
    """Steps whose effect may happen only once (G2)."""

    async def interrupted(self, backend: StateBackend, world: World) -> Flujo[Any, Any]:
        """Return a runtime whose run was interrupted in such a step."""
        reached = asyncio.Event()

        @step(effect="once")
        async def pay(n: int, ctx: StepContext) -> int:
            world.executed.append(f"pay {ctx.attempt}")
            if not world.is_repaired:
                reached.set()
                await asyncio.Event().wait()
            return n * 2

        flujo = Flujo(world.before >> pay >> world.after, state_backend=backend)
        task = asyncio.ensure_future(flujo.run(1, run_id="r"))
        await reached.wait()
        task.cancel()
        await asyncio.wait({task})
        world.is_repaired = True
        world.taken()
        return flujo

    async def test_the_run_waits_for_a_decision(self, backend: StateBackend, world: World) -> None:
        """It names the step; nothing executes."""
        flujo = await self.interrupted(backend, world)
        for _ in range(2):
            result = await flujo.run(run_id="r")
            assert result.status == "paused"
            assert [(item.kind, item.name) for item in result.waiting_for] == [("decision", "pay")]
            assert world.taken() == []

    async def test_it_may_be_tried_again(self, backend: StateBackend, world: World) -> None:
        """As another attempt."""
        flujo = await self.interrupted(backend, world)
        await flujo.run(run_id="r")
        assert (await flujo.redrive("r")).output == 5
        assert world.taken() == ["pay 2", "after"]

    async def test_it_may_be_skipped(self, backend: StateBackend, world: World) -> None:
        """It has happened, and somebody knows with which result."""
        flujo = await self.interrupted(backend, world)
        await flujo.run(run_id="r")
        assert (await flujo.redrive("r", decision="skip", output=9)).output == 10
        assert world.taken() == ["after"]

    async def test_of_a_child_is_made_on_the_child(self, backend: StateBackend) -> None:
        """The parent tells which one."""
        reached = asyncio.Event()

        @step(effect="once")
        async def pay(n: int) -> int:
            if not reached.is_set():
                reached.set()
                await asyncio.Event().wait()
            return n * 2

        @workflow
        async def outer(n: int, ctx: RunContext) -> int:
            return await ctx.child(pay, n)

        flujo = Flujo(outer, state_backend=backend)
        task = asyncio.ensure_future(flujo.run(1, run_id="r"))
        await reached.wait()
        task.cancel()
        await asyncio.wait({task})
        result = await flujo.run(run_id="r")
        [waiting] = result.waiting_for
        assert (waiting.kind, waiting.name) == ("decision", "pay")
        assert waiting.run_id is not None
        with pytest.raises(InvalidArgument):
            await flujo.redrive("r")
        assert (await flujo.redrive(waiting.run_id)).output == 2
        assert (await flujo.run(run_id="r")).output == 2
        await flujo.aclose()


async def test_what_cannot_be_redriven(backend: StateBackend, world: World) -> None:
    """A run that has not ended, or not badly; an unknown one; with a decision that is none; by other code."""
    world.is_repaired = True
    flujo = Flujo(world.definitions["pipeline"], state_backend=backend)
    await flujo.run(1, run_id="completed")
    await flujo.fork("completed", new_run_id="pending")
    for run_id in ("completed", "pending"):
        with pytest.raises(InvalidArgument):
            await flujo.redrive(run_id)
    with pytest.raises(RunNotFound):
        await flujo.redrive("unknown")
    with pytest.raises(InvalidArgument):
        await flujo.redrive("completed", decision="perhaps")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    world.is_repaired = False
    await failed(flujo, "failed")
    history = await flujo.history("failed")
    with pytest.raises(VersionMismatch):
        await Flujo(world.before, state_backend=backend).redrive("failed")
    assert await flujo.history("failed") == history


async def test_two_at_once_are_one(backend: StateBackend, world: World) -> None:
    """Both get the result; the step runs once."""
    flujo = Flujo(world.definitions["pipeline"], state_backend=backend)
    await failed(flujo)
    world.is_repaired = True
    world.taken()
    outcomes = await asyncio.gather(flujo.redrive("r"), flujo.redrive("r"), return_exceptions=True)
    assert world.taken() == ["fragile", "after"]
    assert any(getattr(outcome, "output", None) == 21 for outcome in outcomes)
