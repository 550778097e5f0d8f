"""Whatever verbs are called in whatever order, every store answers and ends up as ``InMemoryBackend`` does."""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from flujo_async._model.entry import Entry, EntryKind, EntryQuery
from flujo_async._model.lease import ClaimQuery, DefinitionKey, Lease
from flujo_async._model.state import RUN_STATUSES, Waiting
from flujo_async._model.stored import Blob, NewRun, Prefix, Record, RunQuery, Signal, Snapshot
from flujo_async.abc.backend import StateBackend
from flujo_async.backends.file import FileBackend
from flujo_async.backends.memory import InMemoryBackend
from flujo_async.backends.sqlite import SQLiteBackend
from flujo_async.errors import BackendError, RunNotFound
from flujo_async.testing.clock import VirtualClock
from flujo_async.testing.samples import T0, blob, new_run, save_state, sealed, signal, update
from tests.contract.dictionary import Dictionary

Open = Callable[[Path], StateBackend]
Verb = Callable[[StateBackend], Awaitable[Any]]


def _three_methods() -> Open:
    stores: dict[Path, dict[str, Any]] = {}
    return lambda directory: Dictionary(stores.setdefault(directory, {}))


STORES: dict[str, Open] = {
    "file": FileBackend,
    "sqlite": lambda directory: SQLiteBackend(directory / "runs.db"),
    "three methods": _three_methods(),
}

RUN_IDS = st.sampled_from(["a", "A", "b/c"])
OWNERS = st.sampled_from(["w1", "w2"])
STATUSES = st.sampled_from(sorted(RUN_STATUSES))
SECONDS = st.integers(0, 4).map(lambda n: timedelta(seconds=n))
MOMENTS = SECONDS.map(lambda after: T0 + after)
METADATA = st.sampled_from([{}, {"a": 1}, {"a": {"b": [1, None]}, "c": "é"}, {"a": {}}])
FEW = st.integers(0, 4)
QUEUES = st.sampled_from([None, "", "q"])
NAMES = st.sampled_from(["hello", "other"])
VERSIONS = st.sampled_from(["1", "2"])
DEFINITIONS = st.builds(DefinitionKey, NAMES, VERSIONS, VERSIONS)
WAITS = st.sampled_from([(), (Waiting(kind="signal", name="approval", since=T0, deadline=T0),)])
BLOBS = st.lists(st.sampled_from([blob("a"), blob("b"), blob("c")]), max_size=2)
SIGNAL_IDS = st.sampled_from(["s1", "s2"])
KEYS = st.sampled_from(["k", "K", "k/é"])
KINDS = st.sampled_from(get_args(EntryKind))
ENTRIES = st.lists(
    st.builds(
        Entry, run_id=RUN_IDS, kind=KINDS, key=st.just("") | KEYS, body=METADATA, created_at=MOMENTS, updated_at=MOMENTS
    ),
    max_size=3,
)
# All that a claim and ``next_due`` may ask for.
QUERIES = st.builds(
    ClaimQuery,
    run_id=st.none() | st.none() | RUN_IDS,
    statuses=st.sampled_from([ClaimQuery().statuses, RUN_STATUSES]) | st.frozensets(STATUSES),
    queues=st.none() | st.frozensets(st.sampled_from(["", "q"])),
    definitions=st.none() | st.frozensets(DEFINITIONS),
    pipeline_names=st.none() | st.frozensets(NAMES),
    is_due=st.booleans(),
    dead_owners=st.frozensets(OWNERS),
    limit=st.integers(0, 3),
)


