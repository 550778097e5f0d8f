"""Definitions: a pipeline with the name and version under which its runs are recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

from flujo_async._codec.tree import dumps
from flujo_async._codec.values import Codec
from flujo_async._model.policy import Durability
from flujo_async._plan.function_names import exceptions_in_modules, is_exception
from flujo_async._plan.nodes import Child, WaitFor
from flujo_async._plan.pipeline import Chain, Pipeline, as_pipeline
from flujo_async._plan.signature import underlying
from flujo_async._plan.step import Step
from flujo_async._plan.workflow import Workflow
from flujo_async.errors import DefinitionError, SerializationError


@dataclass(frozen=True)
class Definition:
    """What a runtime executes.

    Attributes:
        pipeline: the elements.
        name: the name under which runs are recorded.
        explicit_version: the version that the author gave, if any.
        durability: when what its steps did is durable, if the author said so.
    """

    pipeline: Pipeline[Any, Any]
    name: str
    explicit_version: str | None = None
    durability: Durability | None = None

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the structure: step keys and their order, not source text.

        Raises:
            DefinitionError: too many pipelines stand in each other.
        """
        try:
            return "sha256:" + sha256(dumps(self.pipeline.structure())).hexdigest()[:16]
        except SerializationError as error:
            raise DefinitionError(
                f"{self.name!r} has pipelines nested too deep in each other, some fifty levels are the most: let a "
                f"@workflow call the inner ones"
            ) from error

    @property
    def version(self) -> str:
        """The version under which runs are recorded: the author's, or else the fingerprint."""
        return self.explicit_version or self.fingerprint

    def steps(self) -> Iterator[Step[Any, Any]]:
        """Yield every step in the pipeline, those that stand in for others or undo them, and what workflows mention."""
        for node in reachable(self.pipeline, is_mentioned=True):
            if isinstance(node, Step):
                yield node  # pyright: ignore[reportUnknownVariableType] -- parameters are not kept at run time

    def codec(self, context_type: type[Any] | None = None) -> Codec:
        """Return a codec that knows every type in the annotations of the steps, and the context's."""
        return Codec(*([] if context_type is None else [context_type]), *annotations_of(self.pipeline))

    def nodes(self) -> Iterator[Chain[Any, Any]]:
        """Return everything in the pipeline, and what its workflows may use."""
        return reachable(self.pipeline)

    def children(self) -> Iterator[Definition]:
        """Yield the definitions that runs of this one may start as runs of their own."""
        for node in self.nodes():
            if isinstance(node, Child):
                yield definition_of(node.body, node.name)


def definition_of(chain: Chain[Any, Any], name: str | None = None, version: str | None = None) -> Definition:
    """Return a chain as a definition; a workflow brings its own name and version."""
    pipeline = as_pipeline(chain, "a definition")
    durability = pipeline.durability
    match pipeline.sequence:
        case (Workflow() as workflow,):
            version, durability = version or workflow.version, durability or workflow.durability
        case _:
            pass
    return Definition(pipeline, name or pipeline.name, version, durability)


def reachable(chain: Chain[Any, Any], *, is_mentioned: bool = False) -> Iterator[Chain[Any, Any]]:
    """Yield everything in a chain, fallbacks and compensations, and what its workflows have names for, or mention."""
    todo, seen = [chain], set[int]()
    while todo:
        for node in todo.pop().walk():
            if id(node) in seen:
                continue
            seen.add(id(node))
            yield node
            if isinstance(node, Step):
                todo += [other for other in (node.policy.fallback, node.policy.compensate) if other is not None]
            if isinstance(node, Workflow):
                names = node.mentions() if is_mentioned else node.names()
                todo += [value for value in names.values() if isinstance(value, Chain)]


def annotations_of(chain: Chain[Any, Any]) -> list[Any]:
    """Return every annotation that tells of the values of a chain, and the exceptions that its functions can name."""
    annotations: list[Any] = []
    modules: dict[int, Mapping[str, Any]] = {}
    for node in reachable(chain):
        if isinstance(node, Step | Workflow):
            annotations += [*node.signature.parameters.values(), node.signature.output_type]
            names: Mapping[str, Any] = node.names() if isinstance(node, Workflow) else _globals(node.function)
            modules[id(names)] = names
        if isinstance(node, Workflow):
            annotations += exceptions_in_modules(underlying(node.function))
        if isinstance(node, Step):
            annotations += node.policy.retry.error_types
        if isinstance(node, WaitFor):
            annotations.append(node.schema)
    for names in modules.values():
        annotations += [value for value in names.values() if is_exception(value)]
    return annotations


def _globals(function: Callable[..., Any]) -> dict[str, Any]:
    return getattr(underlying(function), "__globals__", {})
