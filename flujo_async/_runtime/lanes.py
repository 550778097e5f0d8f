"""Which task of a workflow is which: known when it is made, so that the order in which tasks run does not matter."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Generator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from hashlib import sha256
from types import CellType, CodeType
from typing import Any, Final, Protocol, TypeAlias, cast

from typing_extensions import override

from flujo_async._codec.tree import canonical
from flujo_async._codec.values import Codec
from flujo_async._log.keys import child, escape, task_of
from flujo_async._model.tree import Json
from flujo_async._plan.calls import CALLS
from flujo_async._runtime.activity import Activity
from flujo_async._runtime.tasks import waits_for_others
from flujo_async.errors import SerializationError

_DIGITS: Final = 12
_DEEPEST_WRAPPER: Final = 4

LANE: Final[ContextVar[Lane | None]] = ContextVar("flujo_async_lane", default=None)
"""The lane of the code that is running."""


class Lane:
    """One task of a workflow.

    It goes on by itself unless it is in a call of the runtime, or has tasks of its own: then it waits for those.

    Attributes:
        path: what the keys of its calls begin with.
        number: in the order of creation.
        task: what runs it, if that is known.
        has_tasks: whether it has made tasks, and may do one thing or another as they end.
    """

    def __init__(self, path: str, activity: Activity, parent: Lane | None = None, number: int = 0) -> None:
        self.path = path
        self.parent = parent
        self.number = number
        self.is_alive = True
        self.has_tasks = False
        self.task: asyncio.Task[Any] | None = None
        self._activity = activity
        self._occurrences: dict[str, int] = {}
        self._children = 0
        self._calls = 0
        if parent is not None:
            parent.has_tasks = True
            parent._children += 1
            activity.code.discard(parent)
        activity.code.add(self)

    def label(self, label: str) -> str:
        """Return the key of the next thing that is called so in this lane."""
        self._occurrences[label] = number = self._occurrences.get(label, 0) + 1
        return child(self.path, label if number == 1 else f"{label}@{number}")

    def begin_call(self) -> None:
        """Wait for the runtime, until ``end_call``."""
        self._calls += 1
        self._activity.code.discard(self)

    def end_call(self) -> None:
        """Go on."""
        self._calls -= 1
        self._go_on()

    @property
    def is_held_up(self) -> bool:
        """Whether it goes on by itself, but waits for a task, a lock, an event or a queue, and so for another lane."""
        return self in self._activity.code and self.task is not None and waits_for_others(self.task)

    def end(self) -> None:
        """Its task is over."""
        self.is_alive, self.task = False, None
        self._activity.code.discard(self)
        if self.parent is not None:
            self.parent._children -= 1
            self.parent._go_on()
        self._activity.look_if_at_rest()

    def _go_on(self) -> None:
        if self.is_alive and not self._calls and not self._children:
            self._activity.code.add(self)


class Brancher(Protocol):
    """A workflow whose code makes tasks."""

    def branch(self, coroutine: Any) -> Lane:
        """Return the lane of a task that is about to be made."""
        ...

    def watch(self, task: asyncio.Task[Any], lane: Lane) -> None:
        """Take note of the task of a lane."""
        ...


def digest(tree: Json) -> str:
    """Return a short name for an encoded value; nothing for no arguments."""
    return sha256(canonical(tree)).hexdigest()[:_DIGITS]


def describe(coroutine: Any, codec: Codec, own: CodeType) -> str:
    """Return what a task is called in keys: its coroutine function, with a digest of what it was called with.

    Args:
        coroutine: what the task is made of.
        codec: encodes what that was called with.
        own: the code of the runtime's calls, whose names are their labels.
    """
    coroutine = _unwrapped(coroutine, own)
    if getattr(coroutine, "cr_code", None) is own:
        return task_of(coroutine.__name__)
    name = escape(getattr(coroutine, "__name__", type(coroutine).__name__))
    arguments = _arguments(coroutine)
    if not arguments:
        return task_of(name)
    return task_of(f"{name}:{digest({key: _described(value, codec) for key, value in arguments.items()})}")


def _unwrapped(coroutine: Any, own: CodeType) -> Any:
    """Return the coroutine that another holds: task groups wrap what they are given."""
    for _ in range(_DEEPEST_WRAPPER):
        if getattr(coroutine, "cr_code", None) is own:
            break
        inner = [item for item in _variables(coroutine).values() if inspect.iscoroutine(item)]
        if not inner:
            break
        coroutine = inner[0]
    return coroutine


def _variables(coroutine: Any) -> Mapping[str, Any]:
    frame = getattr(coroutine, "cr_frame", None)
    return {} if frame is None else frame.f_locals


def _arguments(coroutine: Any) -> dict[str, Any]:
    """Return what a coroutine that has not begun was called with, and not what its function sees around itself."""
    variables = _variables(coroutine)
    around = coroutine.cr_code.co_freevars if variables else ()
    return {name: value for name, value in variables.items() if name not in around}


def _described(value: object, codec: Codec) -> Json:
    if codec.may_store(type(value)):
        with suppress(SerializationError):
            return codec.encode(value)
    return [type(value).__qualname__]


class LabelledTask(asyncio.Task[Any]):
    """A task of a workflow; sets of such tasks have the same order in a replay."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], *, number: int, **options: Any) -> None:
        self._number = number
        super().__init__(coroutine, **options)

    @override
    def __hash__(self) -> int:
        return self._number


