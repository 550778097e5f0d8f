"""Pipelines and combinators are checked when they are built."""

import functools
import operator
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from enum import Enum
from typing import Any, cast

import pytest

from flujo_async import Pipeline, as_step, branch, loop, map_each, parallel, step
from flujo_async._plan.nodes import Branch, Loop, Parallel
from flujo_async._plan.pipeline import Chain, End
from flujo_async.errors import DefinitionError


def dynamic(function: Callable[..., Any]) -> Any:
    """Hide types from type checkers, which would find most of these mistakes before the package does."""
    return step(function)


@dynamic
async def fetch(url: str) -> str:
    return url


@dynamic
async def count(text: str) -> int:
    return len(text)


@dynamic
async def half(number: int) -> float:
    return number / 2


@dynamic
async def grow(number: int) -> int:
    return number + 1


@dynamic
async def total(numbers: list[int]) -> int:
    return sum(numbers)


@dynamic
async def split(text: str) -> list[str]:
    return text.split()


@dynamic
async def report(results: dict[str, Any]) -> str:
    return str(results)


@dynamic
async def anything(value):  # type: ignore[no-untyped-def]
    return value


@dynamic
async def tick() -> int:
    return 1


def refused(*words: str) -> AbstractContextManager[Any]:
    return pytest.raises(DefinitionError, match=".*".join(words))


def labels(chain: object) -> tuple[str, ...]:
    return cast("Pipeline[Any, Any]", chain).labels


def is_long(value: Any) -> bool:
    return bool(value)


def node(chain: object) -> Any:
    return chain


# ----------------------------------------------------------------------------------------------------- neighbours

BUILDS: list[Callable[[], object]] = [
    lambda: fetch >> count >> half,
    lambda: fetch >> anything >> half,
    lambda: fetch >> tick >> half,
    lambda: split >> map_each(count) >> total,
    lambda: fetch >> parallel(count, split) >> report,
    lambda: fetch >> branch(is_long, {True: count, False: tick}) >> half,
    lambda: count >> loop(grow, until=is_long, max_iterations=2) >> half,
    lambda: count >> loop(tick, until=is_long, max_iterations=2),
    lambda: fetch >> as_step(fetch >> count, name="measure") >> half,
    lambda: split >> map_each(split) >> map_each(map_each(count)),
    lambda: anything >> map_each(tick),
    lambda: tick >> anything >> map_each(anything),
]


@pytest.mark.parametrize("build", BUILDS)
def test_neighbours_that_fit_are_joined(build: Callable[[], object]) -> None:
    assert build()


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: fetch >> half, ["'fetch' returns str", "'half' takes int"]),
        (lambda: half >> grow, ["'half' returns float", "'grow' takes int"]),
        (lambda: fetch >> fetch >> half, ["'fetch' returns str", "'half' takes int"]),
        (lambda: (fetch >> count) >> (fetch >> count), ["'count' returns int", "'fetch' takes str"]),
        (lambda: fetch >> map_each(half), ["'fetch' returns str", r"'map_each\(half\)' takes Iterable\[int\]"]),
        (lambda: count >> map_each(tick), ["'count' returns int", r"'map_each\(tick\)' takes Iterable\[Any\]"]),
        (lambda: tick >> map_each(anything), ["'tick' returns int", r"'map_each\(anything\)' takes Iterable"]),
        (lambda: split >> map_each(count) >> half, [r"'map_each\(count\)' returns list\[int\]", "'half' takes int"]),
        (lambda: split >> map_each(fetch) >> total, [r"returns list\[str\]", r"'total' takes list\[int\]"]),
        (lambda: fetch >> parallel(count, half), ["'fetch' returns str", "'half' takes int"]),
        (lambda: fetch >> parallel(count) >> half, [r"'parallel' returns dict\[str, Any\]", "'half' takes int"]),
        (lambda: fetch >> branch(is_long, {1: count, 2: half}), ["'fetch' returns str", "'half' takes int"]),
        (lambda: branch(is_long, {1: count}, fetch) >> half, ["'fetch' returns str", "'half' takes int"]),
        (lambda: loop(count, until=is_long, max_iterations=1), ["'count' returns int", "'count' takes str"]),
        (lambda: fetch >> loop(grow, until=is_long, max_iterations=1), ["'fetch' returns str", "'grow' takes int"]),
        (lambda: count >> as_step(fetch, name="f"), ["'count' returns int", "'fetch' takes str"]),
    ],
)
def test_neighbours_that_do_not_fit_are_refused_by_name_and_type(build: Callable[[], object], words: list[str]) -> None:
    with refused(*words):
        build()


