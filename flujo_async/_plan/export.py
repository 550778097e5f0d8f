"""Definitions written down as documents: plain JSON that names steps and functions, and how they are put together."""

from __future__ import annotations

from dataclasses import fields
from enum import Enum
from types import MethodType
from typing import Any, Final, assert_never, cast

from flujo_async._codec.tree import PAYLOAD, TAG
from flujo_async._codec.values import Codec
from flujo_async._model.policy import ErrorTypes, Retry, seconds
from flujo_async._model.tree import Json
from flujo_async._plan.assignable import describe_type
from flujo_async._plan.graph import Graph, GraphNode
from flujo_async._plan.nodes import Block, Branch, Child, Loop, MapEach, Node, Parallel, Sleep, WaitFor
from flujo_async._plan.pipeline import Chain, Pipeline
from flujo_async._plan.signature import name_of
from flujo_async._plan.step import Policy, Step
from flujo_async._plan.workflow import Workflow
from flujo_async.errors import SerializationError

SCHEMA: Final = 1
"""The version of the form of documents."""

REFERENCE: Final = "ref"
"""The tag of a constant that is given by its name."""

TYPES: Final[dict[str, Any]] = {
    describe_type(known): known for known in (str, int, float, bool, bytes, list, dict, tuple, set, object)
}
"""Types that need not be given to read a document."""

PLAIN: Final = Codec()
"""Knows the constants that a document can hold."""


def document_of(pipeline: Pipeline[Any, Any]) -> dict[str, Any]:
    """Return a pipeline as plain JSON."""
    writer = _Writer()
    elements = writer.sequence(pipeline)
    return {"schema": SCHEMA, "names": writer.names(), "elements": elements, **_durability(pipeline)}


def dependencies_of(node: GraphNode) -> list[Json]:
    """Return what the parameters of a step in a graph depend on."""
    return [
        {
            "parameter": dependency.parameter,
            "on": list(dependency.steps),
            "when": None if dependency.when is None else name_of(dependency.when),
        }
        for dependency in node.dependencies
    ]


class _Writer:
    """Writes elements, and keeps what each name in the document stands for."""

    def __init__(self) -> None:
        self._named: dict[str, object] = {}

    def names(self) -> list[str]:
        """Return every name that has to be given again to read the document."""
        return [name for name, meant in self._named.items() if TYPES.get(name) is not meant]

    def sequence(self, pipeline: Pipeline[Any, Any]) -> list[Json]:
        """Return the elements of a pipeline."""
        return [self._element(cast("Node", element)) for element in pipeline.sequence]

    def _element(self, node: Node) -> dict[str, Json]:  # noqa: C901, PLR0911 -- a case for each kind
        match node:
            case Step():
                return {"kind": "step", "step": self._name(node, node.name), "options": _options(node.policy)}
            case Workflow():
                return {"kind": "workflow", "workflow": self._name(node, node.name), "version": node.version}
            case Parallel():
                branches: list[Json] = [{"name": name, "body": self.sequence(body)} for name, body in node.branches]
                return {"kind": "parallel", "branches": branches, **_limits(node)}
            case MapEach():
                return {"kind": "map_each", "body": self.sequence(node.body), **_limits(node)}
            case Branch():
                return self._branch(node)
            case Loop():
                until = self._name(node.until.function, name_of(node.until.function))
                body = self.sequence(node.body)
                return {"kind": "loop", "body": body, "until": until, "max_iterations": node.max_iterations}
            case Block() | Child():
                kind = "block" if isinstance(node, Block) else "child"
                return {"kind": kind, "name": node.name, "body": self.sequence(node.body), **_durability(node.body)}
            case Sleep():
                return {"kind": "sleep", "duration": node.duration}
            case WaitFor():
                return self._wait_for(node)
            case Graph():
                return self._graph(node)
            case _:
                assert_never(node)

    def _branch(self, node: Branch) -> dict[str, Json]:
        bodies = dict(node.cases)
        cases: list[Json] = [
            {"key": self._constant(key), "label": label, "body": self.sequence(bodies[label])}
            for key, label in node.keys
        ]
        return {
            "kind": "branch",
            "selector": self._name(node.selector.function, name_of(node.selector.function)),
            "cases": cases,
            "default": None if node.default is None else self.sequence(bodies[node.default]),
        }

    def _wait_for(self, node: WaitFor) -> dict[str, Json]:
        written: dict[str, Json] = {
            "kind": "wait_for",
            "name": node.name,
            "schema": None if node.schema is None else self._name(node.schema, describe_type(node.schema)),
            "prompt": node.prompt,
            "timeout": node.timeout,
        }
        return written if node.default is ... else {**written, "default": self._constant(node.default)}

    def _graph(self, node: Graph) -> dict[str, Json]:
        edges: list[Json] = [
            {"from": gate.step, "action": action, "to": target.name}
            for target in node.nodes
            for gate in target.gates
            for action in gate.actions
        ]
        steps: list[Json] = [{**self._element(one.step), "depends": dependencies_of(one)} for one in node.nodes]
        return {"kind": "graph", "steps": steps, "edges": edges, "on_error": node.on_error}

    def _constant(self, value: Any) -> Json:
        """Return a value as JSON, or the name that it has to be given by."""
        try:
            return PLAIN.encode(value)
        except SerializationError:
            return {TAG: REFERENCE, PAYLOAD: self._name(value, _name_of_constant(value))}

    def _name(self, meant: object, name: str) -> str:
        """Return what the document calls a thing: different ones of one name are numbered."""
        unique, number = name, 1
        while unique in self._named and not _is_same(self._named[unique], meant):
            number += 1
            unique = f"{name}@{number}"
        self._named[unique] = meant
        return unique


def _limits(node: Parallel | MapEach) -> dict[str, Json]:
    return {"max_concurrency": node.max_concurrency, "on_error": node.on_error}


def _durability(pipeline: Pipeline[Any, Any]) -> dict[str, Json]:
    return {} if pipeline.durability is None else {"durability": pipeline.durability}


def _options(policy: Policy) -> dict[str, Json]:
    """Return the options of a step, as far as they are set: for whoever reads the document, the step brings its own."""
    options = {field.name: getattr(policy, field.name) for field in fields(policy)}
    return {name: _option(value) for name, value in options.items() if value is not None}


def _option(value: Any) -> Json:
    match value:
        case bool() | int() | float() | str():
            return value
        case Retry():
            return _retry(value)
        case Chain():
            return value.name
        case _:
            return name_of(value)


def _retry(retry: Retry) -> dict[str, Json]:
    return {
        "max_attempts": retry.max_attempts,
        "base": seconds(retry.base),
        "factor": retry.factor,
        "cap": seconds(retry.cap),
        "jitter": retry.jitter,
        "retry_on": _class_names(retry.retry_on),
        "give_up_on": _class_names(retry.give_up_on),
    }


def _class_names(error_types: ErrorTypes) -> list[Json]:
    return [cls.__qualname__ for cls in (error_types if isinstance(error_types, tuple) else (error_types,))]


def _name_of_constant(value: Any) -> str:
    if isinstance(value, Enum):
        return f"{type(value).__qualname__}.{value.name}"
    return value.__qualname__ if isinstance(value, type) else name_of(value)


def _is_same(one: object, other: object) -> bool:
    # A bound method is another object each time it is looked up.
    return one is other or (isinstance(one, MethodType) and one == other)
