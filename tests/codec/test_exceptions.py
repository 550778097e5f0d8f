"""What is kept of an exception."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from pydantic_core import PydanticCustomError

from flujo_async import errors
from flujo_async._codec.error_record import MAX_TRACEBACK
from flujo_async._codec.exceptions import decode_error, describe_error, encode_error
from flujo_async._codec.tree import dumps, loads
from flujo_async._codec.values import Codec
from flujo_async.errors import FlujoError, RecordedError, RunNotFound, SerializationError
from tests.codec.sameness import same
from tests.codec.samples import CODEC, UNHURRIED, Unavailable, Unknown, values


@dataclass(frozen=True)
class Refused(Exception):
    """Lets nobody set an attribute."""

    code: int


class Numbered(Exception):
    """Has arguments that are computed."""

    @property
    def args(self) -> tuple[int]:  # type: ignore[override]
        return (4,)


@dataclass
class Holder:
    """Collects what went wrong with it."""

    errors: list[Exception] = field(default_factory=list)


def round_trip(error: BaseException, codec: Codec = CODEC) -> Any:
    return decode_error(codec, loads(dumps(encode_error(codec, error))))


def raised(statement: str) -> Exception:
    try:
        exec(statement)
    except Exception as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    "error",
    [
        ValueError(),
        ValueError("x", (1,)),
        KeyError("missing"),
        OSError(2, "No such file", "a.txt"),
        FileNotFoundError(2, "No such file", b"a", None, "b"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        SyntaxError("bad", ("f.py", 1, 2, "x y", 1, 3)),
        StopIteration(3),
        ImportError("no", name="x", path="y"),
        TimeoutError("late"),
        Unavailable("h", retry_after=2.5),
        RunNotFound("no run", run_id="r"),
        SerializationError("bad", path="a.b"),
        RecordedError("a:B", "m", "tb"),
        ValueError("\ud800"),
    ],
)
def test_a_known_exception_comes_back(error: Exception) -> None:
    """With its class, arguments, attributes and message, and without running its ``__init__``."""
    back = round_trip(error)
    assert same(back, error)
    assert str(back) == str(error)
    assert getattr(back, "errno", None) == getattr(error, "errno", None)
    assert getattr(back, "filename", None) == getattr(error, "filename", None)


@pytest.mark.parametrize("error", [Refused(3), Numbered(4)], ids=repr)
def test_one_whose_class_lets_nothing_be_set_comes_back(error: Exception) -> None:
    """With its notes and its cause."""
    error.__dict__["__notes__"] = ["a note"]
    object.__setattr__(error, "__cause__", ValueError("a cause"))
    back = round_trip(error, Codec(Refused, Numbered))
    assert (type(back), back.args, str(back)) == (type(error), error.args, str(error))
    assert (back.__notes__, repr(back.__cause__)) == (["a note"], "ValueError('a cause')")


def test_one_that_only_its_extension_module_can_make_is_told() -> None:
    """As a ``RecordedError``, though its class is known."""
    error = PydanticCustomError("odd", "three is odd")
    back = round_trip(error, Codec(PydanticCustomError))
    assert isinstance(back, RecordedError)
    assert isinstance(back, ValueError)
    assert back.message == "three is odd"


def test_those_that_an_object_collects_about_itself_are_stored_once() -> None:
    """Python attaches the object to each of them."""
    holder = Holder()
    for _ in range(40):
        try:
            holder.missing  # type: ignore[attr-defined]  # noqa: B018
        except AttributeError as error:
            holder.errors.append(error)
    codec = Codec(Holder)
    back = codec.decode(codec.encode(holder))
    assert [(str(error), error.name) for error in back.errors] == [(str(error), "missing") for error in holder.errors]


@pytest.mark.parametrize(
    "statement", ["1/0", "{}['a']", "x", "().x", "int('q')", "open('/no/such')", "b'\\xff'.decode()"]
)
def test_what_python_raises_comes_back(statement: str) -> None:
    """Also where Python attaches what cannot be stored."""
    error = raised(statement)
    back = round_trip(error)
    assert (type(back), str(back), back.args) == (type(error), str(error), error.args)


@settings(suppress_health_check=UNHURRIED)
@given(values)
def test_recording_never_fails(value: Any) -> None:
    """Whatever the arguments are; and a second record equals the first."""
    error = Unavailable("h", retry_after=0)
    error.args = (value, Unknown()) if value else (value,)
    error.extra = value  # type: ignore[attr-defined]
    back = round_trip(error)
    assert same(back.extra, value)
    assert value or same(back.args, (value,))


class Hostile(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("no attributes")


class Quiet(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize("error", [Quiet(), ValueError(Unknown()), KeyboardInterrupt("x"), GeneratorExit()])
def test_odd_exceptions_are_recorded_too(error: BaseException) -> None:
    """A failure must always be told."""
    tree = loads(dumps(encode_error(CODEC, error)))
    assert type(error).__name__ in describe_error(tree)
    assert isinstance(decode_error(CODEC, tree), Exception)


def test_a_message_that_is_not_unicode_is_told_escaped() -> None:
    """Stores and instruments hold what is told as text; the exception itself comes back as it was."""
    tree = encode_error(CODEC, ValueError("no file b\udcffd.txt"))
    assert describe_error(tree).encode() == rb"ValueError: no file b\udcffd.txt"


def test_an_exception_that_cannot_even_be_looked_at_is_recorded() -> None:
    """At least its class."""
    tree = encode_error(CODEC, Hostile())
    assert describe_error(tree).startswith("Hostile")


def test_arguments_that_cannot_be_stored_leave_the_message() -> None:
    """The class decides where it is caught, the message is what people read."""
    for error in (ValueError("a", Unknown()), KeyError(Unknown())):
        back = round_trip(error)
        assert (type(back), str(back)) == (type(error), str(error))


def test_an_unknown_class_becomes_a_recorded_error() -> None:
    """Nothing is imported to find it."""
    back = round_trip(Unavailable("h", retry_after=1), Codec())
    assert type(back) is RecordedError
    assert back.type_name == "tests.codec.samples:Unavailable"
    assert back.message == "h is unavailable, try again in 1 s"
    assert "Unavailable" in back.traceback


def test_causes_notes_and_groups_come_back() -> None:
    """The chain that explains an error."""
    inner = KeyError("k")
    inner.add_note("look here")
    group = ExceptionGroup("many", [ValueError(1), ExceptionGroup("inner", [inner])])
    group.__cause__ = OSError(5, "io")
    back = round_trip(group)
    assert same(back, group)
    assert back.exceptions[1].exceptions[0].__notes__ == ["look here"]
    assert str(back) == "many (2 sub-exceptions)"


def test_the_context_counts_as_cause_unless_suppressed() -> None:
    """As in a printed traceback."""
    error = raised("try:\n  1/0\nexcept Exception:\n  raise ValueError")
    assert type(round_trip(error).__cause__) is ZeroDivisionError
    error.__suppress_context__ = True
    assert round_trip(error).__cause__ is None


def test_a_chain_is_bounded_even_if_it_bites_its_tail() -> None:
    """A group whose members were caused by it must not be told for ever."""
    members = [ValueError(n) for n in range(20)]
    group = ExceptionGroup("g", members)
    for member in members:
        member.__cause__ = group
    assert len(round_trip(group).exceptions) == 20
    twice = ExceptionGroup("g", [members[3], members[3]])
    assert [member.args for member in round_trip(twice).exceptions] == [(3,), (3,)]
    long: Exception = ValueError(0)
    for n in range(1, 300):
        long, long.__cause__ = ValueError(n), long
    assert len(dumps(encode_error(CODEC, long))) < 10_000


def test_the_traceback_is_text_and_keeps_its_end() -> None:
    """Where it happened is at the end."""
    error = raised("1/0")
    tree: Any = encode_error(CODEC, error)
    assert tree["traceback"].endswith("ZeroDivisionError: division by zero\n")
    assert "in raised" in tree["traceback"]
    error.add_note("x" * 50_000 + "end")
    tree = encode_error(CODEC, error)
    assert len(tree["traceback"]) == MAX_TRACEBACK
    assert tree["traceback"].endswith("end\n")


def test_the_stored_form_of_an_error() -> None:
    """Tools read these names."""
    error = Unavailable("h", retry_after=1)
    tree = {name: item for name, item in encode_error(CODEC, error).items() if name != "traceback"}
    assert tree == {
        "type": "tests.codec.samples:Unavailable",
        "message": "h is unavailable, try again in 1 s",
        "args": ["h is unavailable, try again in 1 s"],
        "attributes": {"host": "h", "retry_after": 1},
    }
    assert describe_error(json.loads(json.dumps(tree))) == "Unavailable: h is unavailable, try again in 1 s"


def test_an_exception_as_a_value_loses_nothing_in_silence() -> None:
    """A recorded failure may be incomplete, a result may not."""
    with pytest.raises(SerializationError) as caught:
        CODEC.encode([ValueError("x", Unknown())], at="output")
    assert caught.value.path == "output[0].args[1]"
    with pytest.raises(SerializationError, match=r"the group has a .*Quiet"):
        CODEC.encode(ExceptionGroup("g", [Quiet()]))
    with pytest.raises(SerializationError, match="annotate"):
        CODEC.encode(Quiet())


def test_every_error_of_the_package_is_known_everywhere() -> None:
    """A step may raise them, and its run may be read without a definition."""
    for cls in vars(errors).values():
        if isinstance(cls, type) and issubclass(cls, FlujoError):
            bare = cls.__new__(cls, "m")
            assert type(round_trip(bare, Codec())) is cls
