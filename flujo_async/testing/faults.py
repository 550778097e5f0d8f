"""What goes wrong with the calls of a store: chosen by a test, not by chance."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeAlias

from flujo_async._model.stored import Record
from flujo_async.abc.backend import VERBS
from flujo_async.abc.event_loop import wake
from flujo_async.errors import BackendError, InvalidArgument

How: TypeAlias = Literal["before", "middle", "after"]
"""Whether what a call asks for has not taken effect when it goes wrong, or in part, or as a whole."""

WRITES: Final = frozenset(
    {
        "create_run",
        "append",
        "claim",
        "release",
        "post",
        "put_snapshot",
        "delete_run",
        "put_entries",
        "set_system_state",
    }
)
"""The verbs that change what is stored, but for ``renew``, which a thread calls when its time has come."""

_CALLS: Final = VERBS | {"backup", "compact"}
_DIVISIBLE: Final = frozenset({"claim", "renew"})
"""The verbs with several items in one call, each of which may take effect or not."""


@dataclass(slots=True)
class Call:
    """One call of a verb.

    Attributes:
        number: its place among all calls, from 1.
        verb: which verb.
        run_ids: the runs that it names.
        records: what it adds to a log.
        error: what the caller got instead of an answer, if so.
    """

    number: int
    verb: str
    run_ids: tuple[str, ...] = ()
    records: tuple[Record, ...] = ()
    error: BaseException | None = None

    @property
    def facts(self) -> list[str]:
        """What it adds to a log: the kind of each fact, and the key that it is about."""
        lines = [json.loads(record.body) for record in self.records]
        return [f"{line['kind']} {line.get('key', '')}".strip() for line in lines]

    def __str__(self) -> str:
        runs = f" of {', '.join(map(repr, self.run_ids))}" if self.run_ids else ""
        facts = f": {', '.join(self.facts)}" if self.records else ""
        return f"{self.verb}{runs}{facts}"


class Latch:
    """Is opened once. Whoever waits for it may do so in any event loop, and any thread may open it."""

    def __init__(self) -> None:
        self.is_open: bool = False
        self._guard = threading.Lock()
        self._waiting: list[asyncio.Future[None]] = []

    def open(self) -> None:
        """Let everybody through, now and later."""
        with self._guard:
            self.is_open = True
            waiting, self._waiting = self._waiting, []
        for future in waiting:
            wake(future)

    async def wait(self) -> None:
        """Return when it is open."""
        with self._guard:
            if self.is_open:
                return
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
        await future


Deliver: TypeAlias = Callable[[bool], Awaitable[Any]]
"""Hands a call to the store: as a whole, or, if it is told so, one half of its items."""

Act: TypeAlias = Callable[["Fault", Call, Deliver], Awaitable[Any]]
Hold: TypeAlias = Callable[[Callable[[], Awaitable[object]]], Awaitable[None]]


class Fault:
    """Something that goes wrong with chosen calls. As a context manager it does so in the block only.

    Attributes:
        calls: the calls that it has happened to.
        how: whether they take effect.
    """

    def __init__(self, verbs: frozenset[str], nth: int | Collection[int] | None, how: How, act: Act) -> None:
        self.calls: list[Call] = []
        self._verbs = verbs
        self._chosen = {nth} if isinstance(nth, int) else None if nth is None else set(nth)
        self.how: How = how
        self._act = act
        self._seen = 0
        self._reached = Latch()
        self._released = Latch()
        self._is_withdrawn = False
        self._check()

    @property
    def has_happened(self) -> bool:
        """Whether it has happened to a call."""
        return bool(self.calls)

    @property
    def is_over(self) -> bool:
        """Whether it will happen no more."""
        return self._is_withdrawn or (self._chosen is not None and self._seen >= max(self._chosen))

    async def reached(self) -> None:
        """Return when it has begun to happen to a call."""
        await self._reached.wait()

    def release(self) -> None:
        """Let go on what it holds up, unless that is to hang for ever."""
        self._released.open()

    async def released(self) -> None:
        """Return when ``release`` was called."""
        await self._released.wait()

    def withdraw(self) -> None:
        """Let it happen no more, and go on what it holds up, unless that is to hang for ever."""
        self._is_withdrawn = True
        self.release()

    def counts(self, verb: str) -> bool:
        """Count a call; return whether it is one of the chosen."""
        if verb not in self._verbs or self.is_over:
            return False
        self._seen += 1
        return self._chosen is None or self._seen in self._chosen

    async def happen(self, call: Call, deliver: Deliver) -> Any:
        """Happen to a call; return its answer, if there is one."""
        self.calls.append(call)
        self._reached.open()
        return await self._act(self, call, deliver)

    def _check(self) -> None:
        if unknown := self._verbs - _CALLS:
            raise InvalidArgument(f"{sorted(unknown)} are no verbs of a store; there are {', '.join(sorted(_CALLS))}")
        if self._chosen is not None and (not self._chosen or min(self._chosen) < 1):
            raise InvalidArgument(f"nth counts the calls from now on, and the next one is 1, not {self._chosen}")
        if self.how == "middle" and self._verbs - _DIVISIBLE:
            raise InvalidArgument(
                f"only {' and '.join(sorted(_DIVISIBLE))} have a middle: all else takes effect as a whole or not at "
                f"all; for some of several concurrent calls name these, as in nth=(1, 3)"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.withdraw()

    def __repr__(self) -> str:
        nth = "every" if self._chosen is None else ", ".join(map(str, sorted(self._chosen)))
        return f"<{self._act.__name__.strip('_')} {'/'.join(sorted(self._verbs))} {nth}, {self.how}>"


def failing(error: BaseException | type[BaseException] | None, then: Callable[[], object]) -> Act:
    """Return what makes a call end with an error, after its ``how`` part has taken effect; ``then`` comes before."""

    async def fail(fault: Fault, call: Call, deliver: Deliver) -> Any:
        if fault.how != "before":
            await deliver(fault.how == "middle")
        then()
        raise error or BackendError(f"{call}: {_FATES[fault.how]}")

    return fail


def delaying(until: Callable[[], Awaitable[object]] | None, hold: Hold) -> Act:
    """Return what holds a call up, before or after it takes effect; ``hold`` is how somebody waits who may die."""

    async def delay(fault: Fault, call: Call, deliver: Deliver) -> Any:
        wait = until or fault.released
        if fault.how == "before":
            await hold(wait)
            return await deliver(False)
        answer = await deliver(False)
        await hold(wait)
        return answer

    return delay


async def duplicate(fault: Fault, call: Call, deliver: Deliver) -> Any:
    """Deliver a call twice, and answer as the second time."""
    await deliver(False)
    return await deliver(False)


async def for_ever() -> None:
    """Wait for nothing."""
    await asyncio.get_running_loop().create_future()


_FATES: Final[dict[How, str]] = {
    "before": "it failed, and nothing was written",
    "middle": "it failed, and one half of it was written",
    "after": "it was written, and the answer was lost",
}
