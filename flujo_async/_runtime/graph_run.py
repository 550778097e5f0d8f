"""A graph, executed over a journal.

Nothing is kept but what has ended: which node goes on follows from that, so a replay walks to where the log ends by
taking in what is recorded, and goes on from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from flujo_async._codec.items import entry_trees, mapping_tree
from flujo_async._codec.tree import TAG
from flujo_async._log.keys import child, entry_source, fallback_of
from flujo_async._model.facts import (
    ChoiceMade,
    GraphStarted,
    Patch,
    StepCancelled,
    StepCompleted,
    StepFailed,
    StepSkipped,
)
from flujo_async._model.state import StepStatus
from flujo_async._model.tree import Json
from flujo_async._plan.depends import ACTION_TAG, Action
from flujo_async._plan.graph import Dependency, Graph, GraphNode
from flujo_async._plan.graph_progress import Progress
from flujo_async._runtime.calls import call_step, migrate
from flujo_async._runtime.contexts import Scope
from flujo_async._runtime.execution import Execution, Fault, Value
from flujo_async._runtime.graph_context import GraphContext
from flujo_async._runtime.siblings import Siblings
from flujo_async.errors import ContextConflict, DefinitionError, NoBranch, SerializationError

_NOTHING = Value(None)
_Question: TypeAlias = tuple[Callable[[Any], object], str, Json]
"""A condition, the key of its answer, and what it is asked about."""


class GraphRun(Siblings):
    """Runs one graph.

    Args:
        execution: the run that it is part of.
        graph: the graph.
        key: where it stands in the run.
        value: its input.
        scope: the context that it works on.
    """

    def __init__(self, execution: Execution, graph: Graph, key: str, value: Value, scope: Scope) -> None:
        super().__init__()
        self._execution = execution
        self._journal = execution.journal
        self._graph = graph
        self._key = key
        self._value = value
        self._nodes = graph.by_name
        self._progress = Progress(graph)
        self._context = GraphContext(execution.contexts, scope, list(self._nodes))
        self._entries: Mapping[str, Json] = {}
        self._outputs: dict[str, Value] = {}
        self._faults: dict[str, Fault] = {}
        self._fatal: set[str] = set()
        self._begun: set[str] = set()
        self._driver = asyncio.current_task()
        self._is_solo = self._journal.soloist is self._driver

    async def run(self) -> Value:
        """Return the output.

        Raises:
            Fault: a step failed, and nothing made up for it; the first one, in the order of the nodes.
        """
        self._entries = self._read_entries()
        if self._key not in self._journal.fold.graphs:
            steps = {self._key_of(node.name): node.name for node in self._graph.nodes}
            self._journal.note(GraphStarted(at=self._execution.clock.now(), key=self._key, steps=steps))
            self._journal.flush()  # so that the steps can be seen while the first of them run
        else:
            await self._take_in_recorded()
        try:
            async with asyncio.TaskGroup() as group:
                self._start(self._advance(self._nodes), group)
            if self._is_stopped and self._broken is None:
                await self._take_in_last()
        except asyncio.CancelledError:
            self._execution.cut_short += [key for name in self._failed() for key in self._faults[name].keys]
            raise
        finally:
            if self._is_solo:
                self._journal.soloist = self._driver
        self._raise_broken()
        if failed := self._failed():
            self._cancel_the_rest()
            faults = [self._faults[name] for name in failed]
            raise Fault(faults[0].error, [key for fault in faults for key in fault.keys])
        return self._output()

    def patch(self) -> Patch:
        """Return what the nodes changed in the context.

        Raises:
            Fault: two of them contradict each other.
        """
        try:
            return self._context.patch()
        except ContextConflict as conflict:
            raise Fault(conflict) from conflict

    # -------------------------------------------------------------------------------------------- which node is next

    def _advance(self, names: Iterable[str]) -> list[GraphNode]:
        """Return the nodes that can begin now, among some; stop all of them if the graph has failed."""
        ready = self._decide(names)
        if self._graph.on_error == "cancel" and self._failed():
            self._stop()
        return [] if self._is_stopped else ready

    def _decide(self, names: Iterable[str]) -> list[GraphNode]:
        """Tell of the nodes that will not run, among some and those after them; return those that can begin now."""
        todo, ready = list(names), list[GraphNode]()
        for name in todo:  # which grows on the way
            if name in self._progress.ended or name in self._begun:
                continue
            node = self._nodes[name]
            match self._progress.verdict(node):
                case "run":
                    if not self._is_outrun(node):
                        self._begun.add(name)
                        ready.append(node)
                case "skip":
                    self._skip(node)
                    todo += self._graph.after[name]
                case "cancel":
                    self._cancel(node)
                    todo += self._graph.after[name]
                case "wait":
                    pass
        return ready

    def _is_outrun(self, node: GraphNode) -> bool:
        """Return whether one of an OR group has only to go on to its end, and may stand first in the log."""
        return any(
            name not in self._progress.ended and self._is_recorded(self._nodes[name])
            for dependency in node.dependencies
            if len(dependency.steps) > 1
            for name in dependency.steps
        )

    def _start(self, nodes: Iterable[GraphNode], group: asyncio.TaskGroup) -> None:
        for node in nodes:
            lane = group.create_task(self._lane(node, group))
            if not lane.done():  # as it is at once where tasks are eager
                self._tasks[lane] = None
        self._name_soloist()

    async def _lane(self, node: GraphNode, group: asyncio.TaskGroup) -> None:
        """Execute a node, then one of those that can begin since it has ended, and so on; the others get own lanes."""
        own = asyncio.current_task()
        assert own is not None
        self._tasks[own] = None  # before what it starts, where tasks are eager, and may stop it
        try:
            while not self._is_stopped:
                if self._execution.pace.is_over:
                    await self._execution.turn()
                await self._to_its_end(node)
                if self._interruption.has_come:  # it may have taken no notice
                    return
                ready = self._advance(self._graph.after[node.name])
                if not ready:
                    return
                node, *others = ready
                if others:
                    self._start(others, group)
        except BaseException as error:
            self._break(error)
        finally:
            self._tasks.pop(own, None)
            self._name_soloist()

    def _name_soloist(self) -> None:
        """Let the only lane commit at once, where nothing stands beside the graph either."""
        if self._is_solo:
            self._journal.soloist = next(iter(self._tasks)) if len(self._tasks) == 1 else None

    async def _to_its_end(self, node: GraphNode) -> None:
        is_wanted = not self._is_refused(node)
        if is_wanted and (unasked := self._unasked(node)):
            try:
                is_wanted = await self._are_all_so(unasked)
            except Fault as fault:
                self._fail(node, fault, is_fatal=True)
                return
        if not is_wanted:
            self._skip(node)
            return
        try:
            await self._perform(node, self._arguments(node))
        except asyncio.CancelledError as error:
            self._fail(node, self._as_fault(error, f"step {self._key_of(node.name)!r}"))

    async def _take_in_recorded(self) -> None:
        """Let the nodes end that have ended in the log; all that comes before one of them has ended there as well."""
        for node in self._graph.nodes:
            if node.name in self._progress.ended:
                continue
            if self._execution.pace.is_over:
                await self._execution.turn()
            if self._is_recorded(node):
                await self._perform(node, {})
                continue
            verdict = self._progress.verdict(node)
            if verdict == "skip" or (verdict == "run" and self._is_refused(node)):
                self._skip(node)

    async def _take_in_last(self) -> None:
        """Take in what was on its way to the store when it was cancelled, and what follows from it."""
        with self._execution.waits.activity:
            await self._journal.settle()
        await self._take_in_recorded()
        self._decide(self._nodes)

    def _is_recorded(self, node: GraphNode) -> bool:
        """Return whether the log has how a node ended, or the step that stood in for it."""
        outcomes, key, step = self._journal.fold.outcomes, self._key_of(node.name), node.step
        while isinstance(outcomes.get(key), StepFailed) and step.policy.fallback is not None:
            key, step = fallback_of(key), step.policy.fallback
        return key in outcomes

    # -------------------------------------------------------------------------------------------- how one node ends

    async def _perform(self, node: GraphNode, named: Mapping[str, Value]) -> None:
        """Execute a node, or take how it ended from the log."""
        key, before = self._key_of(node.name), self._before(node)
        try:
            scope = self._context.start(node.name, key, before)
            done = await call_step(self._execution, node.step, key, None, scope, named)
            migrate(self._execution, scope, done.key)
            action = self._action(node, done)
        except ContextConflict as conflict:
            self._fail(node, Fault(conflict), is_fatal=True)
        except Fault as fault:
            self._fail(node, fault, is_fatal=isinstance(fault.error, NoBranch))
        else:
            self._outputs[node.name] = Value(done.output, done.key)
            self._context.end(node.name, scope)
            self._progress.succeed(node.name, self._journal.fold.places[done.key], action)

    def _before(self, node: GraphNode) -> list[str]:
        """Return the nodes whose changes of the context a node sees: of an OR group those of the one it was given."""
        names: list[str] = [gate.step for gate in node.gates]
        for dependency in node.dependencies:
            source = self._progress.source(dependency)
            names += dependency.steps if source is None else (source,)
        return names

    def _action(self, node: GraphNode, done: StepCompleted) -> str | None:
        """Return the action that a node chose.

        Raises:
            Fault: it has no edge.
        """
        if not _is_action(done.output):
            return None
        action: Action = self._execution.read(done.output, at=f"{done.key}.output")
        known = self._progress.actions(node.name)
        if action.name not in known:
            names = ", ".join(map(repr, sorted(known))) or "none at all"
            raise Fault(NoBranch(f"{done.key!r} chose the action {action.name!r}; the graph has edges for {names}"))
        return action.name

    def _fail(self, node: GraphNode, fault: Fault, *, is_fatal: bool = False) -> None:
        self._faults[node.name] = fault
        if is_fatal:
            self._fatal.add(node.name)
        self._progress.lose(node.name, StepStatus.FAILED)

    def _skip(self, node: GraphNode) -> None:
        self._context.skip(node.name, self._before(node))
        self._progress.skip(node.name)
        self._tell(node, StepSkipped, StepStatus.SKIPPED)

    def _cancel(self, node: GraphNode) -> None:
        self._progress.lose(node.name, StepStatus.CANCELLED)
        self._tell(node, StepCancelled, StepStatus.CANCELLED)

    def _tell(self, node: GraphNode, kind: type[StepSkipped | StepCancelled], status: StepStatus) -> None:
        key = self._key_of(node.name)
        if self._journal.fold.not_run.get(key) != (node.name, status):
            self._journal.note(kind(at=self._execution.clock.now(), key=key, name=node.name))

    # ------------------------------------------------------------------------------------------- what a node is given

    def _unasked(self, node: GraphNode) -> list[_Question]:
        """Return the conditions of a node that have not been asked."""
        choices = self._journal.fold.choices
        return [
            (dependency.when, key, self._outputs[source].tree)
            for dependency in node.dependencies
            if dependency.when is not None and (source := self._progress.source(dependency)) is not None
            if (key := self._choice_key(node, dependency)) not in choices
        ]

    async def _are_all_so(self, unasked: Iterable[_Question]) -> bool:
        """Return whether all conditions hold.

        Raises:
            Fault: one of them raised something.
        """
        await self._execution.enter()
        try:
            answers = [self._ask(*question) for question in unasked]
            if all(answers):
                # Durable before the step begins: asked again after a crash, a condition might answer something else.
                await self._journal.record(self._execution.durability)
        finally:
            self._execution.leave()
        return all(answers)

    def _ask(self, when: Callable[[Any], object], key: str, tree: Json) -> bool:
        value = self._execution.read(tree, at=f"{key}.input")
        try:
            answer = bool(when(value))
        except Exception as error:  # the user's function may raise anything
            raise Fault(error) from error
        self._journal.note(ChoiceMade(at=self._execution.clock.now(), key=key, choice=answer))
        return answer

    def _is_refused(self, node: GraphNode) -> bool:
        """Return whether a condition of a node has been recorded as false."""
        choices = self._journal.fold.choices
        keys = (self._choice_key(node, dependency) for dependency in node.dependencies) if choices else ()
        return any(choices.get(key) is False for key in keys)

    def _choice_key(self, node: GraphNode, dependency: Dependency) -> str:
        return child(self._key_of(node.name), dependency.parameter)

    def _arguments(self, node: GraphNode) -> dict[str, Value]:
        named = {name: self._entry(name) for name in node.entries if name in self._entries}
        for dependency in node.dependencies:
            source = self._progress.source(dependency)
            if source is not None:
                named[dependency.parameter] = self._outputs[source]
            elif dependency.when_skipped == "none":
                named[dependency.parameter] = _NOTHING
        return named

    def _entry(self, name: str) -> Value:
        return Value(self._entries[name], entry_source(self._value.source, name))

    def _read_entries(self) -> Mapping[str, Json]:
        try:
            entries: Mapping[str, Json] = entry_trees(self._value.tree)
        except SerializationError:  # it may be no mapping where nothing is taken from it
            entries = {}
        try:
            self._graph.check_input(entries or self._execution.read(self._value.tree, at=f"{self._key}.input"))
        except DefinitionError as error:
            raise Fault(error) from error
        return entries

    # --------------------------------------------------------------------------------------------- how the graph ends

    def _failed(self) -> list[str]:
        """Return the nodes whose failure is the graph's, in their order."""
        failed = {*self._progress.unexcused(), *self._fatal}
        return [name for name in self._nodes if name in failed] if failed else []

    def _cancel_the_rest(self) -> None:
        for node in self._graph.nodes:
            if node.name not in self._progress.ended:
                self._cancel(node)
            elif node.name in self._fatal and not self._is_recorded(node):  # its condition or its context failed
                self._tell(node, StepCancelled, StepStatus.CANCELLED)

    def _output(self) -> Value:
        sinks = [node.name for node in self._graph.sinks()]
        outputs = {name: self._outputs.get(name, _NOTHING) for name in sinks}
        if len(sinks) == 1:
            return outputs[sinks[0]]
        return Value(mapping_tree({name: value.tree for name, value in outputs.items()}))

    def _key_of(self, name: str) -> str:
        return child(self._key, name)


def _is_action(tree: Json) -> bool:
    return isinstance(tree, dict) and tree.get(TAG) == ACTION_TAG
