"""What is done to a run from outside: signals, cancelling, pausing, trying again, forking."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, get_args

from pydantic import TypeAdapter, ValidationError

from flujo_async._codec.tree import canonical
from flujo_async._log.delta import diff
from flujo_async._log.fold import Fold
from flujo_async._log.fork import check_past, fork
from flujo_async._log.gradual import fold_gradually
from flujo_async._log.history import children_to_redrive, to_drop
from flujo_async._log.views import sealed
from flujo_async._model.facts import Decision, Fact, RunForked, RunRedriven, StepDecided
from flujo_async._model.ids import check_run_id
from flujo_async._model.lease import Lease
from flujo_async._model.result import RunResult
from flujo_async._model.state import TERMINAL, RunStatus, Waiting
from flujo_async._model.stored import NewRun, Prefix, RunQuery, Signal
from flujo_async._model.text import is_text
from flujo_async._model.tree import Json
from flujo_async._plan.nodes import WaitFor
from flujo_async._plan.pipeline import check_signal_name
from flujo_async._plan.workflow import Workflow
from flujo_async._runtime.answer_type import answer_type
from flujo_async._runtime.calls import taken
from flujo_async._runtime.driven_runs import nudge
from flujo_async._runtime.inbox import Inbox, Inboxes
from flujo_async._runtime.instruments import identity_of
from flujo_async._runtime.journal import Journal
from flujo_async._runtime.lease_keeper import give_back
from flujo_async._runtime.owner import Owner
from flujo_async._runtime.program import Program
from flujo_async._runtime.reader import Seen
from flujo_async._runtime.request import Request
from flujo_async._runtime.runner import Runner
from flujo_async._runtime.waits import CANCEL, PAUSE, parents_of
from flujo_async.abc.pace import Pace, in_turns
from flujo_async.abc.shield import finish
from flujo_async.errors import (
    DefinitionError,
    IntegrityError,
    InvalidArgument,
    InvalidSignal,
    RunExists,
    RunNotFound,
    SequenceConflict,
    SerializationError,
    StaleLease,
)

_ENDED: Final[frozenset[RunStatus]] = frozenset({"failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What was decided, and of which steps.

    Attributes:
        decision: to try again, or to skip.
        output: what a skipped step counts as having returned.
        step: the key of the one that was named.
        is_for_one: whether the output was given, and so not for several.
    """

    decision: Decision
    output: Json = None
    step: str | None = None
    is_for_one: bool = False

    def keys(self, fold: Fold) -> list[str]:
        """Return the steps of a run that this is about.

        Raises:
            InvalidArgument: nobody asks about the step, or there is one output for several.
        """
        is_paused = fold.status == "paused"
        keys = [key for key in fold.once if key not in fold.decisions] if is_paused else list(fold.failed_keys)
        asked = ", ".join(map(repr, keys))
        if self.step is not None and self.step not in keys:
            raise InvalidArgument(
                f"run {fold.run_id!r}: no decision on step {self.step!r} is waited for, but on {asked or 'none'}"
            )
        if self.step is None and not is_paused:
            return keys[:1]  # the one whose error is the run's
        if self.step is None and self.is_for_one and len(keys) > 1:
            raise InvalidArgument(
                f"run {fold.run_id!r}: one output for {len(keys)} steps; decide one by one, with step= for each of "
                f"{asked}"
            )
        return keys if self.step is None else [self.step]


