"""What everything inside one drive of a run shares."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol

from flujo_async._codec.values import Codec
from flujo_async._model.facts import Fact, StepFailed
from flujo_async._model.policy import Durability
from flujo_async._model.quick import quick
from flujo_async._model.tree import Json
from flujo_async._model.usage import Usage
from flujo_async._plan.nodes import Child
from flujo_async._plan.step import Step
from flujo_async._runtime.contexts import ContextType
from flujo_async._runtime.journal import Journal
from flujo_async._runtime.lease_keeper import Held
from flujo_async._runtime.misread import Misread
from flujo_async._runtime.recorded import Recorded
from flujo_async._runtime.services import Services
from flujo_async._runtime.waits import Park, Waits
from flujo_async.abc.clock import Clock
from flujo_async.abc.instrument import AttemptIdentity
from flujo_async.abc.pace import Pace
from flujo_async.errors import NonDeterminismError, SerializationError

_NEWS: Final[ContextVar[Callable[[], None] | None]] = ContextVar("flujo_async_news", default=None)


@quick
@dataclass(frozen=True, slots=True)
class Value:
    """A value on its way through a pipeline, encoded: whoever takes it gets a fresh copy.

    Attributes:
        tree: the encoded value.
        source: where in the log it stands; ``None`` if nowhere as a whole.
    """

    tree: Json
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """A child that has completed: what it returned, and what it consumed."""

    output: Json
    usage: Usage


class ChildCall(Protocol):
    """A call of a definition that runs as a run of its own."""

    execution: Execution
    node: Child
    value: Value


class Children(Protocol):
    """Runs the children of runs."""

    def learn(self, node: Child) -> None:
        """Know the definition of a child from now on."""
        ...

    async def complete_child(self, call: ChildCall, run_id: str) -> Ended | Park:
        """Drive a child until it ends or leaves memory; return how.

        Raises:
            RunFailed: it failed.
            RunCancelled: it was cancelled.
            RunConflict: there is a run of this name with another input.
        """
        ...

    async def tell_parents(self, parents: Iterable[str], run_id: str) -> None:
        """Wake the runs above one that has news."""
        ...

    async def given(self, call: ChildCall, run_id: str) -> Value:
        """Return what a child was given when it was started; what ``call`` gives it, unless ``call`` has started it."""
        ...

    async def cancel_children(self, execution: Execution, children: Iterable[str], reason: str) -> None:
        """Cancel those children that a run has started itself, and all that runs below them, leaves first.

        Raises:
            StaleLease: somebody else has the run. It may have been deleted and begun anew, and these be the new one's.
        """
        ...


@dataclass(slots=True)
class Execution:
    """One run in the hands of its executor.

    Attributes:
        codec: knows the types of what is recorded.
        labels: stores, for their labels, what tasks of workflows were called with.
        waits: what the run waits for.
        services: what the steps of all runs of the runtime share.
        children: what runs its children.
        pace: tells when to let the event loop turn.
        disprove: parks the run, whose code contradicts what is recorded.
        is_cancelled: tells whether the current task, which is one of the run's, is being cancelled.
        held: the lease of the run; before something happens in the world, it is looked at.
        secure: returns the moment once it is sure that nobody else has a run whose lease has run out.
        watch: returns what instruments want to be entered around an attempt; ``None`` where there are none.
        replay: in ``always_replay``, interrupts the run, to begin again with what is recorded.
        priority: of the run; higher goes first.
        durability: when what its steps did is durable, where a step does not say itself.
        is_frozen: whether only what is recorded is walked through, and nothing new is begun.
        is_stopped: whether the run is being ended from outside; what its code still asks for is not done.
        recorded: what is recorded of the run, for a walk through it.
        ends_with: the key of the step with whose outcome the run completes, if that is known.
        cut_short: the steps that had failed when they were cancelled, and nobody could do anything about that.
        to_undo: the steps that have completed or failed and have a compensation, by key.
    """

    run_id: str
    journal: Journal
    codec: Codec
    labels: Codec
    contexts: ContextType
    clock: Clock
    waits: Waits
    services: Services
    children: Children
    pace: Pace
    disprove: Callable[[NonDeterminismError], None]
    is_cancelled: Callable[[], bool]
    held: Held
    secure: Callable[[], Awaitable[datetime]]
    watch: Callable[[AttemptIdentity], AbstractContextManager[None]] | None = None
    replay: Callable[[], None] | None = None
    priority: int = 0
    durability: Durability = "sync"
    is_frozen: bool = False
    is_stopped: bool = False
    recorded: Recorded = field(init=False)
    ends_with: str | None = None
    cut_short: list[str] = field(default_factory=list[str])
    to_undo: dict[str, Step[Any, Any]] = field(default_factory=dict[str, Step[Any, Any]])

    async def enter(self) -> None:
        """Return when something new may begin, which counts as going on from then on; ``leave`` ends that."""
        if self.is_stopped:
            raise asyncio.CancelledError
        if (tell := _NEWS.get()) is not None:
            tell()
        self.waits.activity.began()
        try:
            if self.is_frozen:
                await self.waits.for_ever()
            if self.waits.is_pausing:
                await self.waits.pausing()
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        """What ``enter`` let begin is over."""
        self.waits.activity.ended()

    async def record_failure(self, durability: Durability, failed: StepFailed, *beside: Fact) -> None:
        """Record that a step has failed for good, with what goes before that."""
        try:
            await self.journal.record(durability, *beside, failed)
        except asyncio.CancelledError:
            self.cut_short.append(failed.key)
            raise

    def read(self, tree: Json, *, at: str) -> Any:
        """Return a value that the run has recorded.

        Raises:
            Misread: it does not fit its class.
        """
        try:
            return self.codec.decode(tree, at=at)
        except SerializationError as error:
            raise Misread(error) from error

    async def turn(self) -> None:
        """Wait for another turn of the event loop, which counts as going on: called when ``pace.is_over``."""
        with self.waits.activity:
            await self.pace.turn()


class Fault(Exception):  # not an error of its own: it carries one up to where the run ends
    """A failure that ends the branch it happened in, and the run unless something on the way up ignores it.

    Attributes:
        error: what a step raised, or what went wrong between steps.
        keys: the steps that failed.
    """

    def __init__(self, error: Exception, keys: Sequence[str] = ()) -> None:
        super().__init__(error)  # not its text: a broken ``__str__`` would raise here
        self.error = error
        self.keys = tuple(keys)


class Interruption:
    """Whether the task that made this has been cancelled since. What it waits for may have been cancelled by itself."""

    def __init__(self) -> None:
        self._task = task = asyncio.current_task()
        self._before = 0 if task is None else task.cancelling()

    @property
    def has_come(self) -> bool:
        """Whether it has been."""
        return self._task is not None and self._task.cancelling() > self._before


def uncalled_for(name: str) -> RuntimeError:
    """Return what is raised for a ``CancelledError`` that came out of something which nobody had cancelled.

    Let through, it would pass for a cancellation of the run: a branch would be missing, without a failure.
    """
    return RuntimeError(f"{name} raised CancelledError, and nobody had cancelled it")


def stray(cancellation: asyncio.CancelledError, name: str) -> Fault:
    """Return as a failure what came out of a branch that nobody has cancelled; its task may go on."""
    task = asyncio.current_task()
    while task is not None and task.uncancel():
        pass
    error = uncalled_for(name)
    error.__cause__ = cancellation
    return Fault(error)


@contextmanager
def telling_of_news(tell: Callable[[], None]) -> Generator[None]:
    """Call ``tell`` whenever what runs within has come to the end of what is recorded, and begins something new."""
    outer = _NEWS.get()

    def tell_all() -> None:
        tell()
        if outer is not None:
            outer()

    token = _NEWS.set(tell_all)
    try:
        yield
    finally:
        _NEWS.reset(token)
