"""``migrate=`` where a store has runs of several definitions, and children."""

from dataclasses import dataclass
from typing import Any

import pytest

from flujo_async import Flujo, PipelineRegistry, RunContext, WorkflowState, child, step, wait_for, workflow
from flujo_async.abc import StateBackend
from flujo_async.errors import InvalidSignal


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
