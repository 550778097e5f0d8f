"""What stands in for an exception whose class is not known, but bases of which are."""

from __future__ import annotations

import copy
import pickle
import traceback
from abc import ABC, ABCMeta
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from flujo_async._codec.exceptions import decode_error, encode_error
from flujo_async._codec.stand_ins import stand_in_class
from flujo_async._codec.tree import dumps, loads
from flujo_async._codec.values import Codec
from flujo_async.errors import FlujoError, InvalidArgument, RecordedError, SerializationError

RAN: list[str] = []


class Counted(type):
    """A metaclass with code of its own."""

    def __new__(cls, *parts: Any) -> Any:
        """Tell of each class."""
        RAN.append("metaclass")
        return super().__new__(cls, *parts)


class Loud(KeyError):
    """Everything that it could run, it tells."""

    known: ClassVar[list[type]] = []

    def __init_subclass__(cls) -> None:
        """Keep a list."""
        Loud.known.append(cls)

    def __new__(cls, *args: Any) -> Loud:
        """Tell of it."""
        RAN.append("new")
        return super().__new__(cls, *args)

    def __init__(self, *args: Any) -> None:
        RAN.append("init")
        super().__init__(*args)

    def __setattr__(self, name: str, value: object) -> None:
        """Tell of it."""
        RAN.append("setattr")

    def __getattribute__(self, name: str) -> Any:
        """Tell of it."""
        RAN.append("getattribute")
        return super().__getattribute__(name)

    def __str__(self) -> str:
        """Tell of it."""
        RAN.append("str")
        return "loud"

    @property
    def message(self) -> str:
        """Has the name of what a ``RecordedError`` has."""
        RAN.append("message")
        return "loud"


class Louder(Loud):
    """Not known."""


@dataclass(frozen=True)
class Frozen(Exception):
    """Compares and hashes fields that a stand-in lacks."""

    code: int


class Colder(Frozen):
    """Not known."""


class Abstract(ValueError, ABC):
    """Of a metaclass that runs nothing of the user's."""


class Concrete(Abstract):
    """Not known."""


class Made(ValueError, metaclass=Counted):
    """Of one that does."""


class Remade(Made):
    """Not known."""


class Argued(InvalidArgument):
    """Derives from an error of this package."""


class Renamed(RecordedError):
    """Derives from what stands in."""


class RenamedAgain(Renamed):
    """Not known."""


class Numbered(OSError):
    """Has attributes of its own beside those of its base."""

    def __init__(self, number: int) -> None:
        super().__init__(number, "numbered")
        self.bytes = {b"a": object}
        self.number = number


class Undecoded(UnicodeDecodeError):
    """Has what it tells in the structure of its base, which shows nothing while that is missing."""


class Several(ExceptionGroup[Exception]):
    """Has members."""


def read_back(error: Exception, *known: object) -> Any:
    return decode_error(Codec(*known), loads(dumps(encode_error(Codec(), error))))


def test_it_is_a_recorded_error_and_what_the_exception_was() -> None:
    back = read_back(Numbered(2), Frozen)
    assert isinstance(back, RecordedError)
    assert isinstance(back, OSError)
    assert (back.type_name, back.message) == ("tests.codec.test_stand_ins:Numbered", "[Errno 2] numbered")
    assert back.bases == ("builtins:OSError",)
    assert str(back) == "tests.codec.test_stand_ins:Numbered: [Errno 2] numbered"
    assert repr(back) == f"RecordedError({str(back)!r})"
    assert (back.errno, back.strerror, vars(back)["number"]) == (2, "numbered", 2)
    assert not hasattr(back, "bytes")
    assert traceback.format_exception_only(back) == [f"flujo_async.errors.RecordedError: {back}\n"]


@pytest.mark.parametrize(
    ("error", "known", "nearest"),
    [
        (Louder("x"), (), {KeyError}),
        (Louder("x"), (Loud,), {Loud}),
        (Colder(3), (Frozen,), {Frozen}),
        (Concrete("x"), (Abstract,), {Abstract}),
        (Remade("x"), (Made,), {ValueError}),
        (Argued("x"), (), {InvalidArgument}),
        (RenamedAgain("a:B", "x"), (Renamed,), {Renamed}),
        (RenamedAgain("a:B", "x"), (), set()),
        (Colder(3), (), set()),
    ],
    ids=str,
)
def test_it_is_nothing_but_the_nearest_known_ones(error: Exception, known: Any, nearest: set[type]) -> None:
    """And those that they derive from; once for the same ones."""
    back = read_back(error, *known)
    expected = {base for cls in nearest for base in cls.__mro__} | set(RecordedError.__mro__)
    assert {base for base in type(back).__mro__[1:] if base.__name__ != "StandIn"} >= expected - {RecordedError}
    assert all(
        isinstance(back, cls) == (cls in expected) for cls in (Loud, Frozen, Abstract, Made, Renamed, LookupError)
    )
    assert type(back) is type(read_back(error, *known))
    assert (type(back) is RecordedError) == (not nearest)


