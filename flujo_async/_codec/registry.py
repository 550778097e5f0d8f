"""Classes that the user taught the codec to store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from flujo_async._codec.builtin_shapes import BUILTIN_TYPES
from flujo_async._codec.class_shapes import stored_name
from flujo_async._codec.misfit import Misfit
from flujo_async._codec.shape import Coder, check_names
from flujo_async._codec.tree import PAYLOAD, TAG
from flujo_async._model.text import is_unicode
from flujo_async._model.tree import Json
from flujo_async.errors import DefinitionError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RegisteredShape:
    """The shape of a registered class: what the user's functions make of an instance, and back."""

    cls: type
    name: str
    to_payload: Callable[[Any], Any]
    from_payload: Callable[[Any], Any]

    @property
    def tag(self) -> str:
        """The name, marked so that it is neither a builtin's nor a class's."""
        return f"@{self.name}"

    def encode(self, value: Any, coder: Coder, depth: int) -> Json:
        """Tag what the user's function returns."""
        return {TAG: self.tag, PAYLOAD: coder.put(self.to_payload(value), depth + 1)}

    def decode(self, tree: dict[str, Json], coder: Coder) -> Any:
        """Return the instance that the user's function makes."""
        check_names(tree, {TAG, PAYLOAD})
        value = self.from_payload(coder.get(tree[PAYLOAD]))
        if not isinstance(value, self.cls):
            raise Misfit(f"decode of the registered type {self.name!r} returned a {type(value).__qualname__}")
        return value

    def means_the_same(self, other: RegisteredShape) -> bool:
        """Tell whether two registrations are one: also when a module or a factory ran twice and made new lambdas."""
        return (self.cls, self.name, _code(self.to_payload), _code(self.from_payload)) == (
            other.cls,
            other.name,
            _code(other.to_payload),
            _code(other.from_payload),
        )


REGISTERED: dict[type, RegisteredShape] = {}
REGISTERED_TAGS: dict[str, RegisteredShape] = {}
REGISTERED_ERRORS: dict[str, type[Exception]] = {}


def register_type(cls: type[T], *, name: str, encode: Callable[[T], Any], decode: Callable[[Any], T]) -> None:
    """Teach the codec a class, for the whole process and for all its stores.

    Args:
        cls: exactly this class; a subclass is registered for itself. Goes before what its annotations would do.
        name: what stored values are known by; never change or reuse it.
        encode: returns something that can be stored, such as a ``dict`` or another registered type.
        decode: returns an instance from what ``encode`` returned. Old runs call it with what they stored.

    Raises:
        DefinitionError: the name belongs to another class, the class has another name or other functions, or it is a
            type that is stored already. To register the same once more is fine.

    Examples:
        >>> from ipaddress import IPv4Address
        >>> register_type(IPv4Address, name="ip", encode=str, decode=IPv4Address)
    """
    _check(cls, name)
    shape = RegisteredShape(cls, name, encode, decode)
    known = REGISTERED.get(cls)
    if known is None and shape.tag in REGISTERED_TAGS:
        raise DefinitionError(f"the name {name!r} is already registered for another class: choose another one")
    if known is not None and not known.means_the_same(shape):
        raise DefinitionError(f"{stored_name(cls)} is already registered, as {known.name!r}: register it only once")
    if known is None:
        _add(shape)


def _check(cls: object, name: object) -> None:
    if not isinstance(cls, type):
        raise DefinitionError(f"register_type needs a class, not {cls!r}")
    if cls in BUILTIN_TYPES:
        raise DefinitionError(f"{cls.__qualname__} can be stored already")
    if not isinstance(name, str) or not name or not is_unicode(name):
        raise DefinitionError(f"the name of a registered type must be a text, not {name!r}")


def _add(shape: RegisteredShape) -> None:
    REGISTERED[shape.cls] = REGISTERED_TAGS[shape.tag] = shape
    if issubclass(shape.cls, Exception):
        REGISTERED_ERRORS[stored_name(shape.cls)] = shape.cls


def _code(function: Callable[[Any], Any]) -> object:
    return getattr(function, "__code__", function)
