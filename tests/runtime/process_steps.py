"""Steps for processes of their own: at the top of a module, where a child finds them."""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flujo_async import Retry, step


@dataclass
class Order:
    number: int
    items: tuple[str, ...] = ()


class Refused(Exception):
    """The order is refused."""


@step(run_in="process")
def number_of(order: Order) -> dict[str, Any]:
    return {"pid": os.getpid(), "order": order, "prime": {2, 3, 5}}


@step(run_in="process", retry=Retry(max_attempts=3, base=0))
def untyped(order: Any) -> str:
    return str(order)


@step(run_in="process")
async def as_coroutine(number: int) -> int:
    return number * 2


@step(run_in="process")
def refuse(number: int) -> int:
    raise Refused(number, "no")


@step(run_in="process", retry=Retry(max_attempts=2, base=0))
def die(code: int) -> int:
    if code < 0:
        os.kill(os.getpid(), -code)
    sys.exit(code)


@step(run_in="process", timeout=100)
def hang(pid_file: str) -> int:
    Path(pid_file).write_text(str(os.getpid()))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    time.sleep(1000)
    return 0


@step(run_in="process")
def noisy(number: int) -> str:
    print("this is no message of the protocol", flush=True)
    os.write(1, b"and neither is this\n")
    return sys.stdin.read()


@step(run_in="process")
def unstorable(number: int) -> Any:
    return sys


@step(run_in="process")
def size(data: bytes) -> int:
    return len(data)


def plain(number: int, factor: int = 3, *rest: int) -> int:
    return number * factor + sum(rest)
