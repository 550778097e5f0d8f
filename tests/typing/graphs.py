"""Graphs as a type checker sees them: names of actions are checked, edges take steps and tuples of steps."""

from typing import Annotated, Any, Literal, assert_type

from flujo_async import Action, Depends, Flujo, Pipeline, any_of, graph, step


@step
async def fetch(url: str) -> int:
    return len(url)


@step
def guess() -> int:
    return 0


@step
async def total(
    a: Annotated[int, Depends(fetch, when=lambda n: n > 0)], b: Annotated[int, Depends(any_of(fetch, guess))]
) -> int:
    return a + b


@step
async def review(total: Annotated[int, Depends(total)]) -> Action[Literal["approve", "reject"]]:
    if total < 0:
        return Action("aprove")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    return Action("approve", {"total": total}) if total else Action("reject")


@step
async def publish(review: Annotated[Action, Depends(review)]) -> str:
    assert_type(review.name, str)
    return review.name


@step
async def archive() -> None: ...


pipeline = graph(review, {review.on("approve"): publish, review.on("reject"): (archive, publish)}, on_error="finish")
graph(total, on_error="ignore")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
assert_type(pipeline.to_dict(), dict[str, Any])
assert_type(Pipeline.from_dict(pipeline.to_dict(), {"fetch": fetch}), Pipeline[Any, Any])
Flujo(pipeline)
