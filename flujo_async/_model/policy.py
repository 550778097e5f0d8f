"""How often and how fast to try again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeAlias, cast

from flujo_async.errors import DefinitionError

Duration: TypeAlias = timedelta | float
"""A length of time: a ``timedelta``, or seconds."""

ErrorTypes: TypeAlias = type[Exception] | tuple[type[Exception], ...]
"""Classes of exceptions, as ``isinstance`` takes them."""

LONGEST_WAIT = timedelta(days=365)
"""No wait between two attempts is longer, so that the moment of the next one is always a date."""


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

    >>> retry_delay(Retry(max_attempts=5, base=1, factor=2, cap=60, jitter=0), attempt=3, u=0.5)
    4.0
    """
    if attempt < 1:
        raise ValueError(f"attempt is from 1, not {attempt}")
    return min(seconds(policy.cap), _exponential(policy, attempt - 1)) * (1 - policy.jitter * u)


def _exponential(policy: Retry, exponent: int) -> float:
    try:
        growth = float(policy.factor) ** exponent
    except OverflowError:
        growth = math.inf
    return seconds(policy.base) * growth if policy.base else 0.0  # 0 * inf is no number


def _as_tuple(error_types: Any) -> tuple[type[Exception], ...]:
    return cast("tuple[type[Exception], ...]", error_types if isinstance(error_types, tuple) else (error_types,))
