"""The hash chain."""

from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flujo_async._log.chain import GENESIS, next_hash, verify
from flujo_async._model.facts import Fact
from flujo_async._model.stored import Record
from flujo_async.errors import IntegrityError
from tests.log.made import logs, records, seal


def test_a_hash_can_be_computed_by_anybody() -> None:
    """Hex SHA-256 over the hash before, as text, and the body."""
    assert next_hash(GENESIS, b"{}") == sha256(b"{}").hexdigest()
    assert next_hash("ab", b"{}") == sha256(b"ab{}").hexdigest()


@given(logs)
def test_what_is_sealed_is_verified(log: list[Fact]) -> None:
    """A whole log, and none."""
    verify("r", records(log))
    verify("r", [])


@given(logs, st.data())
def test_a_log_sealed_in_parts_is_the_same(log: list[Fact], data: st.DataObject) -> None:
    """However the commits fell; a part is verified from where it begins."""
    cut = data.draw(st.integers(0, len(log)))
    head = records(log[:cut])
    prev_hash = head[-1].hash if head else GENESIS
    tail = seal(log[cut:], after=cut, prev_hash=prev_hash)
    assert head + tail == records(log)
    verify("r", tail, after=cut, prev_hash=prev_hash)


@given(logs, st.data())
def test_any_change_is_found_where_it_is(log: list[Fact], data: st.DataObject) -> None:
    """A flipped bit in a body or a hash, a record missing, doubled or moved."""
    sealed = records(log)
    place = data.draw(st.integers(0, len(sealed) - 1))
    broken, seq = _break(sealed, place, data)
    with pytest.raises(IntegrityError) as caught:
        verify("r", broken)
    assert (caught.value.run_id, caught.value.seq) == ("r", seq)


def _break(sealed: list[Record], place: int, data: st.DataObject) -> tuple[list[Record], int]:
    record = sealed[place]
    kinds = ["body", "hash", "again", *(["missing"] if place < len(sealed) - 1 else [])]
    match data.draw(st.sampled_from(kinds)):
        case "body":
            body = bytearray(record.body)
            body[data.draw(st.integers(0, len(body) - 1))] ^= 1 << data.draw(st.integers(0, 7))
            return [*sealed[:place], replace(record, body=bytes(body)), *sealed[place + 1 :]], place + 1
        case "hash":
            return [*sealed[:place], replace(record, hash="0" * 64), *sealed[place + 1 :]], place + 1
        case "again":
            return [*sealed[: place + 1], record, *sealed[place + 1 :]], place + 2
        case _:
            return [*sealed[:place], *sealed[place + 1 :]], place + 1


def test_a_tail_does_not_pass_for_another() -> None:
    """It has to continue the hash before it."""
    with pytest.raises(IntegrityError, match="seq 2"):
        verify("r", [Record(2, b"{}", next_hash("other", b"{}"))], after=1, prev_hash="one")
