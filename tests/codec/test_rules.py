"""What is stored how, one rule a test."""

from __future__ import annotations

import random
import zoneinfo
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, TypedDict

import pytest
from pydantic import BaseModel, TypeAdapter

from flujo_async._codec.tree import dumps, loads
from flujo_async._codec.values import Codec
from flujo_async._model.tree import MAX_DEPTH
from flujo_async.errors import DefinitionError, SerializationError
from tests.codec.sameness import same
from tests.codec.samples import (
    CODEC,
    Access,
    Account,
    Box,
    Colour,
    Derived,
    Frozen,
    Node,
    Open,
    Plain,
    Position,
    Unavailable,
    Unknown,
)


class MyStr(str):
    __slots__ = ()


class MyInt(int):
    pass


class Shapeless(TypedDict, total=False):
    colour: Colour
    other: Frozen


def nested(value: Any) -> Node:
    return Node(value=value)


def round_trip(value: Any) -> Any:
    return CODEC.decode(loads(dumps(CODEC.encode(value))))


@pytest.mark.parametrize(
    ("value", "tree"),
    [
        ({"a": [1, None, True, 1.5]}, {"a": [1, None, True, 1.5]}),
        ((1, 2), {"$": "tuple", "v": [1, 2]}),
        ({"$": 1}, {"$": "dict", "v": ["$", 1]}),
        ({1: "a"}, {"$": "dict", "v": [1, "a"]}),
        ({3, 1, 2}, {"$": "set", "v": [1, 2, 3]}),
        (2**64, {"$": "int", "v": "10000000000000000"}),
        (float("-inf"), {"$": "float", "v": "-inf"}),
        (b"\x00\xff", {"$": "bytes", "v": "AP8="}),
        ("\ud800", {"$": "str", "v": "7aCA"}),
        (datetime(2024, 1, 2, tzinfo=UTC), {"$": "datetime", "v": "2024-01-02T00:00:00+00:00"}),
        (timedelta(days=-1), {"$": "timedelta", "v": [-1, 0, 0]}),
        (Decimal("1.50"), {"$": "Decimal", "v": "1.50"}),
        (Colour.GREEN, {"$": "tests.codec.samples:Colour", "v": "GREEN"}),
        (Position(1.0, "a"), {"$": "tests.codec.samples:Position", "v": {"x": 1.0, "label": "a"}}),
        (
            Open.model_validate({"id": 1, "more": 2}),
            {"$": "tests.codec.samples:Open", "v": {"id": 1}, "extra": {"more": 2}},
        ),
        (
            Node(),
            {"$": "tests.codec.samples:Node", "v": {"value": None, "children": []}, "unset": ["children", "value"]},
        ),
    ],
)
def test_the_stored_form(value: Any, tree: Any) -> None:
    """Stores keep these trees for years: a change here needs an upcaster."""
    assert CODEC.encode(value) == tree
    assert same(CODEC.decode(tree), value)


@pytest.mark.parametrize(
    "value",
    [
        MyStr("a"),
        MyInt(1),
        OrderedDict(a=1),
        defaultdict(int),
        Unknown(),
        object(),
        lambda: None,
        Unknown,
        range(3),
        memoryview(b""),
        KeyboardInterrupt(),
    ],
)
def test_only_exact_known_types_are_stored(value: Any) -> None:
    """A subclass never turns into its base, nor an object into its ``repr``."""
    with pytest.raises(SerializationError, match=type(value).__qualname__):
        CODEC.encode(value)


@pytest.mark.parametrize(
    ("value", "advice"), [(Frozen(1), "annotate"), (MyStr(), "plain str"), (Unknown(), "dataclass")]
)
def test_a_refusal_says_what_to_do(value: Any, advice: str) -> None:
    """It names the class and the ways out."""
    with pytest.raises(SerializationError, match=rf"{type(value).__qualname__}: .*{advice}.*register_type"):
        Codec().encode(value)


def test_what_was_not_awaited_is_told_from_other_values() -> None:
    async def fetch() -> int:
        return 1

    coroutine = fetch()
    with pytest.raises(SerializationError, match="await it"):
        Codec().encode(coroutine)
    coroutine.close()


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (Unknown(), "output"),
        ({"items": [0, {"price": Unknown()}]}, "output.items[1].price"),
        ({"a b": (Unknown(),)}, "output['a b'][0]"),
        ({1: Unknown()}, "output[1]"),
        ({(1, 2): Unknown()}, "output[<tuple>]"),
        (Plain(Plain([Unknown()])), "output.number.number[0]"),
        (Node(children=[Node(value=Unknown())]), "output.children[0].value"),
        (Open.model_validate({"id": 1, "rest": Unknown()}), "output.rest"),
        (Position(Unknown()), "output.x"),  # type: ignore[arg-type]
        ({Unknown()}, "output{}"),
        (ValueError(1, Unknown()), "output.args[1]"),
    ],
)
def test_the_error_says_where(value: Any, path: str) -> None:
    """A path as one would write it in Python."""
    with pytest.raises(SerializationError) as caught:
        CODEC.encode(value, at="output")
    assert caught.value.path == path


