"""A process that plays a scene while something fails: ``main(ORDER)`` (JSON).

It tells on stdout what happens, when it has happened: side effects, what the store acknowledged, and how it ended.
Only a ``BackendError`` is a way to end; anything else is a traceback.
"""

import asyncio
import errno
import json
import logging
import os
import re
import resource
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from typing_extensions import override

from flujo_async._model.lease import Lease
from flujo_async._model.stored import Blob, NewRun, Record, RunUpdate, Signal
from flujo_async.abc import StateBackend
from flujo_async.errors import BackendError
from tests.crash.faults.shim import begin_to_feel, say_in_trace
from tests.crash.faults.stores import open_store
from tests.crash.remains import director
from tests.crash.scenes import SCENES, play
from tests.crash.world import World
from tests.runtime.pretend import Wrapped

_OF_RUNTIME = re.compile(r"/proc/|/anyio/")
A_DAY = timedelta(days=1)
"""How long a lease lasts that was taken by a write of which nobody knows whether it succeeded."""


def say(kind: str, *words: Any) -> None:
    """Tell the test something; it is told when this returns."""
    line = json.dumps([kind, *words])
    say_in_trace(line)
    os.write(1, line.encode() + b"\n")


class WorldOnPipe(World):
    """A world whose side effects are told: no file of its own, so nothing that the fault could hit."""

    def __init__(self, history: list[tuple[str, str]]) -> None:
        super().__init__(str(os.getpid()), history, start=datetime.now(UTC))

    @override
    def happens(self, name: str) -> None:
        super().happens(name)
        say("did", name)


class Telling(Wrapped):
    """A store that tells what was acknowledged."""

    @override
    async def create_run(self, run: NewRun, *, owner: str | None = None, ttl: timedelta = timedelta(0)) -> Lease | None:
        lease = await super().create_run(run, owner=owner, ttl=ttl)
        say("has", run.summary.run_id, len(run.records))
        return lease

    @override
    async def append(
        self,
        lease: Lease,
        records: Sequence[Record],
        *,
        expected_seq: int,
        update: RunUpdate,
        blobs: Sequence[Blob] = (),
    ) -> int:
        last_seq = await super().append(lease, records, expected_seq=expected_seq, update=update, blobs=blobs)
        say("has", lease.run_id, last_seq)
        return last_seq

    @override
    async def post(self, signal: Signal) -> Signal:
        kept = await super().post(signal)
        say("posted", signal.run_id, signal.signal_id)
        return kept


class Heard(logging.Handler):
    """Tells the test what is logged."""

    @override
    def emit(self, record: logging.LogRecord) -> None:
        say("warned", record.getMessage())


def limit(order: dict[str, Any]) -> None:
    """Take from this process what it is not to have."""
    if (size := order.get("largest_file")) is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    if (more := order.get("more_files")) is not None:
        sys.unraisablehook = lambda _: None  # an event loop that could not be made complains when it goes
        open_now = max(map(int, os.listdir("/proc/self/fd")))
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + more, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


async def perform(order: dict[str, Any], store: StateBackend) -> None:
    """Play the scene to its end, unless the store fails."""
    scene = SCENES[order["scene"]]
    limit(order)
    world = WorldOnPipe([(life, name) for life, name in order["history"]])
    try:
        await play(scene, world, director(scene, world, Telling(store), lease_ttl=A_DAY))
    except BackendError as error:
        say("failed", type(error).__name__, str(error), repr(error.__cause__))
    except OSError as error:  # the runtime itself, which looks at its process and loads code, has no file left to open
        if error.errno != errno.EMFILE or not _OF_RUNTIME.search(str(error.filename)):
            raise
        say("failed", type(error).__name__, str(error), "")
    else:
        say("ended")


def main(words: str) -> None:
    begin_to_feel()
    order = json.loads(words)
    logging.basicConfig(handlers=[Heard()])
    asyncio.run(perform(order, open_store(order["kind"], Path(order["directory"]))))
