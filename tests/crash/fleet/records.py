"""What the processes of a fleet put on record beside the store: what was done, and what was asked for."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from flujo_async import StepContext
from tests.records import on_record, put_on_record


class Effect(NamedTuple):
    """Something that a step did."""

    pid: int
    at: float
    run_id: str
    idempotency_key: str
    name: str


@dataclass(frozen=True)
class Records:
    """The files in one directory."""

    directory: Path

    def happens(self, name: str, ctx: StepContext) -> None:
        """Put on record what a step does."""
        self._add("effects", str(os.getpid()), repr(time.time()), ctx.run_id, ctx.idempotency_key, name)

    def order(self, what: str, run_id: str) -> None:
        """Put on record what is going to be asked for, of which nobody can say later whether it came to that."""
        self._add("orders", what, run_id)

    def effects(self) -> list[Effect]:
        """Return what was done."""
        return [Effect(int(pid), float(at), *others) for pid, at, *others in self._lines("effects")]

    def ordered(self) -> dict[str, set[str]]:
        """Return what was asked for: of which runs, or, for forks, of which new ones."""
        orders = defaultdict[str, set[str]](set)
        for what, run_id in self._lines("orders"):
            orders[what].add(run_id)
        return orders

    @property
    def is_calm(self) -> bool:
        """Whether nothing is to be disturbed any more."""
        return (self.directory / "calm").exists()

    def calm(self) -> None:
        """Let what is going on come to its end."""
        (self.directory / "calm").touch()

    def _add(self, name: str, *parts: str) -> None:
        put_on_record(self.directory / name, "\t".join(parts))

    def _lines(self, name: str) -> list[list[str]]:
        return [line.split("\t") for line in on_record(self.directory / name)]
