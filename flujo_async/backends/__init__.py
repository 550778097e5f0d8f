"""The stores that come with the package."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from flujo_async.errors import InvalidArgument

if TYPE_CHECKING:
    from flujo_async.abc.backend import StateBackend


def backend_from_url(url: str) -> StateBackend:
    """Return the store that a URL names; nothing is opened or created yet.

    ``memory://`` · ``file:///relative/directory`` · ``file:////absolute/directory`` ·
    ``sqlite:///relative.db`` · ``sqlite:////absolute.db``

    Raises:
        InvalidArgument: the scheme is unknown, or what follows it is not as above.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in _OPENERS:
        raise InvalidArgument(f"{url!r} is no URL of a store; there are {_FORMS}")
    return _OPENERS[scheme](url, rest)


def _memory(url: str, rest: str) -> StateBackend:
    from flujo_async.backends.memory import InMemoryBackend

    if rest:
        raise InvalidArgument(f"{url!r}: nothing follows memory://")
    return InMemoryBackend()


def _file(url: str, rest: str) -> StateBackend:
    path = _path(url, rest)
    from flujo_async.backends.file import FileBackend

    return FileBackend(path)


def _sqlite(url: str, rest: str) -> StateBackend:
    path = _path(url, rest)
    from flujo_async.backends.sqlite import SQLiteBackend

    return SQLiteBackend(path)


def _path(url: str, rest: str) -> str:
    path = rest.removeprefix("/")
    if not rest.startswith("/") or not path:
        raise InvalidArgument(f"{url!r} names no file: three slashes before a relative path, four before an absolute")
    return path


_OPENERS: dict[str, Callable[[str, str], StateBackend]] = {"memory": _memory, "file": _file, "sqlite": _sqlite}
_FORMS = "memory://, file:///directory and sqlite:///file.db"
