"""Plain JSON as YAML: the few forms of it that a document needs, so that no parser has to be installed."""

from __future__ import annotations

import re
from typing import Final

from flujo_async._model.tree import Json

_WORD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NO_WORDS: Final = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
"""What YAML 1.1 takes for something else than text."""

_UNPRINTABLE: Final = re.compile("[^\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")


def yaml_text(value: Json) -> str:
    r"""Return plain JSON as YAML, in blocks.

    >>> yaml_text({"names": ["fetch"], "timeout": None})
    'names:\n  - fetch\ntimeout: null\n'
    """
    return "\n".join(_lines(value)) + "\n"


def _lines(value: Json) -> list[str]:
    if isinstance(value, dict) and value:
        return [line for name, item in value.items() for line in _entry(name, item)]
    if isinstance(value, list) and value:
        return [line for item in value for line in _indented(_lines(item), "- ")]
    return [_scalar(value)]


def _entry(name: str, item: Json) -> list[str]:
    if isinstance(item, dict | list) and item:
        return [f"{_scalar(name)}:", *_indented(_lines(item), "  ")]
    return [f"{_scalar(name)}: {_scalar(item)}"]


def _indented(lines: list[str], first: str) -> list[str]:
    return [first + lines[0], *(f"  {line}" for line in lines[1:])]


def _scalar(value: Json) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case float():
            return _number(value)
        case str():
            return value if _WORD.fullmatch(value) and value.lower() not in _NO_WORDS else _quoted(value)
        case _:
            return str(value)


def _number(value: float) -> str:
    mantissa, e, exponent = repr(value).partition("e")
    return f"{mantissa}.0e{exponent}" if e and "." not in mantissa else repr(value)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + _UNPRINTABLE.sub(lambda found: f"\\U{ord(found[0]):08x}", escaped) + '"'
