"""The typed context of a run: its encoded form, the copies of branches, and their merge."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields as dataclass_fields
from dataclasses import is_dataclass
from typing import Annotated, Any, NotRequired, Required, cast, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, PydanticUserError, TypeAdapter
from typing_extensions import TypedDict, is_typeddict

from flujo_async._codec.values import Codec
from flujo_async._log.delta import Fields, diff, shorten
from flujo_async._log.keys import MAIN_SCOPE
from flujo_async._model.facts import Patch, StepCompleted
from flujo_async._model.tree import Json, JsonObject
from flujo_async._runtime.misread import reading
from flujo_async._runtime.plain_lists import NO_LISTS, PlainLists
from flujo_async.errors import ContextConflict, DefinitionError, InvalidArgument, SerializationError
from flujo_async.reducers import Reducer


class Scope:
    """The context that a sequence of steps works on: the run's, or the copy of a branch or an item.

    Attributes:
        path: the key of the branch or item; ``""`` for the run's own.
        lists: what is known of lists in it.
    """

    __slots__ = ("_fields", "lists", "path")

    def __init__(self, path: str, fields: JsonObject, lists: PlainLists = NO_LISTS) -> None:
        self.path: str = path
        self.lists: PlainLists = lists
        self._fields = Fields(fields)

    @property
    def fields(self) -> JsonObject:
        """The encoded fields now. Never changed in place: a branch starts with its parent's."""
        return self._fields.tree

    @property
    def latest(self) -> JsonObject:
        """The fields that a step begins with: of what it changes in them, it is told to ``take_in``."""
        return self.fields

    def take_in(self, before: JsonObject, patch: Patch, key: str) -> Patch:
        """Take in what the step at ``key`` changed that had found ``before``; return that as a change of what is here.

        Raises:
            ContextConflict: it contradicts what others changed meanwhile.
        """
        short = shorten(self.fields, patch)
        self._advance(short)
        return short

    def change(self, patch: Patch) -> None:
        """Take in what a merge or a migration changed."""
        self._fields.change(patch)

    def recall(self, completed: StepCompleted) -> None:
        """Take in what is recorded of a step."""
        self.change(completed.patch)

    def become(self, other: Scope) -> None:
        """Be as another one is now."""
        self._fields, self.lists = Fields(other.fields), other.lists

    def _advance(self, patch: Patch) -> None:
        """Take in what has just been changed here."""
        before = self.fields
        self._fields.change(patch)
        self.lists = self.lists.after(patch, before, self.fields)


