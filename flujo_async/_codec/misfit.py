"""What goes wrong on the way through a value, and where."""

from __future__ import annotations

from typing import Final

from flujo_async.errors import SerializationError

_LONGEST_KEY: Final = 60
_MOST_STEPS_SHOWN: Final = 30
_SHOWN: Final = frozenset({str, int, float, bool, bytes, type(None)})


class Misfit(Exception):
    """A part that does not fit. It never leaves the codec: ``located`` turns it into the public error.

    Each level that it passes on its way up adds its step of the path, so nobody keeps a path while all goes well.

    Attributes:
        reason: what is wrong and what to do.
        steps: the path, innermost step first.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.steps: list[str] = []


def located(trouble: Misfit | RecursionError, at: str) -> SerializationError:
    """Return the public error, its path starting with ``at``."""
    if isinstance(trouble, RecursionError):
        return SerializationError("nested too deep", path=at)
    steps = trouble.steps[::-1]
    if len(steps) > _MOST_STEPS_SHOWN:  # a value that is part of itself
        steps[_MOST_STEPS_SHOWN:] = ["…"]
    return SerializationError(trouble.reason, path=at + "".join(steps))


def key_step(key: object) -> str:
    """Return the step of a path that leads to a field or to the entry of a dict."""
    kind = type(key)
    if type(key) is str and key.isidentifier():
        return f".{key}"
    if kind in _SHOWN:
        text = repr(key)
        return f"[{text}]" if len(text) <= _LONGEST_KEY else f"[{text[:_LONGEST_KEY]}…]"
    return f"[<{kind.__qualname__}>]"


def index_step(index: int) -> str:
    """Return the step of a path that leads to a member of a list."""
    return f"[{index}]"
