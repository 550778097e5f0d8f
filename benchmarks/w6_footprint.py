"""W6: what does it take to import the package, and to have runs that sleep?"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.question import RESIDENT, Column, Question, Target
from benchmarks.roster import PEERS, Entry
from benchmarks.single import main

IMPORTS = {
    Entry("ours", "import"): ("flujo_async",),
    Entry("modules", "core dependencies"): ("anyio", "aiosqlite", "orjson", "pydantic"),
    Entry("modules", "asyncio and sqlite3"): ("asyncio", "sqlite3"),
    **{Entry(name, "import"): peer.imports for name, peer in PEERS.items()},
}
PACKAGE, DEPENDENCIES, *_ = IMPORTS
IMPORT_TIME = Column("import_ms", "ms", digits=0)

ASLEEP = Entry("sleepers", "full")
PER_RUN = Column("resident_per_run", "bytes of memory/run", digits=0)


def targets_of_import(_sizes: Sequence[int]) -> list[Target]:
    """Return the target."""
    at_once = (PACKAGE, 1), (DEPENDENCIES, 1)
    return [Target("import: core dependencies", IMPORT_TIME.key, at_once[0], at_once[1], at_most=1.5)]


def targets_of_sleep(sizes: Sequence[int]) -> list[Target]:
    """Return the target: rows, and next to nothing in memory."""
    return [Target(f"memory of {sizes[-1]:,} sleeping runs, bytes/run", PER_RUN.key, (ASLEEP, sizes[-1]), at_most=100)]


QUESTIONS = (
    Question(
        name="W6 import",
        title="Import in a fresh interpreter",
        workload="imports",
        unit="",
        sizes=(1,),
        quick_sizes=(1,),
        entries=tuple(IMPORTS),
        columns=(IMPORT_TIME, RESIDENT, Column("modules", "modules", digits=0)),
        targets=targets_of_import,
    ),
    Question(
        name="W6 asleep",
        title="Runs that sleep in one process",
        workload="parked",
        unit="runs",
        sizes=(1000, 100_000),
        quick_sizes=(500, 2000),
        entries=(ASLEEP, Entry("sleepers", "memory", most=10_000)),
        columns=(
            RESIDENT,
            PER_RUN,
            Column("start_us", "start, µs/run", digits=0),
            Column("wake_us", "wake, µs/run", digits=0),
            Column("lag_p99_ms", "lag p99 at waking, ms"),
            Column("tasks", "tasks left", digits=0),
        ),
        targets=targets_of_sleep,
        most_rounds=1,
    ),
)

if __name__ == "__main__":
    main(QUESTIONS)
