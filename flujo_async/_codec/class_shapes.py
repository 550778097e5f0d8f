"""The shapes of the user's classes: enums, NamedTuples, dataclasses and pydantic models.

Instances are put together field by field. No ``__init__``, ``__post_init__`` or validator runs a second time: one that
hashes a password must not hash the hash.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from enum import Enum, Flag
from functools import cached_property
from typing import Any, Protocol, cast, runtime_checkable

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from flujo_async._codec.builtin_shapes import BUILTIN_TYPES
from flujo_async._codec.misfit import Misfit
from flujo_async._codec.shape import Coder, Mapped, Shape, check_names, get_fields, missing_field, put_fields, table
from flujo_async._codec.tree import PAYLOAD, TAG
from flujo_async._model.tree import Json

_EXTRA = "extra"
_PRIVATE = "private"
_UNSET = "unset"
_ATTRIBUTES = "attributes"
_TUPLE: type[tuple[Any, ...]] = tuple  # alone, `tuple` is one of unknown items to pyright


def stored_name(cls: type) -> str:
    """Return ``module:qualified name``; that of a generic model names the modules of its arguments as well."""
    generic = getattr(cls, "__pydantic_generic_metadata__", None)
    if not generic or not generic["origin"]:
        return f"{cls.__module__}:{cls.__qualname__}"
    arguments = (stored_name(part) if isinstance(part, type) else repr(part) for part in generic["args"])
    return f"{stored_name(generic['origin'])}[{', '.join(arguments)}]"


def class_shape(cls: type[Any]) -> Shape | None:
    """Return the shape of a class, or ``None`` where it is of no kind that has one. Exceptions have their own."""
    if issubclass(cls, Enum):
        return enum_shape(cls)
    if tuple in cls.__mro__ and hasattr(cls, "_fields"):
        return NamedTupleShape(cls)
    if issubclass(cls, tuple(BUILTIN_TYPES)):
        return None  # its fields are not all that it holds
    if issubclass(cls, BaseModel):
        return ModelShape(cls)
    return DataclassShape(cls) if dataclasses.is_dataclass(cls) else None


@runtime_checkable
class FieldShape(Shape, Protocol):
    """A shape that can also be stored field by field, as a context is."""

    def take(self, value: Any) -> dict[str, Any]:
        """Return everything that the instance holds, by name."""
        ...

    def build(self, values: dict[str, Any]) -> Any:
        """Return the instance that holds these values; what is missing takes its default."""
        ...


def enum_shape(cls: type[Enum]) -> Mapped:
    """Return the shape of an enum: members by their names, combined flags by their number."""

    def to_payload(member: Enum) -> Any:
        return member.name if member.name in cls.__members__ else member.value

    def from_name(payload: Any) -> Enum:
        return cls.__members__[payload]

    def from_name_or_number(payload: Any) -> Enum:
        return cls(payload) if type(payload) is int else cls.__members__[payload]

    from_payload = from_name_or_number if issubclass(cls, Flag) else from_name
    return Mapped(stored_name(cls), to_payload, from_payload, object)


class NamedTupleShape:
    """A NamedTuple, by the names of its fields."""

    def __init__(self, cls: type[tuple[Any, ...]]) -> None:
        self.tag = stored_name(cls)
        self._cls = cls
        self._names = cast("tuple[str, ...]", getattr(cls, "_fields"))  # noqa: B009 - typing has no name for it
        self._defaults = cast("dict[str, Any]", getattr(cls, "_field_defaults", {}))

    def encode(self, value: Any, coder: Coder, depth: int) -> Json:
        """Return the trees of the fields."""
        return {TAG: self.tag, PAYLOAD: put_fields(zip(self._names, value, strict=True), coder, depth + 2)}

    def decode(self, tree: dict[str, Json], coder: Coder) -> Any:
        """Return the tuple without running a ``__new__`` of the user's."""
        check_names(tree, {TAG, PAYLOAD})
        trees = table(tree, PAYLOAD)
        check_names(trees, self._names, self._cls)
        values = {**self._defaults, **get_fields(trees, coder)}
        for name in self._names:
            if name not in values:
                raise missing_field(name, self._cls)
        return _TUPLE.__new__(self._cls, [values[name] for name in self._names])


class DataclassShape:
    """A dataclass, by its fields; attributes that are not fields lie beside them."""

    def __init__(self, cls: type[Any]) -> None:
        self.tag = stored_name(cls)
        self._cls = cls
        self._fields = {field.name: field for field in dataclasses.fields(cls)}

    def encode(self, value: Any, coder: Coder, depth: int) -> Json:
        """Return the trees of the fields and of the other attributes."""
        tree: dict[str, Json] = {TAG: self.tag, PAYLOAD: put_fields(self._present(value).items(), coder, depth + 2)}
        if attributes := self._attributes(value):
            tree[_ATTRIBUTES] = put_fields(attributes.items(), coder, depth + 2)
        return tree

    def decode(self, tree: dict[str, Json], coder: Coder) -> Any:
        """Return the instance without running ``__init__`` or ``__post_init__``."""
        check_names(tree, {TAG, PAYLOAD, _ATTRIBUTES})
        trees = table(tree, PAYLOAD)
        check_names(trees, self._fields, self._cls)
        instance = self._make(get_fields(trees, coder))
        for name, value in get_fields(table(tree, _ATTRIBUTES), coder).items():
            instance.__dict__[name] = value
        return instance

    def take(self, value: Any) -> dict[str, Any]:
        """Return the fields; what is not a field of a context would be lost, so it is refused."""
        check_names(self._attributes(value), ())
        return self._present(value)

    def build(self, values: dict[str, Any]) -> Any:
        """Return the instance that has these fields."""
        check_names(values, self._fields, self._cls)
        return self._make(values)

    def _make(self, values: dict[str, Any]) -> Any:
        instance = object.__new__(self._cls)
        for name, field in self._fields.items():
            if name in values:
                object.__setattr__(instance, name, values[name])
            elif field.default is not dataclasses.MISSING:
                object.__setattr__(instance, name, field.default)
            elif field.default_factory is not dataclasses.MISSING:
                object.__setattr__(instance, name, field.default_factory())
            elif field.init:
                raise missing_field(name, self._cls)
        return instance

    def _present(self, value: Any) -> dict[str, Any]:
        """Return the fields that are set; only those outside ``__init__`` need not be."""
        present: dict[str, Any] = {}
        for name, field in self._fields.items():
            item = getattr(value, name, dataclasses.MISSING)
            if item is not dataclasses.MISSING:
                present[name] = item
            elif field.init:
                raise Misfit(f"the field {name!r} is not set")
        return present

    def _attributes(self, value: Any) -> dict[str, Any]:
        held: dict[str, Any] = getattr(value, "__dict__", {})
        if held.keys() <= self._fields.keys():
            return {}
        return {name: item for name, item in held.items() if name not in self._fields and not self._is_derived(name)}

    def _is_derived(self, name: str) -> bool:
        """Tell whether Python makes it anew: a cached property, or what ``typing`` notes as ``__orig_class__``."""
        return name.startswith("__") or isinstance(getattr(self._cls, name, None), cached_property)


