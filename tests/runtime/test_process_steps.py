"""Steps in processes of their own."""

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from flujo_async import Flujo, Step, map_each, step
from flujo_async.errors import DefinitionError, DeserializationError, ProcessDied, RunFailed, SerializationError
from flujo_async.testing import VirtualClock
from tests.runtime import process_steps
from tests.runtime.children import ROOT
from tests.runtime.pretend import until
from tests.runtime.process_steps import Order


@pytest_asyncio.fixture
async def runs() -> AsyncIterator[Any]:
    """Return a function that runs a step; all that was started ends with the test."""
    opened: list[Flujo[Any, Any]] = []

    async def run(chain: Any, value: Any, **options: Any) -> Any:
        opened.append(Flujo(chain, **options))
        return (await opened[-1].run(value)).output

    before = threading.active_count()
    yield run
    for flujo in opened:
        await flujo.aclose()
    await until(lambda: threading.active_count() <= before)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_values_travel_as_they_are_stored(runs: Any) -> None:
    order = Order(7, ("a", "b"))
    output = await runs(process_steps.number_of, order)
    assert (output["order"], output["prime"]) == (order, {2, 3, 5})
    assert output["pid"] != os.getpid()


async def test_an_argument_that_the_process_cannot_read_pauses_the_run(runs: Any) -> None:
    """It knows the classes that the annotations of its function lead to; the run may know more."""

    @step
    async def order(number: int) -> Order:
        return Order(number)

    with pytest.raises(DeserializationError, match=r"stored as .*Order, which is neither reachable") as caught:
        await runs(order >> process_steps.untyped, 1)
    assert caught.value.path == "untyped.order"


async def test_a_process_stays_for_the_next_step(runs: Any) -> None:
    """And there are not more of them than processors."""
    outputs = await runs(map_each(process_steps.number_of), [Order(n) for n in range(20)])
    assert 1 <= len({output["pid"] for output in outputs}) <= (os.cpu_count() or 1)


async def test_coroutine_functions_run_in_a_loop_of_their_own(runs: Any) -> None:
    assert await runs(process_steps.as_coroutine, 21) == 42


async def test_a_plain_function_of_a_module_may_be_made_a_step_elsewhere(runs: Any) -> None:
    assert await runs(step(process_steps.plain, run_in="process", name="other"), 2) == 6
    assert await runs(step(os.path.basename, run_in="process"), "/a/b") == "b"


async def test_a_large_value_passes(runs: Any) -> None:
    assert await runs(process_steps.size, bytes(5_000_000)) == 5_000_000


async def test_an_exception_comes_back_as_its_class(runs: Any) -> None:
    with pytest.raises(RunFailed) as caught:
        await runs(process_steps.refuse, 5)
    error = caught.value.__cause__
    assert isinstance(error, process_steps.Refused)
    assert error.args == (5, "no")
    assert "raise Refused" in "".join(error.__notes__)


async def test_what_cannot_be_stored_is_told_with_its_path(runs: Any) -> None:
    with pytest.raises(RunFailed) as caught:
        await runs(process_steps.unstorable, 5)
    assert isinstance(caught.value.__cause__, SerializationError)
    assert "output" in str(caught.value.__cause__)


@pytest.mark.parametrize(("code", "fate"), [(3, "ended with exit code 3"), (-9, "was killed by SIGKILL")])
async def test_a_process_that_dies_is_a_failure_that_says_how(runs: Any, code: int, fate: str) -> None:
    """Of the attempt: it may be tried again."""
    with pytest.raises(RunFailed) as caught:
        await runs(process_steps.die, code)
    assert isinstance(caught.value.__cause__, ProcessDied)
    assert fate in str(caught.value.__cause__)
    assert caught.value.result.steps[0].attempts == 2


