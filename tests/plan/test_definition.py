"""Fingerprints, versions and the registry."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from flujo_async import PipelineRegistry, Retry, as_step, branch, loop, map_each, parallel, step
from flujo_async._plan.definition import Definition
from flujo_async._plan.pipeline import Chain, as_pipeline
from flujo_async.errors import DefinitionError


def make(name: str, function: Callable[..., Any] = lambda value: value, **options: Any) -> Chain[Any, Any]:
    return step(name=name, **options)(function)


def fingerprint(chain: Chain[Any, Any], name: str = "p") -> str:
    return Definition(as_pipeline(chain, "a test"), name).fingerprint


def everything(**changes: Any) -> Chain[Any, Any]:
    """Return a pipeline with every combinator; ``changes`` are options that are no structure."""
    concurrency = changes.get("max_concurrency")
    turns = changes.get("max_iterations", 3)
    return (
        make("a", **changes.get("step", {}))
        >> parallel(make("b"), make("c"), max_concurrency=concurrency)
        >> map_each(make("d"), max_concurrency=concurrency, on_error=changes.get("on_error", "cancel"))
        >> branch(changes.get("selector", bool), {"x": make("e"), frozenset("yz"): make("f")}, make("g"))
        >> loop(make("h"), until=bool, max_iterations=turns)
        >> as_step(make("i") >> make("j"), name="block")
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"max_concurrency": 2},
        {"max_iterations": 9},
        {"on_error": "ignore"},
        {"selector": len},
        {"step": {"function": str.upper}},
        {"step": {"retry": Retry(max_attempts=3), "timeout": 5, "effect": "pure"}},
    ],
    ids=str,
)
def test_what_a_step_does_and_how_is_no_structure(changes: dict[str, Any]) -> None:
    assert fingerprint(everything(**changes)) == fingerprint(everything())


A, B, C = make("a"), make("b"), make("c")
DIFFERENT = {
    "one step": A,
    "another": B,
    "two": A >> B,
    "two the other way round": B >> A,
    "one twice": A >> A,
    "in a block": as_step(A >> B, name="ab"),
    "in a block of another name": as_step(A >> B, name="ba"),
    "at the same time": parallel(A, B),
    "at the same time, in another order": parallel(B, A),
    "each": map_each(A),
    "each, in two steps": map_each(A >> B),
    "in turns": loop(A, until=bool, max_iterations=1),
    "chosen": branch(bool, {"x": A, "y": B}),
    "chosen by other keys": branch(bool, {"x": A, "z": B}),
    "chosen the other way round": branch(bool, {"x": B, "y": A}),
    "chosen, with a default": branch(bool, {"x": A, "y": B}, C),
    "two levels": as_step(A >> as_step(B, name="inner"), name="ab"),
}


def test_keys_and_order_are_structure() -> None:
    found = {name: fingerprint(chain) for name, chain in DIFFERENT.items()}
    assert len(set(found.values())) == len(found)


def test_the_name_of_the_pipeline_is_not_its_structure() -> None:
    assert fingerprint(A >> B, "p") == fingerprint(A >> B, "q")


@pytest.mark.parametrize(
    "nested",
    [
        lambda inner: loop(inner, until=bool, max_iterations=2),
        lambda inner: parallel(inner),
        lambda inner: as_step(inner, name="inner"),
        lambda inner: branch(bool, {True: inner}),
    ],
)
def test_pipelines_may_be_nested_fifty_times(nested: Callable[[Any], Chain[Any, Any]]) -> None:
    chain = A
    for _ in range(50):
        chain = nested(chain)
    assert fingerprint(chain)
    for _ in range(50):
        chain = nested(chain)
    with pytest.raises(DefinitionError, match="'deep' has pipelines nested too deep"):
        fingerprint(chain, "deep")


CHILD = """
from tests.plan.test_definition import everything, fingerprint
print(fingerprint(everything()), end="")
"""


@pytest.mark.parametrize("seed", ["1", "2"])
def test_every_process_finds_the_same_fingerprint(seed: str) -> None:
    # The parent's loop monitor and options stay out of it: only the path to the package is inherited.
    environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}
    child = subprocess.run(
        [sys.executable, "-c", CHILD], env=environment, capture_output=True, text=True, check=True, timeout=50
    )
    assert child.stdout == fingerprint(everything())


def test_without_a_version_of_its_own_a_definition_has_its_fingerprint() -> None:
    unversioned = Definition(as_pipeline(A, "a test"), "p")
    assert unversioned.version == unversioned.fingerprint
    assert unversioned.fingerprint.startswith("sha256:")
    assert Definition(as_pipeline(A, "a test"), "p", "1.0").version == "1.0"


# -------------------------------------------------------------------------------------------------------- registry


@pytest.fixture
def registry() -> PipelineRegistry:
    return PipelineRegistry()


@pytest.mark.parametrize(
    ("versions", "latest"),
    [
        (["1.9", "1.10", "1.2"], "1.10"),
        (["2.0rc1", "1.9"], "2.0rc1"),
        (["2.0rc1", "2.0", "2.0.dev3"], "2.0"),
        (["2.0", "2.0.post1", "1!0.1"], "1!0.1"),
        (["0.1"], "0.1"),
    ],
)
def test_latest_is_the_highest_version(registry: PipelineRegistry, versions: list[str], latest: str) -> None:
    for version in versions:
        registry.register(make(f"step {version}"), "p", version)
    assert registry.get("p").version == latest
    assert registry.get("p", "latest") is registry.get("p", latest)
    assert [registry.get("p", version).version for version in versions] == versions


def test_versions_are_equal_as_in_pep_440(registry: PipelineRegistry) -> None:
    registry.register(A, "p", "1.0")
    assert registry.get("p", "1.0.0") is registry.get("p", "v1.0")


def test_a_bare_step_is_a_pipeline(registry: PipelineRegistry) -> None:
    registry.register(A, "p", "1")
    assert registry.get("p").pipeline.sequence == (A,)


def test_the_same_definition_may_be_registered_again(registry: PipelineRegistry) -> None:
    registry.register(A >> B, "p", "1")
    first = registry.get("p")
    registry.register(A >> B, "p", "1")
    registry.register(A >> B, "q", "1")
    assert registry.get("p") is first


@pytest.mark.parametrize("other", [A, B >> A, make("a") >> B], ids=["shorter", "turned", "another step of that name"])
def test_a_taken_version_cannot_be_given_to_another_definition(
    registry: PipelineRegistry, other: Chain[Any, Any]
) -> None:
    registry.register(A >> B, "p", "1.0")
    with pytest.raises(DefinitionError, match=r"p 1.0.0 is registered already"):
        registry.register(other, "p", "1.0.0")
    assert registry.get("p").pipeline == A >> B


@pytest.mark.parametrize("version", ["latest", "", "one", "1.0-what", 1.0, None])
def test_a_version_is_one_of_pep_440(registry: PipelineRegistry, version: Any) -> None:
    with pytest.raises(DefinitionError, match="is not a version"):
        registry.register(A, "p", version)
    assert registry.find("p") is None


def test_a_name_is_not_empty(registry: PipelineRegistry) -> None:
    with pytest.raises(DefinitionError, match="not empty"):
        registry.register(A, "", "1.0")


def test_an_undecorated_function_is_refused(registry: PipelineRegistry) -> None:
    function: Any = test_a_name_is_not_empty
    with pytest.raises(DefinitionError, match="decorate it with @step"):
        registry.register(function, "p", "1.0")


def test_what_is_missing_is_refused_with_what_there_is(registry: PipelineRegistry) -> None:
    with pytest.raises(DefinitionError, match=r"no pipeline 'p' latest is registered; there are none at all"):
        registry.get("p")
    registry.register(A, "p", "1.10")
    registry.register(B, "p", "1.9")
    registry.register(B, "q", "1")
    with pytest.raises(DefinitionError, match=r"no pipeline 'p' 3 is registered; there is 'p' 1.9, 1.10"):
        registry.get("p", "3")
    with pytest.raises(DefinitionError, match=r"no pipeline 'r' latest is registered; there are 'p', 'q'"):
        registry.get("r")
    assert registry.find("p", "no version") is None


# ----------------------------------------------------------------------------------------------------------- codec


class Trouble(Exception):
    """Stands in a module with a step: the step may raise it."""


def test_the_codec_knows_the_exceptions_around_every_kind_of_function() -> None:
    class Service:
        def call(self, value: int) -> int:
            return value

    definition = Definition(as_pipeline(step(Service().call), "a test"), "p")
    codec = definition.codec()
    assert type(codec.decode(codec.encode(Trouble("x")))) is Trouble
