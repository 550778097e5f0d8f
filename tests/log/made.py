"""Facts, values and logs made by hypothesis."""

from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any, get_args

from hypothesis import strategies as st

from flujo_async._log.chain import GENESIS
from flujo_async._log.chain import seal as seal_one
from flujo_async._log.fold import Fold
from flujo_async._model import facts
from flujo_async._model.facts import Fact
from flujo_async._model.state import Waiting
from flujo_async._model.stored import Record

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
trees = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(text, trees, max_size=4)
moments = st.datetimes(datetime(1, 1, 2), datetime(9998, 12, 30), timezones=st.just(UTC))
near = st.datetimes(datetime(1900, 1, 1), datetime(2400, 1, 1), timezones=st.just(UTC))  # a fold adds their difference
keys = st.sampled_from(["a", "b", "parallel/a", "map_each/0/a", "loop/3/b", "branch/x/a", "block"])
scopes = st.sampled_from(["", "parallel/a", "map_each/0"])
changes = st.one_of(trees.map(lambda tree: ["set", tree]), st.just(["drop"]))
patches = st.dictionaries(st.sampled_from(["x", "y", "z"]), changes, max_size=3)
errors = st.fixed_dictionaries({"type": text, "message": text})
waits = st.lists(
    st.builds(
        Waiting,
        kind=st.sampled_from(["signal", "decision", "pause", "definition"]),
        name=text,
        since=moments,
        prompt=st.none() | text,
        schema=st.none() | objects,
        deadline=st.none() | moments,
    ),
    max_size=2,
).map(tuple)

_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "at": near,
    "started_at": moments,
    "first_started_at": st.none() | moments,
    "retry_at": moments,
    "wake_at": moments,
    "deadline": st.none() | near,
    "key": keys,
    "scope": scopes,
    "patch": patches,
    "error": errors,
    "waiting_for": waits,
    "through": st.lists(st.none() | text, max_size=2).map(tuple),
    "gone": st.lists(st.integers(0, 5), max_size=2).map(tuple),
    "kept": st.integers(0, 9),
    "signals": st.integers(0, 9),
    "context": objects,
    "metadata": objects,
    "input": trees,
    "output": trees,
    "data": trees,
    "choice": trees,
    "attempt": st.integers(1, 100),
    "attempts": st.integers(1, 100),
    "source": st.none() | keys,
    "parent_run_id": st.none() | text,
    "keys": st.lists(keys, max_size=3).map(tuple),
    "dropped": st.lists(keys, max_size=3).map(tuple),
    "steps": st.dictionaries(keys, text, max_size=3),
    "inputs": st.dictionaries(text, st.tuples(st.just("is"), trees).map(list), max_size=2),
    "value": trees,
    "details": trees,
    "payload": trees,
    "schema": st.none() | objects,
    "prompt": st.none() | text,
    "cached_from": st.none() | text,
    "status": st.sampled_from(["failed", "cancelled"]),
    "decision": st.sampled_from(["retry", "skip"]),
    "is_background": st.booleans(),
    "carrier": st.dictionaries(text, text, max_size=2),
    "cause": st.sampled_from(["requested", "recovered", "woken", "queued"]),
    "sent_at": st.none() | moments,
    "sent_by": st.none() | text,
    "tokens": st.integers(0, 10**9),
    "token_counts": st.dictionaries(text, st.integers(0, 10**9), max_size=2),
    "cost": st.decimals(0, 10**6, allow_nan=False, allow_infinity=False, places=4),
}


def fact_of(kind: type[Any]) -> st.SearchStrategy[Any]:
    """Return facts of one kind."""
    return st.builds(kind, **{name: _FIELDS.get(name, text) for name in (item.name for item in fields(kind))})


any_fact: st.SearchStrategy[Fact] = st.one_of([fact_of(kind) for kind in get_args(Fact)])
later_fact: st.SearchStrategy[Fact] = st.one_of(
    [fact_of(kind) for kind in get_args(Fact) if kind is not facts.RunStarted]
)
logs: st.SearchStrategy[list[Fact]] = st.builds(
    lambda first, rest: [first, *rest], fact_of(facts.RunStarted), st.lists(later_fact, max_size=12)
)


def seal(log: Sequence[Fact], *, after: int, prev_hash: str) -> list[Record]:
    """Return facts as records that continue a log."""
    sealed: list[Record] = []
    for fact in log:
        record, _ = seal_one(fact, after=after, prev_hash=prev_hash)
        after, prev_hash = record.seq, record.hash
        sealed.append(record)
    return sealed


def records(log: list[Fact]) -> list[Record]:
    """Return a whole log, sealed."""
    return seal(log, after=0, prev_hash=GENESIS)


def all_of(fold: Fold) -> dict[str, Any]:
    """Return all that a fold tells, to be compared."""
    return {name: getattr(fold, name) for name in Fold.__slots__}