async def test_a_process_whose_time_is_over_is_killed(runs: Any, tmp_path: Path) -> None:
    """By the time the failure is known, it is gone."""
    clock, pid_file = VirtualClock(), tmp_path / "pid"
    run = asyncio.create_task(runs(process_steps.hang, str(pid_file), clock=clock))
    await until(lambda: pid_file.exists() and bool(pid_file.read_text()))
    clock.advance(100)
    with pytest.raises(RunFailed, match="longer than its timeout"):
        await run
    assert not is_alive(int(pid_file.read_text()))


async def test_an_interruption_kills_the_process(runs: Any, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    run = asyncio.create_task(runs(process_steps.hang, str(pid_file)))
    await until(lambda: pid_file.exists() and bool(pid_file.read_text()))
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert not is_alive(int(pid_file.read_text()))


async def test_what_a_function_prints_is_no_message(runs: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """It goes to standard error, and standard input is empty."""
    assert await runs(process_steps.noisy, 1) == ""
    assert capfd.readouterr().err == "this is no message of the protocol\nand neither is this\n"


def twin(number: int) -> int:
    return number


original = step(twin, run_in="process")
twin = step(str, name="twin")  # type: ignore[assignment]


async def test_a_function_that_is_not_found_under_its_name_is_refused() -> None:
    """When the runtime is made."""
    with pytest.raises(DefinitionError, match=r"step 'twin': another process has to find its function as .*:twin"):
        Flujo(original)


def run_script(tmp_path: Path, source: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    script = tmp_path / "app.py"
    script.write_text(textwrap.dedent(source))
    return subprocess.run(
        [sys.executable, *(arguments or [str(script)])],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        cwd=tmp_path,
    )


SCRIPT = """
    import asyncio
    from dataclasses import dataclass
    from flujo_async import Flujo, step

    @dataclass
    class Order:
        number: int

    @step(run_in="process")
    def grow(order: Order) -> Order:
        return Order(order.number + 1)

    async def main():
        print((await Flujo(grow).run(Order(1))).output)

    {start}asyncio.run(main())
"""
GUARDED = SCRIPT.format(start='if __name__ == "__main__":\n        ')


@pytest.mark.parametrize("arguments", [[], ["-m", "app"]], ids=["script", "module"])
def test_functions_of_the_main_script_are_found(tmp_path: Path, arguments: list[str]) -> None:
    """And nobody has to close anything."""
    done = run_script(tmp_path, GUARDED, *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Order(number=2)\n", "")


def test_a_script_without_a_guard_is_not_run_again(tmp_path: Path) -> None:
    """It fails, and says what is missing."""
    done = run_script(tmp_path, SCRIPT.format(start=""))
    assert done.returncode == 1
    assert "if __name__ == '__main__'" in done.stderr


def test_a_script_that_is_no_file_is_refused(tmp_path: Path) -> None:
    done = run_script(tmp_path, "", "-c", textwrap.dedent(GUARDED))
    assert done.returncode == 1
    assert "put it at the top of a module, or of a script" in done.stderr


def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    """Though it is busy."""
    pid_file = tmp_path / "pid"
    source = f"""
        import asyncio, os, signal, threading, time
        from pathlib import Path
        from flujo_async import Flujo
        from tests.runtime.process_steps import hang

        def kill():
            while not (Path({str(pid_file)!r}).exists() and Path({str(pid_file)!r}).read_text()):
                time.sleep(0.001)
            os.kill(os.getpid(), signal.SIGKILL)

        if __name__ == "__main__":
            threading.Thread(target=kill, daemon=True).start()
            asyncio.run(Flujo(hang).run({str(pid_file)!r}))
    """
    assert run_script(tmp_path, source).returncode == -9
    asyncio.run(asyncio.wait_for(until(lambda: not is_alive(int(pid_file.read_text()))), 20))


async def test_the_clock_of_the_deadline_covers_the_start_of_the_process() -> None:
    made: Step[Any, Any] = step(process_steps.plain, run_in="process", deadline=timedelta(minutes=5), timeout=60)
    async with Flujo(made) as flujo:
        assert (await flujo.run(1)).output == 3
