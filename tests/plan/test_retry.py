"""How often and how fast to try again."""

import doctest
import math
import sys
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import flujo_async._model.policy as policy_module
from flujo_async import Limit, Retry
from flujo_async._model.policy import LONGEST_WAIT, asked_delay, later, retry_delay, seconds
from flujo_async._plan import assignable
from flujo_async.errors import DefinitionError

DURATIONS = st.one_of(st.floats(0, 1e7), st.timedeltas(timedelta(0), timedelta(days=365)))
POLICIES = st.builds(
    Retry,
    max_attempts=st.integers(1, 10**6),
    base=DURATIONS,
    factor=st.floats(1, sys.float_info.max),
    cap=DURATIONS,
    jitter=st.floats(0, 1),
)
ATTEMPTS = st.integers(1, 10**9)
DRAWS = st.floats(0, 1, exclude_max=True)


@given(POLICIES, ATTEMPTS, DRAWS)
def test_a_wait_is_between_nothing_and_the_cap(policy: Retry, attempt: int, u: float) -> None:
    assert 0 <= retry_delay(policy, attempt, u) <= seconds(policy.cap)


@given(POLICIES, ATTEMPTS, DRAWS)
def test_jitter_takes_away_at_most_its_part(policy: Retry, attempt: int, u: float) -> None:
    full = retry_delay(policy, attempt, 0)
    wait = retry_delay(policy, attempt, u)
    assert wait <= full
    assert wait >= full * (1 - policy.jitter) or math.isclose(wait, full * (1 - policy.jitter))


@given(POLICIES, st.integers(1, 10_000), st.integers(1, 10_000))
def test_without_jitter_a_wait_is_never_shorter_than_the_one_before(policy: Retry, attempt: int, more: int) -> None:
    assert retry_delay(policy, attempt, 0) <= retry_delay(policy, attempt + more, 0)


@given(st.floats(0, 10), DRAWS)
def test_without_jitter_the_draw_does_not_matter(base: float, u: float) -> None:
    policy = Retry(max_attempts=3, base=base, jitter=0)
    assert retry_delay(policy, 1, u) == base


@pytest.mark.parametrize("factor", [1.01, 2, 1e5, 1e300])
def test_every_growth_reaches_the_cap(factor: float) -> None:
    assert retry_delay(Retry(base=1, cap=60, factor=factor), attempt=5000, u=0) == 60


def test_a_factor_of_one_waits_the_same_every_time() -> None:
    policy = Retry(base=timedelta(seconds=2), factor=1, jitter=0)
    assert {retry_delay(policy, attempt, 0) for attempt in (1, 2, 10**9)} == {2.0}


def test_no_base_is_no_wait() -> None:
    assert retry_delay(Retry(base=0, factor=1e300), attempt=10**6, u=0) == 0


def test_the_longest_wait_ends_at_a_date() -> None:
    wait = retry_delay(Retry(base=LONGEST_WAIT, cap=LONGEST_WAIT), attempt=1, u=0)
    assert (datetime.now(UTC) + timedelta(seconds=wait)).year < 9999


def test_attempts_count_from_one() -> None:
    with pytest.raises(ValueError, match="from 1, not 0"):
        retry_delay(Retry(), 0, 0)


@pytest.mark.parametrize(
    "options",
    [
        {"max_attempts": 0},
        {"max_attempts": -1},
        {"max_attempts": 1.5},
        {"max_attempts": True},
        {"max_attempts": "3"},
        {"base": -1},
        {"base": timedelta(seconds=-1)},
        {"base": math.nan},
        {"base": math.inf},
        {"base": "1"},
        {"cap": -1},
        {"cap": math.inf},
        {"cap": timedelta(days=366)},
        {"factor": 0.5},
        {"factor": math.inf},
        {"factor": math.nan},
        {"jitter": -0.1},
        {"jitter": 1.1},
        {"jitter": math.nan},
        {"retry_on": [ValueError]},
        {"retry_on": ValueError("an instance")},
        {"retry_on": (KeyboardInterrupt,)},
        {"give_up_on": (int,)},
    ],
    ids=str,
)
def test_a_value_out_of_range_is_refused_where_it_is_written(options: dict[str, Any]) -> None:
    with pytest.raises(DefinitionError, match="Retry"):
        Retry(**options)


