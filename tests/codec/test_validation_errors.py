"""What is kept of pydantic's ``ValidationError``."""

from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError, create_model, field_validator
from pydantic_core import PydanticCustomError

from flujo_async._codec.exceptions import decode_error, encode_error
from flujo_async._codec.tree import dumps, loads
from flujo_async._codec.values import Codec
from flujo_async.errors import RecordedError, SerializationError


class Odd(ValueError):
    """Nobody knows it."""


class Answer(BaseModel):
    """Refuses in as many ways as there are."""

    score: int = 0
    word: str = "a"
    kind: str = "b"
    odd: int = 1
    true: int = 1

    @field_validator("word")
    @classmethod
    def _not_empty(cls, word: str) -> str:
        if not word:
            raise ValueError("empty {word}")
        return word

    @field_validator("kind")
    @classmethod
    def _of_a_kind(cls, kind: str) -> str:
        raise PydanticCustomError("kind", "{kind} is no kind", {"kind": kind})

    @field_validator("odd")
    @classmethod
    def _odd(cls, odd: int) -> int:
        raise Odd(odd)

    @field_validator("true")
    @classmethod
    def _true(cls, true: int) -> int:
        assert true, "untrue"
        return true


def refusal(**fields: Any) -> ValidationError:
    with pytest.raises(ValidationError) as raised:
        Answer(**fields)
    return raised.value


def round_trip(error: Exception) -> Any:
    return decode_error(Codec(), loads(dumps(encode_error(Codec(), error))))


@pytest.mark.parametrize(
    "fields",
    [{"score": "x"}, {"word": ""}, {"kind": "k"}, {"true": 0}, {"score": [1], "word": "", "kind": "k"}],
    ids=str,
)
def test_it_comes_back(fields: dict[str, Any]) -> None:
    """With each line, and shown as before."""
    error = refusal(**fields)
    error.add_note("a note")
    error.attempt = 2  # type: ignore[attr-defined]
    back = round_trip(error)
    assert type(back) is ValidationError
    assert str(back) == str(error)
    assert (back.title, back.error_count(), back.__notes__, vars(back)["attempt"]) == (*_counts(error), ["a note"], 2)
    assert [_told(line) for line in back.errors()] == [_told(line) for line in error.errors()]


def _counts(error: ValidationError) -> tuple[str, int]:
    return error.title, error.error_count()


def _told(line: Any) -> Any:
    return line["type"], line["loc"], line["msg"], line["input"]


def test_what_cannot_be_stored_of_it_is_left_out() -> None:
    """The value that was validated, or the exception of a validator; its class, its lines and its messages stay."""
    for error in (refusal(score=object()), refusal(odd=3)):
        back = round_trip(error)
        assert type(back) is ValidationError
        assert [_told(line)[:3] for line in back.errors()] == [_told(line)[:3] for line in error.errors()]
    assert "input_value" not in str(round_trip(refusal(score=object())))


class Form(BaseModel, hide_input_in_errors=True):
    """Shows nobody what it was given."""

    password: int


def test_what_is_large_or_hidden_is_not_recorded() -> None:
    """Each line has all that was validated, where a field is missing."""
    fields: Any = {f"field{n}": (int, ...) for n in range(100)}
    Wide = create_model("Wide", **fields)
    for model, given in ((Wide, {"text": "secret" * 100_000}), (Form, {"password": "secret"})):
        with pytest.raises(ValidationError) as raised:
            model.model_validate(given)
        tree = {**encode_error(Codec(), raised.value), "traceback": ""}
        assert "secretsecret" not in str(tree["args"])
        assert len(dumps(tree)) < 60_000
        back = decode_error(Codec(), tree)
        assert isinstance(back, ValidationError)
        assert back.error_count() == raised.value.error_count()
    assert "secret" not in str(tree)


def test_as_a_value_it_loses_nothing_in_silence() -> None:
    codec = Codec()
    back = codec.decode(codec.encode([refusal(score="x")]))
    assert str(back[0]) == str(refusal(score="x"))
    with pytest.raises(SerializationError, match="object"):
        codec.encode([refusal(score=object())])


def test_a_record_of_before_tells_what_it_has() -> None:
    """It had no lines."""
    with pytest.raises(ValidationError) as raised:
        TypeAdapter(int).validate_python("x")
    tree = {**encode_error(Codec(), raised.value), "args": []}
    back = decode_error(Codec(), tree)
    assert type(back) is RecordedError
    assert back.message == str(raised.value)
