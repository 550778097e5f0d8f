"""What the first schema wrote is read by this one, and goes on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flujo_async import SQLiteBackend
from tests.backends.first_schema import AS_THEN, DATABASE, SYSTEM_STATE, flujo, seen

THEN: dict[str, Any] = json.loads(AS_THEN.read_text())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return Path(shutil.copy(DATABASE, tmp_path / "old.db"))


def holds(now: Any, then: Any) -> bool:
    """Whether all that was told then is told now; more may be told since."""
    if isinstance(then, dict) and isinstance(now, dict):
        return then.keys() <= now.keys() and all(holds(now[key], then[key]) for key in then)
    if isinstance(then, list) and isinstance(now, list):
        return len(then) == len(now) and all(map(holds, now, then))
    return bool(now == then)


async def test_all_that_was_told_of_a_run_is_told_still(backend: SQLiteBackend) -> None:
    now = await seen(backend)
    assert list(now) == list(THEN)
    for run_id, told in THEN.items():
        for what, then in told.items():
            assert holds(now[run_id][what], then), f"{what} of {run_id}: {now[run_id][what]} was {then}"
    report = await flujo("greeting", backend).verify()
    assert (report.ok, report.runs) == (True, len(THEN))
    assert await backend.get_system_state("origin") == SYSTEM_STATE


async def test_what_had_ended_is_not_done_again(backend: SQLiteBackend) -> None:
    result = await flujo("greeting", backend).run("world", run_id="completed")
    assert (result.output, result.status) == ("HELLO WORLD", "completed")
    assert (await seen(backend))["completed"]["history"] == THEN["completed"]["history"]


async def test_signals_that_were_posted_then_are_followed_by_those_of_now(backend: SQLiteBackend) -> None:
    (then,) = await backend.read_signals({"answered": 0})
    now = replace(then, signal_id="approval#2")
    assert await backend.post(replace(then, payload="another")) == then
    assert await backend.post(now) == now
    assert await backend.read_signals({"answered": 0}) == [then, now]
    assert await backend.read_signals({"answered": 1}) == [now]


async def test_a_run_that_was_paused_is_answered_and_completes(backend: SQLiteBackend) -> None:
    asking = flujo("asking", backend)
    await asking.signal("paused", "approval", True)
    assert (await asking.handle("paused").result()).output == "APPROVED"
    await asking.aclose()


async def test_a_run_whose_owner_died_is_recovered(backend: SQLiteBackend) -> None:
    counting = flujo("counting", backend)
    assert "orphan" in await counting.recover()
    assert (await counting.handle("orphan").result()).output == 8
    history = (await seen(backend))["orphan"]["history"]
    assert history[: len(THEN["orphan"]["history"])] == THEN["orphan"]["history"]


async def test_a_fork_a_queued_run_and_a_failed_one_go_on(backend: SQLiteBackend) -> None:
    greeting = flujo("greeting", backend)
    assert (await greeting.run(run_id="fork")).output == "HELLO WORLD"
    assert (await greeting.resume("pending")).output == "HELLO QUEUE"
    with pytest.raises(Exception, match="no hello world"):
        await flujo("refusing", backend).redrive("failed")
