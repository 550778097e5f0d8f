"""``Codec``: the way of a value into a tree and back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from typing import Any, Generic, TypeVar, get_origin
from weakref import WeakValueDictionary

from typing_extensions import is_typeddict

from flujo_async._codec.builtin_shapes import (
    BUILTIN_SHAPES,
    BUILTIN_TAGS,
    BUILTIN_TYPES,
    LARGEST_INT,
    LENIENT_TAGS,
    SMALLEST_INT,
)
from flujo_async._codec.class_shapes import FieldShape, class_shape, stored_name
from flujo_async._codec.error_record import ERROR_SHAPE, NATIVE_ERRORS
from flujo_async._codec.growing import GrowingList
from flujo_async._codec.misfit import Misfit, key_step, located
from flujo_async._codec.reachable import reachable_classes
from flujo_async._codec.registry import REGISTERED, REGISTERED_ERRORS, REGISTERED_TAGS
from flujo_async._codec.shape import Shape, get_fields, get_items, put_fields, put_items
from flujo_async._codec.stand_ins import StandIn
from flujo_async._codec.tree import PAYLOAD, TAG
from flujo_async._model.text import is_unicode
from flujo_async._model.tree import MAX_DEPTH, Json
from flujo_async.errors import DefinitionError

_ATOMS = frozenset({type(None), bool, int, float, str})
_MODULE = re.compile(r"[\w.]+:")
_PREFIX = re.compile(r"[\w.]+[:.](?=\w)")
_MAIN = "__main__"
_CONTEXT = "context"  # where paths in errors begin
T = TypeVar("T")

# What `type` returns for a value of type `Any` is unknown to pyright.
_type_of: Callable[[object], type[Any]] = type


class Codec:
    """Stores values as JSON trees and brings them back, equal and of the same type.

    It knows Python's own types, the registered ones, and the classes that its annotations lead to. It builds nothing
    else, and refuses to store anything else.

    Args:
        annotations: what a step, a run or a context is annotated with; anything that ``typing`` allows.

    Raises:
        DefinitionError: two different classes would be stored under one name.

    >>> codec = Codec(int)
    >>> codec.encode({"id": 1, "tags": ("a", "b")})
    {'id': 1, 'tags': {'$': 'tuple', 'v': ['a', 'b']}}
    >>> codec.decode(codec.encode({"id": 1, "tags": ("a", "b")}))
    {'id': 1, 'tags': ('a', 'b')}
    """

    __slots__ = ("_by_type", "_errors", "_field_shapes", "_is_lenient", "_shapes", "_sources", "_tags")

    def __init__(self, *annotations: object) -> None:
        self._by_type: dict[type, Shape] = dict.fromkeys(NATIVE_ERRORS.values(), ERROR_SHAPE)
        self._field_shapes: dict[type, FieldShape] = {}  # to look for the methods of a protocol takes long
        self._shapes: _Names[Shape] = _Names()
        self._errors: _Names[type[Exception]] = _Names()
        self._tags: Mapping[str, Shape] = _TAGS
        self._is_lenient = False
        self._sources: WeakValueDictionary[int, object] = WeakValueDictionary()  # some are made anew in each run
        self.learn(*annotations)

    def learn(self, *annotations: object) -> None:
        """Know the classes as well that these annotations lead to.

        Raises:
            DefinitionError: two different classes would be stored under one name.
        """
        for cls in reachable_classes(annotations):
            if cls not in self._by_type:
                self._learn(cls)

    def learn_from(self, source: T, annotations: Callable[[T], Iterable[object]]) -> None:
        """Know the classes that the annotations of ``source`` lead to; asked again for the same one, this is quick."""
        if id(source) not in self._sources:
            self.learn(*annotations(source))
            self._sources[id(source)] = source

    @classmethod
    def lenient(cls) -> Codec:
        """Return a codec for tools that have no definitions: instances of unknown classes become what they hold.

        A dataclass or a model becomes a ``dict`` of its fields, an enum member its name, a registered type what its
        ``encode`` returned, a set whose members can then not be hashed a list.
        """
        codec = cls()
        codec._tags = _LENIENT_TAGS
        codec._is_lenient = True
        return codec

    def as_it_is(self) -> Codec:
        """Return a codec that stores what this one stores now, whatever this one learns later."""
        other = copy(self)
        other._by_type = dict(self._by_type)
        return other

    def may_store(self, cls: type) -> bool:
        """Return whether instances of a class can be stored, as far as that is up to the class."""
        is_plain = cls in BUILTIN_TYPES or cls is GrowingList
        return is_plain or cls in self._by_type or cls in REGISTERED or issubclass(cls, StandIn)

    def classes(self) -> list[type[Any]]:
        """Return the classes that this codec has learned."""
        return [cls for cls in self._by_type if not issubclass(cls, Exception)]

    def encode(self, value: Any, *, at: str = "value") -> Json:
        """Return the tree of a value, which later changes of the value do not change.

        Args:
            value: anything that this codec knows, of any size, up to 200 levels deep.
            at: the name of the value, where paths in errors begin.

        Raises:
            SerializationError: the value, or something in it, cannot be stored; its ``path`` tells what.
        """
        try:
            return self.put(value, 0)
        except (Misfit, RecursionError) as trouble:
            raise located(trouble, at) from trouble.__cause__

    def decode(self, tree: Json, *, at: str = "value") -> Any:
        """Return the value of a tree, a new one each time.

        Raises:
            SerializationError: the tree is malformed, or of a class that this codec may not build.
        """
        try:
            return self.get(tree)
        except (Misfit, RecursionError) as trouble:
            raise located(trouble, at) from trouble.__cause__

    def encode_fields(self, obj: Any) -> dict[str, Json]:
        """Return the tree of each field of a context, so that contexts can be compared field by field.

        A pydantic model gives its extra and private attributes as well, and comes back with all its fields set.

        Args:
            obj: a pydantic model, a dataclass or a ``dict`` whose keys are text.

        Raises:
            SerializationError: a field cannot be stored, or ``obj`` is nothing that has fields.
        """
        try:
            return put_fields(self._values_of(obj).items(), self, 1)
        except (Misfit, RecursionError) as trouble:
            raise located(trouble, _CONTEXT) from trouble.__cause__

    def values_of(self, obj: Any) -> Mapping[str, Any]:
        """Return the values that ``encode_fields`` encodes, by field; not to be changed.

        Raises:
            SerializationError: ``obj`` is nothing that has fields.
        """
        try:
            return self._values_of(obj)
        except Misfit as trouble:
            raise located(trouble, _CONTEXT) from trouble.__cause__

    def decode_fields(self, cls: Any, fields: Mapping[str, Json], *, given: Mapping[str, Any] | None = None) -> Any:
        """Return the context that has these fields; those that are missing take their defaults.

        Args:
            cls: the class that was encoded; for a ``TypedDict`` or a parametrized one the same as for the bare class.
            fields: what ``encode_fields`` returned, or an older or merged version of it.
            given: values that need not be decoded, by field; in place of those in ``fields``.

        Raises:
            SerializationError: a tree is malformed, a field is unknown, or one without a default is missing.
        """
        origin = get_origin(cls) or cls
        try:
            if given:
                known = {name: given.get(name) for name in fields}
                known.update(get_fields({name: tree for name, tree in fields.items() if name not in given}, self))
                values = known
            else:
                values = get_fields(fields, self)
            return values if origin is dict or is_typeddict(origin) else self._build(origin, values)
        except (Misfit, RecursionError) as trouble:
            raise located(trouble, _CONTEXT) from trouble.__cause__

    def put(self, value: Any, depth: int) -> Json:
        """Return the tree of a value; for shapes, see ``Coder``."""
        kind = _type_of(value)
        if kind is str:
            if value.isascii():
                return value  # type: ignore[no-any-return]
        elif kind is int:
            if SMALLEST_INT <= value <= LARGEST_INT:
                return value  # type: ignore[no-any-return]
        elif value is None or kind is bool:
            return value  # type: ignore[no-any-return]
        if depth > MAX_DEPTH:
            raise Misfit(f"nested deeper than {MAX_DEPTH} levels, or part of itself: flatten it")
        if kind is list or kind is GrowingList:
            return put_items(value, self, depth + 1)
        shape = BUILTIN_SHAPES.get(kind) or self._shape_of(kind)
        try:
            return shape.encode(value, self, depth)
        except Misfit:
            raise
        except Exception as error:
            raise Misfit(f"storing an instance of {_shown(kind)} failed with {type(error).__name__}") from error

    def get(self, tree: Json) -> Any:
        """Return the value of a tree; for shapes, see ``Coder``."""
        kind = type(tree)
        if kind in _ATOMS:
            return tree
        if type(tree) is dict:
            return self._get_tagged(tree) if TAG in tree else get_fields(tree, self)
        if type(tree) is list:
            return get_items(tree, self)
        raise Misfit(f"a {kind.__qualname__} is not part of a JSON tree")

    def error_class(self, type_name: str) -> type[Exception] | None:
        """Return the exception class of this stored name, if it may be built; for shapes, see ``Coder``."""
        native = NATIVE_ERRORS.get(type_name) or REGISTERED_ERRORS.get(type_name)
        return native or self._errors.find(type_name)

    def _learn(self, cls: type[Any]) -> None:
        if issubclass(cls, Exception):
            self._by_type[cls] = ERROR_SHAPE
            self._errors.add(stored_name(cls), cls, cls)
        elif (shape := class_shape(cls)) is not None:
            self._by_type[cls] = shape
            self._shapes.add(shape.tag, shape, cls)

    def _shape_of(self, kind: type) -> Shape:
        shape = REGISTERED.get(kind) or self._by_type.get(kind)
        if shape is None and issubclass(kind, StandIn):
            return ERROR_SHAPE
        if shape is None:
            raise Misfit(_refusal(kind))
        return shape

    def _values_of(self, obj: Any) -> dict[str, Any]:
        kind = _type_of(obj)
        return _entries(obj) if kind is dict else self._field_shape(kind).take(obj)

    def _field_shape(self, kind: type) -> FieldShape:
        shape = self._field_shapes.get(kind)
        if shape is not None:
            return shape
        known = self._by_type.get(kind)
        if isinstance(known, FieldShape):
            self._field_shapes[kind] = known
            return known
        raise Misfit(f"{_shown(kind)} has no fields here: a context is an annotated pydantic model, dataclass or dict")

    def _build(self, cls: type, values: dict[str, Any]) -> Any:
        try:
            return self._field_shape(cls).build(values)
        except Misfit:
            raise
        except Exception as error:
            raise Misfit(f"these are not the fields of {_shown(cls)} ({type(error).__name__})") from error

    def _get_tagged(self, tree: dict[str, Json]) -> Any:
        tag = tree[TAG]
        if type(tag) is not str:
            raise Misfit("the tag of a stored value is not text")
        shape = self._tags.get(tag) or REGISTERED_TAGS.get(tag) or self._shapes.find(tag)
        if shape is None:
            return self._get_unknown(tag, tree)
        try:
            return shape.decode(tree, self)
        except Misfit:
            raise
        except Exception as error:  # a payload can be wrong in as many ways as there are types
            raise Misfit(f"a stored {tag} is malformed ({type(error).__name__})") from error

    def _get_unknown(self, tag: str, tree: dict[str, Json]) -> Any:
        if not self._is_lenient:
            raise Misfit(f"stored as {tag}, which is neither reachable from the annotations nor registered here")
        parts = [self.get(tree[name]) for name in _HOLDING if name in tree]
        if all(type(part) is dict for part in parts):
            return {name: item for part in parts for name, item in part.items()}
        return parts[0]


_HOLDING = (PAYLOAD, "extra", "attributes")
_TAGS: Mapping[str, Shape] = {**BUILTIN_TAGS, ERROR_SHAPE.tag: ERROR_SHAPE}
_LENIENT_TAGS: Mapping[str, Shape] = {**LENIENT_TAGS, ERROR_SHAPE.tag: ERROR_SHAPE}


class _Names(Generic[T]):
    """What is known under stored names, where the main script goes by the name of its module as well."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[T, type]] = {}
        self._local: dict[str, list[str]] = {}

    def add(self, name: str, item: T, cls: type) -> None:
        """Add an item; two classes of one name cannot be told apart when they come back."""
        taken = self._known.get(name)
        if taken is not None and taken[1] is not cls:
            raise DefinitionError(f"two classes are named {name}: rename one, or register it with register_type")
        self._known[name] = (item, cls)
        self._local.setdefault(_local_name(name), []).append(name)

    def find(self, name: str) -> T | None:
        """Return the item of this name; ``__main__`` matches any module, if that leaves one item."""
        found = self._known.get(name)
        if found is None:
            near = [other for other in self._local.get(_local_name(name), ()) if _MAIN in name or _MAIN in other]
            found = self._known[near[0]] if len(near) == 1 else None
        return found[0] if found else None


def _local_name(name: str) -> str:
    """Return a stored name without modules; the arguments of a model may be told as ``list[app.Item]``."""
    own, bracket, arguments = name.partition("[")
    return _MODULE.sub("", own) + bracket + _PREFIX.sub("", arguments)


def _entries(obj: dict[Any, Any]) -> dict[str, Any]:
    for key in obj:
        if type(key) is not str or not is_unicode(key):
            raise Misfit(f"a context has keys of text, not {key_step(key)}")
    return obj


def _shown(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _refusal(cls: type[Any]) -> str:
    if hasattr(cls, "__await__"):
        return f"cannot store an instance of {_shown(cls)}: await it, and return what comes of it"
    if class_shape(cls) is not None or issubclass(cls, Exception):
        return f"cannot store an instance of {_shown(cls)}: annotate what returns or holds it, or call register_type"
    base = next((base for base in cls.__mro__ if base in BUILTIN_TYPES), None)
    if base is not None:
        return f"cannot store an instance of {_shown(cls)}: make it a plain {base.__name__}, or call register_type"
    return (
        f"cannot store an instance of {_shown(cls)}: return a dataclass, a pydantic model, a NamedTuple, an enum or "
        "plain data instead, or call register_type"
    )
