"""What was recorded of a workflow, given back in the order in which it happened.

Each call of the code waits until its turn in the log comes, and what is not in the log waits until all that is has been
given back. So the code makes the same choices as when it was recorded, even those that depend on what came first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Mapping, Sequence, Sized
from typing import Final

from flujo_async._log.delta import Migration
from flujo_async._log.keys import child, fallback_of, is_compensation, is_within, paths_above
from flujo_async._model.facts import CallCancelled, StateChanged
from flujo_async._runtime.execution import Execution
from flujo_async._runtime.lanes import Lane
from flujo_async.errors import NonDeterminismError

_TURNS_BETWEEN: Final = 8
"""So many turns of the event loop pass between two results, for the code to react to the first before the second."""

_SLACK: Final = 0.25
"""So many seconds longer than it took then, code may take to cancel a call again."""

_FALLBACK: Final = fallback_of("")


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
        self._cancelled = execution.recorded.cancelled(path)
        self._script = _script(execution, path, self._cancelled)
        self._forgotten = _forgotten(execution, path, [key for key in self._script if key not in self._cancelled])
        self._skipped: set[str] = set()
        self._next = 0
        self._askers: dict[str, tuple[asyncio.Future[None], Lane]] = {}
        self._gone: set[str] = set()
        self._held: dict[str, asyncio.Future[None]] = {}
        self._dismissed: set[str] = set()
        self._lanes: dict[str, Lane] = {}
        self._last_lane: Lane | None = None
        self._pumping: asyncio.Handle | None = None
        self._began = asyncio.get_running_loop().time()
        self._deadline: tuple[str, float] | None = None  # by when the code has cancelled a call again
        self._expiring: asyncio.Handle | None = None
        self._granted = 0
        self._deliveries: deque[asyncio.Future[None]] = deque()
        self._delivering: asyncio.Handle | None = None
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

    def is_turn(self, key: str, lane: Lane) -> bool:
        """Return whether a call goes on at once: it is the one that comes next, or all has been given back."""
        if self._next >= len(self._script):
            return True
        is_next = key == self._script[self._next] and key not in self._cancelled
        if is_next and (lane is self._last_lane or len(self._lanes) <= 1):
            self._advance(lane)
            return True
        return key in self._skipped

    async def turn(self, key: str, lane: Lane) -> None:
        """Return when it is the turn of a call which does not go on at once."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._askers[key] = (turn, lane)
        self._pump()
        try:
            await turn
        finally:
            self._askers.pop(key, None)
            self._granted -= turn.done() and not turn.cancelled()

    def cancel(self, key: str) -> CallCancelled | None:
        """Take note that a call was cancelled; return what to record if the code has done that, and not before."""
        if not self.is_over:
            self._gone.add(key)
            self._pump()
        if key in self._cancelled:
            return None
        elapsed = round(asyncio.get_running_loop().time() - self._began, 3)
        after = _place_of(self._execution, self.heard)
        return CallCancelled(at=self._execution.clock.now(), key=key, after=after, elapsed=elapsed)

    def is_ahead(self, key: str) -> bool:
        """Return whether the code has cancelled a call again before a result that came first: ending it took time."""
        left = self._script[self._next :]
        before = left[: left.index(key)] if key in self._cancelled and key in left else []
        return any(other not in self._cancelled for other in before)

    async def hold(self, key: str) -> None:
        """Return when it is the turn of a call that was cancelled."""
        turn = self._held[key] = asyncio.get_running_loop().create_future()
        try:
            await turn
        finally:
            self._held.pop(key, None)
            self._granted -= turn.done() and not turn.cancelled()

    async def deliver(self) -> None:
        """Return when the code has had time to react to the result before this one.

        Results that become durable at the same instant reach the code one by one, as they will in a replay.
        """
        if not self.is_over:
            return
        if self._delivering is None:
            self.let_react()
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._deliveries.append(turn)
        await turn

    def let_react(self) -> None:
        """Let the code react before another result reaches it; there is none if it is in one task."""
        if self._tasks and self._delivering is None and self.is_over:
            self._let_react(_TURNS_BETWEEN)

    def _let_react(self, turns: int) -> None:
        if turns:
            self._delivering = asyncio.get_running_loop().call_soon(self._let_react, turns - 1)
            return
        self._delivering = None
        while self._deliveries and self._delivering is None:
            turn = self._deliveries.popleft()
            if not turn.done():  # it may have been cancelled meanwhile
                turn.set_result(None)
                self.let_react()

    def check_stuck(self) -> bool:
        """Return whether the code is at a standstill while there is more to give back; then it contradicts the log."""
        if self.is_over:
            return False
        if self._granted or self._pumping is not None:
            return True  # something is on its way
        if self._skip_gone():
            pass
        elif self.is_over:
            self._pump()
        elif (following := self._script[self._next]) in self._cancelled:
            self._check_cancelled(following)
        elif following in self._askers:
            self._pump()
        else:
            self._choose_another()
        return True

    def _check_cancelled(self, key: str) -> None:
        """Wait for code that is to cancel a call again; its own time may have to be over first."""
        if key not in self._askers:  # it does without, this time
            self._next += 1
            self._pump()
            return
        loop = asyncio.get_running_loop()
        if self._deadline is None or self._deadline[0] != key:
            patience = self._cancelled[key][1] + _SLACK
            self._deadline = key, loop.time() + patience
            self._expiring = loop.call_later(patience, self._execution.waits.activity.look)
        elif loop.time() < self._deadline[1]:
            pass
        elif self._execution.journal.fold.redriven:  # it may do something else since
            self._next += 1
            self._pump()
        else:
            self._choose_another()

    def _choose_another(self) -> None:
        """Go on with what the code asks for instead of what comes next, if it may only have changed its order.

        Tasks that end at the same instant can be looked at in any order, and the log has only one.
        """
        if self._skip_forgotten():
            self._pump()
            return
        left = self._script[self._next :]
        recorded = [key for key in left if key in self._held]
        recorded += [key for key in left if key in self._askers and key not in self._cancelled]
        asked = sorted(self._askers.keys() - set(self._script))
        if recorded:
            self._script.remove(recorded[0])
            self._script.insert(self._next, recorded[0])
            self._pump()
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

    def _let_go(self, key: str) -> None:
        turn, _ = self._askers.pop(key)
        self._grant(turn)

    def _grant(self, turn: asyncio.Future[None]) -> None:
        if not turn.done():  # it may have been cancelled at this instant
            turn.set_result(None)
            self._granted += 1

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
        for handle in (self._pumping, self._delivering, self._expiring):
            if handle is not None:
                handle.cancel()
        self._execution.waits.replays.pop(self, None)

    def _advance(self, lane: Lane) -> None:
        self._next += 1
        self._last_lane = lane
        if self.is_over or len(self._askers) > 0:
            self._pump()

    def _pump(self) -> None:
        if self._pumping is None:
            self._pumping = asyncio.get_running_loop().call_soon(self._wait, _TURNS_BETWEEN)

    def _wait(self, turns: int) -> None:
        if turns:
            self._pumping = asyncio.get_running_loop().call_soon(self._wait, turns - 1)
            return
        self._pumping = None
        if self._skip_gone():
            return
        if self.is_over:
            self._let_all_go()
            return
        following = self._script[self._next]
        asker = None if following in self._cancelled else self._askers.pop(following, None)
        if asker is None:
            if self._skip_forgotten():
                self._pump()
            else:
                self._execution.waits.activity.look()
            return
        turn, lane = asker
        self._grant(turn)
        self._advance(lane)

    def _let_all_go(self) -> None:
        for key in list(self._askers):
            self._let_go(key)
        self._lanes.clear()
        self._execution.waits.replays.pop(self, None)

    def _skip_gone(self) -> bool:
        """Go on with what comes after calls that were cancelled; return whether the code is told of one now."""
        is_told = False
        while not self.is_over and self._is_gone(key := self._script[self._next]):
            self._next += 1
            if (held := self._held.pop(key, None)) is not None:
                self._grant(held)
                is_told = True
        if is_told:
            self._pump()
        return is_told

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
        if key in self._gone:
            return True
        if not self._dismissed or key in self._askers:  # a task may have been made of a call that another one has made
            return False
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


