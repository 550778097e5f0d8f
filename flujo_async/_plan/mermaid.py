"""Definitions drawn as flow charts, in the language of Mermaid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, assert_never, cast

from flujo_async._plan.graph import Graph, GraphNode
from flujo_async._plan.nodes import Block, Branch, Child, Loop, MapEach, Node, Parallel, Sleep, WaitFor
from flujo_async._plan.pipeline import Pipeline
from flujo_async._plan.signature import name_of
from flujo_async._plan.step import Step
from flujo_async._plan.workflow import Workflow

_ESCAPES: Final = {ord(sign): f"#{ord(sign)};" for sign in '"#<>&`\\'} | {ord(sign): " " for sign in "\r\n"}


def flowchart(pipeline: Pipeline[Any, Any]) -> str:
    """Return a pipeline as a flow chart from the top down."""
    chart = _Chart()
    chart.sequence(pipeline)
    return "\n".join(["flowchart TD", *chart.nodes, *chart.edges]) + "\n"


@dataclass(frozen=True, slots=True)
class _Drawn:
    """What was drawn: the nodes where an arrow comes in, and those where one goes out."""

    ins: Sequence[str]
    outs: Sequence[str]


@dataclass(slots=True)
class _Chart:
    """The lines of a chart; edges come last, since a node belongs to the box in which it is first named."""

    nodes: list[str] = field(default_factory=list[str])
    edges: list[str] = field(default_factory=list[str])
    _count: int = 0
    _depth: int = 1

    def sequence(self, pipeline: Pipeline[Any, Any]) -> _Drawn:
        """Draw the elements of a pipeline one after the other."""
        drawn = [self._element(cast("Node", element)) for element in pipeline.sequence]
        for above, below in pairwise(drawn):
            self._connect(above.outs, below.ins)
        return _Drawn(drawn[0].ins, drawn[-1].outs)

    def _element(self, node: Node) -> _Drawn:  # noqa: C901, PLR0911 -- a case for each kind
        match node:
            case Step():
                return self._leaf("[", node.name, "]")
            case Workflow():
                return self._leaf("[[", node.name, "]]")
            case Sleep():
                return self._leaf("([", f"sleep {node.duration:g} s", "])")
            case WaitFor():
                return self._leaf("[/", f"wait for {node.name}", "/]")
            case Parallel():
                return self._fork("{{", "parallel", "}}", [("", body) for _, body in node.branches])
            case Branch():
                return self._fork("{", name_of(node.selector.function), "}", list(node.cases))
            case MapEach():
                return self._box("map_each", node.body)
            case Loop():
                return self._loop(node)
            case Block():
                return self._box(node.name, node.body)
            case Child():
                return self._box(f"child {node.name}", node.body)
            case Graph():
                return self._graph(node)
            case _:
                assert_never(node)

    def _leaf(self, left: str, text: str, right: str) -> _Drawn:
        name = self._new_name()
        self._line(f"{name}{left}{_quoted(text)}{right}")
        return _Drawn([name], [name])

    def _fork(self, left: str, text: str, right: str, bodies: list[tuple[str, Pipeline[Any, Any]]]) -> _Drawn:
        head = self._leaf(left, text, right)
        outs: list[str] = []
        for label, body in bodies:
            drawn = self.sequence(body)
            self._connect(head.outs, drawn.ins, label)
            outs += drawn.outs
        return _Drawn(head.ins, outs)

    def _loop(self, node: Loop) -> _Drawn:
        drawn = self._box("loop", node.body)
        self._connect(drawn.outs, drawn.ins, f"not {name_of(node.until.function)}", arrow="-.->")
        return drawn

    def _box(self, title: str, body: Pipeline[Any, Any]) -> _Drawn:
        self._open(title)
        drawn = self.sequence(body)
        self._close()
        return drawn

    def _graph(self, graph: Graph) -> _Drawn:
        self._open(graph.name)
        names = {node.name: self._leaf("[", node.name, "]").ins[0] for node in graph.nodes}
        self._close()
        for node in graph.nodes:
            self._dependencies(node, names)
        roots = [names[node.name] for node in graph.nodes if not node.predecessors]
        return _Drawn(roots, [names[node.name] for node in graph.sinks()])

    def _dependencies(self, node: GraphNode, names: dict[str, str]) -> None:
        target = [names[node.name]]
        for dependency in node.dependencies:
            label = dependency.parameter
            if dependency.when is not None:
                label += f" when {name_of(dependency.when)}"
            arrow = "-.->" if len(dependency.steps) > 1 else "-->"
            self._connect([names[name] for name in dependency.steps], target, label, arrow=arrow)
        for gate in node.gates:
            self._connect([names[gate.step]], target, " or ".join(gate.actions), arrow="==>")

    def _connect(self, sources: Sequence[str], targets: Sequence[str], label: str = "", *, arrow: str = "-->") -> None:
        middle = f"{arrow}|{_quoted(label)}|" if label else arrow
        self.edges += [f"    {source} {middle} {target}" for source in sources for target in targets]

    def _open(self, title: str) -> None:
        self._line(f"subgraph {self._new_name()}[{_quoted(title)}]")
        self._depth += 1

    def _close(self) -> None:
        self._depth -= 1
        self._line("end")

    def _line(self, text: str) -> None:
        self.nodes.append("    " * self._depth + text)

    def _new_name(self) -> str:
        self._count += 1
        return f"n{self._count}"


def _quoted(text: str) -> str:
    return '"' + text.translate(_ESCAPES) + '"'
