"""Stand-ins: in the place of an exception whose class may not be built, caught where that was caught."""

from __future__ import annotations

from abc import ABCMeta
from collections.abc import Iterable
from contextlib import suppress
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any, Final, cast
from weakref import WeakValueDictionary

from pydantic_core import ValidationError

from flujo_async.errors import RecordedError

OWN: Final = ("type_name", "message", "traceback", "bases")
"""What a ``RecordedError`` has."""

_METACLASSES: Final = (type, ABCMeta)
"""Those that make a class without code of the user's."""


class _Own:
    """An attribute that is the instance's own, whatever another base has under its name."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, error: Any, owner: Any = None) -> Any:
        return self if error is None else error.__dict__[self._name]

    def __set__(self, error: Any, value: Any) -> None:
        error.__dict__[self._name] = value


class StandIn(RecordedError):
    """Stands before the known classes among the bases of a class, so that nothing of theirs shows, or runs."""

    type_name: Any = _Own()
    message: Any = _Own()
    traceback: Any = _Own()
    bases: Any = _Own()
    args: Any = vars(BaseException)["args"]

    __eq__ = object.__eq__
    __hash__ = object.__hash__
    __str__ = BaseException.__str__
    __repr__ = BaseException.__repr__
    __getattribute__ = BaseException.__getattribute__
    __setattr__ = BaseException.__setattr__
    __delattr__ = BaseException.__delattr__
    __reduce_ex__ = object.__reduce_ex__

    def __reduce__(self) -> tuple[Any, ...]:
        """Tell of the known classes instead of a class that no module has."""
        is_group = isinstance(self, ExceptionGroup)
        members = (self.message, _MEMBERS.__get__(self)) if is_group else ()
        native: dict[str, Any] = {}
        for name in native_names(type(self)):
            with suppress(Exception):  # one that is not set
                native[name] = getattr(self, name)
        return _made_again, (type(self).__bases__[1:], members, self.args, native, vars(self))

    def __init_subclass__(cls) -> None:
        """Ask no other base: one may keep a list of its subclasses."""


_MEMBERS: Final[Any] = vars(BaseExceptionGroup)["exceptions"]

_OBJ: Final = vars(AttributeError)["obj"]
"""What lacked the attribute may hold the exception itself, and as much else; pickles leave it out as well."""

_WITHOUT_ATTRIBUTES: Final = (BaseException, BaseExceptionGroup, ValidationError, StandIn, object)
"""What these have lies elsewhere in a record, and in a pickle."""


def native_names(cls: type) -> list[str]:
    """Return the attributes that live in the C structure or in slots, outside ``__dict__`` and ``args``."""
    bases = [base for base in cls.__mro__ if base not in _WITHOUT_ATTRIBUTES]
    return [name for base in bases for name, item in vars(base).items() if _is_native(name, item)]


def _is_native(name: str, item: object) -> bool:
    is_slot = isinstance(item, (MemberDescriptorType, GetSetDescriptorType)) and not name.startswith("__")
    return is_slot and item is not _OBJ


def new(cls: type[Exception], *arguments: Any) -> Exception:
    """Return an instance to be filled.

    The builtin base that gives it its layout is asked, so that a ``__new__`` of the user's does not run either.

    Raises:
        TypeError: it is of an extension module that makes its instances itself.
    """
    native: Any = cls
    while native.__module__ != "builtins":
        native = native.__base__
    return cast("Exception", native.__new__(cls, *arguments))


def _made_again(
    known: Iterable[type[Exception]], members: Any, args: Any, native: dict[str, Any], own: dict[str, Any]
) -> Exception:
    error = new(stand_in_class(known), *members)
    error.args = args
    for name, value in native.items():
        if value is not None:
            object.__setattr__(error, name, value)
    error.__dict__.update(own)
    return error


_MADE: Final[WeakValueDictionary[tuple[type, ...], type[StandIn]]] = WeakValueDictionary()


def stand_in_class(known: Iterable[type[Exception]]) -> type[RecordedError]:
    """Return a ``RecordedError`` that is also what these classes are, the same for the same ones.

    Args:
        known: bases of a class, nearest first. Where they cannot be combined, it is the bare ``RecordedError``.
    """
    usable = dict.fromkeys(cls for cls in known if type(cls) in _METACLASSES)
    candidates: tuple[type, ...] = (StandIn, *usable)
    nearest = tuple(cls for cls in candidates if not any(_is_below(other, cls) for other in candidates))
    if len(nearest) == 1:
        return RecordedError
    made = _MADE.get(nearest)
    if made is None:
        names = {"__module__": RecordedError.__module__, "__qualname__": RecordedError.__qualname__}
        try:
            made = _MADE[nearest] = cast("type[StandIn]", type(RecordedError.__name__, nearest, names))
        except TypeError:  # of classes that the log tells of together, and that have come apart since
            return RecordedError
    return made


def _is_below(other: type, cls: type) -> bool:
    return other is not cls and cls in other.__mro__
