"""A definition made ready to run, and the choice of the one that a recorded run goes on with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeAlias, cast

from flujo_async._codec.exceptions import decode_error
from flujo_async._codec.tree import canonical, dumps, loads
from flujo_async._codec.values import Codec
from flujo_async._log.delta import diff
from flujo_async._log.fold import Fold
from flujo_async._log.views import step_records, workflow_state
from flujo_async._model.facts import RunMigrated, RunStarted
from flujo_async._model.lease import ClaimQuery, DefinitionKey
from flujo_async._model.result import RunResult
from flujo_async._model.state import WorkflowState
from flujo_async._model.tree import Json, JsonObject
from flujo_async._plan.assignable import is_assignable
from flujo_async._plan.definition import Definition, definition_of
from flujo_async._plan.nodes import Child
from flujo_async._plan.registry import PipelineRegistry
from flujo_async._runtime.answer_type import check_answer_types
from flujo_async._runtime.contexts import ContextType
from flujo_async._runtime.request import Request
from flujo_async.errors import (
    DefinitionError,
    InvalidArgument,
    RunConflict,
    RunFailed,
    SerializationError,
    VersionMismatch,
)

Migrate: TypeAlias = Callable[[WorkflowState], object]
"""Takes the state of a run recorded under another definition; returns the fields of the context to change, the whole
context, or ``None``."""


@dataclass(frozen=True, slots=True)
class Program:
    """A definition made ready to run.

    Attributes:
        definition: the definition.
        fingerprint: identifies its structure; made here, since that takes a while for a long definition.
        codec: knows its types, and those that its workflows lead it to while they run.
        labels: knows its types only, so that what tasks are called does not depend on what has run before.
        contexts: makes the contexts of its runs.
    """

    definition: Definition
    fingerprint: str
    codec: Codec
    labels: Codec
    contexts: ContextType

    @classmethod
    def of(cls, definition: Definition, context_type: type[Any] | None) -> Program:
        """Make a definition ready.

        Raises:
            DefinitionError: contexts, or answers that it waits for, cannot be of the type that they are to have.
        """
        check_answer_types(definition)
        codec = definition.codec(context_type)
        return cls(definition, definition.fingerprint, codec, codec.as_it_is(), ContextType(context_type, codec))

    def begin(self, request: Request, now: datetime) -> RunStarted:
        """Return the first fact of a run.

        Raises:
            InvalidArgument: the definition needs an input and there is none, or the context is of a wrong type.
            DefinitionError: it begins with a graph, and the input lacks entries that its steps need.
            SerializationError: the input, the context or the metadata cannot be stored.
        """
        return RunStarted(
            at=now,
            run_id=request.run_id,
            pipeline_name=self.definition.name,
            pipeline_version=self.definition.version,
            fingerprint=self.fingerprint,
            input=self._encode_input(request),
            context=self.contexts.first(request.context),
            metadata=plain_json(request.metadata),
            parent_run_id=request.parent_run_id,
            deadline=None if request.timeout is None else now + timedelta(seconds=request.timeout),
            is_background=request.is_background or request.queue is not None,
        )

    def _encode_input(self, request: Request) -> Json:
        self.definition.pipeline.check_input(None if request.input is ... else request.input)
        if request.input is not ...:
            return self.codec.encode(request.input, at="input")
        for end in self.definition.pipeline.inlets():
            if not is_assignable(None, end.type):
                raise InvalidArgument(
                    f"there is no run {request.run_id!r} to resume, and to start one, step {end.step!r} needs an input"
                )
        return None

    def check_same_request(self, request: Request, fold: Fold) -> None:
        """Check that a request for a run that exists asks for the same as it was started with.

        Raises:
            RunConflict: another input, or another context.
        """
        started = fold.started
        if request.input is not ... and not _equal(self.codec.encode(request.input, at="input"), started.input):
            raise _conflict(fold, "input")
        if request.context is not None and not _equal(dict(self.contexts.first(request.context)), started.context):
            raise _conflict(fold, "context")

    def result(self, fold: Fold, error: Exception | None = None) -> RunResult[Any]:
        """Return what a run at rest left; ``error`` is the live exception that failed it, if it is at hand."""
        if error is None and fold.error is not None:
            error = decode_error(self.codec, fold.error)
        return RunResult(
            run_id=fold.run_id,
            status=fold.status,
            output=self.codec.decode(fold.output, at="output"),
            context=partial(self.contexts.decode, fold.context.tree),
            steps=cast("Any", partial(step_records, fold, self.codec)),
            error=error,
            waiting_for=list(fold.waiting_for),
            started_at=fold.started.at,
            finished_at=fold.finished_at,
            usage=fold.usage,
        )


class Catalogue:
    """The definitions that a runtime can run: its own, and the registered versions of it."""

    def __init__(
        self,
        definition: Definition,
        *,
        registry: PipelineRegistry | None,
        context_type: type[Any] | None,
        migrate: Migrate | None,
    ) -> None:
        self.current: Program = Program.of(definition, context_type)
        self._registry = registry
        self._context_type = context_type
        self._migrate = migrate
        self._programs: dict[int, Program] = {}
        self._children: dict[tuple[str, str], Definition] = {}
        for definition_ in (definition, *(registry.definitions() if registry else ())):
            self._add_children(definition_)

    def names(self) -> frozenset[str]:
        """Return the names of all definitions that can run here."""
        return frozenset(definition.name for definition in self._definitions())

    def claim_query(self) -> ClaimQuery:
        """Return a query for the runs that can go on here: of what fits, or of all that may be taken over."""
        if self._migrate is not None:
            return ClaimQuery(pipeline_names=self.names())
        return ClaimQuery(definitions=frozenset(map(_key, self._definitions())))

    def programs(self) -> Iterator[Program]:
        """Yield every program that can run here."""
        yield self.current
        for definition in self._registry.definitions() if self._registry else ():
            yield self._program(definition)
        for definition in self._children.values():
            yield self._program(definition)

    def _definitions(self) -> Iterator[Definition]:
        yield self.current.definition
        if self._registry is not None:
            yield from self._registry.definitions()
        yield from self._children.values()

    def of_child(self, node: Child) -> Program:
        """Return the program of a child, which can run here from now on."""
        definition = definition_of(node.body, node.name)
        known = self._children.setdefault((definition.name, definition.version), definition)
        if known.pipeline != definition.pipeline:  # made anew by the code of a workflow
            self._programs.pop(id(known), None)
            self._children[definition.name, definition.version] = known = definition
        return self._program(known)

    def _add_children(self, definition: Definition) -> None:
        for other in definition.children():
            known = self._children.setdefault((other.name, other.version), other)
            if known is other:
                self._add_children(other)
            elif known.pipeline != other.pipeline:
                raise DefinitionError(
                    f"two different children are called {other.name!r}, and nothing else tells their runs apart; "
                    f"rename one: child(…, name=…)"
                )

    def _program(self, definition: Definition) -> Program:
        if id(definition) not in self._programs:
            self._programs[id(definition)] = Program.of(definition, self._context_type)
        return self._programs[id(definition)]

    def reading(self, fold: Fold) -> Program:
        """Return what best knows the values of a recorded run."""
        return self.knowing(fold.started.pipeline_name, fold.pipeline_version)

    def knowing(self, name: str, version: str) -> Program:
        """Return what best knows the values of runs of a definition."""
        return self._registered(name, version) or self._successor(name)

    def running(self, fold: Fold) -> Program:
        """Return what a recorded run goes on with.

        Raises:
            VersionMismatch: nothing here fits what was recorded, and there is no ``migrate``.
        """
        name = fold.started.pipeline_name
        for program in (self._registered(name, fold.pipeline_version), self.current):
            if program is not None and _fits(program, fold):
                return program
        successor = self._successor(name)
        if self._migrate is None:
            raise VersionMismatch(_mismatch(successor.definition, fold), run_id=fold.run_id)
        return successor

    def _successor(self, name: str) -> Program:
        """Return what has the name of a recorded run's definition by now; where nothing has it, the runtime's own."""
        if name == self.current.definition.name:
            return self.current
        found = self._registry.find(name) if self._registry is not None else None
        found = found or next((child for (known, _), child in self._children.items() if known == name), None)
        return self.current if found is None else self._program(found)

    def migration(self, program: Program, fold: Fold, now: datetime) -> RunMigrated | None:
        """Return the fact that takes a run over to ``program``; ``None`` if it is recorded under it already."""
        if _fits(program, fold) or self._migrate is None:
            return None
        answer = self._migrate(workflow_state(fold, program.codec))
        before = fold.context.tree
        after = program.contexts.migrated(before, answer)  # what does not fit is refused before anything executes
        return RunMigrated(
            at=now,
            pipeline_version=program.definition.version,
            fingerprint=program.fingerprint,
            patch=diff(before, after),
        )

    def _registered(self, name: str, version: str) -> Program | None:
        definition = self._registry.find(name, version) if self._registry is not None else None
        definition = definition or self._children.get((name, version))
        return None if definition is None else self._program(definition)


def _key(definition: Definition) -> DefinitionKey:
    return DefinitionKey(definition.name, definition.version, definition.fingerprint)


def _fits(program: Program, fold: Fold) -> bool:
    if (fold.pipeline_version, fold.fingerprint) != (program.definition.version, program.fingerprint):
        return False
    return fold.started.pipeline_name == program.definition.name or _is_migrated(fold)


def _is_migrated(fold: Fold) -> bool:
    started = fold.started  # its name stays, whatever the definition is called that took the run over
    return (started.pipeline_version, started.fingerprint) != (fold.pipeline_version, fold.fingerprint)


def _mismatch(definition: Definition, fold: Fold) -> str:
    recorded = f"{fold.started.pipeline_name!r} {fold.pipeline_version}"
    given = f"{definition.name!r} {definition.version}"
    if recorded == given:
        given += ", whose structure has changed since (raise its version)"
    elif definition.name == fold.started.pipeline_name and _have_no_version(definition, fold):
        given += ", whose steps or their order have changed since"
    return (
        f"run {fold.run_id!r} was recorded by {recorded}, and this is {given}; "
        f"register the recorded version as well, or give Flujo(migrate=…)"
    )


def _have_no_version(definition: Definition, fold: Fold) -> bool:
    return definition.explicit_version is None and fold.pipeline_version == fold.fingerprint


def failure_of(fold: Fold, result: RunResult[Any], *, is_old: bool) -> RunFailed:
    """Return the error of a run that has failed: at which step, if it is a single one, and why.

    Args:
        fold: its state.
        result: what it left.
        is_old: whether it had failed before it was asked for. Whoever has mended the code and runs it once more would
            think that the same has happened again.
    """
    where = f" at {fold.failed_keys[0]!r}" if len(fold.failed_keys) == 1 else ""
    failed = RunFailed(f"run {fold.run_id!r} failed{where}: {fold.error_message}", result=result)
    if is_old:
        failed.add_note("this is what is recorded: nothing was executed now, and a redrive tries it again")
    return failed


def _equal(one: Json, other: Json) -> bool:
    return canonical(one) == canonical(other)


def _conflict(fold: Fold, what: str) -> RunConflict:
    return RunConflict(
        f"run {fold.run_id!r} exists and was started with another {what}; leave the {what} out to resume it, "
        f"or take another run_id",
        run_id=fold.run_id,
    )


def plain_json(metadata: Mapping[str, Any]) -> JsonObject:
    """Return metadata as stored: they are searched, so they are plain JSON and nothing else."""
    return {name: _plain_entry(name, value) for name, value in metadata.items()}


def _plain_entry(name: str, value: Any) -> Json:
    plain, cause = cast("Json", None), None
    try:
        plain = loads(dumps({name: value}))
    except SerializationError as error:
        cause = error
    if not isinstance(plain, dict) or plain != {name: value}:
        raise SerializationError(
            "not plain JSON: text, numbers, lists and dictionaries", path=f"metadata.{name}"
        ) from cause
    return plain[name]