class Control:
    """Acts on runs of one runtime's store."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._inboxes = Inboxes(runner.reader)

    # -------------------------------------------------------------------------------------------------- signals

    async def signal(self, run_id: str, name: str, payload: Any, by: str | None) -> None:
        """Answer a wait of a run; see ``Flujo.signal``."""
        self._runner.bound_loop.check()
        _check_name(name)
        _check_sender(by)
        inbox = await self._inboxes.look(run_id)
        tree = self._validated(inbox, name, payload)
        posted = inbox.last.get(name)
        if posted is not None and not inbox.is_awaited(name):
            self._check_same(inbox, posted, tree)
        else:
            if inbox.ended_as is not None:
                raise InvalidSignal(f"run {run_id!r} is {inbox.ended_as}: it waits for nothing", run_id=run_id)
            signal_id = f"{name}#{inbox.numbers[name] + 1}"
            # Somebody else may answer at the same instant: the first one counts.
            posted = await self._runner.backend.post(
                Signal(run_id, signal_id, name, tree, self._runner.clock.now(), by)
            )
        await self._spread(inbox)  # also after what was posted before: whoever did that may have died before this
        self._check_same(inbox, posted, tree)

    async def _spread(self, inbox: Inbox) -> None:
        """Tell whoever may have to go on, now that a run has its answer."""
        if inbox.ended_as is not None:
            return
        nudge(inbox.run_id)
        await self._runner.tell_parents(inbox.parents, inbox.run_id)
        self._runner.scheduler.kick()

    def _validated(self, inbox: Inbox, name: str, payload: Any) -> Json:
        """Return an answer, validated and encoded.

        Raises:
            InvalidSignal: it does not fit what is asked for.
        """
        program = self._program(inbox)
        nodes = program.definition.pipeline.walk()  # what a workflow has names for is not what it asks for
        schemas = {node.schema for node in nodes if isinstance(node, WaitFor) and node.name == name}
        recorded = inbox.schemas.get(name)
        schema = next(iter(schemas)) if len(schemas) == 1 else _recorded_schema(program, recorded, payload)
        try:
            if schema is not None:
                payload = TypeAdapter(schema).validate_python(payload)
            return program.codec.encode(payload, at="payload")
        except (ValueError, SerializationError) as error:
            raise InvalidSignal(
                f"run {inbox.run_id!r}: this is no answer to {name!r}: {_in_short(error)}", run_id=inbox.run_id
            ) from error

    def _check_same(self, inbox: Inbox, posted: Signal, tree: Json) -> None:
        """Check that an answer is the one that was posted; one that came before its wait is validated for that.

        Raises:
            InvalidSignal: it is another one.
        """
        if canonical(posted.payload) == canonical(tree):
            return
        with suppress(SerializationError, InvalidSignal):
            early = self._program(inbox).codec.decode(posted.payload, at="payload")
            if canonical(self._validated(inbox, posted.name, early)) == canonical(tree):
                return
        raise InvalidSignal(
            f"run {posted.run_id!r} has another answer to {posted.name!r} already: the first one counts",
            run_id=posted.run_id,
        )

    def _program(self, inbox: Inbox) -> Program:
        return self._runner.catalogue.knowing(inbox.pipeline_name, inbox.pipeline_version)

    # ------------------------------------------------------------------------------------------- ending and pausing

    async def pause(self, run_id: str) -> None:
        """Pause a run; see ``Flujo.pause``."""
        self._runner.bound_loop.check()
        seen = await self._runner.reader.see(run_id)
        own = [waiting.kind for waiting in seen.fold.waiting_for if waiting.run_id is None]
        if seen.fold.status in TERMINAL or "pause" in own:
            return
        taking = self._runner.taking
        with Owner.at_work() as owner:
            lease = await taking.take(run_id, str(owner))  # before the signal wakes somebody who would take it up
            async with self._or_give_back(lease):
                await self._runner.post_control(seen, PAUSE, None)
            lease = lease or await taking.take(run_id, str(owner))
            if lease is not None:  # nobody drives it
                with suppress(StaleLease):  # somebody does by now, and hears of the pause
                    await self._pause_at_rest(lease)

    async def _pause_at_rest(self, lease: Lease) -> None:
        async with self._or_give_back(lease):
            seen = await self._runner.reader.see(lease.run_id)
        now = self._runner.clock.now()
        controls = [taken(signal, now) for signal in _pending(seen, PAUSE)]
        waiting = Waiting(kind="pause", name="pause", since=now)
        awaited = seen.fold.awaited
        asked = [*awaited.asked.values(), (waiting, None)] if awaited.is_paused else [(waiting, None)]
        await self._record(lease, seen, [*controls, awaited.paused(now, asked, awaited.signals)])
        await self._runner.tell_parents(_parents(seen), lease.run_id)

    async def _record(self, lease: Lease, seen: Seen, facts: Sequence[Fact]) -> None:
        """Append facts to a claimed run, and let it go."""
        journal = Journal(self._runner.backend, lease, seen.fold, Pace.here())
        journal.signals_read = lambda: len(seen.signals)
        instruments = self._runner.services.instruments
        if instruments is not None:
            journal.on_durable = partial(instruments.committed, identity_of(seen.fold))
        try:
            await journal.commit(*facts)
        finally:
            await finish(self._let_go(journal, lease))

    async def _let_go(self, journal: Journal, lease: Lease) -> None:
        await journal.settle()
        if not journal.is_at_rest:
            await give_back(self._runner.backend, lease)

    @asynccontextmanager
    async def _or_give_back(self, lease: Lease | None) -> AsyncGenerator[None]:
        """Give a lease back unless the block comes to its end."""
        try:
            yield
        except BaseException:
            await finish(self._runner.taking.give_back(lease))
            raise

    # ------------------------------------------------------------------------------------------------ trying again

    async def redrive(self, run_id: str, decision: Decision, output: Any, step: str | None) -> RunResult[Any]:
        """Try a run again that has ended, or decide on its step; see ``Flujo.redrive``."""
        self._runner.bound_loop.check()
        if decision not in get_args(Decision):
            raise InvalidArgument(f"decision is 'retry' or 'skip', not {decision!r}")
        seen = await self._runner.reader.see(run_id, is_whole=True)
        if seen.fold.once and self._runner.taking.is_orphan(seen.summary):
            # Interrupted in a step that needs a decision: whoever takes it up finds that out first, and lets it rest.
            await self._runner.complete(Request(run_id=run_id, is_urgent=True, is_known=True))
            seen = await self._runner.reader.see(run_id, is_whole=True)
        _check_redrivable(seen.fold, decision)
        self._runner.catalogue.running(seen.fold)
        tree = self._runner.catalogue.reading(seen.fold).codec.encode(None if output is ... else output, at="output")
        verdict = _Verdict(decision, tree, step, is_for_one=decision == "skip" and output is not ...)
        verdict.keys(seen.fold)
        with Owner.at_work() as owner:
            lease = await self._runner.taking.take(run_id, str(owner), frozenset({*_ENDED, "paused"}))
            if lease is not None:
                try:
                    await self._redrive(lease, verdict)
                except StaleLease:  # somebody has taken the run meanwhile, and may have gone on with it
                    return await self.redrive(run_id, decision, output, step)
                await self._runner.tell_parents(_parents(seen), run_id)
        return await self._runner.complete(Request(run_id=run_id, is_known=True))

    async def _redrive(self, lease: Lease, verdict: _Verdict) -> None:
        async with self._or_give_back(lease):
            seen = await self._runner.reader.see(lease.run_id, is_whole=True)
            keys = verdict.keys(seen.fold)
            if verdict.decision == "retry":
                await self._redrive_children(seen.fold)
        fold, now = seen.fold, self._runner.clock.now()
        controls: list[Fact] = [taken(signal, now) for name in (CANCEL, PAUSE) for signal in _pending(seen, name)]
        again: list[Fact] = []
        if fold.status in _ENDED:
            again.append(RunRedriven(at=now, dropped=to_drop(fold)))
        if fold.status == "paused" or verdict.decision == "skip":
            again += [StepDecided(at=now, key=key, decision=verdict.decision, output=verdict.output) for key in keys]
        await self._record(lease, seen, [*controls, *again])

    async def _redrive_children(self, fold: Fold) -> None:
        """Let the children that a run is going to ask again be tried again, before that is recorded of the run."""
        for run_id in [fold.children[key] for key in children_to_redrive(fold)]:
            with Owner.at_work() as owner:
                lease = await self._runner.taking.take(run_id, str(owner), _ENDED)
                if lease is not None:
                    with suppress(RunNotFound):  # deleted meanwhile: it is begun anew
                        await self._redrive(lease, _Verdict("retry"))

    # ----------------------------------------------------------------------------------------------------- forking

    async def fork(self, run_id: str, at: int | None, new_run_id: str | None, update: Mapping[str, Any] | None) -> str:
        """Create a run that shares the log of another one; see ``Flujo.fork``."""
        new_run_id = check_run_id(uuid.uuid4().hex if new_run_id is None else new_run_id)
        source = await self._runner.reader.stored(run_id, until=at)
        fold = await in_turns(fold_gradually(run_id, source.records))
        check_past(fold, source.records)
        past = Prefix(run_id, fold.seq, fold.hash)
        before = after = fold.context.tree
        if update:
            after = self._runner.catalogue.reading(fold).contexts.updated(before, update)
        now = self._runner.clock.now()
        forked = RunForked(at=now, run_id=new_run_id, source_run_id=run_id, patch=diff(before, after))
        summary, record, blobs = fork(source.summary, fold, forked)
        try:
            await self._runner.backend.create_run(NewRun(summary, (record,), tuple(blobs), past))
        except RunExists as error:
            raise InvalidArgument(f"fork(): there is a run {new_run_id!r} already; take another new_run_id") from error
        except SequenceConflict:  # the source was deleted meanwhile, and there is another run of its name
            return await self.fork(run_id, at, new_run_id, update)
        if (instruments := self._runner.services.instruments) is not None:
            instruments.committed(identity_of(fold), [sealed(record, forked)])
        return new_run_id

    # ---------------------------------------------------------------------------------------------------- deleting

    async def delete(self, run_id: str) -> None:
        """Remove a run and all below it; see ``Flujo.delete``.

        The run itself goes first, and of the others the leaves: a call that is interrupted leaves none behind that the
        next one does not find.
        """
        tree = {check_run_id(run_id)}
        await self._delete(run_id, tree)
        with Owner.at_work() as owner:
            while below := await self._below(tree, str(owner)):
                tree.update(below)  # next time, what was started below them meanwhile
                for each in reversed(below):
                    await self._delete(each, tree)

    async def _below(self, tree: Collection[str], owner: str) -> list[str]:
        """Return what else is below some runs, parents first; who drives one of them loses it, and starts no more."""
        found = dict.fromkeys(tree)
        level = [*tree]
        while level:
            heads = await self._runner.backend.query_runs(RunQuery(parent_run_ids=frozenset(level)))
            for lease in [head.lease for head in heads if head.lease is not None]:
                await self._runner.taking.seize(lease, owner)
            level = [head.run_id for head in heads if head.run_id not in found]
            found |= dict.fromkeys(level)
        return list(found)[len(tree) :]

    async def _delete(self, run_id: str, tree: Collection[str]) -> None:
        """Remove a run, and tell its parents, but those that go as well."""
        parents = await self._who_waits_for(run_id)
        await self._runner.backend.delete_run(run_id)
        await self._runner.tell_parents([parent for parent in parents if parent not in tree], run_id)

    async def _who_waits_for(self, run_id: str) -> list[str]:
        """Return the parents of a run; those of one that cannot be read are not known."""
        try:
            head = await self._runner.reader.summary(run_id)
            signals = await self._runner.backend.read_signals({run_id: 0})
        except IntegrityError:
            return []
        return parents_of(None if head is None else head.parent_run_id, signals)


def _check_name(name: str) -> None:
    try:
        check_signal_name(name)
    except DefinitionError as error:
        raise InvalidArgument(str(error)) from error


def _check_sender(by: Any) -> None:
    if by is not None and not is_text(by):
        raise InvalidArgument(f"by= says in a text who answers, not {by!r}")


def _pending(seen: Seen, name: str) -> list[Signal]:
    """Return the signals of a name that the run has not taken."""
    return [signal for signal in seen.signals if signal.name == name and signal.signal_id not in seen.fold.taken]


def _parents(seen: Seen) -> list[str]:
    return parents_of(seen.summary.parent_run_id, seen.signals)


def _recorded_schema(program: Program, schema: Mapping[str, Any] | None, given: object) -> Any:
    """Return the type of the answers to a wait of a workflow, by the JSON schema that was recorded.

    Where none is, an answer of a class that the code has a name for can be kept until it is.
    """
    workflows = [node for node in program.definition.nodes() if isinstance(node, Workflow)]
    named = [value for workflow in workflows for value in workflow.names().values()]
    if schema is None:
        program.codec.learn(*(value for value in named if value is type(given)))
        return None
    found = answer_type(schema, [*program.codec.classes(), *named])
    program.codec.learn(found)
    return found


def _check_redrivable(fold: Fold, decision: Decision) -> None:
    if fold.status in _ENDED and decision == "skip" and not fold.failed_keys:
        raise InvalidArgument(f"run {fold.run_id!r} is {fold.status}, and no step that could be skipped has failed")
    is_to_decide = any(waiting.kind == "decision" and waiting.run_id is None for waiting in fold.waiting_for)
    if fold.status in _ENDED or (fold.status == "paused" and is_to_decide):
        return
    raise InvalidArgument(
        f"run {fold.run_id!r} is {fold.status}: only a run that has failed, was cancelled, or waits for a decision "
        f"can be redriven"
    )


def _in_short(error: Exception) -> str:
    """Return what is wrong with a value, in one line; pydantic's own text has many."""
    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(f"{'.'.join(map(str, item['loc'])) or 'payload'}: {item['msg']}" for item in error.errors())
