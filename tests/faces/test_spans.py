"""``runs trace``, ``spans`` and ``stats``: what took how long, and what it cost."""

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from rich.cells import cell_len
from rich.text import Text

from flujo_async import StateBackend
from flujo_async._model.facts import (
    AttemptFailed,
    ChildStarted,
    EventEmitted,
    Fact,
    RunFailed,
    SignalReceived,
    StepCompleted,
    StepFailed,
    UsageReported,
    WaitStarted,
)
from flujo_async._model.tree import JsonObject
from flujo_async._model.usage import Usage
from flujo_async.backends import backend_from_url
from tests.faces.conftest import CommandLine, InProcess, on_terminal
from tests.faces.test_runs import T0, create, started

DB = "sqlite:///runs.db"
WRONG: JsonObject = {
    "type": "builtins:ConnectionError",
    "message": "the index is being rebuilt: try again later, or ask the librarian in the reading room",
}


def at(seconds: float) -> Any:
    return T0 + timedelta(seconds=seconds)


def completed(key: str, name: str, began: float, ended: float, attempts: int = 1) -> StepCompleted:
    return StepCompleted(at=at(ended), key=key, name=name, started_at=at(began), attempts=attempts, output=None)


def story() -> tuple[Fact, ...]:
    return (
        EventEmitted(at=at(0.5), key="plan", name="plan", data={"pages": 3}),
        UsageReported(at=at(1), key="plan", name="plan", tokens=980, cost=Decimal("0.0123")),
        completed("plan", "plan", 0, 1),
        AttemptFailed(
            at=at(2), key="find", name="find", attempt=1, error=WRONG, retry_at=at(3), first_started_at=at(1)
        ),
        completed("find", "find", 3, 4, attempts=2),
        ChildStarted(at=at(4), key="set", name="set", run_id="a/set"),
        completed("set", "set", 4, 5),
        WaitStarted(at=at(5), key="approval", name="approval"),
        SignalReceived(at=at(9), key="approval", name="approval", signal_id="s", payload=True, sent_by="ann"),
        StepFailed(at=at(10), key="print", name="print", started_at=at(9), attempts=1, error=WRONG),
        RunFailed(at=at(10), error=WRONG),
    )


@pytest.fixture
def call(call: InProcess) -> InProcess:
    asyncio.run(fill(backend_from_url(DB)))
    return call


async def fill(backend: StateBackend) -> None:
    usage = Usage(980, Decimal("0.0123"), {"input": 900, "output": 80})
    async with backend:
        await create(backend, started("a"), *story(), status="failed", usage=usage)
        many = (completed(f"map_each/{n}/count", "count", n, n + 1) for n in range(40))
        await create(backend, started("many"), *many)


TRACE = """\
a  by hand  failed  980 tokens, cost 0.0123
Span                  Status        Time  0                                   10 s
by hand               failed        10 s  ████████████████████████████████████████
├─ plan               completed    1.0 s  ████
│    980 tokens, cost 0.0123
│    500 ms: plan {'pages': 3}
├─ find               completed    3.0 s      ████████████
│  │ 2 attempts
│  ├─ find attempt 1  failed       1.0 s      ████
│  │    ConnectionError: the index is being rebuilt: try again later, or ask the librarian in the reading room
│  └─ find attempt 2  completed    1.0 s              ████
├─ set                completed    1.0 s                  ████
│    run a/set
├─ approval           completed    4.0 s                      ░░░░░░░░░░░░░░░░
└─ print              failed       1.0 s                                      ████
     ConnectionError: the index is being rebuilt: try again later, or ask the librarian in the reading room
"""


def test_a_trace_is_a_tree_with_bars(call: InProcess) -> None:
    shown = call("runs", "trace", "a", "--db", "runs.db")
    assert (shown.code, shown.err) == (0, "")
    assert [line.rstrip() for line in shown.out.splitlines()] == TRACE.splitlines()


def test_json_has_the_tree(call: InProcess) -> None:
    (root,) = call("runs", "trace", "a", "--db", "runs.db", "--json").json
    assert (root["name"], root["status"]) == ("by hand", "failed")
    assert [child["name"] for child in root["children"]] == ["plan", "find", "set", "approval", "print"]


def test_of_many_spans_the_first_are_shown(call: InProcess) -> None:
    some = call("runs", "trace", "many", "--db", "runs.db").out
    assert [line.split()[1] for line in some.splitlines() if "/count" in line] == [f"{n}/count" for n in range(10)]
    assert "└─ 30 more; --all shows them" in some
    assert call("runs", "trace", "many", "--db", "runs.db", "--all").out.count("/count") == 40


def test_a_terminal_has_what_fits_without_colours_if_they_are_unwanted(call: InProcess, cli: CommandLine) -> None:
    shown = on_terminal(cli, "runs", "trace", "a", "--db", "runs.db", NO_COLOR="1")
    assert "\x1b[3" not in shown
    lines = [Text.from_ansi(line).plain for line in shown.splitlines()]
    assert len(lines) == len(TRACE.splitlines())  # none is wrapped
    assert lines[-1].endswith("try again later, or ask the l…")
    assert max(map(cell_len, lines)) == 80  # the longest bar


