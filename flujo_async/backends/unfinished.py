"""Where something is made that appears under its name when all of it is there."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from flujo_async.backends import file_lock
from flujo_async.errors import InvalidArgument


def check_free(target: Path) -> None:
    """Check that a copy can appear under a name.

    Raises:
        InvalidArgument: something is there already.
    """
    if os.path.lexists(target):
        raise InvalidArgument(f"{target} exists; a copy replaces nothing, choose another name")


@contextmanager
def unfinished(target: Path) -> Generator[Path]:
    """Lend a path on the disk of ``target`` for what is to be moved there once it is whole; what stays is removed.

    So is what a process has left that was killed over the same.
    """
    stem = f".{target.name[:100]}."
    _remove_left(target.parent, re.compile(rf"{re.escape(stem)}[0-9a-f]{{8}}\.unfinished"))
    directory = target.with_name(f"{stem}{secrets.token_hex(4)}.unfinished")
    directory.mkdir(0o700)
    try:
        with _locked(directory):
            yield directory / target.name
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _remove_left(parent: Path, name: re.Pattern[str]) -> None:
    with suppress(OSError):  # it only saves space
        for left in filter(name.fullmatch, os.listdir(parent)):
            with _locked(parent / left) as is_left:
                if is_left:
                    shutil.rmtree(parent / left)


@contextmanager
def _locked(directory: Path) -> Generator[bool]:
    """Lock a directory, which whoever works in it does until it is killed; tell whether nobody had it locked."""
    if os.name == "nt":  # no directory can be opened there: what was left stays
        yield False
        return
    fd, is_free = os.open(directory, os.O_RDONLY), False
    try:
        with suppress(OSError):  # a file system without locks
            is_free = file_lock.try_lock(fd)
        yield is_free
    finally:
        os.close(fd)
