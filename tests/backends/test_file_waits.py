"""What a run waits for, in the heads of its log."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flujo_async import FileBackend
from flujo_async._model.state import Waiting
from flujo_async._model.stored import RunQuery
from flujo_async.backends.file_waits import NEVER, Waits, told_in
from flujo_async.errors import IntegrityError
from flujo_async.testing.samples import PAUSED, T0, append, claim, create, new_run, signal


def waits(*names: str) -> Waits:
    return [{"name": name} for name in names]


@given(st.lists(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=6), max_size=20))
def test_each_line_tells_all_that_is_waited_for(lists: list[list[str]]) -> None:
    """To whoever wrote it, and to whoever reads it, with or without having read the lines before."""
    last = known = NEVER
    lines: list[Any] = []
    for line, names in enumerate(lists):
        told, last = last.tell(waits(*names), line)
        lines.append(told)
        assert told_in(line, told, lines.__getitem__, NEVER) == last
        known = told_in(line, told, lines.__getitem__, known)
        assert (known.waits, known) == (waits(*names), last)


@pytest.mark.parametrize("is_growing", [True, False])
def test_all_lines_together_are_as_long_as_what_was_waited_for(is_growing: bool) -> None:
    """Though each is read with few others: with at most as many as the list has items."""

    def length(count: int) -> int:
        names = [str(number) for number in range(count)]
        lists = [waits(*names[: number + 1]) if is_growing else waits(*names[number:]) for number in range(count)]
        last, lines = NEVER, list[Any]()
        for line, each in enumerate(lists):
            told, last = last.tell(each, line)
            lines.append(told)
            read = list[int]()
            told_in(line, told, lambda line: read.append(line) or lines[line], NEVER)  # noqa: B023 -- called here
            assert len(read) <= len(each)
        return len(json.dumps(lines))

    assert length(400) < 2.3 * length(200)


async def test_lines_that_change_no_wait_tell_none(tmp_path: Path) -> None:
    """A signal, a claim and a release of a run that waits; others read the head, whenever they begin."""
    backend = FileBackend(tmp_path)
    awaited = tuple(Waiting(kind="signal", name=f"{number}", since=T0) for number in range(9))
    await append(backend, await create(backend), status="paused", waiting_for=awaited)
    await backend.post(signal())
    lease = await claim(backend, statuses=PAUSED)
    assert lease is not None
    await backend.release(lease)
    for store in (backend, FileBackend(tmp_path)):
        [head] = await store.query_runs(RunQuery())
        assert head.waiting_for == list(awaited)
    lines = (tmp_path / "run.jsonl").read_text().splitlines()
    assert [line.count('"prompt"') for line in lines] == [0, 9, 0, 0, 0]
    assert {len(json.loads(line)["head"]["waiting_for"]) for line in lines[2:]} == {1}


@pytest.mark.parametrize("told", [{"line": 10**6}, {"line": -1}, {"gone": [], "new": []}, {}, None, 3])
async def test_a_line_that_goes_on_from_none_is_broken(tmp_path: Path, told: Any) -> None:
    """It is named as any other."""
    await create(backend := FileBackend(tmp_path))
    await backend.shutdown()
    with (tmp_path / "run.jsonl").open("a") as file:
        file.write(json.dumps({"head": {"waiting_for": told}}) + "\n")
    with pytest.raises(IntegrityError, match="without a proper head"):
        await FileBackend(tmp_path).load("run")


async def test_a_run_that_was_imported_while_it_waited_goes_on(tmp_path: Path) -> None:
    """Its first line has the waits, so that there are none has to be said of later ones."""
    waiting = Waiting(kind="signal", name="a", since=T0)
    backend = FileBackend(tmp_path)
    lease = await create(backend, new_run(status="paused", waiting_for=[waiting]))
    for number, waits in enumerate([(), (waiting, waiting), (), (waiting,)], 1):
        await append(backend, lease, after=number, waiting_for=waits)
        for store in (backend, FileBackend(tmp_path)):
            [head] = await store.query_runs(RunQuery())
            assert head.waiting_for == list(waits)
