"""``migrate=`` where a store has runs of several definitions, and children."""

from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel

from flujo_async import Flujo, PipelineRegistry, RunContext, StepContext, WorkflowState, child, step, wait_for, workflow
from flujo_async.abc import StateBackend
from flujo_async.errors import InvalidArgument, InvalidSignal, RunFailed, SerializationError
from tests.runtime.stores import Store


@dataclass
class Answer:
    """What runs of this module ask for."""

    is_granted: bool


@dataclass
class Page:
    """What they return."""

    text: str


@step
async def fetch(url: str) -> str:
    """Return the page at a URL."""
    return f"the page at {url}"


@step
async def polish(text: str) -> str:
    """Change a text."""
    return f"{text}, polished"


@step
async def check(text: str) -> str:
    """Change a text in another way."""
    return f"{text}, checked"


@step
async def keep_text(text: str) -> str:
    """Return the same."""
    return text


@step
async def decide(answer: Answer) -> Page:
    """Return an answer as a value of a class."""
    return Page(f"granted: {answer.is_granted}")


@step
async def keep(page: Page) -> Page:
    """Return the same."""
    return page


class Migrations:
    """A ``migrate=`` that counts, in the context too."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, state: WorkflowState) -> dict[str, int]:
        self.asked.append(state.run_id)
        return {"migrations": state.pipeline_context.get("migrations", 0) + 1}


def _edit(review: Any) -> Any:
    return fetch >> child(wait_for("text", schema=str) >> review, name="review") >> polish


def _review(*texts: str, version: str) -> Any:
    async def review(text: str, ctx: RunContext) -> str:
        answer = await ctx.wait_for("text", schema=str)
        return ", ".join((answer, *texts))

    return workflow(version=version)(review)


def _edit_by_workflow(review: Any) -> Any:
    async def edit(url: str, ctx: RunContext) -> str:
        return await polish(await ctx.child(review, await fetch(url), run_id=f"review of {url}"))

    return workflow(edit)


class TestChildren:
    """A child goes on under what has its own name now, not under what its parent runs."""

    async def test_a_child_is_taken_over_by_the_child_of_its_name(self, backend: StateBackend) -> None:
        """Also one that is taken up by itself, as by an answer: nothing of its parent is executed in it."""
        await Flujo(_edit(polish), pipeline_name="edit", state_backend=backend).run("/a", run_id="r")
        migrate = Migrations()
        async with Flujo(_edit(check >> polish), pipeline_name="edit", state_backend=backend, migrate=migrate) as new:
            await new.signal("r/review", "text", "a text")
            assert (await new.handle("r/review").result()).output == "a text, checked, polished"
            assert (await new.run(run_id="r")).output == "a text, checked, polished, polished"
            heads = {head.run_id: head.pipeline_name for head in await new.list_runs()}
        assert heads == {"r": "edit", "r/review": "review"}
        assert sorted(migrate.asked) == ["r", "r/review"]

    async def test_a_child_of_a_workflow_as_well(self, backend: StateBackend) -> None:
        """Driven by its parent, it is not taken for its parent."""
        old = _edit_by_workflow(_review(version="1.0"))
        await Flujo(old, state_backend=backend).run("/a", run_id="r")
        new = _edit_by_workflow(_review("read", version="2.0"))
        migrate = Migrations()
        async with Flujo(new, state_backend=backend, migrate=migrate) as flujo:
            await flujo.signal("review of /a", "text", "a text")
            assert (await flujo.run(run_id="r")).output == "a text, read, polished"
            assert {head.run_id for head in await flujo.list_runs()} == {"r", "review of /a"}
        assert migrate.asked == ["review of /a"]


def _two_answers(name: str = "review") -> Any:
    return child(polish >> wait_for("text", schema=str) >> wait_for("title", schema=str), name=name)


class TestChildrenUnderWay:
    """A child that was started keeps what it was given, as a step that was executed keeps its result."""

    async def test_it_goes_on_with_what_it_was_given(self, store: Store) -> None:
        """Through restarts too, and in the journal of its parent: nothing in it is done twice, and nothing is lost."""
        old = fetch >> _two_answers() >> keep_text
        await Flujo(old, pipeline_name="edit", state_backend=store.open()).run("/a", run_id="r")
        new = fetch >> check >> _two_answers() >> keep_text
        for name in ("text", "title"):
            async with Flujo(new, pipeline_name="edit", state_backend=store.open(), migrate=Migrations()) as flujo:
                assert (await flujo.run(run_id="r")).waiting_for[0].name == name
                await flujo.signal("r/review", name, f"a {name}")
                result = await flujo.run(run_id="r")
        assert result.output == "a title"
        given = {record.key: record.input for record in result.steps}
        assert given == {
            "fetch": "/a",
            "check": "the page at /a",
            "review": "the page at /a",
            "keep_text": "a title",
        }
        heads = await flujo.list_runs(parent_run_id="r")
        assert [(head.run_id, head.status) for head in heads] == [("r/review", "completed")]

    async def test_under_another_name_it_is_another_child(self, backend: StateBackend) -> None:
        """Nobody waits for the first one any more: it ends with its parent."""
        await Flujo(fetch >> _two_answers(), pipeline_name="edit", state_backend=backend).run("/a", run_id="r")
        new = fetch >> check >> _two_answers("checked review")
        async with Flujo(new, pipeline_name="edit", state_backend=backend, migrate=Migrations()) as flujo:
            await flujo.signal("r/review", "text", "a text")
            paused = await flujo.run(run_id="r")
            assert [waiting.run_id for waiting in paused.waiting_for] == ["r/checked review"]
            await flujo.cancel("r")
            assert {head.status for head in await flujo.list_runs()} == {"cancelled"}

    async def test_one_that_fails_is_tried_again_with_it(self, backend: StateBackend) -> None:
        """It is redriven with its parent, as if nothing had been changed."""
        is_down = True

        @step
        async def send(text: str) -> str:
            if is_down:
                raise ConnectionError("down")
            return f"{text}, sent"

        sending = child(send, name="send")
        with pytest.raises(RunFailed):
            await Flujo(polish >> sending, pipeline_name="edit", state_backend=backend).run("a", run_id="r")
        new = polish >> check >> sending
        flujo = Flujo(new, pipeline_name="edit", state_backend=backend, migrate=Migrations())
        is_down = False
        assert (await flujo.redrive("r")).output == "a, polished, sent"


def _registry(version: str, **pipelines: Any) -> PipelineRegistry:
    registry = PipelineRegistry()
    for name, pipeline in pipelines.items():
        registry.register(pipeline, name, version)
    return registry


class TestRegistered:
    """Of several definitions in one registry, a run has to do with the newest of its name."""

    async def test_a_run_is_taken_over_by_the_newest_of_its_name(self, backend: StateBackend) -> None:
        """Not by that which the runtime starts."""
        old = _registry("1.0", ask=wait_for("text", schema=str) >> polish)
        await Flujo(registry=old, pipeline_name="ask", state_backend=backend).run(run_id="r")
        registry = _registry("2.0", fetch=fetch, ask=wait_for("text", schema=str) >> check)
        migrate = Migrations()
        new = Flujo(registry=registry, pipeline_name="fetch", state_backend=backend, migrate=migrate)
        async with new:
            await new.signal("r", "text", "a text")
            assert (await new.handle("r").result()).output == "a text, checked"
        assert (await new.state("r")).pipeline_version == "2.0"
        assert migrate.asked == ["r"]

    async def test_values_are_those_of_the_newest_of_its_name(self, backend: StateBackend) -> None:
        """A result comes back though nobody has its version any more, and an answer is still checked."""
        pipeline = wait_for("answer", schema=Answer) >> decide
        old = Flujo(registry=_registry("1.0", ask=pipeline), pipeline_name="ask", state_backend=backend)
        for run_id in ("r1", "r2"):
            await old.run(run_id=run_id)
        await old.signal("r1", "answer", Answer(is_granted=True))
        await old.run(run_id="r1")

        registry = _registry("2.0", fetch=fetch, ask=pipeline >> keep)
        new = Flujo(registry=registry, pipeline_name="fetch", state_backend=backend)
        assert (await new.handle("r1").result()).output == Page("granted: True")
        with pytest.raises(InvalidSignal):
            await new.signal("r2", "answer", True)


class TestRenamed:
    """A run that was taken over by a definition of another name is recorded under that from then on."""

    async def test_it_is_migrated_once(self, backend: StateBackend) -> None:
        """However often it is taken up again, and also without ``migrate``."""
        questions = wait_for("one", schema=str) >> wait_for("two", schema=str)
        await Flujo(questions >> polish, state_backend=backend).run(run_id="r")
        migrate = Migrations()
        async with Flujo(questions >> check, state_backend=backend, migrate=migrate) as new:
            await new.signal("r", "one", "a text")
            assert [waiting.name for waiting in (await new.run(run_id="r")).waiting_for] == ["two"]
        async with Flujo(questions >> check, state_backend=backend) as newer:
            await newer.signal("r", "two", "a text")
            result = await newer.run(run_id="r")
        assert (result.output, result.context) == ("a text, checked", {"migrations": 1})
        assert migrate.asked == ["r"]


class Basket(BaseModel):
    """A context as it was."""

    count: int = 0
    names: list[str] = []


class NewBasket(BaseModel):
    """What became of it: a field went, and another came, which has no default."""

    count: int = 0
    text: str


@dataclass
class Trolley:
    """A context as it was."""

    count: int = 0
    names: str = ""


@dataclass
class NewTrolley:
    """What became of it."""

    text: str
    count: int = 0


@step
async def put(name: str, ctx: StepContext) -> str:
    """Put something into the context as it was."""
    ctx.state.count += 1
    ctx.state.names += [name] if isinstance(ctx.state, Basket) else name
    return name


@step
async def look(name: str, ctx: StepContext) -> tuple[str, int, str]:
    """Tell what the context is now, and change it."""
    ctx.state.count += 1
    return name, ctx.state.count, ctx.state.text


def _shopping(version: str, *, is_old: bool) -> Any:
    async def shopping(name: str, ctx: RunContext) -> Any:
        ctx.state.count += 1
        name = await put(name)
        if is_old:
            ctx.state.names += [name]
        answer = await ctx.wait_for("answer", schema=str)
        return await look(answer)

    return workflow(version=version)(shopping)


class TestContextType:
    """A class of contexts that has other fields by now."""

    @pytest.mark.parametrize(("old", "new"), [(Basket, NewBasket), (Trolley, NewTrolley)])
    async def test_a_whole_context_leaves_fields_out(self, old: type[Any], new: type[Any], store: Store) -> None:
        """As it does in every process from then on."""
        question = wait_for("answer", schema=str)
        before = Flujo(put >> question, pipeline_name="p", context_type=old, state_backend=store.open())
        assert (await before.run("a", run_id="r")).status == "paused"

        def migrate(state: WorkflowState) -> Any:
            return new(count=state.pipeline_context["count"], text="".join(state.pipeline_context["names"]))

        def flujo(**options: Any) -> Flujo[Any, Any]:
            pipeline = put >> question >> wait_for("last", schema=str) >> look
            return Flujo(pipeline, pipeline_name="p", context_type=new, state_backend=store.open(), **options)

        async with flujo(migrate=migrate) as runtime:
            await runtime.signal("r", "answer", "b")
            assert (await runtime.run(run_id="r")).status == "paused"
        async with flujo() as runtime:
            await runtime.signal("r", "last", "c")
            result = await runtime.run(run_id="r")
        assert (result.output, result.context) == (("c", 2, "a"), new(count=2, text="a"))
        assert (await flujo().state("r", at=1)).pipeline_context.keys() == {"count", "names"}

    async def test_the_code_of_a_workflow_finds_the_new_one_all_the_time(self, backend: StateBackend) -> None:
        """Also where it comes by what was recorded before, and what goes is set again there."""

        class Present(BaseModel):
            count: int = 0
            text: str = ""

        def migrate(state: WorkflowState) -> Present:
            return Present(count=state.pipeline_context["count"], text=", ".join(state.pipeline_context["names"]))

        old = Flujo(_shopping("1", is_old=True), context_type=Basket, state_backend=backend)
        assert (await old.run("a", run_id="r")).status == "paused"
        definition = _shopping("2", is_old=False)
        async with Flujo(definition, context_type=Present, state_backend=backend, migrate=migrate) as new:
            await new.signal("r", "answer", "b")
            result = await new.run(run_id="r")
        assert (result.output, result.context) == (("b", 3, "a, a"), Present(count=3, text="a, a"))
        again = await Flujo(definition, context_type=Present, state_backend=backend).run(run_id="r")
        assert again.context == result.context

    @pytest.mark.parametrize(("old", "new"), [(Basket, NewBasket), (Trolley, NewTrolley)])
    @pytest.mark.parametrize("fields", [None, {}, {"text": "a"}])
    async def test_fields_alone_do_not(
        self, fields: dict[str, str] | None, old: type[Any], new: type[Any], backend: StateBackend
    ) -> None:
        """The run is left as it is, and told what to do; then it goes on."""
        question = put >> wait_for("answer", schema=str)
        await Flujo(question, pipeline_name="p", context_type=old, state_backend=backend).run("a", run_id="r")

        def flujo(migrate: Any) -> Flujo[Any, Any]:
            pipeline = question >> look
            return Flujo(pipeline, pipeline_name="p", context_type=new, state_backend=backend, migrate=migrate)

        async with flujo(lambda state: fields) as runtime:
            assert (await runtime.run(run_id="r")).status == "paused"
            await runtime.signal("r", "answer", "b")
            with pytest.raises(SerializationError, match=r"context: .*names.*let migrate= return a whole one"):
                await runtime.run(run_id="r")
            assert (await runtime.state("r")).status == "paused"
        async with flujo(lambda state: new(count=state.pipeline_context["count"], text="a")) as runtime:
            assert (await runtime.run(run_id="r")).output == ("b", 2, "a")

    async def test_anything_else_is_refused(self, backend: StateBackend) -> None:
        """Before it is taken for fields."""
        old = put >> wait_for("answer", schema=str)
        await Flujo(old, pipeline_name="p", context_type=Basket, state_backend=backend).run("a", run_id="r")
        new = Flujo(
            old >> look,
            pipeline_name="p",
            context_type=NewBasket,
            state_backend=backend,
            migrate=lambda state: Basket(),
        )
        async with new:
            await new.signal("r", "answer", "b")
            with pytest.raises(InvalidArgument, match="fields to change, the whole NewBasket, or None, not a Basket"):
                await new.run(run_id="r")

    async def test_the_rest_of_a_recorded_result_comes_back(self, backend: StateBackend) -> None:
        """What its class does not fit any more is missed by who looks at it, and by nobody else."""
        old = Flujo(put, pipeline_name="p", context_type=Basket, state_backend=backend)
        await old.run("a", run_id="r")
        result = await Flujo(put, pipeline_name="p", context_type=NewBasket, state_backend=backend).run(run_id="r")
        assert (result.output, [record.name for record in result.steps]) == ("a", ["put"])
        with pytest.raises(SerializationError, match="context: unknown field 'names'"):
            _ = result.context

    async def test_a_fork_is_taken_over_as_well(self, backend: StateBackend) -> None:
        """Though nobody can read its context before."""
        question = put >> wait_for("answer", schema=str)
        await Flujo(question, pipeline_name="p", context_type=Basket, state_backend=backend).run("a", run_id="r")

        def migrate(state: WorkflowState) -> NewBasket:
            return NewBasket(count=state.pipeline_context["count"], text="a")

        new = Flujo(question >> look, pipeline_name="p", context_type=NewBasket, state_backend=backend, migrate=migrate)
        async with new:
            await new.fork("r", new_run_id="f")
            await new.signal("f", "answer", "b")
            assert (await new.run(run_id="f")).output == ("b", 2, "a")
            assert (await new.state("r")).pipeline_context == {"count": 1, "names": ["a"]}
