"""What a deliberate bug is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bug:
    """A small change of the code that breaks one thing, and the tests that have to notice.

    Attributes:
        id: where it is and what it does, such as ``sqlite.append-token``.
        breaks: what is true no more, in one sentence.
        file: what it changes, below ``flujo_async``.
        old: the text that is replaced; it occurs exactly once in the file.
        new: the text in its place.
        tests: one of these fails, by their node ids.
    """

    id: str
    breaks: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def place(self) -> str:
        """The adapter that it is in, ``heads`` for what several adapters compute alike, or ``runtime``."""
        return self.id.partition(".")[0]


class MovedOn(Exception):
    """The code is not what the bug was made for: the bug has to be adapted."""


def planted(bug: Bug, code: str) -> str:
    """Return the code with the bug in it.

    Raises:
        MovedOn: what it replaces is not there exactly once.
    """
    count = code.count(bug.old)
    if count != 1 or bug.old == bug.new:
        raise MovedOn(f"{bug.id}: {bug.file} has {count} times, not once, the text {bug.old!r}; adapt the bug")
    return code.replace(bug.old, bug.new)
