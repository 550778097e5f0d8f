"""How often and how fast to try, and to try again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Literal, TypeAlias, cast, get_args

from flujo_async.errors import DefinitionError

Duration: TypeAlias = timedelta | float
"""A length of time: a ``timedelta``, or seconds."""

Durability: TypeAlias = Literal["sync", "async", "exit"]
"""When what a run has done is durable: before its next step, soon after, or when the run rests.

``async`` lets the next step start while the commit is under way, in order; the end of the run waits for all of them.
``exit`` makes one commit when the run rests, leaves memory or is interrupted. What a crash takes away is done again.
"""

ErrorTypes: TypeAlias = type[Exception] | tuple[type[Exception], ...]
"""Classes of exceptions, as ``isinstance`` takes them."""

LONGEST_WAIT = timedelta(days=365)
"""No wait between two attempts is longer, so that the moment of the next one is always a date."""

LONGEST_TIMER = timedelta(days=365_000)
"""Nothing in the life of a run is further ahead, so that its moment is always a date."""

OnComplete: TypeAlias = Literal["keep", "delete"]
"""What becomes of a run that has completed and whose result was handed out."""

_PAIR = 2


def seconds(duration: Duration) -> float:
    """Return a duration in seconds."""
    return duration.total_seconds() if isinstance(duration, timedelta) else float(duration)


def check_duration(duration: Any, what: str) -> float:
    """Return a duration in seconds; ``what`` says in an error whose it is.

    Raises:
        DefinitionError: it is neither a ``timedelta`` nor a number, not finite, or negative.
    """
    if isinstance(duration, bool) or not isinstance(duration, timedelta | int | float):
        raise DefinitionError(f"{what} is a timedelta or seconds, not {duration!r}")
    if not 0 <= seconds(duration) < math.inf:
        raise DefinitionError(f"{what} is finite and not negative: {duration!r}")
    return seconds(duration)


def check_timer(duration: Any, what: str) -> float:
    """Return the duration of something that a run waits for, in seconds; ``what`` says in an error whose it is.

    Raises:
        DefinitionError: as ``check_duration``, and where it is longer than ``LONGEST_TIMER``.
    """
    length = check_duration(duration, what)
    if length > seconds(LONGEST_TIMER):
        raise DefinitionError(f"{what} is at most {LONGEST_TIMER.days:,} days, not {duration!r}")
    return length


def misnamed_durability(durability: Any) -> str | None:
    """Return what is wrong with something that should be a durability level; ``None`` if it is one."""
    if isinstance(durability, str) and durability in get_args(Durability):
        return None
    return f"durability= is 'sync', 'async' or 'exit', not {durability!r}"


def later(moment: datetime, duration: float) -> datetime:
    """Return the moment ``duration`` seconds later; the last one that there is, where no date is that late."""
    try:
        return moment + timedelta(seconds=duration)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)


def earlier(moment: datetime, duration: float) -> datetime:
    """Return the moment ``duration`` seconds earlier; the first one that there is, where no date is that early."""
    try:
        return moment - timedelta(seconds=duration)
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)


def is_count(value: Any) -> bool:
    """Return whether a value is a whole number from 1 on."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """When a failed attempt of a step is followed by another, and how long after.

    Attributes:
        max_attempts: how many tries a step has in all; 1 means no retry.
        base: the wait after the first failed attempt.
        factor: what each further wait is multiplied by; at least 1.
        cap: the longest wait; a year at most.
        jitter: which part of a wait is drawn at random, from 0 (none) to 1 (full jitter).
        retry_on: exceptions that are worth another try: a class, or a tuple of them.
        give_up_on: exceptions that are not, even where ``retry_on`` has them.

    Raises:
        DefinitionError: a value is outside its range.
    """

    max_attempts: int = 1
    base: Duration = 1.0
    factor: float = 2.0
    cap: Duration = 60.0
    jitter: float = 1.0
    retry_on: ErrorTypes = Exception
    give_up_on: ErrorTypes = ()

    def __post_init__(self) -> None:
        if not is_count(self.max_attempts):
            raise DefinitionError(f"Retry(max_attempts={self.max_attempts!r}): at least 1, the first try counts")
        check_duration(self.base, "Retry: base")
        if check_duration(self.cap, "Retry: cap") > seconds(LONGEST_WAIT):
            raise DefinitionError(f"Retry: cap is at most {LONGEST_WAIT.days} days, not {self.cap!r}")
        if not 1 <= self.factor < math.inf or not 0 <= self.jitter <= 1:
            raise DefinitionError("Retry: factor is at least 1 and finite, jitter is from 0 to 1")
        for error_type in cast("tuple[object, ...]", self.error_types):
            if not (isinstance(error_type, type) and issubclass(error_type, Exception)):
                raise DefinitionError(f"Retry: retry_on and give_up_on are classes of exceptions, not {error_type!r}")

    @property
    def error_types(self) -> tuple[type[Exception], ...]:
        """Every class in ``retry_on`` and ``give_up_on``."""
        return _as_tuple(self.retry_on) + _as_tuple(self.give_up_on)

    def allows(self, error: Exception, attempt: int) -> bool:
        """Return whether failed attempt number ``attempt`` is followed by another one."""
        if attempt >= self.max_attempts or isinstance(error, self.give_up_on):
            return False
        return isinstance(error, self.retry_on)


def retry_delay(policy: Retry, attempt: int, u: float) -> float:
    """Return how long to wait after failed attempt number ``attempt``, in seconds.

    Args:
        policy: the policy.
        attempt: the attempt that just failed; 1 is the first try.
        u: a uniform draw from [0, 1), made by the caller.

    Raises:
        ValueError: ``attempt`` is below 1.

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS 2015; ``jitter=1`` is full jitter.

    Examples:
        >>> retry_delay(Retry(max_attempts=5, base=1, factor=2, cap=60, jitter=0), attempt=3, u=0.5)
        4.0
    """
    if attempt < 1:
        raise ValueError(f"attempt is from 1, not {attempt}")
    return min(seconds(policy.cap), _exponential(policy, attempt - 1)) * (1 - policy.jitter * u)


def asked_delay(error: Exception, now: datetime) -> float | None:
    """Return the wait that an exception itself asks for by its ``retry_after``, in seconds.

    That attribute is a ``timedelta``, a number of seconds, or an aware ``datetime``; one that has passed is now. Text
    is that of the HTTP header: seconds, or a date. ``None`` where there is no such attribute, or none that is a wait;
    at most ``LONGEST_WAIT``.

    Source: RFC 9110, 10.2.3.
    """
    try:
        asked = getattr(error, "retry_after", None)
        asked = _of_header(asked) if isinstance(asked, str) else asked
    except Exception:  # a property of a stranger's: no reason to lose the error itself
        return None
    if isinstance(asked, datetime):
        return _up_to_longest(max(asked - now, timedelta(0))) if asked.tzinfo is not None else None
    if isinstance(asked, bool) or not isinstance(asked, timedelta | int | float):
        return None
    return _up_to_longest(asked)


def _of_header(text: str) -> float | datetime:
    try:
        return float(text)
    except ValueError:
        return parsedate_to_datetime(text)


def _up_to_longest(wait: Duration) -> float | None:
    longest = seconds(LONGEST_WAIT)
    # Compared before it is converted: an integer can be larger than any float.
    wait = wait.total_seconds() if isinstance(wait, timedelta) else wait
    return float(min(wait, longest)) if wait >= 0 else None


def _exponential(policy: Retry, exponent: int) -> float:
    try:
        growth = float(policy.factor) ** exponent
    except OverflowError:
        growth = math.inf
    return seconds(policy.base) * growth if policy.base else 0.0  # 0 * inf is no number


def _as_tuple(error_types: Any) -> tuple[type[Exception], ...]:
    return cast("tuple[type[Exception], ...]", error_types if isinstance(error_types, tuple) else (error_types,))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """How much of something the steps of one runtime may use together; a step names its limit.

    Attributes:
        concurrency: how many attempts may run at the same time.
        rate: how many attempts may begin within how long, such as ``(60, timedelta(minutes=1))``; within any stretch of
            that length, not just from one full minute to the next.

    Raises:
        DefinitionError: a value is outside its range, or there is neither.

    Examples:
        >>> Limit(rate=(60, timedelta(minutes=1))).window
        datetime.timedelta(seconds=60)
    """

    concurrency: int | None = None
    rate: tuple[int, Duration] | None = None

    def __post_init__(self) -> None:
        if self.concurrency is None and self.rate is None:
            raise DefinitionError("Limit() limits nothing; give concurrency=, or rate=, or both")
        if self.concurrency is not None and not is_count(self.concurrency):
            raise DefinitionError(f"Limit: concurrency is at least 1, not {self.concurrency!r}")
        if self.rate is not None:
            _check_rate(self.rate)

    @property
    def window(self) -> timedelta:
        """The length of time of ``rate``; nothing where there is none."""
        return timedelta(0) if self.rate is None else timedelta(seconds=seconds(self.rate[1]))


def _check_rate(rate: Any) -> None:
    if not isinstance(rate, tuple) or len(cast("tuple[object, ...]", rate)) != _PAIR:
        raise DefinitionError(f"Limit: rate is a pair, such as (60, timedelta(minutes=1)), not {rate!r}")
    count, window = cast("tuple[object, Any]", rate)
    if not is_count(count):
        raise DefinitionError(f"Limit: rate lets at least 1 begin, not {count!r}")
    if not 0 < check_duration(window, "Limit: the time of rate") <= seconds(LONGEST_WAIT):
        raise DefinitionError(f"Limit: the time of rate is longer than zero and at most {LONGEST_WAIT.days} days")


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long a runtime keeps runs that have ended. Runs that are pending, running or paused are never touched.

    A child run stays as long as its parent, and goes with it.

    Attributes:
        keep_last: how many completed and cancelled runs of each definition are kept, the newest; ``None`` is all.
            Failed ones neither count nor go: they are dead letters.
        ttl: how long a run is kept after it has ended, failed ones too; ``None`` is for ever.
        on_complete: ``"delete"`` a run as soon as it has completed and its result was handed out. Failed and cancelled
            runs are kept.

    Raises:
        DefinitionError: a value is outside its range, or nothing is ever deleted.

    Examples:
        >>> Retention(keep_last=1000, ttl=timedelta(days=30)).on_complete
        'keep'
    """

    keep_last: int | None = None
    ttl: Duration | None = None
    on_complete: OnComplete = "keep"

    def __post_init__(self) -> None:
        if self.keep_last is not None and not is_count(self.keep_last):
            raise DefinitionError(f"Retention: keep_last is at least 1, not {self.keep_last!r}")
        if self.ttl is not None and not check_duration(self.ttl, "Retention: ttl"):
            raise DefinitionError('Retention: ttl is longer than zero; on_complete="delete" keeps nothing')
        if self.on_complete not in get_args(OnComplete):
            raise DefinitionError(f"Retention: on_complete is 'keep' or 'delete', not {self.on_complete!r}")
        if self.keep_last is None and self.ttl is None and self.on_complete == "keep":
            raise DefinitionError("Retention() keeps everything; give keep_last=, ttl= or on_complete=")
