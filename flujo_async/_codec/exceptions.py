"""Exceptions as they are recorded when a step or a run fails."""

from __future__ import annotations

from typing import Final

from flujo_async._codec.class_shapes import stored_name
from flujo_async._codec.error_record import Recorder, get_text, message_of, rebuild
from flujo_async._codec.misfit import Misfit, located
from flujo_async._codec.values import Codec
from flujo_async._model.tree import Json

_NO_DEFINITIONS: Final = Codec.lenient()


def encode_error(codec: Codec, exc: BaseException) -> dict[str, Json]:
    """Return the record of an exception: its ``type``, ``message`` and whatever else of it can be stored.

    Never fails: a failure must always be told. ``args``, attributes and notes that cannot be stored are left out.
    """
    try:
        return Recorder(codec, strict=False).record(exc, 0)
    except Exception:  # a class that breaks even on being looked at
        return {"type": stored_name(type(exc)), "message": message_of(exc).encode("ascii", "backslashreplace").decode()}


def decode_error(codec: Codec, tree: Json) -> Exception:
    """Return the recorded exception, ready to be raised; its ``__init__`` does not run.

    One of a class that is neither Python's, nor in ``flujo_async.errors``, nor registered, nor reachable from the
    annotations of the codec becomes a ``RecordedError`` that is also an instance of the nearest known bases, and so
    does one that is no ``Exception``.

    Raises:
        SerializationError: the record is malformed.
    """
    try:
        return rebuild(tree, codec)
    except (Misfit, RecursionError) as trouble:
        raise located(trouble, "error") from trouble.__cause__


def describe_error(tree: Json) -> str:
    """Return what a traceback would end with: the name of the class, and the message if there is one.

    Heads and instruments hold it as text, so what UTF-8 cannot hold of it is escaped.

    Raises:
        SerializationError: the record is malformed.
    """
    try:
        name = get_text(tree, "type", _NO_DEFINITIONS).rpartition(":")[2]
        message = get_text(tree, "message", _NO_DEFINITIONS)
    except (Misfit, RecursionError) as trouble:
        raise located(trouble, "error") from trouble.__cause__
    return (f"{name}: {message}" if message else name).encode("utf-8", "backslashreplace").decode()
