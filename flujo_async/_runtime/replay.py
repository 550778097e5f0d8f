"""What was recorded of a workflow, given back in the order in which it happened.

Each call of the code waits until its turn in the log comes, and what is not in the log waits until all that is has been
given back. So the code makes the same choices as when it was recorded, even those that depend on what came first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sized
from contextlib import nullcontext
from typing import Any, Final

from typing_extensions import override

from flujo_async._log.keys import is_within, paths_above
from flujo_async._model.facts import CallCancelled
from flujo_async._runtime.execution import Execution
from flujo_async._runtime.lanes import Lane
from flujo_async._runtime.script import forgotten, had_ended, place_of, script_of
from flujo_async.errors import NonDeterminismError

_TURNS_BETWEEN: Final = 8
"""So many turns of the event loop pass between two results, for the code to react to the first before the second."""

_SLACK: Final = 0.25
"""So many seconds longer than it took then, code may take to cancel a call again."""


class _Notice(asyncio.Future[None]):
    """Tells who was cancelled when to hear of that; not earlier if cancelled once more, as anyio does again and again.

    Args:
        is_interrupted: whether the run is, and so nothing is waited for any more.
    """

    def __init__(self, is_interrupted: Callable[[], bool]) -> None:
        super().__init__()
        self._is_interrupted = is_interrupted

    @override
    def cancel(self, msg: Any = None) -> bool:
        return super().cancel(msg) if self._is_interrupted() else True


class Replay:
    """The recorded part of one workflow.

    Args:
        execution: the run.
        path: what the keys of its calls begin with.
        tasks: those of its tasks that live, besides the one that its code begins in.

    Attributes:
        heard: the call whose result has reached the code last.
    """

    def __init__(self, execution: Execution, path: str, tasks: Sized) -> None:
        self.heard = ""
        self._execution = execution
        self._tasks = tasks
        self._cancelled = dict(execution.recorded.cancelled(path))
        self._together = {key for key, fact in self._cancelled.items() if fact.together}
        self._script = script_of(execution, path, self._cancelled)
        self._forgotten = forgotten(execution, path, [key for key in self._script if key not in self._cancelled])
        # Where in the log the last result stands that is heard of before anything new.
        self._last = max((place_of(execution, key) for key in self._script), default=0)
        self._skipped: set[str] = set()
        self._next = 0
        self._askers: dict[str, tuple[asyncio.Future[None], Lane]] = {}
        self._gone: set[str] = set()
        self._dismissed: set[str] = set()
        self._lanes: dict[str, Lane] = {}
        self._last_lane: Lane | None = None
        self._reacting: asyncio.Handle | None = None
        self._turns = 0  # so many more of the event loop the code has to react
        self._began = asyncio.get_running_loop().time()
        self._deadline: tuple[str, float] | None = None  # by when the code has cancelled a call again
        self._expiring: asyncio.Handle | None = None
        self._granted = 0  # so many have been let go, and have not gone on yet
        self._new: dict[str, tuple[asyncio.Future[None], bool]] = {}  # and whether it is heard of with the one before
        if not self.is_over:
            execution.waits.replays[self] = None

    @property
    def is_over(self) -> bool:
        """Whether all that was recorded has been given back."""
        return self._next >= len(self._script)

    def enlist(self, lane: Lane) -> None:
        """Take note of a lane."""
        if not self.is_over:
            self._lanes[lane.path] = lane
            self._last_lane = None  # it has to begin before the next result, after which it may be cancelled

    def dismiss(self, lane: Lane) -> None:
        """Ask for nothing of a lane any more: its task was cancelled."""
        self._dismissed.add(lane.path)

    # ------------------------------------------------------------------------------------------- what the code asks

    def is_turn(self, key: str, lane: Lane) -> bool:
        """Return whether a call goes on at once: it is the one that comes next, or all has been given back."""
        if self.is_over:
            return True
        is_next = key == self._script[self._next] and key not in self._cancelled
        if is_next and (lane is self._last_lane or len(self._lanes) <= 1):
            self._next += 1
            self._last_lane = lane
            if self._next >= len(self._script) or self._askers:
                self._let_react()
            return True
        return key in self._skipped

    async def turn(self, key: str, lane: Lane) -> None:
        """Return when it is the turn of a call which does not go on at once."""
        await self._asked(key, lane, asyncio.get_running_loop().create_future())

    async def deliver(self, key: str) -> None:
        """Return when the code is to hear of a new result: when it has had time to react to what it has heard before.

        So what becomes durable at the same instant reaches the code one by one, as it will in a replay.
        """
        self._last = max(self._last, place_of(self._execution, key))
        if self._reacting is None:
            self.let_react()
        elif self.is_over:
            await self._queued(key, asyncio.get_running_loop().create_future())

    async def cancel(self, key: str, lane: Lane, is_interrupted: Callable[[], bool]) -> None:
        """Return when the code is to hear that it has cancelled a call, which is recorded, or when it is interrupted.

        It hears of that in the place of the result, if there is one, and else at one instant of all that it has
        cancelled at one instant.
        """
        self._gone.add(key)
        if is_interrupted():
            self._new.pop(key, None)
            return
        is_left, is_together = key in self._script[self._next :], False
        if key not in self._cancelled:
            if is_left or key in self._new:  # it had ended
                after = place_of(self._execution, key)
            else:
                after = max(self._last, place_of(self._execution, self.heard))
                is_together = self._is_cancelling()
            self._note_cancelled(key, after, is_together=is_together)
        if is_left:
            await self._asked(key, lane, _Notice(is_interrupted))
        elif self._tasks or self._new:
            try:
                await self._queued(key, _Notice(is_interrupted), is_together=is_together)
            finally:
                self._new.pop(key, None)

    def _is_cancelling(self) -> bool:
        """Return whether the last that the code is to hear of is that it has cancelled a call that had not ended."""
        last = next(reversed(self._new), "")
        return last in self._gone and not had_ended(self._execution, last, self._cancelled[last].after)

    def _note_cancelled(self, key: str, after: int, *, is_together: bool) -> None:
        elapsed = round(asyncio.get_running_loop().time() - self._began, 3)
        now = self._execution.clock.now()
        fact = CallCancelled(at=now, key=key, after=after, elapsed=elapsed, together=is_together)
        self._execution.journal.note(fact)
        self._cancelled[key] = fact

    async def _asked(self, key: str, lane: Lane, turn: asyncio.Future[None]) -> None:
        self._askers[key] = turn, lane
        if self._reacting is None:
            self._let_react()
        try:
            await turn
        finally:
            self._askers.pop(key, None)
            self._granted -= turn.done() and not turn.cancelled()

    async def _queued(self, key: str, turn: asyncio.Future[None], *, is_together: bool = False) -> None:
        self._new[key] = turn, is_together
        self._let_react(0)
        # In a replay it may have to be heard so that the code goes on: somebody has to see that it does not.
        with self._execution.waits.activity if self.is_over else nullcontext():
            await turn

    # ------------------------------------------------------------------------------------------- what it hears next

    def let_react(self) -> None:
        """Let the code react before it hears of something else; there is nothing else if it is in one task."""
        if self._tasks:
            self._let_react()

    def _let_react(self, turns: int = _TURNS_BETWEEN) -> None:
        self._turns = max(self._turns, turns)
        if self._reacting is None:
            self._reacting = asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        if self._turns:
            self._turns -= 1
            self._reacting = asyncio.get_running_loop().call_soon(self._turn)
            return
        self._reacting = None
        self._skip_gone()
        if self.is_over:
            self._let_all_go()
            self._give_new()
        elif all(map(self._is_asked, moment := self._moment())):
            for key in moment:
                self._last_lane = self._let_go(key)
            self._next += len(moment)
            self._let_react()
        elif self._skip_forgotten():
            self._let_react()
        else:
            self._execution.waits.activity.look()

    def _moment(self) -> list[str]:
        """Return what comes next: a result, or all that was cancelled at one instant and will be again."""
        end = self._next + 1
        while end < len(self._script) and self._script[end] in self._together:
            end += 1
        return self._script[self._next : end]

    def _is_asked(self, key: str) -> bool:
        """Return whether a call has come as far as it had: it waits for its result, or has been cancelled."""
        return key in self._askers and (key in self._gone) == (key in self._cancelled)

    def _let_all_go(self) -> None:
        """Let the calls begin that are not recorded."""
        for key in list(self._askers):
            self._let_go(key)
        self._lanes.clear()
        self._execution.waits.replays.pop(self, None)

    def _give_new(self) -> None:
        """Let the code hear of what is new: a result, or all that was cancelled meanwhile."""
        while self._new:
            key, (turn, is_together) = next(iter(self._new.items()))
            if turn.done():  # the call was cancelled at this instant, and is about to ask once more
                self._let_react(0)
                return
            if self._reacting is not None and not is_together:
                return
            del self._new[key]
            turn.set_result(None)
            self.let_react()

    def _let_go(self, key: str) -> Lane:
        turn, lane = self._askers.pop(key)
        if not turn.done():  # it may have been cancelled at this instant
            turn.set_result(None)
            self._granted += 1
        return lane

    def _skip_gone(self) -> None:
        """Go on with what comes after calls that nobody will ask for any more."""
        while not self.is_over and self._is_gone(self._script[self._next]):
            self._next += 1

    # ---------------------------------------------------------------------------------- what contradicts the log

    def check_stuck(self) -> bool:
        """Return whether the code is at a standstill while there is more to give back; then it contradicts the log."""
        if self.is_over:
            return False
        if self._granted or self._reacting is not None:
            return True  # something is on its way
        missing = next((key for key in self._moment() if not self._is_asked(key)), None)
        if missing is None:
            self._let_react()
        elif self._is_gone(missing):
            self._pass_over(missing)
        elif missing in self._cancelled:
            self._check_cancelled(missing)
        else:
            self._choose_another(missing)
        return True

    def _check_cancelled(self, key: str) -> None:
        """Wait for code that is to cancel a call again; its own time may have to be over first."""
        loop = asyncio.get_running_loop()
        if key not in self._askers and self._new:
            self._give_new()
        elif key not in self._askers:  # it does without, this time
            self._pass_over(key)
        elif self._deadline is None or self._deadline[0] != key:
            patience = self._cancelled[key].elapsed + _SLACK
            self._deadline = key, loop.time() + patience
            self._expiring = loop.call_later(patience, self._execution.waits.activity.look)
        elif loop.time() < self._deadline[1]:
            pass
        elif self._execution.journal.fold.redriven:  # it may do something else since
            self._pass_over(key)
        else:
            self._choose_another(key)

    def _pass_over(self, key: str) -> None:
        self._script.remove(key)
        self._let_react()

    def _choose_another(self, missing: str) -> None:
        """Go on with what the code asks for instead of what comes next, if it may only have changed its order.

        Tasks that end at the same instant can be looked at in any order, and the log has only one.
        """
        if self._new:
            self._give_new()
            return
        if self._skip_forgotten():
            self._let_react()
            return
        self._together.discard(missing)
        recorded = [key for key in self._script[self._next :] if self._is_asked(key)]
        asked = sorted(self._askers.keys() - set(self._script))
        if recorded:
            self._script.remove(recorded[0])
            self._script.insert(self._next, recorded[0])
            self._let_react()
        elif self._script[self._next] in self._cancelled:
            self._disprove([])
        elif (other := next(filter(self._is_another_choice, asked), None)) is not None:
            self._let_go(other)
        elif asked and self._is_next_held_up():
            self._let_go(asked[0])
        else:
            self._disprove(asked)

    def _is_next_held_up(self) -> bool:
        """Return whether who is next waits for a lock, say, that somebody else was given before it this time."""
        lane = self._lanes.get(self._script[self._next].rpartition("/")[0])
        return lane is not None and lane.is_held_up

    def _is_another_choice(self, key: str) -> bool:
        """Return whether a call may be the next one, with arguments that depend on which of some tasks came first."""
        _, lane = self._askers[key]
        return lane.has_tasks and _is_same_step(key, self._script[self._next])

    def check_end(self) -> None:
        """Check that the code, which has ended, has asked for all that was recorded."""
        left = [
            key
            for key in self._script[self._next :]
            if not (key in self._forgotten or key in self._cancelled or self._is_gone(key) or self._is_left_behind(key))
        ]
        if left:
            self._next = self._script.index(left[0])
            self._disprove([])

    def close(self) -> None:
        """Give back nothing any more."""
        for handle in (self._reacting, self._expiring):
            if handle is not None:
                handle.cancel()
        self._execution.waits.replays.pop(self, None)

    def _skip_forgotten(self) -> bool:
        """Go on with what comes after calls that the code need not ask for again, and does not; tell if there were any.

        It may ask for them later: then they are given back at once.
        """
        before = self._next
        while not self.is_over and (key := self._script[self._next]) in self._forgotten and key not in self._askers:
            self._skipped.add(key)
            self._next += 1
        return self._next > before

    def _is_gone(self, key: str) -> bool:
        """Return whether nobody will ask for ``key``, because the code itself cancelled who would have."""
        if key in self._askers:  # a task may have been made of a call that another one has made
            return False
        if key in self._gone or not self._dismissed:
            return key in self._gone
        lanes = [path for path in paths_above(key) if path in self._lanes]
        return bool(lanes) and lanes[-1] in self._dismissed  # tasks of a task that was cancelled may go on

    def _is_left_behind(self, key: str) -> bool:
        """Return whether ``key`` belongs to a task that the code did not wait for."""
        return any(
            lane.is_alive and lane.parent is not None and is_within(key, lane.path) for lane in self._lanes.values()
        )

    def _disprove(self, asked: list[str]) -> None:
        recorded = repr(self._script[self._next])
        instead = f"the code asks for {', '.join(map(repr, asked))}" if asked else "the code does not ask for it"
        if self._script[self._next] in self._cancelled:
            recorded, instead = f"that the code cancels {recorded}", "the code waits for it"
        self._execution.disprove(
            NonDeterminismError(
                f"run {self._execution.run_id!r}: the journal has {recorded} next, and {instead}; "
                f"resume the run with the code that recorded it; what differs each time comes from ctx, or a step",
                run_id=self._execution.run_id,
            )
        )


def _is_same_step(one: str, other: str) -> bool:
    """Return whether two keys are those of calls of one step in one lane, whatever the arguments."""
    return (
        one.rpartition("/")[0] == other.rpartition("/")[0]
        and one.rpartition("/")[2].partition(":")[0] == (other.rpartition("/")[2].partition(":")[0])
    )
