"""What is kept of an exception, and the exception that comes of it.

A record is ``{type, bases, message, args, attributes, notes, traceback, cause, members}``, without what is empty. It is
built back without running an ``__init__``: that of many exceptions takes other arguments than those in ``args``. Where
the class is not known, the bases tell what else would have caught the exception.
"""

from __future__ import annotations

import builtins
import traceback
from contextlib import suppress
from typing import Any, Final, cast

from pydantic_core import ValidationError

from flujo_async import errors
from flujo_async._codec.class_shapes import stored_name
from flujo_async._codec.misfit import Misfit
from flujo_async._codec.shape import Coder, check_names, get_fields, put_fields, table
from flujo_async._codec.stand_ins import OWN, StandIn, native_names, new, stand_in_class
from flujo_async._codec.tree import PAYLOAD, TAG
from flujo_async._codec.validation_errors import put_validation_error, validation_error
from flujo_async._model.text import is_unicode
from flujo_async._model.tree import Json

MAX_TRACEBACK = 20_000
"""Characters kept of a traceback: its end, where the cause is."""

MAX_CHAIN = 16
"""How many causes of causes are kept."""

_ARGS: Final[Any] = vars(BaseException)["args"]
"""Sets the arguments also where a class has a property of that name; its ``__setattr__`` is not asked either."""

_GROUP_MESSAGE: Final[Any] = vars(BaseExceptionGroup)["message"]

_SLOTS = frozenset({"type", "bases", "message", "args", "attributes", "notes", "traceback", "cause", "members"})


def _native_errors() -> dict[str, type[Exception]]:
    found = [*vars(builtins).values(), *vars(errors).values(), ValidationError]
    return {stored_name(cls): cls for cls in found if isinstance(cls, type) and issubclass(cls, Exception)}


NATIVE_ERRORS = _native_errors()
"""The exceptions that need no annotation: Python's own, this package's, and that of pydantic."""


class ErrorShape:
    """Exceptions as values: nothing of theirs may be lost, but they need no traceback."""

    tag = "error"

    def encode(self, value: Any, coder: Coder, depth: int) -> Json:
        """Return the tagged record."""
        return {TAG: self.tag, PAYLOAD: Recorder(coder, strict=True).record(value, depth + 1)}

    def decode(self, tree: dict[str, Json], coder: Coder) -> Any:
        """Return the exception, or a ``RecordedError``."""
        check_names(tree, {TAG, PAYLOAD})
        return rebuild(tree[PAYLOAD], coder)


ERROR_SHAPE = ErrorShape()


class Recorder:
    """Makes the record of one exception and of those that it came from.

    Args:
        coder: stores the arguments and attributes.
        strict: what cannot be stored raises ``Misfit``; otherwise it is left out, and tracebacks are kept.
    """

    def __init__(self, coder: Coder, *, strict: bool) -> None:
        self._coder = coder
        self._strict = strict
        self._seen: set[int] = set()

    def record(self, error: BaseException, depth: int, chain: int = 0) -> dict[str, Json]:
        """Return the record; where an exception is met again, it is told without what it came from."""
        put = self._coder.put
        told = _recorded(error)  # read from another record: the new one tells what that told
        name, message = (told.type_name, told.message) if told else (stored_name(type(error)), message_of(error))
        tree = {"type": put(name, depth), "message": put(message, depth)}
        if bases := told.bases if told else _bases_of(type(error)):
            tree["bases"] = put(list(bases), depth)
        if told and told.traceback:
            tree["traceback"] = put(told.traceback, depth)
        elif not self._strict:
            tree["traceback"] = put(_traceback_text(error), depth)
        tree |= self._state(error, depth + 1)
        if id(error) in self._seen or chain > MAX_CHAIN:
            return tree
        self._seen.add(id(error))
        return tree | self._origin(error, depth + 1, chain + 1)

    def _state(self, error: BaseException, depth: int) -> dict[str, Json]:
        tree = self._args(error, depth)
        if attributes := self._attributes(error, depth + 1):
            tree["attributes"] = attributes
        if notes := _notes_of(error):
            tree |= self._storable({"notes": notes}, depth)
        return tree

    def _args(self, error: BaseException, depth: int) -> dict[str, Json]:
        if isinstance(error, ValidationError):
            return {"args": put_validation_error(error, self._coder, depth, strict=self._strict)}
        if isinstance(error, BaseExceptionGroup):
            # Its second argument are its members, which have records of their own.
            return self._storable({"args": [_GROUP_MESSAGE.__get__(error)]}, depth)
        return {} if _recorded(error) else self._storable({"args": list(error.args)}, depth)

    def _attributes(self, error: BaseException, depth: int) -> dict[str, Json]:
        without = OWN if _recorded(error) else ()
        native = {name: getattr(error, name, None) for name in native_names(type(error)) if name not in without}
        own = {name: item for name, item in vars(error).items() if name not in without and _is_attribute(name)}
        # What the interpreter attaches, such as `AttributeError.obj`, is no reason to refuse the exception.
        kept = _put_storable({name: item for name, item in native.items() if item is not None}, self._coder, depth)
        return kept | self._storable(own, depth)

    def _storable(self, values: dict[str, Any], depth: int) -> dict[str, Json]:
        if self._strict:
            return put_fields(values.items(), self._coder, depth)
        return _put_storable(values, self._coder, depth)

    def _origin(self, error: BaseException, depth: int, chain: int) -> dict[str, Json]:
        tree: dict[str, Json] = {}
        cause = error.__context__ if error.__cause__ is None and not error.__suppress_context__ else error.__cause__
        if cause is not None:
            tree["cause"] = self.record(cause, depth, chain)
        if isinstance(error, BaseExceptionGroup):
            group = cast("BaseExceptionGroup[BaseException]", error)
            tree["members"] = [self._member(member, depth + 1, chain) for member in group.exceptions]
        return tree

    def _member(self, error: BaseException, depth: int, chain: int) -> Json:
        is_known = _recorded(error) or self._coder.error_class(stored_name(type(error))) is type(error)
        if self._strict and not is_known:
            raise Misfit(f"the group has a {stored_name(type(error))}, which is neither annotated nor registered")
        return self.record(error, depth, chain)


