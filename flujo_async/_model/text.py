"""Text that can be written down."""

from __future__ import annotations


def is_unicode(text: str) -> bool:
    """Tell whether UTF-8, and so JSON, can hold the text: lone surrogates it cannot."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def is_text(value: object) -> bool:
    """Tell whether a value is text that can be written down."""
    return isinstance(value, str) and is_unicode(value)
