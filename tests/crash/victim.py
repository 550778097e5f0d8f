"""A process that dies where it is told: ``main(URL, LOG, WHERE, NTH, [SCENE])``, all of them strings.

It drives the zoo, or plays a scene. ``WHERE`` is ``before`` or ``after`` (the n-th commit; of a scene, the n-th write),
``step`` (inside the n-th execution of a step of the zoo) or ``never``. If it is ``outside``, the process gives signs of
life, each a line, before and after whatever it does: it is killed by whoever counts them.
"""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typing_extensions import override

from flujo_async.abc import StateBackend
from flujo_async.backends import backend_from_url
from tests.crash.remains import director
from tests.crash.scenes import SCENES, WRITES, play
from tests.crash.world import WorldOfProcess
from tests.crash.zoo import INPUT, RUN, Effect, runtime, to_file
from tests.runtime.pretend import Wrapped


def die() -> None:
    """End this process as the kernel would end it: no handler, no buffer, no exit."""
    os.kill(os.getpid(), signal.SIGKILL)


class Deadly(Wrapped):
    """Kills the process at the n-th of some verbs, before or after it."""

    def __init__(self, inner: StateBackend, nth: int, *, after: bool, verbs: frozenset[str]) -> None:
        super().__init__(inner)
        self._left, self._after, self._verbs = nth, after, verbs

    async def through(self, verb: str, call: Callable[[], Any]) -> Any:
        self._left -= verb in self._verbs
        is_time = verb in self._verbs and self._left == 0
        if is_time and not self._after:
            die()
        result = await call()
        if is_time:
            die()
        return result


def deadly(effect: Effect, nth: int) -> Effect:
    """Return an effect that kills the process at its n-th call, when it has taken place."""
    calls = 0

    def effect_and_death(key: str, attempt: int) -> None:
        nonlocal calls
        effect(key, attempt)
        calls += 1
        if calls == nth:
            die()

    return effect_and_death


def give_sign() -> None:
    """Tell whoever counts that this process has got on."""
    print(".", flush=True)


class Telling(Wrapped):
    """Gives a sign before and after each verb."""

    @override
    async def through(self, verb: str, call: Callable[[], Any]) -> Any:
        give_sign()
        result = await call()
        give_sign()
        return result


def telling(effect: Effect) -> Effect:
    """Return an effect that gives a sign when it has taken place."""

    def effect_and_sign(key: str, attempt: int) -> None:
        effect(key, attempt)
        give_sign()

    return effect_and_sign


async def drive(url: str, log: str, where: str, nth: int) -> None:
    """Drive the run, or die."""
    backend, effect = backend_from_url(url), to_file(Path(log))
    match where:
        case "before" | "after":
            backend = Deadly(backend, nth, after=where == "after", verbs=frozenset({"append"}))
        case "step":
            effect = deadly(effect, nth)
        case "outside":
            backend, effect = Telling(backend), telling(effect)
        case _:
            pass
    await runtime(backend, effect).run(INPUT, run_id=RUN)


async def perform(url: str, log: str, where: str, nth: int, name: str) -> None:
    """Play a scene, or die."""
    backend, world, scene = backend_from_url(url), WorldOfProcess(Path(log)), SCENES[name]
    if where in ("before", "after"):
        backend = Deadly(backend, nth, after=where == "after", verbs=WRITES)
    if where == "outside":
        backend = Telling(backend)
    await play(scene, world, director(scene, world, backend))


def main(url: str, log: str, where: str, nth: str, *name: str) -> None:
    asyncio.run(perform(url, log, where, int(nth), *name) if name else drive(url, log, where, int(nth)))