def message_of(error: BaseException) -> str:
    """Return ``str(error)``, or a stand-in where the class cannot say it."""
    try:
        return str.__str__(str(error))  # twice, because a class may return a subclass of `str`
    except Exception:  # whatever a stranger's `__str__` raises, the error itself must be told
        return f"<{type(error).__qualname__} without a message: its __str__ failed>"


def rebuild(tree: Json, coder: Coder) -> Exception:
    """Return the exception of a record, or a ``RecordedError`` where its class is not known here.

    Raises:
        Misfit: the record is malformed.
    """
    if type(tree) is not dict:
        raise Misfit("the record of an exception is not a dict")
    check_names(tree, _SLOTS)
    try:
        return _rebuild(tree, coder)
    except Misfit:
        raise
    except Exception as error:  # attributes of a wrong type, members that are no exceptions, …
        raise Misfit(f"the record of an exception is malformed ({type(error).__name__})") from error


def _rebuild(tree: dict[str, Json], coder: Coder) -> Exception:
    error = _known_error(tree, coder) or _stand_in(tree, coder)
    for note in _get_list(tree, "notes", coder):
        if type(note) is not str:
            raise Misfit("a note of a recorded exception is not text")
        add_note(error, note)
    if "cause" in tree:
        object.__setattr__(error, "__cause__", rebuild(tree["cause"], coder))
    return error


def add_note(error: BaseException, note: str) -> None:
    """Add a note to an exception, also where its class lets nobody set an attribute."""
    error.__dict__.setdefault("__notes__", []).append(note)


def repr_of(error: BaseException) -> str:
    """Return ``repr(error)``, or what can be told of an exception that has lost what its class shows."""
    try:
        return repr(error)
    except Exception:  # as in `message_of`
        return f"{type(error).__qualname__}: {message_of(error)}"


