"""Which attempt may begin: limits, and the order of those that wait.

``Line`` decides and knows nothing of tasks; ``Limits`` lets them wait.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import OrderedDict, deque
from collections.abc import Mapping
from contextvars import Context
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from typing import Any

from flujo_async._model.policy import Limit, is_count
from flujo_async._plan.step import Step
from flujo_async.abc.clock import Clock
from flujo_async.errors import DefinitionError, InvalidArgument


@dataclass(slots=True, eq=False)
class Ticket:
    """One attempt that asks to begin.

    Attributes:
        limit: the name of its limit, if it has one.
        run_id: the run that it belongs to.
        priority: of that run; higher goes first.
        begins: done when it may begin; made when it has to wait.
        began_at: when it was let in.
    """

    limit: str | None
    run_id: str
    priority: int
    begins: asyncio.Future[None] | None = None
    began_at: datetime | None = None


@dataclass(slots=True)
class _Run:
    """The waiting tickets of one run; ``turn`` says since when it is the run's turn, as a number that grows."""

    turn: int
    tickets: OrderedDict[Ticket, None] = field(default_factory=OrderedDict[Ticket, None])


class _Queue:
    """Tickets in the order in which they may begin: higher priority first, then one of each run in turn.

    A run with a thousand tickets waits no longer for its next one than a run with a single one. Every operation takes
    constant time, but for a heap of the priorities.
    """

    def __init__(self) -> None:
        self._levels: dict[int, OrderedDict[str, _Run]] = {}
        self._priorities: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._levels)

    def add(self, ticket: Ticket, turn: int) -> None:
        """Put a ticket behind the others of its run, and a run that had none behind the others."""
        if ticket.priority not in self._levels:
            self._levels[ticket.priority] = OrderedDict()
            heapq.heappush(self._priorities, -ticket.priority)
        runs = self._levels[ticket.priority]
        if ticket.run_id not in runs:
            runs[ticket.run_id] = _Run(turn)
        runs[ticket.run_id].tickets[ticket] = None

    def first(self) -> tuple[int, int, Ticket] | None:
        """Return what is next, behind its place in the order of several queues: lower goes first."""
        while self._priorities and -self._priorities[0] not in self._levels:
            heapq.heappop(self._priorities)
        if not self._priorities:
            return None
        run = next(iter(self._levels[-self._priorities[0]].values()))
        return self._priorities[0], run.turn, next(iter(run.tickets))

    def take(self, ticket: Ticket, turn: int) -> None:
        """Remove a ticket that begins; its run goes behind the others."""
        runs = self._levels[ticket.priority]
        run = runs[ticket.run_id]
        run.turn = turn
        runs.move_to_end(ticket.run_id)
        self.discard(ticket)

    def discard(self, ticket: Ticket) -> None:
        """Remove a ticket, if it is here."""
        runs = self._levels.get(ticket.priority)
        run = None if runs is None else runs.get(ticket.run_id)
        if runs is None or run is None or ticket not in run.tickets:
            return
        del run.tickets[ticket]
        if not run.tickets:
            del runs[ticket.run_id]
        if not runs:
            del self._levels[ticket.priority]


class _Gate:
    """One limit: how many are inside, and when the last ones began.

    The rate is that of a sliding window log (N. Mahdi, "An alternative approach to rate limiting", Figma 2017): exact,
    for the price of keeping as many moments as may begin in one window.
    """

    def __init__(self, limit: Limit | None) -> None:
        self.queue = _Queue()
        self._concurrency = None if limit is None else limit.concurrency
        self._count = None if limit is None or limit.rate is None else limit.rate[0]
        self._window = timedelta(0) if limit is None else limit.window
        self._inside = 0
        self._begun: deque[datetime] = deque(maxlen=self._count)

    def opens_at(self, now: datetime) -> datetime | None:
        """Return from when on another one may begin; ``None`` if one that is inside has to leave first."""
        if self._concurrency is not None and self._inside >= self._concurrency:
            return None
        if self._count is None or len(self._begun) < self._count:
            return now
        if self._begun[-1] > now:  # the clock was set back: no reason to stand still until it is as late again
            self._begun = deque((min(moment, now) for moment in self._begun), self._count)
        return max(now, self._begun[0] + self._window)

    def enter(self, now: datetime) -> None:
        self._inside += 1
        if self._count is not None:
            self._begun.append(now)

    def leave(self, ticket: Ticket, *, is_unused: bool) -> None:
        self._inside -= 1
        if is_unused and ticket.began_at is not None and ticket.began_at in self._begun:
            self._begun.remove(ticket.began_at)


