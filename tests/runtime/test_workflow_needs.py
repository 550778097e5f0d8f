"""What the steps of workflows need of a runtime, where one module has several workflows."""

from contextlib import nullcontext
from typing import Annotated

import pytest

from flujo_async import Flujo, Limit, Resource, step, workflow
from flujo_async.abc import StateBackend
from flujo_async.errors import DefinitionError, RunFailed


@step
async def count(text: str) -> int:
    """Need nothing."""
    return len(text)


@step(limit="model")
async def ask(text: str) -> str:
    """Need a limit."""
    return f"answer to {text}"


@step
async def insert(text: str, rows: Annotated[list[str], Resource("rows")]) -> str:
    """Need a resource."""
    rows.append(text)
    return text


TOOLS = {"insert": insert}


@workflow
async def measure(text: str) -> int:
    """Call a step that needs nothing."""
    return await count(text)


@workflow
async def answer(text: str) -> str:
    """Call a step that needs a limit, in a function inside."""

    async def once() -> str:
        return await ask(text)

    return await once()


@workflow
async def work(text: str) -> str:
    """Call a step that its code has no name for."""
    return await TOOLS["insert"](text)


async def test_a_runtime_needs_what_its_own_workflow_uses(backend: StateBackend) -> None:
    """And nothing of what stands beside it in the module."""
    rows: list[str] = []
    assert (await Flujo(measure, state_backend=backend).run("tea")).output == 3
    asking = Flujo(answer, state_backend=backend, limits={"model": Limit(concurrency=1)})
    assert (await asking.run("tea")).output == "answer to tea"
    working = Flujo(work, state_backend=backend, resources={"rows": lambda: nullcontext(rows)})
    assert (await working.run("tea")).output == "tea"
    assert rows == ["tea"]


def test_what_its_code_mentions_is_asked_for_when_the_runtime_is_made() -> None:
    with pytest.raises(DefinitionError, match="step 'ask' has the limit 'model'"):
        Flujo(answer)


async def test_what_it_comes_to_in_another_way_is_asked_for_when_it_is_called(backend: StateBackend) -> None:
    with pytest.raises(RunFailed) as failed:
        await Flujo(work, state_backend=backend).run("tea")
    assert isinstance(failed.value.__cause__, DefinitionError)
