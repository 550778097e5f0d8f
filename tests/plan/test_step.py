"""What can be a step, and what is said when it cannot."""

import functools
import json
import math
import operator
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

import pytest

from flujo_async import Flujo, Resource, Retry, Step, StepContext, map_each, parallel, step
from flujo_async._plan.depends import Depends
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


def test_all_options_are_taken() -> None:
    @step(
        deadline=timedelta(minutes=1),
        fallback=double,
        effect="once",
        compensate=double,
        limit="bank",
    )
    async def charge(amount: int) -> int:
        return amount

    policy = charge.policy
    assert (policy.deadline, policy.fallback, policy.compensate) == (60.0, double, double)
    assert (policy.effect, policy.limit, policy.cache) == ("once", "bank", None)


@pytest.mark.parametrize(
    ("cache", "seconds"), [(True, math.inf), (False, None), (None, None), (60, 60.0), (timedelta(minutes=1), 60.0)]
)
def test_a_cache_lasts_for_a_time_or_for_ever(cache: Any, seconds: float | None) -> None:
    assert step(lambda value: value, cache=cache).policy.cache == seconds


def test_a_function_that_undoes_a_step_becomes_one() -> None:
    async def refund(receipt: int) -> None: ...

    made = step(double.function, compensate=refund).policy.compensate
    assert isinstance(made, Step)
    assert (made.name, made.function) == ("refund", refund)


@pytest.mark.parametrize("timeout", [2, 2.0, timedelta(seconds=2)])
def test_options_are_taken(timeout: Any) -> None:
    @step(name="other", retry=Retry(max_attempts=2), timeout=timeout, effect="pure", run_in="loop")
    def plain(value: str) -> str:
        return value

    assert plain.name == "other"
    assert plain.policy == Policy(Retry(max_attempts=2), 2.0, "pure", "loop")
    assert plain("x") == "x"


def test_an_unknown_option_is_refused_with_those_there_are() -> None:
    with refused("no option retries, timout", "name, retry, timeout, deadline, fallback", "run_in"):
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
        {"run_in": "process"},  # a function inside a function, which no other process finds
        {"run_in": "thread"},
        {"run_in": "moon"},
        {"deadline": 0},
        {"deadline": math.inf},
        {"deadline": "tomorrow"},
        {"fallback": "double"},
        pytest.param({"fallback": double.function}, id="{'fallback': a function}"),
        {"fallback": double >> double},
        {"compensate": "double"},
        {"compensate": double >> double},
        {"cache": 0},
        {"cache": -1},
        {"cache": "yes"},
        {"limit": ""},
        {"limit": 3},
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


def depending(value: Annotated[int, Depends(double)]) -> int:
    return value


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (second_required, ["'second_required'", "nothing fills", "'factor'", "the first parameter is the input"]),
        (keyword_required, ["nothing fills", "'value'"]),
        (depending, ["nothing fills", "'value'", "graph"]),
    ],
)
@pytest.mark.parametrize("place", [Flujo, lambda it: it >> double, lambda it: double >> it, map_each, parallel])
def test_in_a_pipeline_a_step_gets_its_input_only(
    function: Callable[..., Any], words: list[str], place: Callable[[Any], Any]
) -> None:
    """Elsewhere other parameters are filled as well: by the call in a workflow, by name in a graph."""
    made = step(function)
    with refused(*words):
        place(made)


def test_in_a_pipeline_a_fallback_gets_the_input_only() -> None:
    """In a workflow it may be given what its step is."""

    def scale(value: int, factor: int = 2) -> int:
        return value * factor

    outer = step(scale, name="outer", fallback=step(scale, fallback=step(second_required)))
    with refused("'second_required'", "nothing fills its parameter 'factor'"):
        Flujo(outer)


def test_a_signature_tells_all_its_parameters() -> None:
    def merge(
        ctx: StepContext,
        db: Annotated[Any, Resource("db")],
        left: Annotated[int, Depends(double)],
        right: int,
        *,
        by: int = 1,
    ) -> int:
        return left + right + by

    signature = step(merge).signature
    assert list(signature.parameters) == ["left", "right", "by"]
    assert (signature.input_parameter, signature.input_type, signature.is_input_first) == ("right", int, False)
    assert signature.defaults == {"by"}
    assert (signature.dependencies, signature.resources) == ({"left": Depends(double)}, {"db": "db"})
    assert (signature.context_parameter, signature.unfilled) == ("ctx", "left")