def plain(value: str) -> str:
    return value


@pytest.mark.parametrize(
    "build",
    [
        lambda: node(fetch) >> plain,
        lambda: plain >> node(fetch),
        lambda: parallel(node(plain)),
        lambda: map_each(node(plain)),
        lambda: branch(is_long, {1: node(plain)}),
        lambda: branch(is_long, {1: fetch}, node(plain)),
        lambda: loop(node(plain), until=is_long, max_iterations=1),
        lambda: as_step(node(plain), name="a"),
    ],
)
def test_undecorated_functions_are_refused_with_the_way_out(build: Callable[[], object]) -> None:
    with refused("takes steps and pipelines", "decorate it with @step"):
        build()


@pytest.mark.parametrize("build", [lambda: node(fetch) >> 3, lambda: 3 >> node(fetch), lambda: node(fetch) >> None])
def test_what_is_no_step_is_refused(build: Callable[[], object]) -> None:
    with refused("takes steps and pipelines, not (3|None)"):
        build()


# -------------------------------------------------------------------------------------------------- names and keys


def test_joining_is_associative() -> None:
    assert (fetch >> count) >> (half >> anything) == fetch >> (count >> (half >> anything))


def test_a_step_used_twice_gets_its_position_in_its_key() -> None:
    assert labels(fetch >> count >> grow >> half) == ("fetch", "count", "grow", "half")
    assert labels(fetch >> fetch >> count >> grow >> grow) == ("fetch@1", "fetch@2", "count", "grow@4", "grow@5")


def test_combinators_are_called_by_their_kind() -> None:
    chain = split >> map_each(fetch) >> map_each(count) >> total
    assert labels(chain) == ("split", "map_each@2", "map_each@3", "total")


def test_two_different_steps_of_one_name_are_refused() -> None:
    other = step(name="fetch")(plain)
    with refused("two different", "'fetch'", "rename"):
        _ = fetch >> other
    assert fetch >> as_step(other, name="other") >> fetch


def test_a_name_may_come_again_in_another_scope() -> None:
    assert fetch >> parallel(fetch, count)


def test_two_branches_of_one_name_are_refused() -> None:
    with refused("two branches", "'fetch'", "as_step"):
        parallel(fetch, fetch)
    both = cast("Parallel", parallel(fetch, as_step(fetch, name="again")))
    assert [name for name, _ in both.branches] == ["fetch", "again"]


def test_the_cases_of_a_branch_are_a_mapping() -> None:
    cases: Any = [fetch, count]
    with refused(r"branch\(\) takes a mapping of its cases by key"):
        branch(len, cases)


@pytest.mark.parametrize("name", ["", "a/b", "a@1", "a[0]", None])
def test_a_name_must_fit_into_keys(name: Any) -> None:
    with refused("the name of"):
        as_step(fetch, name=name)


def test_a_pipeline_has_steps() -> None:
    with refused("at least one step"):
        Pipeline(())


def test_a_pipeline_is_called_by_its_ends() -> None:
    assert (fetch >> count).name == "fetch >> count"
    assert (fetch >> count >> grow >> half).name == "fetch >> … >> half"
    assert repr(fetch >> count >> grow >> half) == "<pipeline fetch >> count >> grow >> half>"


class Size(Enum):
    SMALL = 1


class Opaque:
    """Its text has its address in it."""


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["a", "b"], ["a", "b"]),
        ([True, False, None], ["True", "False", "None"]),
        ([1, "1"], ["1@1", "1@2"]),
        ([1, "1", "1@1"], ["1@1", "1@2", "1%401"]),
        (["a/b", "%2F"], ["a%2Fb", "%252F"]),
        ([Size.SMALL], ["Size.SMALL"]),
        ([Opaque(), Opaque()], ["Opaque@1", "Opaque@2"]),
        ([frozenset("ab"), (1, 2)], ["frozenset", "tuple"]),
    ],
)
def test_cases_have_labels_that_every_process_agrees_on(keys: list[Any], expected: list[str]) -> None:
    cases: Any = dict.fromkeys(keys, fetch)
    chosen = cast("Branch", branch(is_long, cases))
    assert [label for label, _ in chosen.cases] == expected


def test_the_default_case_never_takes_the_label_of_another() -> None:
    chosen = cast("Branch", branch(is_long, {"default": fetch, "default_": fetch}, fetch))
    assert [label for label, _ in chosen.cases] == ["default", "default_", "default__"]
    assert chosen.default == "default__"