class ContextType:
    """How contexts of one type are made, stored and merged."""

    def __init__(self, context_type: type[Any] | None, codec: Codec) -> None:
        self._type: type[Any] = dict if context_type is None else context_type
        self._class = _class_of(self._type)
        self._codec = codec
        self._reducers = _reducers(self._type)

    def first(self, context: Any) -> JsonObject:
        """Return the encoded fields of the context that a run starts with; ``None`` is the default context.

        Raises:
            InvalidArgument: it is not of the context type, or there is none and the type has no default.
        """
        if context is None:
            context = self._default()
        if type(context) is not self._class:
            raise InvalidArgument(f"context= is a {self._type.__name__}, not a {type(context).__name__}")
        return self.encode(context)

    def _default(self) -> Any:
        try:
            return self._class()
        except (TypeError, ValueError) as error:
            raise InvalidArgument(f"{self._type.__name__}() is no context by itself: pass context=") from error

    def updated(self, fields: JsonObject, changes: Mapping[str, Any]) -> JsonObject:
        """Return the encoded fields of a context of which some are changed.

        Raises:
            InvalidArgument: the context type has no such field, or the field takes no such value.
            SerializationError: a value cannot be stored.
        """
        if self._type is dict:
            return {**fields, **self.encode(dict(changes))}
        if unknown := sorted(changes.keys() - _settable(self._type, fields)):
            raise InvalidArgument(f"a {self._type.__name__} has no field {', '.join(unknown)}")
        validated = self._validated if hasattr(self._type, "__pydantic_validator__") else self._validated_one_by_one
        try:
            values = validated(fields, changes)
        except ValueError as error:
            raise InvalidArgument(f"this would be no {self._type.__name__}: {error}") from error
        return {**fields, **self.encode({name: values[name] for name in changes})}

    def migrated(self, fields: JsonObject, answer: object) -> JsonObject:
        """Return the encoded fields of a context that was of another type, after ``migrate`` has been asked.

        Args:
            fields: as they were.
            answer: what it has returned: the fields to change, the whole context, or ``None``.

        Raises:
            InvalidArgument: it has returned something else, or fields as in ``updated``.
            SerializationError: with that this would be no context, or a value cannot be stored.
        """
        if type(answer) is self._class and self._class is not dict:
            return self.encode(answer)
        if not isinstance(answer, Mapping | None):
            what = f"the fields to change, the whole {self._type.__name__}, or None"
            raise InvalidArgument(f"migrate= returns {what}, not a {type(answer).__name__}")
        try:
            after = self.updated(fields, cast("Mapping[str, Any] | None", answer) or {})
            self.decode(after)
        except SerializationError as error:
            advice = f"where {self._type.__name__} has other fields by now, let migrate= return a whole one"
            raise SerializationError(f"{error.reason}; {advice}", path=error.path) from error
        return after

    def _validated(self, fields: JsonObject, changes: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return all fields with the changes, which have passed the validators of the class."""
        context = self.decode(fields)
        now = {name: getattr(context, name) for name in _settable(self._type, fields) if hasattr(context, name)}
        made = TypeAdapter(self._type).validate_python({**now, **changes}, by_name=True)
        return self._codec.values_of(made)

    def _validated_one_by_one(self, fields: JsonObject, changes: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the changes as values of their types; nothing of the class runs, as when it is built from the log."""
        hints = get_type_hints(self._type, include_extras=True)
        update: Any = cast("Any", TypedDict)(self._type.__name__, {name: hints[name] for name in changes})
        update.__pydantic_config__ = ConfigDict(arbitrary_types_allowed=True)
        try:
            adapter = TypeAdapter[dict[str, Any]](update)
        except PydanticUserError:  # a type that pydantic knows nothing of, as `typing.TypedDict` before Python 3.12
            return changes
        return adapter.validate_python(dict(changes))

    def encode(self, context: Any) -> JsonObject:
        """Return the encoded fields of a context."""
        return self._codec.encode_fields(context)

    def decode(self, fields: JsonObject, lists: PlainLists | None = None) -> Any:
        """Return a fresh context; ``lists`` saves going through long ones."""
        given = None if lists is None else lists.copies(fields, fields)
        return self._codec.decode_fields(self._type, fields, given=given)

    def read(self, fields: JsonObject, lists: PlainLists) -> Any:
        """Return a fresh context from what a run has recorded.

        Raises:
            Misread: that does not fit its class.
        """
        with reading():
            return self.decode(fields, lists)

    def changes(self, before: JsonObject, context: Any, lists: PlainLists) -> Patch:
        """Return what makes the fields of ``context`` out of ``before``; of ``lists`` only what was added to them."""
        values = self._codec.values_of(context)
        known = before.keys() & values.keys()
        added = {name: lists.added(name, before[name], values[name], self._codec) for name in known}
        kept = {name for name, tail in added.items() if tail is not None}
        if not kept:
            return diff(before, self.encode(context))
        rest = self._codec.encode_fields({name: value for name, value in values.items() if name not in kept})
        patch = dict(diff({name: tree for name, tree in before.items() if name not in kept}, rest))
        patch.update({name: ["add", tail] for name, tail in added.items() if tail})
        return patch

    def refresh(self, context: Any, fields: JsonObject, names: Collection[str], lists: PlainLists) -> None:
        """Bring the named fields of a live context up to date, in place, whatever its class does where one is set.

        Raises:
            Misread: with them this would be no context.
        """
        given = {name: value for name, value in self._codec.values_of(context).items() if name not in names}
        given.update(lists.copies(fields, names))
        with reading():
            fresh = self._codec.decode_fields(self._type, fields, given=given)
        if is_dataclass(context):
            _refresh_attributes(context, fresh, names)
            return
        for held, now in zip(_parts(context), _parts(fresh), strict=True):
            for name in names:
                if name in now:
                    held[name] = now[name]
                else:
                    held.pop(name, None)

    def rebase(self, base: Scope, now: JsonObject, changes: Patch) -> Patch:
        """Return changes that were made to ``base`` as changes of ``now``.

        Raises:
            ContextConflict: a field has changed meanwhile that names no reducer.
        """
        meanwhile = diff(base.fields, now)
        return {
            name: self.reduce(name, base, meanwhile[name], change, ("a step", "another one at the same time"))
            if name in meanwhile
            else change
            for name, change in changes.items()
        }

    def put_before(self, base: Scope, now: JsonObject, changes: Patch) -> Patch:
        """Return changes that were made to ``base`` as changes of ``now``, to which others led that come after them.

        Raises:
            ContextConflict: a reducer cannot make one value of both.
        """
        later = diff(base.fields, now)
        return {
            name: self.reduce(name, base, change, later[name], ("a step", "the code")) if name in later else change
            for name, change in changes.items()
            if name not in later or name in self._reducers
        }

    def merge(self, base: Scope, branches: Sequence[Scope]) -> Patch:
        """Return what the branches changed together, in their order.

        Raises:
            ContextConflict: two changed one field that names no reducer.
        """
        merged: dict[str, Json] = {}
        reduced: dict[str, Any] = {}
        writers: dict[str, Scope] = {}
        for scope in branches:
            if scope.fields is base.fields:
                continue
            for name, change in diff(base.fields, scope.fields).items():
                if (other := writers.get(name)) is not None:
                    ours = reduced[name] if name in reduced else self._value(other, name)
                    theirs, paths = self._value(scope, name), (other.path, scope.path)
                    reduced[name] = self._reduce(name, base, ours, theirs, paths)
                merged[name] = change
                writers[name] = scope
        for name, value in reduced.items():
            merged[name] = self._set(name, value)
        return merged

    def reduce(self, name: str, base: Scope, ours: Json, theirs: Json, paths: tuple[str, str]) -> Json:
        """Return what two changes of one field, made on copies of ``base``, come to; ``paths`` names who made them.

        Raises:
            ContextConflict: the field names no reducer, or one that cannot make one value of them.
        """
        return self._set(name, self._reduce(name, base, self._changed(name, ours), self._changed(name, theirs), paths))

    def _reduce(self, name: str, base: Scope, ours: Any, theirs: Any, paths: tuple[str, str]) -> Any:
        reducer = self._reducers.get(name)
        if reducer is None:
            raise ContextConflict(
                f"{paths[0]} and {paths[1]} both changed the context's field {name!r}; let it name a reducer: "
                f"{name}: Annotated[…, append]"
            )
        before = self._value(base, name)
        try:
            return reducer(before, ours, theirs)
        except Exception as error:
            both = f"{paths[0]} and {paths[1]}"
            message = f"{both} both changed the context's field {name!r}, and its reducer failed: {error!r}"
            raise ContextConflict(message) from error

    def _changed(self, name: str, change: Json) -> Any:
        match change:
            case ["set", tree]:
                return self._read(name, tree)
            case _:
                return None

    def _value(self, scope: Scope, name: str) -> Any:
        """Return a copy of what a field has; ``None`` is that of one that is not there."""
        known = scope.lists.copies(scope.fields, (name,))
        return known[name] if known else self._read(name, scope.fields.get(name))

    def _read(self, name: str, tree: Json) -> Any:
        with reading():
            return self._codec.decode(tree, at=f"context.{name}")

    def _set(self, name: str, value: Any) -> Json:
        return ["set", self._codec.encode(value, at=f"context.{name}")]


def _settable(context_type: Any, fields: Iterable[str]) -> set[str]:
    """Return the names of the fields that a context of this type can have; a model may have more than it declares."""
    if issubclass(context_type, BaseModel):
        return {*context_type.model_fields, *fields}.difference(context_type.__private_attributes__)
    if is_dataclass(context_type):
        return {field.name for field in dataclass_fields(context_type)}
    return {*get_type_hints(context_type)}


def _refresh_attributes(context: object, fresh: object, names: Iterable[str]) -> None:
    for name in names:
        if hasattr(fresh, name):
            object.__setattr__(context, name, getattr(fresh, name))
        elif hasattr(context, name):
            object.__delattr__(context, name)


def _parts(context: Any) -> list[dict[str, Any]]:
    """Return what a dictionary or a model has its fields in."""
    if not isinstance(context, BaseModel):
        return [context]
    parts = [vars(context), context.__pydantic_extra__, context.__pydantic_private__]
    return [part for part in parts if part is not None]


def _class_of(context_type: object) -> type[Any]:
    if is_typeddict(context_type):
        return dict
    if isinstance(context_type, type):  # an instance of a dataclass is no context, nor is one of a model
        cls: type[Any] = context_type
        if cls is dict or is_dataclass(cls) or issubclass(cls, BaseModel):
            return cls
    raise DefinitionError(f"context_type= is a pydantic model, a dataclass or a TypedDict, not {context_type!r}")


def main_scope(fields: JsonObject) -> Scope:
    """Return the scope of a run's own context."""
    return Scope(MAIN_SCOPE, fields)


def _reducers(context_type: type[Any]) -> Mapping[str, Reducer]:
    hints = get_type_hints(context_type, include_extras=True)
    found = {name: _reducer(annotation) for name, annotation in hints.items()}
    return {name: reducer for name, reducer in found.items() if reducer is not None}


def _reducer(annotation: Any) -> Reducer | None:
    if get_origin(annotation) in (Required, NotRequired):
        (annotation,) = get_args(annotation)
    if get_origin(annotation) is not Annotated:
        return None
    functions = [item for item in get_args(annotation)[1:] if callable(item) and not isinstance(item, type)]
    return functions[0] if functions else None
