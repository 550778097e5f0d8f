"""A fact is one line of JSON, and comes back as it was."""

import json
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flujo_async._codec.blobs import LARGE, LastText, digests_in
from flujo_async._codec.facts import decode_fact, encode_fact, pack_fact
from flujo_async._model.facts import Fact, RunCompleted, ValueDrawn
from flujo_async.errors import SerializationError
from tests.log.made import any_fact, fact_of, logs

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@given(any_fact)
def test_a_fact_comes_back_as_it_was(fact: Fact) -> None:
    """Equal, of the same kind, and the same bytes again."""
    body = encode_fact(fact)
    again = decode_fact(body)
    assert (again, type(again)) == (fact, type(fact))
    assert encode_fact(again) == body


@given(any_fact)
def test_a_fact_is_one_line_of_json(fact: Fact) -> None:
    """Its kind comes first, for whoever reads a log with ``cat`` and ``jq``."""
    body = encode_fact(fact)
    assert b"\n" not in body
    assert next(iter(json.loads(body).items())) == ("kind", fact.kind)


@pytest.mark.parametrize("kind", get_args(Fact))
def test_every_kind_is_stored_under_its_own_name(kind: type[Any]) -> None:
    """The name of the class, which no log may lose."""
    assert kind.kind == kind.__name__


@given(st.data(), st.sampled_from([1, 1.0, True, 0, 0.0, False, None, "", [], {}]))
def test_values_that_python_takes_for_equal_stay_apart(data: st.DataObject, tree: Any) -> None:
    """``1``, ``1.0`` and ``True`` are three values, also where one of them is the default."""
    [kind] = [kind for kind in get_args(Fact) if kind.__name__ == "StepCompleted"]
    drawn = data.draw(fact_of(kind))
    fact = replace(drawn, input=tree)
    again = decode_fact(encode_fact(fact))
    assert type(again.input) is type(tree)  # type: ignore[union-attr]


@given(st.binary(max_size=60))
def test_bytes_that_are_no_fact_are_refused(body: bytes) -> None:
    """By one type of error."""
    with pytest.raises(SerializationError):
        decode_fact(body)


@given(logs, st.data())
def test_a_line_with_a_part_missing_or_wrong_is_refused_or_read(log: list[Fact], data: st.DataObject) -> None:
    """Never another error."""
    line = json.loads(encode_fact(data.draw(st.sampled_from(log))))
    name = data.draw(st.sampled_from(sorted(line)))
    line[name] = data.draw(st.sampled_from([None, 7, "x", [], {}, [1], {"a": 1}, True]))
    with suppress(SerializationError):
        decode_fact(json.dumps(line).encode())


def test_the_large_text_that_was_packed_last_is_not_packed_again() -> None:
    """The output of the last step is the run's. It is named once more, and not among the blobs."""
    text, last = "x" * LARGE, LastText()
    _, [blob] = pack_fact(ValueDrawn(at=NOW, key="a", value=text), last)
    body, blobs = pack_fact(RunCompleted(at=NOW, output={"text": text}), last)
    assert (digests_in(body), list(blobs)) == ({blob.digest}, [])
    body, [other] = pack_fact(RunCompleted(at=NOW, output=text + "y"), last)
    assert digests_in(body) == {other.digest} != {blob.digest}
    _, [again] = pack_fact(RunCompleted(at=NOW, output=text), last)
    assert again == blob
