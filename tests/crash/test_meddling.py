"""Whatever a second runtime does to a run, and whenever, the run comes to what was told (G1, G2, G6)."""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.crash.drawn.drawing import definitions
from tests.crash.drawn.terms import Row
from tests.crash.meddling import DEEDS, Meddled, Meddling
from tests.runtime.stores import KINDS, Store

TRIES = 5
"""So often is one definition meddled with."""

meddlings = st.tuples(
    st.sampled_from(list(DEEDS)),
    st.floats(0, 1, exclude_max=True),
    st.booleans(),
    st.sampled_from([0, 3, 40]),
    st.none() | st.integers(1, 25),
)
"""What is done, how far the run has come by then, and the rest of a ``Meddling``."""


async def live(kind: str, meddled: Meddled) -> int:
    """Let a run live in a store of its own; return how many calls of that it has made."""
    with TemporaryDirectory() as directory:
        store = Store(kind, Path(directory))
        try:
            await meddled.live(store)
        finally:
            await store.close()
    return meddled.calls


def compare(kind: str, definition: Row, start: int, tries: list[Any], options: dict[str, Any]) -> None:
    """Let a definition live undisturbed, and then with each try."""
    calls = asyncio.run(live(kind, Meddled(definition, start, None, **options)))
    for deed, share, is_after, turns, crash in tries:
        meddling = Meddling(deed, 1 + int(share * calls), is_after, turns, crash)
        try:
            asyncio.run(live(kind, Meddled(definition, start, meddling, **options)))
        except BaseException as error:
            error.add_note(str(meddling))
            raise


@pytest.mark.hypothesis
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("kind", "share"),
    [("memory", 10), *(pytest.param(kind, 4, marks=pytest.mark.crash) for kind in KINDS)],
)
def test_a_run_comes_to_what_was_told_whatever_others_do_to_it(kind: str, share: int) -> None:
    @settings(
        max_examples=settings().max_examples // share,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(
        definition=definitions(),
        start=st.integers(1, 6),
        tries=st.lists(meddlings, min_size=TRIES, max_size=TRIES),
        options=st.fixed_dictionaries(
            {
                "durability": st.sampled_from(["sync", "sync", "async", "exit"]),
                "max_concurrency": st.sampled_from([None, None, 1, 2]),
                "max_concurrent_steps": st.sampled_from([None, None, 1, 2]),
                "always_replay": st.sampled_from([False, False, True]),
                "recover": st.booleans(),
            }
        ),
    )
    def comes_to_what_was_told(**drawn: Any) -> None:
        compare(kind, **drawn)

    comes_to_what_was_told()
