"""Messages between a runtime and its child processes: JSON, behind its length."""

from __future__ import annotations

from typing import IO, Final, cast

from flujo_async._codec.tree import dumps, loads
from flujo_async._model.tree import JsonObject

_LENGTH: Final = 8


def frame(message: JsonObject) -> bytes:
    """Return a message as it is sent."""
    data = dumps(dict(message))
    return len(data).to_bytes(_LENGTH, "big") + data


def send(stream: IO[bytes], data: bytes) -> None:
    """Send the bytes of ``frame``."""
    stream.write(data)
    stream.flush()


def receive(stream: IO[bytes]) -> JsonObject:
    """Return the next message.

    Raises:
        EOFError: the other side is gone.
    """
    length = int.from_bytes(_read(stream, _LENGTH), "big")
    return cast("JsonObject", loads(_read(stream, length)))


def _read(stream: IO[bytes], length: int) -> bytes:
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return data
