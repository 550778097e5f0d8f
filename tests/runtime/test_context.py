"""The typed context: copies for attempts and branches, and how they come together (G11)."""

import asyncio
from dataclasses import dataclass, field
from typing import Annotated, Any, NotRequired

import pytest
from pydantic import BaseModel
from typing_extensions import TypedDict

from flujo_async import Flujo, Retry, StepContext, as_step, branch, loop, map_each, parallel, step
from flujo_async.errors import ContextConflict, DefinitionError, InvalidArgument, RunFailed, SerializationError
from flujo_async.reducers import add, append, keep_first, keep_last
from tests.runtime.stores import Store


def largest(base: int, ours: int, theirs: int) -> int:
    return max(ours, theirs)


class Basket(BaseModel):
    """A context with every reducer."""

    items: Annotated[list[str], append] = []
    total: Annotated[int, add] = 100
    first: Annotated[str, keep_first] = ""
    last: Annotated[str, keep_last] = ""
    top: Annotated[int, largest] = 0
    note: str = ""
    tags: dict[str, int] = {}


@dataclass
class Tally:
    """The same as a dataclass."""

    items: Annotated[list[str], append] = field(default_factory=list)
    total: Annotated[int, add] = 100


def put(name: str, amount: int = 1) -> Any:
    async def call(value: Any, ctx: StepContext) -> Any:
        state = ctx.state
        state.items.append(name)
        state.total += amount
        state.first = state.last = name
        state.top = max(state.top, amount)
        return value

    return step(name=name)(call)


@step
async def put_item(n: int, ctx: StepContext) -> int:
    ctx.state.items.append(f"i{n}")
    ctx.state.total += n
    return n


async def test_steps_see_what_the_steps_before_them_changed() -> None:
    """The context goes along the pipeline, and is in the result."""

    @step
    async def look(value: Any, ctx: StepContext) -> list[str]:
        return list(ctx.state.items)

    result = await Flujo(put("a") >> put("b") >> look, context_type=Basket).run(1)
    assert result.output == ["a", "b"]
    assert result.context == Basket(items=["a", "b"], total=102, first="b", last="b", top=1)
    assert isinstance(result.context, Basket)


@pytest.mark.parametrize("given", [None, {}, {"note": "kept"}])
async def test_the_context_starts_as_it_is_given(given: dict[str, Any] | None) -> None:
    """Or as ``context_type()``."""
    context = None if given is None else Basket(**given)
    result = await Flujo(put("a"), context_type=Basket).run(1, context=context)
    assert result.context.note == (given or {}).get("note", "")
    if context is not None:
        assert context.items == [], "the caller's object is not the run's"


async def test_a_context_of_another_type_is_refused() -> None:
    """Before anything is written."""
    flujo = Flujo(put("a"), context_type=Basket)
    with pytest.raises(InvalidArgument):
        await flujo.run(1, run_id="r", context=Tally())
    assert await flujo.list_runs() == []


@pytest.mark.parametrize("context_type", [Basket(), Tally(), int, list[int], "Basket"], ids=repr)
async def test_what_is_no_type_of_context_is_refused(context_type: Any) -> None:
    """An instance, too, where the class is meant."""
    with pytest.raises(DefinitionError, match="context_type="):
        Flujo(put("a"), context_type=context_type)


async def test_without_a_type_the_context_is_a_dictionary() -> None:
    """Fields come and go."""

    @step
    async def change(value: Any, ctx: StepContext) -> Any:
        ctx.state["new"] = [1]
        ctx.state.pop("old", None)
        return value

    result = await Flujo(change).run(1, context={"old": 1, "kept": {1, 2}})
    assert result.context == {"kept": {1, 2}, "new": [1]}


async def test_branches_come_together_by_their_reducers() -> None:
    """In declared order; ``add`` counts the base once; own functions work."""
    result = await Flujo(put("head", 5) >> parallel(put("x", 10), put("y", 30), put("z", 20)), context_type=Basket).run(
        1
    )
    assert result.context == Basket(items=["head", "x", "y", "z"], total=165, first="x", last="z", top=30)


