"""System state on disk: one small file a key, in a directory beside the logs."""

from __future__ import annotations

import os
import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from flujo_async._codec.heads import dump_object, load_object
from flujo_async._codec.tree import check_format
from flujo_async.backends import file_lock
from flujo_async.backends.file_locked import opened_once
from flujo_async.backends.file_name import key_file_name
from flujo_async.errors import BackendError, SerializationError

SYSTEM = "system"
"""The name of the directory, beside the logs; no log has it."""

FORMAT = 1
_LOCK = ".lock"
_UNFINISHED = ".new"  # no key's file begins with a dot


class SystemStates:
    """The files of ``SYSTEM``, which is made with the first one. A file is replaced as a whole or not at all.

    Args:
        directory: where the logs are.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory / SYSTEM

    def set(self, key: str, value: dict[str, Any]) -> None:
        """Keep ``value`` under ``key``; durable when this returns."""
        data = dump_object({"format": FORMAT, "key": key, "value": value}) + b"\n"
        file_lock.make_directory(self._directory)
        with self._locked():
            file_lock.write_file(self._directory / _UNFINISHED, data)
            os.replace(self._directory / _UNFINISHED, self._directory / key_file_name(key))
            file_lock.sync_directory(self._directory)

    def get(self, key: str) -> dict[str, Any] | None:
        """Return what is kept under ``key``, if anything is.

        Raises:
            BackendError: the file is not what ``set`` wrote.
        """
        path = self._directory / key_file_name(key)
        if not path.exists():
            return None
        with self._locked():
            data = path.read_bytes()
        return _value(path, key, data)

    def copy_to(self, directory: Path) -> None:
        """Copy all of it, as it is at one instant, to another directory of logs."""
        if not self._directory.exists():
            return
        copy = directory / SYSTEM
        copy.mkdir()
        with self._locked():
            for path in self._directory.iterdir():
                if not path.name.startswith("."):
                    shutil.copyfile(path, copy / path.name)

    def compact(self) -> None:
        """Remove what a crash has left."""
        if self._directory.exists():
            with self._locked():
                (self._directory / _UNFINISHED).unlink(missing_ok=True)

    def _locked(self) -> AbstractContextManager[object]:
        return opened_once(self._directory / _LOCK, create=True)


def _value(path: Path, key: str, data: bytes) -> dict[str, Any]:
    try:
        tree = load_object(data)
        check_format(path, tree["format"], FORMAT)
        if tree["key"] != key:
            raise SerializationError(f"it belongs to the key {tree['key']!r}")
        return dict(tree["value"])
    except (SerializationError, KeyError, TypeError, ValueError) as error:
        raise BackendError(f"{path} is not the system state of {key!r}: {error!r}") from error
