"""The hash chain over a log: each record seals all records before it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256

from flujo_async._codec.blobs import LastText
from flujo_async._codec.facts import pack_fact
from flujo_async._log.audit_log import audit_mark
from flujo_async._model.facts import Fact
from flujo_async._model.stored import Blob, Record
from flujo_async.errors import IntegrityError

GENESIS = ""
"""The hash before the first record."""


def next_hash(prev_hash: str, body: bytes) -> str:
    """Return the hash of a record: hex SHA-256 over the hash before it and its body."""
    return sha256(prev_hash.encode() + body).hexdigest()


def seal(fact: Fact, *, after: int, prev_hash: str, last: LastText | None = None) -> tuple[Record, Sequence[Blob]]:
    """Return a fact as the next record of a log, and what is large in it.

    Args:
        fact: what happened.
        after: the last ``seq`` of the log; 0 if it is empty.
        prev_hash: the hash of the record with this ``seq``; ``GENESIS`` if there is none.
        last: the large text of this log that was sealed last; it is not among what is returned again.
    """
    body, blobs = pack_fact(fact, last)
    return Record(after + 1, body, next_hash(prev_hash, body), None, audit_mark(fact)), blobs


def verify(run_id: str, records: Iterable[Record], *, after: int = 0, prev_hash: str = GENESIS) -> None:
    """Check that records continue a log without a gap and with the right hashes.

    Raises:
        IntegrityError: they do not; it names the first record that cannot be trusted.
    """
    for seq, record in enumerate(records, after + 1):
        if record.seq != seq:
            raise IntegrityError(f"the log continues with seq {record.seq}", run_id=run_id, seq=seq)
        prev_hash = next_hash(prev_hash, record.body)
        if record.hash != prev_hash:
            raise IntegrityError("the hash does not fit the content", run_id=run_id, seq=seq)
