"""Members of a ``parallel`` or ``map_each``, run at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TypeAlias

from flujo_async._log.keys import paths_above
from flujo_async._plan.nodes import OnError
from flujo_async._runtime.execution import Execution, Fault, Value, telling_of_news
from flujo_async._runtime.siblings import Siblings

Member: TypeAlias = Callable[[], Awaitable[Value]]
Outcome: TypeAlias = Value | Fault


class Group(Siblings):
    """Runs members, at most so many at the same time, and gathers how each one ended.

    Args:
        execution: of the run.
        members: what to run.
        names: what they are called in messages.
        max_concurrency: how many at the same time; ``None`` is all of them.
        on_error: what a failure does.
        ahead: the members that are walked through, as far as they are recorded, before the others start: those in
            which something had failed when the process died, and with ``"cancel"`` may have ended the group then.
    """

    def __init__(
        self,
        execution: Execution,
        members: Sequence[Member],
        names: Sequence[str],
        *,
        max_concurrency: int | None,
        on_error: OnError,
        ahead: Sequence[int],
    ) -> None:
        super().__init__()
        self._execution = execution
        self._members = members
        self._names = names
        self._ahead = dict.fromkeys(ahead)
        self._turn = asyncio.Lock()
        self._lanes = min(len(members), max_concurrency or len(members))
        self._on_error = on_error
        self._outcomes: dict[int, Outcome] = {}

    async def run(self) -> dict[int, Outcome]:
        """Return the outcome of each member by its index, in order.

        Raises:
            Fault: a member failed, unless failures are ignored; the first one, in the order of the members.
        """
        todo = iter([*self._ahead, *(index for index in range(len(self._members)) if index not in self._ahead)])
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(self._lanes):
                    if not self._is_stopped:  # as it may be by now where tasks are eager
                        self._tasks[tasks.create_task(self._lane(todo))] = None
        except asyncio.CancelledError:
            self._execution.cut_short += self._to_redrive()
            raise
        self._raise_broken()
        if faults := self._faults():
            raise Fault(faults[0].error, self._to_redrive())
        return dict(sorted(self._outcomes.items()))

    def _faults(self) -> list[Fault]:
        """Return the failures of members that count, in the order of the members."""
        if self._on_error == "ignore":
            return []
        return [outcome for _, outcome in sorted(self._outcomes.items()) if isinstance(outcome, Fault)]

    def _to_redrive(self) -> list[str]:
        """Return the steps whose failure that of the group is, and those that have failed in members cut short."""
        keys = [key for fault in self._faults() for key in fault.keys]
        left = {name for index, name in enumerate(self._names) if index not in self._outcomes}
        cut_short = self._execution.cut_short if left else ()
        return [*keys, *(key for key in cut_short if not left.isdisjoint((*paths_above(key), key)))]

    async def _lane(self, todo: Iterator[int]) -> None:
        while True:
            if self._execution.pace.is_over:
                await self._execution.turn()
            index = next(todo, None)  # only now, so that members begin in their order
            if index is None:
                return
            try:
                self._outcomes[index] = await self._in_turn(index)
            except Fault as fault:
                self._outcomes[index] = fault
            except asyncio.CancelledError as error:
                self._outcomes[index] = self._as_fault(error, f"branch {self._names[index]!r}")
            except BaseException as error:
                self._break(error)
                return
            if self._on_error == "cancel" and isinstance(self._outcomes[index], Fault):
                self._stop()
                return

    async def _in_turn(self, index: int) -> Value:
        """Run a member when each one ahead of it has ended, or come to something new."""
        if not self._ahead:
            return await self._members[index]()
        await self._turn.acquire()
        with ExitStack() as turn:
            turn.callback(self._turn.release)
            if index not in self._ahead:
                turn.close()
            with telling_of_news(turn.close):
                return await self._members[index]()
