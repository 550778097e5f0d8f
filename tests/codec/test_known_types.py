"""Which classes may be built: those that annotations lead to, and the registered."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import GenericAlias
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    Optional,
    TypedDict,
    TypeVar,
    Union,
)

import pytest
from pydantic import BaseModel, PrivateAttr
from typing_extensions import TypeAliasType

from flujo_async._codec.reachable import reachable_classes
from flujo_async._codec.registry import register_type
from flujo_async._codec.values import Codec
from flujo_async.errors import DefinitionError, SerializationError
from tests.codec.samples import Unknown

if TYPE_CHECKING:
    from nowhere import Nothing  # type: ignore[import-not-found]


@dataclass
class Leaf:
    value: int


class Shade(enum.Enum):
    DARK = 1


S = TypeVar("S")
T = TypeVar("T", bound="Leaf")


@dataclass
class Tree(Generic[T]):
    left: Tree[T] | None
    leaf: T


@dataclass
class HalfKnown:
    missing: Nothing
    leaf: Leaf


class Page(BaseModel, Generic[S]):
    item: S | None


class Row(NamedTuple):
    leaf: Leaf


class Entry(TypedDict, total=False):
    leaf: Leaf


class Model(BaseModel):
    leaf: Leaf


class Secretive(BaseModel):
    _leaf: Leaf = PrivateAttr()


class LeafError(Exception):
    leaf: Leaf


LeafId = NewType("LeafId", Leaf)
Leaves = TypeAliasType("Leaves", list[Leaf] | dict[str, Leaf])


@pytest.mark.parametrize(
    "annotation",
    [
        Leaf,
        Optional[Leaf],  # noqa: UP045
        Union[int, Leaf],  # noqa: UP007
        int | Leaf,
        Annotated[Leaf, "note", []],
        list[Leaf],
        dict[str, list[tuple[Leaf, ...]]],
        Sequence[Leaf],
        Callable[[Leaf], int],
        Iterator[Leaf],
        type[Leaf],
        T,
        LeafId,
        Leaves,
        Tree,
        Tree[Leaf],
        HalfKnown,
        Row,
        Entry,
        Model,
        Secretive,
        LeafError,
        list[Annotated[Model | None, "x"]],
    ],
)
def test_annotations_lead_to_classes(annotation: Any) -> None:
    """Through unions, generics, aliases and fields, however deep; names that cannot be found are passed over."""
    codec = Codec(annotation)
    assert codec.decode(codec.encode(Leaf(1))) == Leaf(1)


def test_an_instance_of_a_parametrized_dataclass_comes_back() -> None:
    """``typing`` notes the parameters on the instance; they need no storing."""
    tree = Tree[Leaf](None, Leaf(1))
    assert Codec(Tree[Leaf]).decode(Codec(Tree[Leaf]).encode(tree)) == tree


@pytest.mark.parametrize("annotation", [None, Any, "Leaf", 3, ..., [], Literal["x"], int, Unknown, object])
def test_annotations_that_lead_nowhere_are_fine(annotation: Any) -> None:
    """Missing or odd annotations only mean that no class is known."""
    with pytest.raises(SerializationError):
        Codec(annotation).encode(Leaf(1))


def test_a_member_in_a_literal_leads_to_its_enum() -> None:
    """``Literal[Shade.DARK]`` names a class too."""
    assert Shade in reachable_classes([Literal[Shade.DARK]])


@pytest.mark.parametrize(("writer", "reader"), [("__main__", "app"), ("app", "__main__")])
def test_a_script_is_the_module_that_it_is_imported_as(writer: str, reader: str) -> None:
    """``python app.py`` starts a run, and a worker that imports ``app`` resumes it."""
    written = _order_class(writer)
    read = _order_class(reader)
    value = Codec(read).decode(Codec(written).encode(written(1)))
    assert type(value) is read


@pytest.mark.parametrize(("writer", "reader"), [("__main__", "app"), ("app", "__main__")])
@pytest.mark.parametrize(
    "argument", [lambda cls: cls, lambda cls: GenericAlias(list, (cls,)), lambda cls: cls | None], ids=range(3)
)
def test_so_it_is_in_the_arguments_of_a_generic_model(argument: Any, writer: str, reader: str) -> None:
    """Also where the model is of another module."""
    page: Any = Page
    written, read = page[argument(_order_class(writer))], page[argument(_order_class(reader))]
    value = Codec(read).decode(Codec(written).encode(written(item=None)))
    assert type(value) is read


def test_main_does_not_match_two_classes() -> None:
    """Rather refuse than guess."""
    one, two = _order_class("a"), _order_class("b")
    main = _order_class("__main__")
    with pytest.raises(SerializationError, match="neither reachable"):
        Codec(one, two).decode(Codec(main).encode(main(1)))


def test_other_modules_do_not_match() -> None:
    """A class of another module is another class."""
    one, two = _order_class("a"), _order_class("b")
    with pytest.raises(SerializationError, match="neither reachable"):
        Codec(two).decode(Codec(one).encode(one(1)))


def _order_class(module: str) -> Any:
    cls: Any = dataclass(type("Order", (), {"__annotations__": {"id": "int"}, "__module__": "builtins"}))
    cls.__module__ = module
    return cls


class Money:
    def __init__(self, cents: int) -> None:
        self.cents = cents

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and other.cents == self.cents

    def __hash__(self) -> int:
        return hash(self.cents)


class Weight:
    def __init__(self, grams: int) -> None:
        self.grams = grams


def cents_of(money: Money) -> int:
    return money.cents


class TestRegisterType:
    """``register_type`` teaches the codec a class."""

    def test_a_registered_type_is_stored_everywhere(self) -> None:
        codec = Codec()  # made before the registration
        register_type(Money, name="codec-test-money", encode=cents_of, decode=Money)
        value = {"total": Money(5), Money(1): [{Money(2)}]}
        assert codec.encode(Money(5)) == {"$": "@codec-test-money", "v": 5}
        assert codec.decode(codec.encode(value)) == value

    def test_it_goes_before_what_annotations_say(self) -> None:
        @dataclass
        class Both:
            x: int

        register_type(Both, name="codec-test-both", encode=lambda both: both.x, decode=Both)
        assert Codec(Both).encode(Both(1)) == {"$": "@codec-test-both", "v": 1}

    def test_the_same_again_is_fine(self) -> None:
        for _ in range(2):
            register_type(Money, name="codec-test-money", encode=cents_of, decode=Money)
            register_type(Weight, name="codec-test-weight", encode=lambda weight: weight.grams, decode=Weight)

    def test_a_name_belongs_to_one_class_and_a_class_has_one_name(self) -> None:
        register_type(Money, name="codec-test-money", encode=cents_of, decode=Money)
        with pytest.raises(DefinitionError, match="'codec-test-money' is already registered for another class"):
            register_type(Leaf, name="codec-test-money", encode=lambda leaf: leaf.value, decode=Leaf)
        with pytest.raises(DefinitionError, match="as 'codec-test-money'"):
            register_type(Money, name="cash", encode=cents_of, decode=Money)
        with pytest.raises(DefinitionError, match="as 'codec-test-money'"):
            register_type(
                Money,
                name="codec-test-money",
                encode=lambda money: str(money.cents),
                decode=lambda text: Money(int(text)),
            )

    @pytest.mark.parametrize("cls", [int, str, dict, type(None), bool, list, "Leaf"])
    def test_what_is_stored_already_cannot_be_registered(self, cls: Any) -> None:
        with pytest.raises(DefinitionError):
            register_type(cls, name="x", encode=str, decode=str)

    @pytest.mark.parametrize("name", ["", 3, "\ud800"])
    def test_a_name_is_a_text(self, name: Any) -> None:
        with pytest.raises(DefinitionError):
            register_type(Leaf, name=name, encode=str, decode=lambda _: Leaf(1))

    def test_its_functions_may_fail(self) -> None:
        class Fragile:
            pass

        def fail(_: Any) -> Any:
            raise RuntimeError("no")

        register_type(Fragile, name="codec-test-fragile", encode=fail, decode=fail)
        with pytest.raises(SerializationError, match="Fragile failed") as caught:
            Codec().encode([Fragile()])
        assert isinstance(caught.value.__cause__, RuntimeError)
        with pytest.raises(SerializationError, match="malformed"):
            Codec().decode({"$": "@codec-test-fragile", "v": 1})

    def test_decode_must_return_the_class(self) -> None:
        class Odd:
            pass

        register_type(Odd, name="codec-test-odd", encode=lambda _: 1, decode=lambda _: 2)  # type: ignore[arg-type,return-value]
        with pytest.raises(SerializationError, match="returned a int"):
            Codec().decode(Codec().encode(Odd()))