def test_nothing_of_the_known_classes_runs() -> None:
    """Neither when the class is made nor when it is used as any exception is."""
    tree = loads(dumps(encode_error(Codec(), Louder("x"))))
    made = loads(dumps(encode_error(Codec(), Remade("x"))))
    before = [*Loud.known]
    RAN.clear()
    back: Any = decode_error(Codec(Loud), tree)
    decode_error(Codec(Made), made)
    assert (back.message, back.args, back == back, {back: 1}[back]) == ("loud", (str(back),), True, 1)
    back.extra = 1
    encode_error(Codec(), back)
    assert vars(pickle.loads(pickle.dumps(copy.copy(back)))) == vars(back)
    assert RAN == []
    assert Loud.known == before


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
@pytest.mark.parametrize(
    ("error", "attributes"),
    [
        (Numbered(2), ["errno", "strerror", "filename", "number"]),
        (Undecoded("utf-8", b"\xff", 0, 1, "why"), ["encoding", "object", "start", "end", "reason"]),
        (Several("all", [ValueError("a"), KeyError("b")]), ["message"]),
        (RenamedAgain("a:B", "x", "lines"), ["type_name", "traceback"]),
    ],
    ids=lambda it: type(it).__name__,
)
def test_it_can_be_copied_and_pickled(error: Exception, attributes: list[str], again: Callable[[Any], Any]) -> None:
    """Though no module has its class: what it stands for, what it is caught by, and all that it has stay the same."""
    first = read_back(error)
    first.add_note("noted")
    back = again(first)
    assert type(back) is type(first)
    assert (str(back), back.args, vars(back)) == (str(first), first.args, vars(first))
    assert [getattr(back, name) for name in attributes] == [getattr(first, name) for name in attributes]
    assert repr(getattr(back, "exceptions", None)) == repr(getattr(first, "exceptions", None))


def test_one_that_is_frozen_can_be_kept_in_a_set() -> None:
    back = read_back(Colder(3), Frozen)
    other = read_back(Colder(3), Frozen)
    assert len({back, other, back}) == 2
    assert back.code == 3


def test_what_is_recorded_of_it_is_what_was_recorded() -> None:
    """So that who knows more gets more, and nobody less, however often it is passed on."""
    error = Louder("x")
    error.__dict__["__notes__"] = ["a note"]
    tree = encode_error(Codec(), error)
    for known in ((), (Frozen,), (Loud,)):
        back = decode_error(Codec(*known), tree)
        assert encode_error(Codec(), back) == {name: item for name, item in tree.items() if name != "args"}
    again = decode_error(Codec(Louder), encode_error(Codec(), decode_error(Codec(), tree)))
    assert type(again) is Louder
    assert again.args == ("loud",)


def test_it_can_be_stored_as_a_value() -> None:
    """As a bare ``RecordedError`` can, also in a group."""
    codec = Codec()
    back = read_back(Numbered(2))
    for value in (back, ExceptionGroup("g", [back]).exceptions[0]):
        again = codec.decode(codec.encode([value]))[0]
        assert (type(again), str(again), again.traceback) == (type(back), str(back), back.traceback)
    group = codec.decode(codec.encode(ExceptionGroup("g", [back, ValueError(1)])))
    assert [type(member) for member in group.exceptions] == [type(back), ValueError]


def test_classes_that_cannot_be_combined_leave_the_bare_one() -> None:
    """As a log may have them whose classes are others now."""
    assert stand_in_class([OSError, ImportError]) is RecordedError
    assert stand_in_class([]) is RecordedError
    assert stand_in_class([FlujoError]) is RecordedError
    assert stand_in_class([ValueError, LookupError]) is stand_in_class([ValueError, LookupError, ValueError])
    assert type(stand_in_class([Abstract])) is ABCMeta


@pytest.mark.parametrize("bases", ["builtins:ValueError", [1], [["a"]], {"a": "b"}])
def test_bases_that_are_no_names_are_refused(bases: Any) -> None:
    with pytest.raises(SerializationError):
        decode_error(Codec(), {"type": "a:B", "message": "m", "bases": bases})
