"""A crash before and after every write of a run changes nothing (G1), on every store.

The process "dies" inside a write: from that moment its store answers nothing any more, so that whatever its runtime
still tries is lost, as it would be. What is left is exactly what the store had. Another runtime takes over; the dead
one holds its lease still, but does not drive its run any more, and is therefore known to be dead.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from flujo_async.errors import BackendError
from tests.crash.outcome import Outcome, acknowledged, outcome_of
from tests.crash.zoo import INPUT, RUN, runtime
from tests.runtime.pretend import Failing
from tests.runtime.stores import KINDS, Store

WRITES = 40
"""More than a run of the zoo makes: how many it is depends on which commits meet."""


@pytest_asyncio.fixture(params=KINDS)
async def kind(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    yield request.param


@pytest.fixture
async def expected() -> Outcome:
    return await outcome_of(runtime("memory://", lambda key, attempt: None))


async def crash_and_resume(store: Store, expected: Outcome, *crashes: tuple[int, bool]) -> bool:
    """Crash at the n-th write of each life, before or after it; return whether every crash came to pass."""
    effects: list[str] = []
    has_crashed = True
    for nth, after in crashes:
        done_before = await acknowledged(runtime(store.open(), lambda key, attempt: None))
        life: list[str] = []
        dying = Failing(store.open(), "append", nth, after=after, for_good=True)
        try:
            await runtime(dying, lambda key, attempt, life=life: life.append(key)).run(INPUT, run_id=RUN)  # type: ignore[misc]
        except BackendError:
            pass
        else:
            has_crashed = False
        assert not done_before & set(life), "an acknowledged step ran again"
        effects += life
    done_before = await acknowledged(runtime(store.open(), lambda key, attempt: None))
    last_life: list[str] = []
    survivor = runtime(store.open(), lambda key, attempt: last_life.append(key))
    assert await outcome_of(survivor, given=False) == expected
    assert not done_before & set(last_life), "an acknowledged step ran again"
    assert set(effects) | set(last_life) == set(expected.steps) - {
        key for key in expected.steps if key.endswith("/sum")
    }
    return has_crashed


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_crash_at_any_write_changes_nothing(tmp_path: Path, kind: str, expected: Outcome, after: bool) -> None:
    """Wherever the process dies, the next owner ends with the same output, context, index and steps."""
    for nth in range(1, WRITES):  # until a run gets to its end
        store = Store(kind, tmp_path / f"{nth}")
        try:
            has_crashed = await crash_and_resume(store, expected, (nth, after))
        finally:
            await store.close()
        if not has_crashed:
            break
    assert not has_crashed, "the run makes more writes than were tried"
    assert nth > 12


@pytest.mark.parametrize("stride", [1, 2, 3])
async def test_crashes_in_a_row_change_nothing(tmp_path: Path, kind: str, expected: Outcome, stride: int) -> None:
    """A process that dies again and again, each time after a little progress, gets there."""
    store = Store(kind, tmp_path)
    crashes = [(stride, bool(life % 2)) for life in range(12 * 3 // stride)]
    try:
        await crash_and_resume(store, expected, *crashes)
    finally:
        await store.close()