_Factory: TypeAlias = Callable[..., asyncio.Future[Any]]


class _Labelling:
    """A task factory that labels the tasks of workflows, and leaves making them to the host's own."""

    def __init__(self, host: _Factory | None) -> None:
        self.host = host
        self.users = 0
        self._is_eager = False  # and makes asyncio's own tasks, in whose place labelled ones can begin at once as well
        eager = getattr(asyncio, "eager_task_factory", None)  # new in Python 3.12
        if eager is not None and getattr(host, "__code__", None) is eager.__code__:
            # By these anyio knows that tasks would begin at once, and has them made by what the closure holds instead.
            self.__code__, self.__closure__ = eager.__code__, (CellType(self._make_lazily),)
            self._is_eager = host is eager

    def __call__(
        self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Future[Any]:
        if self._is_eager:
            return self._make(None, loop, coroutine, {**options, "eager_start": True})
        return self._make(self.host, loop, coroutine, options)

    def _make_lazily(
        self, coroutine: Coroutine[Any, Any, Any], *, loop: asyncio.AbstractEventLoop, **options: Any
    ) -> asyncio.Future[Any]:
        if self._is_eager:
            return self._make(None, loop, coroutine, options)
        host: Any = self.host
        make: _Factory = host.__closure__[0].cell_contents

        def with_loop(
            loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **more: Any
        ) -> asyncio.Future[Any]:
            return make(coroutine, loop=loop, **more)

        return self._make(with_loop, loop, coroutine, options)

    def _make(
        self,
        host: _Factory | None,
        loop: asyncio.AbstractEventLoop,
        coroutine: Coroutine[Any, Any, Any],
        options: dict[str, Any],
    ) -> asyncio.Future[Any]:
        brancher = cast("Brancher | None", CALLS.get())
        if brancher is None:
            made: Any = host(loop, coroutine, **options) if host else asyncio.Task(coroutine, loop=loop, **options)
            return cast("asyncio.Future[Any]", made)
        lane = brancher.branch(coroutine)
        given = options.pop("context", None)
        context = copy_context() if given is None else given.copy()
        context.run(LANE.set, lane)
        task: asyncio.Task[Any]
        if host is None:
            task = LabelledTask(coroutine, loop=loop, context=context, number=lane.number, **options)
        else:
            task = cast("Any", context.run(host, loop, coroutine, **options))
        brancher.watch(task, lane)
        return task


@contextmanager
def labelling() -> Generator[None]:
    """Label the tasks that workflows make meanwhile; the loop has its own task factory back when nobody does."""
    loop = asyncio.get_running_loop()
    present: Any = loop.get_task_factory()
    factory = present if isinstance(present, _Labelling) else _Labelling(present)
    if factory is not present:
        loop.set_task_factory(cast("Any", factory))
    factory.users += 1
    try:
        yield
    finally:
        factory.users -= 1
        if not factory.users and cast("Any", loop.get_task_factory()) is factory:
            loop.set_task_factory(factory.host)