def test_a_decode_error_says_where() -> None:
    """Both ways have paths."""
    with pytest.raises(SerializationError) as caught:
        CODEC.decode({"a": [1, {"$": "no such"}]}, at="input")
    assert caught.value.path == "input.a[1]"


@pytest.mark.parametrize("kind", [list, dict, tuple])
def test_values_may_not_be_part_of_themselves(kind: type) -> None:
    """There is no end to storing them."""
    inner: list[Any] = []
    inner.append({"x": inner} if kind is dict else kind([inner]))
    with pytest.raises(SerializationError, match="part of itself"):
        CODEC.encode(inner)


@pytest.mark.parametrize(
    "wrap", [lambda v: [v], lambda v: {"a": v}, lambda v: (v,), lambda v: {1: v}, Plain, lambda v: Node(value=v)]
)
def test_what_can_be_encoded_can_be_written_and_read(wrap: Any) -> None:
    """The limit of depth is that of the codec, so a deep value is refused when the step returns."""
    value: Any = 0
    for _ in range(MAX_DEPTH + 5):
        try:
            tree = CODEC.encode(value)
        except SerializationError:
            return
        wrapped: Any = loads(dumps({"fact": {"output": tree}}))  # as facts do
        assert CODEC.encode(CODEC.decode(wrapped["fact"]["output"])) == tree
        value = wrap(value)
    pytest.fail("there is no limit")


def test_the_tree_is_detached_and_values_are_fresh() -> None:
    """Neither later changes of the value nor of what came back reach the stored form."""
    value = {"list": [1], "plain": Plain([2]), "node": Node(value={"x": 1})}
    tree = CODEC.encode(value)
    before = dumps(tree)
    value["list"].append(3)  # type: ignore[attr-defined]
    first = CODEC.decode(tree)
    first["plain"].number.append(1)
    first["node"].value["x"] = 2
    assert dumps(tree) == before
    assert CODEC.decode(tree)["plain"].number == [2]


def test_equal_sets_made_in_any_order_have_equal_bytes() -> None:
    """Else the same result would have two digests."""
    members: list[Any] = [*range(50), *map(str, range(50)), (1, "x"), frozenset({1, 2}), None]
    shuffled = random.Random(1).sample(members, len(members))
    assert dumps(CODEC.encode(set(members))) == dumps(CODEC.encode(set(shuffled)))


def test_zones_keep_their_key_name_and_fold() -> None:
    """An ambiguous hour stays the hour that it was."""
    berlin = datetime(2024, 10, 27, 2, 30, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"), fold=1)
    back = round_trip(berlin)
    assert (back.tzinfo, back.fold, back.utcoffset()) == (berlin.tzinfo, 1, timedelta(hours=1))
    named = datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=1), "Home"))
    assert round_trip(named).tzname() == "Home"


@pytest.mark.parametrize("zone", ["Z", "+00:00", "-03:30"])
def test_a_moment_that_pydantic_has_parsed_comes_back(zone: str) -> None:
    """It has a zone of pydantic's own there."""
    moment = TypeAdapter(datetime).validate_json(f'"2024-10-27T02:30:00{zone}"')
    for value in (moment, moment.timetz(), moment.tzinfo):
        assert same(CODEC.decode(CODEC.encode(value)), value)


def test_a_zone_without_a_key_is_refused() -> None:
    """It could not be found again."""
    with Path(zoneinfo.TZPATH[0], "UTC").open("rb") as data:
        zone = zoneinfo.ZoneInfo.from_file(data)
    with pytest.raises(SerializationError, match="without a key"):
        CODEC.encode(zone)


def test_no_initializer_runs_again() -> None:
    """An instance is put back, not made anew."""
    value = Derived(2)
    value.double = 5
    back = round_trip([Plain(1), value])
    calls = Plain.calls
    assert round_trip(back)[1].double == 5
    assert Plain.calls == calls


def test_no_validator_runs_again() -> None:
    """A hashed password is not hashed again."""
    account = Account(password="x")
    account._secret = {"k": (1,)}
    back = round_trip(account)
    assert (back.password, back._secret, back.model_fields_set) == ("hash(x)", {"k": (1,)}, {"password"})
    assert not hasattr(back, "_late")


def test_attributes_outside_the_fields_survive_and_caches_do_not() -> None:
    """Code that sets ``self.something`` finds it again; a cached property is computed again."""
    value = Derived(2)
    value.note = "kept"  # type: ignore[attr-defined]
    assert value.triple == 6
    assert vars(round_trip(value)) == {"base": 2, "double": 4, "note": "kept"}


def test_a_model_without_a_required_field_is_refused_at_once() -> None:
    """Not only when it is read back."""
    with pytest.raises(SerializationError, match="'id' is not set"):
        CODEC.encode(Open.model_construct())


