"""What a driven run waits for: moments, signals, decisions and children."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NoReturn, Protocol, TypeAlias

from flujo_async._log.awaited import Asked
from flujo_async._log.fold import Fold
from flujo_async._model.facts import SignalReceived, StepStarted
from flujo_async._model.state import Waiting
from flujo_async._model.stored import Signal
from flujo_async._runtime.activity import Activity
from flujo_async.abc.clock import Clock
from flujo_async.errors import DeserializationError, NonDeterminismError

_log: Final = logging.getLogger("flujo_async")

CodeError: TypeAlias = DeserializationError | NonDeterminismError
"""What a run waits to be mended, since its code is not the one that recorded it."""

MOMENT: Final = timedelta(seconds=1)
"""A run that has to wait longer than this leaves memory."""

CANCEL: Final = "$cancel"
"""The name of the signal by which a run is asked to end; its payload is the reason."""

PAUSE: Final = "$pause"
"""The name of the signal by which a run is asked to pause."""

REFUSED: Final = "$refused"
"""Under this name it is recorded that an answer was none."""

CHILD_RESTED: Final = "$child"
"""The name of the signal by which a run is told that something has changed in a child, whose id is the payload."""

PARENT: Final = "$parent"
"""The name of the signal by which a run asks to be told of a child that another one has started."""


@dataclass(frozen=True, slots=True)
class Park:
    """How a run that has come to a standstill leaves memory.

    Attributes:
        asked: what it waits for; a run that only sleeps is not paused, and waits for nothing.
        wake_at: when it wants to go on by itself, if ever.
        is_paused: whether nothing in it can go on by itself before somebody answers.
    """

    asked: tuple[Asked, ...]
    wake_at: datetime | None
    is_paused: bool


@dataclass(frozen=True, slots=True)
class ChildAtRest:
    """A child at rest, as it was when it was looked at.

    Attributes:
        waiting_for: what it waits for.
        wake_at: how long it sleeps.
        heard: how many news of it were known.
    """

    waiting_for: Sequence[Waiting]
    wake_at: datetime | None
    heard: int


class Replay(Protocol):
    """Gives recorded results back to the code of a workflow."""

    def check_stuck(self) -> bool:
        """Return whether there is more to give back."""
        ...


@dataclass(slots=True, eq=False)
class _Open:
    """One thing that is waited for.

    Attributes:
        asked: what to tell of it; nothing for a timer.
        wake_at: when it is over at the latest.
        news: set when there is something to look at; nothing for what does not look.
        topic: of the signals that it looks at.
    """

    asked: tuple[Asked, ...]
    wake_at: datetime | None
    news: asyncio.Event | None
    topic: str


def _first_deadline(waiting: Sequence[Waiting]) -> datetime | None:
    return min((each.deadline for each in waiting if each.deadline is not None), default=None)


def news_of(run_id: str) -> str:
    """Return the topic of what a run is told of a child."""
    return f"{CHILD_RESTED}/{run_id}"


def _topic(signal: Signal | SignalReceived) -> str:
    """Return what a signal is about: its name, but for news of a child, which are about that one."""
    return news_of(str(signal.payload)) if signal.name == CHILD_RESTED else signal.name


class Waits:
    """Everything that a run waits for while it is driven, and the signals that were posted to it.

    Attributes:
        activity: what else goes on.
        replays: what still gives back recorded results, and so lets the run go on.
        is_pausing: whether the run is to stop before its next step.
    """

    def __init__(
        self,
        fold: Fold,
        clock: Clock,
        signals: Sequence[Signal],
        stop: Callable[[Park], None],
        *,
        is_woken: bool,
    ) -> None:
        """Begin with nothing open.

        Args:
            fold: the run.
            clock: the time.
            signals: what was posted so far.
            stop: called when the run has come to a standstill that lasts.
            is_woken: whether the run goes on for its news only: children without any are as they were.
        """
        self.activity: Activity = Activity(self)
        self._fold = fold
        self._clock = clock
        self._stop = stop
        self._known: set[str] = set()
        self._heard: Counter[str] = Counter()
        self._untaken: dict[str, dict[str, Signal]] = {}
        self._seen_before: dict[str, ChildAtRest] = {}
        self._learn(signals[: fold.awaited.signals])
        if is_woken:
            for run_id, waiting in fold.awaited.children().items():
                if any(each.kind == "definition" for each in waiting):  # perhaps this code fits
                    continue
                self._seen_before[run_id] = ChildAtRest(waiting, _first_deadline(waiting), self.heard_of(run_id))
        self._learn(signals[fold.awaited.signals :])
        self.replays: dict[Replay, None] = {}
        self._open: dict[_Open, None] = {}
        self.is_pausing: bool = False
        self._seen: int | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether anything is waited for."""
        return bool(self._open or self.replays)

    def signals_read(self) -> int:
        """Return how many signals of the run were looked at, before it came to a standstill."""
        return len(self._known) if self._seen is None else self._seen

    @property
    def has_news(self) -> bool:
        """Whether something was posted that was not looked at before it came to a standstill."""
        return len(self._known) > self.signals_read()

    async def until(self, moment: datetime) -> None:
        """Return when a moment has come; the run may leave memory meanwhile."""
        if moment > self._clock.now():
            with self._waiting((), moment):
                await self._sleep_until(moment)

    async def decision(self, begun: StepStarted, effect: str) -> NoReturn:
        """Wait for a decision on a step; it comes by a new drive, so this never returns.

        Args:
            begun: its attempt that was interrupted.
            effect: the idempotency key of its effect, by which the world outside can be asked.
        """
        prompt = (
            f"{begun.key!r} was interrupted, and may have had its effect (idempotency key {effect}): "
            "retry it, or skip it?"
        )
        # Since then, and not from now on: else each pause would tell all decisions again that are still to be made.
        await self.for_ever(Waiting(kind="decision", name=begun.name, since=begun.at, prompt=prompt))

    async def pausing(self) -> NoReturn:
        """Stop here: the run is being paused."""
        await self.for_ever(Waiting(kind="pause", name="pause", since=self._clock.now()))

    @property
    def heard(self) -> int:
        """How many signals of the run are known."""
        return len(self._known)

    def heard_of(self, run_id: str) -> int:
        """Return how many news of a child are known."""
        return self._heard[news_of(run_id)]

    def seen_before(self, run_id: str) -> ChildAtRest | None:
        """Return what was seen of a child before the run was paused, if it rested then."""
        return self._seen_before.get(run_id)

    async def child(self, run_id: str, seen: ChildAtRest) -> None:
        """Return when there may be news of a child, of which this was seen."""
        if self._heard[topic := news_of(run_id)] > seen.heard:
            return
        news = asyncio.Event()
        # One that wakes up by itself at another moment is looked at whenever the run is taken up.
        child = run_id if seen.wake_at == _first_deadline(seen.waiting_for) else None
        with self._waiting([(waiting, child) for waiting in seen.waiting_for], seen.wake_at, news, topic):
            await self._news(news, seen.wake_at)

    async def signal(self, waiting: Waiting, accept: Callable[[Signal], bool]) -> Signal | None:
        """Return the first signal for a wait, or ``None`` when its time is over.

        Args:
            waiting: what is waited for.
            accept: whether a signal's payload is a valid answer; one that is not stays where it is.
        """
        while True:
            for signal in self.pending(waiting.name):
                if accept(signal):
                    self.dismiss(signal)
                    return signal
                self.dismiss(signal)
                _log.warning("run %r: signal %r is no valid answer; it is ignored", self._fold.run_id, signal.name)
            if waiting.deadline is not None and waiting.deadline <= self._clock.now():
                return None
            news = asyncio.Event()
            with self._waiting([(waiting, None)], waiting.deadline, news, waiting.name):
                await self._news(news, waiting.deadline)

    def pending(self, topic: str) -> list[Signal]:
        """Return the signals of a topic that nobody has taken, in the order of posting."""
        return list(self._untaken.get(topic, {}).values())

    def dismiss(self, signal: Signal | SignalReceived) -> None:
        """Count a signal as taken."""
        untaken = self._untaken.get(topic := _topic(signal), {})
        untaken.pop(signal.signal_id, None)
        if not untaken:
            self._untaken.pop(topic, None)

    def take(self, topic: str) -> Signal | None:
        """Return the first signal of a topic that nobody has taken, and take it."""
        signal = next(iter(self._untaken.get(topic, {}).values()), None)
        if signal is not None:
            self.dismiss(signal)
        return signal

    def take_in(self, signals: Iterable[Signal]) -> None:
        """Look at signals that may be new."""
        if topics := self._learn(signals):
            for item in self._open:
                if item.news is not None and item.topic in topics:
                    item.news.set()

    def _learn(self, signals: Iterable[Signal]) -> set[str]:
        """Take note of signals, and return the topics of the new ones."""
        topics = set[str]()
        for signal in signals:
            if signal.signal_id not in self._known:
                self._known.add(signal.signal_id)
                topics.add(topic := _topic(signal))
                self._heard[topic] += 1
                if signal.signal_id not in self._fold.taken:
                    self._untaken.setdefault(topic, {})[signal.signal_id] = signal
        return topics

    def pause(self) -> None:
        """Stop before the next step."""
        self.is_pausing = True
        self.activity.look()

    @contextmanager
    def _waiting(
        self, asked: Iterable[Asked], wake_at: datetime | None, news: asyncio.Event | None = None, topic: str = ""
    ) -> Generator[None]:
        item = _Open(tuple(asked), wake_at, news, topic)
        self._open[item] = None
        self.activity.ended()
        try:
            yield
        finally:
            self.activity.began()
            del self._open[item]

    async def for_ever(self, *waiting: Waiting) -> NoReturn:
        """Wait for something that this drive of the run will not see."""
        with self._waiting([(each, None) for each in waiting], None):
            await asyncio.get_running_loop().create_future()
        raise AssertionError("nobody ends this wait")

    async def _news(self, news: asyncio.Event, deadline: datetime | None) -> None:
        """Return when there is news, or at ``deadline``."""
        if deadline is None:
            await news.wait()
            return
        timer = asyncio.create_task(self._sleep_until(deadline))
        listener = asyncio.create_task(news.wait())
        try:
            await asyncio.wait({timer, listener}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            listener.cancel()
            await asyncio.gather(timer, listener, return_exceptions=True)

    async def _sleep_until(self, moment: datetime) -> None:
        while (left := (moment - self._clock.now()).total_seconds()) > 0:
            await self._clock.sleep(left)

    def settle(self) -> None:
        """Let the run leave memory, if it has come to a standstill that lasts."""
        stuck = [replay.check_stuck() for replay in self.replays]  # each is asked, since that lets it go on
        if any(stuck) or not self._open or any(item.news is not None and item.news.is_set() for item in self._open):
            return
        self._seen = len(self._known)  # of what comes from here on nobody has looked at anything
        asked = tuple(each for item in self._open for each in item.asked)
        if self.is_pausing:
            pause = Waiting(kind="pause", name="pause", since=self._clock.now())
            others = [(waiting, child) for waiting, child in asked if waiting.kind != "pause" or waiting.run_id]
            self._stop(Park(((pause, None), *others), None, is_paused=True))
            return
        moments = [item.wake_at for item in self._open if item.wake_at is not None]
        wake_at = min(moments, default=None)
        if wake_at is None or wake_at > self._clock.now() + MOMENT:
            is_paused = all(item.asked for item in self._open)
            self._stop(Park(asked if is_paused else (), wake_at, is_paused))


def parents_of(parent_run_id: str | None, signals: Iterable[Signal]) -> list[str]:
    """Return the runs that are told of a child: the one that has started it, and those that have asked for it."""
    others = [str(signal.payload) for signal in signals if signal.name == PARENT]
    return others if parent_run_id is None else [parent_run_id, *others]


def code_wait(fold: Fold, error: CodeError, now: datetime) -> Waiting:
    """Return what a run waits for whose code is not the one that recorded it."""
    return Waiting(kind="definition", name=fold.started.pipeline_name, since=now, prompt=str(error))


def is_due(fold: Fold, signals: Sequence[Signal], now: datetime, *, has_news: bool) -> bool:
    """Return whether a paused run can go on: an answer is there, or a wait is over.

    Args:
        fold: the run.
        signals: all that were posted to it.
        now: the moment.
        has_news: whether its last owner has not seen all of these. What it has seen of a child is old.
    """
    names = {signal.name for signal in signals if signal.signal_id not in fold.taken}
    own = [waiting for waiting in fold.waiting_for if waiting.run_id is None]
    if any(waiting.kind in ("pause", "definition") for waiting in own):
        return CANCEL in names
    awaited = {CANCEL, *(waiting.name for waiting in own if waiting.kind == "signal")}
    if has_news:
        awaited.add(CHILD_RESTED)
    return bool(awaited & names) or (fold.wake_at is not None and fold.wake_at <= now)
