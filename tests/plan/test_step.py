"""What can be a step, and what is said when it cannot."""

import functools
import json
import math
import operator
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

import pytest

from flujo_async import Flujo, Retry, Step, StepContext, step
from flujo_async._plan.pipeline import Chain
from flujo_async._plan.step import Policy
from flujo_async.errors import DefinitionError
from tests.plan import lazy_annotations


@step
async def double(number: int) -> int:
    """Double it."""
    return number * 2


def refused(*words: str) -> AbstractContextManager[Any]:
    return pytest.raises(DefinitionError, match=".*".join(words))


async def output(chain: Chain[Any, Any], value: Any) -> Any:
    return (await Flujo(chain).run(value)).output


def ends(any_step: Step[Any, Any]) -> tuple[Any, Any]:
    return any_step.signature.input_type, any_step.signature.output_type


# ------------------------------------------------------------------------------------------------ plain functions


async def test_a_step_is_still_its_function() -> None:
    assert await double(4) == 8
    function: Any = double
    assert (function.__name__, function.__doc__, function.__module__) == ("double", "Double it.", __name__)
    assert repr(double) == "<step double>"


def test_options_have_defaults() -> None:
    assert double.policy == Policy(Retry(), None, "idempotent", "loop")
    assert step(len).policy.run_in == "thread"


@pytest.mark.parametrize("timeout", [2, 2.0, timedelta(seconds=2)])
def test_options_are_taken(timeout: Any) -> None:
    @step(name="other", retry=Retry(max_attempts=2), timeout=timeout, effect="pure", run_in="loop")
    def plain(value: str) -> str:
        return value

    assert plain.name == "other"
    assert plain.policy == Policy(Retry(max_attempts=2), 2.0, "pure", "loop")
    assert plain("x") == "x"


def test_an_unknown_option_is_refused_with_those_there_are() -> None:
    with refused("no option retries, timout", "name, retry, timeout, effect, run_in"):
        step(retries=3, timout=1)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "options",
    [
        {"name": ""},
        {"name": "a/b"},
        {"name": "fetch@1"},
        {"name": "fetch[0]"},
        {"name": 3},
        {"retry": 3},
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": math.nan},
        {"timeout": math.inf},
        {"timeout": "5"},
        {"timeout": timedelta(0)},
        {"effect": "once more"},
        {"effect": None},
        {"run_in": "process"},
        {"run_in": "thread"},
    ],
    ids=str,
)
def test_an_option_out_of_range_is_refused(options: dict[str, Any]) -> None:
    async def fetch(url: str) -> str:
        return url

    with pytest.raises(DefinitionError):
        step(**options)(fetch)


@pytest.mark.parametrize("not_a_function", ["fetch", 3, double, double >> step(str)], ids=repr)
def test_a_step_is_made_of_a_function(not_a_function: Any) -> None:
    with refused("needs a function"):
        step(not_a_function)


# ----------------------------------------------------------------------------------------------------- signatures


def test_missing_annotations_are_any() -> None:
    assert ends(step(lambda value: value)) == (Any, Any)


def test_what_is_annotated_as_awaitable_is_awaited() -> None:
    def fetch(url: str) -> Awaitable[int]:
        raise NotImplementedError

    assert ends(step(fetch)) == (str, int)


async def with_context(value: int, context: StepContext) -> str:
    return f"{context.step_name} {value}"


async def with_annotated_context(value: int, context: Annotated[StepContext, "note"]) -> str:
    return f"{context.step_name} {value}"


async def with_keyword_context(value: int, *, context: StepContext) -> str:
    return f"{context.step_name} {value}"


async def with_optional_context(value: int, factor: int = 1, context: StepContext | None = None) -> str:
    assert context is not None
    return f"{context.step_name} {value * factor}"


@pytest.mark.parametrize(
    "function", [with_context, with_annotated_context, with_keyword_context, with_optional_context]
)
async def test_the_context_is_injected(function: Callable[..., Any]) -> None:
    context_step = step(function, name="here")
    assert context_step.signature.context_parameter == "context"
    assert await output(context_step, 3) == "here 3"


async def test_a_step_without_parameters_ignores_its_input() -> None:
    @step
    async def constant() -> int:
        return 1

    @step
    async def only_context(context: StepContext) -> str:
        return context.step_name

    assert not constant.signature.takes_input
    assert await output(double >> constant >> double, 5) == 2
    assert await output(double >> only_context, 5) == "only_context"


async def test_parameters_with_defaults_keep_them() -> None:
    @step
    def scale(value: int, factor: int = 10, *rest: int, shift: int = 1, **more: int) -> int:
        return value * factor + shift

    assert await output(scale, 2) == 21