class _Shown(str):
    """Text that is its own ``repr``, for exceptions such as ``KeyError`` whose text is the ``repr`` of an argument."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _known_error(tree: dict[str, Json], coder: Coder) -> Exception | None:
    cls = coder.error_class(get_text(tree, "type", coder))
    error = None if cls is None else _bare(cls, tree, coder)
    if error is not None:
        _set_attributes(error, get_fields(table(tree, "attributes"), coder))
        _set_args(error, tree, coder)
    return error


def _stand_in(tree: dict[str, Json], coder: Coder) -> Exception:
    """Return the ``RecordedError`` of an exception whose class may not be built; with what can be read of it."""
    bases = tuple(_get_list(tree, "bases", coder))
    text = get_text(tree, "traceback", coder) if "traceback" in tree else ""
    told = errors.RecordedError(get_text(tree, "type", coder), get_text(tree, "message", coder), text, bases)
    known = filter(None, map(coder.error_class, bases))
    error = _bare(stand_in_class(known), tree, coder) or told
    _set_attributes(error, _get_readable(table(tree, "attributes"), coder))
    _ARGS.__set__(error, told.args)
    error.__dict__.update({name: getattr(told, name) for name in OWN})
    return error


def _bare(cls: type[Exception], tree: dict[str, Json], coder: Coder) -> Exception | None:
    """Return an instance to be filled, if one can be made."""
    if cls is ValidationError:
        return validation_error(_get_list(tree, "args", coder))
    arguments = _group_arguments(tree, coder) if ExceptionGroup in cls.__mro__ else ()
    try:
        return new(cls, *arguments)
    except TypeError:  # of an extension module that makes its instances itself
        return None


def _group_arguments(tree: dict[str, Json], coder: Coder) -> tuple[Any, ...]:
    """Return what a group is made of; nothing if that was cut off by ``MAX_CHAIN``: then none can be made."""
    trees = tree.get("members", [])
    if type(trees) is not list:
        raise Misfit("the members of a recorded group are not a list")
    message = next(iter(_get_list(tree, "args", coder)), "")
    return (message, [rebuild(member, coder) for member in trees]) if trees else ()


def _set_attributes(error: Exception, values: dict[str, Any]) -> None:
    native = native_names(type(error))
    for name, value in values.items():
        if name in native:
            object.__setattr__(error, name, value)
        else:
            error.__dict__[name] = value


def _get_readable(trees: dict[str, Json], coder: Coder) -> dict[str, Any]:
    """Return the values of classes that are known."""
    values: dict[str, Any] = {}
    for name, tree in trees.items():
        with suppress(Misfit):
            values[name] = coder.get(tree)
    return values


def _set_args(error: Exception, tree: dict[str, Json], coder: Coder) -> None:
    """Give the recorded arguments; where they could not be stored, one with which the message stays the same."""
    if isinstance(error, ExceptionGroup | ValidationError):
        return  # it was made of them
    if "args" in tree:
        _ARGS.__set__(error, tuple(_get_list(tree, "args", coder)))
        return
    message = get_text(tree, "message", coder)
    _ARGS.__set__(error, (message,))
    if message_of(error) != message:
        _ARGS.__set__(error, (_Shown(message),))


def get_text(tree: Json, name: str, coder: Coder) -> str:
    """Return a text of a record, such as its ``message``.

    Raises:
        Misfit: the record has no such text.
    """
    text = coder.get(tree.get(name)) if type(tree) is dict else None
    if type(text) is not str:
        raise Misfit(f"a recorded exception without a text for {name!r}")
    return text


def _get_list(tree: dict[str, Json], name: str, coder: Coder) -> list[Any]:
    items: list[Any] = coder.get(tree.get(name, []))
    if type(items) is not list:
        raise Misfit(f"{name!r} of a recorded exception is not a list")
    return items


def _put_storable(values: dict[str, Any], coder: Coder, depth: int) -> dict[str, Json]:
    """Return the trees of the values that can be stored."""
    tree: dict[str, Json] = {}
    for name, value in values.items():
        with suppress(Misfit):
            tree[name] = coder.put(value, depth)
    return tree


def _bases_of(cls: type[BaseException]) -> list[str]:
    """Return the names of the exceptions that a class derives from, nearest first; nothing of one known everywhere."""
    if NATIVE_ERRORS.get(stored_name(cls)) is cls:
        return []
    return [stored_name(base) for base in cls.__mro__[1:] if issubclass(base, Exception) and base is not Exception]


def _recorded(error: BaseException) -> errors.RecordedError | None:
    """Return the exception if it stands for another one."""
    if type(error) is not errors.RecordedError and not isinstance(error, StandIn):
        return None
    is_whole = all(type(vars(error).get(name)) is str for name in ("type_name", "message", "traceback"))
    return error if is_whole else None  # anybody may make one, and set it to anything


def _is_attribute(name: str) -> bool:
    return not name.startswith("__") and is_unicode(name)


def _notes_of(error: BaseException) -> list[str]:
    notes: list[Any] = getattr(error, "__notes__", [])  # anybody may set it to anything
    return [note for note in notes if type(note) is str] if type(notes) is list else []


def _traceback_text(error: BaseException) -> str:
    try:
        # Without its causes: they have records of their own.
        lines = traceback.TracebackException(type(error), error, error.__traceback__, compact=True).format(chain=False)
        return "".join(lines)[-MAX_TRACEBACK:]
    except Exception:  # a stranger's `__str__` or `__repr__`; a missing traceback is better than a lost error
        return ""