def test_a_missing_field_takes_its_default() -> None:
    """A field with a default can be added while runs are under way."""
    tree: Any = CODEC.encode([Account(password="x"), Plain(1), Position(1.0), Derived(1)])
    for item, name in zip(tree, ["history", "rest", "label", "late"], strict=True):
        item["v"].pop(name, None)
    account, plain, position, derived = CODEC.decode(tree)
    assert (account.history, plain.rest, position.label) == ([], [], "origin")
    assert "history" not in account.model_fields_set
    assert derived.double == 2


@pytest.mark.parametrize(
    ("value", "field"), [(Account(password="x"), "password"), (Plain(1), "number"), (Position(1.0), "x")]
)
def test_a_missing_required_field_and_an_unknown_one_are_refused(value: Any, field: str) -> None:
    """Data is neither invented nor dropped."""
    tree: Any = CODEC.encode(value)
    held = tree["v"].pop(field)
    with pytest.raises(SerializationError, match=f"'{field}' is missing, and {type(value).__name__} has no default"):
        CODEC.decode(tree)
    tree["v"] |= {field: held, "more": 1}
    with pytest.raises(SerializationError, match=f"unknown field 'more': {type(value).__name__} has none"):
        CODEC.decode(tree)


def test_an_alias_of_a_member_and_combined_flags_come_back() -> None:
    """By name, so that a member's value may change; a combination has none and is stored as a number."""
    assert round_trip([Colour.CRIMSON, Access.READ | Access.WRITE, Access(0)]) == [
        Colour.RED,
        Access.READ | Access.WRITE,
        Access(0),
    ]


def test_a_lenient_codec_needs_no_definitions() -> None:
    """Tools show what a store holds without the code that wrote it."""
    value = [
        Frozen((1, 2)),
        Colour.RED,
        Position(1.0),
        {Frozen(1)},
        {Frozen(2): 3},
        Open.model_validate({"id": 1, "more": 2}),
        Unavailable("h", retry_after=1),
    ]
    shown = Codec.lenient().decode(CODEC.encode(value))
    assert shown[:3] == [{"key": (1, 2), "colour": "RED"}, "RED", {"x": 1.0, "label": "origin"}]
    assert shown[3:6] == [[{"key": 1, "colour": "RED"}], [{"key": 2, "colour": "RED"}, 3], {"id": 1, "more": 2}]
    assert shown[6].type_name == "tests.codec.samples:Unavailable"


class TestFields:
    """A context is stored field by field."""

    @pytest.mark.parametrize(
        "value",
        [
            {"a": (1,), "$": Colour.RED},
            Plain({1}),
            Account(name="n", password="p", history=[1]),
            Open.model_validate({"id": 1, "x": (2,)}),
        ],
    )
    def test_a_context_comes_back(self, value: Any) -> None:
        stored: Any = loads(dumps(CODEC.encode_fields(value)))
        assert same(CODEC.decode_fields(type(value), stored), value)

    def test_one_changed_field_changes_one_tree(self) -> None:
        before, after = Account(password="p"), Account(password="p", name="other")
        old, new = CODEC.encode_fields(before), CODEC.encode_fields(after)
        assert {name for name in old if old[name] != new[name]} == {"name"}
        assert set(old) == {"name", "password", "history", "_secret"}

    def test_a_typed_dict_and_a_generic_alias_are_taken_for_their_class(self) -> None:
        assert Codec(Shapeless).decode_fields(Shapeless, {"colour": 1}) == {"colour": 1}
        assert CODEC.decode_fields(dict[str, int], {"a": 1}) == {"a": 1}

    def test_errors_have_paths(self) -> None:
        with pytest.raises(SerializationError) as caught:
            CODEC.encode_fields(Plain([Unknown()]))
        assert caught.value.path == "context.number[0]"

    @pytest.mark.parametrize("value", [1, Unknown(), {1: 2}, {"\ud800": 1}, Colour.RED, OrderedDict()])
    def test_what_has_no_fields_is_refused(self, value: Any) -> None:
        with pytest.raises(SerializationError):
            CODEC.encode_fields(value)

    @pytest.mark.parametrize("fields", [{}, {"number": 1, "more": 1}])
    def test_missing_and_unknown_fields_are_refused(self, fields: Any) -> None:
        with pytest.raises(SerializationError, match=r"number|more"):
            CODEC.decode_fields(Plain, fields)


def test_two_classes_of_one_name_cannot_share_a_codec() -> None:
    """They could not be told apart when they come back."""

    def make() -> type:
        @dataclass
        class Twin:
            x: int

        return Twin

    with pytest.raises(DefinitionError, match="Twin"):
        Codec(make(), make())


class Local(BaseModel):
    x: int


def test_generic_models_of_classes_with_one_name_are_told_apart() -> None:
    """The stored name tells the module of the argument too."""
    codec = Codec(Box[Local] | Box[Colour])
    boxes = [Box[Local](content=Local(x=1)), Box[Colour](content=Colour.RED)]
    assert same(codec.decode(codec.encode(boxes)), boxes)