async def test_a_wrapper_that_hides_its_function_still_gets_the_input() -> None:
    def logged(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    assert await output(step(logged(str.upper)), "a") == "A"


def second_required(value: int, factor: int) -> int:
    return value * factor


def keyword_required(*, value: int) -> int:
    return value


def context_first(context: StepContext, value: int) -> int:
    return value


def context_twice(value: int, one: StepContext, two: StepContext) -> int:
    return value


def context_by_place(value: int, context: StepContext, /) -> int:
    return value


def unresolved(value: "Missing") -> int:  # type: ignore[name-defined]  # noqa: F821
    return 1


def unresolved_attribute(value: "json.Missing") -> int:  # type: ignore[name-defined]
    return 1


def no_type(value: "3 +") -> int:  # type: ignore[valid-type]  # noqa: F722
    return 1


def generator(value: int) -> Iterator[int]:
    yield value


async def async_generator(value: int) -> AsyncIterator[int]:
    yield value


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (second_required, ["'second_required'", "nothing fills", "'factor'"]),
        (keyword_required, ["nothing fills", "'value'"]),
        (context_first, ["nothing fills", "'value'", "the first parameter is the input"]),
        (context_twice, ["StepContext twice: one, two"]),
        (context_by_place, ["'context' is injected by name"]),
        (unresolved, ["'unresolved'", "cannot be resolved", "Missing", "TYPE_CHECKING"]),
        (unresolved_attribute, ["cannot be resolved", "Missing"]),
        (no_type, ["cannot be resolved"]),
        (generator, ["is a generator", "return a list"]),
        (async_generator, ["is a generator", "return a list"]),
    ],
)
def test_a_function_that_cannot_be_a_step_is_refused(function: Callable[..., Any], words: list[str]) -> None:
    with refused(*words):
        step(function)


# ---------------------------------------------------------------------------------------------- unusual functions


class Service:
    name = "not the step's"

    def __init__(self, factor: int = 3) -> None:
        self.factor = factor
        self.policy = self.signature = "not the step's"

    async def scale(self, value: int) -> int:
        return value * self.factor

    @classmethod
    async def make(cls, value: int) -> int:
        return value

    @staticmethod
    @step
    async def static(value: int) -> int:
        return value + 1

    async def __call__(self, value: int) -> str:
        return str(value * self.factor)


@dataclass
class Wrapped:
    value: int


class Adder:
    def __call__(self, value: int, context: StepContext) -> int:
        return value + context.attempt


increment: Any = lambda value: value + 1  # noqa: E731 -- its name is the point

UNUSUAL = [
    (step(Service().scale), "scale", (int, int), 6),
    (step(Service.make), "make", (int, int), 2),
    (Service.static, "static", (int, int), 3),
    (step(functools.partial(Service.scale, Service(5))), "scale", (int, int), 10),
    (step(functools.partial(operator.pow, 3)), "pow", (Any, Any), 9),
    (step(Service()), "Service", (int, str), "6"),
    (step(functools.partial(Service())), "Service", (int, str), "6"),
    (step(Adder()), "Adder", (int, int), 3),
    (step(increment), "<lambda>", (Any, Any), 3),
    (step(lambda value: double(value), name="late"), "late", (Any, Any), 4),
    (step(Wrapped), "Wrapped", (int, Wrapped), Wrapped(2)),
    (step(str), "str", (Any, str), "2"),
    (step(float), "float", (Any, float), 2.0),
    (step(json.dumps), "dumps", (Any, Any), "2"),
    (step(int.bit_length), "bit_length", (Any, Any), 2),
    (step(functools.cache(abs)), "abs", (Any, Any), 2),
]


@pytest.mark.parametrize(("unusual", "name", "types", "result"), UNUSUAL, ids=lambda item: getattr(item, "name", ""))
async def test_whatever_can_be_called_can_be_a_step(
    unusual: Step[Any, Any], name: str, types: tuple[Any, Any], result: Any
) -> None:
    assert unusual.name == name
    assert ends(unusual) == types
    assert await output(unusual, 2) == result


def test_coroutine_functions_run_on_the_loop_however_they_are_wrapped() -> None:
    @functools.wraps(double)
    async def wrapper(*args: Any) -> Any:
        return await double(*args)

    for function in (Service().scale, Service(), functools.partial(Service()), wrapper):
        assert step(function).policy.run_in == "loop"
        with refused("run_in"):
            step(function, run_in="thread")


def test_a_method_that_is_not_bound_is_refused_with_the_way_out() -> None:
    with refused("'fetch' is a method", r"step\(obj.fetch\)"):

        class Client:
            @step
            async def fetch(self, url: str) -> str:
                return url


def test_annotations_as_text_may_name_local_classes() -> None:
    source, target = lazy_annotations.local_steps()
    assert (source >> target).labels == ("make", "take")
    with refused("returns local_steps.<locals>.Local", "takes int"):
        _ = source >> double


def test_local_names_of_somebody_else_do_not_count() -> None:
    Order = int  # noqa: F841 -- it must not be taken for the module's class of that name
    assert ends(step(lazy_annotations.global_function)) == (lazy_annotations.Order, lazy_annotations.Order)
