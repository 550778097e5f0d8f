"""Where the signals of a log stand, so that nobody who knows the first ones reads them again."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field

from flujo_async.backends.file_line import Content


@dataclass(slots=True)
class Posted:
    """The signals of a log, as far as it was looked through.

    Attributes:
        end: so far it was.
        places: where the line of each signal begins.
        numbers: which of them has which id, from 0.
    """

    end: int = 0
    places: list[int] = field(default_factory=list[int])
    numbers: dict[str, int] = field(default_factory=dict[str, int])

    def look(self, run_id: str, lines: bytes) -> None:
        """Look through the lines that follow.

        Raises:
            IntegrityError: a signal is broken.
        """
        for line in lines.splitlines(keepends=True):
            content = Content(run_id)
            content.add_signals(line)
            for signal in content.signals:
                self.numbers[signal.signal_id] = len(self.places)
                self.places.append(self.end)
            self.end += len(line)

    def line_of(self, number: int) -> tuple[int, int, int]:
        """Return between which bytes no other line has signals than that of this one, and how many come before it."""
        start = self.places[number]
        following = bisect_right(self.places, start)  # a run may be created with several, in one line
        end = self.places[following] if following < len(self.places) else self.end
        return start, end, number - bisect_left(self.places, start)
