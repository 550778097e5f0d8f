"""What runs in a child process: the functions of steps that are executed in one.

The parent speaks through standard input and hears through standard output, so the functions get others: what they print
goes to standard error. When the parent is gone, its end of the pipe closes, and the child ends at once, whatever it
does.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import queue
import runpy
import signal
import sys
import threading
import types
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any, BinaryIO, Final

from flujo_async._codec.exceptions import encode_error
from flujo_async._codec.values import Codec
from flujo_async._model.tree import Json
from flujo_async._plan.definition import annotations_of
from flujo_async._plan.function_code import MAIN_MODULES, referent
from flujo_async._plan.step import step
from flujo_async._runtime.frames import frame, receive, send
from flujo_async.errors import SerializationError

_MAIN: Final = "__mp_main__"
"""What the parent's main script is called here, as multiprocessing calls it: not ``__main__``, so its guard holds."""


class Child:
    """Answers the parent's messages, one after the other."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._is_busy = False
        self._has_main = False
        self._known: dict[str, tuple[Any, Codec]] = {}
        self._messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def serve(self, stream: BinaryIO) -> None:
        """Answer until the parent is gone."""
        threading.Thread(target=self._listen, args=(stream,), daemon=True).start()
        while True:
            message = self._messages.get()
            self._is_busy = True
            answer = self._load(message) if message["ask"] == "load" else self._call(message)
            self._is_busy = False
            send(self._out, frame(answer))

    def _listen(self, stream: BinaryIO) -> None:
        with suppress(EOFError, OSError):
            while True:
                self._messages.put(dict(receive(stream)))
        if self._is_busy and hasattr(os, "killpg") and os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)  # with the processes that the function has started
        os._exit(0)

    def _load(self, message: dict[str, Any]) -> dict[str, Json]:
        reference = message["reference"]
        try:
            if reference.partition(":")[0] in MAIN_MODULES and not self._has_main:
                asyncio.run(_load_main(message["main"]))
                self._has_main = True
            function = referent(reference)
            self._known[reference] = function, Codec(*annotations_of(step(function, name="step")))
        except Exception as error:  # whatever importing a module of the user's raises
            return {"trouble": f"{type(error).__name__}: {error}"}
        return {}

    def _call(self, message: dict[str, Any]) -> dict[str, Json]:
        function, codec = self._known[message["reference"]]
        try:
            args = [codec.decode(tree, at="input") for tree in message["args"]]
            kwargs = {name: codec.decode(tree, at=name) for name, tree in message["kwargs"].items()}
        except SerializationError as error:
            return {"misread": error.reason, "path": error.path}
        try:
            result = function(*args, **kwargs)
            if inspect.isawaitable(result):
                result = asyncio.run(_awaited(result))
            return {"output": codec.encode(result, at="output")}
        except Exception as error:  # the outcome of the attempt
            return {"error": encode_error(codec, error)}


async def _awaited(result: Awaitable[Any]) -> Any:
    return await result


async def _load_main(main: dict[str, Any]) -> None:
    """Import the parent's main script under another name.

    In a running event loop: a script that starts its runs without asking whether it is ``__main__`` fails here, with
    the error of ``asyncio.run``, and does not begin them a second time.
    """
    sys.argv[:] = main["argv"]
    if "name" in main:
        content = runpy.run_module(main["name"], run_name=_MAIN, alter_sys=True)
    else:
        content = runpy.run_path(main["path"], run_name=_MAIN)
    module = types.ModuleType(_MAIN)
    module.__dict__.update(content)
    for name in MAIN_MODULES:
        sys.modules[name] = module


def main() -> None:
    """Serve the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    stream, out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    Child(out).serve(stream)
