"""Structural step keys: where a step stands in its run, whatever the order in which things happen.

A key is a path of labels joined by ``/``. In a pipeline a step's label is its name, a combinator's its
kind; an element that occurs more than once carries its position (``fetch@3``). Below a combinator stand the
branch, the index of the item or the turn: ``parallel/summarise``, ``map_each/7/parse``, ``loop/0/refine``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

RESERVED = "/@[]"
"""What a step's name may not have: these characters separate the parts of keys and sources."""

RUN_INPUT = ""
"""Stands for the input of the run where the key of a step is meant as the source of a value."""

_FALLBACK = "fallback"
_COMPENSATED = "/compensate"
_TASK = "task."

MAIN_SCOPE = ""
"""The scope of the run's own context."""


def child(path: str, label: str | int) -> str:
    """Return the key of ``label`` below ``path``."""
    return f"{path}/{label}" if path else str(label)


def escape(label: str) -> str:
    """Return any text as one label, which no numbering of ``number_repeated`` can equal."""
    return label.replace("%", "%25").replace("/", "%2F").replace("@", "%40")


def number_repeated(labels: Sequence[str]) -> list[str]:
    """Return labels made unique: those that occur more than once get their position, from 1."""
    count = Counter(labels)
    return [f"{label}@{place}" if count[label] > 1 else label for place, label in enumerate(labels, 1)]


def is_top_level(key: str) -> bool:
    """Return whether a key belongs to an element of the outermost sequence."""
    return "/" not in key


def fallback_of(key: str) -> str:
    """Return the key of the step that stands in for a step that failed."""
    return f"{key}/{_FALLBACK}"


def call_of(key: str) -> str:
    """Return the key of the step that was asked for, whether this one stands in for it or is that one."""
    while key.endswith(f"/{_FALLBACK}"):
        key = key.removesuffix(f"/{_FALLBACK}")
    return key


def compensation_of(key: str) -> str:
    """Return the key of the step that undoes a step."""
    return f"{key}{_COMPENSATED}"


def task_of(name: str) -> str:
    """Return the label of a task that the code of a workflow has made."""
    return f"{_TASK}{name}"


def is_task(key: str) -> bool:
    """Return whether a key belongs to such a task."""
    return key.rpartition("/")[2].startswith(_TASK)


def is_compensation(key: str) -> bool:
    """Return whether a key belongs to a step that undoes another."""
    return key.endswith(_COMPENSATED)


def is_plain_call(key: str) -> bool:
    """Return whether a key belongs to a plain call of a workflow, which does not wait for anything."""
    return key.rpartition("/")[2].startswith("$")


def is_own_signal(name: str) -> bool:
    """Return whether a signal is one that the runtime posts itself; nothing in a definition can wait for it."""
    return name.startswith("$")


def is_within(key: str, path: str) -> bool:
    """Return whether a key is ``path`` or stands below it."""
    return key == path or key.startswith(f"{path}/")


def paths_above(key: str) -> Iterator[str]:
    """Yield the paths that a key stands below, the shortest first."""
    place = key.find("/")
    while place >= 0:
        yield key[:place]
        place = key.find("/", place + 1)


def item_source(source: str | None, index: int) -> str | None:
    """Return the source of one item of a collection that came from ``source``; items of items have none."""
    return None if source is None or source.endswith("]") else f"{source}[{index}]"


def entry_source(source: str | None, name: str) -> str | None:
    """Return the source of one entry of a mapping that came from ``source``; ``name`` is an identifier."""
    return None if source is None or source.endswith("]") else f"{source}[{name}]"


def split_source(source: str) -> tuple[str, int | str | None]:
    """Return the key in a source, and the index of the item or the name of the entry if it is one."""
    if not source.endswith("]"):
        return source, None
    key, _, part = source[:-1].rpartition("[")
    return key, part if part.isidentifier() else int(part)
