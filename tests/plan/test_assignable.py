"""Which annotated types may flow into which."""

import enum
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, NewType, NotRequired, Protocol, TypedDict, TypeVar, Union

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from typing_extensions import TypeAliasType

from flujo_async._plan.assignable import describe_type, is_assignable

T = TypeVar("T")
UserId = NewType("UserId", int)
Alias = TypeAliasType("Alias", list[int])


class Animal:
    def speak(self) -> str:
        return "…"


class Dog(Animal): ...


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Speaker(Protocol):
    loudness: int

    def speak(self) -> str: ...


class Order(TypedDict):
    id: int
    note: NotRequired[str]


class Parcel(TypedDict):
    id: int
    weight: float


class Model(BaseModel): ...


class Box(BaseModel, Generic[T]):
    item: T


@dataclass
class Pair(Generic[T]):
    left: T


class Labelled(Mapping[str, T]): ...


FITS = [
    (Any, int),
    (int, Any),
    (int, object),
    (int, T),
    (int, int),
    (None, None),
    (None, type(None)),
    (bool, int),
    (int, float),
    (int, complex),
    (float, complex),
    (list[int], list[float]),
    (Dog, Animal),
    (str, str | None),
    (str | None, str | int | None),
    (Dog | None, Animal | None),
    (Annotated[int, "positive"], int),
    (int, Annotated[int, "positive"]),
    (UserId, int),
    (int, UserId),
    (Alias, list[int]),
    (list[int], Alias),
    (Literal["a"], str),
    (Literal["a"], Literal["a", "b"]),
    (Literal["a", 1], str | int),
    (Literal[1, 2], Literal[1] | Literal[2, 3]),
    (bool, Literal[True, False]),
    (Colour, Literal[Colour.RED, Colour.BLUE]),
    (list, list[int]),
    (list[int], list),
    (list[Dog], Sequence[Animal]),
    (list[int], Iterable[int]),
    (dict[str, int], Mapping[str, float]),
    (dict[str, int], Iterable[str]),
    (str, Iterable[str]),
    (tuple[int, str], tuple[int, str]),
    (tuple[int, str], tuple[int | str, ...]),
    (tuple[int, ...], tuple[int, int]),
    (tuple[int, str], Sequence[int | str]),
    (tuple[int, ...], Iterable[int]),
    (Order, dict[str, Any]),
    (Order, Mapping[str, Any]),
    (dict[str, Any], Order),
    (Parcel, Order),
    (Animal, Speaker),
    (Box[int], Box[int]),
    (Box, Box[int]),
    (Box[bool], Box[Any]),
    (Pair[int], Pair[float]),
    (Labelled[int], Iterable[str]),
    (Callable[[int], str], Callable[[str], str]),
    (Callable[[int], str], Callable[..., Any]),
    (type[Dog], type[Animal]),
    ("Unresolved", int),
]

MISFITS = [
    (int, str),
    (str, int),
    (float, int),
    (object, int),
    (None, int),
    (int, None),
    (Animal, Dog),
    (str | None, str),
    (str | int, int),
    (list[str], list[int]),
    (list[int], dict[str, int]),
    (dict[str, str], dict[str, int]),
    (dict[int, str], Iterable[str]),
    (str, Iterable[int]),
    (str, list[str]),
    (Annotated[str, "name"], int),
    (UserId, str),
    (Alias, list[str]),
    (str, Literal["a"]),
    (Literal["c"], Literal["a", "b"]),
    (Literal[1], Literal[True]),
    (Literal["a"], int),
    (Literal["a", 1], str),
    (tuple[int, str], tuple[int]),
    (tuple[int, str], tuple[str, int]),
    (tuple[int, str], tuple[int, ...]),
    (tuple[int, str], Sequence[int]),
    (int, Order),
    (Model, Order),
    (Order, Parcel),
    (int, Speaker),
    (None, Speaker),
    (Box[int], Box[str]),
    (Model, Box[int]),
    (Pair[str], Pair[int]),
    (type[Animal], type[Dog]),
    (Awaitable[int], int),
]


@pytest.mark.parametrize(("source", "target"), FITS, ids=describe_type)
def test_what_may_flow(source: Any, target: Any) -> None:
    assert is_assignable(source, target)


@pytest.mark.parametrize(("source", "target"), MISFITS, ids=describe_type)
def test_what_may_not_flow(source: Any, target: Any) -> None:
    assert not is_assignable(source, target)


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (None, "None"),
        (Dog, "Dog"),
        (int | None, "int | None"),
        (list[int], "list[int]"),
        (Iterable[int], "Iterable[int]"),
        (Literal["a"], "Literal['a']"),
    ],
)
def test_types_read_as_an_author_writes_them(annotation: Any, text: str) -> None:
    assert describe_type(annotation) == text


LEAVES = st.sampled_from(
    [int, str, bool, float, None, Any, object, Animal, Dog, Order, Speaker, Colour, Literal[1, "a"]]
)


def of(generic: Any, item: Any, *more: Any) -> Any:
    return generic[(item, *more) if more else item]


def larger(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.builds(of, st.sampled_from([list, set, Sequence, Iterable]), inner),
        st.builds(of, st.just(tuple), inner, st.just(...)),
        st.builds(of, st.just(Annotated), inner, st.just("note")),
        st.builds(of, st.sampled_from([dict, Mapping]), st.just(str), inner),
        st.builds(of, st.sampled_from([tuple, Union]), inner, inner),
    )


TYPES = st.recursive(LEAVES, larger, max_leaves=5)


@given(TYPES)
def test_every_type_flows_into_itself(annotation: Any) -> None:
    assert is_assignable(annotation, annotation)


@given(TYPES)
def test_any_and_object_take_everything(annotation: Any) -> None:
    assert is_assignable(annotation, Any)
    assert is_assignable(Any, annotation)
    assert is_assignable(annotation, object)


@given(TYPES, TYPES, TYPES)
def test_a_wider_target_takes_no_less(source: Any, target: Any, other: Any) -> None:
    assert is_assignable(source, of(Union, source, other))
    if is_assignable(source, target):
        assert is_assignable(source, of(Union, target, other))


@given(TYPES, TYPES, TYPES)
def test_a_union_flows_where_all_its_members_do(one: Any, other: Any, target: Any) -> None:
    both = is_assignable(one, target) and is_assignable(other, target)
    assert is_assignable(of(Union, one, other), target) == both


@given(TYPES, TYPES)
def test_items_decide_for_lists(source: Any, target: Any) -> None:
    assert is_assignable(of(list, source), of(Iterable, target)) == is_assignable(source, target)
