"""Definitions drawn at random do what a plain interpreter says, and a crash changes nothing of it (G1, G6)."""

import asyncio
import dataclasses
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flujo_async import Flujo, StepContext
from flujo_async.testing import CrashExplorer
from flujo_async.testing.explorer_report import World
from tests.crash.drawn.building import Building, Marks
from tests.crash.drawn.drawing import definitions
from tests.crash.drawn.oracle import Expected, expected
from tests.crash.drawn.terms import SIGNALS, Row

WORLDS = 13
"""At most so many crashes, or pairs of them, are tried on one definition."""


class Watched:
    """What happens in one world after the other, compared with what was to happen."""

    def __init__(self, told: Expected, *, is_replayed: bool) -> None:
        self.told = told
        self._is_replayed = is_replayed
        self._happened = Counter[str]()

    def happens(self, name: str, _: StepContext) -> None:
        self._happened[name] += 1

    def begin(self) -> None:
        self._happened.clear()

    def verify(self, world: World, _: Flujo[Any, Any]) -> None:
        """Compare a world with what was told."""
        told, outcome = self.told, world.outcome
        ended = (outcome.status, outcome.output)
        if told.errors:
            assert outcome.status == "failed", f"{ended} instead of a failure: {told.errors}"
            assert (outcome.error or "").startswith(tuple(told.errors)), f"{outcome.error} instead of {told.errors}"
        else:
            assert ended == ("completed", told.output), f"{ended} {outcome.error} instead of {told.output}"
        if told.is_settled or not told.errors:
            marks = dataclasses.asdict(told.marks)
            assert outcome.context == marks, f"context: {outcome.context} instead of {marks}"
        # A replay is like a crash for the steps that are under way.
        self._compare_effects(is_disturbed=bool(world.crashes) or self._is_replayed)

    def _compare_effects(self, *, is_disturbed: bool) -> None:
        """The steps of a world that crashed may have begun more often."""
        happened, told = self._happened, self.told
        expected = told.happens.keys() | (set[str]() if told.is_settled else told.undoable)
        assert happened.keys() <= expected, f"it did {happened.keys() - expected}"
        if told.is_settled:
            assert happened.keys() >= expected, f"it did not do {expected - happened.keys()}"
            assert is_disturbed or happened == told.happens, f"it did {happened} instead of {told.happens}"

    def differences(self, world: World) -> list[str]:
        """Return what is wrong with a world, without what the oracle does not hold to be wrong."""
        loose = ("error:",) if self.told.is_settled else ("error:", "context.")
        return [text for text in world.differences if not (self.told.errors and text.startswith(loose))]


async def explore(definition: Row, start: int, depth: int, *, always_replay: bool, **options: Any) -> None:
    """Compare a definition with what the oracle says, undisturbed and with crashes."""
    watched = Watched(expected(definition, start), is_replayed=always_replay)
    explorer = CrashExplorer(
        Building(watched.happens).row(definition),
        start,
        signals=SIGNALS,
        context_type=Marks,
        setup=watched.begin,
        verify=watched.verify,
        depth=depth,
        max_worlds=WORLDS,
        timeout=60,
        patience=10,
        always_replay=always_replay,
        **options,
    )
    report = await explorer.explore()
    wrong = [(str(world), wrong) for world in report.failures if (wrong := watched.differences(world))]
    assert not wrong, wrong


@pytest.mark.hypothesis
@pytest.mark.timeout(900)
@pytest.mark.parametrize("share", [10, pytest.param(2, marks=pytest.mark.crash)], ids=["some", "many"])
def test_a_definition_does_what_it_says_wherever_it_crashes(share: int) -> None:
    @settings(
        max_examples=settings().max_examples // share,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(
        definition=definitions(),
        start=st.integers(1, 6),
        durability=st.sampled_from(["sync", "sync", "async", "exit"]),
        always_replay=st.sampled_from([False, False, False, True]),
        depth=st.sampled_from([1, 1, 1, 2]),
    )
    def does_what_it_says(**drawn: Any) -> None:
        asyncio.run(explore(**drawn))

    does_what_it_says()
