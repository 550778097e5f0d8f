"""Classes of every kind that can be stored, and strategies for values of them."""

from __future__ import annotations

import enum
from collections.abc import Hashable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from functools import cached_property
from pathlib import PosixPath, PurePath, PurePosixPath, PureWindowsPath
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

from hypothesis import HealthCheck
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, PrivateAttr, field_validator

from flujo_async._codec.values import Codec

T = TypeVar("T")

UNHURRIED = [
    HealthCheck.data_too_large,
    HealthCheck.filter_too_much,
    HealthCheck.large_base_example,
    HealthCheck.too_slow,
]
"""The checks of speed and size that drawing deep values may fail."""


class Colour(enum.Enum):
    RED = 1
    GREEN = object()  # its value could not be stored
    CRIMSON = 1  # noqa: PIE796 - another name of RED on purpose


class Level(enum.StrEnum):
    LOW = "low"
    HIGH = "high"


class Access(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


class Position(NamedTuple):
    x: float
    label: str = "origin"


@dataclass
class Plain:
    number: Any
    rest: list[Any] = field(default_factory=list)
    calls: ClassVar[int] = 0

    def __post_init__(self) -> None:
        type(self).calls += 1


@dataclass(frozen=True, slots=True)
class Frozen:
    key: Any
    colour: Colour = Colour.RED


@dataclass
class Derived:
    base: int
    double: int = field(init=False)
    late: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.double = self.base * 2

    @cached_property
    def triple(self) -> int:
        return self.base * 3


class Account(BaseModel):
    """A validator that must not run twice."""

    name: str = "nobody"
    password: str
    history: list[Any] = []
    _secret: Any = PrivateAttr(default=0)
    _late: int = PrivateAttr()

    @field_validator("password")
    @classmethod
    def _hashed(cls, value: str) -> str:
        return f"hash({value})"


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    id: int


class Box(BaseModel, Generic[T]):
    content: T


class Node(BaseModel):
    value: Any = None
    children: list[Node] = []


class Unavailable(Exception):
    """An exception whose ``__init__`` takes something else than its ``args``."""

    def __init__(self, host: str, *, retry_after: float) -> None:
        super().__init__(f"{host} is unavailable, try again in {retry_after} s")
        self.host = host
        self.retry_after = retry_after


class Unknown:
    """Nothing that can be stored."""


KNOWN = (Colour, Level, Access, Position, Plain, Frozen, Derived, Account, Open, Box[int], Node, Unavailable)
CODEC = Codec(*KNOWN)

zones = st.one_of(
    st.none(),
    st.timedeltas(timedelta(hours=-23, minutes=-59), timedelta(hours=23, minutes=59)).map(timezone),
    st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23)), st.text(max_size=5)),
    st.sampled_from(["Europe/Berlin", "UTC", "America/New_York"]).map(ZoneInfo),
)
any_text = st.text(st.characters(exclude_categories=[]), max_size=8)  # lone surrogates as well
_names = st.lists(st.text("ab.", min_size=1, max_size=3), max_size=3)


def _path(kind: type[PurePath], parts: list[str]) -> PurePath:
    return kind(*parts)


scalars: st.SearchStrategy[Hashable] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**200), 2**200),
    st.floats(),
    any_text,
    st.binary(max_size=20),
    st.datetimes(timezones=zones),
    st.builds(datetime.replace, st.datetimes(timezones=zones), fold=st.sampled_from([0, 1])),
    st.dates(),
    st.times(timezones=zones),
    st.timedeltas(),
    st.uuids(),
    st.decimals().filter(lambda number: not number.is_snan()),  # which cannot be hashed
    st.fractions(),
    st.complex_numbers(),
    st.sampled_from([*Colour, *Level, *Access, Access.READ | Access.WRITE, Access(0)]),
    st.builds(Position, st.floats(), any_text),
    st.builds(_path, st.sampled_from([PosixPath, PurePosixPath, PureWindowsPath]), _names),
)
hashables = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple), st.frozensets(inner, max_size=3), st.builds(Frozen, inner)
    ),
    max_leaves=5,
)


def _accounts(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Account]:
    def build(history: Any, secret: Any) -> Account:
        account = Account(password="p", history=[history])
        account._secret = secret
        return account

    return st.builds(build, inner, inner)


def _containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    keys = st.one_of(st.text("abc$v", max_size=2), any_text, hashables)
    return st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(keys, inner, max_size=4),
        st.sets(hashables, max_size=4),
        st.binary(max_size=5).map(bytearray),
        st.builds(Plain, inner, st.lists(inner, max_size=2)),
        st.builds(Derived, st.integers()),
        _accounts(inner),
        st.builds(
            lambda n, rest: Open(id=n, **rest), st.integers(), st.dictionaries(st.text(max_size=3), inner, max_size=2)
        ),
        st.builds(Box[int], content=st.integers()),
        st.builds(Node, value=inner),
        st.builds(ValueError, any_text, scalars),
        st.builds(lambda *many: ExceptionGroup("g", list(many)), st.builds(KeyError, scalars), st.builds(OSError)),
    )


values = st.recursive(hashables | st.just(Decimal("-sNaN12")), _containers, max_leaves=12)