async def test_reducers_work_in_dataclasses() -> None:
    """As in models."""
    result = await Flujo(map_each(put_item), context_type=Tally).run([1, 2, 3])
    assert result.context == Tally(items=["i1", "i2", "i3"], total=106)


class Notes(TypedDict):
    """A context in which a field need not be there; of a ``TypedDict`` that also pydantic takes on Python 3.11."""

    items: NotRequired[Annotated[list[Tally], append]]
    total: NotRequired[Annotated[int, add]]


@pytest.mark.parametrize(("given", "total"), [({}, 2), ({"items": [Tally()], "total": 5}, 7)])
async def test_reducers_work_where_a_field_may_be_missing(given: Any, total: int) -> None:
    """What each branch has made of nothing comes together like anything else."""

    @step
    async def note(n: int, ctx: StepContext) -> int:
        ctx.state.setdefault("items", []).append(Tally(total=n))
        ctx.state["total"] = ctx.state.get("total", 0) + 1
        return n

    other = as_step(note, name="other")
    context = (await Flujo(parallel(note, other), context_type=Notes).run(3, context=given)).context
    assert context == {"items": [*given.get("items", []), Tally(total=3), Tally(total=3)], "total": total}


async def test_a_reducer_that_fails_fails_the_run() -> None:
    """It is told which field it was for."""

    class Broken(BaseModel):
        rate: Annotated[int, lambda base, ours, theirs: ours // base] = 0

    @step
    async def rate(n: int, ctx: StepContext) -> int:
        ctx.state.rate = n
        return n

    flujo = Flujo(parallel(rate, as_step(rate, name="other")), context_type=Broken)
    for _ in range(2):
        with pytest.raises(RunFailed, match="'rate', and its reducer failed: ZeroDivisionError") as failed:
            await flujo.run(1, run_id="r")
        assert isinstance(failed.value.__cause__, ContextConflict)


async def test_the_order_of_completion_does_not_matter() -> None:
    """Merges happen in the order of the items, whichever is done first."""
    gates = [asyncio.Event() for _ in range(3)]
    gates[2].set()

    @step
    async def in_reverse(n: int, ctx: StepContext) -> int:
        await gates[n].wait()
        ctx.state.items.append(str(n))
        if n:
            gates[n - 1].set()
        return n

    result = await Flujo(map_each(in_reverse), context_type=Basket).run([0, 1, 2])
    assert result.context.items == ["0", "1", "2"]


async def test_groups_in_groups_merge_from_the_inside() -> None:
    """A nested parallel brings its merged change; base and head count once."""
    inner = as_step(put("b", 2) >> parallel(put("c", 4), put("d", 8)) >> step(name="e")(_sum_up), name="inner")
    result = await Flujo(put("a") >> parallel(inner, put("f", 16)) >> map_each_keys(), context_type=Basket).run(1)
    assert result.context.items == ["a", "b", "c", "d", "e", "f", "k", "k"]
    assert result.context.total == 100 + 1 + 2 + 4 + 8 + 16 + 2


async def _sum_up(value: Any, ctx: StepContext) -> int:
    ctx.state.items.append("e")
    return 0


def map_each_keys() -> Any:
    async def keys(value: dict[str, Any]) -> list[str]:
        return list(value)

    async def put_key(key: str, ctx: StepContext) -> str:
        ctx.state.items.append("k")
        ctx.state.total += 1
        return key

    return step(keys) >> map_each(step(put_key))


async def test_loops_and_branches_work_on_the_context_around_them() -> None:
    """They are no copies: there is one at a time."""

    def enough(n: int, context: Basket) -> bool:
        return len(context.items) >= 3

    pipeline = loop(put("turn"), until=enough, max_iterations=9) >> branch(lambda n: "go", {"go": put("branch")})
    result = await Flujo(pipeline, context_type=Basket).run(1)
    assert result.context.items == ["turn", "turn", "turn", "branch"]


@pytest.mark.parametrize("same", [False, True])
async def test_two_branches_that_change_one_field_are_a_conflict(same: bool) -> None:
    """Even to the same value; the error names the field and both branches, and the run has failed."""

    def note(name: str) -> Any:
        async def call(value: Any, ctx: StepContext) -> Any:
            ctx.state.note = "same" if same else name
            return value

        return step(name=name)(call)

    with pytest.raises(RunFailed) as caught:
        await Flujo(parallel(note("left"), put("middle"), note("right")), context_type=Basket).run(1)
    cause = caught.value.__cause__
    assert isinstance(cause, ContextConflict)
    assert "'note'" in str(cause)
    assert "left" in str(cause)
    assert "right" in str(cause)


async def test_a_conflict_in_an_inner_group_is_the_failure_of_its_branch() -> None:
    """And can be ignored by the group around it."""

    @step
    async def note(n: int, ctx: StepContext) -> int:
        ctx.state.note = f"{n}"
        return n

    async def pair(value: Any) -> list[int]:
        return [1, 2]

    conflicting = as_step(step(pair) >> map_each(note), name="conflicting")
    result = await Flujo(parallel(conflicting, put("ok"), on_error="ignore"), context_type=Basket).run(1)
    assert list(result.output) == ["ok"]
    assert (result.context.note, result.context.items) == ("", ["ok"])


async def test_a_change_by_one_branch_needs_no_reducer() -> None:
    """Reading in the others is no change."""

    @step
    async def note(value: Any, ctx: StepContext) -> Any:
        ctx.state.note = "noted"
        return value

    @step
    async def read(value: Any, ctx: StepContext) -> str:
        return f"read {ctx.state.note!r}"

    result = await Flujo(parallel(note, read), context_type=Basket).run(1)
    assert (result.context.note, result.output["read"]) == ("noted", "read ''")


async def test_branches_do_not_see_each_other() -> None:
    """Each has the context as it was when the group began."""
    has_changed = asyncio.Event()

    @step
    async def writer(value: Any, ctx: StepContext) -> Any:
        ctx.state.items.append("written")
        return value

    @step
    async def tell(value: Any) -> Any:
        has_changed.set()
        return value

    @step
    async def reader(value: Any, ctx: StepContext) -> list[str]:
        await has_changed.wait()
        return list(ctx.state.items)

    result = await Flujo(parallel(as_step(writer >> tell, name="w"), reader), context_type=Basket).run(1)
    assert result.output["reader"] == []


async def test_what_an_ignored_branch_changed_is_gone() -> None:
    """The changes of its steps go with it."""

    @step
    async def fail(value: Any) -> Any:
        raise ValueError("broken")

    pipeline = parallel(put("kept"), as_step(put("dropped") >> fail, name="bad"), on_error="ignore")
    result = await Flujo(pipeline, context_type=Basket).run(1)
    assert result.context.items == ["kept"]


async def test_each_attempt_has_its_own_copy() -> None:
    """What a failed attempt changed is discarded, in the context and in the input."""
    seen: list[Any] = []

    @step(retry=Retry(max_attempts=3, base=0))
    async def flaky(items: list[int], ctx: StepContext) -> list[int]:
        seen.append((list(items), list(ctx.state.items)))
        items.append(99)
        ctx.state.items.append(f"attempt {ctx.attempt}")
        ctx.state.note = f"attempt {ctx.attempt}"
        if ctx.attempt < 3:
            raise ValueError
        return items

    result = await Flujo(flaky, context_type=Basket).run([1])
    assert seen == [([1], []), ([1], []), ([1], [])]
    assert result.output == [1, 99]
    assert (result.context.items, result.context.note) == (["attempt 3"], "attempt 3")


async def test_what_a_step_keeps_of_its_values_is_not_the_runs() -> None:
    """Changing an output or a context after the step has returned changes nothing."""
    kept: list[Any] = []

    @step
    async def leak(value: Any, ctx: StepContext) -> list[int]:
        output = [1]
        kept.extend([output, ctx.state])
        return output

    @step
    async def meddle(value: list[int]) -> list[int]:
        kept[0].append(2)
        kept[1].note = "meddled"
        return value

    result = await Flujo(leak >> meddle, context_type=Basket).run(0)
    assert (result.output, result.context.note) == ([1], "")


async def test_branches_do_not_share_their_input() -> None:
    """Each gets a copy of its own."""

    def grow(name: str) -> Any:
        async def call(items: list[str]) -> list[str]:
            items.append(name)
            return items

        return step(name=name)(call)

    given: list[str] = []
    result = await Flujo(parallel(grow("a"), grow("b"))).run(given)
    assert result.output == {"a": ["a"], "b": ["b"]}
    assert given == []


async def test_runs_do_not_share_their_contexts(store: Store) -> None:
    """A hundred at once, on one runtime: each sees its own only."""

    @step
    async def add_up(n: int, ctx: StepContext) -> int:
        ctx.state.items.append(str(n))
        await asyncio.sleep(0)
        ctx.state.total = n
        return n

    default = Basket()
    flujo = Flujo(add_up >> add_up, context_type=Basket, state_backend=store.open())
    results = await asyncio.gather(*(flujo.run(n, run_id=f"r{n}") for n in range(25)))
    for n, result in enumerate(results):
        assert (result.output, result.context.items, result.context.total) == (n, [str(n)] * 2, n)
    assert Basket() == default


async def test_changing_one_to_true_is_a_change() -> None:
    """Python takes them for equal; the context does not."""

    @step
    async def retype(value: Any, ctx: StepContext) -> Any:
        ctx.state.update(a=True, b=1.0, c=[0.0])
        return value

    result = await Flujo(retype).run(1, context={"a": 1, "b": 1, "c": [0]})
    assert [type(result.context[name]) for name in "ab"] == [bool, float]
    assert type(result.context["c"][0]) is float


async def test_a_field_that_is_new_may_be_none() -> None:
    """It is there then, for the steps after it and in the result."""

    @step
    async def find(n: int, ctx: StepContext) -> int:
        assert ctx.state == {"n": 1}
        ctx.state["found"] = None
        return n

    @step
    async def look(n: int, ctx: StepContext) -> int:
        assert ctx.state == {"n": 1, "found": None}
        return n

    assert (await Flujo(find >> look).run(1, context={"n": 1})).context == {"n": 1, "found": None}


async def test_a_result_may_be_changed_without_harm() -> None:
    """Each call returns a copy of its own."""
    flujo = Flujo(put("a"), context_type=Basket)
    first = await flujo.run([1], run_id="r")
    first.output.append(2)
    first.context.items.clear()
    second = await flujo.run(run_id="r")
    assert (second.output, second.context.items) == ([1], ["a"])


async def test_what_cannot_be_stored_in_a_long_list_is_named() -> None:
    """Also where only what was added to it is looked at."""

    @step
    async def add_numbers(n: int, ctx: StepContext) -> int:
        ctx.state["log"] = list(range(n))
        return n

    @step
    async def add_something(n: int, ctx: StepContext) -> int:
        ctx.state["log"].append(object())
        return n

    with pytest.raises(RunFailed) as failed:
        await Flujo(add_numbers >> add_something).run(100)
    error = failed.value.__cause__
    assert isinstance(error, SerializationError)
    assert error.path == "context.log[100]"


async def test_something_deep_inside_can_change() -> None:
    """As deep as a value may be."""

    @step
    async def build(n: int, ctx: StepContext) -> int:
        tree: Any = [0]
        for _ in range(n):
            tree = {"inside": tree, "beside": 1}
        ctx.state["tree"] = tree
        return n

    @step
    async def change(n: int, ctx: StepContext) -> int:
        tree = ctx.state["tree"]
        while isinstance(tree, dict):
            tree = tree["inside"]
        tree[0] = n
        return n

    context = (await Flujo(build >> change).run(190)).context
    assert str(context).count("inside") == 190
    assert "[190]" in str(context)
