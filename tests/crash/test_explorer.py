"""A crash before and after every write of a run changes nothing (G1), on every store.

The process "dies" inside a write: from that moment its store answers nothing any more, so that whatever its runtime
still tries is lost, as it would be. What is left is exactly what the store had. Another runtime takes over; the dead
one holds its lease still, but does not drive its run any more, and is therefore known to be dead.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from flujo_async import FileBackend, Flujo, SQLiteBackend
from flujo_async.abc import StateBackend
from flujo_async.errors import BackendError
from flujo_async.testing import CrashExplorer, FaultyBackend
from flujo_async.testing.explorer import RUN_ID
from flujo_async.testing.explorer_report import World
from tests.crash.outcome import Outcome, acknowledged, outcome_of
from tests.crash.zoo import INPUT, RUN, Ledger, runtime, zoo
from tests.runtime.stores import KINDS, Store


def stores(kind: str, directory: Path) -> Callable[[int], StateBackend] | None:
    """Return what opens a store of one kind for each world."""
    match kind:
        case "file":
            return lambda world: FileBackend(directory / str(world))
        case "sqlite":
            return lambda world: SQLiteBackend(directory / f"{world}.db")
        case _:
            return None


@pytest_asyncio.fixture(params=KINDS)
async def kind(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    yield request.param


@pytest.fixture
async def expected() -> Outcome:
    return await outcome_of(runtime("memory://", lambda key, attempt: None))


def verifying(expected: Outcome) -> Callable[[World, Flujo[Any, Any]], Any]:
    """Return what compares more than an exploration does by itself: index, steps and attempts."""

    async def verify(world: World, flujo: Flujo[Any, Any]) -> None:
        assert await outcome_of(flujo, given=False, run_id=RUN_ID) == expected
        assert {key for _, key in world.executed} == set(expected.steps)

    return verify


WORLDS = {"memory": 500, "file": 13, "sqlite": 13}
"""So many crashes at most are tried by the default run, on both sides of writes; all of them by ``-m crash``."""


@pytest.mark.parametrize(
    ("kind", "max_worlds"),
    [*WORLDS.items(), *(pytest.param(kind, 500, marks=pytest.mark.crash) for kind in ("file", "sqlite"))],
    indirect=["kind"],
)
async def test_a_crash_at_any_write_changes_nothing(
    tmp_path: Path, kind: str, expected: Outcome, max_worlds: int
) -> None:
    """Wherever the process dies, the next owner ends with the same output, context, index and steps."""
    explorer = CrashExplorer(
        zoo(lambda key, attempt: None),
        INPUT,
        backend=stores(kind, tmp_path),
        context_type=Ledger,
        verify=verifying(expected),
        max_worlds=max_worlds,
    )
    report = await explorer.check()
    assert report.worlds == min(2 * report.writes, max_worlds)
    assert report.writes > 12


async def crash_and_resume(store: Store, expected: Outcome, *crashes: tuple[int, bool]) -> None:
    """Crash at the n-th append of each life, before or after it; live the last one to its end."""
    for nth, after in [*crashes, (None, False)]:
        done_before = await acknowledged(runtime(store.open(), lambda key, attempt: None))
        life: list[str] = []
        backend = store.open() if nth is None else FaultyBackend(store.open())
        if isinstance(backend, FaultyBackend):
            backend.crash("append", nth=nth, how="after" if after else "before")
        survivor = runtime(backend, lambda key, attempt, life=life: life.append(key))  # type: ignore[misc]
        with suppress(BackendError):
            await survivor.run(INPUT, run_id=RUN)
        assert not done_before & set(life), "an acknowledged step ran again"
    assert await outcome_of(runtime(store.open(), lambda key, attempt: None), given=False) == expected


@pytest.mark.parametrize("stride", [1, 2, 3])
async def test_crashes_in_a_row_change_nothing(tmp_path: Path, kind: str, expected: Outcome, stride: int) -> None:
    """A process that dies again and again, each time after a little progress, gets there."""
    store = Store(kind, tmp_path)
    crashes = [(stride, bool(life % 2)) for life in range(12 * 3 // stride)]
    try:
        await crash_and_resume(store, expected, *crashes)
    finally:
        await store.close()
