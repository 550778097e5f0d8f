"""A scene that is played while something fails, and once more when all is well again."""

import asyncio
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flujo_async.abc import StateBackend
from tests.crash.faults.shim import Shim
from tests.crash.faults.stores import open_store
from tests.crash.nest import fork
from tests.crash.remains import Remains, acknowledged, differences, director, remains
from tests.crash.scenes import SCENES, Scene, play
from tests.crash.test_scenes import check_effects, undisturbed
from tests.crash.world import World

PATIENCE = 120.0
"""After so many seconds a process hangs, however busy the machine is."""

__all__ = ["Lost", "Performance", "Stage", "undisturbed"]


class Lost(AssertionError):
    """Something that was acknowledged is not there."""


@dataclass
class Performance:
    """What a process told.

    Attributes:
        did: its side effects.
        has: the last ``seq`` of each run that was acknowledged.
        posted: run and id of the signals that were acknowledged.
        failed: class, text and cause of the error that ended it.
        warned: what it logged.
        has_ended: whether it played the scene to its end.
    """

    did: list[str] = field(default_factory=list)
    has: dict[str, int] = field(default_factory=dict)
    posted: list[tuple[str, str]] = field(default_factory=list)
    failed: tuple[str, str, str] | None = None
    warned: list[str] = field(default_factory=list)
    has_ended: bool = False

    def hear(self, kind: str, *words: Any) -> None:
        """Take in what a process said."""
        match kind:
            case "did":
                self.did += words
            case "has":
                run_id, seq = words
                self.has[run_id] = max(seq, self.has.get(run_id, 0))
            case "posted":
                self.posted.append((words[0], words[1]))
            case "failed":
                self.failed = (words[0], words[1], words[2])
            case "warned":
                self.warned += words
            case _:
                self.has_ended = True


class Stage:
    """One scene in a store of its own, on a directory that may be a disk of its own."""

    def __init__(self, kind: str, directory: Path, name: str = "wait", *, disk: Path | None = None) -> None:
        self.kind, self.name = kind, name
        self.scene: Scene = SCENES[name]
        self.disk = disk or directory / "disk"
        self.disk.mkdir(parents=True, exist_ok=True)
        self.history: list[tuple[str, str]] = []

    def open(self) -> StateBackend:
        """Return the store, as this process sees it."""
        return open_store(self.kind, self.disk)

    def files(self) -> list[Path]:
        """Return all files of the store."""
        return sorted(path for path in self.disk.rglob("*") if path.is_file())

    async def perform(self, shim: Shim | None = None, **limits: Any) -> Performance:
        """Let a process play the scene, and return what it told; it ends by itself, by nothing unforeseen."""
        order = {
            "kind": self.kind, "directory": str(self.disk), "scene": self.name, "history": self.history, **limits,
        }  # fmt: skip
        environment, preload = ({}, None) if shim is None else (shim.environment(), shim.library)
        process = await fork("tests.crash.faults.victim", json.dumps(order), environment=environment, preload=preload)
        try:
            out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
        except TimeoutError:
            process.kill()
            raise AssertionError(f"the process hangs: {limits}") from None
        assert (process.returncode, err) == (0, b""), err.decode()
        told = Performance()
        for line in out.decode().splitlines():
            told.hear(*json.loads(line))
        self.history += [(str(process.pid), name) for name in told.did]
        return told

    async def resume_and_check(self, told: Performance, expected: Remains) -> None:
        """Check that nothing acknowledged is lost; go on to the end, and check that it is what it should be."""
        store = self.open()
        try:
            await check_acknowledged(store, told)
            done = await acknowledged(self.scene, director(self.scene, World("", []), store))
            world = World("afterwards", self.history, start=datetime.now(UTC))
            await play(self.scene, world, director(self.scene, world, store))
            again = done & set(world.happened(world.life))
            assert not again, f"what was acknowledged happened again: {again}"
            left = await remains(self.scene, director(self.scene, world, store))
            found = differences(left, expected)
            assert not found, found
            check_effects(self.name, world.happened())
        finally:
            await store.shutdown()


async def check_acknowledged(store: StateBackend, told: Performance) -> None:
    """Check that a store has all that it acknowledged.

    Raises:
        Lost: it has not.
    """
    for run_id, seq in told.has.items():
        run = await store.load(run_id)
        if run is None:
            raise Lost(f"run {run_id!r} is lost")
        if run.summary.last_seq < seq:
            raise Lost(f"run {run_id!r}: {run.summary.last_seq} facts of {seq}")
    for run_id, signal_id in told.posted:
        run = await store.load(run_id)
        if run is None or signal_id not in {signal.signal_id for signal in run.signals}:
            raise Lost(f"signal {signal_id!r} to run {run_id!r} is lost")
