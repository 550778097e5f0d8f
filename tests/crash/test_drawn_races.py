"""Code that races calls and cancels them hears in a replay what it has heard, wherever its log ends (G1)."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.crash.drawn.races import races
from tests.crash.drawn.racing import compare
from tests.crash.drawn.timeless import run


@pytest.mark.hypothesis
@pytest.mark.timeout(900)
@pytest.mark.parametrize("share", [10, pytest.param(2, marks=pytest.mark.crash)], ids=["some", "many"])
def test_code_hears_again_what_it_has_heard(share: int) -> None:
    @settings(
        max_examples=settings().max_examples // share,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(
        row=races(),
        durability=st.sampled_from(["sync", "sync", "async", "exit"]),
        crash_at=st.integers(1, 30),
    )
    def hears_it_again(**drawn: Any) -> None:
        run(compare(**drawn))

    hears_it_again()
