"""Exceptions that a test has no names for, as if libraries raised them: by name, what raises them."""

import errno
import json
from collections.abc import Callable
from types import ModuleType

from pydantic import BaseModel, TypeAdapter, field_validator

nets = ModuleType("nets")
"""A library that is used as ``nets.ConnectError``, and that has ``nets.inner.Late``."""

exec(  # so that its classes say that they are its own
    """
class TransportError(Exception): pass
class NetworkError(TransportError): pass
class ConnectError(NetworkError): pass
class ReadError(NetworkError): pass
""",
    vars(nets),
)
nets.inner = ModuleType("nets.inner")  # type: ignore[attr-defined]
exec("class Late(TimeoutError): pass\nclass VeryLate(Late): pass", vars(nets.inner))


class Refused(Exception):
    """The test has a name for this one."""

    def __init__(self, code: int) -> None:
        super().__init__(f"refused with {code}")
        self.code = code


class RefusedForGood(Refused):
    """Not for this one."""


class Reset(ConnectionResetError):
    """Has an ``errno``."""


class NoSuchKey(KeyError):
    """Shows its argument as ``KeyError`` does."""


class Both(NoSuchKey, OSError):
    """Has two builtin bases, one of which brings its own layout."""


class Strange(RefusedForGood, ValueError):
    """Derives from a class that is known, and from one that is everywhere."""


class Batch(ExceptionGroup):
    """A group of a library's own."""


class Alone(Exception):
    """Nothing but ``Exception`` catches it."""


class Answer(BaseModel):
    """What a model should have said."""

    score: int
    words: list[str]

    @field_validator("words")
    @classmethod
    def _has_some(cls, words: list[str]) -> list[str]:
        if not words:
            raise ValueError("no words")
        return words


def _throw(make: Callable[[], Exception]) -> Callable[[], None]:
    def throw() -> None:
        raise make()

    return throw


FAILURES: dict[str, Callable[[], object]] = {
    "json": lambda: json.loads("{"),
    "refused": _throw(lambda: Refused(3)),
    "refused for good": _throw(lambda: RefusedForGood(4)),
    "connect": _throw(lambda: nets.ConnectError("no")),
    "read": _throw(lambda: nets.ReadError("no")),
    "very late": _throw(lambda: nets.inner.VeryLate("no")),
    "reset": _throw(lambda: Reset(errno.ECONNRESET, "reset")),
    "key": _throw(lambda: NoSuchKey("tea")),
    "both": _throw(lambda: Both(errno.ENOENT, "no tea")),
    "strange": _throw(lambda: Strange(5)),
    "alone": _throw(lambda: Alone("no")),
    "validation": lambda: Answer.model_validate({"score": "x", "words": []}),
    "validation of an object": lambda: TypeAdapter(int).validate_python(object()),
    "group": _throw(lambda: ExceptionGroup("g", [RefusedForGood(6), nets.ReadError("no"), Alone("no")])),
    "batch": _throw(lambda: Batch("b", [json.JSONDecodeError("bad", "{", 1), ExceptionGroup("in", [NoSuchKey("x")])])),
    "python": lambda: 1 / 0,
}