class Line:
    """Decides which attempts begin.

    Args:
        limits: by name.
        max_concurrent: how many attempts may run at the same time, whatever their limits; ``None`` is without end.
    """

    def __init__(self, limits: Mapping[str, Limit], max_concurrent: int | None) -> None:
        self._gates: dict[str | None, _Gate] = {None: _Gate(None)}
        self._gates |= {name: _Gate(limit) for name, limit in limits.items()}
        self._max_concurrent = max_concurrent
        self._inside = 0
        self._turns = count()

    @property
    def _is_full(self) -> bool:
        return self._max_concurrent is not None and self._inside >= self._max_concurrent

    def ask(self, ticket: Ticket) -> None:
        """Let a ticket wait."""
        self._gates[ticket.limit].queue.add(ticket, next(self._turns))

    def grant(self, now: datetime) -> list[Ticket]:
        """Return the tickets that begin now."""
        granted: list[Ticket] = []
        while not self._is_full and (ticket := self._next(now)) is not None:
            gate = self._gates[ticket.limit]
            gate.queue.take(ticket, next(self._turns))
            gate.enter(now)
            self._inside += 1
            ticket.began_at = now
            granted.append(ticket)
        return granted

    def _next(self, now: datetime) -> Ticket | None:
        open_gates = (gate for gate in self._gates.values() if gate.queue and gate.opens_at(now) == now)
        firsts = (first for gate in open_gates if (first := gate.queue.first()) is not None)
        first = min(firsts, key=lambda place: place[:2], default=None)
        return None if first is None else first[2]

    def leave(self, ticket: Ticket, *, is_unused: bool = False) -> None:
        """Take a ticket out, wherever it stands; ``is_unused``: what it was let in for never began."""
        gate = self._gates[ticket.limit]
        if ticket.began_at is None:
            gate.queue.discard(ticket)
            return
        gate.leave(ticket, is_unused=is_unused)
        self._inside -= 1

    def next_at(self, now: datetime) -> datetime | None:
        """Return when a ticket may begin by the passing of time alone; ``None`` if none waits for that."""
        if self._is_full:
            return None
        moments = (gate.opens_at(now) for gate in self._gates.values() if gate.queue)
        return min((moment for moment in moments if moment is not None), default=None)


class Limits:
    """Lets attempts wait until they may begin.

    Raises:
        InvalidArgument: something that is no ``Limit``, or a number below 1.
    """

    def __init__(self, limits: Mapping[str, Limit], max_concurrent_steps: int | None, clock: Clock) -> None:
        for name, limit in limits.items():
            if not isinstance(limit, Limit):  # pyright: ignore[reportUnnecessaryIsInstance] -- users without a type checker
                raise InvalidArgument(f"limits={{{name!r}: …}} is a Limit, not {limit!r}")
        if max_concurrent_steps is not None and not is_count(max_concurrent_steps):
            raise InvalidArgument(f"max_concurrent_steps is at least 1, not {max_concurrent_steps!r}")
        self.counts_all: bool = max_concurrent_steps is not None
        self._names = frozenset(limits)
        self._line = Line(limits, max_concurrent_steps)
        self._clock = clock
        self._timer: asyncio.Task[None] | None = None
        self._timer_at: datetime | None = None

    def check(self, step: Step[Any, Any]) -> None:
        """Check that there is the limit that a step names.

        Raises:
            DefinitionError: there is not.
        """
        name = step.policy.limit
        if name is not None and name not in self._names:
            known = f"; there are {', '.join(sorted(self._names))}" if self._names else ""
            raise DefinitionError(
                f"step {step.name!r} has the limit {name!r}; give Flujo(limits={{{name!r}: Limit(…)}}){known}"
            )

    async def enter(self, limit: str | None, run_id: str, priority: int) -> Ticket:
        """Return when an attempt may begin; ``leave`` with the ticket when it has ended."""
        ticket = Ticket(limit, run_id, priority)
        self._line.ask(ticket)
        self._let_in()
        if ticket.began_at is not None:
            return ticket
        ticket.begins = asyncio.get_running_loop().create_future()
        try:
            await ticket.begins
        except BaseException:
            # It may have been let in at the same instant: then its place goes to the next.
            self._line.leave(ticket, is_unused=True)
            self._let_in()
            raise
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Make room for the next."""
        self._line.leave(ticket)
        self._let_in()

    async def aclose(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = self._timer_at = None

    def _let_in(self) -> None:
        for ticket in self._line.grant(self._clock.now()):
            if ticket.begins is not None and not ticket.begins.done():
                ticket.begins.set_result(None)
        self._set_timer(self._line.next_at(self._clock.now()))

    def _set_timer(self, moment: datetime | None) -> None:
        if moment is None and self._timer is None:
            return
        loop = asyncio.get_running_loop()
        is_running = self._timer is not None and not self._timer.done() and self._timer.get_loop() is loop
        if is_running and moment == self._timer_at:
            return
        if is_running and self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = None, moment
        if moment is not None:
            # Not in the caller's context: the timer is no part of the run that happens to need it first.
            self._timer = loop.create_task(self._wake(moment), context=Context())

    async def _wake(self, moment: datetime) -> None:
        await self._clock.sleep((moment - self._clock.now()).total_seconds())
        self._timer = self._timer_at = None
        self._let_in()  # and wait once more, if the clock was set back meanwhile
