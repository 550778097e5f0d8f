"""One leased run, driven until it rests or leaves memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar

from flujo_async._codec.exceptions import encode_error
from flujo_async._log.fold import Fold
from flujo_async._log.history import children_to_end, failed_last
from flujo_async._model.facts import RunCancelled, RunCompleted, RunFailed, RunMigrated, SignalReceived
from flujo_async._model.stored import Signal
from flujo_async._model.tree import Json
from flujo_async._runtime.calls import taken
from flujo_async._runtime.drive_setup import DriveSetup, Ready
from flujo_async._runtime.driven_runs import Receiving
from flujo_async._runtime.execution import Children, Execution, Fault
from flujo_async._runtime.instruments import identity_of
from flujo_async._runtime.interpreter import Interpreter
from flujo_async._runtime.journal import Journal
from flujo_async._runtime.lease_keeper import Held, give_back
from flujo_async._runtime.misread import Misread
from flujo_async._runtime.recorded import Recorded
from flujo_async._runtime.saga import Ending, roll_back
from flujo_async._runtime.snapshots import Snapshots
from flujo_async._runtime.waits import CANCEL, PARENT, PAUSE, CodeError, Park, Waits, code_wait, parents_of
from flujo_async._runtime.witness import is_always_replaying
from flujo_async.abc.event_loop import tell
from flujo_async.abc.pace import Pace
from flujo_async.abc.shield import finish, settle
from flujo_async.errors import DeserializationError, NonDeterminismError, StaleLease

T = TypeVar("T")

_Stop: TypeAlias = Park | CodeError | Literal["lost", "cancelled", "late"]
"""Why a drive is ended from inside."""


class _Stopped(Exception):
    """The code of the run was ended by the drive itself."""


class _Outside:
    """What other threads tell a drive, which hears of it in its event loop."""

    __slots__ = ("_drive", "_loop")

    def __init__(self, drive: Drive) -> None:
        self._drive = drive
        self._loop = asyncio.get_running_loop()

    def lose(self) -> None:
        tell(self._loop, self._drive.lose)

    def take_in(self, signals: Iterable[Signal]) -> None:
        tell(self._loop, self._drive.take_in, signals)

    def look(self) -> None:
        tell(self._loop, self._drive.look)


class Drive:
    """Drives one run in the task that awaits it.

    However it ends, nothing of it is left behind: no task, no write on its way, and no lease unless the run rests,
    where the store has taken the lease back.

    Attributes:
        error: the exception that failed the run, if one did.
        parked: how the run left memory, if it did.
    """

    def __init__(self, ready: Ready, setup: DriveSetup, children: Children, *, driven_by: str | None = None) -> None:
        """Prepare to drive a run.

        Args:
            ready: the run.
            setup: what drives work with.
            children: what runs its children.
            driven_by: the parent that drives the run, if one does, and hears of its end anyway.
        """
        waits = Waits(ready.fold, setup.clock, ready.signals, self._stop_for, is_woken=ready.is_woken)
        pace = Pace.here()
        journal = Journal(setup.backend, ready.lease, ready.fold, pace)
        journal.signals_read = waits.signals_read
        instruments = setup.services.instruments
        self._watch: AbstractContextManager[None] | None = None
        watch = None
        if instruments is not None:
            identity = identity_of(ready.fold, ready.program.definition.version)
            journal.on_durable = partial(instruments.committed, identity)
            self._watch, watch = instruments.driving(identity), partial(instruments.attempt, identity)
        self._snapshots = Snapshots(setup.backend, ready.lease, journal, ready.facts)
        self._ready = ready
        self._driven_by = driven_by
        self._setup = setup
        self._outside = _Outside(self)
        self._held = Held(setup.keeper, ready.lease, self._outside, len(ready.signals))
        self._execution = Execution(
            run_id=ready.fold.run_id,
            journal=journal,
            codec=ready.program.codec,
            labels=ready.program.labels,
            contexts=ready.program.contexts,
            clock=setup.clock,
            waits=waits,
            services=setup.services,
            children=children,
            pace=pace,
            disprove=self._stop_for,
            is_cancelled=self._is_cancelled,
            held=self._held,
            secure=self._secure,
            watch=watch,
            replay=self._begin_again if setup.always_replay or is_always_replaying() else None,
            priority=ready.priority,
            durability=ready.program.definition.durability or setup.durability,
        )
        self._task: asyncio.Task[Any] | None = None
        self._cancelled_before = 0
        self._reading: asyncio.Task[None] | None = None
        self._is_to_read = False
        self._stop: _Stop | None = None
        self._is_interruptible = False
        self._is_resumed = bool(ready.fold.outcomes or ready.fold.children)
        self._was_paused = ready.fold.status == "paused"
        self._was_contradicted = any(each.kind == "definition" and not each.run_id for each in ready.fold.waiting_for)
        self._is_ending = False
        self._first = range(0)  # where in the log it stands that the run was taken up
        self._is_abandoned = False
        self.error: Exception | None = None
        self.parked: Park | None = None

    def run(self) -> Awaitable[Fold]:
        """Return the state of the run when it rests or leaves memory.

        Raises:
            StaleLease: somebody else has the run.
            NonDeterminismError: the code of the run contradicts what is recorded.
            DeserializationError: what is recorded does not fit the classes that are here.
            BackendError: the store failed.
            CancelledError: the task was cancelled; the run can be resumed.
        """
        return self._run() if self._watch is None else self._watched(self._watch)

    async def _watched(self, watch: AbstractContextManager[None]) -> Fold:
        with watch:
            return await self._run()

    async def _run(self) -> Fold:
        self._task = self._execution.journal.soloist = task = asyncio.current_task()
        assert task is not None
        self._cancelled_before = task.cancelling()  # the caller may be cleaning up after a cancellation of its own
        try:
            with self._held, Receiving(self._execution.run_id, self._outside, self._setup.backend):
                await self._begin()
                await self._to_its_end()
        except GeneratorExit:  # the event loop is gone, and with it all that could be awaited
            self._is_abandoned = True
            raise
        finally:
            self._task = None
            if not (self._is_abandoned or self._has_let_go()):
                await finish(self._let_go())
        self._come_apart()
        return self._ready.fold

    # ------------------------------------------------------------------------------- what comes from outside

    def _begin_again(self) -> None:
        self._execution.journal.defer()  # all that goes with the next commit, such as the end of a sleep, goes down now
        self._stop_for(Park((), self._setup.clock.now(), is_paused=False))

    def lose(self) -> None:
        """Stop: somebody else has the run."""
        self._stop_for("lost")

    async def _secure(self) -> datetime:
        """Make sure that nobody else has the run, whose lease has run out, as after a long stop of the process."""
        while self._held.lease.expires_at <= (now := self._setup.clock.now()):  # once more, with nothing in between
            if not await self._setup.keeper.renew_now(self._held):
                self.lose()
                raise asyncio.CancelledError
        return now

    def _stop_for(self, stop: _Stop) -> None:
        """End the code of the run: its task is cancelled. Only the first reason counts, except for a lost lease.

        Between the code and the commit that ends the drive nothing can be ended any more; whoever drives the run next
        finds what was posted.
        """
        if self._task is None or not self._is_interruptible or (self._stop is not None and stop != "lost"):
            return
        if self._is_ending and stop in ("cancelled", "late"):
            return
        is_first = self._stop is None
        self._stop = stop
        if stop == "lost":
            self._snapshots.stop()
        self._execution.is_stopped = True
        if is_first:  # a second cancellation would be taken for one from outside
            self._task.cancel()

    def look(self) -> None:
        """Read the signals of the run, to which something was posted."""
        self._is_to_read = True
        if self._task is not None and (self._reading is None or self._reading.done()):
            self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while self._is_to_read:
            self._is_to_read = False  # what is posted from here on is read by the next turn
            with suppress(Exception):  # a store that fails stops the run at its next commit
                known = {self._execution.run_id: self._execution.waits.heard}
                self.take_in(await self._setup.backend.read_signals(known))

    def take_in(self, signals: Iterable[Signal]) -> None:
        """Look at signals of the run that may be new."""
        if self._task is None:  # they came too late; whoever drives the run next finds them
            return
        waits = self._execution.waits
        waits.take_in(signals)
        if waits.pending(CANCEL):
            self._stop_for("cancelled")
        else:
            self._take_pause()

    def _take_pause(self) -> None:
        while (signal := self._execution.waits.take(PAUSE)) is not None:
            self._execution.journal.note(taken(signal, self._setup.clock.now()))
            self._execution.waits.pause()

    # ------------------------------------------------------------------------------------------ the way of a run

    async def _begin(self) -> None:
        journal, pace = self._execution.journal, self._execution.pace
        if pace.is_over:  # the store has answered at once, or there was much to read
            await pace.turn()
        self._first = range(journal.fold.seq + 1, journal.fold.seq + 1 + len(self._ready.first))
        for fact in self._ready.first:
            journal.note(fact)
            if isinstance(fact, SignalReceived):
                self._execution.waits.dismiss(fact)
        is_migrated = any(isinstance(fact, RunMigrated) for fact in self._ready.first)
        if is_migrated or self._ready.is_new:
            await journal.commit()  # the steps see the context as it is after the migration
        self._take_pause()

    async def _to_its_end(self) -> None:
        execution = self._execution
        is_over = execution.journal.fold.rollback is not None or execution.waits.pending(CANCEL) or self._is_late()
        ending = self._ending() if is_over else await self._walk()
        if ending is None:
            return
        self._is_ending = True
        if self._is_resumed:
            failed = await self._find_what_to_undo()
            if self.error is not None:  # the code of the run has failed
                ending = replace(ending, keys=[*dict.fromkeys([*ending.keys, *failed])])
        self._calm()
        try:
            await self._interruptible(self._end(ending))
        except _Stopped:
            await self._after_stop()

    async def _walk(self) -> Ending | None:
        """Run the code of the run; return how the run ends, unless it completed or left memory."""
        try:
            output = await self._perform()
        except Fault as fault:
            self.error = fault.error
            return Ending("failed", fault.error, keys=fault.keys)
        except _Stopped:
            return await self._after_stop()
        await self._end_children(f"run {self._execution.run_id!r} has completed without it")
        await self._conclude(RunCompleted(at=self._setup.clock.now(), output=output))
        return None

    async def _find_what_to_undo(self) -> Sequence[str]:
        """Walk once more through all that is recorded, and begin nothing new, to meet every step that has completed.

        The walk that was ended may not have come to all of them: they were recorded before this process had the run.

        Returns:
            The steps whose failure has ended the run, or a part of it: the first that is met ends the other walk.
        """
        self._calm()
        self._execution.is_frozen, self._execution.cut_short = True, []
        try:
            await self._perform()
        except Fault as fault:
            return fault.keys
        except _Stopped:
            await self._after_stop()
        finally:
            self._execution.is_frozen = False
        return self._execution.cut_short

    def _calm(self) -> None:
        """Let the run go on after its code was stopped."""
        self._stop, self._execution.is_stopped = None, False

    def _perform(self) -> Coroutine[Any, Any, Json]:
        """Run the code of the run.

        Raises:
            Fault: it failed.
            _Stopped: it was ended by ``_stop_for``.
        """
        self._execution.recorded = Recorded(self._execution.journal.fold)
        interpreter = Interpreter(self._execution)
        return self._interruptible(interpreter.run(self._ready.program.definition.pipeline))

    async def _interruptible(self, work: Coroutine[Any, Any, T]) -> T:
        limit = self._limit()
        self._is_interruptible = True
        try:
            output = await work
        except asyncio.CancelledError:
            if self._stop is None:
                raise
            await self._absorb()
            raise _Stopped from None
        except Misread as misread:
            if self._stop is None:
                self._stop = misread.of(self._execution.run_id)
            else:
                await self._absorb()
            raise _Stopped from None
        except Exception:
            if self._stop is None:
                raise
            await self._absorb()  # the code of a workflow may answer a cancellation with anything
            raise _Stopped from None
        finally:
            self._is_interruptible = False
            if limit is not None:
                limit.cancel()
                await settle(limit)
        if self._stop is not None:
            await self._absorb()
            raise _Stopped
        return output

    async def _absorb(self) -> None:
        """Take in the cancellation of ``_stop_for``, which the code may not have seen; one from outside goes on."""
        assert self._task is not None
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        if self._task.uncancel() > self._cancelled_before:
            raise asyncio.CancelledError

    def _is_cancelled(self) -> bool:
        task = asyncio.current_task()
        return task is not None and task.cancelling() > (self._cancelled_before if task is self._task else 0)

    def _limit(self) -> asyncio.Task[None] | None:
        deadline = self._execution.journal.fold.deadline
        if deadline is None or self._execution.is_frozen or self._is_ending:
            return None
        return asyncio.create_task(self._stop_at(deadline))

    async def _stop_at(self, deadline: datetime) -> None:
        while (left := (deadline - self._setup.clock.now()).total_seconds()) > 0:
            await self._setup.clock.sleep(left)
        self._stop_for("late")

    def _is_late(self) -> bool:
        deadline = self._execution.journal.fold.deadline
        return deadline is not None and deadline <= self._setup.clock.now()

    async def _after_stop(self) -> Ending | None:
        """Return how the run ends, if that is why its code was stopped.

        Raises:
            StaleLease: somebody else has the run.
            NonDeterminismError, DeserializationError: the code is not the one that recorded the run.
        """
        match self._stop:
            case "lost":
                raise StaleLease(f"run {self._execution.run_id!r}: somebody else has claimed it")
            case "cancelled" | "late":
                return self._ending()
            case DeserializationError() | NonDeterminismError() as error:
                if not self._was_contradicted:  # else two of them would tell each other without end
                    await self._tell_parents()
                raise error
            case Park() as park:
                if not self._execution.is_frozen:
                    await self._park(park)
            case None:
                pass
        return None

    def _ending(self) -> Ending:
        """Return how a run ends whose code has not failed."""
        execution = self._execution
        if (rollback := execution.journal.fold.rollback) is not None:
            return Ending.again(rollback, execution.codec)
        if execution.waits.pending(CANCEL):
            signal = execution.waits.take(CANCEL)
            assert signal is not None
            keys = failed_last(execution.journal.fold, self._first)
            execution.journal.note(taken(signal, self._setup.clock.now()))
            return Ending("cancelled", reason=str(signal.payload or ""), keys=keys)
        return Ending("failed", TimeoutError(f"run {execution.run_id!r} took longer than its timeout"))

    async def _park(self, park: Park) -> None:
        deadline = self._execution.journal.fold.deadline
        if deadline is not None:
            park = Park(park.asked, min(deadline, park.wake_at or deadline), park.is_paused)
        if park.is_paused and await self._has_news():
            park = Park((), self._setup.clock.now(), is_paused=False)
        if park.is_paused or self._was_paused:
            await self._tell_parents()
        if not park.is_paused and self._was_paused:
            await self._execution.journal.commit()  # the head says otherwise, if nothing but a child has gone on
        elif park.is_paused:
            journal, now = self._execution.journal, self._setup.clock.now()
            await journal.commit(journal.fold.awaited.paused(now, park.asked, self._execution.waits.signals_read()))
        self.parked = park

    async def _has_news(self) -> bool:
        """Return whether something was posted that was just being read when the run came to a standstill."""
        if self._reading is not None:
            await asyncio.wait({self._reading})
        return self._execution.waits.has_news

    async def _end(self, ending: Ending) -> None:
        """Undo what there is to undo, and record how the run ended."""
        execution, clock = self._execution, self._setup.clock
        is_cancelled = ending.status == "cancelled"
        if is_cancelled:  # whoever cancels waits for the end, which outweighs a pause that was asked for before
            execution.waits.is_pausing = False
        await self._end_children(ending.reason if is_cancelled else f"run {execution.run_id!r} has failed")
        trouble = await roll_back(execution, ending)
        error = trouble or ending.error
        if error is not None:
            self.error = error
            recorded = encode_error(execution.codec, error)
            await self._conclude(RunFailed(at=clock.now(), error=recorded, keys=tuple(ending.keys)))
        else:
            await self._conclude(RunCancelled(at=clock.now(), reason=ending.reason, keys=tuple(ending.keys)))

    async def _end_children(self, reason: str) -> None:
        """Cancel the children that nobody waits for any more."""
        if children := children_to_end(self._execution.journal.fold):
            await self._execution.children.cancel_children(self._execution, children, reason)

    async def _conclude(self, fact: RunCompleted | RunFailed | RunCancelled) -> None:
        """Record the end of the run, after its parent was told: a crash in between may not leave that waiting."""
        await self._tell_parents()
        await self._execution.journal.commit(fact)

    async def _tell_parents(self) -> None:
        """Wake the runs above, which do not drive this one, and wait for it as it was when they rested."""
        execution = self._execution
        parents = parents_of(execution.journal.fold.started.parent_run_id, execution.waits.pending(PARENT))
        if others := [run_id for run_id in parents if run_id != self._driven_by]:
            await execution.children.tell_parents(others, execution.run_id)

    def _has_let_go(self) -> bool:
        """Return whether there is nothing left of the drive, as when the run has come to its end by itself."""
        journal = self._execution.journal
        is_gone = self._reading is None and journal.is_settled and journal.is_at_rest and self._snapshots.is_settled
        if is_gone:
            self._execution.waits.activity.close()
        return is_gone

    def _come_apart(self) -> None:
        """Cut the circles of references, so that the run is out of memory at once, and no collection has to find it."""
        self._execution.journal.on_write = self._execution.journal.on_durable = None
        del self._execution, self._snapshots, self._held, self._outside

    async def _let_go(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await settle(self._reading)
        execution = self._execution
        execution.waits.activity.close()
        await execution.journal.settle()
        await self._snapshots.settle()
        if execution.journal.is_at_rest:
            return
        signals_read = execution.waits.signals_read()
        if isinstance(self._stop, CodeError):
            waiting = code_wait(execution.journal.fold, self._stop, self._setup.clock.now())
            await self._setup.backend.release(self._ready.lease, signals_read=signals_read, waiting_for=[waiting])
        elif self.parked is not None:
            await self._setup.backend.release(self._ready.lease, wake_at=self.parked.wake_at, signals_read=signals_read)
        else:
            await give_back(self._setup.backend, self._ready.lease)