def recorded_calls(execution: Execution, path: str) -> list[str]:
    """Return the keys of the calls of a workflow that were answered, in the order of the answers."""
    cancelled = execution.recorded.cancelled(path)
    return [key for key in _script(execution, path, cancelled) if key not in cancelled]


def _script(execution: Execution, path: str, cancelled: Mapping[str, tuple[int, float]]) -> list[str]:
    """Return the keys of the calls that were answered, and of those that were cancelled, in the order of the log."""
    fold = execution.journal.fold
    script: dict[str, None] = {}
    others = deque(sorted(cancelled, key=lambda key: cancelled[key][0]))
    for key in execution.recorded.answered(path):
        if is_compensation(key) or key in cancelled:
            continue
        while others and cancelled[others[0]][0] < fold.places[key]:
            script[others.popleft()] = None
        while key.endswith(_FALLBACK):
            key = key.removesuffix(_FALLBACK)
            script.pop(key, None)
        script[key] = None
    return [*script, *others]


def _place_of(execution: Execution, key: str) -> int:
    """Return where in the log a call was answered, by itself or what stands in for it; 0 if it was not."""
    places = execution.journal.fold.places
    while (other := fallback_of(key)) in places:
        key = other
    return places.get(key, 0)


def _forgotten(execution: Execution, path: str, script: Sequence[str]) -> Collection[str]:
    fold, recorded = execution.journal.fold, execution.recorded
    return {key for key in script if recorded.is_forgotten(path, fold.places[key])} if fold.redriven else ()


def to_migrate(execution: Execution, path: str) -> dict[Migration, set[str]]:
    """Return what forks and migrations changed in the context of a workflow that had begun.

    They come with what its code had come to by then and comes to again: the calls that were answered, and the
    beginnings, or the end, before which it had changed the context.
    """
    fold, recorded = execution.journal.fold, execution.recorded
    if not fold.migrations:
        return {}
    come = [(key, fold.places[key]) for key in recorded_calls(execution, path)]
    come += [
        (begin_of(fact.call), fold.places[fact.key])
        for fact in recorded.changes(path)
        if isinstance(fact, StateChanged) and fact.call and fact.call not in fold.cancelled_calls
    ]
    first = min((place for _, place in come), default=fold.seq) if path else 0
    again = [(key, place) for key, place in come if not recorded.is_forgotten(path, place)]
    return {
        migration: {key for key, place in again if place < migration.seq}
        for migration in fold.migrations
        if first < migration.seq
    }


def begin_of(key: str) -> str:
    """Return what the beginning of a call is, beside the keys of those that are answered."""
    return child(key, "$begin")
