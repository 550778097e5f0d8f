"""A pipeline as a coroutine over a journal.

What the journal has is taken from there, in any order; what it does not have is executed and recorded. A replay
is the same walk with a fuller journal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, assert_never, cast

from flujo_async._codec.items import item_trees, mapping_tree
from flujo_async._log.keys import RUN_INPUT, child, is_top_level, item_source
from flujo_async._model.facts import BlockCompleted, ChoiceMade, Patch
from flujo_async._model.tree import Json
from flujo_async._plan.graph import Graph
from flujo_async._plan.nodes import (
    Block,
    Branch,
    Child,
    Compound,
    Loop,
    MapEach,
    Node,
    OnError,
    Parallel,
    Question,
    Sleep,
    WaitFor,
)
from flujo_async._plan.pipeline import Pipeline
from flujo_async._plan.step import Step
from flujo_async._plan.workflow import Workflow
from flujo_async._runtime.calls import ChildCall, execute_step, migrate, recorded_step, sleep, wait_for
from flujo_async._runtime.contexts import Scope, main_scope
from flujo_async._runtime.execution import Execution, Fault, Value
from flujo_async._runtime.graph_run import GraphRun
from flujo_async._runtime.group import Group, Member, Outcome
from flujo_async._runtime.workflow import run_workflow
from flujo_async.errors import AllBranchesFailed, ContextConflict, LoopExhausted, NoBranch, SerializationError


class Interpreter:
    """Walks a pipeline for one run."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._journal = execution.journal
        self._has_migrations = bool(execution.journal.fold.migrations)

    async def run(self, pipeline: Pipeline[Any, Any]) -> Json:
        """Run the pipeline on the run's input and return its encoded output.

        Raises:
            Fault: a step failed for good, or the pipeline could not go on.
        """
        fold = self._journal.fold
        scope = main_scope(fold.started.context)
        value = Value(fold.started.input, RUN_INPUT)
        match pipeline.sequence:
            case (Workflow() as workflow,):  # alone, its steps are the top level
                return (await run_workflow(self._execution, workflow, value, scope, "")).tree
            case elements:
                if isinstance(elements[-1], Step):
                    self._execution.ends_with = pipeline.labels[-1]
                for migration in fold.migrations:
                    scope.change(migration.patch)
                return (await self._sequence(pipeline, value, scope, "")).tree

    async def _sequence(self, pipeline: Pipeline[Any, Any], value: Value, scope: Scope, path: str) -> Value:
        for label, element in zip(pipeline.labels, cast("Sequence[Node]", pipeline.sequence), strict=True):
            key = f"{path}/{label}" if path else label
            if isinstance(element, Step):  # the usual case, and the one of long replays
                outcome = recorded_step(self._execution, element, key, scope)
                if outcome is None:
                    outcome = await execute_step(self._execution, element, key, value, scope)
                elif self._execution.pace.is_over:
                    await self._execution.turn()
                value, key = Value(outcome.output, outcome.key), outcome.key
            else:
                value = await self._element(element, value, scope, key)
            if self._has_migrations:
                migrate(self._execution, scope, key)
        return value

    async def _element(self, node: Compound, value: Value, scope: Scope, key: str) -> Value:
        match node:
            case Sleep() | WaitFor() | Child():
                return await self._wait(node, value, key)
            case Parallel() | MapEach() | Graph():
                return await self._merge(node, value, scope, key)
            case Branch():
                value = await self._branch(node, value, scope, key)
            case Loop():
                value = await self._loop(node, value, scope, key)
            case Workflow():
                value = await run_workflow(self._execution, node, value, scope, key)
            case Block():
                value = await self._sequence(node.body, value, scope, key)
            case _:
                assert_never(node)
        self._complete_block(key, scope, {})
        return value

    async def _wait(self, node: Sleep | WaitFor | Child, value: Value, key: str) -> Value:
        match node:
            case Sleep():
                await sleep(self._execution, key, node.duration)
                return value
            case WaitFor():
                return await wait_for(self._execution, key, node)
            case Child():
                return await ChildCall(self._execution, node, key, value).perform()

    async def _merge(self, node: Parallel | MapEach | Graph, value: Value, scope: Scope, key: str) -> Value:
        """Run what has several members at the same time, whose changes of the context are merged."""
        match node:
            case Parallel():
                return await self._parallel(node, value, scope, key)
            case MapEach():
                return await self._map_each(node, value, scope, key)
            case Graph():
                return await self._graph(node, value, scope, key)

    async def _graph(self, node: Graph, value: Value, scope: Scope, key: str) -> Value:
        graph = GraphRun(self._execution, node, key, value, scope)
        output = await graph.run()
        self._change_by_block(key, scope, graph.patch)
        return output

    async def _parallel(self, node: Parallel, value: Value, scope: Scope, key: str) -> Value:
        fields, lists = scope.fields, scope.lists
        scopes = [Scope(child(key, name), fields, lists) for name, _ in node.branches]
        members = [
            partial(self._sequence, branch, value, inner, _body_path(key, name, branch))
            for (name, branch), inner in zip(node.branches, scopes, strict=True)
        ]
        outcomes = await self._group(node, members, scopes)
        done = self._join(node, outcomes, scopes, scope, key)
        return Value(mapping_tree({node.branches[index][0]: output.tree for index, output in done.items()}))

    async def _map_each(self, node: MapEach, value: Value, scope: Scope, key: str) -> Value:
        items, fields, lists = self._items(value, key), scope.fields, scope.lists
        scopes = [Scope(child(key, index), fields, lists) for index in range(len(items))]
        members = [
            partial(self._sequence, node.body, item, inner, inner.path)
            for item, inner in zip(items, scopes, strict=True)
        ]
        outcomes = await self._group(node, members, scopes)
        done = self._join(node, outcomes, scopes, scope, key)
        return Value([output.tree for output in done.values()])

    async def _group(
        self, node: Parallel | MapEach, members: Sequence[Member], scopes: list[Scope]
    ) -> dict[int, Outcome]:
        names = [scope.path for scope in scopes]
        if self._execution.is_frozen:  # every member is walked through as far as it is recorded
            on_error: OnError = "ignore" if node.on_error == "ignore" else "finish"
            return await Group(self._execution, members, names, max_concurrency=None, on_error=on_error, ahead=[]).run()
        failed = self._execution.recorded.failed_below if node.on_error == "cancel" else dict[str, int]()
        ahead = [index for index, name in enumerate(names) if name in failed]
        ahead.sort(key=lambda index: failed[names[index]])
        group = Group(
            self._execution, members, names, max_concurrency=node.max_concurrency, on_error=node.on_error, ahead=ahead
        )
        return await group.run()

    def _items(self, value: Value, key: str) -> list[Value]:
        try:
            trees = item_trees(value.tree)
        except SerializationError as error:
            found = type(self._execution.read(value.tree, at=f"{key}.input")).__name__
            raise Fault(TypeError(f"{key!r} takes a list, tuple, set or frozenset, not {found}")) from error
        return [Value(tree, item_source(value.source, index)) for index, tree in enumerate(trees)]

    def _join(
        self, node: Parallel | MapEach, outcomes: Mapping[int, Outcome], scopes: list[Scope], scope: Scope, key: str
    ) -> dict[int, Value]:
        """Merge what the members changed in the context, and return the outputs of those that succeeded."""
        done = {index: outcome for index, outcome in outcomes.items() if isinstance(outcome, Value)}
        if outcomes and not done:
            faults = [outcome for outcome in outcomes.values() if isinstance(outcome, Fault)]
            first = faults[0].error
            failure = AllBranchesFailed(f"all {len(faults)} members of {key!r} failed; the first: {first!r}")
            failure.__cause__ = first
            raise Fault(failure, [key for fault in faults for key in fault.keys])
        try:
            self._change_by_block(
                key, scope, lambda: self._execution.contexts.merge(scope, [scopes[index] for index in done])
            )
        except ContextConflict as conflict:
            raise Fault(conflict) from conflict
        return done

    async def _branch(self, node: Branch, value: Value, scope: Scope, key: str) -> Value:
        choice = self._journal.fold.choices.get(key)
        if choice is None:
            await self._execution.enter()
            try:
                choice = self._choose(node, value, scope, key)
                # Durable before the branch begins: asked again after a crash, a selector might answer something else.
                chosen = ChoiceMade(at=self._execution.clock.now(), key=key, choice=choice)
                await self._journal.record(self._execution.durability, chosen)
            finally:
                self._execution.leave()
        case = dict(node.cases)[str(choice)]
        return await self._sequence(case, value, scope, _body_path(key, str(choice), case))

    def _choose(self, node: Branch, value: Value, scope: Scope, key: str) -> str:
        chosen = self._ask(node.selector, value, scope, key)
        for known, label in node.keys:
            if known == chosen:
                return label
        if node.default is None:
            known_keys = ", ".join(repr(known) for known, _ in node.keys)
            raise Fault(NoBranch(f"{key!r}: the selector returned {chosen!r}; there are {known_keys}, and no default"))
        return node.default

    async def _loop(self, node: Loop, value: Value, scope: Scope, key: str) -> Value:
        for turn in range(node.max_iterations):
            path = child(key, turn)
            value = await self._sequence(node.body, value, scope, path)
            is_done = self._journal.fold.choices.get(path)
            if is_done is None:
                is_done = bool(self._ask(node.until, value, scope, path))
                self._journal.note(ChoiceMade(at=self._execution.clock.now(), key=path, choice=is_done))
            if is_done:
                return value
        raise Fault(LoopExhausted(f"{key!r} made all its {node.max_iterations} turns, and until= was never true"))

    def _ask(self, question: Question, value: Value, scope: Scope, key: str) -> Any:
        """Return what a selector or predicate answers, on copies of the value and the context."""
        arguments = [self._execution.read(value.tree, at=f"{key}.input")]
        if question.takes_context:
            arguments.append(self._execution.contexts.read(scope.fields, scope.lists))
        try:
            return question.function(*arguments)
        except Exception as error:  # the user's function may raise anything
            raise Fault(error) from error

    def _change_by_block(self, key: str, scope: Scope, merged: Callable[[], Patch]) -> None:
        """Let the context take in what the members of a combinator changed together, as it is recorded or is now."""
        patch = self._journal.fold.blocks.get(key)
        if patch is None:
            patch = scope.take_in(scope.fields, merged(), key)
        else:
            scope.change(patch)
        self._complete_block(key, scope, patch)

    def _complete_block(self, key: str, scope: Scope, patch: Patch) -> None:
        if key not in self._journal.fold.blocks and (patch or is_top_level(key)):
            self._journal.note(BlockCompleted(at=self._execution.clock.now(), key=key, scope=scope.path, patch=patch))


def _body_path(key: str, label: str, body: Pipeline[Any, Any]) -> str:
    """Return the path of a body's elements; a lone step that is called like its branch needs no level of its own."""
    return key if body.labels == (label,) else child(key, label)
