"""The connections that read, by themselves."""

from __future__ import annotations

import sqlite3

import pytest

from flujo_async.backends.sqlite_readers import Readers
from flujo_async.errors import BackendError


def refuse() -> sqlite3.Connection:
    raise sqlite3.OperationalError("unable to open database file")


async def test_a_connection_that_cannot_be_opened_has_ended_when_the_readers_stop() -> None:
    for _ in range(200):  # its thread may be quick enough by chance
        readers = Readers(refuse, lambda error: BackendError(str(error)))
        with pytest.raises(BackendError, match="unable to open"):
            await readers.fetch("SELECT 1", {})
        await readers.stop()  # a thread that has not ended fails the test, by what it raises
