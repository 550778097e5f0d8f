"""Definitions read back from documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from flujo_async._model.tree import Json
from flujo_async._plan.combinators import as_step, branch, child, loop, map_each, parallel, sleep, wait_for
from flujo_async._plan.depends import On
from flujo_async._plan.export import PLAIN, SCHEMA, TYPES, dependencies_of
from flujo_async._plan.graph import Graph
from flujo_async._plan.graph_build import graph
from flujo_async._plan.pipeline import Chain, Pipeline
from flujo_async._plan.step import Step
from flujo_async._plan.workflow import Workflow
from flujo_async.errors import DefinitionError


def pipeline_of(data: Mapping[str, Any], given: Mapping[str, Any]) -> Pipeline[Any, Any]:
    """Return the pipeline that ``document_of`` wrote down.

    Args:
        data: the document.
        given: what its names stand for.

    Raises:
        DefinitionError: names are missing, or it is no such document.
    """
    if data.get("schema") != SCHEMA:
        raise DefinitionError(
            f"from_dict() reads what to_dict() returned with schema {SCHEMA}; here: {data.get('schema')!r}"
        )
    missing = [repr(name) for name in _items(data, "names") if name not in given]
    if missing:
        raise DefinitionError(f"the document names what was not given: {', '.join(missing)}")
    return _with_durability(_Reader(given).sequence(_items(data, "elements")), data)


class _Reader:
    """Puts elements together again."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._things = given

    def sequence(self, elements: Sequence[Json]) -> Pipeline[Any, Any]:
        """Return the pipeline of some elements."""
        return Pipeline(tuple(self._element(_table(element)) for element in elements))

    def _element(self, data: Mapping[str, Json]) -> Chain[Any, Any]:  # noqa: C901, PLR0911 -- a case for each kind
        match data.get("kind"):
            case "step":
                return self._definition(_text(data, "step"), Step)
            case "workflow":
                return self._definition(_text(data, "workflow"), Workflow)
            case "parallel":
                bodies = [self._body(_table(entry)) for entry in _items(data, "branches")]
                return parallel(*bodies, **_only(data, "max_concurrency", "on_error"))
            case "map_each":
                return map_each(self._body(data), **_only(data, "max_concurrency", "on_error"))
            case "branch":
                return self._branch(data)
            case "loop":
                until = self._thing(_text(data, "until"))
                return loop(self._body(data), until=until, **_only(data, "max_iterations"))
            case "block":
                return as_step(self._body(data), name=_text(data, "name"))
            case "child":
                return child(_with_durability(self._body(data), data), name=_text(data, "name"))
            case "sleep":
                return sleep(**_only(data, "duration"))
            case "wait_for":
                return self._wait_for(data)
            case "graph":
                return self._graph(data)
            case _:
                raise _malformed(data)

    def _body(self, data: Mapping[str, Json]) -> Pipeline[Any, Any]:
        return self.sequence(_items(data, "body"))

    def _branch(self, data: Mapping[str, Json]) -> Chain[Any, Any]:
        cases = [_table(case) for case in _items(data, "cases")]
        chosen = {self._constant(case.get("key")): self._body(case) for case in cases}
        default = None if data.get("default") is None else self.sequence(_items(data, "default"))
        return branch(self._thing(_text(data, "selector")), chosen, default=default)

    def _wait_for(self, data: Mapping[str, Json]) -> Chain[Any, Any]:
        schema = None if data.get("schema") is None else self._thing(_text(data, "schema"))
        default = self._constant(data["default"]) if "default" in data else ...
        return wait_for(_text(data, "name"), schema=schema, default=default, **_only(data, "prompt", "timeout"))

    def _graph(self, data: Mapping[str, Json]) -> Chain[Any, Any]:
        written = [_table(step) for step in _items(data, "steps")]
        nodes = {step.name: step for step in (self._definition(_text(step, "step"), Step) for step in written)}
        ways: dict[On, list[Chain[Any, Any]]] = {}
        for edge in map(_table, _items(data, "edges")):
            source, target = (nodes.get(_text(edge, end)) for end in ("from", "to"))
            if source is None or target is None:
                raise _malformed(edge)
            ways.setdefault(On(source, _text(edge, "action")), []).append(target)
        made = graph(*nodes.values(), ways, **_only(data, "on_error"))
        _check_same(cast("Graph", made), written)
        return made

    def _constant(self, tree: Json) -> Any:
        match tree:
            case {"$": "ref", "v": str(name)}:
                return self._thing(name)
            case _:
                return PLAIN.decode(tree)

    def _definition(self, name: str, kind: type[Step[Any, Any, Any] | Workflow[Any, Any]]) -> Chain[Any, Any]:
        thing = self._thing(name)
        if not isinstance(thing, kind):
            raise DefinitionError(f"{name!r} is a {kind.__name__.lower()} in the document, not {thing!r}")
        return thing  # pyright: ignore[reportUnknownVariableType] -- parameters are not kept at run time

    def _thing(self, name: str) -> Any:
        for known in (self._things, TYPES):
            if name in known:
                return known[name]
        raise DefinitionError(f"the document names what was not given: {name!r}")


def _with_durability(pipeline: Pipeline[Any, Any], data: Mapping[str, Json]) -> Pipeline[Any, Any]:
    return pipeline.with_durability(cast("Any", data["durability"])) if "durability" in data else pipeline


def _table(data: Json) -> Mapping[str, Json]:
    if not isinstance(data, dict):
        raise _malformed(data)
    return data


def _items(data: Mapping[str, Json], name: str) -> Sequence[Json]:
    items = data.get(name)
    if not isinstance(items, list):
        raise _malformed(data)
    return items


def _text(data: Mapping[str, Json], name: str) -> str:
    text = data.get(name)
    if not isinstance(text, str):
        raise _malformed(data)
    return text


def _only(data: Mapping[str, Json], *names: str) -> dict[str, Any]:
    if not set(names) <= data.keys():
        raise _malformed(data)
    return {name: data[name] for name in names}


def _check_same(made: Graph, written: Sequence[Mapping[str, Json]]) -> None:
    """Check that the annotations of the steps say the same as the document."""
    if len(made.nodes) != len(written):
        raise DefinitionError("the steps given depend on steps that are not in the document")
    for node, data in zip(made.nodes, written, strict=True):
        if dependencies_of(node) != data.get("depends"):
            raise DefinitionError(f"step {node.name!r} depends on other steps than the document says")


def _malformed(data: object) -> DefinitionError:
    return DefinitionError(f"not an element of a document: {data!r}")
