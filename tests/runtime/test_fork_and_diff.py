"""Time travel: forks and differences (G9)."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import InitVar, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar, NotRequired, TypedDict

import pytest
from pydantic import BaseModel, ConfigDict, PrivateAttr
from typing_extensions import override

from flujo_async import (
    Change,
    Depends,
    Flujo,
    RunContext,
    StepContext,
    as_step,
    branch,
    child,
    graph,
    loop,
    map_each,
    parallel,
    register_type,
    sleep,
    step,
    wait_for,
    workflow,
)
from flujo_async.abc import StateBackend
from flujo_async.abc.pace import Pace
from flujo_async.errors import InvalidArgument, RunCancelled, RunFailed, RunNotFound
from flujo_async.reducers import add
from flujo_async.testing import VirtualClock
from tests.runtime.crashes import others
from tests.runtime.executed import EXECUTED
from tests.runtime.pretend import Wrapped, failing_once, gated_store
from tests.runtime.stores import Store, mostly_in_memory


@step
async def grow(n: int, ctx: StepContext) -> int:
    EXECUTED.append(n)
    await asyncio.sleep(0)
    ctx.state["last"] = n
    ctx.state.setdefault("seen", []).append(n)
    return n + 1


@step
async def double(n: int) -> int:
    EXECUTED.append(n)
    return n * 2


@step
async def total(values: dict[str, int]) -> int:
    return sum(values.values())


@workflow
async def asks_twice(n: int, ctx: RunContext) -> list[str]:
    return [await ctx.wait_for("go"), await ctx.wait_for("go")]


@workflow
async def flow(n: int, ctx: RunContext) -> int:
    n = await grow(n)
    one, other = await asyncio.gather(double(n), double(n + 1))
    ctx.state["between"] = one
    drawn = ctx.random()
    await ctx.sleep(0)
    n = await grow(one + other)
    return n if drawn < 2 else 0


@step
async def grow_up(n: int) -> int:
    return n + 1


class Noting(Wrapped):
    """A store that notes which verbs it is asked for."""

    def __init__(self, inner: StateBackend) -> None:
        super().__init__(inner)
        self.verbs: list[str] = []

    @override
    async def through(self, verb: str, call: Callable[[], Any]) -> Any:
        self.verbs.append(verb)
        return await call()


def stored_bytes(directory: Path) -> int:
    """Return how much a SQLite store holds, as far as it is in use."""
    with closing(sqlite3.connect(directory / "runs.db")) as database:
        pages = sum(database.execute(f"PRAGMA {name}").fetchone()[0] * sign for name, sign in PAGES.items())
        return pages * database.execute("PRAGMA page_size").fetchone()[0]


PAGES = {"page_count": 1, "freelist_count": -1}
DEFINITIONS = {
    "pipeline": grow >> parallel(double, grow) >> total >> loop(double, until=lambda n: n > 20, max_iterations=9),
    "branches": grow >> branch(lambda n: n, {2: double, 3: grow}) >> sleep(0) >> grow,
    "workflow": flow,
    "mixed": grow >> flow >> grow,
}
KINDS = pytest.mark.parametrize("kind", list(DEFINITIONS))


class Place:
    def __init__(self, name: str) -> None:
        self.name = name

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Place) and self.name == other.name

    __hash__ = None  # type: ignore[assignment]


register_type(Place, name="tests.runtime.test_fork_and_diff.Place", encode=lambda place: place.name, decode=Place)


@dataclass
class Computed:
    """Takes what is no field, and computes what is one."""

    start: InitVar[int]
    n: int = 0
    where: Place = field(default_factory=lambda: Place("nowhere"))
    half: int = field(init=False)
    LIMIT: ClassVar[int] = 9

    def __post_init__(self, start: int) -> None:
        self.n = start
        self.half = start // 2


class Loose(BaseModel):
    """Holds more than it declares."""

    model_config = ConfigDict(extra="allow")
    n: int = 0
    _secret: int = PrivateAttr(0)
    LIMIT: ClassVar[int] = 9


class Position(TypedDict):
    x: int


class Located(TypedDict):
    """Of a kind that pydantic takes from Python 3.12 on."""

    n: int
    at: NotRequired[Position]


class Tally(BaseModel):
    total: Annotated[int, add] = 0


@dataclass
class Counted:
    total: int = 0
    last: str = ""


def counting(kind: str) -> Any:
    """Return a definition each step of which adds one to the total."""

    async def add_one(n: Any, ctx: StepContext) -> Any:
        ctx.state.total += 1
        return n

    one, two, three = (step(name=name)(add_one) for name in ("one", "two", "three"))

    @step
    async def left(n: Any, ctx: StepContext) -> int:
        ctx.state.total += 1
        return 1

    @step
    async def right(n: Annotated[Any, Depends(left)], ctx: StepContext) -> int:
        ctx.state.total += 1
        return 1

    @step
    async def last(a: Annotated[Any, Depends(right)], b: Annotated[Any, Depends(left)], ctx: StepContext) -> int:
        ctx.state.total += 1
        return 1

    @step(fallback=two)
    async def broken(n: Any) -> Any:
        raise ValueError("broken")

    @workflow
    async def in_tasks(n: Any) -> Any:
        async def both(n: Any) -> Any:
            return await two(await one(n))

        return await asyncio.gather(both(n), three(n))

    definitions: dict[str, Any] = {
        "parallel": parallel(as_step(one >> two, name="first"), as_step(two >> three, name="second")),
        "map_each": map_each(one >> two, max_concurrency=2),
        "graph": graph(last),
        "in_tasks": in_tasks,
        "in_a_branch": parallel(as_step(in_tasks >> one, name="first"), as_step(one >> two, name="second")),
        "fallback": broken >> one,
    }

    @step
    async def spread(n: Any, ctx: StepContext) -> Any:
        ctx.state.total += 1
        return [1, 2, 3] if kind == "map_each" else n

    return one >> spread >> definitions[kind] >> three


class TestFork:
    """``fork``: a run with the same past."""

    @mostly_in_memory
    @KINDS
    async def test_at_every_seq_it_ends_as_the_original(self, backend: StateBackend, kind: str) -> None:
        """What is shared does not run again."""
        flujo = Flujo(DEFINITIONS[kind], state_backend=backend)
        original = await flujo.run(1, run_id="r")
        for commit in await flujo.history("r"):
            handle = await flujo.fork("r", at=commit.seq, new_run_id=f"f{commit.seq}")
            assert await handle.status() == "pending"
            done = len(await handle.steps())
            EXECUTED.clear()
            result = await flujo.run(run_id=handle.run_id)
            assert (result.output, result.context) == (original.output, original.context), commit
            assert len(EXECUTED) <= len(original.steps) - done
            assert (await handle.state()).current_step_index == (await flujo.state("r")).current_step_index
            assert [each.hash for each in (await handle.history())[: commit.seq]] == [
                each.hash for each in (await flujo.history("r"))[: commit.seq]
            ]
        assert (await flujo.run(run_id="r")).output == original.output

    async def test_it_starts_nothing(self, backend: StateBackend) -> None:
        """It is pending, in no queue, until somebody drives it; then it has a handle like any other."""
        flujo = Flujo(grow >> double, state_backend=backend)
        await flujo.run(1, run_id="r")
        handle = await flujo.fork("r", at=2)
        waiting = asyncio.ensure_future(handle.result())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        assert len(EXECUTED) == 2
        [summary] = await flujo.list_runs(status="pending")
        assert (summary.run_id, summary.queue, summary.attempts) == (handle.run_id, None, 0)
        assert await flujo.recover() == [handle.run_id]
        assert (await waiting).output == 4
        assert len(EXECUTED) == 3

    async def test_a_wait_has_the_whole_time(self, backend: StateBackend) -> None:
        """From the fork on: its source may have asked long ago."""
        clock = VirtualClock()
        flujo = Flujo(wait_for("ok", timeout=60), state_backend=backend, clock=clock)
        await flujo.run(1, run_id="r")
        clock.advance(3600)
        handle = await flujo.fork("r", new_run_id="f")
        result = await flujo.run(run_id=handle.run_id)
        assert [waiting.deadline for waiting in result.waiting_for] == [clock.now() + timedelta(seconds=60)]
        await flujo.aclose()

    @pytest.mark.parametrize("how", ["run", "resume", "start", "recover"])
    async def test_whoever_drives_it(self, backend: StateBackend, how: str) -> None:
        """With the input that it has from its source."""
        flujo = Flujo(grow >> double, state_backend=backend)
        await flujo.run(1, run_id="r")
        handle = await flujo.fork("r", at=2, new_run_id="f")
        match how:
            case "run":
                assert (await flujo.run(1, run_id="f")).output == 4
            case "resume":
                assert (await flujo.resume("f")).output == 4
            case "start":
                assert (await (await flujo.start(run_id="f")).result()).output == 4
            case _:
                await flujo.recover()
        assert await handle.status() == "completed"
        await flujo.aclose()

    @pytest.mark.parametrize("kind", ["pipeline", "workflow"])
    async def test_the_context_may_differ_from_there_on(self, backend: StateBackend, kind: str) -> None:
        """What came before has seen the old one."""

        @step
        async def put(n: int, ctx: StepContext) -> int:
            ctx.state["n"] = n
            return n

        @step
        async def look(n: int, ctx: StepContext) -> Any:
            EXECUTED.append(dict(ctx.state))
            return dict(ctx.state)

        @workflow
        async def code(n: int, ctx: RunContext) -> Any:
            if ctx.state.get("n") == 99:
                raise AssertionError("not yet")
            await put(n)
            return await look(ctx.state["n"])

        flujo = Flujo(put >> look if kind == "pipeline" else code, state_backend=backend)
        await flujo.run(1, run_id="r", context={"other": 1})
        await flujo.fork("r", at=2, new_run_id="f", context_update={"n": 99})
        assert (await flujo.state("f")).pipeline_context == {"other": 1, "n": 99}
        result = await flujo.run(run_id="f")
        assert result.output == {"other": 1, "n": 99}
        assert result.context == {"other": 1, "n": 99}
        assert (await flujo.state("f")).pipeline_context == result.context
        assert (await flujo.state("r")).pipeline_context == {"other": 1, "n": 1}

    @pytest.mark.parametrize("kind", ["parallel", "map_each", "graph", "in_tasks", "in_a_branch", "fallback"])
    async def test_the_context_may_differ_in_the_middle_of_anything(self, kind: str) -> None:
        """What was counted before does not count, in branches either; what comes after does, once."""
        flujo = Flujo(counting(kind), context_type=Tally)
        await flujo.run({"n": 1}, run_id="r")
        kinds = [commit.fact.kind for commit in await flujo.history("r")]
        for at in range(1, len(kinds)):
            handle = await flujo.fork("r", at=at, context_update={"total": 100})
            result = await flujo.run(run_id=handle.run_id)
            assert result.context.total == 100 + kinds[at:].count("StepCompleted"), f"forked at {at}"

    @pytest.mark.parametrize("kind", ["alone", "in_a_pipeline"])
    async def test_what_code_has_changed_before_counts_no_more(self, kind: str) -> None:
        """The code changes it again in each replay; whoever forked has seen what was recorded of that."""

        @workflow
        async def code(n: int, ctx: RunContext) -> int:
            for _ in range(2):
                n = await double(n)
                ctx.state.total += 1
                ctx.state.last = "code"
            await ctx.wait_for("go")
            ctx.state.total += 1
            return ctx.state.total

        flujo = Flujo(code if kind == "alone" else double >> code >> double, context_type=Counted)
        await flujo.run(1, run_id="r")
        facts = [commit.fact for commit in await flujo.history("r")]
        is_change = [fact.kind == "StateChanged" for fact in facts]
        assert is_change.count(True) == 2
        for at in range(2, len(facts) + 1):
            fork = await flujo.fork("r", at=at, context_update={"total": 100, "last": "forked"})
            assert (await flujo.run(run_id=fork.run_id)).status == "paused"
            await flujo.signal(fork.run_id, "go", None)
            result = await flujo.run(run_id=fork.run_id)
            changed = is_change[at:].count(True)
            assert result.context == Counted(101 + changed, "code" if changed else "forked"), f"forked at {at}"
            again = await flujo.fork(fork.run_id)
            assert (await flujo.run(run_id=again.run_id)).context == result.context

    async def test_the_context_is_the_same_in_each_replay_where_tasks_change_it(self) -> None:
        """What a task has changed, and was not recorded yet, is replaced; what others change comes after that."""

        @workflow
        async def code(n: int, ctx: RunContext) -> int:
            async def one(n: int) -> None:
                await double(n)
                ctx.state.total += 1

            await asyncio.gather(one(1), one(2))
            await ctx.wait_for("go")
            return ctx.state.total

        flujo = Flujo(code, context_type=Counted)
        await flujo.run(1, run_id="r")
        totals = list[int]()
        for at in range(2, 6):
            fork = await flujo.fork("r", at=at, context_update={"total": 100})
            await flujo.run(run_id=fork.run_id)
            await flujo.signal(fork.run_id, "go", None)
            result = await flujo.run(run_id=fork.run_id)
            again = await flujo.fork(fork.run_id)
            assert (await flujo.run(run_id=again.run_id)).context == result.context == Counted(result.output)
            recorded = [commit.fact for commit in await flujo.history(fork.run_id)]
            assert [fact.kind for fact in recorded].count("StateChanged") <= 2, "none of them twice"
            totals.append(result.output)
        assert totals == [102, 101, 100, 100]

    async def test_tasks_beside_a_failure_leave_a_forked_context_alone(self) -> None:
        """What they had changed by then was changed before the fork; what the code does after it comes after that."""
        fail_once = failing_once(asyncio.Event())

        @workflow
        async def code(n: int, ctx: RunContext) -> int:
            async def one() -> None:
                ctx.state.total += 1
                await fail_once(n)

            async def other() -> None:
                ctx.state.total += 1

            await asyncio.gather(one(), other())
            ctx.state.last = "code"
            return ctx.state.total

        async def completed(run_id: str) -> Counted:
            result = await flujo.run(run_id=run_id)
            assert result.context == Counted(**(await flujo.state(run_id)).pipeline_context)
            return result.context

        flujo = Flujo(code, context_type=Counted)
        with pytest.raises(RunFailed):
            await flujo.run(1, run_id="r")
        await flujo.redrive("r")
        kinds = [commit.fact.kind for commit in await flujo.history("r")]
        found = dict[int, Counted]()
        for at in range(kinds.index("RunRedriven") + 1, len(kinds) + 1):
            fork = await flujo.fork("r", at=at, context_update={"total": 100, "last": "forked"})
            found[at] = await completed(fork.run_id)
            for there in range(at + 1, len(await flujo.history(fork.run_id)) + 1):
                again = await flujo.fork(fork.run_id, at=there)
                assert await completed(again.run_id) == found[at], f"forked at {at}, and then at {there}"
        assert found[kinds.index("StepCompleted") + 1] == Counted(100, "code")
        assert found[len(kinds)] == Counted(100, "forked")

    async def test_a_branch_beside_one_that_failed_changes_a_forked_context_once(self) -> None:
        """What is redriven is no matter of the workflow in another branch: it comes again to all that it came to."""
        is_broken = True

        @workflow
        async def one(n: int) -> int:
            @step
            async def fail(n: int) -> int:
                if is_broken:
                    raise ValueError("no")
                return n

            return await fail(n)

        @workflow
        async def other(n: int, ctx: RunContext) -> int:
            ctx.state.total += 1
            await double(n)
            ctx.state.total += 1
            await double(n)
            return ctx.state.total

        flujo = Flujo(parallel(one, other, on_error="finish"), context_type=Tally)
        with Pace.here().timeless(), pytest.raises(RunFailed):  # it fails before the other has changed anything
            await flujo.run(1, run_id="r")
        facts = [commit.fact for commit in await flujo.history("r")]
        changed = [at for at, fact in enumerate(facts, 1) if fact.kind == "StateChanged"]
        assert [fact.kind for fact in facts].index("StepFailed") + 1 < changed[0]
        for at, count in zip(changed, (1, 0), strict=True):
            is_broken = True
            fork = await flujo.fork("r", at=at, context_update={"total": 100})
            with pytest.raises(RunFailed):
                await flujo.run(run_id=fork.run_id)
            is_broken = False
            result = await flujo.redrive(fork.run_id)
            again = await flujo.fork(fork.run_id)
            assert (await flujo.run(run_id=again.run_id)).context == result.context == Tally(total=100 + count)

    async def test_the_context_keeps_its_type(self, backend: StateBackend) -> None:
        """What does not fit is refused, and nothing is created."""

        class Basket(BaseModel):
            n: int = 0

        flujo = Flujo(double, state_backend=backend, context_type=Basket)
        await flujo.run(1, run_id="r")
        for wrong in ({"n": "x"}, {"n": object()}):
            with pytest.raises(Exception, match="n"):
                await flujo.fork("r", new_run_id="f", context_update=wrong)
        assert len(await flujo.list_runs()) == 1
        await flujo.fork("r", at=1, new_run_id="f", context_update={"n": 5})
        assert (await flujo.run(run_id="f")).context == Basket(n=5)

    @pytest.mark.parametrize(
        ("given", "update", "wrong"),
        [
            (Computed(1), {"n": "5", "half": 7}, [{"LIMIT": 1}, {"start": 1}, {"n": "x"}, {"where": "home"}]),
            (Computed(1), {"where": Place("home")}, [{"where": None}]),
            (Loose.model_validate({"more": 1}), {"n": 5, "more": 2}, [{"_secret": 1}, {"LIMIT": 1}, {"n": "x"}]),
            ({"n": 1}, {"n": 5, "at": {"x": 1}}, [{"n": "x"}, {"other": 1}]),
        ],
        ids=["dataclass", "registered", "model", "TypedDict"],
    )
    async def test_any_field_of_the_context_may_be_given_and_nothing_else(
        self, given: Any, update: dict[str, Any], wrong: list[dict[str, Any]]
    ) -> None:
        """Whatever the class computes, takes or counts as its own beside its fields."""
        flujo = Flujo(double, context_type=Located if isinstance(given, dict) else type(given))
        await flujo.run(1, run_id="r", context=given)
        for changes in wrong:
            with pytest.raises(InvalidArgument):
                await flujo.fork("r", context_update=changes)
        handle = await flujo.fork("r", at=1, context_update=update)
        context = (await flujo.run(run_id=handle.run_id)).context
        found = context if isinstance(context, dict) else {name: getattr(context, name) for name in update}
        assert found == (update | {"n": 5} if "n" in update else update)

    async def test_of_a_completed_run_at_its_end(self, backend: StateBackend) -> None:
        """It completes with the same result, and executes nothing."""
        flujo = Flujo(grow >> double, state_backend=backend)
        original = await flujo.run(1, run_id="r")
        EXECUTED.clear()
        handle = await flujo.fork("r")
        result = await flujo.run(run_id=handle.run_id)
        assert (result.output, result.context, EXECUTED) == (original.output, original.context, [])

    async def test_of_a_failed_run(self, backend: StateBackend) -> None:
        """Before the step that failed, it is tried again; the source stays failed."""
        is_repaired = False

        @step
        async def fragile(n: int) -> int:
            if not is_repaired:
                raise ValueError("broken")
            return n

        flujo = Flujo(double >> fragile, state_backend=backend)
        with pytest.raises(RunFailed):
            await flujo.run(1, run_id="r")
        is_repaired = True
        await flujo.fork("r", at=2, new_run_id="f")
        assert (await flujo.run(run_id="f")).output == 2
        await flujo.fork("r", new_run_id="same")
        with pytest.raises(RunFailed, match="broken"):
            await flujo.run(run_id="same")
        assert await flujo.handle("r").status() == "failed"

    async def test_what_is_repeated_in_it_changes_the_context_after_it(self, backend: StateBackend) -> None:
        """What the fork changed before that is not changed again when the run is resumed."""
        is_broken = True

        @step
        async def put(n: int, ctx: StepContext) -> int:
            if is_broken:
                raise ValueError("broken")
            ctx.state["n"] = n
            return n

        @step
        async def look(n: int, ctx: StepContext) -> Any:
            return ctx.state["n"]

        flujo = Flujo(put >> wait_for("go on") >> look, state_backend=backend)
        with pytest.raises(RunFailed):
            await flujo.run(1, run_id="r", context={"n": 0})
        await flujo.fork("r", new_run_id="f", context_update={"n": 99})
        with pytest.raises(RunFailed):
            await flujo.run(run_id="f")
        is_broken = False
        assert (await flujo.redrive("f")).status == "paused"
        await flujo.signal("f", "go on", None)
        assert (await flujo.run(run_id="f")).output == 1

    async def test_of_a_run_that_waits(self, backend: StateBackend) -> None:
        """Each waits for an answer of its own."""
        flujo = Flujo(double >> wait_for("go") >> double, state_backend=backend)
        await flujo.run(1, run_id="r")
        await flujo.fork("r", new_run_id="f")
        assert (await flujo.run(run_id="f")).status == "paused"
        await flujo.signal("f", "go", 5)
        assert (await flujo.handle("f").result()).output == 10
        assert await flujo.handle("r").status() == "paused"
        await flujo.aclose()

    async def test_of_a_run_that_took_an_answer(self, backend: StateBackend) -> None:
        """The next answer by that name is the first one that is given to the fork, and is not taken for the old one."""
        flujo = Flujo(asks_twice, state_backend=backend)
        await flujo.run(0, run_id="r")
        await flujo.signal("r", "go", "first")
        assert (await flujo.run(run_id="r")).status == "paused"
        await flujo.fork("r", new_run_id="f")
        await flujo.import_run(await flujo.export_run("r"), "copy")
        for run_id in ("f", "copy"):
            await flujo.signal(run_id, "go", run_id)
            assert (await flujo.run(run_id=run_id)).output == ["first", run_id]
        await flujo.aclose()

    async def test_of_a_run_that_was_paused_and_cancelled(self, backend: StateBackend) -> None:
        """It can be paused and cancelled itself."""
        flujo = Flujo(asks_twice, state_backend=backend)
        await flujo.run(0, run_id="r")
        await flujo.pause("r")
        await flujo.cancel("r")
        await flujo.fork("r", new_run_id="f")
        assert (await flujo.run(run_id="f")).status == "paused"
        await flujo.pause("f")
        assert [waiting.kind for waiting in (await flujo.state("f")).waiting_for] == ["pause", "signal"]
        await flujo.cancel("f", "no need")
        assert await flujo.handle("f").status() == "cancelled"
        assert (await flujo.verify()).ok

    async def test_of_a_run_with_a_timeout(self, backend: StateBackend) -> None:
        """It has the whole time."""
        clock = VirtualClock()
        flujo = Flujo(double >> wait_for("go"), state_backend=backend, clock=clock)
        await flujo.run(1, run_id="r", timeout=timedelta(minutes=1))
        clock.advance(timedelta(hours=1))
        with pytest.raises(RunFailed):
            await flujo.run(run_id="r")
        await flujo.fork("r", at=2, new_run_id="f")
        assert (await flujo.run(run_id="f")).status == "paused"
        clock.advance(timedelta(minutes=1))
        with pytest.raises(RunFailed) as caught:
            await flujo.run(run_id="f")
        assert isinstance(caught.value.__cause__, TimeoutError)

    async def test_deleting_the_source_does_not_break_it(self, store: Store) -> None:
        """Nor a fork of the fork."""
        flujo = Flujo(grow >> double >> grow, state_backend=store.open())
        original = await flujo.run(1, run_id="r")
        await flujo.fork("r", at=3, new_run_id="f")
        await flujo.fork("f", new_run_id="g")
        await flujo.delete("r")
        await flujo.delete("f")
        other = Flujo(grow >> double >> grow, state_backend=store.open())
        result = await other.run(run_id="g")
        assert (result.output, result.context) == (original.output, original.context)
        assert [record.key for record in result.steps] == [record.key for record in original.steps]
        with pytest.raises(RunNotFound):
            await other.state("r")

    async def test_the_past_is_stored_once(self, tmp_path: Path) -> None:
        """A fork takes the room of a fact or two, however long its past is."""
        store = Store("sqlite", tmp_path)
        flujo = Flujo(loop(grow_up, until=lambda n: n == 300, max_iterations=300), state_backend=store.open())
        await flujo.run(0, run_id="r")
        before = stored_bytes(tmp_path)
        for i in range(10):
            await flujo.fork("r", new_run_id=f"f{i}")
        grown = stored_bytes(tmp_path) - before
        await store.close()
        assert grown < before / 20
        assert before > 30_000

    async def test_the_source_is_read_once(self, store: Store) -> None:
        """By one verb, and nothing of its log is sent back."""
        await Flujo(grow >> double, state_backend=store.open_once()).run(1, run_id="r")
        noting = Noting(store.open_once())
        await Flujo(grow >> double, state_backend=noting).fork("r", new_run_id="f")
        assert noting.verbs == ["load", "create_run"]

    @pytest.mark.parametrize("at", [1, 2, 3, 4, 5, 6])
    async def test_a_fork_may_be_forked_anywhere(self, store: Store, at: int) -> None:
        """In what it shares, at the seam, and in what is its own; without those before it."""
        flujo = Flujo(grow >> double >> grow, state_backend=store.open())
        original = await flujo.run(1, run_id="r")
        await flujo.fork("r", at=3, new_run_id="f")
        await flujo.run(run_id="f")
        past = [commit.hash for commit in await flujo.history("f")][:at]
        await flujo.fork("f", at=at, new_run_id="g")
        await flujo.delete("r")
        await flujo.delete("f")
        other = Flujo(grow >> double >> grow, state_backend=store.open())
        assert (await other.verify()).ok
        assert [commit.hash for commit in await other.history("g")][:at] == past
        result = await other.run(run_id="g")
        assert (result.output, result.context) == (original.output, original.context)
        assert (await other.verify("g")).ok

    async def test_before_a_migration_it_has_the_version_of_that_time(self, backend: StateBackend) -> None:
        """The head tells what the log tells."""
        old = Flujo(double >> wait_for("go"), pipeline_name="p", state_backend=backend)
        await old.run(1, run_id="r")
        new = Flujo(
            double >> wait_for("go") >> grow, pipeline_name="p", state_backend=backend, migrate=lambda state: None
        )
        await new.signal("r", "go", 1)
        assert (await new.handle("r").result()).output == 2
        await new.fork("r", at=2, new_run_id="f")
        versions = {head.run_id: head.pipeline_version for head in await new.list_runs()}
        assert versions["f"] == (await new.state("r", at=2)).pipeline_version
        assert versions["f"] != versions["r"]
        assert (await new.verify()).ok
        assert (await old.run(run_id="f")).status == "paused"
        await new.aclose()

    async def test_a_source_that_goes_meanwhile_leaves_no_half_fork(self, backend: StateBackend) -> None:
        """What cannot be shared any more is not forked."""
        await Flujo(double, state_backend=backend).run(1, run_id="r")
        gated, gate = gated_store(backend, "create_run")
        forking = asyncio.create_task(Flujo(double, state_backend=gated).fork("r", new_run_id="f"))
        await gate.reached()
        await backend.delete_run("r")
        gate.release()
        with pytest.raises(RunNotFound):
            await forking
        assert await Flujo(double, state_backend=backend).list_runs() == []

    async def test_a_source_that_is_created_anew_meanwhile_is_forked_as_it_is_now(self, backend: StateBackend) -> None:
        """Whoever asks for a fork knows the run by its name."""
        flujo = Flujo(double, state_backend=backend)
        await flujo.run(1, run_id="r")
        gated, gate = gated_store(backend, "create_run")
        forking = asyncio.create_task(Flujo(double, state_backend=gated).fork("r", new_run_id="f"))
        await gate.reached()
        await backend.delete_run("r")
        await flujo.run(2, run_id="r")
        gate.release()
        await forking
        assert (await flujo.run(run_id="f")).output == 4

    async def test_what_cannot_be_forked(self, backend: StateBackend) -> None:
        """An unknown run, a place that is not there, a name that is taken."""
        flujo = Flujo(double, state_backend=backend)
        with pytest.raises(RunNotFound):
            await flujo.fork("unknown")
        await flujo.run(1, run_id="r")
        for at in (0, -1, 99):
            with pytest.raises(InvalidArgument):
                await flujo.fork("r", at=at)
        with pytest.raises(InvalidArgument, match="new_run_id"):
            await flujo.fork("r", new_run_id="r")
        with pytest.raises(InvalidArgument):
            await flujo.fork("r", new_run_id="")
        assert len(await flujo.list_runs()) == 1

    async def test_a_child_that_failed_is_tried_again_by_its_own_parent(self, backend: StateBackend) -> None:
        """A fork that is tried again starts its own, which tells the fork when it has its answer."""
        is_repaired = False

        @step
        async def fragile(n: int) -> int:
            if not is_repaired:
                raise ValueError("broken")
            return n

        flujo = Flujo(double >> child(fragile >> wait_for("go")), state_backend=backend)
        with pytest.raises(RunFailed):
            await flujo.run(1, run_id="r")
        [failed] = await flujo.list_runs(parent_run_id="r")
        await flujo.fork("r", new_run_id="f")
        with pytest.raises(RunFailed):
            await flujo.run(run_id="f")
        is_repaired = True
        [waiting] = (await flujo.redrive("f")).waiting_for
        assert waiting.run_id is not None
        [own] = await flujo.list_runs(parent_run_id="f")
        assert (own.run_id, own.status) == (waiting.run_id, "paused")
        assert await flujo.handle(failed.run_id).status() == "failed"
        await flujo.signal(waiting.run_id, "go", 7)
        assert (await flujo.handle("f").result()).output == 7
        await flujo.aclose()

    async def test_it_can_be_cancelled_and_deleted(self, backend: StateBackend) -> None:
        """Like any run."""
        flujo = Flujo(double, state_backend=backend)
        await flujo.run(1, run_id="r")
        for name in ("f", "g"):
            await flujo.fork("r", at=1, new_run_id=name)
        EXECUTED.clear()
        await flujo.cancel("f", "no need")
        with pytest.raises(RunCancelled):
            await flujo.run(run_id="f")
        await flujo.delete("g")
        with pytest.raises(RunNotFound):
            await flujo.resume("g")
        assert EXECUTED == []
        assert others() == set()

    async def test_a_fork_is_no_child(self, backend: StateBackend) -> None:
        """Even of a child."""

        @workflow
        async def outer(n: int, ctx: RunContext) -> int:
            return await ctx.child(double, n, run_id="c")

        flujo = Flujo(outer, state_backend=backend)
        await flujo.run(1, run_id="r")
        handle = await flujo.fork("c", at=1)
        assert (await flujo.run(run_id=handle.run_id)).output == 2
        [summary] = await flujo.list_runs(parent_run_id="r")
        assert summary.run_id == "c"
        assert (await flujo.state(handle.run_id)).parent_run_id is None
        [parent] = [head for head in await flujo.list_runs() if head.run_id == "r"]
        assert parent.signals == 0, "nobody told it how the fork ended"


@dataclass
class Cart:
    items: list[str] = field(default_factory=list)
    owner: dict[str, Any] = field(default_factory=dict)


class TestDiff:
    """``diff``: what happened between two facts."""

    async def test_it_tells_what_is_different(self, backend: StateBackend) -> None:
        """Of the context, of the steps, and of how the run stands; with values as they were given."""

        @step
        async def put(n: int, ctx: StepContext) -> tuple[int, ...]:
            ctx.state.items.append("apple")
            ctx.state.owner["name"] = "Ada"
            return (n,)

        flujo = Flujo(put, state_backend=backend, context_type=Cart)
        await flujo.run(1, run_id="r", context=Cart(["pear"], {"age": 7}))
        changes = {change.path: (change.before, change.after) for change in await flujo.diff("r", 1, 3)}
        assert changes == {
            "status": ("running", "completed"),
            "current_step_index": (0, 1),
            "context.items[1]": (None, "apple"),
            "context.owner.name": (None, "Ada"),
            "steps.put": (None, (1,)),
            "last_step_output": (None, (1,)),
            "output": (None, (1,)),
        }

    async def test_backwards_it_is_the_reverse(self, backend: StateBackend) -> None:
        """And between equal ones there is nothing."""
        flujo = Flujo(DEFINITIONS["pipeline"], state_backend=backend)
        await flujo.run(1, run_id="r")
        last = len(await flujo.history("r"))
        for a in range(1, last + 1):
            assert await flujo.diff("r", a, a) == []
            forwards = {
                (change.path, str(change.before), str(change.after)) for change in await flujo.diff("r", a, last)
            }
            backwards = {
                (change.path, str(change.after), str(change.before)) for change in await flujo.diff("r", last, a)
            }
            assert forwards == backwards

    async def test_a_failure_is_a_change(self, backend: StateBackend) -> None:
        """Of the status, with the error."""

        @step
        async def broken(n: int) -> int:
            raise ValueError("broken")

        flujo = Flujo(broken, state_backend=backend)
        with pytest.raises(RunFailed):
            await flujo.run(1, run_id="r")
        changes = {change.path: change for change in await flujo.diff("r", 1, len(await flujo.history("r")))}
        assert changes["status"] == Change("status", "running", "failed")
        assert changes["error"].after == "ValueError: broken"
        assert "steps.broken" in changes

    async def test_names_that_mark_encoded_values_are_names_here(self, backend: StateBackend) -> None:
        """In metadata, which are not encoded, as fields of the context, and as the name of a step."""

        @step(name="$")
        async def put(n: int, ctx: StepContext) -> int:
            ctx.state["$"] = "bytes"
            return n

        @workflow
        async def marked(n: int, ctx: RunContext) -> int:
            ctx.set_metadata(kept={"$": "blob", "v": 1})
            return await put(n)

        flujo = Flujo(marked, state_backend=backend)
        await flujo.run(1, run_id="r", context={"$": "set"})
        last = (await flujo.state("r")).version
        changes = {change.path: (change.before, change.after) for change in await flujo.diff("r", 1, last)}
        assert changes["context.$"] == ("set", "bytes")
        assert changes["metadata.kept"] == (None, {"$": "blob", "v": 1})
        assert (None, 1) in [both for path, both in changes.items() if path.startswith("steps.$")]

    async def test_what_cannot_be_compared(self, backend: StateBackend) -> None:
        """An unknown run, facts that are not there."""
        flujo = Flujo(map_each(double), state_backend=backend)
        with pytest.raises(RunNotFound):
            await flujo.diff("unknown", 1, 1)
        await flujo.run([1], run_id="r")
        odd: Any
        for odd in (0, 99, -1, 2**70, 1.5, "1", True):
            for call in (flujo.diff("r", odd, 1), flujo.diff("r", 1, odd), flujo.state("r", at=odd)):
                with pytest.raises(InvalidArgument):
                    await call
            with pytest.raises(InvalidArgument):
                await flujo.fork("r", at=odd)