class Agreement(RuleBasedStateMachine):
    """The model and a store side by side; leases are kept for ever, so that most of them are stale."""

    def __init__(self, open_store: Open) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.open = partial(open_store, Path(self.directory.name))
        self.runner = asyncio.Runner()
        self.model: StateBackend = InMemoryBackend()
        self.clock = self.model.clock = VirtualClock(T0)
        self.store = self.opened()
        self.leases: list[Lease] = []

    def opened(self) -> StateBackend:
        store = self.open()
        store.clock = self.clock
        return store

    def teardown(self) -> None:
        self.runner.run(self.store.shutdown())
        self.runner.close()
        self.directory.cleanup()

    def both(self, verb: Verb) -> Any:
        expected, found = self.runner.run(_outcome(verb, self.model)), self.runner.run(_outcome(verb, self.store))
        assert found == expected
        return expected

    def lease(self, pick: int) -> Lease | None:
        # Counted from the newest, which is the likeliest to be valid.
        return self.leases[-1 - pick % len(self.leases)] if self.leases else None

    @rule(
        run_id=RUN_IDS,
        owner=st.none() | OWNERS,
        ttl=SECONDS,
        count=st.integers(1, 3),
        head=st.fixed_dictionaries(
            {
                "status": STATUSES,
                "created_at": MOMENTS,
                "priority": st.integers(-1, 1),
                "parent_run_id": st.none() | RUN_IDS,
                "queue": QUEUES,
                "pipeline_name": NAMES,
                "pipeline_version": VERSIONS,
                "pipeline_id": VERSIONS,
                "metadata": METADATA,
                "wake_at": st.none() | MOMENTS,
                "is_background": st.booleans(),
                "signals_read": FEW,
            }
        ),
        blobs=BLOBS,
        signals=st.lists(SIGNAL_IDS, max_size=2, unique=True),
    )
    def create_run(self, owner: str | None, ttl: timedelta, **run: Any) -> None:
        self.create(_run(**run), owner, ttl)

    @rule(
        run_id=RUN_IDS,
        source=RUN_IDS,
        behind=st.sampled_from([0, 0, 1, 2, 3, -1]),
        owner=st.none() | OWNERS,
        ttl=SECONDS,
        count=st.integers(1, 3),
        blobs=BLOBS,
        signals=st.lists(SIGNAL_IDS, max_size=2, unique=True),
    )
    def fork(self, source: str, behind: int, owner: str | None, ttl: timedelta, **run: Any) -> None:
        found = self.both(lambda store: store.load(source))
        seq = max(1, (found.summary.last_seq if found else 0) - behind)
        known = [record.hash for record in found.records if record.seq == seq] if found else []
        self.create(_run(**run, head={}, prefix=Prefix(source, seq, *(known or ["unknown"]))), owner, ttl)

    def create(self, run: NewRun, owner: str | None, ttl: timedelta) -> None:
        self.keep([self.both(lambda store: store.create_run(run, owner=owner, ttl=ttl))])

    @rule(
        pick=FEW,
        behind=st.sampled_from([0, 0, 0, 0, 1, -1]),
        count=st.integers(1, 3),
        status=STATUSES,
        step=FEW,
        more=st.fixed_dictionaries(
            {
                "updated_at": MOMENTS,
                "wake_at": st.none() | MOMENTS,
                "signals_read": st.none() | FEW,
                "metadata": st.none() | METADATA,
                "waiting_for": WAITS,
                "pipeline_version": st.none() | VERSIONS,
            }
        ),
        blobs=BLOBS,
    )
    def append(
        self, pick: int, behind: int, count: int, status: Any, step: int, more: dict[str, Any], blobs: list[Blob]
    ) -> None:
        lease = self.lease(pick)
        if lease is None:
            return
        run = self.both(lambda store: store.load(lease.run_id))
        seq = max(0, (run.summary.last_seq if run else 0) - behind)
        change = update(status, current_step_index=step, error_message="oh" if step else None, **more)
        records = _log(seq, count, blobs)
        self.both(lambda store: store.append(lease, records, expected_seq=seq, update=change, blobs=blobs))

    @rule(pick=FEW, seq=st.integers(0, 6), body=st.binary(max_size=3))
    def put_snapshot(self, pick: int, seq: int, body: bytes) -> None:
        lease = self.lease(pick)
        if lease:
            self.both(lambda store: store.put_snapshot(lease, Snapshot(seq, "h", body)))

    @rule(owner=OWNERS, now=MOMENTS, ttl=SECONDS, query=QUERIES)
    def claim(self, owner: str, now: Any, ttl: timedelta, query: ClaimQuery) -> None:
        self.keep(self.both(lambda store: store.claim(owner, now=now, ttl=ttl, query=query)))

    @rule(query=QUERIES)
    def next_due(self, query: ClaimQuery) -> None:
        self.both(lambda store: store.next_due(query))

    @rule(picks=st.lists(FEW, max_size=3, unique=True), now=MOMENTS, ttl=SECONDS)
    def renew(self, picks: list[int], now: Any, ttl: timedelta) -> None:
        leases = [lease for lease in map(self.lease, picks) if lease]
        self.keep(self.both(lambda store: store.renew(leases, now=now, ttl=ttl)))

    @rule(
        pick=FEW,
        parting=st.fixed_dictionaries(
            {},
            optional={
                "wake_at": st.none() | MOMENTS,
                "signals_read": st.none() | FEW,
                "waiting_for": st.none() | WAITS,
            },
        ),
    )
    def release(self, pick: int, parting: dict[str, Any]) -> None:
        lease = self.lease(pick)
        if lease:
            self.both(lambda store: store.release(lease, **parting))

    @rule(run_id=RUN_IDS, signal_id=SIGNAL_IDS, payload=METADATA)
    def post(self, run_id: str, signal_id: str, payload: Any) -> None:
        self.both(lambda store: store.post(signal(signal_id, run_id, payload)))

    @rule(known=st.dictionaries(RUN_IDS, FEW))
    def read_signals(self, known: Mapping[str, int]) -> None:
        self.both(partial(_signals, known=known))

    @rule(entries=ENTRIES, instead_of=st.none() | KINDS)
    def put_entries(self, entries: list[Entry], instead_of: Any) -> None:
        self.both(lambda store: store.put_entries(entries, instead_of=instead_of))

    @rule(run_id=st.none() | RUN_IDS, kind=st.none() | KINDS, limit=st.none() | FEW, offset=FEW)
    def read_entries(self, **asked: Any) -> None:
        self.both(lambda store: store.read_entries(EntryQuery(**asked)))

    @rule(
        run_id=RUN_IDS,
        status=st.none() | STATUSES,
        is_background=st.booleans(),
        created_at=st.none() | MOMENTS,
        metadata=METADATA,
        parent=st.none() | RUN_IDS,
    )
    def save_state(
        self, run_id: str, status: Any, is_background: bool, created_at: Any, metadata: Any, parent: str | None
    ) -> None:
        state = {"status": status, "metadata": metadata, "is_background_task": is_background, "parent_run_id": parent}
        self.both(lambda store: save_state(store, run_id, {**state, "created_at": created_at, "updated_at": T0}))

    @rule(run_id=RUN_IDS, is_end=st.booleans(), status=STATUSES, name=NAMES)
    def save_run(self, run_id: str, is_end: bool, status: Any, name: str) -> None:
        told = {"run_id": run_id, "status": status, "pipeline_name": name, "created_at": T0, "updated_at": T0}
        self.both(lambda store: store.save_run_end(run_id, told) if is_end else store.save_run_start(told))

    @rule(status=st.none() | STATUSES, name=st.none() | NAMES, metadata=METADATA, limit=st.none() | FEW, offset=FEW)
    def list_runs(self, status: Any, name: str | None, metadata: Any, limit: int | None, offset: int) -> None:
        self.both(lambda store: store.list_runs(status, name, limit, offset, metadata))
        self.both(lambda store: store.list_workflows(status, None, limit, offset))

    @rule(status=st.none() | STATUSES, parent=st.none() | RUN_IDS, limit=st.none() | FEW, offset=FEW, seconds=FEW)
    def list_background_runs(
        self, status: Any, parent: str | None, limit: int | None, offset: int, seconds: int
    ) -> None:
        self.clock.advance(max(0.0, seconds - 2))
        self.both(lambda store: store.list_background_tasks(parent, status, limit, offset))
        self.both(lambda store: store.get_failed_background_tasks(parent, seconds / 3600))
        self.both(lambda store: store.get_failed_workflows(seconds / 3600))

    @rule(run_id=RUN_IDS)
    def count(self, run_id: str) -> None:
        self.both(lambda store: store.get_workflow_stats())
        self.both(lambda store: store.get_run_details(run_id))

    @rule(seconds=FEW)
    def clean_up(self, seconds: int) -> None:
        # The same lease is in the way of both, and no other is seen.
        self.both(lambda store: store.cleanup_old_workflows(seconds / 86_400))

    @rule(key=KEYS, value=METADATA)
    def set_system_state(self, key: str, value: dict[str, Any]) -> None:
        self.both(lambda store: store.set_system_state(key, value))

    @rule(key=KEYS)
    def get_system_state(self, key: str) -> None:
        self.both(lambda store: store.get_system_state(key))

    @rule(run_id=RUN_IDS)
    def delete_run(self, run_id: str) -> None:
        self.both(lambda store: store.delete_run(run_id))

    @rule(run_id=RUN_IDS, until=FEW, after=FEW, limit=st.none() | FEW, from_snapshot=st.booleans())
    def read_a_part(self, run_id: str, until: int, after: int, limit: int | None, from_snapshot: bool) -> None:
        self.both(lambda store: store.load(run_id, until=until, from_snapshot=from_snapshot))
        self.both(lambda store: store.read_events(run_id, after=after, limit=limit))

    @rule(
        status=st.none() | STATUSES,
        parent_run_ids=st.none() | st.frozensets(RUN_IDS),
        is_leased=st.none() | st.booleans(),
        metadata=METADATA,
        limit=st.none() | FEW,
        offset=FEW,
    )
    def list_a_part(self, **asked: Any) -> None:
        self.both(lambda store: store.query_runs(RunQuery(**asked)))

    @rule()
    def compact(self) -> None:
        self.both(lambda store: store.compact())

    @rule(close=st.booleans())
    def restart(self, close: bool) -> None:
        if close:
            self.runner.run(self.store.shutdown())
        self.store = self.opened()

    @invariant()
    def everything_is_the_same(self) -> None:
        self.both(lambda store: store.read_entries(EntryQuery()))
        for summary in self.both(lambda store: store.query_runs(RunQuery())):
            self.both(partial(_load, run_id=summary.run_id))
            self.both(partial(_blobs, run_id=summary.run_id))

    def keep(self, leases: Any) -> None:
        if isinstance(leases, list):
            self.leases += [lease for lease in leases if isinstance(lease, Lease)]


