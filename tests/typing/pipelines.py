"""What type checkers make of pipelines and runs. Not executed: mypy and pyright read it (`nox -s types`)."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, assert_type

from flujo_async import (
    Flujo,
    Pipeline,
    PipelineRegistry,
    RunContext,
    RunHandle,
    RunResult,
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

# A question is about the value that comes by; also that of a lambda, whose parameters are known by it.
assert_type(loop(grow, until=lambda number: number > 3, max_iterations=3), Chain[int, int])
assert_type(loop(grow, until=lambda number, context: number > context["most"], max_iterations=3), Chain[int, int])
assert_type(branch(lambda text: text.isupper(), {True: measure}, default=measure), Chain[str, int])
assert_type(branch(repr, {"": feed}), Chain[Animal, bool])  # it may ask about less than what comes by
loop(grow, until=str.isupper, max_iterations=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
branch(lambda: True, {True: measure})  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

# An answer is what its schema says, as far as a type checker can say it of one.
assert_type(wait_for("name", schema=Dog), Chain[Any, Dog])
assert_type(wait_for("name", schema=list[int], timeout=3), Chain[Any, list[int]])
assert_type(wait_for("name", schema=bool, timeout=3, default=None), Chain[Any, bool | None])
assert_type(wait_for("name", schema=int | str), Chain[Any, Any])
assert_type(wait_for("name"), Chain[Any, Any])
assert_type(adopt >> wait_for("dog", schema=Dog) >> feed, Pipeline[str, bool])
wait_for("name", schema=str) >> feed  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue, reportUnusedExpression]


@workflow
async def ask(name: str, ctx: RunContext) -> str:
    assert_type(await ctx.wait_for("dog", schema=Dog), Dog)
    assert_type(await ctx.wait_for("yes", schema=bool, timeout=3, default="nobody"), bool | str)
    assert_type(await ctx.wait_for("other", schema=int | None), Any)
    assert_type(await ctx.wait_for("any", default=None, timeout=3), Any)
    assert_type(await ctx.child(adopt, name), Dog)
    assert_type(await ctx.child(tick), float)
    await ctx.child(grow, name)  # type: ignore[misc]  # pyright: ignore[reportArgumentType]
    return name


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
    await flujo.run(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await flujo.start(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await flujo.dispatch(b"text")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    flujo.stream(["text"])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await flujo.run(run_id="run")  # its input is known
    await Flujo(tick).run()
    await Flujo(graph(feed)).run({"animal": Dog()})
    await Flujo(graph(tick)).run(None)


async def a_name_says_nothing_about_types(registry: PipelineRegistry) -> None:
    flujo = Flujo(registry=registry, pipeline_name="one")
    assert_type(flujo, Flujo[Any, Any])
    assert_type(await flujo.run("text"), RunResult[Any])


def registries_take_chains(registry: PipelineRegistry) -> None:
    registry.register(measure, "one", "1.0")
    registry.register(measure >> grow, "two", "1.0")
    registry.register(len, "three", "1.0")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