def test_only_attempts_that_are_left_are_allowed() -> None:
    policy = Retry(max_attempts=3)
    assert [policy.allows(ValueError(), attempt) for attempt in (1, 2, 3, 4)] == [True, True, False, False]


@pytest.mark.parametrize("retry_on", [LookupError, (LookupError,), (OSError, LookupError)])
def test_only_errors_that_are_worth_it_are_retried(retry_on: Any) -> None:
    policy = Retry(max_attempts=2, retry_on=retry_on)
    assert policy.allows(KeyError(), 1)
    assert not policy.allows(ValueError(), 1)


def test_giving_up_wins() -> None:
    policy = Retry(max_attempts=2, retry_on=LookupError, give_up_on=KeyError)
    assert policy.allows(IndexError(), 1)
    assert not policy.allows(KeyError(), 1)
    assert policy.error_types == (LookupError, KeyError)


NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Busy(Exception):
    def __init__(self, retry_after: Any) -> None:
        self.retry_after = retry_after


class Broken(Exception):
    @property
    def retry_after(self) -> float:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("asked", "wait"),
    [
        (7, 7.0),
        (0, 0.0),
        (2.5, 2.5),
        (timedelta(minutes=1), 60.0),
        ("7", 7.0),  # as the header of HTTP has it
        (format_datetime(NOW + timedelta(seconds=9), usegmt=True), 9.0),
        (NOW + timedelta(seconds=9), 9.0),
        (NOW - timedelta(seconds=9), 0.0),
        (timedelta(days=1000), seconds(LONGEST_WAIT)),
        (math.inf, seconds(LONGEST_WAIT)),
        (10**400, seconds(LONGEST_WAIT)),
        (datetime.max.replace(tzinfo=UTC), seconds(LONGEST_WAIT)),
    ],
)
def test_an_exception_may_ask_for_a_wait(asked: Any, wait: float) -> None:
    assert asked_delay(Busy(asked), NOW) == wait


@pytest.mark.parametrize(
    "asked", [-1, -(10**400), timedelta(-1), math.nan, None, True, "-7", "soon", "", "nan", datetime(2026, 1, 2)]
)
def test_what_is_no_wait_is_not_heeded(asked: Any) -> None:
    assert asked_delay(Busy(asked), NOW) is None


def test_an_exception_that_cannot_be_asked_is_not_heeded() -> None:
    assert asked_delay(Broken(), NOW) is None
    assert asked_delay(ValueError(), NOW) is None


def test_a_moment_too_late_for_a_date_is_the_last_one() -> None:
    assert later(NOW, 60) == NOW + timedelta(minutes=1)
    assert later(NOW, 1e300) == datetime.max.replace(tzinfo=UTC)


@pytest.mark.parametrize("rate", [(60, timedelta(minutes=1)), (60, 60), (60, 60.0)])
def test_a_rate_is_so_many_in_a_time(rate: Any) -> None:
    assert Limit(rate=rate).window == timedelta(minutes=1)
    assert Limit(concurrency=1).window == timedelta(0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"concurrency": 0},
        {"concurrency": 1.5},
        {"concurrency": True},
        {"rate": 60},
        {"rate": (60,)},
        {"rate": [60, 60]},
        {"rate": (0, 60)},
        {"rate": (60, 0)},
        {"rate": (60, -1)},
        {"rate": (60, math.inf)},
        {"rate": (60, timedelta(days=400))},
        {"rate": (60, "minute")},
    ],
    ids=str,
)
def test_a_limit_out_of_range_is_refused_where_it_is_written(options: dict[str, Any]) -> None:
    with pytest.raises(DefinitionError, match="Limit"):
        Limit(**options)


@pytest.mark.parametrize("module", [policy_module, assignable], ids=lambda module: module.__name__)
def test_the_examples_in_the_docstrings_are_true(module: Any) -> None:
    results = doctest.testmod(module)
    assert results.attempted
    assert not results.failed