# ---------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: parallel(), ["at least one branch"]),
        (lambda: branch(is_long, {}), ["at least one case"]),
        (lambda: parallel(fetch, max_concurrency=0), ["at least 1, not 0"]),
        (lambda: parallel(fetch, max_concurrency=node("2")), ["at least 1, not '2'"]),
        (lambda: map_each(fetch, max_concurrency=-1), ["map_each", "at least 1"]),
        (lambda: map_each(fetch, max_concurrency=node(1.5)), ["at least 1"]),
        (lambda: map_each(fetch, on_error=node("stop")), ["cancel, finish, ignore, not 'stop'"]),
        (lambda: parallel(fetch, on_error=node(None)), ["cancel, finish, ignore, not None"]),
        (lambda: loop(fetch, until=is_long, max_iterations=0), ["at least one turn"]),
        (lambda: loop(fetch, until=is_long, max_iterations=node("3")), ["at least one turn"]),
        (lambda: loop(fetch, until=is_long, max_iterations=True), ["at least one turn"]),
    ],
)
def test_options_out_of_range_are_refused(build: Callable[[], object], words: list[str]) -> None:
    with refused(*words):
        build()


# ------------------------------------------------------------------------------------------ selectors and predicates


class AsyncPredicate:
    async def __call__(self, value: Any) -> bool:
        return True


async def ask(value: Any) -> bool:
    return True


@pytest.mark.parametrize("question", [ask, AsyncPredicate(), functools.partial(ask), fetch.function])
def test_what_has_to_be_awaited_is_no_predicate(question: Any) -> None:
    with refused("selector of branch", "plain function"):
        branch(question, {1: fetch})
    with refused("until= of loop", "plain function"):
        loop(fetch, until=question, max_iterations=1)


@pytest.mark.parametrize("question", ["text", None, 3])
def test_a_predicate_is_a_function(question: Any) -> None:
    with refused("is a function, not"):
        loop(fetch, until=question, max_iterations=1)


@pytest.mark.parametrize("question", [lambda: True, lambda a, b, c: True, lambda value, *, key: True])
def test_a_predicate_can_be_called_with_the_value(question: Any) -> None:
    with refused("called with the value"):
        branch(question, {1: fetch})


def nothing_told(value: Any, limit: int = 1, *more: Any, **options: Any) -> bool:
    return True


@pytest.mark.parametrize(
    ("question", "takes_context"),
    [
        (is_long, False),
        (bool, False),
        (len, False),
        (lambda value, context: True, True),
        (lambda value, context, limit=1: True, True),
        (lambda value, limit=1: True, False),
        (lambda *values: True, False),
        (nothing_told, False),
        (functools.partial(lambda limit, value: True, 3), False),
    ],
)
def test_a_predicate_that_requires_a_second_argument_gets_the_context(question: Any, takes_context: bool) -> None:
    built = cast("Loop", loop(fetch, until=question, max_iterations=1))
    assert built.until.takes_context is takes_context


def test_walking_finds_every_step() -> None:
    chain = fetch >> parallel(count, as_step(split >> map_each(fetch), name="words"))
    names = [found.name for found in chain.walk()]
    assert names == ["fetch", "parallel", "count", "words", "split", "map_each", "fetch"]


def test_the_checks_know_collections_from_their_items() -> None:
    @dynamic
    async def lengths(texts: Iterable[str]) -> Mapping[str, int]:
        return {text: len(text) for text in texts}

    assert split >> lengths >> map_each(count)
    with refused(r"returns Mapping\[str, int\]", r"takes Iterable\[int\]"):
        _ = lengths >> map_each(half)


class Looked(Chain[int, int]):
    """An element that counts how often it is asked for its name."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.looks = 0

    @property
    def name(self) -> str:  # type: ignore[override]
        self.looks += 1
        return f"e{self.number}"

    def inlets(self) -> list[End]:
        return [End("e", int)]

    def outlets(self) -> list[End]:
        return [End("e", int)]


def test_a_long_chain_is_not_looked_through_for_each_step() -> None:
    """Neither for names that are taken already, nor for labels: those are for whoever has the whole."""
    elements = [Looked(number) for number in range(100)]
    chain = functools.reduce(operator.rshift, elements[1:], node(elements[0]))
    assert all(element.looks < 10 for element in elements[1:])
    assert labels(chain) == tuple(f"e{number}" for number in range(100))
    assert (chain >> elements[7]).labels[-1] == "e7@101"
    with pytest.raises(AttributeError, match="no attribute 'label'"):
        chain.label  # noqa: B018 -- it is asked for
