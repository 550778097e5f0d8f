"""Getting hold of a run: creating it, or claiming it where it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

from flujo_async._log.chain import GENESIS, seal
from flujo_async._log.fold import Fold
from flujo_async._log.gradual import each_of
from flujo_async._log.views import sealed
from flujo_async._model.facts import ResumeCause, RunResumed, RunStarted
from flujo_async._model.ids import check_run_id
from flujo_async._model.lease import CLAIMABLE, ClaimQuery, Lease
from flujo_async._model.selection import has_news
from flujo_async._model.state import RESTING, RUN_STATUSES, TERMINAL, RunStatus
from flujo_async._model.stored import NewRun, Record
from flujo_async._model.summary import RunSummary
from flujo_async._model.transition import is_held, missing
from flujo_async._runtime.calls import taken
from flujo_async._runtime.drive_setup import Ready
from flujo_async._runtime.instruments import Instruments, identity_of
from flujo_async._runtime.lease_keeper import give_back
from flujo_async._runtime.owner import Owner
from flujo_async._runtime.program import Catalogue, Program
from flujo_async._runtime.reader import Reader, Seen
from flujo_async._runtime.request import Request
from flujo_async._runtime.waits import PAUSE
from flujo_async.abc.backend import StateBackend
from flujo_async.abc.clock import Clock
from flujo_async.abc.pace import Pace, begin, in_turns
from flujo_async.abc.pending import acquire
from flujo_async.abc.shield import finish
from flujo_async.errors import IntegrityError, RunExists, StaleLease, VersionMismatch

_TAKEN_UP: Final[frozenset[RunStatus]] = frozenset({*CLAIMABLE, "paused"})


class Taking:
    """Creates and claims runs for one runtime."""

    def __init__(
        self,
        backend: StateBackend,
        catalogue: Catalogue,
        clock: Clock,
        ttl: timedelta,
        reader: Reader,
        instruments: Instruments | None,
    ) -> None:
        self._backend = backend
        self._catalogue = catalogue
        self._clock = clock
        self._ttl = ttl
        self._reader = reader
        self._instruments = instruments

    async def prepare(self, request: Request, owner: str) -> Ready | Fold | None:
        """Create the run that is asked for, or claim it if it exists and goes on.

        Returns:
            What to drive; or the state of a run at rest; or ``None`` if somebody else has the run, or it sleeps.

        Raises:
            RunConflict: the run exists with another input or context.
            RunNotFound: it is known, and does not exist any more.
            VersionMismatch: the run was recorded by another definition.
        """
        if request.input is not ... and (created := await self.create(request, owner)):
            return created
        seen = await self._reader.look(check_run_id(request.run_id))
        if seen is None and request.is_known:
            raise missing(request.run_id)
        return await (self.create(request, owner) if seen is None else self._take_up(request, owner, seen))

    async def prepare_again(self, request: Request, owner: str) -> Ready | Fold | None:
        """Claim a run that existed a moment ago; one that was deleted is not created again."""
        seen = await self._reader.look(request.run_id)
        if seen is None:
            raise missing(request.run_id)
        return await self._take_up(request, owner, seen, cause_of(seen.summary))

    async def ensure(self, request: Request) -> Seen | None:
        """Put a run into the store that nobody drives yet, unless it exists; then return it.

        Raises:
            RunConflict: it exists with another input or context.
        """
        while (seen := await self._reader.look(check_run_id(request.run_id))) is None:
            with suppress(RunExists):
                await self._create(request, None)
                return None  # by now it may have come to its end, and be deleted
        self._catalogue.reading(seen.fold).check_same_request(request, seen.fold)
        return seen

    async def create(self, request: Request, owner: str | None, program: Program | None = None) -> Ready | None:
        """Create a run, leased to ``owner``; return nothing if it exists, or there is no owner."""
        with suppress(RunExists):
            return await self._create(request, owner, program)
        return None

    async def _create(self, request: Request, owner: str | None, program: Program | None = None) -> Ready | None:
        check_run_id(request.run_id)
        if (pace := Pace.here()).is_over:  # many may begin at the same instant, with megabytes to encode
            await pace.turn()
        program = program or self._catalogue.current
        now = self._clock.now()
        started = self._with_carrier(program.begin(request, now))
        record, blobs = seal(started, after=0, prev_hash=GENESIS)
        fold = Fold(started)
        fold.apply(started, record)
        summary = RunSummary(
            run_id=request.run_id,
            pipeline_name=started.pipeline_name,
            pipeline_version=started.pipeline_version,
            pipeline_id=started.fingerprint,
            is_background=started.is_background,
            status="running" if request.queue is None else "pending",
            created_at=started.at,
            updated_at=started.at,
            last_seq=fold.seq,
            metadata=started.metadata,
            parent_run_id=request.parent_run_id,
            queue=request.queue,
            priority=request.priority,
            wake_at=now + timedelta(seconds=request.delay) if request.delay else None,
        )
        new = NewRun(summary, (record,), tuple(blobs))
        lease = await acquire(self._backend.begin_create(new, owner=owner, ttl=self._ttl), self.give_back)
        if self._instruments is not None:
            self._instruments.committed(identity_of(fold), [sealed(record, started)])
        return None if lease is None else Ready(lease, fold, program, priority=request.priority)

    def _with_carrier(self, started: RunStarted) -> RunStarted:
        """Return the first fact of a run with what instruments give it to carry along."""
        if self._instruments is None:
            return started
        carrier = self._instruments.carrier(identity_of(Fold(started)))
        return replace(started, carrier=carrier) if carrier else started

    async def _take_up(
        self, request: Request, owner: str, seen: Seen, cause: ResumeCause = "requested"
    ) -> Ready | Fold | None:
        fold = seen.fold
        self._catalogue.reading(fold).check_same_request(request, fold)
        if not self.goes_on(request, seen):
            is_taken_up = fold.status == "paused" and self._is_held(seen.summary.lease)
            return None if is_taken_up else fold  # who drives it has not committed yet that it rests no more
        try:
            self._catalogue.running(fold)  # refused before it is claimed: a claim counts as an attempt
        except VersionMismatch:
            if await self._goes_on_elsewhere(seen.summary):
                return None  # nothing would execute here, so the definition does not matter
            raise
        if self.sleeps(seen.summary) and fold.is_asleep(self._clock.now()):
            return None
        lease = await self.take(request.run_id, owner, last_lease=seen.summary.lease)
        return None if lease is None else await self.ready(lease, seen, is_resume=request.is_resume, cause=cause)

    def goes_on(self, request: Request, seen: Seen) -> bool:
        """Return whether there is anything to do in a run."""
        fold = seen.fold
        if fold.status != "paused":
            return fold.status not in TERMINAL
        kinds = {waiting.kind for waiting in fold.waiting_for}
        # Of children that have gone on elsewhere, in a store that this is a copy of, nobody has told it.
        if "definition" in kinds or (request.is_resume and ("pause" in kinds or fold.awaited.children())):
            return True
        return seen.is_due(self._clock.now())

    def sleeps(self, summary: RunSummary) -> bool:
        """Return whether a run has left memory until a moment that has not come."""
        is_awake = summary.wake_at is None or summary.wake_at <= self._clock.now()
        is_waiting = summary.lease is None and summary.status == "running"
        return is_waiting and not is_awake and summary.signals <= summary.signals_read

    async def ready(
        self, lease: Lease, seen: Seen, *, is_resume: bool = False, cause: ResumeCause = "requested"
    ) -> Ready:
        """Return a claimed run, brought up to what was committed before the claim; its lease is given back on failure.

        Raises:
            VersionMismatch: nothing here fits what was recorded.
        """
        try:
            return await self._ready(lease, seen, is_resume, cause)
        except BaseException:
            await finish(self.give_back(lease))
            raise

    async def _ready(self, lease: Lease, seen: Seen, is_resume: bool, cause: ResumeCause) -> Ready:
        fold = seen.fold
        tail: Sequence[Record] | None = ()
        if not is_held(seen.summary, lease):  # else it was claimed before it was read, and nobody could add anything
            tail = await self._reader.since(fold.run_id, fold.seq, fold.hash)
        last = seen.signals[-1] if seen.signals else None
        news = await self._reader.signals_since(fold.run_id, len(seen.signals), last)
        if tail is None or news is None:
            raise await self._is_another(lease, seen)
        await in_turns(each_of(tail, fold.extend))
        signals = [*seen.signals, *news]
        program = self._catalogue.running(fold)
        now = self._clock.now()
        first: list[Any] = [RunResumed(at=now, owner=lease.owner, cause=cause)]
        if (migrated := self._catalogue.migration(program, fold, now)) is not None:
            first.append(migrated)
        if is_resume:  # it was asked for after the pauses that nobody has heard yet
            pauses = [signal for signal in signals if signal.name == PAUSE and signal.signal_id not in fold.taken]
            first += [taken(signal, now) for signal in pauses]
        is_new = seen.summary.status == "pending"
        facts = seen.facts + len(tail)
        return Ready(
            lease,
            fold,
            program,
            tuple(first),
            tuple(signals),
            seen.summary.priority,
            is_new=is_new,
            is_woken=cause == "woken",
            facts=facts,
        )

    async def _is_another(self, lease: Lease, seen: Seen) -> Exception:
        """Return the error for a claimed run that does not go on from what was seen of it."""
        run_id, now = lease.run_id, await self._reader.look(lease.run_id)
        is_here = now is not None and is_held(now.summary, lease)  # else it was deleted since, and imported again
        if is_here and now and (now.fold.hash, now.signals) == (seen.fold.hash, seen.signals):
            return IntegrityError("the log is not what it was a moment ago", run_id=run_id, seq=seen.fold.seq)
        return StaleLease(f"run {run_id!r} was deleted, and maybe created anew, since it was looked at")

    async def take(
        self,
        run_id: str,
        owner: str,
        statuses: frozenset[RunStatus] = _TAKEN_UP,
        *,
        last_lease: Lease | None = None,
    ) -> Lease | None:
        """Claim one run, also from an owner that is known to be dead.

        A caller that is cancelled meanwhile leaves no lease behind; so it waits until the store has answered.

        Args:
            run_id: the run.
            owner: who claims it.
            statuses: claim it only in one of these.
            last_lease: the lease that it had a moment ago, as far as that is known.
        """
        return await acquire(begin(self.claim(run_id, owner, statuses, last_lease)), self.give_back)

    async def claim(
        self,
        run_id: str,
        owner: str,
        statuses: frozenset[RunStatus] = _TAKEN_UP,
        last_lease: Lease | None = None,
    ) -> Lease | None:
        """Claim one run, as ``take`` does, at once: for a caller that is not cancelled."""
        query = ClaimQuery(run_id=run_id, statuses=statuses, dead_owners=self._dead_owners(last_lease))
        leases = await self._backend.claim(owner, now=self._clock.now(), ttl=self._ttl, query=query)
        if leases:
            return leases[0]
        summary = await self._reader.summary(run_id)
        dead_owners = self._dead_owners(None if summary is None else summary.lease)
        if dead_owners <= query.dead_owners:
            return None
        query = replace(query, dead_owners=dead_owners)
        leases = await self._backend.claim(owner, now=self._clock.now(), ttl=self._ttl, query=query)
        return leases[0] if leases else None

    async def seize(self, lease: Lease, owner: str) -> None:
        """Take a run from whoever drives it, who can write no more."""
        seized = frozenset({lease.owner})
        query = ClaimQuery(run_id=lease.run_id, statuses=RUN_STATUSES, dead_owners=seized)
        await self._backend.claim(owner, now=self._clock.now(), ttl=self._ttl, query=query)

    def _dead_owners(self, lease: Lease | None) -> frozenset[str]:
        """Return the owner of a lease, if that is known to be dead."""
        return frozenset() if lease is None or not self.is_dead(lease) else frozenset({lease.owner})

    async def give_back(self, lease: Lease | None) -> None:
        """Give up a lease."""
        if lease is not None:
            await give_back(self._backend, lease)

    def is_free(self, head: RunSummary) -> bool:
        """Return whether a run rests or waits for an executor."""
        if self._is_held(head.lease):
            return False
        return not self.sleeps(head)

    def is_orphan(self, head: RunSummary) -> bool:
        """Return whether a run was interrupted, and nobody has taken it up since."""
        return head.status == "running" and self.is_free(head)

    async def _goes_on_elsewhere(self, seen: RunSummary) -> bool:
        """Return whether a run that wanted to go on is driven by somebody, or has come to rest since."""
        summary = await self._reader.summary(seen.run_id)
        if summary is not None and summary.status not in RESTING and not self._is_held(summary.lease):
            summary = await self._reader.summary(seen.run_id)  # who had it may have ended it, and be gone since
        if summary is None or self._is_held(summary.lease):
            return True
        return summary.status in RESTING and (summary.status, summary.last_seq) != (seen.status, seen.last_seq)

    def _is_held(self, lease: Lease | None) -> bool:
        return lease is not None and lease.expires_at > self._clock.now() and not self.is_dead(lease)

    def is_dead(self, lease: Lease) -> bool:
        """Return whether the owner of a lease is known to have ended."""
        owner = Owner.parse(lease.owner)
        if owner is None:
            return False
        is_elsewhere = not self._backend.capabilities.multi_process and not owner.is_here()
        return is_elsewhere or owner.is_dead()


def cause_of(head: RunSummary) -> ResumeCause:
    """Return why a run was claimed that nobody has asked for."""
    if head.status == "pending" and head.queue is not None:
        return "queued"
    was_left = head.status == "running" and head.wake_at is None and not has_news(head)
    return "recovered" if was_left else "woken"
