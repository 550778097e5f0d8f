"""Identifiers that users choose."""

from __future__ import annotations

from flujo_async._model.text import is_unicode
from flujo_async.errors import InvalidArgument

MAX_RUN_ID_LENGTH = 512


def check_run_id(run_id: str) -> str:
    """Return ``run_id`` if it can name a run.

    Raises:
        InvalidArgument: it is not a string of 1 to 512 characters, or holds NUL or a lone surrogate.
    """
    if not isinstance(run_id, str):  # pyright: ignore[reportUnnecessaryIsInstance] -- users without a type checker
        raise InvalidArgument(f"a run_id is a string, not {type(run_id).__name__}")
    if not 1 <= len(run_id) <= MAX_RUN_ID_LENGTH:
        raise InvalidArgument(f"a run_id has 1 to {MAX_RUN_ID_LENGTH} characters, this one has {len(run_id)}")
    if "\0" in run_id or not is_unicode(run_id):
        raise InvalidArgument(f"a run_id may not hold NUL or a lone surrogate: {run_id!r}")
    return run_id
