"""Real processes that need not load Python and the package first: forks of ``python -m tests.crash.nest MODULE``.

Loading takes several times as long as what such a process is there for, and thousands are wanted. So one has loaded all
of it and does nothing else, and is forked for each; the fork calls ``main`` of the module. It is a process like any
other: it opens the store itself, makes its own threads and event loop, and ends, or dies, alone.
"""

import asyncio
import atexit
import importlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from tests.runtime.children import ROOT


class Process:
    """A process that was forked, to be used like one of ``asyncio``.

    Attributes:
        pid: its number; nobody else has it before ``communicate`` returns.
        stdout: what it says.
        returncode: its exit code, or the negative of the signal that ended it; known after ``communicate``.
    """

    def __init__(
        self, pid: int, keeper: tuple[asyncio.StreamReader, asyncio.StreamWriter], said: list[asyncio.StreamReader]
    ) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.stdout, self._stderr = said
        self._told, self._keeper = keeper

    def kill(self) -> None:
        """SIGKILL, if it has not ended by itself."""
        os.kill(self.pid, signal.SIGKILL)

    async def communicate(self) -> tuple[bytes, bytes]:
        """Wait until it has ended; return what is left to read of stdout, and stderr."""
        out, err = await asyncio.gather(self.stdout.read(), self._stderr.read())
        self._keeper.write_eof()
        self.returncode = int(await self._told.readline())
        self._keeper.close()
        await self._keeper.wait_closed()
        return out, err


class _Nest:
    """A process that has loaded a module, or is about to, and is forked whenever it is asked to."""

    def __init__(self, module: str, preload: Path | None) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.crash.nest", module], cwd=ROOT, stdin=theirs.fileno(),
                env={**os.environ, **({} if preload is None else {"LD_PRELOAD": str(preload)})},
            )  # fmt: skip
        atexit.register(self._close)

    async def fork(self, arguments: tuple[str, ...], environment: Mapping[str, str]) -> Process:
        ours, theirs = socket.socketpair()
        pipes = [os.pipe() for _ in ("stdout", "stderr")]
        socket.send_fds(self._control, [b"."], [theirs.fileno(), *(write for _, write in pipes)])
        theirs.close()
        for _, write in pipes:
            os.close(write)
        told, keeper = await asyncio.open_connection(sock=ours)
        keeper.write(json.dumps([arguments, dict(environment)]).encode() + b"\n")
        said = [await _reader(read) for read, _ in pipes]
        pid = await told.readline()
        assert pid, "the process that was to be forked is gone"
        return Process(int(pid), (told, keeper), said)

    def _close(self) -> None:
        self._control.close()
        self._process.wait()


@cache
def _nests(module: str, preload: Path | None) -> Iterator[_Nest]:
    """Return two, again and again: processes one after the other do not hash alike, as if each started from nothing."""
    return itertools.cycle([_Nest(module, preload) for _ in range(2)])


async def fork(
    module: str, *arguments: Any, environment: Mapping[str, str] | None = None, preload: Path | None = None
) -> Process:
    """Start a process that calls ``main`` of a module with arguments, which are made strings.

    Args:
        environment: what it has in its environment besides.
        preload: a library that is preloaded.
    """
    return await next(_nests(module, preload)).fork(tuple(map(str, arguments)), environment or {})


async def _reader(file: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(file, "rb", buffering=0)
    )
    return reader


def _wanted() -> list[str]:
    """Fork for each that is wanted, and return there, with the arguments."""
    control = socket.socket(fileno=0)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how a keeper ended
    while True:
        byte, files, _, _ = socket.recv_fds(control, 1, 3)
        if not byte:
            sys.exit()
        if os.fork() == 0:
            control.detach()
            return _kept(*files)
        for file in files:
            os.close(file)


def _kept(connection: int, *outputs: int) -> list[str]:
    """Fork once more, return there, and tell here which number it has and how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with socket.socket(fileno=connection) as teller, teller.makefile("r") as orders:
        arguments: list[str]
        arguments, environment = json.loads(orders.readline())
        if (pid := os.fork()) != 0:
            for output in outputs:
                os.close(output)
            teller.sendall(b"%d\n" % pid)
            orders.read()  # while somebody may want to kill it, its number is not given to another
            _, status = os.waitpid(pid, 0)
            with suppress(OSError):  # whoever wanted it is gone
                teller.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
            os._exit(0)
    os.environ.update(environment)
    for place, file in enumerate((os.open(os.devnull, os.O_RDONLY), *outputs)):
        os.dup2(file, place)
        os.close(file)
    return arguments


if __name__ == "__main__":
    _module = importlib.import_module(sys.argv[1])
    _module.main(*_wanted())
