"""What catches an exception of a step catches it in a replay as well, whatever its class."""

import json
from typing import Any

import pydantic
import pytest

from flujo_async import Flujo, InMemoryBackend, RunContext, map_each, step, workflow
from flujo_async._plan.workflow import Workflow
from flujo_async.errors import AllBranchesFailed, RunFailed
from tests.runtime.failing import FAILURES, Refused, nets


@step
async def fail(name: str) -> None:
    """Raise what the library raises."""
    FAILURES[name]()


@step
async def note(text: str) -> str:
    """Be another step in each way that a workflow goes."""
    return text


@workflow
async def by_builtins(name: str) -> str:
    """In an order that tells them apart."""
    try:
        await fail(name)
    except KeyError as error:
        return await note(f"key {isinstance(error, OSError)}")
    except ConnectionError as error:
        return await note(f"connection {error.errno}")
    except OSError as error:
        return await note(f"os {error.errno}")
    except ArithmeticError:
        return await note("arithmetic")
    except ValueError as error:
        return await note(f"value {isinstance(error, Refused)}")
    return await note("nothing")


@workflow
async def by_name(name: str) -> str:
    """Of a class that it has a name for."""
    try:
        await fail(name)
    except Refused as error:
        return await note(f"refused with {error.code}")
    return await note("nothing")


@workflow
async def by_module(name: str) -> str:
    """Of classes that it names by their modules."""
    try:
        await fail(name)
    except nets.ConnectError:
        return await note("connect")
    except nets.NetworkError:
        return await note("network")
    except nets.inner.Late:
        return await note("late")
    except json.JSONDecodeError as error:
        return await note(f"json {error.pos}")
    except pydantic.ValidationError as error:
        return await note(", ".join(f"{line['type']} {line['loc']} {line['msg']}" for line in error.errors()))
    return await note("nothing")


async def attempt(name: str) -> str:
    """Catch for a workflow."""
    try:
        await fail(name)
    except nets.ConnectError:
        return await note("connect")
    return await note("nothing")


@workflow
async def in_a_function(name: str) -> str:
    """Of its module, which names the class."""
    return await attempt(name)


@workflow
async def by_group(name: str) -> str:
    """With ``except*``, which asks every member."""
    found: list[str] = []
    try:
        await fail(name)
    except* (Refused, nets.NetworkError) as group:
        found.append(f"known {len(group.exceptions)}")
    except* ValueError as group:
        found.append(f"value {len(group.exceptions)}")
    except* LookupError as group:
        found.append(f"lookup {len(group.exceptions)}")
    except* Exception as group:
        found.append(f"other {len(group.exceptions)}")
    return await note(" ".join(found))


@workflow
async def by_whole_group(name: str) -> str:
    """As a group, of as many."""
    try:
        await fail(name)
    except ExceptionGroup as group:
        return await note(f"{len(group.exceptions)} members")
    return await note("nothing")


@workflow
async def of_a_child(name: str, ctx: RunContext) -> str:
    """By what a child failed of."""
    try:
        await ctx.child(by_whole_group, name)
    except RunFailed as failed:
        return await note(_kind(failed.__cause__))
    return await note("a group")


def _kind(error: BaseException | None) -> str:
    kinds = (Refused, nets.ConnectError, nets.TransportError, json.JSONDecodeError, KeyError, OSError, ValueError)
    return " ".join(kind.__name__ for kind in kinds if isinstance(error, kind))


def _known_everywhere(error: BaseException | None) -> list[bool]:
    return [isinstance(error, kind) for kind in (ArithmeticError, ExceptionGroup, KeyError, OSError, ValueError)]


WAYS = [by_builtins, by_name, by_module, in_a_function, by_group, by_whole_group, of_a_child]


async def way(flow: Workflow[Any, str], name: str, *, always_replay: bool) -> tuple[str, list[str]]:
    """Return how a run ends, and what it called."""
    flujo = Flujo(flow, state_backend=InMemoryBackend(), always_replay=always_replay)
    try:
        result = await flujo.run(name, run_id="r")
    except RunFailed as failed:
        return "failed", [record.name for record in failed.result.steps]
    return str(result.output), [record.name for record in result.steps]


@pytest.mark.parametrize("flow", WAYS, ids=lambda flow: flow.name)
@pytest.mark.parametrize("name", FAILURES)
async def test_a_replay_goes_the_way_that_the_run_went(flow: Workflow[Any, str], name: str) -> None:
    """Whether the exception was caught, and by what."""
    assert await way(flow, name, always_replay=True) == await way(flow, name, always_replay=False)


@workflow
async def patient(name: str, ctx: RunContext) -> str:
    """Wait in the handler."""
    try:
        await fail(name)
    except (ValueError, OSError, nets.TransportError, Refused, LookupError, ExceptionGroup) as error:
        await ctx.wait_for("go")
        return _kind(error)
    return "nothing"


@pytest.mark.parametrize("name", sorted({*FAILURES} - {"alone", "python"}))
async def test_another_runtime_goes_on_in_the_handler(name: str) -> None:
    backend = InMemoryBackend()
    assert (await Flujo(patient, state_backend=backend).run(name, run_id="r")).status == "paused"
    later = Flujo(patient, state_backend=backend)
    await later.signal("r", "go", None)
    assert (await later.run(run_id="r")).output == _kind(_raised(name))


def _raised(name: str) -> Exception:
    try:
        FAILURES[name]()
    except Exception as error:
        return error
    raise AssertionError(name)


@pytest.mark.parametrize("name", FAILURES)
async def test_why_a_run_failed_is_of_the_same_kinds_later(name: str) -> None:
    """Also where the workflow passes on what it got from the log, twice."""

    @workflow
    async def outer(name: str, ctx: RunContext) -> str:
        return await ctx.child(inner, name)

    @workflow
    async def inner(name: str) -> str:
        await fail(name)
        return name

    backend = InMemoryBackend()
    with pytest.raises(RunFailed) as live:
        await Flujo(outer, state_backend=backend, always_replay=True).run(name, run_id="r")
    with pytest.raises(RunFailed) as later:
        await Flujo(outer, state_backend=backend).run(run_id="r")
    for failed in (live.value, later.value):
        child = failed.__cause__
        assert isinstance(child, RunFailed)
        assert _kind(child.__cause__) == _kind(_raised(name))
        assert type(_raised(name)).__name__ in str(child)


@pytest.mark.parametrize("name", FAILURES)
async def test_why_a_group_failed_is_of_the_same_kinds_later(name: str) -> None:
    group = map_each(fail, on_error="ignore")
    backend = InMemoryBackend()
    with pytest.raises(RunFailed) as live:
        await Flujo(group, state_backend=backend).run([name, name], run_id="r")
    with pytest.raises(RunFailed) as later:
        await Flujo(group, state_backend=backend).run(run_id="r")
    for failed in (live.value, later.value):
        assert isinstance(failed.__cause__, AllBranchesFailed)
        assert _known_everywhere(failed.__cause__.__cause__) == _known_everywhere(_raised(name))
    assert str(live.value) == str(later.value)
