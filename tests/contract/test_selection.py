"""The two pure rules of claims agree: may a run be claimed now, and from when on may it be."""

from __future__ import annotations

from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from flujo_async._model.lease import CLAIMABLE, ClaimQuery, DefinitionKey, Lease
from flujo_async._model.selection import due_at, is_claimable
from flujo_async._model.state import RUN_STATUSES
from flujo_async._model.summary import RunSummary
from flujo_async.testing.samples import T0

MOMENTS = st.integers(0, 5).map(lambda n: T0 + timedelta(microseconds=n))
NAMES = st.sampled_from(["", "x"])
DEFINITIONS = st.builds(DefinitionKey, NAMES, NAMES, NAMES)
SUMMARIES = st.builds(
    RunSummary,
    run_id=st.just("run"),
    pipeline_name=NAMES,
    pipeline_version=NAMES,
    pipeline_id=NAMES,
    status=st.sampled_from(sorted(RUN_STATUSES)),
    created_at=st.just(T0),
    updated_at=st.just(T0),
    queue=st.none() | NAMES,
    wake_at=st.none() | MOMENTS,
    signals=st.integers(0, 2),
    signals_read=st.integers(0, 2),
    lease=st.none() | st.builds(Lease, st.just("run"), st.just(1), st.sampled_from(["w1", "w2"]), MOMENTS),
)
QUERIES = st.builds(
    ClaimQuery,
    run_id=st.sampled_from([None, None, "run", "other"]),
    statuses=st.sampled_from([RUN_STATUSES, RUN_STATUSES, CLAIMABLE]),
    queues=st.none() | st.frozensets(NAMES),
    definitions=st.none() | st.frozensets(DEFINITIONS),
    pipeline_names=st.none() | st.frozensets(NAMES),
    is_due=st.booleans(),
    dead_owners=st.frozensets(st.just("w1")),
)


@given(summary=SUMMARIES, query=QUERIES, now=MOMENTS)
def test_a_run_can_be_claimed_from_the_moment_on_that_is_told(
    summary: RunSummary, query: ClaimQuery, now: datetime
) -> None:
    moment = due_at(summary, query)
    assert is_claimable(summary, query, now) == (moment is not None and moment <= now)
