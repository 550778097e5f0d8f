"""Run ids, and the keys of system state, as file names that every file system takes and keeps apart."""

from __future__ import annotations

from hashlib import sha256
from urllib.parse import unquote

SUFFIX = ".jsonl"
_KEY_SUFFIX = ".json"
_SIDE_SUFFIX = ".files"

_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_.")
_MAX_STEM = 200
_HEAD_OF_LONG = 100
# Windows takes these for devices, whatever the suffix.
_DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))})


def file_name(run_id: str) -> str:
    """Return the name of the file that holds the log of a run.

    Lower-case letters, digits, ``-``, ``_`` and ``.`` stay, all else is percent-encoded: capitals too, since
    some file systems do not tell them from small letters. A name that would get too long ends in the digest
    of the id.

    >>> file_name("order-17"), file_name("Order/17")
    ('order-17.jsonl', '%4frder%2f17.jsonl')
    """
    return _stem(run_id) + SUFFIX


def key_file_name(key: str) -> str:
    """Return the name of the file that holds the system state of a key, or a blob, encoded as that of a run."""
    return _stem(key) + _KEY_SUFFIX


def side_name(log_name: str, mark: str) -> str:
    """Return the name of the directory of what belongs to a log.

    >>> side_name("order-17.jsonl", "5f3a"), log_name_of("order-17.jsonl.5f3a.files")
    ('order-17.jsonl.5f3a.files', 'order-17.jsonl')
    """
    return f"{log_name}.{mark}{_SIDE_SUFFIX}"


def log_name_of(name: str) -> str | None:
    """Return the name of the log that a directory belongs to; ``None`` if its name is not of that kind."""
    log_name = name.removesuffix(_SIDE_SUFFIX).rpartition(".")[0]
    return log_name if name.endswith(_SIDE_SUFFIX) and log_name.endswith(SUFFIX) else None


def run_id_of(name: str) -> str:
    """Return the run id that a file name tells; of a long one only the beginning and the digest are known."""
    return unquote(name.removesuffix(SUFFIX))


def _stem(text: str) -> str:
    raw = text.encode("utf-8", "surrogatepass")
    stem = "".join(map(_encode, raw))
    if stem.startswith(".") or stem.partition(".")[0] in _DEVICES:
        stem = f"%{raw[0]:02x}{stem[1:]}"
    if len(stem) > _MAX_STEM:
        stem = f"{stem[:_HEAD_OF_LONG]}~{sha256(raw).hexdigest()}"
    return stem


def _encode(byte: int) -> str:
    return chr(byte) if byte in _PLAIN else f"%{byte:02x}"
