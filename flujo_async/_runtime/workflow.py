"""The code of a workflow as a coroutine over a journal."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from flujo_async._log.delta import diff
from flujo_async._log.keys import child
from flujo_async._model.facts import EventEmitted, MetadataSet, Patch, StateChanged, ValueDrawn
from flujo_async._model.policy import Duration, check_timer
from flujo_async._model.tree import Json
from flujo_async._model.usage import Usage
from flujo_async._plan.calls import CALLS, Calls
from flujo_async._plan.combinators import child as child_node
from flujo_async._plan.combinators import wait_for as wait_node
from flujo_async._plan.definition import annotations_of
from flujo_async._plan.nodes import Child, WaitFor
from flujo_async._plan.pipeline import Chain
from flujo_async._plan.step import Step
from flujo_async._plan.workflow import RunContext, Workflow
from flujo_async._runtime.calls import (
    ChildCall,
    execute_step,
    last_to_stand_in,
    recorded_step,
    remember_to_undo,
    sleep,
    wait_for,
)
from flujo_async._runtime.contexts import Scope
from flujo_async._runtime.draws import DRAWS
from flujo_async._runtime.execution import Execution, Fault, Interruption, Value, uncalled_for
from flujo_async._runtime.failures import Failures
from flujo_async._runtime.lanes import LANE, Lane, describe, digest, labelling
from flujo_async._runtime.live_scope import LiveScope
from flujo_async._runtime.misread import Misread
from flujo_async._runtime.one_attempt import usage_fact
from flujo_async._runtime.program import plain_json
from flujo_async._runtime.replay import Replay
from flujo_async._runtime.script import begin_of, place_of, to_migrate
from flujo_async.abc.shield import finish, settle
from flujo_async.errors import BackendError, SerializationError

T = TypeVar("T")


def _tree_of(value: Value | None, named: Mapping[str, Value], extra: Sequence[Value]) -> Json:
    """Return what the arguments of a call are in its key."""
    first = None if value is None else value.tree
    if not named and not extra:  # the usual case
        return [first, {}, []]
    return [first, {name: item.tree for name, item in named.items()}, [item.tree for item in extra]]


async def run_workflow(
    execution: Execution, workflow: Workflow[Any, Any], value: Value, scope: Scope, path: str
) -> Value:
    """Return what a workflow returns; the keys of its calls begin with ``path``.

    Raises:
        Fault: it raised.
    """
    return await _Run(execution, workflow, scope, path).complete(value)


class _Run:
    """One execution of a workflow's code. What it does for that code is described at ``Calls``."""

    def __init__(self, execution: Execution, workflow: Workflow[Any, Any], scope: Scope, path: str) -> None:
        execution.codec.learn_from(workflow, annotations_of)
        self.run_id = execution.run_id
        self._execution = execution
        self._workflow = workflow
        self._path = path
        self._outer = scope
        self._lane = Lane(path, execution.waits.activity)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._replay = replay = Replay(execution, path, self._tasks)
        self._migrations = migrations = to_migrate(execution, path)
        history = execution.recorded.changed(path, scope.path, migrations)
        gone = {name for each in migrations for name, change in each.patch.items() if change == ["drop"]}
        lane = self._lane
        self._scope = LiveScope(
            scope,
            execution.contexts,
            self._record,
            history,
            is_replayed=lambda: replay.is_over and not migrations,
            has_tasks=lambda: lane.has_tasks,
            gone=gone,
        )
        self._learned: dict[int, Step[Any, Any]] = {}  # by identity, which is theirs while they are here
        self._unheard: list[asyncio.Task[Any]] = []  # they have failed, and nobody had looked at that when they did
        self._made = 0
        self._has_drawn = False
        self._failures = Failures(execution.journal.fold)
        self._broken: BackendError | Misread | None = None
        self._driver = asyncio.current_task()
        self._soloist: asyncio.Task[Any] | None = None  # of the run, as long as there are no tasks here
        self._interruption = Interruption()
        self._is_over = False

    async def complete(self, value: Value) -> Value:
        execution = self._execution
        self._replay.enlist(self._lane)
        try:
            with labelling():
                try:
                    output = await self._task_of_its_own(value)
                finally:
                    await self._clear_away()
            self._replay.check_end()
            self._note_state_at_end()
            tree = execution.codec.encode(output, at=f"{self._workflow.name}.output")
        except asyncio.CancelledError:
            execution.cut_short += self._failures.last
            raise
        except Misread:
            raise
        except Exception as error:  # whatever the code raises fails the run
            if (failure := self._failure) is not None:
                raise failure from failure.__cause__  # and not from what the code has made of it
            with suppress(SerializationError):  # that it cannot be stored may be why the code has failed
                self._note_state_at_end()
            raise Fault(error, self._failures.behind(error)) from error
        finally:
            self._lane.end()
            self._scope.end()
            self._replay.close()
        self._outer.become(self._scope)
        return Value(tree)

    async def _task_of_its_own(self, value: Value) -> Any:
        """Run the code in a task of its own, so that what it cancels is not taken for an interruption of the run.

        Raises:
            CancelledError: the run is interrupted.
            BackendError: the store has failed.
            Misread: what is recorded does not fit its class.
        """
        try:
            output = await asyncio.create_task(self._code(value))
        except asyncio.CancelledError as error:
            if (failure := self._failure) is not None:
                raise failure from failure.__cause__
            if self._is_interrupted:
                raise
            raise uncalled_for(f"workflow {self._workflow.name!r}") from error
        if self._is_interrupted:  # the code has taken no notice
            raise self._failure or asyncio.CancelledError
        return output

    async def _code(self, value: Value) -> Any:
        self._migrate()
        CALLS.set(self)
        LANE.set(self._lane)
        self._lane.task = task = asyncio.current_task()
        journal = self._execution.journal
        if journal.soloist is self._driver:
            self._soloist = journal.soloist = task
        try:
            return await self._call_function(value)
        finally:
            if self._soloist is task:
                self._soloist = self._driver
            if journal.soloist is task:
                journal.soloist = self._driver

    def _call_function(self, value: Value) -> Awaitable[Any]:
        signature = self._workflow.signature
        arguments: list[Any] = []
        if signature.takes_input:
            arguments.append(self._execution.read(value.tree, at=f"{self._workflow.name}.input"))
        named = {} if signature.context_parameter is None else {signature.context_parameter: RunContext(self)}
        coroutine: Awaitable[Any] = self._workflow.function(*arguments, **named)
        return coroutine

    async def _clear_away(self) -> None:
        """End the tasks that the code has left behind: all of them, also if the run is interrupted meanwhile."""
        self._is_over = True
        try:
            with self._execution.waits.activity:
                if self._tasks:
                    await finish(self._end_tasks())
        finally:
            if self._is_interrupted:  # in a replay the code hears of what has failed; nothing was forgotten
                for task in self._unheard:
                    task.exception()

    async def _end_tasks(self) -> None:
        while self._tasks:  # one that is ended may make others
            for task in list(self._tasks):
                task.cancel()
                await settle(task)
                await asyncio.sleep(0)  # until its callbacks have run

    # ----------------------------------------------------------------------------------------------------- tasks

    def branch(self, coroutine: Any) -> Lane:
        parent = LANE.get() or self._lane
        self._made += 1
        self._execution.journal.soloist = None
        path = parent.label(describe(coroutine, self._execution.labels, self._call.__code__))
        lane = Lane(path, self._execution.waits.activity, parent, self._made)
        self._replay.enlist(lane)
        return lane

    def watch(self, task: asyncio.Task[Any], lane: Lane) -> None:
        self._tasks.add(task)
        self._replay.let_react()
        lane.task = task

        def end(task: asyncio.Task[Any]) -> None:
            self._tasks.discard(task)
            if getattr(task, "_log_traceback", False):
                self._unheard.append(task)
            if task.cancelled():
                self._replay.dismiss(lane)
            lane.end()
            if self._soloist is not None and not self._tasks:
                self._execution.journal.soloist = self._soloist

        task.add_done_callback(end)

    @property
    def _is_interrupted(self) -> bool:
        execution = self._execution
        is_broken = self._broken is not None or execution.journal.failure is not None
        return is_broken or execution.is_stopped or self._interruption.has_come

    @property
    def _failure(self) -> BaseException | None:
        """Why nothing more can be recorded, if that is so."""
        return self._broken or self._execution.journal.failure

    def _here(self) -> Lane:
        lane = LANE.get()
        running: Calls | None = CALLS.get()
        if running is not self or lane is None:
            raise RuntimeError("RunContext is for the code of its workflow; a step has a StepContext")
        return lane

    # ----------------------------------------------------------------------------------------------- calls: awaited

    def step(self, step: Step[Any, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Coroutine[Any, Any, Any]:
        lane, execution = self._here(), self._execution
        if id(step) not in self._learned:
            self._learned[id(step)] = step
            execution.codec.learn_from(step, annotations_of)
        value, named, extra = self._bind(step, args, kwargs)
        label = f"{step.name}:{digest(_tree_of(value, named, extra))}" if args or kwargs else step.name
        key = lane.label(label)
        if step.may_be_undone:
            remember_to_undo(execution, step, key)  # it may have completed, and the code not wait for it this time

        async def perform() -> Any:
            outcome = recorded_step(execution, step, key, self._scope)
            if outcome is None:
                if self._has_drawn or step.policy.fallback is not None:
                    await self._begin_anew(step, key, lane)
                outcome = await execute_step(execution, step, key, value, self._scope, named, extra)
            return execution.read(outcome.output, at=f"{key}.output")

        return self._named(step.name, label, self._call(key, perform))

    async def _begin_anew(self, step: Step[Any, Any], key: str, lane: Lane) -> None:
        """Return when what executes now may do so, if anything does: the step, or one that stands in for it."""
        execution = self._execution
        last = last_to_stand_in(execution, step, key)
        if last in execution.journal.fold.outcomes:
            return
        if last != key and not self._replay.is_turn(last, lane):
            await self._replay.turn(last, lane)
        if self._has_drawn:  # after a crash that would be something else, and the step may tell it to the world
            await execution.enter()
            try:
                self._has_drawn = False
                await execution.journal.record(step.policy.durability or execution.durability)
            finally:
                execution.leave()

    def sleep(self, duration: Duration) -> Coroutine[Any, Any, None]:
        key = self._here().label("sleep")
        seconds = check_timer(duration, "sleep()")
        call = self._call(key, lambda: sleep(self._execution, key, seconds, is_ordered=self._made > 0))
        return self._named("RunContext.sleep", "sleep", call)

    def wait_for(self, name: str, **options: Any) -> Coroutine[Any, Any, Any]:
        node = wait_node(name, **options)
        assert isinstance(node, WaitFor)
        self._execution.codec.learn(node.schema)
        label = f"wait.{name}"
        key = self._here().label(label)

        async def perform() -> Any:
            answer = await wait_for(self._execution, key, node)
            return self._execution.read(answer.tree, at=f"{key}.output")

        return self._named("RunContext.wait_for", label, self._call(key, perform))

    def child(self, definition: Chain[Any, Any], input: Any, *, run_id: str | None) -> Coroutine[Any, Any, Any]:
        node = child_node(definition)
        assert isinstance(node, Child)
        execution = self._execution
        execution.codec.learn_from(definition, annotations_of)
        if not self._replay.is_over:  # if the code cancels the call, and it has begun, it has to be ended all the same
            execution.children.learn(node)
        value = Value(execution.codec.encode(input, at=f"{node.name}.input"))
        label = f"{node.name}:{digest(value.tree)}"
        key = self._here().label(label)

        async def perform() -> Any:
            output = await ChildCall(execution, node, key, value, run_id).perform()
            return execution.read(output.tree, at=f"{key}.output")

        return self._named("RunContext.child", label, self._call(key, perform))

    @staticmethod
    def _named(name: str, label: str, call: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
        """Return a call that goes by ``name`` in Python's warning, if nobody awaits it, and by ``label`` in keys."""
        named: Any = call
        named.__qualname__ = name
        named.__name__ = label
        return call

    async def _call(self, key: str, perform: Callable[[], Awaitable[T]]) -> T:
        """Do what the code asks for, as nothing that belongs to the code."""
        lane, execution = self._here(), self._execution
        if self._is_interrupted:
            raise asyncio.CancelledError
        if self._migrations:
            self._migrate(begin_of(key))
        self._failures.last.clear()
        self._scope.note(key)
        outside = CALLS.set(None)
        lane.begin_call()
        try:
            if execution.pace.is_over:
                await execution.turn()
            if not self._replay.is_turn(key, lane):
                await self._replay.turn(key, lane)
            is_alone = not self._made and execution.replay is None
            result = await (perform() if is_alone else self._result(key, perform))
        except asyncio.CancelledError:
            await self._note_cancelled(key, lane)
            raise
        except (BackendError, Misread) as trouble:
            raise self._cut_off(trouble) from trouble
        except Fault as fault:
            self._replay.heard = key
            self._failures.add(fault)
            error = fault.error
        else:
            self._replay.heard = key
            return result
        finally:
            lane.end_call()
            CALLS.reset(outside)
            self._hear(key)
        raise error  # with the cause that it had, and nothing of ours as its context

    def _cut_off(self, trouble: BackendError | Misread) -> asyncio.CancelledError:
        """End the code, since nothing can be done for it any more; return what to raise.

        The code may neither catch what the trouble is, nor fail with it.
        """
        self._broken = self._broken or trouble
        if self._lane.task is not asyncio.current_task() and self._lane.task is not None:
            self._lane.task.cancel()
        return asyncio.CancelledError()

    def _hear(self, key: str) -> None:
        """Show the code how the context is by the end of a call."""
        try:
            if key in self._scope.unheard and not self._is_interrupted:
                self._scope.hear(key)
            if self._migrations:
                self._migrate(key)
        except Misread as trouble:
            raise self._cut_off(trouble) from trouble

    async def _result(self, key: str, perform: Callable[[], Awaitable[T]]) -> T:
        """Return the result of a call when it is its turn, where there are others."""
        order, replay = self._execution.journal.fold.order, self._execution.replay
        recorded = len(order)
        before = place_of(self._execution, key)
        try:
            result = await perform()
        except Fault:
            await self._deliver(key, before)
            raise
        await self._deliver(key, before)
        if replay is not None and len(order) > recorded:
            replay()
        return result

    async def _deliver(self, key: str, before: int) -> None:
        if self._made and place_of(self._execution, key) != before:
            await self._replay.deliver(key)

    async def _note_cancelled(self, key: str, lane: Lane) -> None:
        """Record that the code has cancelled a call, if it was the code; return when it is to hear of that."""
        self._failures.cut_short(key)
        await self._replay.cancel(key, lane, lambda: self._is_interrupted or self._is_over)

    def _bind(
        self, step: Step[Any, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Value | None, dict[str, Value], list[Value]]:
        """Return the arguments of a call: the input if it is given, those by name, and further positional ones."""
        signature, encode = step.signature, self._execution.codec.encode
        if len(args) == 1 and not kwargs and signature.is_input_first:  # the usual case
            return Value(encode(args[0], at=f"{step.name}({signature.input_parameter})")), {}, []
        first_name = signature.input_parameter or ("*" if signature.takes_input else None)
        names = [*(["*"] if first_name == "*" else []), *signature.positional]
        extra = args[len(names) :]
        if extra and not signature.has_varargs:
            raise TypeError(f"step {step.name!r} takes {len(names)} arguments, not {len(args)}")
        given = dict(zip(names, args, strict=False))
        if twice := given.keys() & kwargs.keys():
            raise TypeError(f"step {step.name!r} got {', '.join(sorted(twice))} twice")
        values = {name: Value(encode(item, at=f"{step.name}({name})")) for name, item in {**given, **kwargs}.items()}
        first = values.pop(first_name or "*", None)
        return first, values, [Value(encode(item, at=f"{step.name}(*)")) for item in extra]

    # ------------------------------------------------------------------------------------------------- calls: plain

    def draw(self, kind: str) -> Any:
        key = self._here().label(f"${kind}")
        fold, codec = self._execution.journal.fold, self._execution.codec
        if key in fold.values:
            return codec.decode(fold.values[key])
        drawn = DRAWS[kind](self._execution, key)
        self._has_drawn = True
        self._execution.journal.note(
            ValueDrawn(at=self._execution.clock.now(), key=key, value=codec.encode(drawn, at=kind))
        )
        return drawn

    def emit(self, event: Any) -> None:
        key = self._here().label("$emit")
        data = self._execution.codec.encode(event, at="event")
        if key not in self._execution.journal.fold.values:
            now = self._execution.clock.now()
            self._execution.journal.note(EventEmitted(at=now, key=key, name=self._workflow.name, data=data))

    def report_usage(self, usage: Usage) -> None:
        key = self._here().label("$usage")
        if key not in self._execution.journal.fold.values:
            now = self._execution.clock.now()
            self._execution.journal.note(usage_fact(usage, now, key, self._workflow.name))

    def set_metadata(self, entries: Mapping[str, Any]) -> None:
        key = self._here().label("$metadata")
        metadata = plain_json(entries)
        if key not in self._execution.journal.fold.values:
            self._execution.journal.note(MetadataSet(at=self._execution.clock.now(), key=key, metadata=metadata))

    # ------------------------------------------------------------------------------------------------------ context

    @property
    def state(self) -> Any:
        try:
            return self._scope.live
        except Misread as trouble:
            raise self._cut_off(trouble) from trouble

    def _migrate(self, key: str | None = None) -> None:
        """Change the context where a fork or a migration came when ``key`` was the last call answered."""
        for migration, left in list(self._migrations.items()):
            left.discard(key or "")
            if not left:
                del self._migrations[migration]
                self._scope.migrate(migration)

    def _record(self, patch: Patch, call: str) -> None:
        """Record what the code has changed in the context since the last call."""
        execution = self._execution
        if execution.is_frozen:
            return
        while (key := self._lane.label("$state")) in execution.journal.fold.places:
            pass
        now = execution.clock.now()
        execution.journal.note(StateChanged(at=now, key=key, call=call, scope=self._scope.path, patch=patch))

    def _note_state_at_end(self) -> None:
        """Record how the code has left the context."""
        patch = self._scope.unrecorded()
        if not self._path:  # nothing comes after it, so this is how the context is in the end
            patch = diff(self._execution.journal.fold.context.tree, self._scope.fields)
        if patch:
            self._record(patch, child(self._path, "$end"))
