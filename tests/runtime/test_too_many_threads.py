"""A process that gets no more threads: the caller hears of it, nothing is lost, and later it goes on (G4)."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest

from flujo_async import Flujo, step
from flujo_async.backends.sqlite import SQLiteBackend
from flujo_async.errors import BackendError, RunFailed
from tests.runtime.stores import Store, on_disk

MORE_THAN_THERE_IS = 1 << 47
"""A stack of that many bytes fits into no process: the system refuses each new thread, as where there are too many."""


@contextmanager
def no_more_threads() -> Iterator[None]:
    """Let no thread begin; those that there are go on."""
    usual = threading.stack_size(MORE_THAN_THERE_IS)
    try:
        yield
    finally:
        threading.stack_size(usual)


@step
async def double(n: int) -> int:
    return n * 2


@on_disk
async def test_a_store_without_a_thread_says_so_and_works_when_there_is_one(store: Store) -> None:
    flujo = Flujo(double, state_backend=store.open())
    with no_more_threads():
        for _ in range(2):
            with pytest.raises(BackendError, match="thread") as caught:
                await flujo.run(2, run_id="r")
            assert isinstance(caught.value.__cause__, RuntimeError)
    assert await flujo.list_runs() == []
    assert (await flujo.run(2, run_id="r")).output == 4


@on_disk
async def test_a_run_whose_lease_nobody_could_keep_alive_is_given_back(store: Store) -> None:
    """It is in the store, and nothing of it was executed."""
    flujo = Flujo(double, state_backend=store.open())
    await flujo.dispatch(1, run_id="another")
    for _ in range(3):
        await flujo.list_runs()  # now all threads of the store are there
    with no_more_threads():
        for _ in range(2):
            with pytest.raises(BackendError, match=r"run 'r': its lease .* thread") as caught:
                await flujo.run(2, run_id="r")
            assert isinstance(caught.value.__cause__, RuntimeError)
    [summary] = [summary for summary in await flujo.list_runs() if summary.run_id == "r"]
    assert (summary.status, summary.lease, summary.last_seq) == ("running", None, 1)
    assert (await flujo.run(run_id="r")).output == 4


async def test_readers_without_a_thread_say_so(tmp_path: Path) -> None:
    """While the writer has one."""
    store = SQLiteBackend(tmp_path / "runs.db")
    flujo = Flujo(double, state_backend=store)
    await flujo.dispatch(2, run_id="r")
    await store.shutdown()
    with no_more_threads():
        for _ in range(2):
            with pytest.raises(BackendError, match="thread"):
                await flujo.list_runs()
            with pytest.raises(BackendError, match="thread"):
                await store.backup(tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()
    assert [summary.run_id for summary in await flujo.list_runs()] == ["r"]
    await store.shutdown()


@on_disk
async def test_statistics_without_a_thread_say_so(store: Store) -> None:
    backend = store.open()
    await Flujo(double, state_backend=backend).dispatch(2, run_id="r")
    with no_more_threads(), pytest.raises(BackendError, match="thread"):
        backend.get_workflow_stats_sync()
    assert backend.get_workflow_stats_sync()["total_workflows"] == 1


def plain(n: int) -> int:
    return n * 2


@pytest.mark.parametrize("where", ["thread", "process"])
async def test_a_step_that_gets_no_thread_is_an_attempt_that_failed(where: Literal["thread", "process"]) -> None:
    flujo = Flujo(step(run_in=where)(plain))
    with no_more_threads(), pytest.raises(RunFailed) as caught:
        await flujo.run(2, run_id="r")
    assert "new thread" in f"{caught.value.__cause__}"
    assert (await flujo.redrive("r")).output == 4
    await flujo.aclose()
