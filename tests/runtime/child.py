"""What the child processes of the runtime's tests do: ``python -m tests.runtime.child WHAT URL …``."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from flujo_async import Flujo, Step, step
from tests.records import put_on_record
from tests.runtime.children import side_effects


def pipeline(log: Path | None = None, *, stops: bool = False, between: Any = None) -> Any:
    """Return ``a >> b``; ``b`` tells that it was reached and waits for a line, in the child."""

    def effect(name: str) -> Step[list[Any], list[Any]]:
        async def call(value: list[Any]) -> list[Any]:
            if log is not None:
                put_on_record(log, f"{os.getpid()} {name}")
            if stops and name == "b":
                print("in the second step", flush=True)
                await asyncio.to_thread(sys.stdin.readline)
            return [*value, name]

        return step(name=name)(call)

    return effect("a") >> effect("b")


async def drive(url: str, run_id: str) -> None:
    """Drive a run that stops in its second step."""
    await Flujo(pipeline(side_effects(url), stops=True), state_backend=url).run([1], run_id=run_id)


async def resume(url: str, run_id: str) -> None:
    """Wait for the start signal, then resume."""
    flujo = Flujo(pipeline(side_effects(url)), state_backend=url)
    await flujo.list_runs()
    print("ready", flush=True)
    sys.stdin.readline()
    result = await flujo.run(run_id=run_id)
    print(result.output, flush=True)


if __name__ == "__main__":
    asyncio.run({"drive": drive, "resume": resume}[sys.argv[1]](*sys.argv[2:]))
