"""Where a store is."""

from __future__ import annotations

import os
from pathlib import Path

from flujo_async.errors import InvalidArgument


def store_path(path: str | os.PathLike[str], what: str) -> Path:
    """Return where a store is, whatever the working directory will be later.

    Args:
        path: as the user gives it.
        what: what it names.

    Raises:
        InvalidArgument: it names nothing, or is a URL.
    """
    text = os.fspath(path)
    if "\0" in text:
        raise InvalidArgument(f"{path!r} names no {what}")
    if "://" in text:
        raise InvalidArgument(f"{path!r} is a URL, which goes to Flujo(state_backend=…); here goes a path")
    return Path(path).absolute()