def _run(
    run_id: str,
    count: int,
    blobs: list[Blob],
    head: dict[str, Any],
    prefix: Prefix | None = None,
    signals: Sequence[str] = (),
) -> NewRun:
    records = _log(prefix.last_seq if prefix else 0, count, blobs)
    posted = [signal(signal_id, run_id) for signal_id in signals]
    return new_run(run_id, records=records, blobs=blobs, prefix=prefix, posted=posted, **head)


def _log(after: int, count: int, blobs: list[Blob]) -> list[Record]:
    """Return records that name the blobs; their hashes are of no chain."""
    names = ",".join(f'"{blob.digest}"' for blob in blobs).encode()
    bodies = [b'{"n":%d,"blobs":[%s]}' % (after + n, names) for n in range(1, count + 1)]
    return [Record(after + n, body, sealed([body])[0].hash) for n, body in enumerate(bodies, 1)]


async def _load(store: StateBackend, run_id: str) -> Any:
    return await store.load(run_id), await store.load(run_id, from_snapshot=True)


async def _blobs(store: StateBackend, run_id: str) -> dict[str, bytes]:
    """Return all blobs that the log of a run names, which have to be there."""
    records = await store.read_events(run_id)
    digests = {digest for record in records for digest in re.findall("[0-9a-f]{64}", record.body.decode())}
    found = await store.read_blobs(run_id, digests)
    assert found.keys() == digests
    return found


async def _signals(store: StateBackend, known: Mapping[str, int]) -> list[Signal]:
    # Which run's signals come first is left to the store.
    return sorted(await store.read_signals(known), key=lambda signal: signal.run_id)


async def _outcome(verb: Verb, store: StateBackend) -> Any:
    try:
        return await verb(store)
    except (BackendError, RunNotFound) as error:
        return type(error)


@pytest.mark.hypothesis
@pytest.mark.timeout(900)
@pytest.mark.parametrize("share", [10, pytest.param(3, marks=pytest.mark.crash)], ids=["some", "many"])
@pytest.mark.parametrize("name", sorted(STORES))
def test_a_store_agrees_with_memory(name: str, share: int) -> None:
    limits = settings(max_examples=settings().max_examples // share, stateful_step_count=40)
    machine: Any = partial(Agreement, STORES[name])  # it asks for a class, and only calls it
    run_state_machine_as_test(machine, settings=limits)
