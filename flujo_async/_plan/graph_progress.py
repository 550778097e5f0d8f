"""Where the nodes of a graph stand, and what follows from that. A pure function of what has ended so far."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias

from flujo_async._model.state import StepStatus
from flujo_async._plan.graph import Dependency, Gate, Graph, GraphNode

Verdict: TypeAlias = Literal["wait", "run", "skip", "cancel"]

_LOST = (StepStatus.FAILED, StepStatus.CANCELLED)


class Progress:
    """Which nodes have ended, and how.

    Attributes:
        ended: the status of each node that has ended.
    """

    def __init__(self, graph: Graph) -> None:
        self.ended: dict[str, StepStatus] = {}
        self._graph = graph
        self._lost: list[str] = []
        self._places: dict[str, int] = {}
        self._chosen: dict[str, str] = {}
        self._left: dict[str, int] = {  # of those that wait for all, and so need not be looked at until none is left
            node.name: len(node.predecessors)
            for node in graph.nodes
            if all(len(dependency.steps) == 1 for dependency in node.dependencies)
        }
        self._uneven = set[str]()  # what comes after a skipped node
        self._actions: dict[str, set[str]] = {}
        for gate in (gate for node in graph.nodes for gate in node.gates):
            self._actions.setdefault(gate.step, set()).update(gate.actions)

    def succeed(self, name: str, place: int, action: str | None) -> None:
        """A node has succeeded.

        Args:
            name: the node.
            place: where that stands in the log.
            action: what it chose, if it did.
        """
        self._end(name, StepStatus.SUCCEEDED)
        self._places[name] = place
        if action is not None:
            self._chosen[name] = action

    def lose(self, name: str, status: Literal[StepStatus.FAILED, StepStatus.CANCELLED]) -> None:
        """A node has failed, or is cancelled."""
        self._end(name, status)
        self._lost.append(name)
        for later in self._graph.after[name]:  # it is looked at now
            self._left.pop(later, None)

    def skip(self, name: str) -> None:
        """A node is skipped."""
        self._end(name, StepStatus.SKIPPED)
        self._uneven.update(self._graph.after[name])

    def _end(self, name: str, status: StepStatus) -> None:
        self.ended[name] = status
        for later in self._graph.after[name]:
            if later in self._left:
                self._left[later] -= 1

    def actions(self, name: str) -> set[str]:
        """Return the actions of a node that have edges."""
        return self._actions.get(name, set())

    def verdict(self, node: GraphNode) -> Verdict:
        """Return what is to be done with a node that has not ended."""
        left = self._left.get(node.name)
        if left:
            return "wait"
        if left == 0 and node.name not in self._uneven and not node.gates:
            return "run"  # all before it have succeeded
        inputs = [self._stands(dependency.steps) for dependency in node.dependencies]
        gates = [self._stands((gate.step,)) for gate in node.gates]
        together = (*inputs, *gates)
        if StepStatus.FAILED in together:
            return "cancel"
        if StepStatus.PENDING in together:
            return "wait"
        return "skip" if self._is_passed_over(node, inputs, gates) else "run"

    def _stands(self, steps: Iterable[str]) -> StepStatus:
        """Return how a step or an OR group stands: one success is enough, whatever becomes of the others."""
        found = [self.ended.get(name, StepStatus.PENDING) for name in steps]
        if StepStatus.SUCCEEDED in found:
            return StepStatus.SUCCEEDED
        if StepStatus.PENDING in found:
            return StepStatus.PENDING
        return StepStatus.FAILED if any(status in _LOST for status in found) else StepStatus.SKIPPED

    def _is_passed_over(self, node: GraphNode, inputs: list[StepStatus], gates: list[StepStatus]) -> bool:
        if gates and not any(self._is_taken(gate) for gate in node.gates):
            return True
        skipped = [item for item, status in zip(node.dependencies, inputs, strict=True) if status is StepStatus.SKIPPED]
        if any(item.when_skipped == "skip" for item in skipped):
            return True
        return not gates and bool(skipped) and len(skipped) == len(inputs)

    def _is_taken(self, gate: Gate) -> bool:
        return self._chosen.get(gate.step) in gate.actions

    def source(self, dependency: Dependency) -> str | None:
        """Return the step whose output fills a parameter: of a group the first that succeeded, if one did."""
        succeeded = [name for name in dependency.steps if name in self._places]
        return min(succeeded, key=self._places.__getitem__, default=None)

    def unexcused(self) -> list[str]:
        """Return the nodes whose failure nothing can make up for any more, in their order.

        A failure is made up for where all that comes after it gets its input from another member of an OR group.
        """
        if not self._lost:
            return []
        excused: dict[str, bool] = {}
        for node in reversed(self._graph.nodes):
            if self.ended.get(node.name) in _LOST:
                after = self._graph.after[node.name]
                excused[node.name] = bool(after) and all(self._does_without(later, excused) for later in after)
        failed = [name for name in excused if self.ended[name] is StepStatus.FAILED and not excused[name]]
        return failed[::-1]

    def _does_without(self, name: str, excused: dict[str, bool]) -> bool:
        """Return whether a node that comes after a failure runs all the same, or may be missing itself."""
        return excused[name] if self.ended.get(name) is StepStatus.CANCELLED else True