class ModelShape:
    """A pydantic model: its fields, its extra and private attributes, and which fields were set."""

    def __init__(self, cls: type[BaseModel]) -> None:
        self.tag = stored_name(cls)
        self._cls = cls
        self._fields = cls.model_fields
        self._private = cls.__private_attributes__
        self._allows_extra = cls.model_config.get("extra") == "allow"

    def encode(self, value: Any, coder: Coder, depth: int) -> Json:
        """Return the trees of the fields, and of the rest where there is any."""
        below = depth + 2
        held = self._held(value)
        extra: dict[str, Any] = value.__pydantic_extra__ or {}
        tree: dict[str, Json] = {TAG: self.tag, PAYLOAD: put_fields(held.items(), coder, below)}
        if extra:
            tree[_EXTRA] = coder.put(extra, depth + 1)
        if value.__pydantic_private__:
            tree[_PRIVATE] = put_fields(value.__pydantic_private__.items(), coder, below)
        if unset := {*held, *extra} - value.__pydantic_fields_set__:
            tree[_UNSET] = coder.put(sorted(unset), depth + 1)
        return tree

    def decode(self, tree: dict[str, Json], coder: Coder) -> Any:
        """Return the model without running a validator."""
        check_names(tree, {TAG, PAYLOAD, _EXTRA, _PRIVATE, _UNSET})
        trees = table(tree, PAYLOAD)
        check_names(trees, self._fields, self._cls)
        extra: dict[str, Any] = coder.get(tree.get(_EXTRA, {}))
        if type(extra) is not dict:
            raise Misfit("the extra attributes of a stored model are not a dict")
        private = get_fields(table(tree, _PRIVATE), coder)
        return self._make(get_fields(trees, coder), extra, private, coder.get(tree.get(_UNSET, [])))

    def take(self, value: Any) -> dict[str, Any]:
        """Return fields, extra and private attributes side by side."""
        parts: list[dict[str, Any]]
        parts = [self._held(value), value.__pydantic_extra__ or {}, value.__pydantic_private__ or {}]
        together = {name: item for part in parts for name, item in part.items()}
        if len(together) < sum(map(len, parts)):
            raise Misfit("an extra attribute has the name of another attribute")
        return together

    def build(self, values: dict[str, Any]) -> Any:
        """Return the model that holds these values, each in its place."""
        fields, private = self._fields, self._private
        return self._make(
            {name: item for name, item in values.items() if name in fields},
            {name: item for name, item in values.items() if name not in fields and name not in private},
            {name: item for name, item in values.items() if name in private},
        )

    def _held(self, value: BaseModel) -> dict[str, Any]:
        try:
            return {name: value.__dict__[name] for name in self._fields}
        except KeyError as error:  # made by `model_construct`, or deleted
            raise Misfit(f"the field {error} is not set") from None

    def _make(
        self, values: dict[str, Any], extra: dict[str, Any], private: dict[str, Any], unset: Iterable[str] = ()
    ) -> BaseModel:
        """Return the model of these parts, in the way in which pydantic itself unpickles one."""
        check_names(extra, extra if self._allows_extra else (), self._cls)
        check_names(private, self._private, self._cls)
        state = {
            "__dict__": self._with_defaults(values),
            "__pydantic_extra__": extra if self._allows_extra else None,
            "__pydantic_private__": self._with_private_defaults(private),
            "__pydantic_fields_set__": {*values, *extra}.difference(unset),
        }
        model = object.__new__(self._cls)
        BaseModel.__setstate__(model, state)
        return model

    def _with_defaults(self, values: dict[str, Any]) -> dict[str, Any]:
        full: dict[str, Any] = {}
        for name, field in self._fields.items():
            if name in values:
                full[name] = values[name]
            elif field.is_required():
                raise missing_field(name, self._cls)
            else:
                full[name] = field.get_default(call_default_factory=True, validated_data=full)
        return full

    def _with_private_defaults(self, private: dict[str, Any]) -> dict[str, Any] | None:
        """Return all private attributes, or ``None`` where the class has none, as pydantic has it."""
        if not self._private:
            return None
        full = {name: item.get_default() for name, item in self._private.items() if name not in private} | private
        return {name: item for name, item in full.items() if item is not PydanticUndefined}
