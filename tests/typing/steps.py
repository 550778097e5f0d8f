"""What type checkers make of steps. Not executed: mypy and pyright read it (`nox -s types`).

An error that must be found is marked for both checkers, and both complain about a mark without an error.
"""

from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Annotated, Any, assert_type

from flujo_async import Resource, Retry, Step, StepContext, step


@step
async def fetch(url: str) -> bytes:
    return url.encode()


@step(retry=Retry(max_attempts=3), timeout=timedelta(seconds=5), name="parse")
async def parse(raw: bytes, context: StepContext, depth: int = 1) -> dict[str, int]:
    return {context.step_name: len(raw) * depth}


@step
def measure(text: str, *, context: StepContext) -> int:
    return len(text) * context.attempt


@step(run_in="thread")
def halve(number: int) -> float:
    return number / 2


@step
async def now() -> float:
    return 0.0


@step
async def attempt(context: StepContext) -> int:
    return context.attempt


@step
async def context_first(context: StepContext, number: int) -> int:
    return number


@step()
def constant() -> str:
    return ""


async def undo(receipt: str) -> None: ...


@step(
    retry=Retry(max_attempts=3),
    deadline=timedelta(minutes=1),
    fallback=constant,
    effect="once",
    compensate=undo,
    limit="bank",
)
async def charge(amount: int, db: Annotated[object, Resource("db")]) -> str:
    return str(amount)


@step(cache=timedelta(days=1), run_in="process", compensate=constant)
def factor(number: int) -> list[int]:
    return [number]


class Service:
    async def call(self, number: int) -> str:
        return str(number)


class Doubler:
    async def __call__(self, number: int) -> int:
        return number * 2


def make_later(url: str) -> Awaitable[bytes]:
    return fetch(url)


assert_type(fetch, Step[str, bytes, Coroutine[Any, Any, bytes]])
assert_type(parse, Step[bytes, dict[str, int], Coroutine[Any, Any, dict[str, int]]])
assert_type(measure, Step[str, int, Any])
assert_type(halve, Step[int, float, Any])
assert_type(now, Step[Any, float, Coroutine[Any, Any, float]])
assert_type(attempt, Step[Any, int, Coroutine[Any, Any, int]])
assert_type(context_first, Step[Any, int, Coroutine[Any, Any, int]])  # which of the others it takes is not told
assert_type(constant, Step[Any, str, Any])
assert_type(charge, Step[int, str, Coroutine[Any, Any, str]])
assert_type(factor, Step[int, list[int], Any])

# Made by a call, of whatever can be called.
assert_type(step(Service().call), Step[int, str, Coroutine[Any, Any, str]])
assert_type(step(Service().call, name="call"), Step[int, str, Coroutine[Any, Any, str]])
assert_type(step(Doubler()), Step[int, int, Coroutine[Any, Any, int]])
assert_type(step(make_later), Step[str, bytes, Coroutine[Any, Any, bytes]])
assert_type(step(str.upper), Step[str, str, Any])


async def calls_are_typed() -> None:
    assert_type(await fetch("url"), bytes)
    assert_type(await parse(b"", depth=2), dict[str, int])
    assert_type(await now(), float)
    assert_type(await fetch(url="url"), bytes)
    assert_type(await context_first(3), int)
    await fetch(3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    await parse("raw", depth=2)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    # A plain function: its result here, and in the code of a workflow what is awaited for it.
    number: float = halve(3)
    again: float = await halve(3)
    assert_type(number + again, float)


# A step without the third parameter, as one writes it in an annotation, can be called with any result.
some_step: Step[str, bytes] = fetch
assert_type(some_step, Step[str, bytes, Any])
wider: Step[str, bytes | None] = fetch
narrower: Step[bool, float] = halve
wrong_input: Step[int, bytes] = fetch  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
wrong_output: Step[str, int] = fetch  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]

step(retries=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
step(effect="twice")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
step(fallback=str)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
step(run_in="moon")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
step("fetch")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]

plain: Callable[[str], bytes] = fetch  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
