"""One cell of a table: one system does one workload of one size, in a process of its own, and prints its figures.

    python -m benchmarks.cell ours --variant "pipeline full" --workload one_run --size 200

Only the standard library: this runs in the environments of all peers. A system is a class ``System`` in the module
``benchmarks.<name>``; what it has to offer is told by ``Contestant``.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import logging
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol, Self

from benchmarks import meter
from benchmarks.work import KILOBYTES_100, reached_at, stop_before, text

STEPS_OF_MANY = 5
IN_FLIGHT = 100
LARGE = 2 * 2**20
LARGE_RUNS = 10
LARGE_STEPS = 5

Figures = dict[str, float]


class Contestant(Protocol):
    """What a system offers: a definition of ``steps`` steps, and its runs."""

    def __init__(self, directory: Path, variant: str, steps: int, *, grows: bool = False) -> None:
        """Build the definition; with ``grows``, one whose context keeps a text and a list that grows by a step."""
        ...

    async def __aenter__(self) -> Self:
        """Open the store."""
        ...

    async def __aexit__(self, *error: object) -> None:
        """Close it."""
        ...

    async def run(self, run_id: str, value: Any) -> Any:
        """Run from the beginning; return the output of the last step, or how long the list is that grew."""
        ...

    async def resume(self, run_id: str) -> None:
        """Take up the run of a process that is gone; its input was 0."""
        ...


Make = Callable[..., Contestant]


async def one_run(make: Make, steps: int, directory: Path) -> Figures:
    """Do one run of ``steps`` steps, one after the other."""
    figures: Figures = {"steps": steps}
    async with make(directory, steps) as system:
        await system.run("warm-up", -1)
        with meter.measured(figures, directory):
            output = await system.run("measured", 0)
    _check(output, steps)
    return figures


async def many_runs(make: Make, runs: int, directory: Path) -> Figures:
    """Do ``runs`` runs of five steps, a hundred in flight."""
    figures: Figures = {"steps": runs * STEPS_OF_MANY}
    async with make(directory, STEPS_OF_MANY) as system:
        await system.run("warm-up", -1)
        with meter.measured(figures, directory):
            outputs = await _all(system, range(runs))
    _check(outputs, [number + STEPS_OF_MANY for number in range(runs)])
    return figures


async def growth(make: Make, steps: int, directory: Path) -> Figures:
    """Do one run whose context holds 100 KB that stay and a list that each step makes longer by one."""
    figures: Figures = {"steps": steps}
    async with make(directory, steps, grows=True) as system:
        with meter.measured(figures, directory):
            length = await system.run("measured", text(KILOBYTES_100))
    _check(length, steps)
    return figures


async def resumption(make: Make, steps: int, directory: Path) -> Figures:
    """Take up a run whose process died at the beginning of step ``steps + 1``, until that step begins again."""
    stop_before(steps, dies=False)
    async with make(directory, steps + 1) as system:
        began = time.perf_counter()
        await system.resume("measured")
    return {"steps": steps, "resume_ms": (reached_at() - began) * 1e3}


async def death(make: Make, steps: int, directory: Path) -> Figures:
    """Die at the beginning of step ``steps + 1``."""
    stop_before(steps, dies=True)
    async with make(directory, steps + 1) as system:
        await system.run("measured", 0)
    raise RuntimeError("the run has ended: this process was to die")


async def lag(make: Make, runs: int, directory: Path) -> Figures:
    """Watch the event loop while ``runs`` runs of five steps are at work, a hundred in flight."""
    async with make(directory, STEPS_OF_MANY) as system:
        await system.run("warm-up", -1)
        async with meter.Lags() as lags:
            await _all(system, range(runs))
    return {"steps": runs * STEPS_OF_MANY, **lags.figures()}


async def lag_of_large_values(make: Make, runs: int, directory: Path) -> Figures:
    """Watch the event loop while ``runs`` runs, all in flight, pass 2 MB from each step to the next."""
    async with make(directory, LARGE_STEPS) as system:
        await system.run("warm-up", "text")
        values = [text(LARGE)] * runs
        async with meter.Lags() as lags:
            await _all(system, values)
    return {"steps": runs * LARGE_STEPS, **lags.figures()}


async def parked(make: Make, runs: int, directory: Path) -> Figures:
    """Start ``runs`` runs that sleep, and wake them."""
    sleepers: Any = make(directory, runs)
    figures: Figures = await sleepers.park()
    return figures


WORKLOADS: dict[str, Callable[[Make, int, Path], Awaitable[Figures]]] = {
    workload.__name__: workload
    for workload in (one_run, many_runs, growth, resumption, death, lag, lag_of_large_values, parked)
}


async def _all(system: Contestant, values: Any) -> list[Any]:
    places = asyncio.Semaphore(IN_FLIGHT)

    async def one(number: int, value: Any) -> Any:
        async with places:
            return await system.run(f"run-{number}", value)

    return await asyncio.gather(*(one(number, value) for number, value in enumerate(values)))


def _check(output: Any, expected: Any) -> None:
    if output != expected:
        raise RuntimeError(f"the work was not done: {str(output)[:200]} is not {str(expected)[:200]}")


def _die_first(directory: Path) -> None:
    """Have another process do the steps and die, in the same directory."""
    arguments = ["death" if word == "resumption" else word for word in sys.argv[1:]]
    command = [sys.executable, "-m", "benchmarks.cell", *arguments, "--directory", str(directory)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=600)


def _measure(options: argparse.Namespace, directory: Path) -> Figures:
    if options.workload == "resumption":
        _die_first(directory)
    system: Any = importlib.import_module(f"benchmarks.{options.system}").System

    def make(directory: Path, steps: int, **more: bool) -> Contestant:
        contestant: Contestant = system(directory, options.variant, steps, **more)
        return contestant

    return asyncio.run(WORKLOADS[options.workload](make, options.size, directory))


def main() -> None:
    """Run one workload and print its figures as a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system", help="ours, sleepers, limit or peers.<name>")
    parser.add_argument("--variant", required=True)
    parser.add_argument("--workload", required=True, choices=sorted(WORKLOADS))
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--directory", type=Path, help="where the store goes; a temporary one by default")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    given = options.directory
    with nullcontext(given) if given else meter.place_for_a_store() as directory:
        figures = _measure(options, directory)
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