async def test_the_input_may_stand_behind_what_is_injected() -> None:
    @step
    async def named(context: StepContext, value: int) -> str:
        return f"{context.step_name} {value}"

    assert await output(named, 3) == "named 3"


def any_number(value: int, *rest: int, **more: int) -> int:
    return value


@pytest.mark.parametrize(
    ("function", "named", "extra", "arranged"),
    [
        (second_required, {"value": 1, "factor": 2}, [], ([], {"value": 1, "factor": 2})),
        (any_number, {"value": 1, "other": 2}, [3], ([1, 3], {"other": 2})),
        (operator.pow, {"a": 1, "b": 2}, [], ([1, 2], {})),
    ],
)
def test_arguments_are_passed_by_name_where_they_can_be(
    function: Callable[..., Any], named: dict[str, int], extra: list[int], arranged: Any
) -> None:
    assert step(function).signature.arrange(named, extra) == arranged


# --------------------------------------------------------------------------------------------- options and signature


async def on_text(text: str) -> int:
    return len(text)


async def to_text(number: int) -> str:
    return str(number)


async def with_more(number: int, more: int) -> int:
    return number + more


async def in_context(number: int, ctx: StepContext) -> int:
    return number


async def with_resource(number: int, db: Annotated[Any, Resource("db")]) -> int:
    return number


@pytest.mark.parametrize(
    ("function", "options", "words"),
    [
        (double.function, {"fallback": step(on_text)}, ["fallback 'on_text' takes another type", "int is no str"]),
        (double.function, {"fallback": step(to_text)}, ["fallback 'to_text' returns another type", "str is no int"]),
        (double.function, {"fallback": step(with_more)}, ["fallback 'with_more'", "same arguments", "'more'"]),
        (double.function, {"compensate": on_text}, ["'double' returns int", "'on_text' takes str"]),
        (double.function, {"compensate": with_more}, ["nothing fills its parameter 'more'"]),
        (double.function, {"compensate": step(fallback=double)(double.function)}, ["'double' has a fallback"]),
        (double.function, {"cache": True, "effect": "once"}, ["only once", "cannot come from a cache"]),
        (in_context, {"cache": True}, ["a cached step has no StepContext"]),
        (functools.partial(with_more, more=1), {"cache": True, "name": "one"}, ["what a method, a partial"]),
        (in_context, {"run_in": "process"}, ["no StepContext and no resources"]),
        (with_resource, {"run_in": "process"}, ["no StepContext and no resources"]),
        (lambda number: number, {"run_in": "process"}, ["at the top of a module"]),
    ],
)
def test_options_have_to_fit_each_other_and_the_function(
    function: Callable[..., Any], options: dict[str, Any], words: list[str]
) -> None:
    with refused(*words):
        step(**options)(function)


def test_a_fallback_may_take_less() -> None:
    constant = step(lambda: 0, name="constant")
    assert step(with_more, fallback=constant).policy.fallback is constant
    assert step(with_more, fallback=double).policy.fallback is double


@pytest.mark.parametrize("name", ["", 3, None])
def test_a_resource_has_a_name(name: Any) -> None:
    with refused("needs the name of a resource"):
        Resource(name)


# -------------------------------------------------------------------------------------------------- fingerprints


def made_of(source: str) -> Any:
    names: dict[str, Any] = {}
    exec(source, names)
    return step(names["f"])


SAME = "def f(x, by=2):\n    return [y * by for y in x if y in {'a', 'b', 'c'}]"


def test_the_same_code_has_the_same_fingerprint() -> None:
    assert made_of(SAME).fingerprint == made_of(SAME).fingerprint


@pytest.mark.parametrize(
    ("old", "new"), [("by=2", "by=3"), ("y * by", "y + by"), ("'c'", "'d'"), ("if y in", "if y not in")]
)
def test_other_code_has_another_fingerprint(old: str, new: str) -> None:
    """Its defaults, its operations, its constants, and the functions inside of it."""
    assert made_of(SAME.replace(old, new)).fingerprint != made_of(SAME).fingerprint


def test_a_fingerprint_is_the_same_in_every_process() -> None:
    """Though the order of a set of texts is not."""
    program = "import sys; from tests.plan.test_step import SAME, made_of; print(made_of(SAME).fingerprint)"
    found = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert found == {f"{made_of(SAME).fingerprint}\n"}


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
    (step(lambda value: double(value), name="late"), "late", (Any, Any), 4),  # pyright: ignore[reportArgumentType]
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
