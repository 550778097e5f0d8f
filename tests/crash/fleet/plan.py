"""What a fleet has to do: definitions, drawn by a seed."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from flujo_async import Flujo, PipelineRegistry
from flujo_async.abc import StateBackend
from tests.crash.drawn.building import Building, Happens, Marks
from tests.crash.drawn.drawing import definitions
from tests.crash.drawn.oracle import Expected, expected
from tests.crash.drawn.terms import Do, Row

HOUR = 1.2
"""So many seconds has an hour here: whoever waits that long leaves memory."""

TURN = 0.02
"""So many seconds a step sleeps in a turn."""

TTL = timedelta(seconds=2)
ROWS = 2
"""A definition is so many drawn ones, one after the other."""


@dataclass(frozen=True)
class Task:
    """A definition, and the one run of it that is asked for."""

    number: int
    definition: Row
    start: int

    @property
    def name(self) -> str:
        """The name of the definition."""
        return f"d{self.number}"

    @property
    def run_id(self) -> str:
        """The name of the run, with which those of its children and forks begin."""
        return f"r{self.number}"

    @property
    def is_dispatched(self) -> bool:
        """Whether it is put into a queue, and not begun by whoever wants its result."""
        return self.number % 4 != 1

    @property
    def is_deletable(self) -> bool:
        """Whether it may be deleted when it has ended."""
        return self.is_dispatched and self.number % 3 == 0

    def expected(self) -> Expected:
        """Return what it has to come to."""
        return expected(self.definition, self.start)


def draw(seed: int, size: int) -> list[Task]:
    """Return what there is to do, always the same for a seed."""
    tasks = list[Task]()

    @hypothesis.seed(seed)
    @settings(
        max_examples=size,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(data=st.data())
    def one_more(data: st.DataObject) -> None:
        first = 1000 * len(tasks) + 1  # so that no name occurs twice in a fleet
        rows = [data.draw(definitions(first + 300 * part)) for part in range(ROWS)]
        row = Row((*(term for row in rows[:-1] for term in row.parts if not _is_end(term)), *rows[-1].parts))
        tasks.append(Task(len(tasks), row, data.draw(st.integers(1, 6))))

    one_more()
    return tasks[:size]


def _is_end(term: Any) -> bool:
    return isinstance(term, Do) and term.name == "end"


def save(tasks: list[Task], directory: Path) -> None:
    """Let the processes of the fleet know."""
    (directory / "plan").write_bytes(pickle.dumps(tasks))


def load(directory: Path) -> list[Task]:
    """Return what there is to do."""
    tasks: list[Task] = pickle.loads((directory / "plan").read_bytes())
    return tasks


class Runtimes(dict[str, Flujo[Any, Any]]):
    """For each run, a runtime that begins runs of its definition; all of them know all definitions."""

    def __init__(self, tasks: list[Task], backend: StateBackend, happens: Happens, **options: Any) -> None:
        super().__init__()
        self._options = {"state_backend": backend, "context_type": Marks, "lease_ttl": TTL, **options}
        self._names = {task.run_id: task.name for task in tasks}
        self._registry = PipelineRegistry()
        building = Building(happens, hour=HOUR, turn=TURN)
        for task in tasks:
            self._registry.register(building.row(task.definition), task.name, "1.0.0")

    def __missing__(self, run_id: str) -> Flujo[Any, Any]:
        """Return the runtime of a run, of its children or of its forks."""
        name = self._names[run_id.split("/")[0].split("!")[0]]
        self[run_id] = Flujo(registry=self._registry, pipeline_name=name, **self._options)
        return self[run_id]
