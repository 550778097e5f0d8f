"""A store in the middle of a run, as a process would leave it that dies there; to be damaged, and gone on with."""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from flujo_async import Flujo, StepContext, step
from flujo_async.abc import StateBackend
from tests.crash.faults.stores import open_store

DONE = ["a", "b"]
"""The steps that are recorded in an image, in order."""
LEFT = ["snap", "c"]
"""The steps that are not."""
OUTPUT = "x a b snap c"
TTL = timedelta(seconds=0.5)
"""How long it takes until a lease whose owner cannot be read is nobody's."""


@dataclass
class Image:
    """The files of a store that has the run ``r``, half done, and the run ``other``, completed."""

    kind: str
    directory: Path
    executed: list[str] = field(default_factory=list)

    def flujo(self, store: StateBackend, snap: Callable[[], None] = lambda: None) -> Flujo[Any, Any]:
        """Return a runtime; it keeps account of what executes."""

        def named(name: str, effect: Callable[[], None] = lambda: None) -> Any:
            def call(value: str, ctx: StepContext) -> str:
                self.executed.append(name)
                effect()
                ctx.state[name] = True
                return f"{value} {name}"

            return step(name=name)(call)

        pipeline = named("a") >> named("b") >> named("snap", snap) >> named("c")
        return Flujo(pipeline, pipeline_name="image", state_backend=store, lease_ttl=TTL)

    @contextmanager
    def copy(self, to: Path) -> Iterator["Image"]:
        """Lend a copy."""
        shutil.copytree(self.directory, to)
        try:
            yield Image(self.kind, to)
        finally:
            shutil.rmtree(to)

    @property
    def log(self) -> Path:
        """The file that an append goes to."""
        return self.directory / ("runs/r.jsonl" if self.kind == "file" else "runs.db-wal")


async def take_image(kind: str, directory: Path) -> Image:
    """Return an image, taken while a step executed."""
    image = Image(kind, directory / "image")
    store = open_store(kind, directory / "store")
    (directory / "store").mkdir()

    def snap() -> None:
        if not image.directory.exists() and "other" in image.executed:
            shutil.copytree(directory / "store", image.directory, ignore=shutil.ignore_patterns("*-shm"))

    flujo = image.flujo(store, snap)
    await flujo.run("x", run_id="other")
    image.executed.append("other")
    assert (await flujo.run("x", run_id="r")).output == OUTPUT
    await store.shutdown()
    image.executed.clear()
    return image


def checkpoint(image: Image) -> None:
    """Bring all of a database into its one file."""
    with closing(sqlite3.connect(image.directory / "runs.db")) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
