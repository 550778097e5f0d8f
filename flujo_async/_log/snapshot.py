"""Snapshots: the state of a run as bytes, so that loading need not begin at the first fact.

What no longer counts is left out: events, attempts that were followed by another, heartbeats of steps that have ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from copy import copy
from datetime import datetime
from typing import Any, Final, TypeAlias, cast

import orjson

from flujo_async._codec.blobs import NAMES, Blobs, digests_in, extract, restore, value_of
from flujo_async._codec.facts import fact_of, pack_fact
from flujo_async._codec.heads import (
    decode_moment,
    decode_usage,
    encode_usage,
    in_utc,
)
from flujo_async._codec.tree import dumps_with_moments, loads
from flujo_async._log.awaited import Awaited
from flujo_async._log.chain import next_hash
from flujo_async._log.delta import Fields, Migration
from flujo_async._log.fold import Fold
from flujo_async._model.facts import BlockCompleted, Fact, RunForked, RunMigrated, RunStarted
from flujo_async._model.state import StepStatus
from flujo_async._model.stored import Snapshot
from flujo_async._model.tree import Json
from flujo_async.errors import SerializationError

FORMAT: Final = 8
"""The version of the bodies made here; those of another are not read."""

_Values: TypeAlias = Mapping[str, Json]

_PLAIN: Final = (
    *("run_id", "pipeline_version", "fingerprint", "status", "seq", "hash", "prev_hash", "current_step_index"),
    *("reason", "places", "failures", "order", "graphs", "children", "inherited"),
)
"""What is JSON as it is, and small."""

_TREES: Final = ("output", "last_step_output", "error")
"""Encoded values, in which something may be large."""

_TREES_BY_KEY: Final = ("heartbeats", "values", "choices")

_MOMENTS: Final = ("updated_at", "began_at", "finished_at", "deadline")

_BY_KEY: Final = ("failed_attempts", "once", "decisions", "waits", "answers", "cancelled_calls")
"""Facts by their keys."""

_VALUES: Final = frozenset({*_TREES, "metadata"})
"""What is replaced as a whole, if at all."""

_COUNTED: Final = (
    *("changes", "failures", "failed_attempts", "once", "decisions", "heartbeats", "not_run", "graphs", "timers"),
    *("waits", "answers", "children", "choices"),
)


def weight(fold: Fold) -> int:
    """Return about how many facts of the log still count, as far as reading them takes its time."""
    return 1 + sum(len(getattr(fold, name)) for name in _COUNTED)


def copied(fold: Fold) -> Fold:
    """Return the state as it is now, whatever comes; it shares all that does not change."""
    same = copy(fold)
    for name in Fold.__slots__:
        value = getattr(fold, name)
        if isinstance(value, (list, dict, set)) and name not in _VALUES:
            setattr(same, name, copy(cast("Any", value)))
    same.context, same.awaited = fold.context.copy(), fold.awaited.copy()
    return same


def snapshot_of(fold: Fold) -> Snapshot:
    """Return the state of a run as a snapshot. Large values are named, as in the log, and stay where they are.

    Raises:
        SerializationError: a patch in the log is malformed.
    """
    blobs: Blobs = {}
    tree: dict[str, Any] = {"format": FORMAT, **_encode(fold, blobs)}
    line = dumps_with_moments({NAMES: sorted(blobs), **tree} if blobs else tree)
    return Snapshot(fold.seq, fold.hash, _seal(fold.hash, line) + b"\n" + line)


def blobs_of(snapshot: Snapshot) -> AbstractSet[str]:
    """Return the digests of the blobs that a snapshot names."""
    return digests_in(snapshot.body.partition(b"\n")[2])


def fold_from(snapshot: Snapshot, run_id: str, data: Mapping[str, bytes] | None = None) -> Fold:
    """Return the state that a snapshot was made of.

    Args:
        snapshot: the snapshot.
        run_id: the run that it is to be of.
        data: the blobs that it names, by digest.

    Raises:
        SerializationError: it is damaged, of another version or another run, or a blob is missing.
    """
    seal, _, line = snapshot.body.partition(b"\n")
    if seal != _seal(snapshot.hash, line):
        raise SerializationError("the snapshot is damaged")
    tree = loads(line)
    if not isinstance(tree, dict) or tree.get("format") != FORMAT:
        raise SerializationError("the snapshot was made by another version")
    try:
        fold = _decode(cast("dict[str, Any]", tree), {key: value_of(key, found) for key, found in (data or {}).items()})
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise SerializationError(f"the snapshot is malformed: {error!r}") from error
    if (fold.run_id, fold.seq, fold.hash) != (run_id, snapshot.seq, snapshot.hash):
        raise SerializationError("the snapshot is that of something else")
    return fold


def _seal(hash_: str, line: bytes) -> bytes:
    return next_hash(hash_, line).encode()


def _encode(fold: Fold, blobs: Blobs) -> dict[str, Any]:
    at = {id(fact): place for place, fact in enumerate(fold.changes)}
    return {
        "started": _line(fold.started, blobs),
        "changes": [_line(fact, blobs) for fact in fold.changes],
        "outcomes": [at[id(fact)] if id(fact) in at else _line(fact, blobs) for fact in fold.outcomes.values()],
        **{name: [_line(fact, blobs) for fact in getattr(fold, name).values()] for name in _BY_KEY},
        "rollback": None if fold.rollback is None else _line(fold.rollback, blobs),
        **{name: getattr(fold, name) for name in _PLAIN},
        **{name: extract(getattr(fold, name), blobs) for name in _TREES},
        **{name: {key: extract(tree, blobs) for key, tree in getattr(fold, name).items()} for name in _TREES_BY_KEY},
        **{name: _moment(getattr(fold, name)) for name in _MOMENTS},
        "timers": {key: in_utc(moment) for key, moment in fold.timers.items()},
        "awaited": fold.awaited.encode(),
        "failed_keys": list(fold.failed_keys),
        "metadata": None if fold.metadata is fold.started.metadata else fold.metadata,
        "repeats": fold.repeats,
        "redriven": fold.redriven,
        "usage": encode_usage(fold.usage),
        "usages": {key: encode_usage(usage) for key, usage in fold.usages.items()},
        "child_usages": {run_id: encode_usage(usage) for run_id, usage in fold.child_usages.items()},
        "taken": sorted(fold.taken),
        "not_run": {key: [name, status.value] for key, (name, status) in fold.not_run.items()},
        "migrated_at": [migration.seq for migration in fold.migrations],
        "context": {name: _if_known(tree, blobs) for name, tree in fold.context.tree.items()},
    }


def _line(fact: Fact, blobs: Blobs) -> orjson.Fragment:
    body, beside = pack_fact(fact)
    blobs.update((blob.digest, blob) for blob in beside)
    return orjson.Fragment(body)


def _moment(moment: datetime | None) -> datetime | None:
    return None if moment is None else in_utc(moment)


def _if_known(tree: Json, known: Blobs) -> Json:
    """Return a tree by the names of its large parts, if the log has them: the store is given no others."""
    found: Blobs = {}
    smaller = extract(tree, found)
    return smaller if found.keys() <= known.keys() else tree


def _decode(tree: dict[str, Any], values: _Values) -> Fold:
    started = fact_of(tree["started"], values)
    if not isinstance(started, RunStarted):
        raise SerializationError(f"a log begins with RunStarted, not {started.kind}")
    fold = Fold(started)
    changes: list[Any] = [fact_of(line, values) for line in tree["changes"]]
    outcomes: list[Any] = [
        changes[item] if isinstance(item, int) else fact_of(item, values) for item in tree["outcomes"]
    ]
    fold.changes = changes
    fold.outcomes = {fact.key: fact for fact in outcomes}
    fold.blocks = {fact.key: fact.patch for fact in changes if isinstance(fact, BlockCompleted)}
    migrated = [fact for fact in changes if isinstance(fact, RunMigrated | RunForked) and fact.patch]
    fold.migrations = [Migration(fact.patch, seq) for fact, seq in zip(migrated, tree["migrated_at"], strict=True)]
    fold.rollback = cast("Any", tree["rollback"] and fact_of(tree["rollback"], values))
    for name in _BY_KEY:
        by_key: list[Any] = [fact_of(line, values) for line in tree[name]]
        setattr(fold, name, {fact.key: fact for fact in by_key})
    for name in _PLAIN:
        setattr(fold, name, tree[name])
    _decode_the_rest(fold, tree, values)
    return fold


def _decode_the_rest(fold: Fold, tree: dict[str, Any], values: _Values) -> None:
    for name in _TREES:
        setattr(fold, name, restore(tree[name], values) if values else tree[name])
    for name in _TREES_BY_KEY:
        setattr(fold, name, _restored(tree[name], values))
    for name in _MOMENTS:
        setattr(fold, name, None if tree[name] is None else decode_moment(tree[name]))
    fold.timers = {key: decode_moment(moment) for key, moment in tree["timers"].items()}
    fold.awaited = Awaited.decode(tree["awaited"])
    fold.failed_keys = tuple(tree["failed_keys"])
    if tree["metadata"] is not None:
        fold.metadata = tree["metadata"]
    fold.repeats = tree["repeats"]
    fold.redriven = [(seq, dropped) for seq, dropped in tree["redriven"]]
    fold.usage = decode_usage(tree["usage"])
    fold.usages = {key: decode_usage(usage) for key, usage in tree["usages"].items()}
    fold.child_usages = {run_id: decode_usage(usage) for run_id, usage in tree["child_usages"].items()}
    fold.taken = set(tree["taken"])
    fold.not_run = {key: (name, StepStatus(status)) for key, (name, status) in tree["not_run"].items()}
    fold.context = Fields(_restored(tree["context"], values))


def _restored(trees: dict[str, Json], values: _Values) -> dict[str, Json]:
    """Return what was stored under names, any of which may be that of a tag."""
    return {name: restore(tree, values) for name, tree in trees.items()} if values else trees