def test_the_head_of_a_trace_leaves_room_for_what_was_consumed(call: InProcess, cli: CommandLine) -> None:
    asyncio.run(add_one_with_a_long_name(backend_from_url(DB)))
    shown = on_terminal(cli, "runs", "trace", LONG, "--db", "runs.db", NO_COLOR="1")
    head = Text.from_ansi(shown.splitlines()[0]).plain
    assert head.endswith("…aaaaaaaaaaaa  by hand  running  980 tokens, cost 0.0123")


LONG = "a" * 90


async def add_one_with_a_long_name(backend: StateBackend) -> None:
    async with backend:
        await create(backend, started(LONG), *story()[:3], usage=Usage(980, Decimal("0.0123")))


def test_spans_are_listed_by_status_and_name(call: InProcess) -> None:
    failed = call("runs", "spans", "a", "--db", "runs.db", "--status", "failed", "--json").json
    assert [span["name"] for span in failed] == ["by hand", "find attempt 1", "print"]
    header, line = call("runs", "spans", "a", "--db", "runs.db", "--name", "approval").out.splitlines()
    assert header.split() == ["Began", "Span", "Key", "Kind", "Status", "Time"]
    assert line.split()[-6:] == ["approval", "approval", "wait", "completed", "4.0", "s"]
    nothing = call("runs", "spans", "a", "--db", "runs.db", "--name", "x")
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "there are no such spans of run 'a'\n")


def test_what_was_saved_for_a_span_is_shown_whatever_it_is(call: InProcess) -> None:
    asyncio.run(save_spans(backend_from_url(DB)))
    shown = call("runs", "trace", "saved", "--db", "runs.db").out
    assert "model=small" in shown
    assert "odd" in shown
    deep = call("runs", "trace", "deep", "--db", "runs.db", "--json")
    assert (deep.code, deep.out) == (2, "")
    assert "is too deep for JSON: `runs spans --json`" in deep.err
    assert call("runs", "trace", "deep", "--db", "runs.db").out.count("level") == 1200


async def save_spans(backend: StateBackend) -> None:
    whole = {"span_id": "1", "name": "ask\x1b[2J", "start_time": 0, "end_time": 2, "attributes": {"model": "small"}}
    odd = {
        "span_id": "2",
        "name": "odd",
        "start_time": 1,
        "attributes": None,
        "events": ["x"],
        "status": "so-so",
    }
    async with backend:
        await backend.save_spans("saved", [whole, odd])
        levels = [{"span_id": str(n), "parent_span_id": str(n - 1), "name": "level"} for n in range(1200)]
        await backend.save_spans("deep", levels)


def test_one_run_is_one(call: InProcess) -> None:
    asyncio.run(delete_one(backend_from_url(DB)))
    assert call("runs", "stats", "--db", "runs.db").out.startswith("1 run in runs.db, ")


async def delete_one(backend: StateBackend) -> None:
    async with backend:
        await backend.delete_run("many")


@pytest.mark.parametrize("command", ["trace", "spans"])
def test_there_is_no_such_run(call: InProcess, command: str) -> None:
    assert call("runs", command, "nobody", "--db", "runs.db").code == 2


def test_statistics_count_runs_spans_and_what_was_consumed(call: InProcess) -> None:
    asyncio.run(add_child(backend_from_url(DB)))
    found = call("runs", "stats", "--db", "runs.db", "--json").json
    assert found["runs"]["status_counts"] == {"failed": 1, "running": 1, "completed": 1}
    assert found["spans"]["avg_duration_by_name"]["count"] == {"total": 40.0, "count": 40, "average": 1.0}
    assert found["usage"] == {"tokens": 980, "cost": 0.0123, "token_counts": {}}  # that of a child is its parent's
    shown = call("runs", "stats", "--db", "runs.db", "--top", "1")
    assert shown.out.startswith("3 runs in runs.db, 0 of the last 24 hours\n\nStatus     Runs  Background\n")
    assert "Consumed: 980 tokens, cost 0.0123\n" in shown.out
    assert shown.out.splitlines()[-1].split() == ["count", "40", "1.0", "s", "40", "s"]
    assert shown.err == "there are 8 more names; --top shows them\n"
    assert call("runs", "stats", "--db", "runs.db", "--json", "--since", "1h").json["spans"]["total_spans"] == 0


async def add_child(backend: StateBackend) -> None:
    async with backend:
        await create(
            backend, started("a/set"), status="completed", parent_run_id="a", usage=Usage(500, Decimal("0.01"))
        )


def test_what_a_run_has_consumed_stands_in_it_and_in_lists(call: InProcess) -> None:
    shown = call("runs", "show", "a", "--db", "runs.db").out
    assert "Consumed  980 tokens (input 900, output 80), cost 0.0123\n" in shown
    rows = [line.split() for line in shown.splitlines()]
    assert ["Step", "Status", "Attempts", "Time", "Tokens", "Cost"] in rows
    assert ["plan", "succeeded", "1", "1.0", "s", "980", "0.0123"] in rows
    told = call("runs", "history", "a", "--db", "runs.db").out
    assert "plan: consumed 980 tokens, cost 0.0123\n" in told
    assert "  plan: {'pages': 3}\n" in told
    listed = call("runs", "list", "--db", "runs.db", "--json").json
    usage = {"tokens": 980, "cost": 0.0123, "token_counts": {"input": 900, "output": 80}}
    assert {run["run_id"]: run["usage"] for run in listed}["a"] == usage
    step = call("runs", "show", "a", "--db", "runs.db", "--json").json["steps"][0]
    assert step["usage"] == {"tokens": 980, "cost": 0.0123, "token_counts": {}}
