"""Steps in processes of their own: for what keeps a processor busy, and for what has to be killed when time is over.

The children are started from scratch (no fork of a process with threads), are given JSON, and stay for the next call.
Each is in the hands of a daemon thread, which belongs to no event loop and holds up no end of the process.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Final

import anyio

from flujo_async._model.tree import Json, JsonObject
from flujo_async._plan.function_code import MAIN_MODULES, reference_to, referent
from flujo_async._plan.step import Step
from flujo_async._runtime.frames import frame, receive, send
from flujo_async._runtime.threads import give
from flujo_async.abc.shield import settle
from flujo_async.errors import DefinitionError, ProcessDied

_BOOTSTRAP: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from flujo_async._runtime.process_child import main; main()"
)

_LAST_WORDS: Final = 5.0
"""So many seconds a process has to end that has closed its end of the pipe."""


@dataclass(frozen=True, slots=True)
class _Job:
    data: bytes
    answer: asyncio.Future[JsonObject]


class ChildProcess:
    """One child process and the thread that speaks with it."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_killed = False
        self.loaded: set[str] = set()
        threading.Thread(target=self._live, name="flujo-process", daemon=True).start()

    @property
    def is_alive(self) -> bool:
        """Whether it can be given another call."""
        return not self._is_killed and (self._process is None or self._process.poll() is None)

    async def ask(self, message: JsonObject) -> JsonObject:
        """Send a message and return the answer. A caller that is cancelled has the process killed.

        Raises:
            ProcessDied: it ended without an answer.
        """
        job = _Job(frame(message), asyncio.get_running_loop().create_future())
        self._jobs.put(job)
        try:
            return await asyncio.shield(job.answer)
        except asyncio.CancelledError:
            self.kill()
            await settle(job.answer)
            job.answer.exception()
            raise

    def kill(self) -> None:
        """End the process, with those that it has started, whatever it does."""
        self._is_killed = True
        self.close()
        if self._process is not None:
            _kill(self._process)

    def close(self) -> None:
        """Let the process end when it has nothing to do."""
        self._jobs.put(None)

    def _live(self) -> None:
        try:
            process = self._start()
        except Exception as error:  # handed to the caller, whatever keeps a process from starting
            trouble = ProcessDied(f"no process could be started: {error!r}")
            trouble.__cause__ = error
            self._refuse(trouble)
            return
        with process:
            while (job := self._jobs.get()) is not None:
                try:
                    give(job.answer, _exchange(process, job.data), None)
                except Exception:  # no answer, or none that can be read
                    self._is_killed = True
                    _bury(process)
                    self._refuse(ProcessDied(f"the process {_fate(process.returncode)}"), job)
                    return

    def _start(self) -> subprocess.Popen[bytes]:
        path = json.dumps([str(entry) for entry in sys.path])
        process = subprocess.Popen(
            [sys.executable, "-c", _BOOTSTRAP, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # to be killed as a group
        )
        self._process = process
        if self._is_killed:
            _kill(process)
        return process

    def _refuse(self, error: Exception, job: _Job | None = None) -> None:
        job = job or self._jobs.get()
        if job is not None:
            give(job.answer, None, error)


def _exchange(process: subprocess.Popen[bytes], data: bytes) -> JsonObject:
    assert process.stdin is not None
    assert process.stdout is not None
    send(process.stdin, data)
    return receive(process.stdout)


def _bury(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process that does not answer any more; one that lives on is killed."""
    try:
        process.wait(_LAST_WORDS)
    except subprocess.TimeoutExpired:
        _kill(process)
        process.wait()


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    with suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def _fate(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code} before the step was done"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name} before the step was done"


class Processes:
    """The child processes of a runtime: at most one for each processor, kept for the next step."""

    def __init__(self) -> None:
        self._most = os.cpu_count() or 1
        self._idle: deque[ChildProcess] = deque()
        self._checked: set[str] = set()
        weakref.finalize(self, _close_all, self._idle)

    @cached_property
    def places(self) -> anyio.CapacityLimiter:
        """The limit on processes. Made in an event loop: it belongs to one."""
        return anyio.CapacityLimiter(self._most)

    def check(self, step: Step[Any, Any]) -> str:
        """Return the name by which another process finds a step's function.

        Raises:
            DefinitionError: it does not find it.
        """
        reference = reference_to(step.function) or ""
        if reference in self._checked:
            return reference
        try:
            is_found = referent(reference) is step.function
        except (ImportError, AttributeError, ValueError):
            is_found = False
        if not is_found or (reference.partition(":")[0] in MAIN_MODULES and not _main_script()):
            raise DefinitionError(
                f"step {step.name!r}: another process has to find its function as {reference}, and cannot; "
                f"put it at the top of a module, or of a script, under its own name"
            )
        self._checked.add(reference)
        return reference

    def borrow(self, step: Step[Any, Any]) -> Borrowed:
        """Return the way to a child that knows the step's function; ``async with`` it."""
        return Borrowed(self, step.name, self.check(step))

    def take(self) -> ChildProcess:
        """Return a child that has nothing to do."""
        while self._idle:
            child = self._idle.pop()
            if child.is_alive:
                return child
            child.close()
        return ChildProcess()

    def give_back(self, child: ChildProcess) -> None:
        """Keep a child for the next step."""
        if child.is_alive:
            self._idle.append(child)
        else:
            child.close()

    async def aclose(self) -> None:
        """Let the children end that have nothing to do."""
        _close_all(self._idle)


class Borrowed:
    """One child process for one attempt."""

    def __init__(self, processes: Processes, name: str, reference: str) -> None:
        self._processes = processes
        self._name = name
        self._reference = reference
        self._child: ChildProcess | None = None

    async def __aenter__(self) -> Borrowed:
        await self._processes.places.acquire_on_behalf_of(self)
        try:
            self._child = self._processes.take()
            if self._reference not in self._child.loaded:
                await self._load(self._child)
        except BaseException:
            self._leave()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        if self._child is not None:
            self._processes.give_back(self._child)
        self._processes.places.release_on_behalf_of(self)

    async def _load(self, child: ChildProcess) -> None:
        message: dict[str, Json] = {"ask": "load", "reference": self._reference}
        if self._reference.partition(":")[0] in MAIN_MODULES:
            message["main"] = {**_main_script(), "argv": list[Json](sys.argv)}
        answer = await child.ask(message)
        if "trouble" in answer:
            child.kill()
            raise DefinitionError(
                f"step {self._name!r}: its process could not import {self._reference}: {answer['trouble']}; what a "
                f"script does when it is run, and not imported, stands under: if __name__ == '__main__'"
            )
        child.loaded.add(self._reference)

    async def call(self, args: Sequence[Json], kwargs: Mapping[str, Json]) -> JsonObject:
        """Call the function on encoded arguments; return ``{"output": …}`` or ``{"error": …}``, encoded.

        Raises:
            ProcessDied: it ended without an answer.
        """
        assert self._child is not None
        message: dict[str, Json] = {
            "ask": "call",
            "reference": self._reference,
            "args": list(args),
            "kwargs": dict(kwargs),
        }
        return await self._child.ask(message)


def _main_script() -> dict[str, Json]:
    """Return how a child process finds the main script; nothing where there is none, as in a console."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name != "__main__":
        return {"name": str(spec.name)}
    path = getattr(main, "__file__", None)
    return {"path": path} if isinstance(path, str) and path[:1] not in ("", "<") else {}


def _close_all(children: deque[ChildProcess]) -> None:
    while children:
        children.pop().close()
