"""What type checkers make of pipelines and runs. Not executed: mypy and pyright read it (`nox -s types`)."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, assert_type

from flujo_async import (
    Flujo,
    Pipeline,
    PipelineRegistry,
    RunHandle,
    RunResult,
    as_step,
    branch,
    loop,
    map_each,
    parallel,
    step,
)
from flujo_async._plan.pipeline import Chain


class Animal: ...


class Dog(Animal): ...


@step
async def fetch(url: str) -> list[str]:
    return [url]


@step
def measure(text: str) -> int:
    return len(text)


@step
async def total(numbers: Sequence[float]) -> float:
    return sum(numbers)


@step
async def grow(number: int) -> int:
    return number + 1


@step
async def report(results: Mapping[str, object]) -> str:
    return str(results)


@step
def adopt(name: str) -> Dog:
    return Dog()


@step
async def feed(animal: Animal) -> bool:
    return True


@step
async def tick() -> float:
    return 0.0


# `>>` goes from the input of the first to the output of the last.
assert_type(measure >> grow, Pipeline[str, int])
assert_type(measure >> grow >> grow, Pipeline[str, int])
assert_type(measure >> (grow >> grow), Pipeline[str, int])
assert_type(adopt >> feed, Pipeline[str, bool])  # a subclass flows where its base is asked for
assert_type(fetch >> tick, Pipeline[str, float])  # a step without an input takes its place anywhere

measure >> fetch  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue, reportUnusedExpression]
feed >> adopt  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue, reportUnusedExpression]
measure >> len  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue, reportUnusedExpression]
(measure >> grow) >> fetch  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue, reportUnusedExpression]

# Combinators.
assert_type(map_each(measure), Chain[Iterable[str], list[int]])
assert_type(fetch >> map_each(measure), Pipeline[str, list[int]])
assert_type(fetch >> map_each(measure, max_concurrency=3) >> total, Pipeline[str, float])
assert_type(fetch >> map_each(measure >> grow), Pipeline[str, list[int]])
fetch >> map_each(grow)  # type: ignore[arg-type]  # pyright: ignore[reportOperatorIssue, reportUnusedExpression]
measure >> map_each(grow)  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue, reportUnusedExpression]

assert_type(parallel(measure, fetch), Chain[str, dict[str, Any]])
assert_type(parallel(measure, fetch, on_error="ignore") >> report, Pipeline[str, str])
parallel(measure, on_error="stop")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

assert_type(branch(len, {1: measure, 2: measure >> grow}), Chain[str, int])
assert_type(loop(grow, until=bool, max_iterations=3), Chain[int, int])
assert_type(as_step(measure >> grow, name="block"), Chain[str, int])


async def runs_are_typed() -> None:
    flujo = Flujo(measure >> grow)
    assert_type(flujo, Flujo[str, int])
    assert_type(await flujo.run("text"), RunResult[int])
    assert_type((await flujo.run("text")).output, int)
    assert_type(await flujo.start("text"), RunHandle[int])
    assert_type(await flujo.handle("run").result(), RunResult[int])
    assert_type(await flujo.resume("run"), RunResult[int])
    assert_type(await Flujo(fetch >> map_each(measure)).run("url"), RunResult[list[int]])
    assert_type(await Flujo(parallel(measure, fetch)).run("url"), RunResult[dict[str, Any]])
    assert_type(await Flujo(measure).run("text"), RunResult[int])


async def a_name_says_nothing_about_types(registry: PipelineRegistry) -> None:
    flujo = Flujo(registry=registry, pipeline_name="one")
    assert_type(flujo, Flujo[Any, Any])
    assert_type(await flujo.run("text"), RunResult[Any])


def registries_take_chains(registry: PipelineRegistry) -> None:
    registry.register(measure, "one", "1.0")
    registry.register(measure >> grow, "two", "1.0")
    registry.register(len, "three", "1.0")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
