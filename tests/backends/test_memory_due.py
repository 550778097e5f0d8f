"""What is found by looking at few runs is what is found by looking at all of them."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import Any

import pytest

from flujo_async._model import selection
from flujo_async._model.lease import CLAIMABLE, ClaimQuery, DefinitionKey, Lease
from flujo_async._model.quick import changed
from flujo_async._model.state import RUN_STATUSES, TERMINAL, RunStatus
from flujo_async._model.summary import RunSummary
from flujo_async.backends.memory_due import DueRuns
from flujo_async.testing.samples import T0

GOING: frozenset[RunStatus] = frozenset(RUN_STATUSES - TERMINAL)


class Runs:
    """Some runs that change at random, as often alike as not, looked at by clocks that go back and forth."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.heads: dict[str, RunSummary] = {}
        self.due = DueRuns(self.heads.__getitem__)

    def mostly(self, usual: Any, *others: Any) -> Any:
        return usual if self.chance.random() < 0.7 else self.chance.choice(others)

    def moment(self) -> datetime:
        return T0 + timedelta(microseconds=self.chance.randrange(8))

    def change(self) -> None:
        """Let one run change, or go; or its owner write, which nobody is told."""
        run_id = self.chance.choice("abcdefgh")
        head = self.heads.get(run_id)
        what = self.chance.choice(["put", "put", "put", "write", "remove"])
        if what == "put":
            head = self.heads[run_id] = self.head(run_id)
            self.due.put(head)
        elif what == "remove":
            self.due.remove(run_id)
            self.heads.pop(run_id, None)
        elif head is not None and head.lease is not None:
            self.heads[run_id] = changed(head, updated_at=self.moment())

    def head(self, run_id: str) -> RunSummary:
        lease = Lease(run_id, 1, self.chance.choice(["w1", "w2"]), self.moment())
        return RunSummary(
            run_id=run_id,
            pipeline_name="p",
            pipeline_version=self.mostly("1", "2"),
            status=self.mostly("running", "pending", "paused", "completed"),
            created_at=self.moment(),
            updated_at=self.moment(),
            queue=self.mostly(None, "q"),
            priority=self.mostly(0, 1),
            wake_at=self.chance.choice([None, self.moment()]),
            signals=self.mostly(0, 1),
            lease=self.chance.choice([None, lease]),
        )

    def query(self) -> ClaimQuery:
        return ClaimQuery(
            statuses=self.mostly(GOING, CLAIMABLE, frozenset({"paused"})),
            queues=self.mostly(None, frozenset({""}), frozenset({"q"})),
            definitions=self.mostly(None, frozenset({DefinitionKey("p", "1", "")})),
            is_due=self.mostly(False, True),
            dead_owners=self.mostly(frozenset(), frozenset({"w1"})),
            limit=self.chance.randrange(4),
        )


@pytest.mark.parametrize("seed", range(20))
def test_what_is_due_is_found_among_all_runs(seed: int) -> None:
    runs = Runs(seed)
    for _ in range(500):
        runs.change()
        query, now, heads = runs.query(), runs.moment(), runs.heads.values()
        assert runs.due.choose(query, now) == selection.choose(heads, query, now)
        assert runs.due.next_due(query) == selection.next_due(heads, query)
        leased = {head.run_id for head in runs.due.leased()}
        assert leased == {head.run_id for head in heads if head.lease is not None}


def test_nothing_is_kept_of_runs_that_are_gone() -> None:
    runs = Runs(0)
    for _ in range(500):
        runs.change()
        runs.due.choose(runs.query(), runs.moment())
    for run_id in runs.heads:
        runs.due.remove(run_id)
    assert [kept for kept in vars(runs.due).values() if kept == {}] == [{}, {}, {}]
