"""Graphs: steps that run as soon as what they depend on is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias, cast

from flujo_async._model.tree import Json
from flujo_async._plan.pipeline import Chain, End
from flujo_async._plan.step import Step
from flujo_async.errors import DefinitionError

GraphOnError: TypeAlias = Literal["cancel", "finish"]
"""What the failure of a step does to those that do not depend on it: cancel them, or let them finish."""

WhenSkipped: TypeAlias = Literal["none", "default", "skip"]
"""What a parameter gets whose input was skipped: ``None``, its default, or the step is skipped as well."""


@dataclass(frozen=True, slots=True)
class Dependency:
    """A parameter that is filled with the output of another step.

    Attributes:
        parameter: its name.
        steps: the name of the step; the names of several are an OR group.
        when: what is asked about the output, if anything.
        when_skipped: what happens if there is no output.
    """

    parameter: str
    steps: tuple[str, ...]
    when: Callable[[Any], object] | None
    when_skipped: WhenSkipped


@dataclass(frozen=True, slots=True)
class Gate:
    """The actions of a reviewing step that lead to a step."""

    step: str
    actions: tuple[str, ...]


@dataclass(frozen=True)
class GraphNode:
    """A step in a graph.

    Attributes:
        step: the step.
        dependencies: what it needs from other steps.
        gates: the edges that lead here; where there are some, one has to be taken.
    """

    step: Step[Any, Any]
    dependencies: tuple[Dependency, ...]
    gates: tuple[Gate, ...]

    @cached_property
    def name(self) -> str:
        """The name of the step."""
        return self.step.name

    @cached_property
    def entries(self) -> Sequence[str]:
        """The parameters that take the entries of their names from the input of the graph."""
        signature = self.step.signature
        return [name for name in signature.parameters if name not in signature.dependencies]

    @cached_property
    def predecessors(self) -> Sequence[str]:
        """The steps that come before, each once."""
        depended = [name for dependency in self.dependencies for name in dependency.steps]
        return list(dict.fromkeys([*depended, *(gate.step for gate in self.gates)]))

    def structure(self) -> Json:
        """Return what makes a recorded run fit."""
        edges: list[Json] = [[item.parameter, list(item.steps), item.when is not None] for item in self.dependencies]
        gates: list[Json] = [[gate.step, list(gate.actions)] for gate in self.gates]
        return [self.step.structure(), edges, gates]


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph(Chain[Mapping[str, Any] | None, Any]):
    """Steps with what they depend on. Made by ``graph``.

    Attributes:
        nodes: the steps, each after all that come before it.
        on_error: what a failure does.
    """

    nodes: tuple[GraphNode, ...]
    on_error: GraphOnError
    name: str = "graph"

    def inlets(self) -> list[End]:
        """Return what takes the mapping; nothing where no step takes an entry."""
        if not any(node.entries for node in self.nodes):
            return []
        return [End(self.name, Mapping[str, Any] if self.required_entries else Mapping[str, Any] | None)]

    def outlets(self) -> list[End]:
        """Return the one sink, or the dictionary of several."""
        sinks = self.sinks()
        return sinks[0].step.outlets() if len(sinks) == 1 else [End(self.name, dict[str, Any])]

    def sinks(self) -> list[GraphNode]:
        """Return the nodes that nothing comes after."""
        return [node for node in self.nodes if not self.after[node.name]]

    @cached_property
    def by_name(self) -> Mapping[str, GraphNode]:
        """The nodes, each after all that come before it."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def after(self) -> Mapping[str, Sequence[str]]:
        """The nodes that come right after each node."""
        after: dict[str, list[str]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for name in node.predecessors:
                after[name].append(node.name)
        return after

    @cached_property
    def required_entries(self) -> Sequence[tuple[str, str]]:
        """The entries that have to be there, each with the step that needs it."""
        return [
            (name, node.name)
            for node in self.nodes
            for name in node.entries
            if name not in node.step.signature.defaults
        ]

    def walk(self) -> Iterator[Chain[Any, Any]]:
        """Yield this and every step in it."""
        yield self
        for node in self.nodes:
            yield from node.step.walk()

    def structure(self) -> Json:
        """Return the steps and their edges."""
        return ["Graph", self.name, [node.structure() for node in self.nodes]]

    def check_input(self, input: Any) -> None:
        """Check that an input has every entry that a step needs.

        Raises:
            DefinitionError: it has not; names the entries and the steps that need them.
        """
        entries = set(cast("Mapping[str, Any]", input)) if isinstance(input, Mapping) else set[str]()
        missing = [f"{name!r} for step {step!r}" for name, step in self.required_entries if name not in entries]
        if missing:
            given = "" if input is None or isinstance(input, Mapping) else f", and is a mapping, not {input!r}"
            raise DefinitionError(f"the input of the graph lacks {', '.join(missing)}{given}")
